"""Where the windows should part: what every cut of a plan would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from surgery.cost import Costs
from surgery.exact import Plan, Planned, Strips
from surgery.geometry import Trunk
from surgery.graph import Op
from surgery.parting import lie_in_one
from surgery.rules import Map
from surgery.shapes import Facts

NET = 0.05  # the share of a net's cost, or
PART = 0.2  # of the cost of what is done in another way, that must be spared for an estimate to be trusted


@dataclass(frozen=True)
class Cut:
    """What a net costs in seconds: the ops over the mosaic with the parting, and those behind as a batch."""

    before: float
    behind: float

    @property
    def total(self) -> float:
        """The cost of the whole net."""
        return self.before + self.behind

    def beats(self, plain: Cut) -> bool:
        """Whether it spares enough to be trusted, of the whole net or of what it does in another way."""
        spared = plain.total - self.total
        return spared > NET * plain.total or spared > PART * (plain.total - self.behind)


def cheapest(cuts: Sequence[Cut]) -> int:
    """The cut of least cost among those to be trusted; none at all, the first, always is."""
    trusted = [k for k, cut in enumerate(cuts) if k == 0 or cut.beats(cuts[0])]
    return min(trusted, key=lambda k: cuts[k].total)


def costs_of_cuts(full: Plan, ops: Sequence[Op], trunk: Trunk, facts: Facts, costs: Costs) -> list[Cut]:
    """The cost of the whole net with the first k planned ops over the mosaic, for every k.

    With none of them it is a batch of windows from the image on.
    """
    windows = prod(full.grid)
    moving = [op for op in ops if op.outputs[0] not in facts.values]
    single = {id(op): costs.op(op) for op in moving}
    later = sum(single.values()) * windows
    strips = {facts.image: full.image, **full.strips()}
    parting = {n: _parting(trunk.maps[n], strips[n], windows, costs) for n in strips}
    users: dict[str, int] = {}
    for op in moving:
        for name in op.inputs:
            users[name] = users.get(name, 0) + 1
    before, crossing = 0.0, {facts.image}
    cuts = [Cut(parting[facts.image], later)]
    for planned in full.planned:
        cost = single[id(planned.op)]
        later -= cost * windows
        before += _over_mosaic(planned, cost, trunk, costs)
        crossing.update(n for n in planned.op.outputs if n)
        for name in planned.op.inputs:
            if name in users:
                users[name] -= 1
                if users[name] == 0:
                    crossing.discard(name)
        cuts.append(Cut(before + sum(parting[n] for n in crossing), later))
    return cuts


def _parting(m: Map, strips: Strips, windows: int, costs: Costs) -> float:
    """What it costs to make a batch of windows: copies or gathers, whichever it will be."""
    values = windows * prod(m.shape[1:])
    return costs.copying(values) if lie_in_one(m, [s.index for s in strips]) else costs.parting(values)


def _over_mosaic(planned: Planned, single: float, trunk: Trunk, costs: Costs) -> float:
    """What one op costs over the mosaic: its own work over all that is stored, and its gathers and masks."""
    m = trunk.maps[planned.op.outputs[0]]
    cost = single * prod(s.length for s in planned.strips) / prod(m.cells)
    for i, name in enumerate(dict.fromkeys(n for n in planned.op.inputs if n in trunk.maps)):
        x = trunk.maps[name]
        channels = prod(x.shape[d] for d in x.channel_dims)
        if planned.steps:
            sides = [_read(s.gather, s.out.length * s.slide.stride) for s in planned.steps]
            ways = [s.gather for s in planned.steps]
            masked = any(s.masked is not None for s in planned.steps)
        else:
            sides = [s.length for s in planned.strips]
            ways = list(planned.gathers[i]) if planned.gathers else []
            masked = False
        size = channels * prod(sides)
        cost += costs.moving(size) * (masked or any(way is not None for way in ways))
        cost += costs.masking(size) * masked
    return cost


def _read(gather: Any, stored: int) -> int:
    return stored if gather is None else int(gather.size)
