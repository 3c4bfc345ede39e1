"""Ops that multiply features by a matrix: Gemm, MatMul, Einsum."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from surgery.graph import Builder, Op
from surgery.positions import CONV_TYPES, flat, materialize, offsets, reading
from surgery.rules import Array, EndsTrunk, Folded, Lifted, Map, NoRule, Source, geometry, lift
from surgery.weights import Matrix, matrix_of


@geometry.rule("Gemm")
def end_at_gemm(op: Op, inputs: list[Any]) -> Map:
    """Gemm takes two dims only, so positions are features by then."""
    raise EndsTrunk("it multiplies by a matrix")


@geometry.rule("MatMul")
def multiply_channels(op: Op, inputs: list[Any]) -> Map:
    """A MatMul over the last dim keeps the positions where that dim is the channels."""
    x, weight = inputs
    if not isinstance(x, Map) or not isinstance(weight, np.ndarray) or weight.ndim != 2:
        raise EndsTrunk("it multiplies two tensors that both depend on the image")
    if len(x.shape) - 1 in x.axes:
        raise EndsTrunk("it multiplies over positions")
    return x.with_shape(op.out_shape())


@geometry.rule("Einsum")
def sum_channels(op: Op, inputs: list[Any]) -> Map:
    """A product with a constant that keeps every letter of space in its place keeps the positions."""
    operands, result = letters(op)
    maps = [(x, word) for x, word in zip(inputs, operands, strict=True) if isinstance(x, Map)]
    if len(maps) != 1:
        raise EndsTrunk("it multiplies two tensors that both depend on the image")
    x, word = maps[0]
    space = [word[a] for a in x.axes]
    shared = any(letter in other for other in operands if other is not word for letter in [word[0], *space])
    if shared or result[:1] != word[:1] or any(result.count(s) != 1 or word.count(s) != 1 for s in space):
        raise EndsTrunk("it sums over positions")
    return Map(op.out_shape(), tuple(result.index(s) for s in space), x.geometry)


# ------------------------------------------------------------------ lifted


@lift.rule("Gemm")
def gemm(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """alpha * A B + beta * C as a Conv: B's rows laid over the window's cells, C its bias (ONNX Gemm)."""
    x, matrix = inputs[0], inputs[1]
    addend = inputs[2] if len(inputs) > 2 else None
    if not isinstance(matrix, np.ndarray) or not isinstance(x, (Folded, Lifted)):
        raise NoRule("its matrix depends on the image")
    if op.attr("transA"):
        raise NoRule("transA makes features of the batch")
    weight = matrix_of(op, 1, lambda w: w if op.attr("transB") else w.T)
    alpha, beta = float(op.attr("alpha")), float(op.attr("beta"))
    if alpha != 1:
        weight = Matrix(_times(weight.values, alpha))
    shape = (len(weight.rows),)
    if isinstance(addend, (Folded, Lifted)):
        return Lifted(_with_addend(build, linear(build, x, weight, None), addend, weight, beta), shape, shape)
    bias = None
    if addend is not None:
        if addend.ndim == 2 and addend.shape[0] != 1:
            raise NoRule(f"its bias {list(addend.shape)} differs from image to image of the batch")
        bias = _times(np.broadcast_to(addend.reshape(-1), shape), beta)
    kept = op.node.inputs[2] if beta == 1 and bias is not None and _dequantized(op, shape) else bias
    return Lifted(linear(build, x, weight, kept), shape, shape)


def _with_addend(build: Builder, tensor: Any, addend: Folded | Lifted, weight: Matrix, beta: float) -> Any:
    """A bias that depends on the image, added at every position."""
    more = flat(build, materialize(build, addend))
    if beta != 1:
        more = build.emit("Mul", [more, build.constant("beta", np.array(beta, weight.values.dtype))])
    return build.emit("Add", [tensor, more])


def _times(value: Array, factor: float) -> Array:
    if factor == 1:
        return value
    scaled: Array = (value * np.asarray(factor, value.dtype)).astype(value.dtype)
    return scaled


def _dequantized(op: Op, shape: tuple[int, ...]) -> bool:
    """Whether the bias is made of int32 by a DequantizeLinear; a runtime that fuses it wants to see that."""
    tensor = op.node.inputs[2]
    made = tensor.inputs[0].op if tensor.inputs else ""
    return made == "DequantizeLinear" and op.in_shape(2) == shape


@lift.rule("MatMul")
def matmul(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A product of all features with one matrix as a Conv; any other folds positions into the batch."""
    arranged = _as_rows(op, inputs)
    if arranged is None:
        raise NoRule(no_matrix(op, inputs))
    at, arrange = arranged
    weight = matrix_of(op, 1 - at, arrange)
    return Lifted(linear(build, inputs[at], weight, None), op.out_shape()[1:], (len(weight.rows),))


