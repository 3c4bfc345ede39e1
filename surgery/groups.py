"""Which ops behind the parting run on a few windows at a time, and on how many.

A batch whose activations leave the cache is slower than a small one. An op whose weights weigh more than
what it makes of all windows is bound by reading them, and so reads them once, with all behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_graphsurgeon as gs

from surgery import loop
from surgery.batch import Place
from surgery.cost import MATRIX
from surgery.graph import Op
from surgery.probes import HIDING, SHAPE_ONLY
from surgery.shapes import Facts

CACHE = 2**23  # bytes of the largest activation of one group of windows
TURN = 2**22  # the same of one turn of a loop, which costs less than a copy
FEW = 6  # windows that make a batch, however large their activations are
PLAIN = 2**12  # nodes of all copies: more are a loop, where there may be one
NODES = 2**14  # nodes of all copies where there may be none: more would make the graph large
HEAVY = 2**30  # bytes of weights that a loop may hold: they are part of the graph, of 2 GiB at most
ALIVE = 4  # activations as large as the largest that are held at once


@dataclass(frozen=True)
class Grouping:
    """The windows of a group along each axis of the grid, or those of each turn of a loop (0: no loop)."""

    box: tuple[int, ...]
    turn: int = 0


def groupable(
    rest: Sequence[Op],
    moving: set[str],
    always: Iterable[Op],
    places: Mapping[str, Place | None],
    windows: int,
) -> list[Op]:
    """The ops of the rest, from the windows on, whose outputs put one behind the other are the whole batch's.

    Those of `always`, and what leads to them, are never held back by their weights. What only reshapes the
    answers or hides them (a softmax) runs once, so that its input is there to be compared.
    """
    last = at_the_end(rest)
    kept = {id(op) for op in always}
    wanted: set[str] = set()
    for op in reversed(rest):
        if id(op) in kept or wanted.intersection(op.outputs):
            kept.add(id(op))
            wanted.update(op.inputs)
    missing = set(moving).intersection(name for op in rest for name in op.outputs)
    body = []
    for op in rest:
        if op.outputs[0] not in moving or missing.intersection(op.inputs) or id(op) in last:
            continue
        known = all(places.get(name) is not None for name in op.outputs if name)
        sealed = any(isinstance(v, gs.Graph) for v in op.node.attrs.values())
        if known and not sealed and (id(op) in kept or not bound_by_weights(op, windows)):
            body.append(op)
            missing.difference_update(op.outputs)
    return body


def at_the_end(rest: Sequence[Op]) -> set[int]:
    """The ids of the last ops of the rest: those behind which nothing is computed any more."""
    last: set[int] = set()
    read: set[str] = set()
    for op in reversed(rest):
        if op.kind in (*SHAPE_ONLY, *HIDING) and read.isdisjoint(op.outputs):
            last.add(id(op))
        else:
            read.update(op.inputs)
    return last


def bound_by_weights(op: Op, windows: int) -> bool:
    """Whether a matrix op reads more weights than it makes values of all windows."""
    return weights(op) > windows * prod(op.out_shape()) // op.facts.batch


def weights(op: Op) -> int:
    """How many values a matrix op holds."""
    values = [op.value(i) for i in range(len(op.inputs))] if op.kind in MATRIX else []
    return sum(v.size for v in values if v is not None)


def grouping(body: Sequence[Op], facts: Facts, grid: tuple[int, ...], opset: int) -> Grouping:
    """How the body runs on the windows of a grid.

    A group of copies is part of one row or some whole rows, so that groups follow each other as the windows
    do. onnxruntime packs matrices anew for every copy: all of these take no more memory than groups spare.
    Where that, or the size of the graph, allows too few copies, the body is a loop.
    """
    largest = max((_bytes(n, facts) for op in body for n in op.outputs if n in facts.shapes), default=1)
    packed = 4 * sum(weights(op) for op in body if op.kind == "MatMul")
    spared = ALIVE * largest * prod(grid)
    fit = max(FEW, CACHE / max(1, largest))
    looped = bool(body) and opset >= loop.SINCE and 4 * sum(map(weights, body)) <= HEAVY
    most = max(1, min((PLAIN if looped else NODES) // max(1, len(body)), spared // max(1, packed)))
    box = group_of(grid, fit)
    if looped and _count(grid, box) > most:
        return Grouping(grid, turn=turn_of(prod(grid), round(max(FEW, TURN / max(1, largest)))))
    fit = max(fit, prod(grid) / most)
    box = group_of(grid, fit)
    while _count(grid, box) > most:
        fit *= 1.5
        box = group_of(grid, fit)
    return Grouping(box)


def group_of(grid: tuple[int, ...], fit: float) -> tuple[int, ...]:
    """About `fit` windows along each axis of the grid, the last of them all alike where that is possible.

    >>> group_of((6, 6), 13), group_of((6, 6), 8), group_of((10, 22), 8), group_of((3, 9), 8)
    ((2, 6), (1, 6), (1, 8), (1, 9))
    """
    axis = next(k for k in range(len(grid)) if prod(grid[k + 1 :]) <= fit * 2**0.5)
    ideal = fit / prod(grid[axis + 1 :])
    count = max(1, int(ideal))
    count += (count + 1) / ideal < ideal / count
    parts = -(-grid[axis] // count)
    return (1,) * axis + (-(-grid[axis] // parts), *grid[axis + 1 :])


def turn_of(windows: int, fit: int) -> int:
    """About `fit` windows, which all turns have alike, so that few or none are made up.

    >>> turn_of(121, 8), turn_of(361, 8), turn_of(100, 8), turn_of(5, 8)
    (7, 7, 10, 5)
    """
    near = range(fit - fit // 3, fit + fit // 3 + 1)
    even = [-(-windows // -(-windows // n)) for n in near]
    return min(even, key=lambda n: (-windows % n, abs(n - fit)))


def _bytes(name: str, facts: Facts) -> int:
    return prod(facts.shapes[name]) * facts.dtypes[name].itemsize // facts.batch


def _count(grid: tuple[int, ...], box: tuple[int, ...]) -> int:
    return prod(-(-n // c) for n, c in zip(grid, box, strict=True))
