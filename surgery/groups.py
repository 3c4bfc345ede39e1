"""Which ops behind the parting run on a few rows of the grid at a time, and on how many.

A batch whose activations leave the cache is slower than a small one. An op whose weights weigh more than
what it makes of all windows is bound by reading them, and so reads them once, with all behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import onnx_graphsurgeon as gs

from surgery.batch import Place
from surgery.cost import MATRIX
from surgery.graph import Op
from surgery.shapes import Facts

CACHE = 2**23  # bytes of the largest activation of one group of windows
GROUPS = 16  # more would make the graph large
PACKED = 2**28  # bytes of matrices that onnxruntime packs anew for every group, in all


def groupable(
    rest: Sequence[Op],
    moving: set[str],
    always: Iterable[Op],
    places: Mapping[str, Place | None],
    windows: int,
) -> list[Op]:
    """The ops of the rest, from the windows on, whose outputs put one behind the other are the whole batch's.

    Those of `always`, and what leads to them, are never held back by their weights.
    """
    kept = {id(op) for op in always}
    wanted: set[str] = set()
    for op in reversed(rest):
        if id(op) in kept or wanted.intersection(op.outputs):
            kept.add(id(op))
            wanted.update(op.inputs)
    missing = set(moving).intersection(name for op in rest for name in op.outputs)
    body = []
    for op in rest:
        if op.outputs[0] not in moving or missing.intersection(op.inputs):
            continue
        known = all(places.get(name) is not None for name in op.outputs if name)
        sealed = any(isinstance(v, gs.Graph) for v in op.node.attrs.values())
        if known and not sealed and (id(op) in kept or not bound_by_weights(op, windows)):
            body.append(op)
            missing.difference_update(op.outputs)
    return body


def bound_by_weights(op: Op, windows: int) -> bool:
    """Whether a matrix op reads more weights than it makes values of all windows."""
    return weights(op) > windows * prod(op.out_shape()) // op.facts.batch


def weights(op: Op) -> int:
    """How many values a matrix op holds."""
    values = [op.value(i) for i in range(len(op.inputs))] if op.kind in MATRIX else []
    return sum(v.size for v in values if v is not None)


def rows_at_once(body: Sequence[Op], facts: Facts, grid: tuple[int, ...]) -> int:
    """How many rows of the grid the body runs on at a time."""
    largest = max((_bytes(n, facts) for op in body for n in op.outputs if n in facts.shapes), default=0)
    fit = max(1, int(CACHE // max(1, largest * prod(grid[1:]))))
    packed = 4 * sum(weights(op) for op in body if op.kind == "MatMul")
    groups = min(GROUPS, max(1, PACKED // max(1, packed)))
    return min(grid[0], max(fit, -(-grid[0] // groups)))


def _bytes(name: str, facts: Facts) -> int:
    return prod(facts.shapes[name]) * facts.dtypes[name].itemsize // facts.batch
