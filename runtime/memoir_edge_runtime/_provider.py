"""An ONNX Runtime session on the device that is there, and values on that device.

Knows nothing of what the graph computes.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from memoir_edge.errors import GraphError, InputError, first_line

OrtValue = Any  # onnxruntime publishes no types
Array = npt.NDArray[np.generic]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_WEIGHTS_BESIDE = "session.model_external_initializers_file_folder_path"
_ERRORS_ONLY = 3  # onnxruntime's level; at a lower one it warns of every port
_logger = logging.getLogger("memoir_edge.runtime")


Library = Callable[[str], Path | None]  # of custom ops, by device


def graph_of(folder: Path) -> Path:
    """The graph of an export directory.

    Raises:
        GraphError: There is none.
    """
    path = folder / "model.onnx"
    if path.is_file():
        return path
    hint = "export the model again: memoir-edge export --model MODEL --out DIR"
    if (folder / "onnx").is_dir():  # made anew there, an export would take its place
        hint = "it is a package for JavaScript or optimum: give the export that it was made of"
    raise GraphError(f"{folder} is no export directory: it holds no {path.name}", hint=hint)


def open_graph(
    path: Path,
    providers: Sequence[str] | None,
    threads: int | None,
    library: Library = lambda device: None,
    shown: str | None = None,
) -> Any:
    """An InferenceSession.

    Args:
        path: The ONNX file.
        providers: onnxruntime's name or names, the best first; None: CUDA where it works, else CPU,
            with a warning where CUDA is there and fails.
        threads: Of one operator; None leaves it to onnxruntime.
        library: Gives the library of custom ops for a device, if there is one.
        shown: A value inside the graph, which becomes an output of it.

    Raises:
        InputError: A provider that is not there.
        GraphError: The graph cannot be loaded.
    """
    if isinstance(providers, str):
        providers = [providers]
    available = onnxruntime.get_available_providers()
    if CUDA in (available if providers is None else providers) and CUDA in available:
        onnxruntime.preload_dlls()  # CUDA's libraries, where they came as Python packages
    if providers is None:
        return _open_best(path, available, threads, library, shown)
    missing = [name for name in providers if name not in available]
    if missing or not providers:
        raise InputError(f"no provider {', '.join(missing)}; there are: {', '.join(available)}")
    session = _open(path, list(providers), threads, library, shown)
    if providers[0] not in session.get_providers():
        raise InputError(
            f"{providers[0]} could not be started", hint="its libraries or its device are missing"
        )
    return session


def _open_best(
    path: Path,
    available: Sequence[str],
    threads: int | None,
    library: Library,
    shown: str | None,
) -> Any:
    if CUDA not in available:
        return _open(path, [CPU], threads, library, shown)
    try:
        return _open(path, [CUDA, CPU], threads, library, shown)
    except GraphError as error:  # the driver or the device may fail only now; the CPU can serve
        session = _open(path, [CPU], threads, library, shown)
        _logger.warning("without CUDA, on the CPU: %s", error)
        return session


def _open(
    path: Path, providers: list[str], threads: int | None, library: Library, shown: str | None
) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # A memory pattern is planned and kept for each new shape, and every token brings a new shape.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    ops = library(_device(providers))
    try:
        if ops is not None:
            options.register_custom_ops_library(str(ops))
        source: str | bytes = str(path)
        if shown is not None:
            source = path.read_bytes() + _output(shown)
            options.add_session_config_entry(_WEIGHTS_BESIDE, str(path.parent))
        return onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base class
        hint = "export the model again"
        raise GraphError(f"{path} cannot be loaded: {first_line(error)}", hint=hint) from error


def _output(name: str) -> bytes:
    """What makes a value an output of a graph, appended to the graph's bytes.

    A message that occurs twice is one with the fields of both: here `graph { output { name } }`,
    which the three keys say by their fields' numbers.
    """
    found = name.encode()
    for key in (0x0A, 0x62, 0x3A):
        found = bytes([key, len(found)]) + found
    return found


def device(session: Any) -> str:
    """Where the session's values live: "cuda" or "cpu"."""
    return _device(session.get_providers())


def _device(providers: Sequence[str]) -> str:
    return "cuda" if providers[0] == CUDA else "cpu"


def value(array: Array, device: str = "cpu") -> OrtValue:
    """An array as onnxruntime's value, copied to the device."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
