"""Quantized values: the ops that quantize, and products of small integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.graph import Builder, Op
from surgery.ops.dense import kernels, linear
from surgery.ops.window import INTEGER, WEIGHT_AT, statement
from surgery.positions import flat, materialize, reading, view, window_of
from surgery.rules import Array, EndsTrunk, Folded, Lifted, Map, Mixes, NoRule, Source, geometry, lift
from surgery.weights import Matrix

MICROSOFT = "com.microsoft"
SCALING = ("QuantizeLinear", "DequantizeLinear")


# ------------------------------------------------------------------ geometry


@geometry.rule(*SCALING)
@geometry.rule(*SCALING, domain=MICROSOFT)
def scale_values(op: Op, inputs: list[Any]) -> Map:
    """Positions untouched, if the scale is the same at each."""
    x = inputs[0]
    if not isinstance(x, Map) or any(
        op.inputs[i] and not isinstance(v, np.ndarray) for i, v in enumerate(inputs[1:], 1)
    ):
        raise NoRule("its scale depends on the image")
    if inputs[1].size > 1 and (op.attr("block_size") or _axis(op) in x.axes):
        raise NoRule("its scale differs from position to position")
    return x.with_shape(op.out_shape())


def _axis(op: Op) -> int:
    return int(op.attr("axis") if op.attr("axis") is not None else 1) % len(op.in_shape())


@geometry.rule("DynamicQuantizeLinear")
def scale_of_the_image(op: Op, inputs: list[Any]) -> Map:
    """Its scale is that of the whole tensor."""
    raise Mixes("it takes its scale from the whole image", inputs[0].with_shape(op.out_shape()))


@geometry.rule("QLinearMatMul", "MatMulInteger")
@geometry.rule("QGemm", domain=MICROSOFT)
def end_at_product(op: Op, inputs: list[Any]) -> Map:
    """A product of integers takes positions as features."""
    raise EndsTrunk("it multiplies by a matrix")


# ------------------------------------------------------------------ lifted: to and from integers


@lift.rule(*SCALING)
@lift.rule(*SCALING, domain=MICROSOFT)
def same_scale(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """The same scale at every position; on a folded window, on the map it is folded from."""
    x, *settings = inputs
    if any(not isinstance(v, np.ndarray) for v in settings if v is not None) or op.attr("block_size"):
        raise NoRule("its scale depends on the image, or differs from block to block")
    per_tensor = settings[0].size == 1

    def apply(tensor: Any) -> Any:
        if _rescales(op, tensor):
            tensor = build.emit("Concat", [tensor], {"axis": 1})
        attrs = {k: v for k, v in op.node.attrs.items() if k != "axis" or not per_tensor}
        out = build.emit(op.kind, [tensor, *op.node.inputs[1:]], attrs, domain=op.domain)
        out.dtype = op.facts.dtypes[op.outputs[0]]
        return out

    if isinstance(x, Folded) and x.plain and per_tensor:
        return replace(x, sources=tuple(replace(s, tensor=apply(s.tensor)) for s in x.sources))
    x = materialize(build, x)
    if per_tensor:
        return replace(x, tensor=apply(x.tensor))
    if _axis(op) == 0:
        raise NoRule("its scale differs from image to image of the batch")
    return Lifted(apply(view(build, x, x.shape)), x.shape, x.shape)


def _rescales(op: Op, tensor: Any) -> bool:
    """Whether a QuantizeLinear comes to stand behind a DequantizeLinear of another scale, and did not before.

    onnxruntime makes one pair of two that stand so (DoubleQDQPairsRemover), and leaves out the rounding of
    the first; it does not look through a Concat.
    """
    own, new = (t.inputs[0] if t.inputs else None for t in (op.node.inputs[0], tensor))
    if op.kind != "QuantizeLinear" or new is None or new.op != "DequantizeLinear":
        return False
    pairs = zip(new.inputs[1:], op.node.inputs[1:], strict=False)
    same = all(a is b or (_held(a) is not None and np.array_equal(_held(a), _held(b))) for a, b in pairs)
    return (own is None or own.op != "DequantizeLinear") and not same


def _held(tensor: Any) -> Any:
    return tensor.values if isinstance(tensor, gs.Constant) else None


lift.refuse(
    "DynamicQuantizeLinear",
    why="it takes its scale from the whole tensor, so that one position would change the others' answers. "
    "Quantize statically (with calibration), or convert the float model and quantize the result",
)


# ------------------------------------------------------------------ lifted: products of integers


@lift.rule("QLinearMatMul")
def quantized_product(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A product of all features with one matrix of integers, as QLinearConv."""
    x, *settings = inputs
    weight = _weight(op, x, settings[2], settings[3], settings[4], lambda w: w.reshape(w.shape[-2:]).T)
    out = _requantized(build, op, x, weight, None, (6, 7))
    return Lifted(out, op.out_shape()[1:], (len(weight.rows),))


