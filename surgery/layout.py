"""How the exact engine would do an image size: the plan, its cut, its cost and its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from surgery import exact
from surgery.cost import Costs
from surgery.cut import costs_of_cuts
from surgery.errors import BadInput, Refused
from surgery.geometry import Trunk
from surgery.graph import Op
from surgery.head import Geometry, Head
from surgery.memory import peak
from surgery.mosaic import Strip
from surgery.report.layout import by
from surgery.shapes import Facts

HALVINGS = 7
TRUST = 0.95


@dataclass(frozen=True, eq=False)
class Layout:
    """How the exact engine would do an image size.

    `geometry` is that of the windows on this grid; `cut` says how many of `candidates` ops run over the
    mosaic; `gain` is the expected cost of a batch of all windows over that of the plan; `memory` the
    estimated peak of activations in bytes.
    """

    plan: exact.Plan
    geometry: Geometry
    size: tuple[int, ...]
    candidates: int
    gain: float
    memory: int

    @property
    def cut(self) -> str:
        """The last op that runs over the mosaic, in words."""
        if not self.plan.planned:
            return "none: all windows are a batch from the image on"
        op = self.plan.planned[-1].op
        return f"{op.kind} {op.name!r}, op {len(self.plan.planned)} of {self.candidates} that could"


def lay_out(
    ops: Sequence[Op],
    trunk: Trunk,
    facts: Facts,
    head: Head,
    size: Sequence[int],
    stride: Sequence[int] | None,
    cut: int | None = None,
) -> Layout:
    """Plan the mosaic of an image of this size (pixels per axis), windows `stride` pixels apart.

    `cut` is how many of the ops that could run over the mosaic do; by default as many as cost least.
    Raises BadInput where the size holds no window, or an explicit stride leaves no second one.
    """
    geometry = head.geometry.refined(stride or head.own_stride)
    check_request(geometry, size, stride)
    grid = geometry.grid(size)
    made: dict[Any, Strip] = {}
    for key in zip(grid, geometry.stride, geometry.window, size, strict=True):
        made.setdefault(key, Strip.image(*key))
    strips = tuple(made[key] for key in zip(grid, geometry.stride, geometry.window, size, strict=True))
    costs = Costs()
    ways = []
    for policy in exact.POLICIES:
        full = exact.plan(ops, trunk, facts.image, grid, strips, costs, policy)
        totals = costs_of_cuts(full, ops, trunk, facts, costs)
        count = cheapest(totals) if cut is None else cut
        ways.append((totals[count], policy, count, full, totals[0]))
    cost, policy, count, full, plain = min(ways, key=lambda way: way[0])
    kept = [p.op for p in full.planned[:count]]
    plan = exact.plan(kept, trunk, facts.image, grid, strips, costs, policy)
    memory = peak(plan, ops, trunk, facts)
    return Layout(plan, geometry, tuple(size), len(full.planned), plain / cost, memory)


def cheapest(totals: Sequence[float]) -> int:
    """The cut of least cost; none at all where that spares less than the estimate can be trusted."""
    best = min(range(len(totals)), key=totals.__getitem__)
    return best if totals[best] < TRUST * totals[0] else 0


def check_request(geometry: Geometry, size: Sequence[int], stride: Sequence[int] | None) -> None:
    """Raise BadInput where no window fits, or where a stride was asked for and no second window fits."""
    sides, window = by(size), by(geometry.window)
    if len(size) != len(geometry.window):
        raise BadInput(f"--size {sides} has {len(size)} sides, the window is {window}.")
    if any(n < w for n, w in zip(size, geometry.window, strict=True)):
        raise BadInput(
            f"--size {sides} is smaller than the window {window}: no window fits. Give a larger size."
        )
    if stride is not None and prod(geometry.grid(size)) == 1 and tuple(size) != geometry.window:
        raise BadInput(
            f"--stride {by(geometry.stride)} leaves no second window of {window} in {sides}. Give a larger "
            "--size, or a smaller --stride."
        )


def check_memory(layout: Layout, limit: int, smaller: Callable[[tuple[int, ...]], Layout]) -> None:
    """Raise Refused where the plan needs more than `limit` bytes, with the largest size that fits.

    `smaller` lays out another size.
    """
    if layout.memory <= limit:
        return
    best = largest(layout, limit, smaller)
    fits = f"the largest size of this shape that fits is {by(best)}" if best else "not even one window fits"
    need, room = layout.memory / 2**20, limit / 2**20
    why = f"its activations would take about {need:,.0f} MiB, the limit is {room:,.0f} MiB"
    raise Refused(
        f"--exact at {by(layout.size)}: {why}; {fits}. Make a model for that size and tile the image, or "
        "raise --max-memory.",
        why=why,
    )


def largest(
    layout: Layout, limit: int, smaller: Callable[[tuple[int, ...]], Layout]
) -> tuple[int, ...] | None:
    """The largest size between the window and the size asked for whose plan fits, by halving."""
    low, high, best = 0.0, 1.0, None
    for _ in range(HALVINGS):
        share = (low + high) / 2
        sides = tuple(
            int(w + share * (n - w)) for w, n in zip(layout.geometry.window, layout.size, strict=True)
        )
        if smaller(sides).memory <= limit:
            best, low = sides, share
        else:
            high = share
    return best


def notes(layout: Layout) -> list[str]:
    """The plan in words, for the report."""
    return [
        f"mosaic up to {layout.cut}",
        f"expected {layout.gain:.2f} times as fast as all {prod(layout.plan.grid)} windows in one batch",
        f"estimated peak of activations {layout.memory / 2**20:,.0f} MiB",
    ]
