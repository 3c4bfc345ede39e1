"""The exact engine's plan: which ops run over a mosaic, how each axis is laid out, and where windows part.

Every distinct cell of all windows is computed once (see surgery.mosaic). From the cut on, where margins
leave little to share or an op takes a window as a whole, the windows are a batch, and the rest of the
original graph runs on it unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from surgery.ahead import NONE, Ahead
from surgery.arrange import Ints
from surgery.cost import Costs
from surgery.field import Slide
from surgery.geometry import Trunk
from surgery.graph import Op
from surgery.mosaic import Repeats, Step, Strip
from surgery.ops.pointwise import BINARY

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
    strips: Strips,
    costs: Costs,
    repeats: Repeats,
    policy: str = POLICIES[0],
) -> Plan:
    """Lay out every op from the image on, up to the first that has no mosaic.

    `strips` are the image's axes, known to `repeats`. `policy` says when room is left for the ops to come:
    "tight" never, "weighed" where it costs less than the gathers it spares.
    """
    planner = _Planner(trunk, Ahead(ops, trunk, costs), ops, repeats, policy)
    known: dict[str, Strips] = {image: strips}
    planned: list[Planned] = []
    for op in ops:
        maps = [n for n in op.inputs if n in trunk.maps]
        if op.outputs[0] in op.facts.values or not maps:
            continue
        beside = [n for n in op.inputs if n and n not in trunk.maps and n not in op.facts.values]
        others = [n for n in op.outputs if n not in trunk.maps and planner.wants(n)]
        if beside or others or op.outputs[0] not in trunk.maps or any(n not in known for n in maps):
            break
        done = planner.place(op, maps, known)
        if done is None:
            break
        planned.append(done)
        known.update({name: done.strips for name in op.outputs if name})
    return Plan(tuple(s.windows for s in strips), strips, tuple(planned))


def area(steps: Sequence[Step]) -> int:
    """Cells stored of what comes out."""
    return prod(s.out.length for s in steps)


class _Planner:
    def __init__(self, trunk: Trunk, ahead: Ahead, ops: Sequence[Op], repeats: Repeats, policy: str) -> None:
        self.policy = policy
        self.repeats = repeats
        self.maps = trunk.maps
        self.ahead = ahead
        self.read = {name for op in ops for name in op.inputs}
        self.outputs = ops[0].facts.outputs if ops else ()

    def wants(self, name: str) -> bool:
        """Whether an output is read at all."""
        return name in self.read or name in self.outputs

    def place(self, op: Op, maps: list[str], known: dict[str, Strips]) -> Planned | None:
        """The op over the mosaic, or None where it has none."""
        slides = self.ahead.slides[self.ahead.number[id(op)]]
        if slides:
            steps = self._window(op, slides, known[op.inputs[0]])
            return Planned(op, tuple(s.out for s in steps), steps=steps)
        ins, out = [self.maps[n] for n in maps], self.maps[op.outputs[0]]
        if len(maps) == 1 and out.geometry is ins[0].geometry:
            return Planned(op, known[maps[0]])
        if op.kind in (*BINARY, "Concat") and all(m.cells == out.cells for m in ins):
            joined = [self.repeats.join([known[n][k] for n in maps]) for k in range(len(out.axes))]
            gathers = tuple(tuple(j.gathers[i] for j in joined) for i in range(len(maps)))
            return Planned(op, tuple(j.out for j in joined), gathers=gathers)
        return None

    def _window(self, op: Op, slides: tuple[Slide, ...], strips: Strips) -> tuple[Step, ...]:
        """Steps along all axes, in one of three orders of what the op reads.

        Just what it needs; with room for an op right behind it that skips cells; or, where the policy
        says so, with room for all ops up to the next that skips cells. Room costs work on cells that
        nobody reads, and spares gathers.
        """
        ahead = self.ahead
        bare = self._steps(op, slides, strips)
        if all(step.gather is None for step in bare):
            return bare
        behind = ahead.behind(op)
        fitted = self._steps(op, slides, strips, exits=behind.soon)
        work = float(ahead.work[ahead.number[id(op)]])
        moved = float(ahead.moves[behind.soon[:1]].sum())
        tight = bare if area(bare) * (work + moved) < area(fitted) * work else fitted
        if self.policy == "tight":
            return tight
        roomy = self._steps(op, slides, strips, behind.inside, behind.exits)
        more = (area(roomy) - area(tight)) * (work + float(ahead.work[behind.inside].sum()))
        return roomy if more < area(tight) * float(ahead.moves[behind.inside].sum()) else tight

    def _steps(
        self, op: Op, slides: tuple[Slide, ...], strips: Strips, inside: Ints = NONE, exits: Ints = NONE
    ) -> tuple[Step, ...]:
        """Steps along all axes with room for these ops behind this one."""
        sides = enumerate(zip(strips, slides, strict=True))
        return tuple(
            self.repeats.slide(s, way, self.ahead.reach(op, k, inside, exits)) for k, (s, way) in sides
        )
