"""Wrong conversions: each takes a right one and yields copies with one thing wrong, one for every place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.helper import get_attribute_value, make_attribute

Array = NDArray[Any]
Model = onnx.ModelProto
Mutation = Callable[[Model, Model], Iterator[Model]]

KINDS: dict[str, Mutation] = {}


def kind(function: Mutation) -> Mutation:
    """Enter a function (original, right conversion) -> wrong conversions under its name."""
    KINDS[function.__name__.replace("_", " ")] = function
    return function


# ------------------------------------------------ editing a copy


def copy_of(model: Model) -> Model:
    copy = Model()
    copy.CopyFrom(model)
    return copy


def attrs_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: get_attribute_value(a) for a in node.attribute}


def nodes_of(model: Model, *ops: str) -> list[tuple[int, onnx.NodeProto]]:
    """The nodes of these ops with their places."""
    return [(i, n) for i, n in enumerate(model.graph.node) if n.op_type in ops]


def lifted(original: Model, model: Model) -> list[tuple[int, onnx.NodeProto]]:
    """The Convs that the conversion made."""
    had = {n.output[0] for n in original.graph.node if n.op_type == "Conv"}
    return [(i, n) for i, n in nodes_of(model, "Conv") if n.output[0] not in had]


def value(model: Model, name: str) -> Array:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def with_value(model: Model, place: int, slot: int, array: Array) -> Model:
    """A node given another constant of its own, so that a shared one stays right elsewhere.

    An equal constant leaves the model as it is, byte for byte.
    """
    copy = copy_of(model)
    node = copy.graph.node[place]
    old = value(model, node.input[slot])
    if np.array_equal(old, array):
        return copy
    node.input[slot] = f"{node.input[slot]}/wrong"
    wrong = np.ascontiguousarray(array, dtype=old.dtype)
    copy.graph.initializer.append(numpy_helper.from_array(wrong, node.input[slot]))
    return copy


def with_attrs(model: Model, place: int, **attrs: Any) -> Model:
    """A node with other attributes; None takes one away."""
    copy = copy_of(model)
    node = copy.graph.node[place]
    kept = [a for a in node.attribute if a.name not in attrs]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(make_attribute(k, v) for k, v in attrs.items() if v is not None)
    return copy


def with_op(model: Model, place: int, op: str) -> Model:
    copy = with_attrs(model, place)
    copy.graph.node[place].op_type = op
    return copy


def without(model: Model, place: int) -> Model:
    """A node that gives its first input back."""
    copy = copy_of(model)
    node = copy.graph.node[place]
    node.op_type = "Identity"
    del node.input[1:], node.attribute[:], node.output[1:]
    return copy


def behind(model: Model, tensor: str, *lines: str, **constants: Array) -> Model:
    """A copy in which these lines of ONNX text, which read `was`, make the tensor."""
    copy = copy_of(model)
    place = next(i for i, n in enumerate(copy.graph.node) if tensor in n.output)
    outputs = copy.graph.node[place].output
    outputs[list(outputs).index(tensor)] = "was"
    for k, line in enumerate(lines):
        node = onnx.parser.parse_node(line)
        outs = [tensor if o == "y" else o for o in node.output]
        del node.output[:]
        node.output.extend(outs)
        copy.graph.node.insert(place + 1 + k, node)
    copy.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    return copy


def score_maps(original: Model, model: Model) -> list[tuple[str, int]]:
    """The outputs that the conversion made maps, with their rank."""
    before = {o.name: len(o.type.tensor_type.shape.dim) for o in original.graph.output}
    after = [(o.name, len(o.type.tensor_type.shape.dim)) for o in model.graph.output]
    return [(name, rank) for name, rank in after if rank > before[name]]
