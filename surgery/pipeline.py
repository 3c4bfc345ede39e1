"""A conversion as lines: load -> shapes -> geometry -> head -> lift -> dynamic -> prove -> save."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery import dynamic, finish, head, lift, proof
from surgery.compare import Converted
from surgery.errors import BadInput, Mismatch, Reason, Refused
from surgery.geometry import Trunk, ops_of
from surgery.graph import Op
from surgery.head import Geometry, Head
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
    set_metadata,
    to_graph,
)
from surgery.oracle import Original
from surgery.proof import TOLERANCE, Progress, Proof, silent
from surgery.report.text import render
from surgery.shapes import Facts, observe
from surgery.version import VERSION

Sizes = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Result:
    """What a conversion did, or what `inspect` says it would do.

    `proto` is the converted model (None from `inspect`), `output` the path it was written to. `notes`
    are the lines on what was changed in the trunk. Prints as the report.
    """

    model: str
    input: dict[str, Any]
    outputs: tuple[dict[str, Any], ...]
    verdict: str
    reasons: tuple[Reason, ...]
    geometry: Geometry | None
    head: tuple[Row, ...]
    engine: str = "dense"
    output: str | None = None
    proof: Proof | None = None
    notes: tuple[str, ...] = ()
    proto: onnx.ModelProto | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, with the keys of the command line's JSON."""
        return {
            "model": self.model,
            "input": self.input,
            "outputs": list(self.outputs),
            "verdict": self.verdict,
            "reasons": [{"node": r.node, "op": r.op, "why": r.why} for r in self.reasons],
            "geometry": self.geometry.to_json() if self.geometry else None,
            "head": [{"node": r.node, "op": r.op, "becomes": r.becomes} for r in self.head],
            "engine": self.engine,
            "output": self.output,
            "proof": self.proof.to_dict() if self.proof else None,
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        return render(self.to_dict())


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


def analyse(model: ModelLike | Model, window: Sequence[int] | None = None) -> tuple[Analysis, Any, list[Op]]:
    """Read, observe, walk: the facts of a model, its graph to rewrite, and the ops over that graph."""
    source = read(model)
    facts = observe(source, None if window is None else tuple(window))
    graph = to_graph(source.proto)
    ops = ops_of(graph, source.opset, facts)
    trunk, found = head.find(ops, facts)
    return Analysis(source, facts, trunk, found), graph, ops


def rewrite(
    analysis: Analysis, graph: Any, ops: list[Op], *, reduce: str | None, trim: bool
) -> tuple[onnx.ModelProto, list[Row], list[str]]:
    """Lift the head, free the sizes, finish the outputs: the converted model, unproven."""
    opset, facts, trunk, found = analysis.model.opset, analysis.facts, analysis.trunk, analysis.head
    rows, dims = lift.lift_head(graph, opset, trunk, found)
    notes = dynamic.free(graph, opset, ops, trunk, facts)
    graph.cleanup().toposort()
    space = dynamic.GRID_NAMES[len(facts.axes)]
    shapes = {name: (dynamic.BATCH, *features, *space) for name, features in dims.items()}
    dynamic.name_dims(graph, facts, trunk, shapes)
    if trim or (reduce and any(found.geometry.extra)):
        finish.trim(graph, opset, found.geometry, facts.image, facts.axes, list(dims))
    if reduce:
        finish.reduce(graph, opset, reduce, list(dims), len(facts.axes))
    proto = from_graph(graph.cleanup().toposort(), analysis.model.proto)
    onnx.checker.check_model(proto, full_check=False)
    return proto, rows, notes


def convert(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    reduce: str | None = None,
    trim: bool = False,
    allow_global: bool = False,
    window: Sequence[int] | None = None,
    sizes: Sizes | None = None,
    tolerance: float = TOLERANCE,
    force: bool = False,
    progress: Progress = silent,
) -> Result:
    """Rewrite a classifier of one fixed window to answer for every window of an image, and prove it.

    The input becomes `[N, C, height, width]`, each output `[N, K, rows, cols]`; with `reduce` ("mean" or
    "max") an output is `[N, K]`, pooled over positions. `trim` cuts positions whose window would leave
    the image. `window` gives the window in pixels where the model leaves it open, `sizes` the image
    sizes to prove at. Without `output` nothing is written; with it the file appears only after the proof.
    `progress` is called with a line at each step.

    Raises BadInput, Refused (with node, op and reason) or Mismatch (the proof failed).
    """
    if reduce is not None and reduce not in finish.REDUCTIONS:
        raise BadInput(f"reduce {reduce!r} is not known; there are {', '.join(finish.REDUCTIONS)}.")
    target = None if output is None else Path(output)
    source = read(model)
    if target is not None:
        check_target(target, source.path, force=force)
    progress("shapes, geometry and head of the original")
    analysis, graph, ops = analyse(source, window)
    if analysis.head.verdict == "global" and not allow_global:
        raise refuse_global(analysis.head)
    progress("lifting the head")
    proto, rows, notes = rewrite(analysis, graph, ops, reduce=reduce, trim=trim)
    result = describe(analysis, proto, rows, notes)
    label(proto, result, analysis.model, reduce)
    shown = proof.prove(
        analysis.original(),
        analysis.head,
        Converted(proto, reduce or ""),
        sizes,
        tolerance=tolerance,
        progress=progress,
    )
    result = replace(result, proof=shown)
    if not shown.passed:
        raise Mismatch(failure(shown))
    if target is not None:
        progress(f"writing {target}")
        save(proto, target, external=analysis.model.external)
        result = replace(result, output=str(target))
    return result


def refuse_global(found: Head) -> Refused:
    """The refusal of a net that mixes the whole image."""
    first = found.reasons[0]
    more = f" (and {len(found.reasons) - 1} more)" if len(found.reasons) > 1 else ""
    return Refused(
        f"verdict global: {first}{more}. In a larger image it would see the whole image in the place of the "
        "window, so the dense answers would not be the crops'. Convert all the same with --allow-global, "
        "which measures how far they differ, or keep the crops' answers with the exact engine (--exact).",
        node=first.node,
        op=first.op,
        why=first.why,
    )


def failure(shown: Proof) -> str:
    """The words for a proof that failed."""
    bad = next(c for c in shown.checks if c.required and not c.passed)
    size = "x".join(map(str, bad.size))
    what = bad.note or f"error {bad.max_error:.3g} against the tolerance {shown.tolerance:.3g}"
    return (
        f"the proof failed: check {bad.name!r} at {size}, {bad.positions} positions: {what}. Nothing was "
        "written. Please report the model; until then run it crop by crop."
    )


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


def label(proto: onnx.ModelProto, result: Result, source: Model, reduce: str | None) -> None:
    """Write into the model what it is and where it comes from."""
    assert result.geometry is not None
    entries = {
        "surgery.version": VERSION,
        "surgery.engine": result.engine,
        "surgery.verdict": result.verdict,
        "surgery.geometry": json.dumps(result.geometry.to_json()),
        "surgery.source_sha256": source.sha256,
    }
    set_metadata(proto, entries | ({"surgery.reduce": reduce} if reduce else {}))


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
        proto, rows, notes = rewrite(analysis, graph, ops, reduce=None, trim=False)
        return replace(describe(analysis, proto, rows, notes), proto=None)
    except Refused as refused:
        reason = Reason(refused.node, refused.op, refused.why)
        if analysis is not None:
            return replace(describe(analysis, None, [], []), verdict="refused", reasons=(reason,))
        inputs = [{"name": v.name, "shape": list(dims_of(v))} for v in source.proto.graph.input]
        outputs = tuple({"name": o.name, "shape": list(dims_of(o))} for o in source.proto.graph.output)
        image = inputs[0] if inputs else {"name": "", "shape": []}
        return Result(source.name, image, outputs, "refused", (reason,), None, ())


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
    analysis, _, _ = analyse(original, window)
    other = read(converted)
    reduce = metadata_of(other.proto).get("surgery.reduce", "")
    return proof.prove(
        analysis.original(),
        analysis.head,
        Converted(other.proto, reduce),
        sizes,
        tolerance=tolerance,
        crops=crops,
        image=None if image is None else np.asarray(image),
        progress=progress,
    )
