"""What lies behind each op of a trunk up to the next that skip cells: how far it looks, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surgery.arrange import Ints, Reach
from surgery.cost import Costs
from surgery.field import Slide
from surgery.geometry import Trunk
from surgery.graph import Op
from surgery.ops.pad import pads_of
from surgery.ops.window import WINDOWED, statement
from surgery.rules import Map

NONE = np.zeros(0, np.int64)


def slides_of(op: Op, m: Map) -> tuple[Slide, ...]:
    """How a windowed op slides along each axis of the map it reads; none for an op that does not.

    A Pad of constants is a window of one cell, with padding.
    """
    if op.kind in WINDOWED and not op.domain:
        slides = statement(op).slides
        return tuple(slides[d - 2] for d in m.axes)
    if op.kind != "Pad" or (op.attr("mode") or "constant") != "constant":
        return ()
    pads = pads_of(op)
    if any(min(p) < 0 or (any(p) and d not in m.axes) for d, p in enumerate(pads)):
        return ()
    return tuple(Slide(1, before=pads[d][0], after=pads[d][1]) for d in m.axes)


@dataclass(frozen=True, eq=False)
class Behind:
    """Ops behind an op, by number: those up to the next that skip cells, and these.

    `soon` are those of the latter that nothing but ops that move no cell lies before.
    """

    inside: Ints
    exits: Ints
    soon: Ints


class Ahead:
    """Looks ahead from the ops of a trunk that make maps, numbered in their order."""

    def __init__(self, ops: Sequence[Op], trunk: Trunk, costs: Costs) -> None:
        maps = trunk.maps
        self.ops = [o for o in ops if o.outputs[0] in maps and any(n in maps for n in o.inputs)]
        self.number = {id(op): i for i, op in enumerate(self.ops)}
        self.slides = [slides_of(op, maps[op.inputs[0]]) if op.inputs[0] in maps else () for op in self.ops]
        axes = [maps[op.outputs[0]].geometry for op in self.ops]
        sides = range(len(axes[0]) if axes else 0)
        self.cells = [np.array([a[k].cells for a in axes]) for k in sides]
        self.margins = [np.array([a[k].margin for a in axes]) for k in sides]
        self.pads = [np.array([max(s[k].before, s[k].after) if s else 0 for s in self.slides]) for k in sides]
        self.work = np.array([costs.stage_compute(op, []) for op in self.ops])
        self.moves = np.array([costs.stage_gathers([op]) for op in self.ops])
        self._sets = self._behind()

    def skips(self, i: int) -> bool:
        """Whether an op skips cells."""
        return any(s.stride > 1 for s in self.slides[i])

    def behind(self, op: Op) -> Behind:
        """What lies behind an op."""
        return Behind(*(self._members(s) for s in self._sets[self.number[id(op)]]))

    def reach(self, op: Op, k: int, inside: Ints = NONE, exits: Ints = NONE) -> Reach:
        """How far these ops behind an op look along an axis, in cells of its output."""
        i = self.number[id(op)]
        cells, own = int(self.cells[k][i]), self.margins[k][i]
        alike = inside[self.cells[k][inside] == cells]
        widest = np.maximum(own, self.margins[k][alike].max(0, initial=0))
        reads = np.array([self._read_by(e, k, cells) for e in exits.tolist()]).reshape(-1, 2)
        margin = np.maximum(widest, reads.max(0, initial=0))
        return Reach(
            (int(margin[0]), int(margin[1])),
            (int(widest[0] - own[0]), int(widest[1] - own[1])),
            int(self.pads[k][inside].max(initial=0)),
            max((self.slides[e][k].stride for e in exits.tolist()), default=1),
        )

    def _read_by(self, i: int, k: int, cells: int) -> tuple[int, int]:
        """How many cells at the start and end the soiled outputs of an op read."""
        slide, outs = self.slides[i][k], int(self.cells[k][i])
        a, b = self.margins[k][i].tolist()
        first = (a - 1) * slide.stride + slide.extent - slide.before if a else 0
        last = cells - ((outs - b) * slide.stride - slide.before) if b else 0
        return min(max(first, 0), cells), min(max(last, 0), cells)

    def _behind(self) -> list[tuple[int, int, int]]:
        """For each op, as sets of bits: the ops inside its reach, its exits, and the exits that come soon."""
        readers: dict[str, list[int]] = {}
        for i, op in enumerate(self.ops):
            for name in dict.fromkeys(op.inputs):
                readers.setdefault(name, []).append(i)
        found = [(0, 0, 0)] * len(self.ops)
        for i in reversed(range(len(self.ops))):
            inside = exits = soon = 0
            for user in {u for name in self.ops[i].outputs if name for u in readers.get(name, [])}:
                bit = 1 << user
                if self.skips(user):
                    exits, soon = exits | bit, soon | bit
                    continue
                further, ends, next_ends = found[user]
                inside, exits = inside | bit | further, exits | ends
                if not self.slides[user]:
                    soon |= next_ends
            found[i] = inside, exits, soon
        return found

    def _members(self, bits: int) -> Ints:
        data = np.frombuffer(bits.to_bytes(len(self.ops) // 8 + 1, "little"), np.uint8)
        return np.flatnonzero(np.unpackbits(data, bitorder="little")).astype(np.int64)
