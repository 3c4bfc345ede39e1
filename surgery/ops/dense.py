"""Ops that multiply features by a matrix: Gemm, MatMul."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph import Builder, Op
from surgery.positions import flat, offsets, reading
from surgery.rules import Array, EndsTrunk, Folded, Lifted, Map, NoRule, Source, geometry, lift


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


@lift.rule("Gemm")
def gemm(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """alpha * A B + beta * C as a Conv: B's rows laid over the window's cells, C its bias (ONNX Gemm)."""
    x, matrix = inputs[0], inputs[1]
    addend = inputs[2] if len(inputs) > 2 else None
    if not isinstance(matrix, np.ndarray) or not isinstance(x, (Folded, Lifted)):
        raise NoRule("its matrix depends on the image")
    if op.attr("transA"):
        raise NoRule("transA makes features of the batch")
    if addend is not None and not isinstance(addend, np.ndarray):
        raise NoRule("its bias depends on the image")
    rows = matrix if op.attr("transB") else matrix.T
    rows = _times(rows, op.attr("alpha"))
    bias = None
    if addend is not None:
        flat_bias = np.asarray(addend)
        if flat_bias.ndim == 2 and flat_bias.shape[0] != 1:
            raise NoRule(f"its bias {list(flat_bias.shape)} differs from image to image of the batch")
        bias = _times(np.broadcast_to(flat_bias.reshape(-1), (len(rows),)), op.attr("beta"))
    return Lifted(linear(build, x, rows, bias), (len(rows),), (len(rows),))


def _times(value: Array, factor: float) -> Array:
    if factor == 1:
        return value
    scaled: Array = (value * np.asarray(factor, value.dtype)).astype(value.dtype)
    return scaled


@lift.rule("MatMul")
def matmul(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A product with a matrix as a Conv without bias."""
    x, matrix = inputs
    if not isinstance(matrix, np.ndarray) or not isinstance(x, (Folded, Lifted)):
        raise NoRule("both its sides depend on the image, or its left side is the constant one")
    if matrix.ndim != 2:
        raise NoRule(f"its matrix has shape {list(matrix.shape)}")
    if any(d != 1 for d in x.shape[:-1]):
        raise NoRule(f"it multiplies the last dim of {list(x.shape)}: one product per token, not per window")
    return Lifted(linear(build, x, matrix.T, None), op.out_shape()[1:], (matrix.shape[1],))


def linear(build: Builder, x: Folded | Lifted, rows: Array, bias: Array | None) -> Any:
    """`rows @ features + bias` at every position, as one Conv for each map the features come from."""
    if isinstance(x, Lifted):
        kernel = rows.reshape(*rows.shape, *(1,) * build.space)
        return _conv(build, Source.single(flat(build, x), rows.shape[1], build.space), kernel, bias)
    if x.shift is not None:
        moved = rows.astype(np.float64) @ x.shift.ravel().astype(np.float64)
        bias = (moved if bias is None else moved + bias).astype(rows.dtype)
    if x.scale is not None:
        rows = (rows * x.scale.ravel()).astype(rows.dtype)
    total = None
    starts = offsets(x)
    for source, start in zip(x.sources, starts, strict=False):
        part = _conv(build, source, _kernel(rows, x.index.ravel() - start, source), bias)
        total = part if total is None else build.emit("Add", [total, part])
        bias = None
    return total


def _kernel(rows: Array, index: Array, source: Source) -> Array:
    """The matrix's columns laid at the cells their features come from: `[outputs, channels, *cells]`.

    Where the order is Flatten's own the bytes stay as they are, and only their shape changes.
    """
    shape = (len(rows), source.channels, *source.cells)
    kernel: Array
    if index.size == source.size and np.array_equal(index, np.arange(source.size)):
        kernel = rows.reshape(shape)
        return kernel
    inside = (index >= 0) & (index < source.size)
    kernel = np.zeros((source.size, len(rows)), rows.dtype)
    np.add.at(kernel, index[inside], rows.T[inside])
    kernel = kernel.T.reshape(shape)
    return kernel


def _conv(build: Builder, source: Source, kernel: Array, bias: Array | None) -> Any:
    consts = [build.constant("weight", kernel)]
    if bias is not None:
        consts.append(build.constant("bias", bias))
    return build.emit("Conv", [source.tensor, *consts], reading(source))
