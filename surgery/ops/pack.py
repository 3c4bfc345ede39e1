"""What ops do to trunk tensors whose dims hold several things: rows of positions, attention, moved batch."""

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
from surgery.packed import BATCH, CELLS, CONTEXT, Dim, Never, Packed, Part, holds, packed, regroup, same, size
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
        elif holds(dim, BATCH, CELLS, CONTEXT):
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
            _check_uniform(value, joined)
    return joined


def _joined(several: list[Packed], shape: tuple[int, ...]) -> Packed:
    dims: list[Dim] = []
    for d in range(-len(shape), 0):
        held = [x.dims[d] for x in several if len(x.dims) >= -d and _wide(x.dims[d])]
        if any(not same(held[0], dim) for dim in held[1:]):
            raise NoRule("its inputs hold different things in the same dim")
        dims.append(held[0] if held else (() if shape[d] == 1 else (Part(shape[d]),)))
    return Packed(tuple(dims), _geometry(several))


def _wide(dim: Dim) -> bool:
    return size(dim) > 1 or holds(dim, BATCH, CELLS, CONTEXT)


def _geometry(several: list[Packed]) -> tuple[Axis, ...]:
    geometry = several[0].geometry
    for other in several[1:]:
        try:
            geometry = tuple(a.join(b) for a, b in zip(geometry, other.geometry, strict=True))
        except ValueError as error:
            raise NoRule(f"its inputs do not lie on one grid: {error}") from error
    return geometry


def _check_uniform(value: Array, x: Packed) -> None:
    """Raise where a constant differs from position to position inside the window."""
    for d in x.axes:
        inside = d - len(x.dims) + value.ndim
        if inside >= 0 and (value != value.take([0], inside)).any():
            raise NoRule(
                f"a constant of shape {list(value.shape)} differs from position to position in the window; "
                "it has no meaning in a larger image (a position embedding, a relative position bias)"
            )


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
    if holds(x.dims[1], BATCH, CELLS, CONTEXT) or not holds(x.dims[0], BATCH) or len(x.dims[0]) != 1:
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
            _check_uniform(value, x)
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
    if any(holds(x.dims[d], BATCH, CELLS, CONTEXT) for d in added):
        raise EndsTrunk("it adds to positions that lie in one row, or to the batch")
    shape = op.out_shape()
    return replace(x, dims=tuple((Part(shape[d]),) if d in added else dim for d, dim in enumerate(x.dims)))


@packed.rule("Split", "Slice", "Gather")
def part(op: Op, inputs: list[Any]) -> list[Packed]:
    """A part of the features, at every position."""
    x = _only(inputs)
    axes = taken_axes(op)
    if any(holds(x.dims[a], BATCH, CELLS, CONTEXT) for a in axes):
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


@packed.rule("MatMul")
def products(op: Op, inputs: list[Any]) -> Packed:
    """Over features it keeps the positions; of two tensors of positions it is attention, and mixes them."""
    left, right = (_matrix(x, op.in_shape(i)) for i, x in enumerate(inputs))
    shape = op.out_shape()
    rows, inner, other, cols = left.dims[-2], left.dims[-1], right.dims[-2], right.dims[-1]
    both = [x for x in (left, right) if x.geometry]
    lead = _lead(left, right, shape[:-2])
    alone = any(isinstance(x, np.ndarray) for x in inputs)
    if any(holds(dim, BATCH) for dim in ((inner, other) if alone else (rows, inner, other, cols))):
        raise NoRule("it multiplies images of the batch with each other")
    sized = [holds(dim, CELLS, CONTEXT) for dim in (inner, other)]
    if not any(sized):
        if len(both) == 2 and holds(rows, CELLS) and holds(cols, CELLS):
            cols = tuple(_context(p, right.geometry) for p in cols)
            made = Packed((*lead, rows, cols), left.geometry)
            raise Mixes("it multiplies every position with every other (attention)", made)
        return Packed((*lead, rows, cols), _geometry(both))
    if not all(sized):
        matrix = next((list(x.shape) for x in (left, right) if not x.geometry), "")
        raise NoRule(f"it multiplies over positions, and its other side {matrix} fixes how many there are")
    if holds(inner, CELLS) and holds(other, CELLS):
        raise EndsTrunk("it sums over every position")
    seen, weighted = (left, right) if holds(inner, CONTEXT) else (right, left)
    own = weighted.dims[-2] if weighted is right else weighted.dims[-1]
    ctx = seen.dims[-1] if seen is left else seen.dims[-2]
    if not _same_cells(ctx, own, weighted.geometry):
        raise NoRule("it multiplies over positions of two different grids")
    made = Packed((*lead, rows, cols), seen.geometry)
    raise Mixes("it sums over all positions for every one (attention)", made)


@packed.rule("Gemm")
def product(op: Op, inputs: list[Any]) -> Packed:
    """Over features it keeps the positions, which lie in one row with the batch."""
    if len(inputs) < 2 or not isinstance(inputs[1], np.ndarray) or op.attr("transA"):
        raise EndsTrunk("it multiplies by a matrix that depends on the image, or turns positions to features")
    x, bias = inputs[0], inputs[2] if len(inputs) > 2 else None
    if x is None or holds(x.dims[1], BATCH, CELLS, CONTEXT):
        raise EndsTrunk("it multiplies over positions")
    made: Packed = replace(x, dims=(x.dims[0], (Part(op.out_shape()[1]),)))
    if isinstance(bias, np.ndarray):
        _check_uniform(bias, made)
    elif bias is not None or (len(op.inputs) > 2 and op.inputs[2]):
        raise EndsTrunk("its bias depends on the image")
    return made


def _matrix(x: Any, shape: tuple[int, ...]) -> Packed:
    """An operand by what its dims hold; one without positions has no geometry."""
    if isinstance(x, Packed) and len(shape) > 1:
        return x
    if len(shape) < 2:
        raise EndsTrunk("it multiplies by a vector")
    dims = [(Part(n),) for n in shape]
    if x is None and len(shape) > 2:
        dims[0] = (Part(shape[0], BATCH),)
    return Packed(tuple(dims), ())


def _lead(left: Packed, right: Packed, shape: tuple[int, ...]) -> tuple[Dim, ...]:
    """The dims before the matrix: those of the operand with positions where the other has none or one."""
    dims: list[Dim] = []
    for d in range(-len(shape), 0):
        held = [x.dims[d - 2] for x in (left, right) if len(x.dims) >= 2 - d and _wide(x.dims[d - 2])]
        fits = all(same(held[0], dim) for dim in held[1:])
        if not fits:
            raise NoRule("its inputs hold different things in the same dim")
        dims.append(held[0] if held else ())
    return tuple(dims)


def _context(p: Part, geometry: tuple[Axis, ...]) -> Part:
    return Part(p.size, CONTEXT, p.axis, geometry[p.axis]) if p.kind == CELLS else p


def _same_cells(context: Dim, own: Dim, geometry: tuple[Axis, ...]) -> bool:
    """Whether a dim holds as context just the cells that another holds as its own, at every size."""
    if len(context) != len(own):
        return False
    for p, q in zip(context, own, strict=True):
        if p.kind != CONTEXT or q.kind != CELLS or p.axis != q.axis or p.along is None:
            return False
        if not np.array_equal(p.along.lengths, geometry[q.axis].lengths):
            return False
    return True


def _only(inputs: list[Any]) -> Packed:
    """The one input that holds positions, which must be the data."""
    x = inputs[0]
    if not isinstance(x, Packed) or any(isinstance(i, Packed) for i in inputs[1:]):
        raise NoRule("its settings, not only its data, depend on the image")
    return x
