"""A transformers folder as a decoder graph by onnxruntime-genai's builder: fused, for the CPU.

Knows nothing of memories. The builder needs transformers 5 and optimum-onnx an earlier one, so the
two cannot be installed together. It runs as a process of its own: it prints much, and what it holds
in memory goes with it.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from memoir_edge.errors import InputError

INSTALL = 'in an environment without optimum-onnx: pip install onnxruntime-genai "transformers>=5"'


def build(model: Path, out: Path, dtype: str) -> None:
    """Build a model folder's graph in `out`: model.onnx, its weights, genai_config.json, tokenizer.

    Args:
        model: A transformers folder.
        out: A folder.
        dtype: "fp32", "fp16", "int8" or "int4", of the weights.

    Raises:
        InputError: The builder is missing, or cannot build this model.
    """
    if importlib.util.find_spec("onnxruntime_genai") is None:
        raise InputError("--builder genai needs onnxruntime-genai", hint=INSTALL)
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", str(model), "-o", str(out), "-p", dtype, "-e", "cpu", "-c", cache]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},  # the model is here
        )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise InputError(
            f"onnxruntime-genai's builder cannot build {model} as {dtype}: {reason}",
            hint=f"export it with --builder optimum, or {INSTALL}",
        )
