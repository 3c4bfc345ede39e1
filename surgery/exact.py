"""The exact engine's plan: which ops run over a mosaic, how each axis is laid out, and where windows part.

Every distinct cell of all windows is computed once (see surgery.mosaic). From the cut on, where margins
leave little to share or an op takes a window as a whole, the windows are a batch, and the rest of the
original graph runs on it unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from surgery.cost import Costs
from surgery.field import Slide
from surgery.geometry import Trunk
from surgery.graph import Op
from surgery.mosaic import Ints, Reach, Step, Strip, join, slide
from surgery.ops.pad import pads_of
from surgery.ops.pointwise import BINARY
from surgery.ops.window import WINDOWED, statement
from surgery.rules import Map

Strips = tuple[Strip, ...]
POLICIES = ("weighed", "tight")


@dataclass(frozen=True, eq=False)
class Planned:
    """One op of the trunk over the mosaic.

    `steps` is how a windowed op runs along each axis; `gathers`, for each input of a join that is a map,
    which stored places to take along each axis (None: all as they are). `strips` is what comes out.
    """

    op: Op
    strips: Strips
    steps: tuple[Step, ...] = ()
    gathers: tuple[tuple[Ints | None, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """The ops that run over the mosaic, and the grid of windows (rows x cols)."""

    grid: tuple[int, ...]
    image: Strips
    planned: tuple[Planned, ...]

    def strips(self) -> dict[str, Strips]:
        """What is stored of each tensor of the mosaic, by name."""
        return {name: p.strips for p in self.planned for name in p.op.outputs if name}


def plan(
    ops: Sequence[Op],
    trunk: Trunk,
    image: str,
    grid: tuple[int, ...],
    strips: Strips,
    costs: Costs,
    policy: str = POLICIES[0],
) -> Plan:
    """Lay out every op from the image on, up to the first that has no mosaic.

    `policy` says when room is left for the ops to come: "tight" never, "weighed" where it costs less
    than the gathers it spares.
    """
    planner = _Planner(trunk, costs, ops, policy)
    known: dict[str, Strips] = {image: strips}
    planned: list[Planned] = []
    for op in ops:
        maps = [n for n in op.inputs if n in trunk.maps]
        if op.outputs[0] in op.facts.values or not maps:
            continue
        others = [n for n in op.outputs if n not in trunk.maps and planner.wants(n)]
        if others or op.outputs[0] not in trunk.maps or any(n not in known for n in maps):
            break
        done = planner.place(op, maps, known)
        if done is None:
            break
        planned.append(done)
        known.update({name: done.strips for name in op.outputs if name})
    return Plan(grid, strips, tuple(planned))


def slides_of(op: Op, m: Map) -> tuple[Slide, ...] | None:
    """How a windowed op slides along each axis of the map it reads; None for an op that does not.

    A Pad of constants is a window of one cell, with padding.
    """
    if op.kind in WINDOWED and not op.domain:
        slides = statement(op).slides
        return tuple(slides[d - 2] for d in m.axes)
    if op.kind != "Pad" or (op.attr("mode") or "constant") != "constant":
        return None
    pads = pads_of(op)
    if any(min(p) < 0 or (any(p) and d not in m.axes) for d, p in enumerate(pads)):
        return None
    return tuple(Slide(1, before=pads[d][0], after=pads[d][1]) for d in m.axes)


def area(steps: Sequence[Step]) -> int:
    """Cells stored of what comes out."""
    return prod(s.out.length for s in steps)


def _widest(margins: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(m[0] for m in margins), max(m[1] for m in margins)


class _Planner:
    def __init__(self, trunk: Trunk, costs: Costs, ops: Sequence[Op], policy: str) -> None:
        self.policy = policy
        self.maps = trunk.maps
        self.costs = costs
        self.users: dict[str, list[Op]] = {}
        for op in ops:
            for name in op.inputs:
                self.users.setdefault(name, []).append(op)
        self.outputs = ops[0].facts.outputs if ops else ()
        self.memo: dict[Any, Step] = {}

    def wants(self, name: str) -> bool:
        """Whether an output is read at all."""
        return bool(self.users.get(name)) or name in self.outputs

    def place(self, op: Op, maps: list[str], known: dict[str, Strips]) -> Planned | None:
        """The op over the mosaic, or None where it has none."""
        if self._slides(op):
            steps = self._window(op, known[op.inputs[0]])
            return Planned(op, tuple(s.out for s in steps), steps=steps)
        ins, out = [self.maps[n] for n in maps], self.maps[op.outputs[0]]
        if len(maps) == 1 and out.geometry is ins[0].geometry:
            return Planned(op, known[maps[0]])
        if op.kind in (*BINARY, "Concat") and all(m.cells == out.cells for m in ins):
            joined = [join([known[n][k] for n in maps]) for k in range(len(out.axes))]
            gathers = tuple(tuple(j.gathers[i] for j in joined) for i in range(len(maps)))
            return Planned(op, tuple(j.out for j in joined), gathers=gathers)
        return None

    def _window(self, op: Op, strips: Strips) -> tuple[Step, ...]:
        """Steps along all axes, in one of three orders of what the op reads.

        Just what it needs; with room for an op right behind it that skips cells; or, where the policy
        says so, with room for all ops up to the next that skips cells. Room costs work on cells that
        nobody reads, and spares gathers.
        """
        after = [o for o in self._next_windows(op) if self._skips(o)]
        inside, exits = self._reachable(op)
        bare, fitted, roomy = (
            self._run(op, strips, *way) for way in (([], []), ([], after), (inside, exits))
        )
        if all(step.gather is None for step in bare):
            return bare
        work, moved = self.costs.stage_compute(op, []), self.costs.stage_gathers(after[:1])
        tight = bare if area(bare) * (work + moved) < area(fitted) * work else fitted
        if self.policy == "tight":
            return tight
        more = (area(roomy) - area(tight)) * self.costs.stage_compute(op, inside)
        return roomy if more < area(tight) * self.costs.stage_gathers(inside) else tight

    def _run(self, op: Op, strips: Strips, inside: Sequence[Op], exits: Sequence[Op]) -> tuple[Step, ...]:
        """Steps along all axes with room for these ops behind this one."""
        out = self.maps[op.outputs[0]]
        steps = []
        for k, (strip, way) in enumerate(zip(strips, self._slides(op), strict=True)):
            steps.append(self._slide(strip, way, self._reach(out, k, inside, exits)))
        return tuple(steps)

    def _slides(self, op: Op) -> tuple[Slide, ...]:
        """The windowed op's slides along each axis; none for any other op."""
        m = self.maps.get(op.inputs[0])
        return (slides_of(op, m) or ()) if m is not None else ()

    def _slide(self, strip: Strip, op: Any, reach: Reach) -> Step:
        key = (id(strip), op, reach)
        if key not in self.memo:
            self.memo[key] = slide(strip, op, reach)
        return self.memo[key]

    def _reach(self, out: Map, k: int, inside: Sequence[Op], exits: Sequence[Op]) -> Reach:
        axis = out.geometry[k]
        others = [self.maps[o.outputs[0]].geometry[k] for o in inside]
        margins = [axis.margin, *(a.margin for a in others if a.cells == axis.cells)]
        margin = _widest(margins)
        grow = (margin[0] - axis.margin[0], margin[1] - axis.margin[1])
        margin = _widest([margin, *(self._read_by(o, k, axis.cells) for o in exits)])
        slides = [self._slides(o)[k] for o in inside if self._slides(o)]
        pad = max([max(s.before, s.after) for s in slides], default=0)
        strides = [self._slides(o)[k].stride for o in exits]
        return Reach(margin, grow, pad, max(strides, default=1))

    def _read_by(self, op: Op, k: int, cells: int) -> tuple[int, int]:
        """How many cells at the start and end the soiled outputs of an op read."""
        out = self.maps[op.outputs[0]]
        slide, axis = self._slides(op)[k], out.geometry[k]
        a, b = axis.margin
        first = (a - 1) * slide.stride + slide.extent - slide.before if a else 0
        last = cells - ((axis.cells - b) * slide.stride - slide.before) if b else 0
        return min(max(first, 0), cells), min(max(last, 0), cells)

    def _next_windows(self, op: Op) -> list[Op]:
        """The windowed ops that read what this one gives, through ops that move nothing."""
        found: dict[int, Op] = {}
        queue = [op]
        while queue:
            for user in [u for n in queue.pop().outputs for u in self.users.get(n, [])]:
                if user.outputs[0] in self.maps and self._slides(user):
                    found[id(user)] = user
                elif user.outputs[0] in self.maps:
                    queue.append(user)
        return list(found.values())

    def _skips(self, op: Op) -> bool:
        return any(s.stride > 1 for s in self._slides(op))

    def _reachable(self, op: Op) -> tuple[list[Op], list[Op]]:
        key = ("reach", id(op))
        if key not in self.memo:
            inside: dict[int, Op] = {}
            exits: dict[int, Op] = {}
            queue = [op]
            while queue:
                for user in [u for n in queue.pop().outputs for u in self.users.get(n, [])]:
                    if user.outputs[0] not in self.maps or id(user) in inside:
                        continue
                    if self._skips(user):
                        exits[id(user)] = user
                    else:
                        inside[id(user)] = user
                        queue.append(user)
            self.memo[key] = (list(inside.values()), list(exits.values()))  # type: ignore[assignment]
        return self.memo[key]  # type: ignore[return-value]
