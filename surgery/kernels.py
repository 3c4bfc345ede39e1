"""What onnxruntime cannot run, said in words a user can act on."""

from __future__ import annotations

import re

import onnx
from onnx import TensorProto

from surgery.errors import BadInput, Refused
from surgery.rules import STANDARD

NO_KERNEL = re.compile(r"implementation for (\w+)\(|find kernel for [\w.]*?(\w+)\(|of operator \((\w+)\)")
UNKNOWN = re.compile(r"No Op registered for (\w+)|:(\w+)\(-?\d+\) is not a registered function/op")
OLDEST_OPSET = 7
UNUSUAL = {TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16"}


def refuse_unknown(proto: onnx.ModelProto, error: BadInput) -> None:
    """Raise Refused at the op that onnxruntime complained of, if it does not know it or its type."""
    opset = next((o.version for o in proto.opset_import if o.domain in STANDARD), OLDEST_OPSET)
    if opset < OLDEST_OPSET:
        node, why = proto.graph.node[0], f"opset {opset} is older than onnxruntime's ops"
        cure = "Bring it to a later one with onnx.version_converter.convert_version."
        _refuse(node, f"(opset {opset})", f"{why}, which begin at {OLDEST_OPSET}", cure, why, error)
    found = UNKNOWN.search(str(error))
    for node in proto.graph.node:
        if found and node.op_type in found.groups():
            where = f"of domain {node.domain!r}" if node.domain else "of the standard domain"
            _refuse(
                node,
                where,
                "onnxruntime has no such op",
                "Replace it by standard ops in the export.",
                f"an op {where} that onnxruntime does not know",
                error,
            )
    refuse_type(proto, error)


def refuse_type(proto: onnx.ModelProto, error: BadInput) -> None:
    """Raise Refused where onnxruntime has no kernel for an op in the model's number type."""
    kind = unusual_type(proto)
    if kind is None:
        return
    found = NO_KERNEL.search(str(error))
    op = next(group for group in found.groups() if group) if found else ""
    node = next((n for n in proto.graph.node if n.op_type == op), None)
    if node is None and "Numpy type" not in str(error):
        return
    cure = "Bring the model to float32 and convert that; the result may be brought back to its type."
    why = f"onnxruntime cannot compute it in {kind} on the CPU"
    _refuse(node or proto.graph.node[0], f"({kind})", why, cure, why, error)


def _refuse(node: onnx.NodeProto, where: str, what: str, cure: str, why: str, error: BadInput) -> None:
    name = node.name or node.output[0]
    raise Refused(
        f"cannot convert {node.op_type} {name!r} {where}: {what}, so the model cannot be run, and nothing "
        f"could be proven. {cure}",
        node=name,
        op=node.op_type,
        why=why,
    ) from error


def unusual_type(proto: onnx.ModelProto) -> str | None:
    """The name of a float type other than float32 that the model computes in, or None."""
    graph = proto.graph
    seen = {t.data_type for t in graph.initializer} | {v.type.tensor_type.elem_type for v in graph.input}
    seen |= {a.i for n in graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    return next((name for kind, name in UNUSUAL.items() if kind in seen), None)


def check_valid(proto: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Raise ValidationError where a rewritten model breaks ONNX's rules.

    Not where the original does, and runs all the same: a graph that onnxruntime has optimized holds a
    LayerNormalization at any opset.
    """
    try:
        onnx.checker.check_model(proto, full_check=False)
    except onnx.checker.ValidationError:
        if _valid(original):
            raise


def _valid(proto: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(proto, full_check=False)
    except onnx.checker.ValidationError:
        return False
    return True
