"""The bodies of loops (ONNX Scan), each as a model of its own: what one turn does.

The Scans meant are those that keep no state and read all along dim 0, as an exact model's do.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

SCANNED = " scanned"  # marks an input of a body whose name its first value has taken

Known = Mapping[str, tuple[tuple[int, ...], int]]  # shape and ONNX element type


def body_of(node: onnx.NodeProto) -> onnx.GraphProto | None:
    """The body of such a Scan; None for any other op."""
    attrs = {a.name: a for a in node.attribute}
    if node.op_type != "Scan" or set(attrs) != {"body", "num_scan_inputs"}:
        return None
    return attrs["body"].g if attrs["num_scan_inputs"].i == len(node.input) else None


def looped(model: onnx.ModelProto) -> bool:
    """Whether a model has such a Scan."""
    return any(body_of(node) is not None for node in model.graph.node)


def captured(node: onnx.NodeProto) -> set[str]:
    """The names that the body of such a Scan reads from around it."""
    body = body_of(node)
    if body is None:
        return set()
    read = {name for n in body.node for name in (*n.input, *captured(n))}
    made = {name for n in body.node for name in n.output}
    return read - made - {v.name for v in body.input} - {t.name for t in body.initializer} - {""}


def bound(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose bodies take the constants that they scan as those of the first turn.

    It is the model itself where there is no such loop.
    So shape inference sees how many windows a turn has, which an exact model keeps from it.
    """
    if not looped(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _bind(copy.graph)
    return copy


def scanned(body: onnx.GraphProto) -> set[str]:
    """The constants of a bound body that differ from turn to turn."""
    return {v.name.removesuffix(SCANNED) for v in body.input if v.name.endswith(SCANNED)}


def _bind(graph: onnx.GraphProto) -> None:
    constants = {t.name: t for t in graph.initializer}
    for node in graph.node:
        body = body_of(node)
        if body is None:
            continue
        for value, source in zip(body.input, node.input, strict=True):
            if source in constants:
                first = numpy_helper.to_array(constants[source])[0]
                body.initializer.append(numpy_helper.from_array(np.asarray(first), value.name))
                value.name += SCANNED
        _bind(body)


def one_turn(node: onnx.NodeProto, known: Known, model: onnx.ModelProto) -> onnx.ModelProto:
    """The body of such a Scan as a model, its inputs of the shapes that one turn gives them."""
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
