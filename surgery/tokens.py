"""Which single position each value of a head depends on: tells token models and detectors from classifiers.

Their answers could be had at every window, with every position of every window as a token or box of its
own; nobody wants such a model, and it is no convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.graph import Op
from surgery.head import Head
from surgery.ops.normalize import SOFT, soft_axes
from surgery.ops.pointwise import BINARY, UNARY
from surgery.ops.shape import RESHAPES, permutation
from surgery.rules import Map

Cells = NDArray[np.int64]
MANY, NONE = -1, -2  # several positions; none at all
SAME = (*UNARY, "Clip", "Dropout")
NORMS = ("LayerNormalization", "RMSNormalization", "LpNormalization")


class Tokens:
    """The positions behind every tensor of a head; `why` says where it turned out to work on tokens.

    `positions[name]` has the tensor's shape, each entry the one position the value depends on, or MANY.
    """

    def __init__(self, head: Head) -> None:
        self.positions: dict[str, Cells] = {}
        self.embedded: Op | None = None
        self.why: tuple[Op, str] | None = None
        start = 0
        for name, m in head.sources.items():
            self.positions[name] = _of_map(m, start)
            start += prod(m.cells)
        for op in head.ops:
            if self.why is None:
                self._follow(op)

    def _follow(self, op: Op) -> None:
        inputs = [self._value(op, n) for n in op.inputs]
        rule = RULES.get(op.kind) if not op.domain else None
        for i, name in enumerate(op.outputs):
            if name and name in op.facts.shapes:
                known = rule(op, inputs) if rule is not None and i == 0 else None
                shape = op.facts.shapes[name]
                self.positions[name] = (
                    np.full(shape, MANY) if known is None else np.broadcast_to(known, shape)
                )
        if op.kind == "Add":
            self._embedding(op, inputs)
        elif op.kind == "MatMul":
            self._product(op, inputs)

    def _value(self, op: Op, name: str) -> Cells | None:
        if name in self.positions:
            return self.positions[name]
        return np.full(op.facts.shapes[name], NONE) if name in op.facts.values else None

    def _embedding(self, op: Op, inputs: Sequence[Cells | None]) -> None:
        """Note a constant that differs from token to token."""
        for i in range(2):
            x, value = inputs[i], op.value(1 - i)
            if x is not None and value is not None and _is_tokens(x):
                spread = np.broadcast_to(value, x.shape) if value.ndim <= x.ndim else value
                along = [d for d in range(x.ndim) if (x != x.take([0], d)).any()]
                if any((spread != spread.take([0], d)).any() for d in along):
                    self.embedded = op

    def _product(self, op: Op, inputs: Sequence[Cells | None]) -> None:
        """Find tokens multiplied by tokens, or tokens with embeddings multiplied by a matrix."""
        left, right = inputs[0], inputs[1]
        if left is None or right is None or not _is_tokens(left):
            return
        count = _distinct(left[..., 0])
        if right.ndim > 1 and _is_tokens(np.swapaxes(right, -1, -2)):
            self.why = (
                op,
                (
                    f"it multiplies each of the window's {count} positions by every other (attention): a "
                    "token model sees the whole window in every token and is no convolution"
                ),
            )
        elif self.embedded is not None and (right == NONE).all():
            self.why = (
                self.embedded,
                (
                    f"it gives each of the window's {count} positions a constant of its own (a position "
                    "embedding), which has no meaning in a larger image"
                ),
            )

    def answers(self, names: Sequence[str]) -> int:
        """How many positions of the window the named outputs have an answer for each, if all of them do."""
        counts = []
        for name in names:
            x = self.positions.get(name)
            several = x is not None and sum(d != 1 for d in x.shape[1:]) > 1 and (x >= 0).all()
            counts.append(_distinct(x) if x is not None and several else 1)
        return min(counts, default=1)


def _of_map(m: Map, start: int) -> Cells:
    sides = [m.shape[a] for a in m.axes]
    grid = np.arange(start, start + prod(sides)).reshape(sides)
    order = np.argsort(m.axes)  # the dims of space in the tensor's own order
    shape = [m.shape[d] if d in m.axes else 1 for d in range(len(m.shape))]
    return np.broadcast_to(np.transpose(grid, order).reshape(shape), m.shape)


def _distinct(x: Cells) -> int:
    return int(np.unique(x[x >= 0]).size)


def _is_tokens(x: Cells) -> bool:
    """Whether every row (along the last dim) depends on one position, and they on several."""
    return x.ndim > 1 and bool((x >= 0).all()) and bool((x == x[..., :1]).all()) and _distinct(x) > 1


# ------------------------------------------------------------------ what ops do to positions


def _joined(op: Op, inputs: Sequence[Any]) -> Cells | None:
    known = [x for x in inputs if x is not None]
    out: Cells = np.full(op.out_shape(), NONE)
    for x in known:
        out = np.where((out == NONE) | (out == x), x, np.where(x == NONE, out, MANY))
    return out


def _within(op: Op, inputs: Sequence[Any], axes: Sequence[int]) -> Cells:
    x = inputs[0]
    low, high = x.min(axis=tuple(axes), keepdims=True), x.max(axis=tuple(axes), keepdims=True)
    return np.broadcast_to(np.where(low == high, low, MANY), x.shape)


def _product(op: Op, inputs: Sequence[Any]) -> Cells | None:
    left, right = inputs[0], inputs[1]
    if left is None or right is None or not (right == NONE).all() or left.ndim < 2 or right.ndim != 2:
        return None
    return np.where(left.min(-1, keepdims=True) == left.max(-1, keepdims=True), left[..., :1], MANY)


def _norm(op: Op, inputs: Sequence[Any]) -> Cells:
    rank, axis = len(op.in_shape()), int(op.attr("axis")) % len(op.in_shape())
    return _within(op, inputs, [axis] if op.kind == "LpNormalization" else range(axis, rank))


def _concat(op: Op, inputs: Sequence[Any]) -> Cells | None:
    return None if any(x is None for x in inputs) else np.concatenate(list(inputs), int(op.attr("axis")))


RULES: dict[str, Callable[[Op, Sequence[Any]], Cells | None]] = {
    **dict.fromkeys(SAME, lambda op, inputs: inputs[0]),
    **dict.fromkeys(BINARY, _joined),
    **dict.fromkeys(RESHAPES, lambda op, inputs: inputs[0].reshape(op.out_shape())),
    **dict.fromkeys(SOFT, lambda op, inputs: _within(op, inputs, soft_axes(op))),
    **dict.fromkeys(NORMS, _norm),
    "Transpose": lambda op, inputs: np.transpose(inputs[0], permutation(op)),
    "Concat": _concat,
    "MatMul": _product,
}
