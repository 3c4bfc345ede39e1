"""The exact engine as a step of the pipeline: lay out, assemble and prove, for one image size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery import proof
from surgery.analysis import Analysis, Options, analyse, describe
from surgery.assemble import assemble
from surgery.compare import Converted
from surgery.dynamic import BATCH, forget_shapes
from surgery.errors import BadInput, Refused
from surgery.graph import Op
from surgery.head import Geometry, Head
from surgery.layout import Layout, check_memory, lay_out, notes
from surgery.lift import Row
from surgery.model import Model, dims_of, from_graph
from surgery.oracle import Original
from surgery.proof import Progress, Proof
from surgery.report.layout import by
from surgery.result import Result, label

MAX_MEMORY = 2**32
CROPS_SAMPLED = 256


def convert_exactly(
    source: Model,
    options: Options,
    size: tuple[int, ...],
    window: Sequence[int] | None,
    max_memory: int,
    tolerance: float,
    progress: Progress,
) -> tuple[Result, Proof]:
    """The exact engine: one model for one image size, and its proof on the crops of that size."""
    if options.reduce or options.trim or options.stride_form != "dilated":
        raise BadInput(
            "--exact gives a map of full windows; --reduce, --trim and --stride-form are for the dense "
            "engine."
        )
    analysis, graph, ops = analyse(source, window)
    progress("laying out the mosaic")

    def planned(sides: tuple[int, ...]) -> Layout:
        return lay_out(ops, analysis.trunk, analysis.facts, analysis.head, sides, options.stride)

    layout = planned(size)
    check_memory(layout, max_memory, planned)
    proto, rows = rewrite(graph, analysis, ops, layout)
    found = on_grid(analysis.head, layout.geometry)
    result = describe(replace(analysis, head=found), proto, rows, notes(layout))
    result = replace(result, engine="exact")
    label(proto, result, source.sha256, None, ())
    shown = proof.prove(
        Original(source, analysis.facts, {}, {}),
        found,
        Converted(proto),
        [size],
        engine="exact",
        tolerance=tolerance,
        crops=None if prod(layout.plan.grid) <= 2 * CROPS_SAMPLED else CROPS_SAMPLED,
        progress=progress,
    )
    refuse_baked_batch(shown)
    return result, shown


def rewrite(
    graph: Any, analysis: Analysis, ops: Sequence[Op], layout: Layout
) -> tuple[onnx.ModelProto, list[Row]]:
    """The model for one image size, unproven, and a row for where the windows part."""
    model, facts = analysis.model, analysis.facts
    others = [v.name for v in model.proto.graph.input if v.name != facts.image]
    if others:
        why = f"it has a second input {others[0]!r}: a state, or what belongs to one window, cannot be shared"
        raise Refused(f"--exact: {why}. Export the model with the image as its only input.", why=why)
    assemble(graph, model.opset, ops, analysis.trunk, facts, layout.plan)
    graph.cleanup().toposort()
    forget_shapes(graph)
    shape: list[Any] = [BATCH, *facts.shape[1:]]
    for axis, side in zip(facts.axes, layout.size, strict=True):
        shape[axis] = side
    graph.inputs[0].shape = shape
    proto = from_graph(graph, model.proto)
    onnx.checker.check_model(proto, full_check=False)
    stored = layout.plan.strips()
    behind = [op for op in ops if op.outputs[0] not in stored and op.outputs[0] not in facts.values]
    return proto, [Row(op.name, op.kind, "runs on all windows as a batch") for op in behind[:1]]


def on_grid(head: Head, geometry: Geometry) -> Head:
    """The head as the proof of an exact model sees it: its windows on that grid, at any size."""
    anywhere = replace(geometry, step=(1,) * len(geometry.step))
    return replace(head, geometry=anywhere, verdict="exact", reasons=())


def refuse_baked_batch(shown: Proof) -> None:
    """Raise Refused where the converted model cannot run: its body holds the batch it was exported with."""
    for check in shown.checks:
        if check.max_error is None and check.note.startswith("onnxruntime cannot run"):
            raise Refused(
                "--exact: the windows run as a batch, and the model's batch is baked in beyond repair: "
                f"{check.note}. Export the model with a dynamic batch.",
                why="its batch is baked in",
            )


def inspect_exactly(
    source: Model, size: tuple[int, ...], stride: tuple[int, ...] | None, window: Sequence[int] | None
) -> Result:
    """What the exact engine would do at a size."""
    analysis, _, ops = analyse(source, window)
    layout = lay_out(ops, analysis.trunk, analysis.facts, analysis.head, size, stride)
    found = on_grid(analysis.head, layout.geometry)
    result = describe(replace(analysis, head=found), None, [], notes(layout))
    return replace(result, engine="exact")


def validate_exactly(
    analysis: Analysis,
    other: Model,
    entry: str,
    sizes: Sequence[Sequence[int]] | None,
    image: NDArray[Any] | None,
    crops: int | None,
    tolerance: float,
    progress: Progress,
) -> Proof:
    """Compare an exact model with its original on the crops of its own size."""
    geometry = Geometry.from_json(json.loads(entry))
    found = on_grid(analysis.head, geometry)
    fixed = dims_of(other.image)
    own = tuple(int(fixed[a]) for a in analysis.facts.axes)
    for size in sizes or []:
        if tuple(size) != own:
            raise BadInput(
                f"the exact model takes images of {by(own)} only; make one for {by(size)} with "
                f"`surgery convert ORIGINAL -o OUT --exact --size {by(size)}`."
            )
    return proof.prove(
        Original(analysis.model, analysis.facts, {}, {}),
        found,
        Converted(other.proto),
        [own] if image is None else [],
        engine="exact",
        tolerance=tolerance,
        crops=crops,
        image=None if image is None else np.asarray(image),
        progress=progress,
    )
