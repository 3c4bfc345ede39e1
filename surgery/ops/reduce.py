"""Ops that reduce axes: global pools, Reduce*, ArgMax."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.field import Slide
from surgery.graph import Builder, Op
from surgery.positions import CONV_TYPES, END, POOL_TYPES, focus, materialize, reading, view
from surgery.rules import EndsTrunk, Folded, Lifted, Map, NoRule, Source, geometry, lift

GLOBAL_POOLS = {"GlobalAveragePool": "AveragePool", "GlobalMaxPool": "MaxPool", "GlobalLpPool": "LpPool"}
REDUCTIONS = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceSum",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceProd",
    "ReduceSumSquare",
)
ARGS = ("ArgMax", "ArgMin")
DILATED_SINCE = {"MaxPool": 10, "LpPool": 18}
POOL_OF = {"ReduceMean": "AveragePool", "ReduceMax": "MaxPool", "ReduceL2": "LpPool"}


def axes_of(op: Op) -> tuple[int, ...]:
    """The axes a reduction takes, counted from 0 with the batch; all of them where none are named."""
    rank = len(op.in_shape())
    if op.kind in ARGS:
        return (int(op.attr("axis")) % rank,)
    axes = op.setting("axes", 1, 13 if op.kind == "ReduceSum" else 18)
    if axes is None or axes == []:
        return () if op.attr("noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted(int(a) % rank for a in axes))


@geometry.rule(*GLOBAL_POOLS)
def end_at_global_pool(op: Op, inputs: list[Any]) -> Map:
    """A global pool takes all positions together."""
    raise EndsTrunk("it pools over every position")


@geometry.rule(*REDUCTIONS, *ARGS)
def reduce_channels(op: Op, inputs: list[Any]) -> Map:
    """Over channels a reduction keeps the positions; over space it ends the trunk."""
    x: Map = inputs[0]
    axes = axes_of(op)
    if 0 in axes:
        raise NoRule("it reduces over the batch")
    if set(axes) & set(x.axes):
        raise EndsTrunk("it reduces over positions")
    if op.attr("keepdims"):
        return x.with_shape(op.out_shape())
    moved = tuple(a - sum(1 for r in axes if r < a) for a in x.axes)
    return Map(op.out_shape(), moved, x.geometry)


# ------------------------------------------------------------------ lifted


def pool(build: Builder, kind: str, x: Any, axes: tuple[int, ...], *, keepdims: bool, p: int = 2) -> Lifted:
    """Pool features over some of their dims (counted without the batch).

    Where these are the cells of a window it is a pool over the map with the window as its kernel;
    otherwise the features are taken apart and reduced.
    """
    shape = x.shape
    kept = tuple(1 if i in axes else d for i, d in enumerate(shape) if keepdims or i not in axes)
    if isinstance(x, Folded) and x.plain and kind in GLOBAL_POOLS.values():
        found = _box(x, axes) if _pools(kind, x) else None
        if found is not None:
            source, low, high, channels = found
            box = replace(
                source,
                tensor=_crop(build, source, low, high),
                cells=tuple(b - a for a, b in zip(low, high, strict=True)),
            )
            out = _pool_box(build, kind, box, p)
            if not np.array_equal(channels, np.arange(source.channels)):
                out = build.emit("Gather", [out, build.ints("channels", channels)], {"axis": 1})
            return Lifted(out, kept, (channels.size,))
    reduction = {"AveragePool": "ReduceMean", "MaxPool": "ReduceMax", "LpPool": f"ReduceL{p}"}.get(kind, kind)
    return _reduce(build, reduction, materialize(build, x), axes, kept)


def _pools(kind: str, x: Folded) -> bool:
    """Whether onnxruntime has this pool for the type of the map."""
    return all(np.dtype(s.tensor.dtype) in POOL_TYPES.get(kind, CONV_TYPES) for s in x.sources)


def _pool_box(build: Builder, kind: str, source: Source, p: int) -> Any:
    """The pool of a box of cells at every window."""
    spread = any(s != 1 for s in source.spacing)
    dtype = source.tensor.dtype
    if spread and kind == "AveragePool":
        slides = [Slide(k, s, d) for k, s, d in zip(source.cells, source.stride, source.spacing, strict=True)]
        out = average_by_conv(build, source.tensor, source.channels, dtype, slides, counted=True)
    else:
        if spread and build.opset < DILATED_SINCE[kind]:
            raise NoRule(
                f"{kind} has no dilations before opset {DILATED_SINCE[kind]}; use --stride-form fragments"
            )
        out = build.emit(kind, [source.tensor], {**reading(source), **({"p": p} if kind == "LpPool" else {})})
    out.dtype = dtype
    return out


def average_by_conv(
    build: Builder, tensor: Any, channels: int, dtype: Any, slides: list[Slide], *, counted: bool
) -> Any:
    """An AveragePool with dilations as a depthwise Conv; `counted` says that pads count in the divisor.

    AveragePool has dilations only from opset 19, and several runtimes ignore them or refuse them.
    """
    kernel = [s.kernel for s in slides]
    attrs = {
        "kernel_shape": kernel,
        "strides": [s.stride for s in slides],
        "dilations": [s.dilation for s in slides],
        "pads": [s.before for s in slides] + [s.after for s in slides],
    }
    padded = any(attrs["pads"])
    value = 1 / prod(kernel) if counted or not padded else 1
    weight = build.constant("average", np.full((channels, 1, *kernel), value, dtype))
    total = build.emit("Conv", [tensor, weight], {**attrs, "group": channels})
    if counted or not padded:
        return total
    one = gs.Constant("one", np.ones(1, dtype))
    plane = build.emit("Shape", [build.slice(tensor, [0, 0], [1, 1], [0, 1])])
    ones = build.emit("ConstantOfShape", [plane], {"value": one})
    count = build.emit("Conv", [ones, build.constant("ones", np.ones((1, 1, *kernel), dtype))], attrs)
    return build.emit("Div", [total, count])


def _reduce(build: Builder, kind: str, x: Lifted, axes: tuple[int, ...], kept: tuple[int, ...]) -> Lifted:
    if prod(x.shape[a] for a in axes) == 1 and kind in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"):
        return Lifted(x.tensor, kept, x.dims)
    tensor = build.reduce(kind, view(build, x, x.shape), [a + 1 for a in axes], keepdims=0)
    dims = tuple(d for i, d in enumerate(x.shape) if i not in axes)
    return Lifted(tensor, kept, dims)


def _box(x: Folded, axes: tuple[int, ...]) -> tuple[Source, list[int], list[int], Any] | None:
    """The map, the box of cells and the channels that a reduction over `axes` pools, if it is that."""
    if len(x.sources) != 1 or not axes:
        return None
    source = x.sources[0]
    rows = np.moveaxis(x.index, axes, range(-len(axes), 0))
    rows = rows.reshape(-1, prod(x.index.shape[a] for a in axes))
    channel, cell = np.divmod(rows, prod(source.cells))
    cell = np.sort(cell, axis=1)
    if (channel != channel[:, :1]).any() or (cell != cell[:1]).any():
        return None
    places = np.unravel_index(cell[0], source.cells)
    low = [int(p.min()) for p in places]
    high = [int(p.max()) + 1 for p in places]
    whole = np.unique(cell[0]).size == cell.shape[1] == prod(b - a for a, b in zip(low, high, strict=True))
    return (source, low, high, channel[:, 0]) if whole else None


def _crop(build: Builder, source: Source, low: list[int], high: list[int]) -> Any:
    """The map without the cells that no window's box reaches."""
    sides = zip(high, source.cells, source.spacing, strict=True)
    starts = [a * d for a, d in zip(low, source.spacing, strict=True)]
    ends = [END if b == n else (b - n) * d for b, n, d in sides]
    cut = [i for i in range(len(low)) if starts[i] or ends[i] != END]
    if not cut:
        return source.tensor
    out = build.slice(source.tensor, [starts[i] for i in cut], [ends[i] for i in cut], [i + 2 for i in cut])
    out.dtype = source.tensor.dtype
    return out


