"""Wrong conversions in what lies around the kernels: windows, softmaxes, activations, positions, outputs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
from mutations import (
    Model,
    attrs_of,
    behind,
    copy_of,
    kind,
    lifted,
    nodes_of,
    score_maps,
    value,
    with_attrs,
    with_op,
    with_value,
    without,
)
from onnx import numpy_helper
from onnx.helper import make_node


def readers(model: Model, tensor: str) -> set[str]:
    """The ops that read a tensor."""
    return {n.op_type for n in model.graph.node if tensor in n.input}


# ------------------------------------------------ positions


@kind
def map_without_its_first_row(original: Model, model: Model) -> Iterator[Model]:
    ints = {"one": np.array([1]), "end": np.array([2**31])}
    for name, rank in score_maps(original, model):
        yield behind(model, name, "y = Slice (was, one, end, axis)", **ints, axis=np.array([rank - 1]))


@kind
def map_moved_by_one_cell(original: Model, model: Model) -> Iterator[Model]:
    ints = {"one": np.array([1]), "end": np.array([2**31]), "zero": np.array([0])}
    for name, rank in score_maps(original, model):
        lines = (
            "tail = Slice (was, one, end, axis)",
            "first = Slice (was, zero, one, axis)",
            f"y = Concat <axis = {rank - 1}> (tail, first)",
        )
        yield behind(model, name, *lines, **ints, axis=np.array([rank - 1]))


@kind
def map_turned(original: Model, model: Model) -> Iterator[Model]:
    for name, rank in score_maps(original, model):
        if rank > 3:
            perm = [*range(rank - 2), rank - 1, rank - 2]
            yield behind(model, name, f"y = Transpose <perm = {perm}> (was)")


@kind
def map_mirrored(original: Model, model: Model) -> Iterator[Model]:
    ints = {"start": np.array([-1]), "end": np.array([-(2**31)]), "step": np.array([-1])}
    for name, rank in score_maps(original, model):
        yield behind(
            model, name, "y = Slice (was, start, end, axis, step)", **ints, axis=np.array([rank - 1])
        )


# ------------------------------------------------ softmax


@kind
def softmax_over_another_axis(original: Model, model: Model) -> Iterator[Model]:
    ranks = dict(score_maps(original, model))
    for place, node in nodes_of(model, "Softmax", "LogSoftmax"):
        axis = attrs_of(node)["axis"]
        rank = max(ranks.values())
        for other in range(1, rank):
            if other != axis:
                yield with_attrs(model, place, axis=other)


@kind
def softmax_over_the_whole_map(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "Softmax", "LogSoftmax"):
        lines = (
            "shape = Shape (was)",
            "line = Flatten <axis = 1> (was)",
            f"soft = {node.op_type} <axis = 1> (line)",
            "y = Reshape (soft, shape)",
        )
        yield behind(without(model, place), node.output[0], *lines)


@kind
def softmax_lost(original: Model, model: Model) -> Iterator[Model]:
    for place, _ in nodes_of(model, "Softmax", "LogSoftmax"):
        yield without(model, place)


@kind
def softmax_for_log_softmax(original: Model, model: Model) -> Iterator[Model]:
    other = {"Softmax": "LogSoftmax", "LogSoftmax": "Softmax"}
    for place, node in nodes_of(model, *other):
        yield with_op(model, place, other[node.op_type])


# ------------------------------------------------ activations and norms


@kind
def relu_lost(original: Model, model: Model) -> Iterator[Model]:
    """Not before a largest value, which is positive all the same, nor before bounds that cut lower still."""
    for place, node in nodes_of(model, "Relu"):
        if not readers(model, node.output[0]) & {"MaxPool", "Clip"}:
            yield without(model, place)


@kind
def relu_too_many(original: Model, model: Model) -> Iterator[Model]:
    """Not before another one, nor before an ArgMax, which reads the largest score only."""
    for _, node in lifted(original, model):
        if not readers(model, node.output[0]) & {"Relu", "Clip"}:
            yield behind(model, node.output[0], "y = Relu (was)")


@kind
def activation_of_another_kind(original: Model, model: Model) -> Iterator[Model]:
    other = {"Relu": "Softplus", "Sigmoid": "Tanh", "Tanh": "Sigmoid"}
    for place, node in nodes_of(model, *other):
        yield with_op(model, place, other[node.op_type])


@kind
def slope_of_prelu_dropped(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "PRelu"):
        yield with_value(model, place, 1, 0 * value(model, node.input[1]))


@kind
def slopes_of_prelu_rolled(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "PRelu"):
        yield with_value(model, place, 1, np.roll(value(model, node.input[1]), 1, 0))


@kind
def bound_of_clip_dropped(original: Model, model: Model) -> Iterator[Model]:
    for place, _ in nodes_of(model, "Clip"):
        yield without(model, place)


@kind
def dropout_in_training(original: Model, model: Model) -> Iterator[Model]:
    if model.opset_import[0].version >= 12:
        for _, node in lifted(original, model):
            line = "y = Dropout <seed = 1> (was, ratio, training)"
            settings = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
            yield behind(model, node.output[0], line, **settings)


@kind
def epsilon_of_another_norm(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "BatchNormalization"):
        yield with_attrs(model, place, epsilon=attrs_of(node).get("epsilon", 1e-5) * 10)


@kind
def mean_and_shift_of_a_norm_swapped(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "BatchNormalization"):
        copy = copy_of(model)
        copy.graph.node[place].input[2], copy.graph.node[place].input[3] = node.input[3], node.input[2]
        yield copy


@kind
def local_norm_of_another_size(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "LRN"):
        yield with_attrs(model, place, size=attrs_of(node)["size"] + 2)


# ------------------------------------------------ what is joined, gathered, scaled, put out


@kind
def order_of_a_join_changed(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "Concat", "Sub", "Div"):
        for i, j in pairwise(range(len(node.input))):
            copy = copy_of(model)
            names = copy.graph.node[place].input
            names[i], names[j] = node.input[j], node.input[i]
            yield copy


@kind
def one_side_of_a_sum_lost(original: Model, model: Model) -> Iterator[Model]:
    for place, _ in nodes_of(model, "Add", "Sub", "Mul", "Div"):
        yield without(model, place)


@kind
def channels_shuffled_the_other_way(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "Gather"):
        order = value(model, node.input[1])
        if len(order) > 2 and not np.array_equal(np.argsort(order), order):
            yield with_value(model, place, 1, np.argsort(order))


@kind
def outputs_swapped(original: Model, model: Model) -> Iterator[Model]:
    for one, other in combinations([o.name for o in model.graph.output], 2):
        copy = copy_of(model)
        swap = {one: other, other: one}
        for node in copy.graph.node:
            for names in (node.input, node.output):
                new = [swap.get(name, name) for name in names]
                del names[:]
                names.extend(new)
        yield copy


@kind
def channels_of_the_image_swapped(original: Model, model: Model) -> Iterator[Model]:
    image = model.graph.input[0]
    dims = [d.dim_value for d in image.type.tensor_type.shape.dim]
    axis = next((k for k in (1, len(dims) - 1) if dims[k] > 1), None)
    if axis is None:
        return
    copy = copy_of(model)
    for node in copy.graph.node:
        names = ["turned" if name == image.name else name for name in node.input]
        del node.input[:]
        node.input.extend(names)
    order = np.arange(dims[axis] - 1, -1, -1)
    copy.graph.initializer.append(numpy_helper.from_array(order, "order"))
    copy.graph.node.insert(0, make_node("Gather", [image.name, "order"], ["turned"], axis=axis))
    yield copy


@kind
def least_for_largest(original: Model, model: Model) -> Iterator[Model]:
    for place, _ in nodes_of(model, "ArgMax"):
        yield with_op(model, place, "ArgMin")
