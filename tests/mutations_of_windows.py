"""Wrong conversions in the windows of the trunk and of the head: pads, pools, strides, kernels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from mutations import (
    Model,
    attrs_of,
    behind,
    kind,
    lifted,
    nodes_of,
    value,
    with_attrs,
    with_op,
    with_value,
)
from onnx import NodeProto

POOLS = ("AveragePool", "MaxPool")


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
