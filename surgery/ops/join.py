"""Ops that join tensors or take parts of them: Concat, Split, Slice, Gather."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from surgery.graph import Builder, Op
from surgery.ops.cut import bounds, crop, laid_around
from surgery.ops.pointwise import check_uniform, meet
from surgery.positions import END, align, beside, materialize, view
from surgery.rules import Array, EndsTrunk, Folded, Lifted, Map, NoRule, geometry, lift

# ------------------------------------------------------------------ geometry


@geometry.rule("Concat")
def concat_maps(op: Op, inputs: list[Any]) -> Map:
    """Along channels the cells of all inputs must meet."""
    shape = op.out_shape()
    axis = int(op.attr("axis")) % len(shape)
    maps = [i for i in inputs if isinstance(i, Map)]
    wrap = op.facts.wraps.get(op.outputs[0])
    if wrap is not None and all(axis in m.axes for m in maps):
        return laid_around(op, wrap, inputs)
    if axis == 0 or any(axis in m.axes for m in maps):
        raise EndsTrunk("it joins positions, or images of the batch")
    joined = maps[0].with_shape(shape)
    for other in maps[1:]:
        joined = meet(joined, other.with_shape(shape))
    for value in inputs:
        if isinstance(value, np.ndarray):
            check_uniform(value, joined)
    return joined


@geometry.rule("Split", "Slice", "Gather")
def part_of_map(op: Op, inputs: list[Any]) -> Any:
    """Along channels the positions stay."""
    x = inputs[0]
    if not isinstance(x, Map) or any(isinstance(i, Map) for i in inputs[1:]):
        raise NoRule("the places it takes depend on the image")
    axes = taken_axes(op)
    if op.kind == "Slice" and 0 not in axes and set(axes) & set(x.axes):
        return crop(op, x)
    if 0 in axes or set(axes) & set(x.axes):
        raise EndsTrunk("it takes a part of the positions, or of the batch")
    if op.kind == "Gather" and np.ndim(inputs[1]) != 1:
        extra = np.ndim(inputs[1]) - 1
        moved = tuple(a + extra if a > axes[0] else a for a in x.axes)
        return Map(op.out_shape(), moved, x.geometry)
    outs = [x.with_shape(op.out_shape(i)) for i in range(len(op.outputs))]
    return outs if op.kind == "Split" else outs[0]


def taken_axes(op: Op) -> tuple[int, ...]:
    """The axes along which parts are taken, counted from 0 with the batch."""
    if op.kind != "Slice":
        return (int(op.attr("axis") or 0) % len(op.in_shape()),)
    return tuple(axis for axis, _, _, _ in bounds(op))


# ------------------------------------------------------------------ lifted


@lift.rule("Concat")
def concat_features(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """Features one behind the other; folded windows stay folded together."""
    axis = int(op.attr("axis")) % len(op.out_shape())
    if axis == 0:
        raise NoRule("it joins images of the batch")
    shape = op.out_shape()[1:]
    consts = [v for v in inputs if isinstance(v, np.ndarray)]
    if all(c.dtype.kind == "f" for c in consts) and not any(isinstance(v, Lifted) for v in inputs):
        parts = [constant_part(align(v, len(shape))) if isinstance(v, np.ndarray) else v for v in inputs]
        return concat_folded(parts, axis - 1)
    values = everywhere(build, inputs, len(shape))
    tensor = build.emit("Concat", [view(build, v, v.shape) for v in values], {"axis": axis})
    return Lifted(tensor, shape, shape)


def constant_part(value: Array) -> Folded:
    """Constant features as part of a folded window: whatever its first cell holds times 0, and moved."""
    return Folded((), np.zeros(value.shape, np.int64), np.zeros(value.shape, value.dtype), value)


def everywhere(build: Builder, inputs: list[Any], rank: int) -> list[Lifted]:
    """Values and constants alike as features of so many dims at every position."""
    made = [None if isinstance(v, np.ndarray) else materialize(build, v) for v in inputs]
    like = next(v for v in made if v is not None)
    return [
        spread(build, align(v, rank), like) if m is None else m for m, v in zip(made, inputs, strict=True)
    ]


def spread(build: Builder, value: Array, like: Lifted) -> Lifted:
    """A constant at every position of a lifted tensor, for every image of the batch."""
    if build.opset < 8:
        raise NoRule("it needs a constant at every position, and opset 7 has no Expand; export a later opset")
    dims = [build.ints("features", value.shape), build.shape_of(like.tensor, -build.space, END)]
    shape = build.emit("Concat", [build.shape_of(like.tensor, 0, 1), *dims], {"axis": 0})
    return Lifted(build.emit("Expand", [beside(build, value[None]), shape]), value.shape, value.shape)


def concat_folded(parts: list[Folded], axis: int) -> Folded:
    """Several folded windows as one, over the maps of all."""
    sources: list[Any] = []
    indices, start = [], 0
    for part in parts:
        indices.append(part.index + start if part.sources else part.index)
        sources += part.sources
        start += sum(s.size for s in part.sources)
    scale = shift = None
    if any(p.scale is not None for p in parts):
        scale = np.concatenate([_or(p.scale, np.ones, p, parts) for p in parts], axis)
    if any(p.shift is not None for p in parts):
        shift = np.concatenate([_or(p.shift, np.zeros, p, parts) for p in parts], axis)
    return Folded(tuple(sources), np.concatenate(indices, axis), scale, shift)


def _or(value: Array | None, default: Any, part: Folded, parts: list[Folded]) -> Array:
    known = next(v for p in parts for v in (p.scale, p.shift) if v is not None)
    made: Array = default(part.shape, known.dtype) if value is None else value
    return made


@lift.rule("Split")
def split_features(build: Builder, op: Op, inputs: list[Any]) -> list[Any]:
    """The same cuts along a feature dim."""
    (axis,) = taken_axes(op)
    if axis == 0:
        raise NoRule("it splits the batch")
    sizes = [op.out_shape(i)[axis] for i in range(len(op.outputs))]
    starts = np.cumsum([0, *sizes])
    return [_take(build, inputs[0], np.arange(a, b), axis) for a, b in pairwise(starts)]


@lift.rule("Slice", "Gather")
def part_of_features(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """The same part of the feature dims."""
    x, shape = inputs[0], op.in_shape()
    if not isinstance(x, (Folded, Lifted)):
        return embedding(build, op, inputs)
    axes = taken_axes(op)
    if 0 in axes:
        raise NoRule("it takes a part of the batch")
    if op.kind == "Gather":
        if not isinstance(inputs[1], np.ndarray):
            raise NoRule("the places it takes depend on the image")
        out = _take(build, x, np.asarray(inputs[1]).ravel() % shape[axes[0]], axes[0])
        return _reshaped(out, op.out_shape()[1:])
    for axis, start, end, step in bounds(op):
        places = np.arange(shape[axis])[slice(start, _end(end, step, shape[axis]), step)]
        x = _take(build, x, places, axis)
    return x


def embedding(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """Rows of a table at places that are features; its other dims come behind those of the places."""
    table, places = inputs
    if op.kind != "Gather" or taken_axes(op) != (0,):
        raise NoRule(
            "its data are constant, and it takes places that depend on the image out of an inner dim"
        )
    x = materialize(build, places)
    shape = op.out_shape()[1:]
    rank, kept = 1 + len(x.shape), table.ndim - 1
    rows = build.emit("Gather", [build.constant("table", table), view(build, x, x.shape)], {"axis": 0})
    space = range(rank, rank + build.space)
    behind = range(rank + build.space, rank + build.space + kept)
    return Lifted(build.transpose(rows, [*range(rank), *behind, *space]), shape, shape)


def _end(end: int, step: int, size: int) -> int | None:
    """ONNX writes "down to the first" as an end below minus the size; Python as None."""
    return None if step < 0 and end < -size else end


def _take(build: Builder, x: Any, places: Array, axis: int) -> Any:
    if isinstance(x, Folded):
        return x.rearrange(lambda a: a.take(places, axis - 1))
    shape = tuple(len(places) if i == axis - 1 else d for i, d in enumerate(x.shape))
    steps = np.diff(places)
    tensor = view(build, x, x.shape)
    if len(places) and (steps == 1).all():
        tensor = build.slice(tensor, [int(places[0])], [int(places[-1]) + 1], [axis])
    else:
        tensor = build.emit("Gather", [tensor, build.ints("places", places)], {"axis": axis})
    return Lifted(tensor, shape, shape)


def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(x, Folded):
        return x.rearrange(lambda a: a.reshape(shape))
    return replace(x, shape=shape)
