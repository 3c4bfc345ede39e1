"""onnxruntime's ops over maps whose channels are last, as the same ops over channels first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

MICROSOFT = "com.microsoft"
STANDARD = {"QLinearConv": "QLinearConv", "NhwcMaxPool": "MaxPool"}  # what the standard has itself
OWN = ("QLinearAveragePool", "QLinearGlobalAveragePool")


def channels_first(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Put channels first for every such op, in place; returns whether there was one.

    A graph that onnxruntime has optimized and saved has them (ContribOperators.md, attribute
    channels_last). A com.microsoft.QLinearConv of channels first is the standard's own.
    """
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        last = _channels_last(node)
        if node.domain == MICROSOFT and (last or node.op_type in STANDARD):
            nodes += _between_transposes(node, len(shapes[node.input[0]])) if last else [_plain(node)]
            changed = True
        else:
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            nodes.append(kept)
    if changed:
        del graph.node[:]
        graph.node.extend(nodes)
    return changed


def _channels_last(node: onnx.NodeProto) -> bool:
    if node.op_type == "NhwcMaxPool":
        return True
    known = node.op_type in (*STANDARD, *OWN)
    return known and any(a.name == "channels_last" and a.i for a in node.attribute)


def _plain(node: onnx.NodeProto) -> onnx.NodeProto:
    """The op over channels first, of the standard's domain where that has it."""
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    attributes = [a for a in node.attribute if a.name != "channels_last"]
    del plain.attribute[:]
    plain.attribute.extend(attributes)
    if node.op_type in STANDARD:
        plain.op_type, plain.domain = STANDARD[node.op_type], ""
    else:
        plain.attribute.append(helper.make_attribute("channels_last", 0))
    return plain


def _between_transposes(node: onnx.NodeProto, rank: int) -> list[onnx.NodeProto]:
    plain = _plain(node)
    place, name = node.name or node.output[0], node.output[0]
    first, out = f"{name}/channels_first", f"{name}/of_channels_first"
    there = [0, rank - 1, *range(1, rank - 1)]
    back = [0, *range(2, rank), 1]
    before = helper.make_node("Transpose", node.input[:1], [first], f"{place}/channels_first", perm=there)
    plain.input[0], plain.output[0] = first, out
    behind = helper.make_node("Transpose", [out], [name], f"{place}/channels_last", perm=back)
    return [before, plain, behind]
