"""What ops do to trunk tensors whose dims hold several things: rows of positions, a batch that moved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from surgery.field import Axis
from surgery.graph import Op
from surgery.ops.join import taken_axes
from surgery.ops.normalize import SOFT, soft_axes
from surgery.ops.pad import pads_of
from surgery.ops.pointwise import BINARY, UNARY
from surgery.ops.reduce import ARGS, REDUCTIONS, axes_of
from surgery.ops.shape import RESHAPES, homes_of, permutation
from surgery.packed import (
    BATCH,
    CELLS,
    CONTEXT,
    PLACES,
    Dim,
    Never,
    Packed,
    Part,
    holds,
    packed,
    regroup,
    same,
    size,
)
from surgery.rules import Array, EndsTrunk, Mixes, NoRule

WHOLE_IMAGE = "it takes its statistics from the whole image"


@packed.rule(*RESHAPES)
def other_dims(op: Op, inputs: list[Any]) -> Packed:
    """The same things in the same order, in other dims."""
    x = _only(inputs)
    if op.kind in ("Squeeze", "Unsqueeze"):
        return _other_units(op, x)
    made = regroup(x, op.out_shape())
    if made is None:
        raise EndsTrunk(f"it mixes positions and features: {list(x.shape)} becomes {list(op.out_shape())}")
    return made


def _other_units(op: Op, x: Packed) -> Packed:
    """The dims with some of 1 more, or less, which must hold nothing."""
    homes = homes_of(op, x.shape, op.out_shape())
    dims: list[Dim] = [()] * len(op.out_shape())
    for home, dim in zip(homes, x.dims, strict=True):
        if home is not None:
            dims[home] = dim
        elif holds(dim, *PLACES):
            raise EndsTrunk("it takes out a dim that holds positions, or the batch")
    return replace(x, dims=tuple(dims))


@packed.rule("Transpose")
def other_order(op: Op, inputs: list[Any]) -> Packed:
    """What the dims hold moves with them."""
    x = _only(inputs)
    return replace(x, dims=tuple(x.dims[p] for p in permutation(op)))


@packed.rule(*UNARY, "Clip", "Dropout")
def each_value(op: Op, inputs: list[Any]) -> list[Packed | None]:
    """Every value alone."""
    return [_only(inputs), *[None] * (len(op.outputs) - 1)]


@packed.rule("QuantizeLinear", "DequantizeLinear")
def one_scale(op: Op, inputs: list[Any]) -> Packed:
    """One scale for all values."""
    x = _only(inputs)
    if not isinstance(inputs[1], np.ndarray) or inputs[1].size != 1:
        raise NoRule("its scale differs along a dim that holds several things, or depends on the image")
    return x


@packed.rule(*BINARY)
def value_by_value(op: Op, inputs: list[Any]) -> Packed:
    """Value meets value: dims that hold the same; a constant must be the same at every position."""
    shape = op.out_shape()
    joined = _joined([x for x in inputs if isinstance(x, Packed)], shape)
    for value in inputs:
        if isinstance(value, np.ndarray):
            check_uniform(value, joined)
    return joined


def _joined(several: list[Packed], shape: tuple[int, ...]) -> Packed:
    dims: list[Dim] = []
    for d in range(-len(shape), 0):
        held = [x.dims[d] for x in several if len(x.dims) >= -d and wide(x.dims[d])]
        if any(not same(held[0], dim) for dim in held[1:]):
            raise NoRule("its inputs hold different things in the same dim")
        dims.append(held[0] if held else (() if shape[d] == 1 else (Part(shape[d]),)))
    return Packed(tuple(dims), met_geometry(several))


def wide(dim: Dim) -> bool:
    """Whether a dim is more than a 1 to be broadcast."""
    return size(dim) > 1 or holds(dim, *PLACES)


def met_geometry(several: list[Packed]) -> tuple[Axis, ...]:
    """What is known of each axis of tensors that meet; raises NoRule where they lie on other grids."""
    geometry = several[0].geometry
    for other in several[1:]:
        try:
            geometry = tuple(a.join(b) for a, b in zip(geometry, other.geometry, strict=True))
        except ValueError as error:
            raise NoRule(f"its inputs do not lie on one grid: {error}") from error
    return geometry


def check_uniform(value: Array, x: Packed) -> None:
    """Raise where a constant differs from position to position of the window, or from image to image."""
    for d, dim in enumerate(x.dims):
        inside = d - len(x.dims) + value.ndim
        if inside < 0 or not holds(dim, *PLACES) or (value == value.take([0], inside)).all():
            continue
        if holds(dim, CELLS, CONTEXT):
            raise NoRule(
                f"a constant of shape {list(value.shape)} differs from position to position in the window; "
                "it has no meaning in a larger image (a position embedding, a relative position bias)"
            )
        raise NoRule(f"a constant of shape {list(value.shape)} differs from image to image of the batch")


@packed.rule(*SOFT)
def soft(op: Op, inputs: list[Any]) -> Packed:
    """Over features it keeps the positions; over positions it mixes them."""
    x = _only(inputs)
    dims = [x.dims[d] for d in soft_axes(op)]
    if any(holds(dim, BATCH) for dim in dims):
        raise NoRule("it normalises over the batch")
    if any(holds(dim, CELLS) for dim in dims):
        raise Mixes("it normalises over all positions", x)
    return x


@packed.rule("InstanceNormalization", "BatchNormalization")
def by_channel(op: Op, inputs: list[Any]) -> Packed:
    """Per feature of dim 1; an InstanceNormalization takes all that lies behind together."""
    x = _only(inputs)
    if holds(x.dims[1], *PLACES) or not holds(x.dims[0], BATCH) or len(x.dims[0]) != 1:
        raise NoRule("its channels are positions, or images of the batch")
    if op.kind == "InstanceNormalization" and any(holds(dim, CELLS, CONTEXT) for dim in x.dims[2:]):
        raise Mixes(WHOLE_IMAGE, x)
    return x


@packed.rule("LayerNormalization", "RMSNormalization", "LpNormalization")
def last_dims(op: Op, inputs: list[Any]) -> Packed:
    """Over features it keeps the positions; over positions it mixes them, if no weight fixes how many."""
    x = _only(inputs)
    axis = int(op.attr("axis")) % len(x.dims)
    dims = x.dims[axis : axis + 1] if op.kind == "LpNormalization" else x.dims[axis:]
    if any(holds(dim, BATCH) for dim in dims):
        raise NoRule("it normalises over the batch")
    if not any(holds(dim, CELLS, CONTEXT) for dim in dims):
        return x
    for value in inputs[1:]:
        if isinstance(value, np.ndarray):
            check_uniform(value, x)
    raise Mixes(WHOLE_IMAGE, x)


@packed.rule(*REDUCTIONS, *ARGS)
def without(op: Op, inputs: list[Any]) -> Packed:
    """Over features it keeps the positions; over positions it ends the trunk."""
    x = _only(inputs)
    axes = axes_of(op)
    if any(holds(x.dims[a], BATCH) for a in axes):
        raise NoRule("it reduces over the batch")
    if any(holds(x.dims[a], CELLS) for a in axes):
        raise EndsTrunk("it reduces over positions")
    kept = [() if a in axes else dim for a, dim in enumerate(x.dims) if op.attr("keepdims") or a not in axes]
    return replace(x, dims=tuple(kept))


@packed.rule("Concat")
def side_by_side(op: Op, inputs: list[Any]) -> Packed:
    """Along features it keeps the positions."""
    axis = int(op.attr("axis")) % len(op.out_shape())
    several = [x for x in inputs if isinstance(x, Packed)]
    if any(holds(x.dims[axis], CELLS, CONTEXT) for x in several):
        tokens = [op.in_shape(i)[axis] for i, x in enumerate(inputs) if not isinstance(x, Packed)]
        if tokens and all(len(x.dims[axis]) == len(x.geometry) for x in several):
            raise Never(
                f"it puts {sum(tokens)} token beside the {size(several[0].dims[axis])} positions (a class "
                "token): a token model sees the whole window in every token and is no convolution"
            )
        raise EndsTrunk("it joins positions")
    if len(several) != len(inputs) or any(holds(x.dims[axis], BATCH) for x in several):
        raise NoRule("it joins what does not depend on the image, or images of the batch, to positions")
    rest = [replace(x, dims=(*x.dims[:axis], (), *x.dims[axis + 1 :])) for x in several]
    joined = _joined(rest, tuple(1 if d == axis else n for d, n in enumerate(op.out_shape())))
    return replace(
        joined, dims=(*joined.dims[:axis], (Part(op.out_shape()[axis]),), *joined.dims[axis + 1 :])
    )


@packed.rule("Pad")
def more_features(op: Op, inputs: list[Any]) -> Packed:
    """Features more at every position."""
    x = _only(inputs)
    added = [d for d, pads in enumerate(pads_of(op)) if any(pads)]
    if any(holds(x.dims[d], *PLACES) for d in added):
        raise EndsTrunk("it adds to positions that lie in one row, or to the batch")
    shape = op.out_shape()
    return replace(x, dims=tuple((Part(shape[d]),) if d in added else dim for d, dim in enumerate(x.dims)))


@packed.rule("Expand", "Tile")
def repeated(op: Op, inputs: list[Any]) -> Packed:
    """Features may be repeated; positions may not."""
    x, shape = _only(inputs), op.out_shape()
    same_rank = len(shape) == len(x.dims)
    if not same_rank or any(n != size(d) and holds(d, *PLACES) for n, d in zip(shape, x.dims, strict=True)):
        raise EndsTrunk("it repeats what it reads to a size that the window fixes")
    kept = (d if n == size(d) else (Part(n),) for n, d in zip(shape, x.dims, strict=True))
    return replace(x, dims=tuple(kept))


@packed.rule("Split", "Slice", "Gather")
def part(op: Op, inputs: list[Any]) -> list[Packed]:
    """A part of the features, at every position."""
    x = _only(inputs)
    axes = taken_axes(op)
    if any(holds(x.dims[a], *PLACES) for a in axes):
        raise EndsTrunk("it takes a part of the positions, or of the batch")
    outs = []
    for i in range(len(op.outputs)):
        shape = op.out_shape(i)
        if op.kind == "Gather":
            places = tuple((Part(n),) for n in np.shape(inputs[1]))
            outs.append(replace(x, dims=(*x.dims[: axes[0]], *places, *x.dims[axes[0] + 1 :])))
        else:
            cut = [(Part(shape[d]),) if d in axes else dim for d, dim in enumerate(x.dims)]
            outs.append(replace(x, dims=tuple(cut)))
    return outs


def _only(inputs: list[Any]) -> Packed:
    """The one input that holds positions, which must be the data."""
    x = inputs[0]
    if not isinstance(x, Packed) or any(isinstance(i, Packed) for i in inputs[1:]):
        raise NoRule("its settings, not only its data, depend on the image")
    return x
