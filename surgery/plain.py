"""One form for every model: branches that a constant decides taken, fused ops of onnxruntime taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"
FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}
CLIP_BY_INPUTS = 11  # the opset at which Clip's bounds became inputs


# ------------------------------------------------------------------ If


def constants_of(graph: onnx.GraphProto) -> dict[str, Any]:
    """The values that the graph itself holds for the conditions of its Ifs."""
    wanted = {node.input[0] for node in graph.node if node.op_type == "If"}
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name in wanted}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in wanted and node.attribute[0].HasField("t"):
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def take_branches(graph: onnx.GraphProto, values: Mapping[str, Any]) -> bool:
    """Put the branch that is taken in the place of every If whose condition has a value, in place.

    Returns whether there was one.
    """
    nodes: list[onnx.NodeProto] = []
    taken = False
    for node in graph.node:
        if node.op_type == "If" and node.input[0] in values:
            chosen = "then_branch" if bool(np.all(values[node.input[0]])) else "else_branch"
            branch = next(a.g for a in node.attribute if a.name == chosen)
            nodes += _branch(node, branch, graph)
            taken = True
        else:
            nodes.append(node)
    if taken:
        _replace(graph, nodes)
        take_branches(graph, {**values, **constants_of(graph)})
    return taken


def _branch(node: onnx.NodeProto, branch: onnx.GraphProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a branch under names of their own, and its outputs under those of the If."""
    place = node.name or node.output[0]
    inner = [o for n in branch.node for o in n.output if o] + [t.name for t in branch.initializer]
    names = {name: f"{place}/{name}" for name in inner}
    for tensor in branch.initializer:
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = names[tensor.name]
    nodes = []
    for old in branch.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(old)
        copied.name = f"{place}/{old.name or old.output[0]}"
        _rename(copied, names)
        nodes.append(copied)
    for output, name in zip(branch.output, node.output, strict=True):
        if name:
            nodes.append(
                helper.make_node("Identity", [names.get(output.name, output.name)], [name], f"{place}/{name}")
            )
    return nodes


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Rename what a node reads and makes, and what its own branches read from outside."""
    for side in (node.input, node.output):
        side[:] = [names.get(n, n) for n in side]
    for graph in subgraphs(node):
        for inner in graph.node:
            _rename(inner, names)
        for output in graph.output:
            output.name = names.get(output.name, output.name)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs a node holds: branches, or the body of a loop."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else attribute.graphs


# ------------------------------------------------------------------ fused ops


def take_apart(graph: onnx.GraphProto, opset: int) -> None:
    """Write onnxruntime's FusedConv and FusedGemm as the ops they stand for, in place."""
    fused = [node.domain == MICROSOFT and node.op_type in FUSED for node in graph.node]
    if any(fused):
        parts = (_parts(n, graph, opset) if f else [n] for n, f in zip(graph.node, fused, strict=True))
        _replace(graph, [node for part in parts for node in part])


def _replace(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Give a graph other nodes, some of which may be its own."""
    kept = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        kept.append(copy)
    del graph.node[:]
    graph.node.extend(kept)


def _parts(node: onnx.NodeProto, graph: onnx.GraphProto, opset: int) -> list[onnx.NodeProto]:
    """The op, the sum and the activation that a fused op stands for (onnxruntime ContribOperators.md)."""
    place, name = node.name or node.output[0], node.output[0]
    own = [a for a in node.attribute if not a.name.startswith("activation")]
    extra = {a.name: helper.get_attribute_value(a) for a in node.attribute if a not in own}
    activation = extra.get("activation", b"").decode()
    given = extra.get("activation_params") or [extra.get(f"activation_{k}") for k in ("alpha", "beta")]
    kind = FUSED[node.op_type]
    main = helper.make_node(kind, node.input[:3], [f"{name}/{kind.lower()}"], place)
    main.attribute.extend(own)
    parts = [main]
    if kind == "Conv" and len(node.input) > 3 and node.input[3]:
        inputs = [parts[-1].output[0], node.input[3]]
        parts.append(helper.make_node("Add", inputs, [f"{name}/sum"], f"{place}/sum"))
    if activation:
        keys = PARAMETERS.get(activation, ())
        values = {k: float(v) for k, v in zip(keys, given, strict=False) if v is not None}
        parts.append(_activation(activation, values, parts[-1].output[0], place, graph, opset))
    parts[-1].output[0] = name
    return parts


def _activation(
    kind: str, values: dict[str, float], x: str, place: str, graph: onnx.GraphProto, opset: int
) -> onnx.NodeProto:
    inputs = [x]
    if kind == "Clip" and opset >= CLIP_BY_INPUTS:
        for key in ("min", "max"):
            bound = np.array(values.pop(key, -np.inf if key == "min" else np.inf), np.float32)
            graph.initializer.append(numpy_helper.from_array(bound, f"{place}/{key}"))
            inputs.append(f"{place}/{key}")
    node = helper.make_node(kind, inputs, [f"{x}/activation"], f"{place}/activation")
    node.attribute.extend(helper.make_attribute(key, value) for key, value in values.items())
    return node
