"""An order of cells along one axis over which an op, and those behind it, run without another gather."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgery.field import Slide

Ints = NDArray[np.int64]

JUNK = -1
LARGEST = 2**62  # numbers that are not to overflow


@dataclass(frozen=True)
class Reach:
    """How far the ops behind this one look, up to the next one that skips cells.

    `margin` is the widest margin, in cells at the start and end, that one of their tensors has; `grow`
    how much wider that is than the margin of this op's own output; `pad` the widest padding that one of
    them reads; `align` the stride of the op that skips.
    """

    margin: tuple[int, int]
    grow: tuple[int, int] = (0, 0)
    pad: int = 0
    align: int = 1


def number(wanted: Ints, seen: Ints) -> tuple[Ints, Ints]:
    """Number the distinct rows of `wanted` from 0; the numbers of its rows, and of the rows of `seen`.

    A row of `seen` that is none of `wanted` is JUNK.
    """
    codes = np.concatenate([wanted, seen]) + 1
    numbers, top = codes[:, 0], int(codes[:, 0].max(initial=0)) + 1
    for t in range(1, codes.shape[1]):
        base = int(codes[:, t].max(initial=0)) + 1
        if top * base > LARGEST:
            numbers = np.unique(numbers, return_inverse=True)[1].astype(np.int64)
            top = len(codes)
        numbers, top = numbers * base + codes[:, t], top * base
    count = len(wanted)
    known, keys = np.unique(numbers[:count], return_inverse=True)
    at = np.minimum(np.searchsorted(known, numbers[count:]), len(known) - 1)
    return keys.astype(np.int64), np.where(known[at] == numbers[count:], at, JUNK).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Run:
    """A row of cells that a window reads one after another.

    `start` is the place of the first one in its window; `opens` and `closes` say that the row begins, or
    ends, with a window's border.
    """

    cells: Ints
    start: int
    opens: bool
    closes: bool

    def real(self) -> tuple[int, int]:
        """Where the cells begin and end that are no padding at an end of the row."""
        is_cell = self.cells >= 0
        if not is_cell.any():
            return len(is_cell), len(is_cell)
        return int(is_cell.argmax()), len(is_cell) - int(is_cell[::-1].argmax())


def arrange(bordered: Ints, cells: int, op: Slide, wanted: Ints, reach: Reach) -> Ints:
    """An order of keys over which the op, and those within its reach, run without another gather.

    `bordered` is each window's `cells` keys between its padding: `[windows, before + cells + after]`;
    `wanted` the keys that every output of every window reads: `[windows, outputs, taps]`.
    Cells that no border reaches lie in one row, as in an image, with the first window's start before and
    the last one's end behind them. Every other window's end is followed by the next one's start: they
    share the padding between them.
    """
    outs = wanted.shape[1]
    a, b = (min(m, outs) for m in reach.margin)
    if a + b >= outs:
        runs = [_Run(row, -op.before, True, True) for row in bordered]
    else:
        keys, _ = number(wanted.reshape(-1, wanted.shape[2]), wanted[0, :1])
        runs = _shared_runs(keys.reshape(wanted.shape[:2]), op, a, b, bordered, reach)
    align = op.stride if op.stride > 1 else reach.align
    ends = (op.before, bordered.shape[1] - cells - op.before)
    return _row(runs, align, max(reach.pad, *ends), ends)


def _shared_runs(keys: Ints, op: Slide, a: int, b: int, bordered: Ints, reach: Reach) -> list[_Run]:
    """The rows of shared cells, each with a window's start and end, and the starts and ends left over."""
    windows, outs = keys.shape
    chains = _chains(keys[:, a : outs - b])
    runs = []
    for chain in chains:
        first, last = chain[0][0], chain[-1][0]
        nodes = [(first, v) for v in range(a)] + [(i, a + v) for i, v in chain]
        nodes += [(last, v) for v in range(outs - b, outs)]
        runs.append(_from_nodes(np.array(nodes), op, bordered))
    opened = {chain[0][0] for chain in chains}
    closed = {chain[-1][0] for chain in chains}
    reach_in, reach_out = reach.grow if op.stride == 1 else (0, 0)
    for i in range(-1, windows):
        if b and i >= 0 and i not in closed:
            first_read = max((outs - b) * op.stride - reach_out, 0)
            runs.append(_Run(bordered[i, first_read:], first_read - op.before, first_read == 0, True))
        if a and i + 1 < windows and i + 1 not in opened:
            last_read = (a - 1) * op.stride + op.extent + reach_in
            row = bordered[i + 1, :last_read]
            runs.append(_Run(row, -op.before, True, last_read >= bordered.shape[1]))
    return runs


def _chains(keys: Ints) -> list[list[tuple[int, int]]]:
    """The distinct keys of all windows in rows of (window, place) in which each follows the last.

    A window whose first key is known goes on with the row that holds it; any other begins a new one.
    """
    row_of = np.full(int(keys.max()) + 1, -1, np.int64)
    chains: list[list[tuple[int, int]]] = []
    for i, row in enumerate(keys):
        chain = int(row_of[row[0]])
        if chain < 0:
            chain = len(chains)
            chains.append([])
        new = np.flatnonzero(row_of[row] < 0)
        row_of[row[new]] = chain
        chains[chain] += [(i, int(v)) for v in new]
    return chains


def _from_nodes(nodes: Ints, op: Slide, bordered: Ints) -> _Run:
    """The cells that a row of outputs (window, output) reads, each `stride` cells on from the last."""
    windows, outputs = nodes.T
    cells = np.full((len(nodes) - 1) * op.stride + op.extent, JUNK, np.int64)
    steps = np.arange(len(nodes)) * op.stride
    for e in range(op.extent):
        cells[steps + e] = bordered[windows, outputs * op.stride + e]
    return _Run(cells, int(outputs[0]) * op.stride - op.before, True, True)


def _row(runs: list[_Run], align: int, pad: int, ends: tuple[int, int]) -> Ints:
    """The runs one behind the other, every window's start on a multiple of `align`.

    Neighbours share the padding between them, `pad` of it where a window's border is; `ends` is how much
    the op itself puts before the first run and behind the last.
    """
    parts: list[Ints] = []
    length, behind = 0, 0
    for n, run in enumerate(runs):
        first, end = run.real()
        border = pad if n and (run.opens or runs[n - 1].closes) else 0
        gap = max(first, behind, border) if n else max(0, first - ends[0])
        gap += (run.start + first - length - gap) % align
        parts += [np.full(gap, JUNK, np.int64), run.cells[first:end]]
        length, behind = length + gap + end - first, len(run.cells) - end
    parts.append(np.full(max(0, behind - ends[1]), JUNK, np.int64))
    return np.concatenate(parts)