@lift.rule("QGemm", domain=MICROSOFT)
def quantized_gemm(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A Gemm of integers: as QLinearConv, or as a Conv between DequantizeLinears where it gives floats."""
    inputs = [*inputs, *[None] * (9 - len(inputs))]
    if op.attr("transA"):
        raise NoRule("transA makes features of the batch")
    x, matrix, scale, zero = inputs[0], inputs[3], inputs[4], inputs[5]
    weight = _weight(op, x, matrix, scale, zero, lambda w: w if op.attr("transB") else w.T)
    alpha = op.attr("alpha") if op.attr("alpha") is not None else 1
    assert weight.scale is not None
    weight = replace(weight, scale=(weight.scale * np.float32(alpha)).astype(np.float32))
    bias = None if inputs[6] is None else np.broadcast_to(inputs[6].reshape(-1), (len(weight.rows),))
    if inputs[7] is None:
        out = _dequantized(build, op, inputs, weight, bias)
    else:
        out = _requantized(build, op, inputs[0], weight, bias, (7, 8))
    return Lifted(out, op.out_shape()[1:], (len(weight.rows),))


@lift.rule("MatMulInteger")
def integer_product(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A product of all features with one matrix of integers, as ConvInteger."""
    x, matrix = inputs[0], inputs[1]
    x_zero, zero = (inputs[i] if i < len(inputs) else None for i in (2, 3))
    weight = _weight(op, x, matrix, None, zero, lambda w: w.reshape(w.shape[-2:]).T)
    total = None
    for source, kernel in kernels(build, x, weight):
        consts = [
            build.constant("weight", kernel),
            _shared_zero(build, x_zero, op.facts.dtypes[op.inputs[0]]),
        ]
        consts.append(build.constant("zero_point", np.asarray(weight.blank[0])))
        part = build.emit("ConvInteger", [source.tensor, *consts], reading(source))
        total = part if total is None else build.emit("Add", [total, part])
    return Lifted(total, op.out_shape()[1:], (len(weight.rows),))


def _weight(op: Op, x: Any, matrix: Any, scale: Any, zero: Any, arrange: Callable[[Array], Array]) -> Matrix:
    """The matrix of integers as `[outputs, features]`, its zero point the same for all outputs."""
    if not isinstance(x, (Folded, Lifted)) or not isinstance(matrix, np.ndarray):
        raise NoRule("its matrix depends on the image, or stands on the left")
    if any(d != 1 for d in x.shape[:-1]) or any(d != 1 for d in matrix.shape[:-2]) or matrix.ndim < 2:
        shapes = f"{list(op.in_shape())} and {list(matrix.shape)}"
        raise NoRule(f"of {shapes} it makes a product per row, not one of all features with one matrix")
    if not all(isinstance(v, np.ndarray) for v in (scale, zero) if v is not None):
        raise NoRule("the scale of its matrix depends on the image")
    rows = np.ascontiguousarray(arrange(matrix))
    zero = np.zeros((), rows.dtype) if zero is None else zero
    if (zero != zero.ravel()[0]).any():
        centred = rows.astype(np.int32) - zero.reshape(-1, 1).astype(np.int32)
        if centred.min() < -128 or centred.max() > 127 or rows.dtype != np.int8:
            raise NoRule("every output has a zero point of its own, and no Conv of integers has them")
        rows, zero = centred.astype(np.int8), np.zeros((), np.int8)
    shared = np.asarray(zero.ravel()[0])
    return Matrix(rows, None if scale is None else np.squeeze(scale), shared)


def _shared_zero(build: Builder, value: Any, dtype: Any) -> Any:
    """The zero point of the features."""
    if value is None:
        return build.constant("zero_point", np.zeros((), dtype))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise NoRule("the zero point of its features depends on the image, or differs from row to row")
    return build.constant("zero_point", value.reshape(()))


def _requantized(
    build: Builder, op: Op, x: Any, weight: Matrix, bias: Array | None, result: tuple[int, int]
) -> Any:
    """QLinearConv, with the scales of the features and of the result as the original has them."""
    settings = [op.value(i) for i in (1, 2, *result)]
    if any(v is None or v.size != 1 for v in settings):
        raise NoRule(
            "a scale or zero point of its features or its result depends on the image or differs by row"
        )
    if isinstance(x, Folded) and len(x.sources) > 1:
        x = materialize(build, x)
    ((source, kernel),) = kernels(build, x, weight)
    names = ("x_scale", "x_zero_point", "y_scale", "y_zero_point")
    xs, xz, ys, yz = [
        build.constant(n, v.reshape(())) for n, v in zip(names, settings, strict=True) if v is not None
    ]
    assert weight.scale is not None
    assert weight.zero is not None
    ws, wz = build.constant("scale", weight.scale), build.constant("zero_point", weight.zero)
    inputs = [source.tensor, xs, xz, build.constant("weight", kernel), ws, wz, ys, yz]
    if bias is not None:
        inputs.append(build.constant("bias", bias))
    out = build.emit("QLinearConv", inputs, reading(source))
    out.dtype = op.facts.dtypes[op.outputs[0]]
    return out


def _dequantized(build: Builder, op: Op, inputs: list[Any], weight: Matrix, bias: Array | None) -> Any:
    """A Conv of dequantized features."""
    x = inputs[0]

    def real(tensor: Any) -> Any:
        return build.emit("DequantizeLinear", [tensor, *op.node.inputs[1:3]])

    if isinstance(x, Folded):
        x = replace(x, sources=tuple(replace(s, tensor=real(s.tensor)) for s in x.sources))
    else:
        x = replace(x, tensor=real(x.tensor))
    if bias is not None:
        bias = (bias * (inputs[1] * weight.scale)).astype(np.float32)
    return linear(build, x, weight, bias)


# ------------------------------------------------------------------ lifted: convolutions of integers


@lift.rule(*INTEGER)
def convolve_integers(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A convolution that leaves one cell: the same one over every window."""
    at = WEIGHT_AT[op.kind]
    if not all(isinstance(v, np.ndarray) for v in inputs[1:] if v is not None):
        raise NoRule("its weights or scales depend on the image")
    source = _cells(build, inputs[0])
    slides = statement(op).slides
    exact = all(
        (s.kernel, s.before, s.after, s.dilation) == (c, 0, 0, 1)
        for s, c in zip(slides, source.cells, strict=True)
    )
    if not exact:
        raise NoRule(f"it slides over a map made of features, {list(op.in_shape())}, inside the head")
    attrs = {**reading(source), "group": op.attr("group")}
    out = build.emit(op.kind, [source.tensor, *op.node.inputs[1:]], attrs)
    out.dtype = op.facts.dtypes[op.outputs[0]]
    return Lifted(out, op.out_shape()[1:], (op.in_shape(at)[0],))


def _cells(build: Builder, x: Any) -> Source:
    if isinstance(x, Folded):
        source = window_of(x)
        if source is not None and x.shape == (source.channels, *source.cells):
            return source
    elif all(d == 1 for d in x.shape[1:]):
        return Source.single(flat(build, x), x.shape[0], build.space)
    raise NoRule("it slides over features that are no longer a map")