def _as_rows(op: Op, inputs: list[Any]) -> tuple[int, Any] | None:
    """Which input holds the features, and how the other becomes `[outputs, features]`; None if it cannot."""
    left, right = inputs[0], inputs[1]
    for at, x, value in ((0, left, right), (1, right, left)):
        if not isinstance(value, np.ndarray) or not isinstance(x, (Folded, Lifted)) or not x.shape:
            continue
        lead = prod(value.shape[:-2])
        # the dim it sums over is the last of the left side and the last but one of the right
        others = x.shape[:-1] if at == 0 else (*x.shape[:-2], *x.shape[-1:])
        if lead == 1 and prod(others) == 1 and (at == 0 or len(x.shape) > 1):
            if value.ndim == 1:
                return at, lambda w: w.reshape(1, -1)
            return at, _last_two if at == 1 else lambda w: _last_two(w).T
    return None


def _last_two(value: Array) -> Array:
    return value.reshape(value.shape[-2:])


def no_matrix(op: Op, inputs: list[Any]) -> str:
    """Why a product is none of all features with one matrix."""
    shapes = " and ".join(str(list(op.in_shape(i))) for i in range(2))
    if not any(isinstance(v, np.ndarray) for v in inputs):
        return f"both its sides, {shapes}, depend on the image"
    return (
        f"of {shapes} it makes a product per row, not one of all features with one matrix (a larger image "
        "would give it more rows, or sizes that do not match, as in MatMul 51200 vs 25088)"
    )


