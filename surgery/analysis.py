"""What is known of a model before anything is rewritten, and what the rewriting may choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import onnx

from surgery import finish, head
from surgery.errors import BadInput, Refused
from surgery.geometry import Trunk, ops_of
from surgery.graph import Op
from surgery.head import Head
from surgery.idioms import simplify
from surgery.lift import Row
from surgery.model import Model, ModelLike, dims_of, read, to_graph
from surgery.oracle import Original
from surgery.plain import take_branches
from surgery.rebatch import rebatched
from surgery.result import Result
from surgery.shapes import Facts, image_axes, observe

STRIDE_FORMS = ("dilated", "fragments")
ONE_IMAGE, WHOLE_WINDOWS = "one image", "whole windows"
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Analysis:
    """What is known of a model before anything is rewritten."""

    model: Model
    facts: Facts
    trunk: Trunk
    head: Head

    def original(self) -> Original:
        """The original as an oracle."""
        names = [o.name for o in self.model.proto.graph.output]
        taken = {n: self.trunk.maps[n] for n in names if n in self.trunk.maps}
        steps = {n: self.head.stride_in_cells(m) for n, m in taken.items()}
        return Original(self.model, self.facts, taken, steps)


@dataclass(frozen=True)
class Options:
    """What the rewriting may choose.

    `reduce` pools the map over positions; `trim` cuts it to full windows; `stride` is the pixels between
    windows per axis where it is not the net's own, had by dilation or by fragments (`stride_form`);
    `pure_conv` forbids to fold positions into the batch.
    """

    reduce: str | None = None
    trim: bool = False
    stride: tuple[int, ...] | None = None
    stride_form: str = "dilated"
    pure_conv: bool = False
    reading: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.reduce is not None and self.reduce not in finish.REDUCTIONS:
            raise BadInput(f"reduce {self.reduce!r} is not known; there are {', '.join(finish.REDUCTIONS)}.")
        if self.stride_form not in STRIDE_FORMS:
            raise BadInput(
                f"stride form {self.stride_form!r} is not known; there are {', '.join(STRIDE_FORMS)}."
            )
        if self.stride is not None and any(s < 1 for s in self.stride):
            raise BadInput(f"the stride {list(self.stride)} must be at least one pixel.")


def settled(source: Model, window: tuple[int, ...] | None) -> tuple[Model, Facts]:
    """A model and its facts, once what its shapes and types decide has been decided."""
    facts = observe(source, window)
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    changed = take_branches(proto.graph, facts.values)
    changed = changed or simplify(proto.graph, facts.shapes, facts.dtypes, facts.values)
    if not changed:
        return source, facts
    return settled(replace(source, proto=proto), window)


def analyse(
    model: ModelLike | Model, window: Sequence[int] | None = None, options: Options | None = None
) -> tuple[Analysis, Any, list[Op]]:
    """Read, observe, walk: the facts of a model, its graph to rewrite, and the ops over that graph."""
    options = options or Options()
    source = read(model)
    source, facts = settled(source, None if window is None else tuple(window))
    analysis, graph, ops = _walked(source, facts, options)
    if ONE_IMAGE not in options.reading:
        return analysis, graph, ops
    made = rebatched(source, facts, graph, ops, analysis.trunk.head)
    if made is None:
        why = "its head keeps the batch, or gives it up where it cannot be given back"
        raise Refused(f"{source.name}: {why}.", why=why)
    return _walked(*settled(made, None if window is None else tuple(window)), options)


def _walked(source: Model, facts: Facts, options: Options) -> tuple[Analysis, Any, list[Op]]:
    graph = to_graph(source.proto)
    ops = ops_of(graph, source.opset, facts)
    dilated = options.stride if options.stride_form == "dilated" else None
    whole = WHOLE_WINDOWS in options.reading
    trunk, found = head.find(ops, facts, dilated, whole_windows=whole)
    return Analysis(source, facts, trunk, found), graph, ops


def plain_first(attempt: Callable[[Options], Made], options: Options) -> Made:
    """What an attempt gives by the plain reading, or, if that is refused, with the batch given back."""
    try:
        return attempt(options)
    except Refused as refused:
        try:
            return attempt(replace(options, reading=(ONE_IMAGE,)))
        except Refused as again:
            raise refused from again


def per_axis(
    stride: int | Sequence[int] | None, model: Model, window: Sequence[int] | None = None
) -> tuple[int, ...] | None:
    """A stride for all axes as one for each."""
    if stride is None:
        return None
    axes = len(window or image_axes(model))
    each = (stride,) * axes if isinstance(stride, int) else tuple(stride)
    if len(each) != axes:
        raise BadInput(f"the stride {list(each)} has {len(each)} sides, the image {axes}.")
    return each


def describe(
    analysis: Analysis, proto: onnx.ModelProto | None, rows: Sequence[Row], notes: Sequence[str]
) -> Result:
    """The result of a conversion, or of an inspection, before any proof."""
    facts, found = analysis.facts, analysis.head
    graph = (proto or analysis.model.proto).graph
    image = next(v for v in graph.input if v.name == facts.image)
    return Result(
        analysis.model.name,
        {"name": image.name, "shape": list(dims_of(image))},
        tuple({"name": o.name, "shape": list(dims_of(o))} for o in graph.output),
        found.verdict,
        found.reasons,
        found.geometry,
        tuple(rows),
        notes=tuple(notes),
        proto=proto,
    )
