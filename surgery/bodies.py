"""The bodies of loops (ONNX Scan), each as a model of its own: what one turn does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

Known = Mapping[str, tuple[tuple[int, ...], int]]  # shape and ONNX element type


def body_of(node: onnx.NodeProto) -> onnx.GraphProto | None:
    """The body of a Scan; None for any other op."""
    if node.op_type != "Scan":
        return None
    return next(a.g for a in node.attribute if a.name == "body")


def captured(node: onnx.NodeProto) -> set[str]:
    """The names that the body of a Scan reads from around it."""
    body = body_of(node)
    if body is None:
        return set()
    read = {name for n in body.node for name in (*n.input, *captured(n))}
    made = {name for n in body.node for name in n.output}
    return read - made - {v.name for v in body.input} - {t.name for t in body.initializer} - {""}


def bound(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose bodies take the constants that they scan as those of the first turn.

    So shape inference sees how many windows a turn has, which an exact model keeps from it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _bind(copy.graph)
    return copy


def _bind(graph: onnx.GraphProto) -> None:
    constants = {t.name: t for t in graph.initializer}
    for node in graph.node:
        body = body_of(node)
        if body is None:
            continue
        del body.value_info[:]
        for value, source in zip(body.input, node.input, strict=True):
            if source in constants:
                first = numpy_helper.to_array(constants[source])[0]
                body.initializer.append(numpy_helper.from_array(np.asarray(first), value.name))
                value.name += " scanned"
        _bind(body)


def one_turn(node: onnx.NodeProto, known: Known, model: onnx.ModelProto) -> onnx.ModelProto:
    """The body of a Scan without states as a model, its inputs of the shapes that one turn gives them."""
    body = body_of(node)
    assert body is not None
    turn = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    turn.graph.CopyFrom(body)
    del turn.graph.input[:]
    for value, source in zip(body.input, node.input, strict=True):
        if source in known:
            shape, kind = known[source]
            turn.graph.input.append(helper.make_tensor_value_info(value.name, kind, shape[1:]))
    for name in sorted(captured(node) & set(known)):
        shape, kind = known[name]
        turn.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    return turn
