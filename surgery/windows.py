"""The exact engine as a step of the pipeline: lay out, assemble and prove, for one image size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery import proof
from surgery.analysis import Analysis, Options, analyse, describe
from surgery.assemble import assemble
from surgery.bodies import looped
from surgery.compare import Converted, check_repeatable
from surgery.dynamic import BATCH, forget_shapes
from surgery.errors import BadInput, Refused
from surgery.geometry import ops_of
from surgery.graph import Op, in_order
from surgery.head import Geometry, Head
from surgery.kernels import check_valid
from surgery.layout import Layout, check_memory, check_request, lay_out, notes
from surgery.lift import Row
from surgery.memory import peak
from surgery.mixing import first_mixing
from surgery.model import Model, dims_of, from_graph, to_graph
from surgery.oracle import Original
from surgery.proof import Progress, Proof
from surgery.report.layout import by
from surgery.result import Result, label
from surgery.shapes import Facts

MAX_MEMORY = 2**32
CROPS_SAMPLED = 256


@dataclass(frozen=True, eq=False)
class Assembled:
    """The exact model of an image size, unproven, with the plan behind it."""

    layout: Layout
    proto: onnx.ModelProto
    rows: list[Row]

    def notes(self, memory: int) -> list[str]:
        """The plan in words, with so many bytes of activations."""
        return notes(self.layout, memory, looped(self.proto))


class Assembler:
    """Makes exact models of one original, for any image size, with windows so many pixels apart."""

    def __init__(self, source: Model, window: Sequence[int] | None, options: Options) -> None:
        self.analysis, _, _ = analyse(source, window, Options(reading=options.reading))
        self.stride = options.stride
        check_shareable(self.analysis)

    @property
    def geometry(self) -> Geometry:
        """Where the windows lie."""
        found = self.analysis.head
        return found.geometry.refined(self.stride or found.own_stride)

    def assemble(self, size: tuple[int, ...]) -> Assembled:
        """The model for an image size. Raises BadInput where the size has no windows, Refused as convert."""
        check_request(self.geometry, size, self.stride)
        return self._assembled(size)

    def memory(self, size: tuple[int, ...]) -> int:
        """The estimated peak of activations at an image size, in bytes."""
        return peak(self._assembled(size).proto)

    def _assembled(self, size: tuple[int, ...]) -> Assembled:
        a = self.analysis
        graph = to_graph(a.model.proto)
        ops = ops_of(graph, a.model.opset, a.facts)
        layout = lay_out(ops, a.trunk, a.facts, a.head, size, self.stride)
        proto, rows = rewrite(graph, a, ops, layout)
        return Assembled(layout, proto, rows)


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
    assembler = Assembler(source, window, options)
    progress("laying out the mosaic")
    made = assembler.assemble(size)
    memory = peak(made.proto)
    check_memory(made.layout, memory, max_memory, assembler.memory)
    analysis, layout = assembler.analysis, made.layout
    found = on_grid(analysis.head, layout.geometry)
    result = describe(replace(analysis, head=found), made.proto, made.rows, made.notes(memory))
    result = replace(result, engine="exact")
    label(made.proto, result, source.sha256, None, (), options.reading)
    shown = proof.prove(
        Original(analysis.model, analysis.facts, {}, {}),
        found,
        Converted(made.proto),
        [size],
        engine="exact",
        tolerance=tolerance,
        crops=None if prod(layout.plan.grid) <= 2 * CROPS_SAMPLED else CROPS_SAMPLED,
        progress=progress,
    )
    refuse_baked_batch(shown)
    if not shown.passed:
        refuse_mixing(analysis.model, analysis.facts)
    return result, shown


def rewrite(
    graph: Any, analysis: Analysis, ops: Sequence[Op], layout: Layout
) -> tuple[onnx.ModelProto, list[Row]]:
    """The model for one image size, unproven, and a row for where the windows part."""
    model, facts = analysis.model, analysis.facts
    assemble(graph, model.opset, ops, analysis.trunk, facts, layout.plan)
    in_order(graph.cleanup())
    forget_shapes(graph)
    shape: list[Any] = [BATCH, *facts.shape[1:]]
    for axis, side in zip(facts.axes, layout.size, strict=True):
        shape[axis] = side
    for value in graph.inputs:
        value.shape = shape if value.name == facts.image else [BATCH, *facts.shapes[value.name][1:]]
    proto = from_graph(graph, model.proto)
    check_valid(proto, model.proto)
    stored = layout.plan.strips()
    behind = [op for op in ops if op.outputs[0] not in stored and op.outputs[0] not in facts.values]
    return proto, [Row(op.name, op.kind, "runs on all windows as a batch") for op in behind[:1]]


def beside_image(graph: Any, facts: Facts) -> list[str]:
    """The inputs of a model but the image and the weights."""
    weights = {t.name for t in graph.initializer}
    return [v.name for v in graph.input if v.name != facts.image and v.name not in weights]


def check_shareable(analysis: Analysis) -> None:
    """Raise Refused where a model keeps a state or draws random numbers.

    An input beside the image that has a row for each image is shared by the windows of that image.
    """
    graph, facts = analysis.model.proto.graph, analysis.facts
    for name in beside_image(graph, facts):
        if facts.shapes[name][:1] != (facts.batch,) or len(facts.shapes[name]) < 2:
            why = f"it has a second input {name!r}: a state, or what belongs to one window, cannot be shared"
            raise Refused(f"--exact: {why}. Export the model with the image as its only input.", why=why)
    try:
        check_repeatable(graph)
    except BadInput as error:
        why = f"{error}, so no two answers can be compared"
        raise Refused(f"--exact: {why}. Export the model in eval mode.", why=why) from error


def on_grid(head: Head, geometry: Geometry) -> Head:
    """The head as the proof of an exact model sees it: its windows on that grid, at any size."""
    anywhere = replace(geometry, step=(1,) * len(geometry.step))
    return replace(head, geometry=anywhere, verdict="exact", reasons=())


def refuse_baked_batch(shown: Proof) -> None:
    """Raise Refused where the converted model cannot run: its body holds the batch it was exported with."""
    for check in shown.checks:
        if check.max_error is None and "onnxruntime cannot" in check.note:
            raise Refused(
                "--exact: the windows run as a batch, and the model's batch is baked in beyond repair: "
                f"{check.note}. Export the model with a dynamic batch.",
                why="its batch is baked in",
            )


def refuse_mixing(model: Model, facts: Facts) -> None:
    """Raise Refused where the original itself answers for an image by others of its batch."""
    node = first_mixing(model, facts)
    if node is not None:
        name = node.name or node.output[0]
        why = "what it gives for an image depends on the other images of the batch"
        raise Refused(
            f"--exact: {node.op_type} {name!r}: {why}, and windows run as a batch. Run the model window by "
            "window, or replace the op.",
            node=name,
            op=node.op_type,
            why=why,
        )


def inspect_exactly(
    source: Model, options: Options, size: tuple[int, ...], window: Sequence[int] | None
) -> Result:
    """What the exact engine would do at a size."""
    assembler = Assembler(source, window, options)
    made = assembler.assemble(size)
    found = on_grid(assembler.analysis.head, made.layout.geometry)
    lines = made.notes(peak(made.proto))
    result = describe(replace(assembler.analysis, head=found), None, made.rows, lines)
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
                f"`surgery convert ORIGINAL -o OUT --exact --size {by(size)} --stride {by(geometry.stride)}`."
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
