"""The two ops of domain `memoir_edge` as ONNX functions in standard operators of opset 18.

These bodies are the specification (docs/ports.md) and the portable implementation: a runtime with
no extra library inlines them; a native kernel of the same name replaces them. Everything is
computed in float32. Their oracle is `memoir_edge.tophash`, line by line.

B rows, T tokens, D and d the site's widths, R keys (at least 1), C columns (at least 1), k ones.
"""

from typing import Any

import numpy as np
import onnx
from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset

from memoir_edge.ports import DOMAIN

VERSION = 1
_memoir = Opset(DOMAIN, VERSION)

_FLOAT, _UINT8, _INT32, _INT64, _BOOL = 1, 2, 6, 7, 9

_POPCOUNT = onnx.numpy_helper.from_array(
    np.bitwise_count(np.arange(256, dtype=np.uint8)).astype(np.float32), "popcount"
)
_POWERS = onnx.numpy_helper.from_array(2.0 ** np.arange(8, dtype=np.float32), "powers")
_SHIFTS = onnx.numpy_helper.from_array(np.arange(8, dtype=np.uint8), "shifts")
_ONE_BYTE = onnx.numpy_helper.from_array(np.ones(1, np.uint8), "one")


@script(_memoir, default_opset=op)
def Route(  # type: ignore[no-untyped-def]
    a, span, route, bank, owner, thresholds, center, scale, permutation, k
):
    """Decide every undecided row; hold the others.

    a [B, T, D], span [B, T] int64, route [B] int64, bank [R, ceil(D/8)] uint8, owner [R] int32,
    thresholds [R] or [1], center [D], scale [D], permutation [D] int32, k [1] int64
    -> route_out [B] int64, overlap [B] float, candidate [B] int64
    """
    held = route != op.Constant(value_int=0)  # [B]
    undecided = op.Cast(op.ReduceMax(op.Cast(op.Not(held), to=_INT32), keepdims=0), to=_BOOL)
    if undecided:
        # Feature: mean over the span, centred and scaled.                                 [B, D]
        counts = op.Unsqueeze(span > op.Constant(value_int=0), op.Constant(value_ints=[2]))
        kept = op.Where(counts, op.Cast(a, to=_FLOAT), op.Constant(value_float=0.0))
        total = op.ReduceSum(kept, op.Constant(value_ints=[1]), keepdims=0)
        tokens = op.ReduceSum(op.Cast(counts, to=_FLOAT), op.Constant(value_ints=[1]), keepdims=0)
        f = (total / op.Max(tokens, op.Constant(value_float=1.0)) - center) * scale

        # Mask: ones at the permuted places of the k largest magnitudes.                   [B, D]
        _, top = op.TopK(op.Abs(f), k, axis=-1)
        places = op.Cast(op.Gather(permutation, top), to=_INT64)
        zeros = f * op.Constant(value_float=0.0)
        ones = op.Expand(op.Constant(value_float=1.0), op.Shape(places))
        mask = op.ScatterElements(zeros, places, ones, axis=1)

        # The mask packed as the bank is, bit order little.                      [B, 1, ceil(D/8)]
        D = op.Shape(mask, start=1, end=2)
        width = op.Shape(bank, start=1, end=2)
        eight = op.Constant(value_ints=[8])
        B = op.Shape(route)
        padding = op.Concat(op.Constant(value_ints=[0, 0, 0]), width * eight - D, axis=0)
        padded = op.Pad(mask, padding)
        bits = op.Reshape(padded, op.Concat(B, width, eight, axis=0))
        powers = op.Constant(value=_POWERS)
        packed = op.Cast(op.ReduceSum(bits * powers, op.Constant(value_ints=[2]), keepdims=0), to=_UINT8)
        query = op.Unsqueeze(packed, op.Constant(value_ints=[1]))

        # Overlap with every key; the newest of the best.                                  [B, R]
        common = op.Cast(op.BitwiseAnd(query, op.Unsqueeze(bank, op.Constant(value_ints=[0]))), to=_INT32)
        popcount = op.Constant(value=_POPCOUNT)
        shared = op.ReduceSum(op.Gather(popcount, common), op.Constant(value_ints=[2]), keepdims=0)
        R = shared / op.Cast(k, to=_FLOAT)
        best = op.ReduceMax(R, op.Constant(value_ints=[1]), keepdims=0)
        row = op.ArgMax(R, axis=1, keepdims=0, select_last_index=1)

        # At the key's threshold, and no guard: its owner's row + 1.                          [B]
        per_key = op.Expand(op.Cast(thresholds, to=_FLOAT), op.Shape(owner))
        owning = op.Cast(op.Gather(owner, row), to=_INT64)
        reaches = op.And(best >= op.Gather(per_key, row), owning >= op.Constant(value_int=0))
        decided = op.Where(reaches, owning + op.Constant(value_int=1), op.Constant(value_int=-1))
        route_out = op.Where(held, route, decided)
        overlap = op.Where(held, op.Constant(value_float=0.0), best)
        candidate = op.Where(held, op.Constant(value_int=-1), row)
    else:
        route_out = op.Identity(route)
        overlap = op.Cast(route, to=_FLOAT) * op.Constant(value_float=0.0)
        candidate = op.Expand(op.Constant(value_int=-1), op.Shape(route))
    return route_out, overlap, candidate


@script(_memoir, default_opset=op)
def Recall(a, route_out, bank, columns, values):  # type: ignore[no-untyped-def]
    """What the memory adds: Wm (M * a) for a routed row, exactly 0 for any other.

    a [B, T, D], route_out [B] int64, bank [R, ceil(D/8)] uint8, columns [C] int32,
    values [C, d] float -> delta [B, T, d] float
    """
    routed = route_out > op.Constant(value_int=0)  # [B]
    anyone = op.Cast(op.ReduceMax(op.Cast(routed, to=_INT32), keepdims=0), to=_BOOL)
    if anyone:
        # The stored mask's bits at the stored columns, none for a row that is not routed. [B, C]
        stored = op.Gather(bank, op.Max(route_out - op.Constant(value_int=1), op.Constant(value_int=0)))
        column = op.Cast(columns, to=_INT64)
        byte = op.Gather(stored, column / op.Constant(value_int=8), axis=1)
        bit = op.Gather(op.Constant(value=_SHIFTS), op.Mod(column, op.Constant(value_int=8)))
        mask = op.BitwiseAnd(op.BitShift(byte, bit, direction="RIGHT"), op.Constant(value=_ONE_BYTE))
        active = op.And(op.Cast(mask, to=_BOOL), op.Unsqueeze(routed, op.Constant(value_ints=[1])))

        # Only those features of the query's own activations are read.                  [B, T, C]
        read = op.Cast(op.Gather(a, columns, axis=2), to=_FLOAT)
        seen = op.Unsqueeze(active, op.Constant(value_ints=[1]))
        delta = op.MatMul(op.Where(seen, read, op.Constant(value_float=0.0)), values)
    else:
        shape = op.Concat(op.Shape(a, start=0, end=2), op.Shape(values, start=1, end=2), axis=0)
        delta = op.Expand(op.Constant(value_float=0.0), shape)
    return delta


def bodies() -> list[Any]:
    """The two functions as ONNX FunctionProtos."""
    return [Route.to_function_proto(), Recall.to_function_proto()]