@lift.rule(*GLOBAL_POOLS)
def pool_everything(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A global pool is a pool as large as the window."""
    axes = tuple(range(1, len(op.in_shape()) - 1))
    return pool(build, GLOBAL_POOLS[op.kind], inputs[0], axes, keepdims=True, p=op.attr("p") or 2)


@lift.rule(*REDUCTIONS)
def reduce_features(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """Reduce feature dims at every position."""
    axes = axes_of(op)
    if 0 in axes:
        raise NoRule("it reduces over the batch")
    x, inner, kept = inputs[0], tuple(a - 1 for a in axes), bool(op.attr("keepdims"))
    plain = isinstance(x, Folded) and x.plain and _pools("AveragePool", x)
    if op.kind == "ReduceSum" and plain and _box(x, inner):
        mean = pool(build, "AveragePool", x, inner, keepdims=kept)
        count = prod(x.shape[a] for a in inner)
        total = build.emit("Mul", [mean.tensor, build.constant("count", np.array(count, mean.tensor.dtype))])
        return replace(mean, tensor=total)
    return pool(build, POOL_OF.get(op.kind, op.kind), x, inner, keepdims=kept)


@lift.rule(*ARGS)
def place_of_extreme(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """The place of the largest feature at every position."""
    x = materialize(build, inputs[0])
    (axis,) = axes_of(op)
    if axis == 0:
        raise NoRule("it reduces over the batch")
    tensor, dims, at = focus(build, x, axis - 1)
    out = build.emit(op.kind, [tensor], {**op.node.attrs, "axis": at + 1, "keepdims": 0})
    return Lifted(out, op.out_shape()[1:], dims[:at] + dims[at + 1 :])
