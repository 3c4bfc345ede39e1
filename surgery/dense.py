"""The dense engine as a step of the pipeline: lift the head, free the sizes, finish the outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx

from surgery import dynamic, finish, lift
from surgery import stride as strides
from surgery.analysis import Analysis, Options
from surgery.errors import Refused
from surgery.graph import Op, in_order
from surgery.head import Head
from surgery.kernels import check_valid
from surgery.lift import Row
from surgery.model import from_graph
from surgery.probes import PROBABILITIES, softmax_inputs

ONE_IMAGE = "the batch stays one image: the net's body holds the batch it was exported with"


def rewrite(
    analysis: Analysis, graph: Any, ops: list[Op], options: Options
) -> tuple[Analysis, onnx.ModelProto, list[Row], list[str]]:
    """Lift the head, free the sizes, finish the outputs: the converted model, unproven.

    The analysis comes back with the geometry that the converted model has.
    """
    opset, facts, trunk, found = analysis.model.opset, analysis.facts, analysis.trunk, analysis.head
    factors = fragments(found, options)
    tensors = strides.align(graph, opset, ops, trunk, found)
    if factors and options.stride:
        tensors = strides.fragment(graph, opset, ops, trunk, found, options.stride, tensors)
    rows, dims = lift.lift_head(
        graph, opset, trunk, replace(found, fragmented=bool(factors)), tensors, pure_conv=options.pure_conv
    )
    notes = dynamic.free(graph, opset, ops, trunk, facts)
    in_order(graph.cleanup())
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
        softs = softmax_inputs(analysis.model.proto.graph, PROBABILITIES)
        notes += finish.reduce(graph, opset, options.reduce, list(dims), len(facts.axes), softs)
    proto = from_graph(in_order(graph.cleanup()), analysis.model.proto)
    check_valid(proto, analysis.model.proto)
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


def fix_batch(proto: onnx.ModelProto, batch: int) -> None:
    """Write the batch of the original into the dims of the outputs and of inputs that have one, in place."""
    batched = [v for v in proto.graph.input if len(v.type.tensor_type.shape.dim) > 1]
    for value in [*batched, *proto.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = batch
