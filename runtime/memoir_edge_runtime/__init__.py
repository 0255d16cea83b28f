"""Answers from an exported model on ONNX Runtime, with memories swapped in and out as it runs.

Needs neither torch nor transformers nor onnx, and imports none of them.
"""

from memoir_edge_runtime._batch import Batch, complete
from memoir_edge_runtime._completion import Completion, Language
from memoir_edge_runtime._decoder import Decoder
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._masks import Masks
from memoir_edge_runtime._ops import library as ops_library
from memoir_edge_runtime._replay import Case, Outcome, probes, recorded, replay
from memoir_edge_runtime._results import Forced, Result, Routing, Token
from memoir_edge_runtime._router import Router
from memoir_edge_runtime._sampling import Options
from memoir_edge_runtime._session import Session
from memoir_edge_runtime._state import State
from memoir_edge_runtime._tokens import Prompt, Row, Tokenizer

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Case",
    "Completion",
    "Decoder",
    "Forced",
    "Generation",
    "Language",
    "Masks",
    "Options",
    "Outcome",
    "Prompt",
    "Result",
    "Router",
    "Routing",
    "Row",
    "Session",
    "State",
    "Token",
    "Tokenizer",
    "complete",
    "ops_library",
    "probes",
    "recorded",
    "replay",
]
