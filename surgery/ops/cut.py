"""Slices along space: cells cut off at the window's ends, or skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.circular import Wrap
from surgery.field import Slide
from surgery.graph import Builder, Op
from surgery.positions import END
from surgery.rules import EndsTrunk, Map, NoRule


def moved(x: Map, slides: Mapping[int, Slide], shape: tuple[int, ...], one: str) -> Map:
    """The map after an op that reads along each spatial dim as a windowed op would.

    Raises EndsTrunk, for the reason `one`, where a single cell of the window is left.
    """
    if all(shape[d] == 1 for d in x.axes):
        raise EndsTrunk(one)
    return x.with_shape(shape).slid(slides)


def _taken(wrap: Wrap, x: Map) -> Slide:
    """What a Slice takes for circular padding, as a windowed op of negative pads."""
    cells, before, after = x.shape[wrap.dim], wrap.before, wrap.after
    return Slide(1, before=before - cells) if before else Slide(1, after=after - cells)


def laid_around(op: Op, wrap: Wrap, inputs: Sequence[Any]) -> Map:
    """Circular padding: at the window's border cells of its other end, in a larger image at that one's."""
    x: Map = inputs[list(op.inputs).index(wrap.data)]
    return moved(x, {wrap.dim: Slide(1, before=wrap.before, after=wrap.after)}, op.out_shape(), "")


def crop(op: Op, x: Map) -> Map:
    """A Slice along space cuts cells off at the window's ends, or skips some (a stride)."""
    wrap = op.facts.wraps.get(op.outputs[0])
    if wrap is not None and wrap.dim in x.axes:  # even one cell is a map's: a Concat lays it beside all
        return x.with_shape(op.out_shape()).slid({wrap.dim: _taken(wrap, x)})
    slides = {d: slide for d, (_, slide) in cuts_of(op, x).items()}
    return moved(x, slides, op.out_shape(), "it takes one position of the window")


def bounds(op: Op) -> list[tuple[int, int, int, int]]:
    """The dims a Slice names, each with its start, end and step."""
    if op.opset >= 10 and any(op.value(i) is None for i, name in enumerate(op.inputs) if i and name):
        raise NoRule("the places it takes depend on the image")
    starts, ends = op.setting("starts", 1, 10), op.setting("ends", 2, 10)
    axes, steps = op.setting("axes", 3, 10), op.setting("steps", 4, 10) if op.opset >= 10 else None
    rank = len(op.in_shape())
    named = range(len(starts)) if axes is None else [int(a) % rank for a in axes]
    return list(zip(named, starts, ends, steps or [1] * len(starts), strict=True))


def cuts_of(op: Op, x: Map) -> dict[int, tuple[int, Slide]]:
    """What a Slice takes of each spatial dim: which of its dims it is, and a windowed op of negative pads."""
    found = {}
    for i, (d, start, end, step) in enumerate(bounds(op)):
        if d in x.axes:
            if step < 0:
                raise NoRule("it turns the order of positions around")
            first, stop, _ = slice(start, end, step).indices(x.shape[d])
            found[d] = i, Slide(1, stride=step, before=-first, after=stop - x.shape[d])
    return found


def free_slice(op: Op, m: Map, build: Builder) -> list[str]:
    """A Slice along space counts its end from the image's end, not from the window's start."""
    wrap = op.facts.wraps.get(op.outputs[0])
    if wrap is not None and wrap.dim in m.axes:
        cells = m.spacing[m.axes.index(wrap.dim)]
        named = [(wrap.dim, -wrap.before * cells, wrap.after * cells or END, 1)]
        return _write_bounds(op, build, named, "the cells at the image's own end")
    cuts = cuts_of(op, m)
    if not cuts:
        return []
    named = bounds(op)
    for d, axis in zip(m.axes, m.geometry, strict=True):
        if d in cuts:
            i, slide = cuts[d]
            new = axis.respaced(slide.tightened(axis.cells))
            named[i] = (d, -new.before, new.after or END, new.stride)
    return _write_bounds(op, build, named, "ends counted from the end of the image")


def _write_bounds(op: Op, build: Builder, named: list[tuple[int, int, int, int]], what: str) -> list[str]:
    axes, starts, ends, steps = (list(column) for column in zip(*named, strict=True))
    if build.opset < 10:
        op.node.attrs.update(starts=starts, ends=ends, axes=axes)
    else:
        settings = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
        consts = [build.ints(name, values) for name, values in settings.items()]
        op.node.inputs = [op.node.inputs[0], *consts]
    return [f"Slice {op.name!r}: {what}"]
