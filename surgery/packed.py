"""Trunk tensors whose dims hold several things: positions laid in one row, cells split, the batch moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from surgery.field import Axis, Stretch
from surgery.rules import Map, NoRule, Table

BATCH, FEATURES, CELLS, CONTEXT = "batch", "features", "cells", "context"
PLACES = (BATCH, CELLS, CONTEXT)  # as many as there are images, or positions


@dataclass(frozen=True, eq=False)
class Part:
    """One of the things that a dim holds: `size` of them in the window.

    `axis` is the spatial axis that CELLS are cells of. CONTEXT are cells of the whole image in a tensor
    that holds something for each pair of cells (attention); `along` is then their own axis.
    """

    size: int
    kind: str = FEATURES
    axis: int = -1
    along: Axis | None = None

    def like(self, other: Part) -> bool:
        """Whether both hold the same."""
        return (self.size, self.kind, self.axis) == (other.size, other.kind, other.axis)


Dim = tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Packed:
    """A trunk tensor by what its dims hold, each the outermost first; `geometry` as in a Map."""

    dims: tuple[Dim, ...]
    geometry: tuple[Axis, ...]

    @classmethod
    def of(cls, m: Map | Packed) -> Packed:
        """A map seen so."""
        if isinstance(m, Packed):
            return m
        dims: list[Dim] = [(Part(m.shape[0], BATCH),)]
        for d, size in enumerate(m.shape[1:], 1):
            dims.append((Part(size, CELLS, m.axes.index(d)) if d in m.axes else Part(size),))
        return cls(tuple(dims), m.geometry)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape at the window."""
        return tuple(size(dim) for dim in self.dims)

    @property
    def axes(self) -> tuple[int, ...]:
        """The dims whose size follows the image's."""
        return tuple(d for d, dim in enumerate(self.dims) if holds(dim, CELLS, CONTEXT))

    def soil(self) -> Packed:
        """The same without a clean cell."""
        return replace(self, geometry=tuple(a.soil() for a in self.geometry))


packed: Table[Callable[..., Any]] = Table("packed")


class Never(NoRule):
    """Raised by a rule: no conversion of the whole net can be right, for this reason."""


def size(dim: Iterable[Part]) -> int:
    """How many values a dim has in the window."""
    return prod(p.size for p in dim)


def holds(dim: Iterable[Part], *kinds: str) -> bool:
    """Whether a dim holds one of these kinds."""
    return any(p.kind in kinds for p in dim)


def same(a: Dim, b: Dim) -> bool:
    """Whether two dims hold the same things in the same order."""
    return len(a) == len(b) and all(p.like(q) for p, q in zip(a, b, strict=True))


def regroup(x: Packed, shape: tuple[int, ...]) -> Packed | None:
    """The tensor reshaped: its things in the same row-major order, in other dims; None if one is cut apart.

    Cells can be cut in one way: into groups of neighbours, which become features of a coarser cell.
    """
    queue = [p for dim in x.dims for p in dim if p.size > 1 or p.kind != FEATURES]
    geometry = list(x.geometry)
    dims: list[list[Part]] = []
    for need in shape:
        dim: list[Part] = []
        if need == 1 and queue and queue[0].size == 1:
            dim.append(queue.pop(0))
        while need > 1:
            part = queue.pop(0) if queue else None
            if part is not None and need % part.size == 0:
                dim.append(part)
                need //= part.size
            elif part is not None and part.size % need == 0 and part.kind in (FEATURES, CELLS):
                inner = part.size // need
                if part.kind == CELLS:
                    geometry[part.axis] = geometry[part.axis].stretch(grouping(inner))
                dim.append(replace(part, size=need))
                queue.insert(0, Part(inner))
                need = 1
            else:
                return None
        dims.append(dim)
    if any(p.size != 1 for p in queue) or not dims:
        return None
    dims[-1] += queue
    return Packed(tuple(tuple(dim) for dim in dims), tuple(geometry))


def settle(x: Packed) -> Map | Packed:
    """The tensor as a plain map, if every dim holds one thing, and every axis has a dim.

    Features that lie inside the cells of their own dim are cells again, as many more (DepthToSpace).
    """
    first = x.dims[0] if x.dims else ()
    if len(first) != 1 or first[0].kind != BATCH or len(x.axes) != len(x.geometry):
        return x
    geometry, axes = list(x.geometry), [-1] * len(x.geometry)
    for d in x.axes:
        cells, *inside = x.dims[d]
        if cells.kind != CELLS or any(p.kind != FEATURES for p in inside) or axes[cells.axis] != -1:
            return x
        axes[cells.axis] = d
        if inside:
            geometry[cells.axis] = geometry[cells.axis].stretch(spreading(size(inside)))
    if any(holds(dim, BATCH) for dim in x.dims[1:]):
        return x
    kept = all(a is b for a, b in zip(geometry, x.geometry, strict=True))
    return Map(x.shape, tuple(axes), x.geometry if kept else tuple(geometry))


def grouping(cells: int) -> Stretch:
    """So many neighbouring cells as one (SpaceToDepth)."""
    return Stretch(1, cells, ((0, cells - 1),), whole=True)


def spreading(cells: int) -> Stretch:
    """Every cell as so many (DepthToSpace, and the nearest of neighbours)."""
    return Stretch(cells, 1, ((0, 0),) * cells)
