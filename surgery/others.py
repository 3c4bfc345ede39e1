"""Inputs beside the image: what they hold is the same at every position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.errors import Refused
from surgery.graph import Builder
from surgery.head import Head
from surgery.rules import Lifted


def at_every_position(
    build: Builder, name: str, shape: tuple[int, ...], head: Head, tensors: Mapping[str, Any]
) -> Lifted:
    """A tensor `[N, ...]` that no pixel reaches, laid out over the positions of the score map.

    `tensors` are those that the head reads in the place of its maps. One without a batch dim, a vector or
    a single value, is the same for every image.

    Raises Refused where the positions lie in the batch (fragments).
    """
    if head.fragmented:
        why = "--stride-form fragments has no place for it"
        raise Refused(
            f"cannot lay {name!r} {list(shape)}, which comes from an input beside the image, out over the "
            f"positions: {why}.",
            node=name,
            why=why,
        )
    known = build.graph.tensors()
    source, m = next(iter(head.sources.items()))
    read = tensors.get(source) or known[source]
    counts = []
    sides = zip(m.axes, m.cells, m.spacing, head.stride_in_cells(m), strict=True)
    for axis, cells, spacing, step in sides:
        length = build.shape_of(read, axis, axis + 1)
        room = build.emit("Sub", [length, build.ints("extent", [(cells - 1) * spacing + 1])])
        steps = build.emit("Div", [room, build.ints("step", [step])])
        counts.append(build.emit("Add", [steps, build.ints("first", [1])]))
    lead = max(2 - len(shape), 0)
    shape = (1,) * lead + shape
    rank = len(shape)
    apart = build.with_axes("Unsqueeze", known[name], [*range(lead), *range(rank, rank + build.space)])
    target = build.emit("Concat", [build.ints("features", [1] * rank), *counts], {"axis": 0})
    laid: Any = build.emit("Expand", [apart, target])
    return Lifted(laid, shape[1:], shape[1:])
