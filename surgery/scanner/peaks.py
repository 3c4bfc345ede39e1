"""The best positions of score maps, without the neighbours that see the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.errors import BadInput
from surgery.scanner.plan import View

Span = tuple[float, float]

OVERLAP = 0.3


@dataclass(frozen=True)
class Peak:
    """One of the best positions: its score, its place in the map of a scale, and its window's box.

    `box` is (top, left, bottom, right) in pixels of the image, end excluded.
    """

    score: float
    row: int
    col: int
    scale: str
    box: tuple[int, int, int, int]

    def to_dict(self) -> dict[str, Any]:
        """The keys of the reports."""
        return {
            "score": self.score,
            "row": self.row,
            "col": self.col,
            "scale": self.scale,
            "box": list(self.box),
        }


def peaks(
    maps: Sequence[tuple[View, NDArray[Any]]], top: int = 10, overlap: float = OVERLAP
) -> tuple[Peak, ...]:
    """The `top` best positions of one class over all scales, best first.

    `maps` are scores `[rows, cols]`. Greedy: the best position is taken, and every other whose window
    shares more than `overlap` of the smaller of the two windows with it is left out; and again. With
    `overlap` 1 only the taken position itself is left out. Of equal scores the first scale, then the
    first row and column, wins.
    """
    if top < 0:
        raise BadInput(f"the number of best positions is {top}; give 0 or more.")
    if not 0 <= overlap <= 1:
        raise BadInput(f"the overlap {overlap} is not a share from 0 to 1.")
    left = [scores.astype(np.float64) for _, scores in maps]  # copies, struck out as positions are taken
    found: list[Peak] = []
    while len(found) < top:
        best = max(range(len(left)), key=lambda k: left[k].max())  # max keeps the first of equals
        row, col = divmod(int(left[best].argmax()), left[best].shape[1])
        score = float(left[best][row, col])
        if score == -np.inf:
            break
        view = maps[best][0]
        found.append(Peak(score, row, col, view.scale, view.box(row, col)))
        taken = window(view, 0, row), window(view, 1, col)
        for (other, _), scores in zip(maps, left, strict=True):
            strike(scores, other, taken, overlap)
        left[best][row, col] = -np.inf
    return tuple(found)


def window(view: View, axis: int, index: int) -> Span:
    """Where a window begins and ends along an axis, in pixels of the image."""
    start, ratio = index * view.geometry.stride[axis], view.ratio[axis]
    return start * ratio, (start + view.geometry.window[axis]) * ratio


def strike(scores: NDArray[Any], view: View, taken: tuple[Span, Span], overlap: float) -> None:
    """Strike out, in place, the positions of a map whose window overlaps the taken one too much."""
    shared = [shares(view, axis, count, taken[axis]) for axis, count in enumerate(scores.shape)]
    rows, cols = (np.flatnonzero(s) for s in shared)
    if not rows.size or not cols.size:
        return
    near = np.ix_(rows, cols)
    sides = [(window(view, k, 0)[1], taken[k][1] - taken[k][0]) for k in range(2)]
    smaller = min(sides[0][0] * sides[1][0], sides[0][1] * sides[1][1])
    common = np.outer(shared[0][rows], shared[1][cols])
    scores[near] = np.where(common > overlap * smaller * (1 + 1e-9), -np.inf, scores[near])


def shares(view: View, axis: int, count: int, taken: Span) -> NDArray[np.float64]:
    """How many pixels of the image each of `count` windows along an axis shares with a span."""
    starts = np.arange(count) * (view.geometry.stride[axis] * view.ratio[axis])
    ends = starts + window(view, axis, 0)[1]
    common: NDArray[np.float64] = np.minimum(ends, taken[1]) - np.maximum(starts, taken[0])
    return np.maximum(common, 0)
