"""Products of trunk tensors whose dims hold several things: attention, and matrices over features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from surgery.field import Axis
from surgery.graph import Op
from surgery.ops.pack import check_uniform, met_geometry, wide
from surgery.packed import BATCH, CELLS, CONTEXT, Dim, Packed, Part, holds, packed, same
from surgery.rules import EndsTrunk, Mixes, NoRule


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
        return Packed((*lead, rows, cols), met_geometry(both))
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
        check_uniform(bias, made)
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
        held = [x.dims[d - 2] for x in (left, right) if len(x.dims) >= 2 - d and wide(x.dims[d - 2])]
        fits = all(same(held[0], dim) for dim in held[1:])
        if not fits:
            raise NoRule("its inputs hold different things in the same dim")
        dims.append(held[0] if held else ())
    return tuple(dims)


def _context(p: Part, geometry: tuple[Axis, ...]) -> Part:
    return Part(p.size, CONTEXT, p.axis, geometry[p.axis]) if p.kind == CELLS else p


def _same_cells(context: Dim, own: Dim, geometry: tuple[Axis, ...]) -> bool:
    """Whether a dim holds as context just the cells that another holds as its own, at every size."""
    return len(context) == len(own) and all(
        (p.kind, q.kind, p.axis) == (CONTEXT, CELLS, q.axis)
        and p.along is not None
        and np.array_equal(p.along.lengths, geometry[q.axis].lengths)
        for p, q in zip(context, own, strict=True)
    )
