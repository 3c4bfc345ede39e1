"""A conversion as lines: load -> shapes -> geometry -> head -> lift -> dynamic -> prove -> save."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery import dynamic, finish, head, lift, proof
from surgery import stride as strides
from surgery.compare import Converted
from surgery.errors import BadInput, Mismatch, Reason, Refused
from surgery.geometry import Trunk, ops_of
from surgery.graph import Op
from surgery.head import Head
from surgery.lift import Row
from surgery.model import (
    Model,
    ModelLike,
    check_target,
    dims_of,
    from_graph,
    metadata_of,
    read,
    save,
    to_graph,
)
from surgery.oracle import Original, softmax_inputs
from surgery.proof import TOLERANCE, Progress, Proof, silent
from surgery.result import Result, failure, label, refuse_global
from surgery.shapes import Facts, observe, space_axes

STRIDE_FORMS = ("dilated", "fragments")
Sizes = Sequence[Sequence[int]]


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
    windows per axis where it is not the net's own, had by dilation or by fragments (`stride_form`).
    """

    reduce: str | None = None
    trim: bool = False
    stride: tuple[int, ...] | None = None
    stride_form: str = "dilated"

    def __post_init__(self) -> None:
        if self.reduce is not None and self.reduce not in finish.REDUCTIONS:
            raise BadInput(f"reduce {self.reduce!r} is not known; there are {', '.join(finish.REDUCTIONS)}.")
        if self.stride_form not in STRIDE_FORMS:
            raise BadInput(
                f"stride form {self.stride_form!r} is not known; there are {', '.join(STRIDE_FORMS)}."
            )
        if self.stride is not None and any(s < 1 for s in self.stride):
            raise BadInput(f"the stride {list(self.stride)} must be at least one pixel.")


def analyse(
    model: ModelLike | Model, window: Sequence[int] | None = None, options: Options | None = None
) -> tuple[Analysis, Any, list[Op]]:
    """Read, observe, walk: the facts of a model, its graph to rewrite, and the ops over that graph."""
    options = options or Options()
    source = read(model)
    facts = observe(source, None if window is None else tuple(window))
    graph = to_graph(source.proto)
    ops = ops_of(graph, source.opset, facts)
    dilated = options.stride if options.stride_form == "dilated" else None
    trunk, found = head.find(ops, facts, dilated)
    return Analysis(source, facts, trunk, found), graph, ops


def rewrite(
    analysis: Analysis, graph: Any, ops: list[Op], options: Options
) -> tuple[Analysis, onnx.ModelProto, list[Row], list[str]]:
    """Lift the head, free the sizes, finish the outputs: the converted model, unproven.

    The analysis comes back with the geometry that the converted model has.
    """
    opset, facts, trunk, found = analysis.model.opset, analysis.facts, analysis.trunk, analysis.head
    factors, tensors = fragments(found, options), {}
    if factors:
        assert options.stride is not None
        tensors = strides.fragment(graph, opset, ops, trunk, found, options.stride)
    rows, dims = lift.lift_head(graph, opset, trunk, found, tensors)
    notes = dynamic.free(graph, opset, ops, trunk, facts)
    graph.cleanup().toposort()
    space = dynamic.GRID_NAMES[len(facts.axes)]
    shapes = {name: (dynamic.BATCH, *features, *space) for name, features in dims.items()}
    dynamic.name_dims(graph, facts, trunk, shapes)
    if factors and options.stride:
        strides.interleave(graph, opset, list(dims), factors)
        analysis = replace(analysis, head=replace(found, geometry=found.geometry.refined(options.stride)))
    geometry = analysis.head.geometry
    if options.trim or factors or (options.reduce and any(geometry.extra)):
        finish.trim(graph, opset, geometry, facts.image, facts.axes, list(dims))
    if options.reduce:
        softs = softmax_inputs(analysis.model.proto.graph, ("Softmax",))
        notes += finish.reduce(graph, opset, options.reduce, list(dims), len(facts.axes), softs)
    proto = from_graph(graph.cleanup().toposort(), analysis.model.proto)
    onnx.checker.check_model(proto, full_check=False)
    return analysis, proto, rows, notes


