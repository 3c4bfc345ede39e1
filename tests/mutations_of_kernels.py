"""Wrong conversions in the kernels and biases that matrices became."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from mutations import (
    Array,
    Model,
    attrs_of,
    copy_of,
    kind,
    lifted,
    nodes_of,
    value,
    with_attrs,
    with_value,
)

# ------------------------------------------------ the kernel of a lifted matrix


def kernels(original: Model, model: Model, change: Callable[[Array], Array | None]) -> Iterator[Model]:
    """Every lifted kernel `[outputs, channels, *cells]` changed; None where there is nothing to change."""
    for place, node in lifted(original, model):
        wrong = change(value(model, node.input[1]))
        if wrong is not None:
            yield with_value(model, place, 1, wrong)


@kind
def kernel_transposed(original: Model, model: Model) -> Iterator[Model]:
    return kernels(original, model, lambda k: np.moveaxis(k, -1, -2).reshape(k.shape) if k.ndim > 3 else None)


@kind
def height_and_width_swapped(original: Model, model: Model) -> Iterator[Model]:
    for place, node in lifted(original, model):
        kernel = value(model, node.input[1])
        if kernel.ndim > 3 and kernel[0, 0].size > 1:
            turned = np.moveaxis(kernel, -1, -2)
            yield with_attrs(with_value(model, place, 1, turned), place, kernel_shape=turned.shape[2:])


@kind
def flatten_order_of_channels_last(original: Model, model: Model) -> Iterator[Model]:
    def change(k: Array) -> Array:
        return np.moveaxis(k.reshape(k.shape[0], *k.shape[2:], k.shape[1]), -1, 1)

    return kernels(original, model, change)


@kind
def channels_reversed(original: Model, model: Model) -> Iterator[Model]:
    return kernels(original, model, lambda k: k[:, ::-1])


@kind
def neighbouring_channels_swapped(original: Model, model: Model) -> Iterator[Model]:
    return kernels(original, model, lambda k: k[:, [1, 0, *range(2, k.shape[1])]] if k.shape[1] > 1 else None)


@kind
def kernel_flipped(original: Model, model: Model) -> Iterator[Model]:
    return kernels(original, model, lambda k: np.flip(k, tuple(range(2, k.ndim))))


@kind
def kernel_flipped_along_one_axis(original: Model, model: Model) -> Iterator[Model]:
    for place, node in lifted(original, model):
        kernel = value(model, node.input[1])
        for axis in range(2, kernel.ndim):
            yield with_value(model, place, 1, np.flip(kernel, axis))


@kind
def kernel_moved_by_one_cell(original: Model, model: Model) -> Iterator[Model]:
    return kernels(original, model, lambda k: np.roll(k, 1, -1))


@kind
def last_cell_of_the_kernel_lost(original: Model, model: Model) -> Iterator[Model]:
    def change(k: Array) -> Array | None:
        wrong = k.reshape(*k.shape[:2], -1).copy()
        wrong[..., -1] = 0
        return wrong.reshape(k.shape) if k[0, 0].size > 1 else None

    return kernels(original, model, change)


@kind
def one_class_given_the_row_of_another(original: Model, model: Model) -> Iterator[Model]:
    return kernels(original, model, lambda k: k[[1, *range(1, len(k))]] if len(k) > 1 else None)


@kind
def classes_rolled(original: Model, model: Model) -> Iterator[Model]:
    return kernels(original, model, lambda k: np.roll(k, 1, 0))


@kind
def kernel_of_the_wrong_sign(original: Model, model: Model) -> Iterator[Model]:
    return kernels(original, model, lambda k: -k)


@kind
def kernel_off_by_a_thousandth(original: Model, model: Model) -> Iterator[Model]:
    return kernels(original, model, lambda k: k * 1.001)


@kind
def weights_of_another_layer(original: Model, model: Model) -> Iterator[Model]:
    made = lifted(original, model)
    for i, (place, node) in enumerate(made):
        for _, other in made[i + 1 :]:
            theirs = value(model, other.input[1])
            if theirs.shape == value(model, node.input[1]).shape:
                yield with_value(model, place, 1, theirs)


@kind
def transposition_of_the_matrix_ignored(original: Model, model: Model) -> Iterator[Model]:
    gemms = {n.output[0]: n for _, n in nodes_of(original, "Gemm", "MatMul")}
    weights = {t.name for t in original.graph.initializer}
    for place, node in lifted(original, model):
        gemm = gemms.get(node.output[0])
        if gemm is None or gemm.input[1] not in weights:
            continue
        matrix, kernel = value(original, gemm.input[1]), value(model, node.input[1])
        rows = matrix.T if attrs_of(gemm).get("transB") else matrix
        if matrix.size == kernel.size:
            yield with_value(model, place, 1, rows.reshape(kernel.shape))


# ------------------------------------------------ scalars and biases


def biases(original: Model, model: Model, change: Callable[[Array], Array]) -> Iterator[Model]:
    for place, node in lifted(original, model):
        if len(node.input) > 2:
            yield with_value(model, place, 2, change(value(model, node.input[2])))


@kind
def bias_dropped(original: Model, model: Model) -> Iterator[Model]:
    for place, node in lifted(original, model):
        if len(node.input) > 2:
            copy = copy_of(model)
            del copy.graph.node[place].input[2:]
            yield copy


@kind
def bias_of_the_neighbour(original: Model, model: Model) -> Iterator[Model]:
    return biases(original, model, lambda b: np.roll(b, 1))


@kind
def bias_of_the_wrong_sign(original: Model, model: Model) -> Iterator[Model]:
    return biases(original, model, lambda b: -b)


@kind
def bias_of_one_class_for_all(original: Model, model: Model) -> Iterator[Model]:
    return biases(original, model, lambda b: np.full_like(b, b[0]))


def scaled(original: Model, model: Model, name: str, slot: int) -> Iterator[Model]:
    """The factor `name` of a Gemm taken out of the lifted kernel or bias again."""
    factors = {n.output[0]: attrs_of(n).get(name, 1.0) for _, n in nodes_of(original, "Gemm")}
    for place, node in lifted(original, model):
        factor = factors.get(node.output[0], 1.0)
        if factor != 1 and len(node.input) > slot:
            yield with_value(model, place, slot, value(model, node.input[slot]) / factor)


@kind
def alpha_ignored(original: Model, model: Model) -> Iterator[Model]:
    return scaled(original, model, "alpha", 1)


@kind
def beta_ignored(original: Model, model: Model) -> Iterator[Model]:
    return scaled(original, model, "beta", 2)


@kind
def norm_of_features_taken_per_channel(original: Model, model: Model) -> Iterator[Model]:
    """Each feature's scale taken from the place of its channel, as a BatchNormalization of a map would."""
    norms = {n.output[0]: n for _, n in nodes_of(original, "BatchNormalization")}
    gemms = {n.output[0]: n for _, n in nodes_of(original, "Gemm")}
    for place, node in lifted(original, model):
        gemm = gemms.get(node.output[0])
        norm = None if gemm is None else norms.get(gemm.input[0])
        kernel = value(model, node.input[1])
        if gemm is None or norm is None or kernel[0, 0].size == 1:
            continue
        scale, shift, mean, var = (value(original, i) for i in norm.input[1:])
        slope = scale / np.sqrt(var + attrs_of(norm)["epsilon"])
        rows = value(original, gemm.input[1])
        channel = np.repeat(np.arange(kernel.shape[1]), kernel[0, 0].size)
        wrong = with_value(model, place, 1, (rows * slope[channel]).reshape(kernel.shape))
        moved = rows @ (shift - mean * slope)[channel] + value(original, gemm.input[2])
        yield with_value(wrong, place, 2, moved)
