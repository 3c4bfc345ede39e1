"""One axis of a mosaic: a tensor that stores every distinct cell of all windows once.

Windows `i` begin at pixels `i * stride`. A cell of a window is known by its key: two cells have the same
key exactly if the same op reads cells of the same keys for both, padding included. What is stored along
the axis is a row of keys, in an order that lets the next op run over it as over an image; in between lies
junk, which nobody reads, or which is set to the op's padding value where a window's border must be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.arrange import JUNK, Ints, Reach, arrange, number
from surgery.field import Slide


@dataclass(frozen=True, eq=False)
class Strip:
    """What is stored of a tensor along one axis.

    `keys[i, u]` is the key of cell u of window i, 0 or more; `content[x]` the key stored at place x, or
    JUNK. Every key is stored at least once.
    """

    keys: Ints
    content: Ints

    @classmethod
    def image(cls, windows: int, stride: int, window: int, size: int) -> Strip:
        """The axis of the image itself: a key is a pixel."""
        starts = np.arange(windows, dtype=np.int64) * stride
        return cls(starts[:, None] + np.arange(window), np.arange(size, dtype=np.int64))

    @property
    def windows(self) -> int:
        """How many windows there are."""
        return int(self.keys.shape[0])

    @property
    def cells(self) -> int:
        """Cells of one window."""
        return int(self.keys.shape[1])

    @property
    def length(self) -> int:
        """Cells stored."""
        return int(self.content.size)

    def places(self) -> Ints:
        """Where each key is stored, by key; -1 for a key that is not."""
        top = int(max(self.keys.max(initial=0), self.content.max(initial=0))) + 1
        places = np.full(top, -1, np.int64)
        stored = np.flatnonzero(self.content >= 0)[::-1]
        places[self.content[stored]] = stored
        return places

    @cached_property
    def index(self) -> Ints:
        """Where each window's cells are stored: `[windows, cells]`."""
        found: Ints = self.places()[self.keys]
        return found


@dataclass(frozen=True, eq=False)
class Step:
    """How a windowed op runs along one axis.

    `gather` says which stored places to take first (None: all, as they are); `masked` marks the places
    that must be set to the padding value (None: none); the op then runs with `slide`, whose pads lie at
    the two ends, and gives `out`. `read` counts, for each place of the output, the taps that read cells,
    and `counted` those that lie on cells or declared padding.
    """

    gather: Ints | None
    masked: NDArray[np.bool_] | None
    slide: Slide
    out: Strip
    read: Ints
    counted: Ints


def slide(strip: Strip, op: Slide, reach: Reach) -> Step:
    """Run a windowed op over a strip: as it lies if every window finds its cells there, else rearranged."""
    wanted = _wanted(strip, op)
    in_place = _run(strip, op, wanted)
    if in_place is not None:
        return in_place
    order = arrange(_bordered(strip, op), strip.cells, op, wanted, reach)
    places = strip.places()
    gather = np.where(order >= 0, places[order], 0)
    done = _run(replace(strip, content=order), op, wanted)
    if done is None:
        raise AssertionError("a rearranged strip must hold every window's cells")
    return replace(done, gather=gather)


@dataclass(frozen=True, eq=False)
class Joined:
    """How an op over several tensors, cell by cell, runs along one axis.

    `gathers[i]` says which stored places of input i to take (None: all, as they are).
    """

    gathers: tuple[Ints | None, ...]
    out: Strip


def join(strips: Sequence[Strip]) -> Joined:
    """Bring strips into one order: as they lie if they agree, else in that of one that serves all."""
    if all(s is strips[0] for s in strips):
        return Joined((None,) * len(strips), strips[0])
    rows = np.stack([s.keys.ravel() for s in strips], axis=1)
    if len({s.length for s in strips}) == 1:
        stored = np.stack([s.content for s in strips], axis=1)
        whole = np.where((stored < 0).any(axis=1, keepdims=True), JUNK, stored)
        keys, content = number(rows, whole)
        if _complete(keys, content):
            return Joined((None,) * len(strips), Strip(keys.reshape(strips[0].keys.shape), content))
    keys, _ = number(rows, rows[:1])
    _, first = np.unique(keys, return_index=True)
    for strip in sorted(strips, key=lambda s: -s.length):
        content = _translate(strip, keys)
        if _complete(keys, content):
            break
    else:
        content = np.arange(len(first), dtype=np.int64)
    out = Strip(keys.reshape(strips[0].keys.shape), content)
    cell = first[np.maximum(content, 0)]
    gathers = []
    for s in strips:
        gather = np.where(content >= 0, s.places()[s.keys.ravel()[cell]], 0)
        gathers.append(
            None
            if gather.size == s.length and (gather == np.arange(s.length))[content >= 0].all()
            else gather
        )
    return Joined(tuple(gathers), out)