@lift.rule("Einsum")
def einsum(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A sum of all features against one matrix as a Conv; any other folds positions into the batch."""
    operands, result = letters(op)
    moving = [i for i, v in enumerate(inputs) if not isinstance(v, np.ndarray)]
    if len(moving) != 1 or len(inputs) != 2:
        raise NoRule(f"{op.attr('equation')!r} multiplies more than one tensor by one constant")
    at = moving[0]
    word, weight = operands[at], operands[1 - at]
    features = [f for f in word[1:] if f in weight]
    made = [letter for letter in result[1:] if letter not in word]
    sizes = dict(zip(word[1:], inputs[at].shape, strict=False))
    once = all(len(set(w)) == len(w) for w in (word, weight, result))
    summed = set(weight) == {*made, *features} and not any(sizes[f] != 1 for f in word[1:] if f in result)
    alone = all(sizes[f] == 1 for f in word[1:] if f not in features)
    if not (once and summed and alone) or result[:1] != word[:1]:
        raise NoRule(f"{op.attr('equation')!r} is no product of all features with one matrix")
    order = [weight.index(letter) for letter in [*made, *features]]
    count = prod(op.in_shape(1 - at)[weight.index(letter)] for letter in made)
    rows = matrix_of(op, 1 - at, lambda w: np.transpose(w, order).reshape(count, -1))
    return Lifted(linear(build, inputs[at], rows, None), op.out_shape()[1:], (count,))


def letters(op: Op) -> tuple[list[str], str]:
    """An Einsum's operands and result in letters of one dim each, an ellipsis written out in digits."""
    equation = str(op.attr("equation")).replace(" ", "")
    left, arrow, result = equation.partition("->")
    words = left.split(",")
    if not arrow:
        single = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
        result = ("..." if "..." in left else "") + "".join(single)
    ranks = [len(op.in_shape(i)) for i in range(len(words))]
    hidden = [rank - len(word.replace("...", "")) for rank, word in zip(ranks, words, strict=True)]
    widest = max((h for h, word in zip(hidden, words, strict=True) if "..." in word), default=0)
    names = "0123456789"[:widest]
    spelled = [w.replace("...", names[len(names) - h :]) for w, h in zip(words, hidden, strict=True)]
    return spelled, result.replace("...", names)


# ------------------------------------------------------------------ a matrix as a Conv


def linear(build: Builder, x: Folded | Lifted, weight: Matrix, bias: Any) -> Any:
    """`rows @ features + bias` at every position, as one Conv for each map the features come from.

    The bias is an array, a tensor of the graph, or None.
    """
    if isinstance(x, Folded) and not x.plain:
        weight, bias = _with_scale(x, weight.values, bias)
    total = None
    dtype = weight.rows.dtype if weight.scale is None else weight.scale.dtype
    if dtype not in CONV_TYPES:
        known = " and ".join(CONV_TYPES)
        raise NoRule(f"its matrix is {dtype}, and onnxruntime has a Conv for {known} only; use float32")
    for source, kernel in kernels(build, x, weight):
        part = _conv(build, source, weight.tensor(build, kernel), bias)
        total = part if total is None else build.emit("Add", [total, part])
        bias = None
    return total


def _with_scale(x: Folded, rows: Array, bias: Any) -> tuple[Matrix, Array | None]:
    """The matrix and bias that take in what the features are to be multiplied by and moved by."""
    if bias is not None and not isinstance(bias, np.ndarray):
        raise NoRule("its bias is quantized, and its features are scaled one by one")
    if x.shift is not None:
        moved = rows.astype(np.float64) @ x.shift.ravel().astype(np.float64)
        bias = (moved if bias is None else moved + bias).astype(rows.dtype)
    if x.scale is not None:
        rows = (rows * x.scale.ravel()).astype(rows.dtype)
    return Matrix(rows), bias


def kernels(build: Builder, x: Folded | Lifted, weight: Matrix) -> Iterator[tuple[Source, Array]]:
    """The maps that the features come from, each with the matrix's columns laid over its windows."""
    if isinstance(x, Lifted):
        source = Source.single(flat(build, x), weight.rows.shape[1], build.space)
        yield source, weight.rows.reshape(*weight.rows.shape, *(1,) * build.space)
        return
    for source, start in zip(x.sources, offsets(x), strict=False):
        yield source, _kernel(weight, x.index.ravel() - start, source)


def _kernel(weight: Matrix, index: Array, source: Source) -> Array:
    """The matrix's columns laid at the cells their features come from: `[outputs, channels, *cells]`.

    Where the order is Flatten's own the bytes stay as they are, and only their shape changes.
    """
    rows = weight.rows
    shape = (len(rows), source.channels, *source.cells)
    kernel: Array
    if index.size == source.size and np.array_equal(index, np.arange(source.size)):
        kernel = rows.reshape(shape)
        return kernel
    inside = np.flatnonzero((index >= 0) & (index < source.size))
    places = index[inside]
    kernel = np.tile(weight.blank, (source.size, 1))
    if np.unique(places).size == places.size:
        kernel[places] = rows.T[inside]
    elif rows.dtype.kind == "f":
        np.add.at(kernel, places, rows.T[inside])
    else:
        raise NoRule("it reads a feature twice, by a matrix of small integers whose sum they cannot hold")
    kernel = np.ascontiguousarray(kernel.T).reshape(shape)
    return kernel


def _conv(build: Builder, source: Source, weight: Any, bias: Any) -> Any:
    inputs = [source.tensor, weight]
    if bias is not None:
        inputs.append(build.constant("bias", bias) if isinstance(bias, np.ndarray) else bias)
    return build.emit("Conv", inputs, reading(source))
