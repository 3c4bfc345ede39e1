"""The flatten points: which maps the head reads windows of, and what that makes of the whole net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm, prod
from typing import Any

import numpy as np

from surgery.errors import BadInput, Reason, Refused
from surgery.field import Axis, Field, surplus
from surgery.geometry import RESIDUES, Trunk, walk
from surgery.graph import Op
from surgery.rules import Map
from surgery.shapes import Facts


@dataclass(frozen=True)
class Geometry:
    """Where the windows of a net lie. Everything is per spatial axis, y before x, in pixels or cells.

    `window` and `stride` in pixels; `field` the pixels one score depends on (start and size); `margin`
    the cells at the start and end of the head's input that the window's border reaches, `touched` their
    share of it; `extra` how many rows and columns the map can have beyond the last full window; `sizes`
    the images the net takes: `min` and every `step` pixels more.
    """

    window: tuple[int, ...]
    stride: tuple[int, ...]
    field_start: tuple[int, ...]
    field_size: tuple[int, ...]
    margin: tuple[tuple[int, int], ...]
    touched: float
    extra: tuple[int, ...]
    step: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The keys of the reports."""
        return {
            "window": list(self.window),
            "stride": list(self.stride),
            "field": {"start": list(self.field_start), "size": list(self.field_size)},
            "margin": [list(m) for m in self.margin],
            "touched": self.touched,
            "extra": list(self.extra),
            "sizes": {"min": list(self.window), "step": list(self.step)},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Geometry:
        """The geometry that `to_json` wrote."""
        return cls(
            tuple(data["window"]),
            tuple(data["stride"]),
            tuple(data["field"]["start"]),
            tuple(data["field"]["size"]),
            tuple((a, b) for a, b in data["margin"]),
            data["touched"],
            tuple(data["extra"]),
            tuple(data["sizes"]["step"]),
        )

    def refined(self, stride: Sequence[int]) -> Geometry:
        """The same windows on a grid of another stride, trimmed to the windows that lie in the image."""
        return replace(self, stride=tuple(stride), extra=(0,) * len(self.extra))

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """How many full windows an image of so many pixels has, per axis."""
        sides = zip(size, self.window, self.stride, strict=True)
        return tuple(max(0, (n - w) // s + 1) for n, w, s in sides)

    def box(self, *cell: int) -> tuple[int, ...]:
        """The pixels of the window at a cell of the score map, as (top, left, bottom, right), end excluded.

        >>> Geometry((24, 24), (4, 4), (0, 0), (24, 24), ((0, 0), (0, 0)), 0.0, (0, 0), (1, 1)).box(1, 2)
        (4, 8, 28, 32)
        """
        start = tuple(i * s for i, s in zip(cell, self.stride, strict=True))
        return (*start, *(a + w for a, w in zip(start, self.window, strict=True)))


@dataclass(frozen=True, eq=False)
class Head:
    """The head of a net: its ops in order, the maps it reads, and the pixels between its windows.

    `fragmented` says that the batch of those maps holds fragments, shifts of the image, too.
    """

    ops: tuple[Op, ...]
    sources: dict[str, Map]
    geometry: Geometry
    verdict: str
    reasons: tuple[Reason, ...]
    own_stride: tuple[int, ...]
    fragmented: bool = False

    def stride_in_cells(self, m: Map) -> tuple[int, ...]:
        """How many cells of a map's tensor lie between neighbouring windows."""
        sides = zip(self.geometry.stride, m.geometry, strict=True)
        return tuple(int(s / axis.pitch) for s, axis in sides)


def find(
    ops: Sequence[Op],
    facts: Facts,
    stride: tuple[int, ...] | None = None,
    *,
    whole_windows: bool = False,
) -> tuple[Trunk, Head]:
    """Walk the net and find its head, for windows `stride` pixels apart (the net's own by default).

    With `whole_windows` the head begins where the whole image would be mixed into every cell.

    Raises Refused where there is no head, or where the stride cannot be had, BadInput where it has not a
    number for every axis.
    """
    trunk = walk(ops, facts, whole_windows=whole_windows)
    sources = sources_of(trunk)
    if not sources:
        raise Refused(nothing_folded(trunk, facts), why="it is already fully convolutional")
    own = net_stride([*sources.values(), *taken_of(trunk, facts)])
    wanted = own if stride is None else stride
    if len(wanted) != len(own):
        raise BadInput(f"the stride {list(wanted)} has {len(wanted)} sides, the image {len(own)}.")
    if any(w % s for w, s in zip(wanted, own, strict=True)):
        check_refinable(trunk)
    residues = 2 * max(wanted)
    if wanted != own or residues > RESIDUES:
        grid = wanted if wanted != own else None
        trunk = walk(ops, facts, max(residues, RESIDUES), grid, whole_windows=whole_windows)
        sources = meet_at_end(sources_of(trunk))
        check_meeting(sources, wanted)
    geometry = measure(sources, facts.window, wanted, runs(trunk))
    verdict, reasons = judge(trunk, geometry, facts.outputs)
    return trunk, Head(trunk.head, sources, geometry, verdict, reasons, own)


def check_refinable(trunk: Trunk) -> None:
    """Raise Refused where dilation cannot bring windows closer than the net's own stride."""
    refused = [Reason(op.name, op.kind, f"it makes cells that {why}") for op, why in trunk.rigid]
    refused += trunk.mixing
    if refused:
        first = refused[0]
        raise Refused(
            f"--stride: {first}. Closer windows would see other cells; convert at its own stride.",
            node=first.node,
            op=first.op,
            why=first.why,
        )


def runs(trunk: Trunk) -> list[Any]:
    """Per axis, whether the net runs at each size followed: whether the parts of its maps meet."""
    sides = zip(*(m.geometry for m in trunk.maps.values()), strict=True)
    return [np.all([axis.lengths > 0 for axis in axes], axis=0) for axes in sides]


def check_meeting(sources: dict[str, Map], stride: tuple[int, ...]) -> None:
    """Raise Refused where dilated branches never have the same number of cells."""
    for k, s in enumerate(stride):
        if _rows([m.geometry[k] for m in sources.values()], s)[0] < 1:
            why = f"branches of the net do not meet on windows {s} pixels apart"
            raise Refused(
                f"--stride: {why}. Use --stride-form fragments, which dilates nothing.",
                why=why,
            )


def meet_at_end(sources: dict[str, Map]) -> dict[str, Map]:
    """The maps without the cells at their ends that no window takes together with cells of the others."""
    columns = zip(*(m.geometry for m in sources.values()), strict=True)
    axes = [[a.cut(n) for a, n in zip(column, surplus(column), strict=True)] for column in columns]
    rows = zip(sources.items(), zip(*axes, strict=True), strict=True)
    return {name: replace(m, geometry=geometry) for (name, m), geometry in rows}


def sources_of(trunk: Trunk) -> dict[str, Map]:
    """The maps that an op of the head reads."""
    return {n: trunk.maps[n] for op in trunk.head for n in op.inputs if n in trunk.maps}


def nothing_folded(trunk: Trunk, facts: Facts) -> str:
    """Why a net without a head has nothing to convert."""
    return (
        f"nothing to convert: every tensor that depends on the image {facts.image!r} is still a map, so the "
        "model is already fully convolutional. Only its input dims may need to be made symbolic "
        "(onnx.tools.update_model_dims)."
    )


def taken_of(trunk: Trunk, facts: Facts) -> list[Map]:
    """The maps that are outputs of the model."""
    return [trunk.maps[n] for n in facts.outputs if n in trunk.maps]


def net_stride(maps: Sequence[Map]) -> tuple[int, ...]:
    """Pixels between neighbouring windows: the least by which every map moves by whole periods."""
    sides = zip(*(m.geometry for m in maps), strict=True)
    return tuple(lcm(*(axis.field.period for axis in axes)) for axes in sides)


def measure(
    sources: dict[str, Map], window: tuple[int, ...], stride: tuple[int, ...], runs: Sequence[Any]
) -> Geometry:
    """The geometry of windows over these maps, in a net that runs at the sizes told by `runs`."""
    fields, margins, extra, step = [], [], [], []
    for k, s in enumerate(stride):
        axes = [m.geometry[k] for m in sources.values()]
        fields.append(_widest([a.field.span(a.cells) for a in axes]))
        worst = max(axes, key=lambda a: sum(a.margin) / a.cells)
        margins.append(worst.margin)
        rows = np.where(runs[k], _rows(axes, s), -1)
        full = np.arange(len(rows)) // s + 1
        extra.append(int(max(0, (rows - full)[:s].max())))
        step.append(_step(rows, s))
    total = sum(prod(m.cells) for m in sources.values())
    clean = sum(prod(a.clean for a in m.geometry) for m in sources.values())
    return Geometry(
        window,
        stride,
        tuple(int(f.start) for f in fields),
        tuple(int(f.size) for f in fields),
        tuple(margins),
        1 - clean / total,
        tuple(extra),
        tuple(step),
    )


def _widest(fields: list[Field]) -> Field:
    start = min(f.start for f in fields)
    return Field(start, max(f.start + f.size for f in fields) - start, 1)


def _rows(axes: list[Axis], stride: int) -> Any:
    """The map's length for every size followed; -1 where the net cannot run or its parts do not meet."""
    rows = []
    for axis in axes:
        step = int(stride / axis.pitch)
        rows.append(np.where(axis.lengths < 0, -1, (axis.lengths - axis.extent) // step + 1))
    return np.where(np.all([r == rows[0] for r in rows], axis=0), rows[0], -1)


def _step(rows: Any, stride: int) -> int:
    """The least step at which every size is taken, from the window on."""
    steps = [d for d in range(1, stride + 1) if stride % d == 0]
    return next((d for d in steps if (rows[:stride:d] > 0).all()), stride)


def judge(trunk: Trunk, geometry: Geometry, outputs: Sequence[str]) -> tuple[str, tuple[Reason, ...]]:
    """The verdict and the reasons for it; an output that is a map itself is judged as the head's input is."""
    if trunk.mixing:
        return "global", trunk.mixing
    taken = [trunk.maps[n] for n in outputs if n in trunk.maps]
    if geometry.touched > 0 or any(sum(a.margin) for m in taken for a in m.geometry):
        return "padded", trunk.pads
    return "exact", ()
