"""Weights that lie in a pickle, `pytorch_model.bin`: read, with nothing in it run."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from memoir_edge.errors import InputError, first_line

# As safetensors calls them.
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def unpickled(file: Path) -> Iterator[tuple[str, str, tuple[int, ...], npt.NDArray[np.uint8]]]:
    """Name, type, shape and bytes of each tensor.

    Raises:
        InputError: It is no file of tensors.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles that are refused anyway
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of a spoiled file, whatever pickle meets in it
        raise InputError(f"{file} is no file of weights: {first_line(error)}") from error
    if not isinstance(found, dict) or not all(isinstance(x, torch.Tensor) for x in found.values()):
        raise InputError(f"{file} is no file of weights: it holds other things than tensors")
    for name, tensor in found.items():
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        yield name, _TYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), data
