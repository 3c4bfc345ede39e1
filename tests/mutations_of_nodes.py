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
from onnx import NodeProto, numpy_helper
from onnx.helper import make_node

POOLS = ("AveragePool", "MaxPool")



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
        yield behind(model, name, "y = Slice (was, start, end, axis, step)", **ints, axis=np.array([rank - 1]))


@kind
def head_of_stride_two(original: Model, model: Model) -> Iterator[Model]:
    for place, node in [*lifted(original, model), *head_pools(original, model)]:
        attrs = attrs_of(node)
        yield with_attrs(model, place, strides=[2 * s for s in attrs["strides"]])


@kind
def head_dilated(original: Model, model: Model) -> Iterator[Model]:
    for place, node in lifted(original, model):
        shape = value(model, node.input[1]).shape[2:]
        if max(shape) > 1:
            yield with_attrs(model, place, dilations=[2] * len(shape))


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


# ------------------------------------------------ windows of the trunk and of the head


@kind
def padding_left_to_auto_pad(original: Model, model: Model) -> Iterator[Model]:
    """At a stride of 1 auto_pad means the same pads at every size."""
    modes = {n.output[0]: attrs_of(n).get("auto_pad") for n in original.graph.node}
    for place, node in nodes_of(model, "Conv", *POOLS):
        if modes.get(node.output[0]) and max(attrs_of(node).get("strides", [1])) > 1:
            yield with_attrs(model, place, pads=None, auto_pad=modes[node.output[0]])


@kind
def padding_at_the_other_end(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "Conv", *POOLS):
        pads = list(attrs_of(node).get("pads", []))
        half = len(pads) // 2
        if pads[:half] != pads[half:]:
            yield with_attrs(model, place, pads=[*pads[half:], *pads[:half]])


@kind
def padding_dropped(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "Conv", *POOLS):
        if any(attrs_of(node).get("pads", [])):
            yield with_attrs(model, place, pads=None)


@kind
def pool_counts_its_padding_otherwise(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "AveragePool"):
        attrs = attrs_of(node)
        if any(attrs.get("pads", [])):
            yield with_attrs(model, place, count_include_pad=1 - attrs.get("count_include_pad", 0))


@kind
def cut_window_rounded_the_other_way(original: Model, model: Model) -> Iterator[Model]:
    """Only where ceil_mode adds a cell to the window: elsewhere full windows see no difference."""
    for place, node in nodes_of(model, *POOLS):
        if attrs_of(node).get("ceil_mode") and original.graph.name == "truncated":
            yield with_attrs(model, place, ceil_mode=0)


def head_pools(original: Model, model: Model) -> list[tuple[int, NodeProto]]:
    """The pools that the conversion made of a global pool or a reduction."""
    had = {n.output[0]: n.op_type for n in original.graph.node}
    return [(i, n) for i, n in nodes_of(model, *POOLS) if had.get(n.output[0]) != n.op_type]


@kind
def pool_of_the_whole_map(original: Model, model: Model) -> Iterator[Model]:
    for place, node in head_pools(original, model):
        kept = dict.fromkeys(attrs_of(node))
        yield with_attrs(with_op(model, place, f"Global{node.op_type}"), place, **kept)


@kind
def pool_of_the_whole_map_at_every_cell(original: Model, model: Model) -> Iterator[Model]:
    """As the global pool, but spread over the map again, so that no shape tells."""
    for _, node in head_pools(original, model):
        lines = ("all = GlobalAveragePool (was)", "shape = Shape (was)", "y = Expand (all, shape)")
        yield behind(model, node.output[0], *lines)


@kind
def window_of_a_pool_too_small(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, *POOLS):
        shape = list(attrs_of(node)["kernel_shape"])
        if shape[-1] > 1 and not any(attrs_of(node).get("pads", [])):
            yield with_attrs(model, place, kernel_shape=[*shape[:-1], shape[-1] - 1])


@kind
def pool_of_another_kind(original: Model, model: Model) -> Iterator[Model]:
    other = {"AveragePool": "MaxPool", "MaxPool": "AveragePool"}
    for place, node in nodes_of(model, *POOLS):
        if node.op_type == "MaxPool" or "count_include_pad" not in attrs_of(node):
            yield with_op(model, place, other[node.op_type])


@kind
def groups_in_another_order(original: Model, model: Model) -> Iterator[Model]:
    for place, node in nodes_of(model, "Conv"):
        groups = attrs_of(node).get("group", 1)
        if groups > 1:
            kernel = value(model, node.input[1])
            yield with_value(model, place, 1, np.roll(kernel, len(kernel) // groups, 0))


@kind
def kernel_of_the_trunk_flipped(original: Model, model: Model) -> Iterator[Model]:
    made = {n.output[0] for _, n in lifted(original, model)}
    for place, node in nodes_of(model, "Conv"):
        if node.output[0] not in made:
            kernel = value(model, node.input[1])
            yield with_value(model, place, 1, np.flip(kernel, tuple(range(2, kernel.ndim))))


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