def fragments(found: Head, options: Options) -> tuple[int, ...]:
    """How many fragments per axis the stride asks for; none where it is had by dilation."""
    if options.stride is None or options.stride_form == "dilated" or options.stride == found.own_stride:
        return ()
    if any(own % s for own, s in zip(found.own_stride, options.stride, strict=True)):
        own, wanted = list(found.own_stride), list(options.stride)
        raise Refused(
            f"--stride-form fragments: the net's own stride {own} is no multiple of {wanted}. Choose a "
            "stride that divides it, or --stride-form dilated.",
            why=f"{wanted} does not divide {own}",
        )
    return tuple(own // s for own, s in zip(found.own_stride, options.stride, strict=True))


def convert(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    reduce: str | None = None,
    trim: bool = False,
    stride: int | Sequence[int] | None = None,
    stride_form: str = "dilated",
    allow_global: bool = False,
    window: Sequence[int] | None = None,
    sizes: Sizes | None = None,
    tolerance: float = TOLERANCE,
    force: bool = False,
    progress: Progress = silent,
) -> Result:
    """Rewrite a classifier of one fixed window to answer for every window of an image, and prove it.

    The input becomes `[N, C, height, width]`, each output `[N, K, rows, cols]`; with `reduce` ("mean",
    "max" or "softmax-mean") an output is `[N, K]`, pooled over positions. `trim` cuts positions whose
    window would leave the image. `stride` is the pixels between windows, per axis or for all, where it is
    not the net's own; `stride_form` "dilated" turns strides into dilations, "fragments" puts phases into
    the batch. `window` gives the window in pixels where the model leaves it open, `sizes` the image sizes
    to prove at. Without `output` nothing is written; with it the file appears only after the proof.
    `progress` is called with a line at each step.

    Raises BadInput, Refused (with node, op and reason) or Mismatch (the proof failed).
    """
    target = None if output is None else Path(output)
    source = read(model)
    if target is not None:
        check_target(target, source.path, force=force, external=source.external)
    progress("shapes, geometry and head of the original")
    options = Options(reduce, trim, per_axis(stride, source), stride_form)
    analysis, graph, ops = analyse(source, window, options)
    if analysis.head.verdict == "global" and not allow_global:
        raise refuse_global(analysis.head)
    progress("lifting the head")
    analysis, proto, rows, notes = rewrite(analysis, graph, ops, options)
    result = describe(analysis, proto, rows, notes)
    label(proto, result, source.sha256, reduce, fragments(analysis.head, options))
    shown = proof.prove(
        analysis.original(), analysis.head, Converted(proto), sizes, tolerance=tolerance, progress=progress
    )
    result = replace(result, proof=shown)
    if not shown.passed:
        raise Mismatch(failure(shown))
    if target is not None:
        progress(f"writing {target}")
        save(proto, target, external=source.external)
        result = replace(result, output=str(target))
    return result


def per_axis(stride: int | Sequence[int] | None, model: Model) -> tuple[int, ...] | None:
    """A stride for all axes as one for each."""
    if stride is None:
        return None
    axes = len(space_axes(dims_of(model.image)))
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


def inspect(model: ModelLike, *, window: Sequence[int] | None = None, progress: Progress = silent) -> Result:
    """What `convert` would do with a model: verdict, geometry, head. Nothing is written.

    A model that would be refused gives a result with the verdict `refused`; one that cannot be read
    raises BadInput.
    """
    source = read(model)
    progress("shapes, geometry and head")
    analysis = None
    try:
        analysis, graph, ops = analyse(source, window)
        analysis, proto, rows, notes = rewrite(analysis, graph, ops, Options())
        return replace(describe(analysis, proto, rows, notes), proto=None)
    except Refused as refused:
        reason = Reason(refused.node, refused.op, refused.why)
        if analysis is not None:
            known = describe(analysis, None, [], [str(refused)])
            return replace(known, verdict="refused", reasons=(reason,))
        inputs = [{"name": v.name, "shape": list(dims_of(v))} for v in source.proto.graph.input]
        outputs = tuple({"name": o.name, "shape": list(dims_of(o))} for o in source.proto.graph.output)
        image = inputs[0] if inputs else {"name": "", "shape": []}
        words = (str(refused),)
        return Result(source.name, image, outputs, "refused", (reason,), None, (), notes=words)


def validate(
    original: ModelLike,
    converted: ModelLike,
    *,
    sizes: Sizes | None = None,
    image: NDArray[Any] | None = None,
    crops: int | None = None,
    window: Sequence[int] | None = None,
    tolerance: float = TOLERANCE,
    progress: Progress = silent,
) -> Proof:
    """Compare a converted model with its original, crop by crop and window by window.

    `sizes` are image sizes in pixels per axis, `image` a batch of one image `[1, C, H, W]` as the model
    takes it, `crops` how many crops to take at random (all of them by default).
    Raises BadInput where a model cannot be read, Refused where the original is none that can be converted.
    """
    progress("shapes, geometry and head of the original")
    other = read(converted)
    analysis, _, _ = analyse(original, window)
    entry = metadata_of(other.proto).get("surgery.geometry")
    if entry is not None and tuple(json.loads(entry)["stride"]) != analysis.head.own_stride:
        wanted = tuple(json.loads(entry)["stride"])
        analysis, _, _ = analyse(original, window, Options(stride=wanted))
    return proof.prove(
        analysis.original(),
        analysis.head,
        Converted(other.proto),
        sizes,
        tolerance=tolerance,
        crops=crops,
        image=None if image is None else np.asarray(image),
        progress=progress,
    )
