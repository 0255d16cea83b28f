"""A memory as `.onnx_adapter`, the file from which ONNX Runtime itself feeds a graph's ports.

    write(memories.read("facts.safetensors"), Path("facts.onnx_adapter"))

    adapter, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    adapter.Load("facts.onnx_adapter")
    options.add_active_adapter(adapter)
    session.run(None, feeds, options)             # as if the memory had been among the feeds

onnxruntime-genai loads it with `Adapters.load`. Needs onnxruntime.
"""

from pathlib import Path

import numpy as np

from memoir_edge import files, ports
from memoir_edge.errors import InputError, first_line, install
from memoir_edge.memory import Memory

_VERSION = 1  # of the adapter and its model, both the file's own to number


def write(memory: Memory, path: Path) -> None:
    """Write the file whole or not at all; one that is there is replaced.

    Raises:
        InputError: onnxruntime is missing, or the file cannot be written.
    """
    try:
        from onnxruntime import AdapterFormat, OrtValue
    except ImportError as error:
        raise InputError("an adapter is written by onnxruntime", hint=install("run")) from error
    adapter = AdapterFormat()
    adapter.set_adapter_version(_VERSION)
    adapter.set_model_version(_VERSION)
    adapter.set_parameters(
        {
            name: OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
            for name, array in ports.feeds(memory).items()
        }
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as partial:
            adapter.export_adapter(str(partial))
    except Exception as error:  # onnxruntime's own are RuntimeError, the disk's OSError
        raise InputError(f"cannot write adapter {path}: {first_line(error)}") from error