def _translate(strip: Strip, keys: Ints) -> Ints:
    """What is stored of a strip, in the keys of a join over it."""
    of_key = np.full(int(max(strip.keys.max(), strip.content.max())) + 1, JUNK, np.int64)
    of_key[strip.keys.ravel()[::-1]] = keys[::-1]
    return np.where(strip.content >= 0, of_key[np.maximum(strip.content, 0)], JUNK)


def _complete(keys: Ints, content: Ints) -> bool:
    """Whether every key is stored, of keys that are numbers without a gap."""
    stored = np.zeros(int(keys.max()) + 1, bool)
    stored[content[content >= 0]] = True
    return bool(stored.all())


class Repeats:
    """Runs and joins of strips, each done once, however often a net, its axes or its plans repeat it."""

    def __init__(self) -> None:
        self._strips: dict[Any, Strip] = {}
        self._steps: dict[Any, Step] = {}
        self._joins: dict[Any, Joined] = {}

    def known(self, strip: Strip) -> Strip:
        """The strip, or the one met before that is just like it: what was done over that one holds again."""
        content = (strip.keys.shape, strip.keys.tobytes(), strip.content.tobytes())
        return self._strips.setdefault(content, strip)

    def slide(self, strip: Strip, op: Slide, reach: Reach) -> Step:
        """What `slide` gives for a known strip."""
        key = (id(strip), op, reach)
        if key not in self._steps:
            step = slide(strip, op, reach)
            self._steps[key] = replace(step, out=self.known(step.out))
        return self._steps[key]

    def join(self, strips: Sequence[Strip]) -> Joined:
        """What `join` gives for known strips."""
        key = tuple(id(s) for s in strips)
        if key not in self._joins:
            joined = join(strips)
            self._joins[key] = replace(joined, out=self.known(joined.out))
        return self._joins[key]


# ------------------------------------------------------------------ running an op over what is stored


def _bordered(strip: Strip, op: Slide) -> Ints:
    """Each window's keys between its padding: `[windows, before + cells + after]`, ceil's overhang too."""
    out = int(op.lengths(np.array([strip.cells]))[0])
    need = (out - 1) * op.stride + op.extent - op.before - strip.cells
    sides = ((0, 0), (op.before, max(need, 0)))
    return np.pad(strip.keys, sides, constant_values=JUNK)


def _wanted(strip: Strip, op: Slide) -> Ints:
    """The keys every output of every window reads: `[windows, outputs, taps]`."""
    out = int(op.lengths(np.array([strip.cells]))[0])
    reads = np.arange(out)[:, None] * op.stride + np.arange(op.kernel) * op.dilation
    wanted: Ints = _bordered(strip, op)[:, reads]
    return wanted


def _run(strip: Strip, op: Slide, wanted: Ints) -> Step | None:
    """The op over what is stored, in its order; None where some output of some window does not come out."""
    windows, outs, taps = wanted.shape
    overhang = max(0, (outs - 1) * op.stride + op.extent - op.before - strip.cells)
    run = replace(op, after=overhang, ceil=False)
    room = strip.length + run.before + run.after - run.extent
    if room < 0:
        return None
    starts = np.arange(room // run.stride + 1) * run.stride - run.before
    reads = starts[:, None] + np.arange(taps) * run.dilation
    inside = (reads >= 0) & (reads < strip.length)
    clipped = np.clip(reads, 0, strip.length - 1)
    seen = np.where(inside, strip.content[clipped], JUNK)
    keys, found = number(wanted.reshape(-1, taps), seen)
    if not _complete(keys, found):
        return None
    junk = strip.content < 0
    used = (inside & junk[clipped])[found >= 0]
    counted = np.zeros(int(keys.max()) + 1, np.int64)
    counted[keys.reshape(windows, outs)] = _counted(strip, op, outs)
    return Step(
        None,
        junk if used.any() else None,
        run,
        Strip(keys.reshape(windows, outs), found),
        np.sum(seen >= 0, axis=1),
        np.where(found >= 0, counted[found], taps),
    )


def _counted(strip: Strip, op: Slide, outs: int) -> Ints:
    """How many taps of each output of a window lie on its cells or on declared padding, not beyond it."""
    reads = np.arange(outs)[:, None] * op.stride - op.before + np.arange(op.kernel) * op.dilation
    counted: Ints = np.sum(reads < strip.cells + op.after, axis=1)
    return counted
