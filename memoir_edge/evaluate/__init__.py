"""Evaluation of an edited model: what to ask, and how to score the answers."""

from memoir_edge.evaluate.metrics import Report, evaluate, hard_negatives, prompt_count

__all__ = ["Report", "evaluate", "hard_negatives", "prompt_count"]
