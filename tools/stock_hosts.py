"""Hosts that know nothing of memories, as tools/host_matrix.py asks them; nothing runs by itself.

Each takes an export directory, a memory or None, and prompts, and gives an answer for each of them,
stripped, by the package that `memoir-edge package` makes for the host.
"""

import json
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import javascript

from memoir_edge_exporter import package_optimum, package_web

Ask = Callable[[Path, Path | None, Sequence[str], int], list[str]]


def optimum(graph: Path, memory: Path | None, prompts: Sequence[str], tokens: int) -> list[str]:
    """`ORTModelForCausalLM`, one prompt at a time."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their own
        from optimum.onnxruntime import ORTModelForCausalLM
        from transformers import AutoTokenizer

        folder = graph
        if memory is not None:
            folder = Path(name) / "package"
            package_optimum(graph, folder, memory)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        model = ORTModelForCausalLM.from_pretrained(folder, session_options=options)
        answers = []
        for prompt in prompts:
            fed = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
            found = model.generate(**fed, max_new_tokens=tokens, do_sample=False)
            written = found[0, fed.input_ids.shape[1] :]
            answers.append(tokenizer.decode(written, skip_special_tokens=True).strip())
        return answers


def node(graph: Path, memory: Path | None, prompts: Sequence[str], tokens: int) -> list[str]:
    """transformers.js on onnxruntime-node.

    Raises:
        javascript.UnavailableError: node or its packages are not to be had.
    """
    return _javascript("node", graph, memory, prompts, tokens)


def chromium(graph: Path, memory: Path | None, prompts: Sequence[str], tokens: int) -> list[str]:
    """transformers.js in a headless Chromium, on WASM.

    Raises:
        javascript.UnavailableError: Chromium, node or its packages are not to be had.
    """
    return _javascript(javascript.chromium(), graph, memory, prompts, tokens)


# What transformers.js calls the precision of a graph.
_DTYPES = {
    "model.onnx": "fp32",
    "model_fp16.onnx": "fp16",
    "model_quantized.onnx": "q8",
    "model_q4.onnx": "q4",
    "model_q4f16.onnx": "q4f16",
}


def _javascript(
    host: str, graph: Path, memory: Path | None, prompts: Sequence[str], tokens: int
) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        project, folder = javascript.project(Path(name)), Path(name) / "package"
        package_web([graph], folder, held=[] if memory is None else [memory])
        [dtype] = [_DTYPES[path.name] for path in (folder / "onnx").glob("*.onnx")]
        wanted = {
            "asked": list(prompts),
            "memory": memory and memory.name,
            "tokens": tokens,
            "dtype": dtype,
        }
        ended = subprocess.run(
            [shutil.which("node") or "node", "test/answers.js", host, str(folder)],
            cwd=project, input=json.dumps(wanted), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ended.returncode:
            said = [line for line in ended.stderr.splitlines() if "Error" in line]
            raise javascript.UnavailableError((said or ["it failed"])[0].strip())
        answers: list[str] = json.loads(ended.stdout)
        return [answer.strip() for answer in answers]
