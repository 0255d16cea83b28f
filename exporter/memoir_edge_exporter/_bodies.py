"""The two ops of domain `memoir_edge` as ONNX functions in standard operators.

These bodies are the specification (docs/ports.md) and the portable implementation: a runtime with
no extra library inlines them; a native kernel of the same name replaces them. Everything is
computed in float32. Their oracle is `memoir_edge.tophash`, line by line.

B rows, T tokens, D and d the site's widths, R keys (at least 1), W = ceil(D/8) bytes of a key,
C columns (at least 1), k ones in a mask. Wm may have several tiles of D columns: column c is of
feature c mod D, and is read by the masks of tile c / D alone.
"""

from typing import Any

import numpy as np
import onnx
from onnxscript import opset18, script
from onnxscript.values import Opset

from memoir_edge.ports import DOMAIN
from memoir_edge_exporter._settle import settle

VERSION = 1  # of the domain
MIN_OPSET = 18  # the first with BitwiseAnd

_memoir = Opset(DOMAIN, VERSION)
# Any, because onnxscript annotates its operators for eager tensors only.
op: Any = opset18

_FLOAT, _INT32, _INT64, _BOOL = 1, 6, 7, 9

_ONE_BYTE = onnx.numpy_helper.from_array(np.ones(1, np.uint8), "one")
_NO_BYTE = onnx.numpy_helper.from_array(np.zeros(1, np.uint8), "zero")
_NONE_SHARED = onnx.numpy_helper.from_array(np.zeros(1, np.int32), "none")
_POSITIONS = onnx.numpy_helper.from_array(np.arange(8, dtype=np.uint8), "positions")
_POWERS = onnx.numpy_helper.from_array(2 ** np.arange(8, dtype=np.uint8), "powers")


@script(_memoir, default_opset=op)
def Route(  # type: ignore[no-untyped-def]
    a, span, route, bank, owner, thresholds, center, scale, permutation, k
):
    """Decide every undecided row; hold the others.

    a [B, T, D] floating, span [B, T] int64, route [B] int64, bank [R, W] uint8, owner [R] int32,
    thresholds [R] or [1] float, center [D] float, scale [D] float, permutation [D] int32,
    k [1] int64 -> route_out [B] int64, overlap [B] float, candidate [B] int64
    """
    held = route != op.Constant(value_int=0)  # [B]
    undecided = op.Cast(op.ReduceMax(op.Cast(op.Not(held), to=_INT32), keepdims=0), to=_BOOL)
    if undecided:
        # Feature: mean over the span, whatever stands outside it; centred and scaled.      [B, D]
        counts = op.Unsqueeze(span > op.Constant(value_int=0), op.Constant(value_ints=[2]))
        kept = op.Where(counts, op.Cast(a, to=_FLOAT), op.Constant(value_float=0.0))
        total = op.ReduceSum(kept, op.Constant(value_ints=[1]), keepdims=0)
        tokens = op.ReduceSum(op.Cast(counts, to=_FLOAT), op.Constant(value_ints=[1]), keepdims=0)
        f = (total / op.Max(tokens, op.Constant(value_float=1.0)) - center) * scale

        # Mask: ones at the permuted places of the k largest magnitudes; among equals the lower
        # index first.                                                                      [B, D]
        _, top = op.TopK(op.Abs(f), k, axis=-1)
        ones = op.Expand(op.Constant(value=_ONE_BYTE), op.Shape(top))
        zeros = op.Expand(op.Constant(value=_NO_BYTE), op.Shape(f))
        mask = op.ScatterElements(zeros, op.Gather(permutation, top), ones, axis=1)

        # Bit j of a key's byte w stands for feature 8 w + j: the mask, bit by bit.      [8, W, B]
        B = op.Shape(route)
        W = op.Shape(bank, start=1, end=2)
        eight = op.Constant(value_ints=[8])
        beyond = op.Concat(
            op.Constant(value_ints=[0, 0, 0]), W * eight - op.Shape(f, start=1), axis=0
        )
        bytewise = op.Reshape(op.Pad(mask, beyond), op.Concat(B, W, eight, axis=0))
        query = op.Transpose(bytewise, perm=[2, 1, 0])

        # Number of ones shared with every key, summed over the 8 bits of a byte. The product of
        # the keys, with only bit j kept, and bit j of the mask is the count times 2^j.     [R, B]
        keys = op.Concat(op.Shape(bank, end=1), B, axis=0)
        shared = op.Expand(op.Constant(value=_NONE_SHARED), keys)
        for j in range(8):
            power = op.Gather(op.Constant(value=_POWERS), j)
            weighted = op.MatMulInteger(op.BitwiseAnd(bank, power), op.Gather(query, j))
            shared = shared + weighted / op.Cast(power, to=_INT32)

        # The best key; among equals the newest, which is the last.                            [B]
        overlaps = op.Transpose(op.Cast(shared, to=_FLOAT), perm=[1, 0]) / op.Cast(k, to=_FLOAT)
        best = op.ReduceMax(overlaps, op.Constant(value_ints=[1]), keepdims=0)
        row = op.ArgMax(overlaps, axis=1, keepdims=0, select_last_index=1)

        # At that key's threshold, and unless it is a guard: its owner's row + 1.              [B]
        threshold = op.Gather(op.Expand(thresholds, op.Shape(owner)), row)
        owning = op.Cast(op.Gather(owner, row), to=_INT64)
        reached = op.And(best >= threshold, owning >= op.Constant(value_int=0))
        decided = op.Where(reached, owning + op.Constant(value_int=1), op.Constant(value_int=-1))
        route_out = op.Where(held, route, decided)
        overlap = op.Where(held, op.Constant(value_float=0.0), best)
        candidate = op.Where(held, op.Constant(value_int=-1), row)
    else:
        route_out = op.Identity(route)
        overlap = op.Expand(op.Constant(value_float=0.0), op.Shape(route))
        candidate = op.Expand(op.Constant(value_int=-1), op.Shape(route))
    return route_out, overlap, candidate


