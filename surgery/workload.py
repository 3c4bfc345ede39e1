"""The work of a model at an image size: its multiply-adds, and the memory its activations take."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, shape_inference

from surgery.bodies import body_of, bound, one_turn
from surgery.probes import with_outputs
from surgery.rules import STANDARD
from surgery.session import Session

CONVS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}  # with the input that holds the kernel
PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
TRANSPOSED = "ConvTranspose"
COUNTED = (*CONVS, *PRODUCTS, TRANSPOSED)
SMALL = 64  # elements of a constant that may set a shape

Shape = tuple[int, ...]
Tensors = dict[str, tuple[Shape, int]]  # shape and ONNX element type


@dataclass(frozen=True)
class Workload:
    """Multiply-adds of all Conv, Gemm and MatMul nodes in one run, and the peak of activations in bytes.

    The peak is that of a runtime that frees each tensor behind its last reader; none works in place.
    """

    multiply_adds: int
    peak: int


def workload(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> Workload:
    """The work of one run on these inputs.

    Shapes come from inference; where that loses a product's shape, a run of the model shows it. Bodies of
    an exact model's loops are counted, once for each turn; those of other loops and of branches are not.
    Raises BadInput where the model has to be run and cannot.
    """
    model = bound(model)
    known = inferred(model.graph, feeds, model)
    counted = [n for n in model.graph.node if n.op_type in COUNTED and n.domain in STANDARD]
    wanted = {name for node in counted for name in (node.input[0], node.output[0])}
    lost = sorted(wanted - set(known))
    if lost:
        for name, value in Session(with_outputs(model, lost)).run(feeds, lost).items():
            known[name] = value.shape, helper.np_dtype_to_tensor_dtype(value.dtype)
    return Workload(_products(model, known), peak(model.graph, known))


def _products(model: onnx.ModelProto, known: Tensors) -> int:
    """The multiply-adds of all nodes whose shapes are known, and of the turns of every Scan."""
    total = 0
    for node in model.graph.node:
        if node.op_type in COUNTED and node.domain in STANDARD and node.output[0] in known:
            total += multiply_adds(node, known)
        if body_of(node) is not None and node.input[0] in known:
            turn = one_turn(node, known, model)
            total += known[node.input[0]][0][0] * _products(turn, _of_turn(turn))
    return total


def _of_turn(turn: onnx.ModelProto) -> Tensors:
    return _known(inferred_values(turn.graph, turn.graph.input, turn))


def multiply_adds(node: onnx.NodeProto, known: Tensors) -> int:
    """The multiply-adds of one node: for each value that comes out, as many as it sums products."""
    out = prod(known[node.output[0]][0])
    if node.op_type in CONVS:
        return out * prod(known[node.input[CONVS[node.op_type]]][0][1:])
    if node.op_type == TRANSPOSED:  # each value that goes in meets a kernel
        return prod(known[node.input[0]][0]) * prod(known[node.input[1]][0][1:])
    rows = next((a.i for a in node.attribute if a.name == "transA"), 0)
    return out * known[node.input[0]][0][-2 if rows else -1]


def peak(graph: onnx.GraphProto, known: Tensors) -> int:
    """The most bytes of activations alive at once, over the nodes in their order."""
    weights = {t.name for t in graph.initializer}
    sizes = {name: _bytes(*known[name]) for name in known if name not in weights}
    last = {name: i for i, node in enumerate(graph.node) for name in (*node.output, *node.input)}
    last |= {o.name: len(graph.node) for o in graph.output}
    alive = {v.name: sizes.get(v.name, 0) for v in graph.input}
    most = sum(alive.values())
    for i, node in enumerate(graph.node):
        alive |= {name: sizes.get(name, 0) for name in node.output}
        most = max(most, sum(alive.values()))
        for name in (*node.input, *node.output):
            if last[name] == i:
                alive.pop(name, None)
    return most


def inferred(graph: onnx.GraphProto, feeds: Mapping[str, NDArray[Any]], model: onnx.ModelProto) -> Tensors:
    """What shape inference tells of every tensor; weights take part by their shapes only."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    inputs = [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in feeds.items()]
    return _known(inferred_values(graph, inputs, model))


def _known(values: Sequence[onnx.ValueInfoProto]) -> Tensors:
    known: Tensors = {}
    for value in values:
        tensor_type = value.type.tensor_type
        dims = tensor_type.shape.dim
        if tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            known[value.name] = tuple(d.dim_value for d in dims), tensor_type.elem_type
    return known


def inferred_values(
    graph: onnx.GraphProto,
    inputs: Sequence[onnx.ValueInfoProto],
    model: onnx.ModelProto,
    *,
    stated: Sequence[onnx.ValueInfoProto] = (),
    untold: Collection[str] = (),
) -> list[onnx.ValueInfoProto]:
    """The value infos of all tensors, with inputs of these shapes; large weights are not copied.

    `stated` are infos to start from; of initializers `untold` the shapes alone are known.
    """
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.output.extend(onnx.ValueInfoProto(name=o.name) for o in graph.output)
    light.graph.input.extend(inputs)
    light.graph.value_info.extend(stated)
    for tensor in graph.initializer:
        if prod(tensor.dims) <= SMALL and tensor.name not in untold:
            light.graph.initializer.append(tensor)
        light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    done = shape_inference.infer_shapes(light, data_prop=True).graph
    return [*done.input, *done.value_info, *done.output]


def _bytes(shape: Shape, kind: int) -> int:
    return prod(shape) * np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize if kind else 0
