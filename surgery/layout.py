"""How the exact engine would do an image size: the plan, its cut, its cost and its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from surgery import exact
from surgery.cost import Costs
from surgery.cut import cheapest, costs_of_cuts
from surgery.errors import BadInput, Refused
from surgery.geometry import Trunk
from surgery.graph import Op
from surgery.head import Geometry, Head
from surgery.mosaic import Repeats, Strip
from surgery.report.layout import by
from surgery.shapes import Facts


@dataclass(frozen=True, eq=False)
class Layout:
    """How the exact engine would do an image size.

    `geometry` is that of the windows on this grid; `cut` says how many of `candidates` ops run over the
    mosaic; `gain` is the expected cost of a batch of all windows over that of the plan.
    """

    plan: exact.Plan
    geometry: Geometry
    size: tuple[int, ...]
    candidates: int
    gain: float

    @property
    def parting(self) -> str:
        """Where the windows part, in words."""
        count = len(self.plan.planned)
        if not count:
            return "part at: the image; all windows are a batch from there on"
        op = self.plan.planned[-1].op
        among = f"{count} of {self.candidates} ops that could run before"
        return f"part at: {op.kind} {op.name!r}, {among}; behind it all windows are a batch"


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
    """
    geometry = head.geometry.refined(stride or head.own_stride)
    sides = zip(geometry.grid(size), geometry.stride, geometry.window, size, strict=True)
    repeats = Repeats()
    strips = tuple(repeats.known(Strip.image(*side)) for side in sides)
    costs = Costs()
    ways = []
    for policy in exact.POLICIES:
        full = exact.plan(ops, trunk, facts.image, strips, costs, repeats, policy)
        cuts = costs_of_cuts(full, ops, trunk, facts, costs)
        count = cheapest(cuts) if cut is None else cut
        ways.append((cuts[count].total, policy, count, full, cuts[0].total))
    cost, policy, count, full, plain = min(ways, key=lambda way: way[0])
    kept = [p.op for p in full.planned[:count]]
    plan = exact.plan(kept, trunk, facts.image, strips, costs, repeats, policy)
    return Layout(plan, geometry, tuple(size), len(full.planned), plain / cost)


def check_request(geometry: Geometry, size: Sequence[int], stride: Sequence[int] | None) -> None:
    """Raise BadInput where no window fits, or where a stride asked for is none or leaves no second window."""
    sides, window = by(size), by(geometry.window)
    if any(s < 1 for s in geometry.stride):
        raise BadInput(f"the stride {by(geometry.stride)} must be at least one pixel.")
    if len(size) != len(geometry.window):
        raise BadInput(f"--size {sides} has {len(size)} sides, the window {window} {len(geometry.window)}.")
    if any(n < w for n, w in zip(size, geometry.window, strict=True)):
        raise BadInput(
            f"--size {sides} is smaller than the window {window}: no window fits. Give a larger size."
        )
    if stride is not None and prod(geometry.grid(size)) == 1 and tuple(size) != geometry.window:
        raise BadInput(
            f"--stride {by(geometry.stride)} leaves no second window of {window} in {sides}. Give a larger "
            "--size, or a smaller --stride."
        )


def check_memory(layout: Layout, memory: int, limit: int, at: Callable[[tuple[int, ...]], int]) -> None:
    """Raise Refused where a plan's activations need more than `limit` bytes, with the largest size that fits.

    `at` gives the bytes for another size.
    """
    if memory <= limit:
        return
    best = largest(layout, limit, at)
    why = f"its activations would take about {mebibytes(memory)}, the limit is {mebibytes(limit)}"
    todo = "not even one window fits. Raise --max-memory."
    if best:
        todo = f"the largest size of this shape that fits is {by(best)}. Make a model for that size and tile "
        todo += "the image, or raise --max-memory."
    raise Refused(f"--exact at {by(layout.size)}: {why}; {todo}", why=why)


def largest(layout: Layout, limit: int, at: Callable[[tuple[int, ...]], int]) -> tuple[int, ...] | None:
    """The largest size that fits of those with whole windows between the window and the size asked for.

    It is found by halving, and was tried; None where not even the window fits.
    """
    geometry, grid = layout.geometry, layout.plan.grid
    steps = max(grid) - 1

    def sides(step: int) -> tuple[int, ...]:
        counts = [(n - 1) * step // max(steps, 1) for n in grid]
        return tuple(w + n * s for w, n, s in zip(geometry.window, counts, geometry.stride, strict=True))

    if at(sides(0)) > limit:
        return None
    low, high = 0, steps + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(sides(middle)) <= limit else (low, middle)
    return sides(low)


def mebibytes(count: int) -> str:
    """A number of bytes in words.

    >>> mebibytes(2**32), mebibytes(300_000)
    ('4,096 MiB', '0.29 MiB')
    """
    size = count / 2**20
    return f"{size:,.0f} MiB" if size >= 10 else f"{size:.2g} MiB"


def notes(layout: Layout, memory: int, looped: bool) -> list[str]:
    """The plan in words, for the report."""
    g = layout.geometry
    grid = layout.plan.grid
    loop = "loop: that batch runs in an ONNX Scan, a few windows at a time; OpenVINO and tract load none"
    return [
        f"windows: {by(grid)} in an image of {by(layout.size)}, one every {by(g.stride)} pixels",
        layout.parting,
        *([loop] if looped else []),
        f"gain: {layout.gain:.2f} times as fast as all {prod(grid):,} windows in one batch (expected)",
        f"memory: {mebibytes(memory)} of activations at once (estimated)",
    ]