@script(_memoir, default_opset=op)
def Recall(a, route_out, bank, columns, values, tile):  # type: ignore[no-untyped-def]
    """What the memory adds: Wm (M * a) for a routed row, exactly 0 for any other.

    a [B, T, D] floating, route_out [B] int64, bank [R, W] uint8, columns [C] int32,
    values [C, d] float, tile [R] int32 -> delta [B, T, d] float
    """
    routed = route_out > op.Constant(value_int=0)  # [B]
    anyone = op.Cast(op.ReduceMax(op.Cast(routed, to=_INT32), keepdims=0), to=_BOOL)
    if anyone:
        # The stored mask's bits at the stored columns of its own tile, none for a row that is not
        # routed.                                                                           [B, C]
        key = op.Max(route_out - op.Constant(value_int=1), op.Constant(value_int=0))
        D = op.Cast(op.Shape(a, start=2), to=_INT32)
        feature = op.Mod(columns, D)
        eight = op.Cast(op.Constant(value_int=8), to=_INT32)
        byte = op.Gather(op.Gather(bank, key), feature / eight, axis=1)
        position = op.Gather(op.Constant(value=_POSITIONS), op.Mod(feature, eight))
        shifted = op.BitShift(byte, position, direction="RIGHT")
        bit = op.Cast(op.BitwiseAnd(shifted, op.Constant(value=_ONE_BYTE)), to=_BOOL)
        zero, one = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
        of_tile = op.Equal(op.Unsqueeze(op.Gather(tile, key), one), columns / D)
        mask = op.And(op.And(bit, of_tile), op.Unsqueeze(routed, one))

        # Of the columns those that some row reads; of a row's own activations only the features in
        # its mask.                                                                      [B, T, C']
        read = op.Cast(op.ReduceMax(op.Cast(mask, to=_INT32), zero, keepdims=0), to=_BOOL)
        own = op.Cast(op.Gather(a, op.Compress(feature, read, axis=0), axis=2), to=_FLOAT)
        seen = op.Unsqueeze(op.Compress(mask, read, axis=1), one)
        masked = op.Where(seen, own, op.Constant(value_float=0.0))
        delta = op.MatMul(masked, op.Compress(values, read, axis=0))
    else:
        shape = op.Concat(op.Shape(a, end=2), op.Shape(values, start=1), axis=0)
        delta = op.Expand(op.Constant(value_float=0.0), shape)
    return delta


def bodies(opset: int = MIN_OPSET) -> list[onnx.FunctionProto]:
    """The two functions.

    Args:
        opset: Version of the standard operators that the model uses. A function's must be the
            same (ONNX checker), and what the bodies use means the same from `MIN_OPSET` on.
    """
    functions = [settle(body.to_function_proto()) for body in (Route, Recall)]
    for function in functions:
        next(o for o in function.opset_import if o.domain == "").version = opset
    return functions
