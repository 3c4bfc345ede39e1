"""Ops that treat every value alone: activations, arithmetic, comparisons, Dropout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.graph import Builder, Op
from surgery.positions import align, beside, materialize, scalar, view, without_units
from surgery.rules import Array, Folded, Lifted, Map, NoRule, geometry, lift

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid",
    "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
BINARY = (
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean",
    "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
AFFINE = ("Add", "Sub", "Mul", "Div")
MICROSOFT = "com.microsoft"
GELUS = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")  # the first two may add a bias to the last dim


# ------------------------------------------------------------------ geometry


@geometry.rule(*UNARY)
def unchanged(op: Op, inputs: list[Any]) -> Map:
    """Positions untouched."""
    x: Map = inputs[0]
    return x.with_shape(op.out_shape())


@geometry.rule(*GELUS, domain=MICROSOFT)
def unchanged_but_for_bias(op: Op, inputs: list[Any]) -> Map:
    """Positions untouched, if the bias is per channel."""
    x: Map = inputs[0].with_shape(op.out_shape())
    if len(inputs) > 1 and inputs[1] is not None:
        check_uniform(inputs[1], x)
    return x


@geometry.rule("Clip", "Dropout")
def unchanged_with_settings(op: Op, inputs: list[Any]) -> list[Any]:
    """Positions untouched; what else the op reads are settings."""
    _check_dropout(op)
    return [inputs[0].with_shape(op.out_shape(i)) for i in range(len(op.outputs))]


@geometry.rule(*BINARY)
def broadcast(op: Op, inputs: list[Any]) -> Map:
    """Cell meets cell; a constant must be the same at every position."""
    shape = op.out_shape()
    maps = [(i, m) for i, m in enumerate(inputs) if isinstance(m, Map)]
    joined: Map | None = None
    for i, m in maps:
        if op.kind == "PRelu" and i == 1:
            raise NoRule("its slope depends on the image")
        lead = len(shape) - len(m.shape)
        seen = Map(shape, tuple(a + lead for a in m.axes), m.geometry)
        if lead or m.shape[0] != shape[0]:
            raise NoRule(f"{list(m.shape)} broadcasts to {list(shape)}: the batch would move")
        joined = seen if joined is None else meet(joined, seen)
    assert joined is not None
    for value in inputs:
        if isinstance(value, np.ndarray):
            check_uniform(value, joined)
    return joined


def meet(x: Map, y: Map) -> Map:
    """The map of an op over the cells of both."""
    if x.axes != y.axes:
        raise NoRule(f"space lies in dims {list(x.axes)} of one input and {list(y.axes)} of another")
    try:
        joined = tuple(a.join(b) for a, b in zip(x.geometry, y.geometry, strict=True))
    except ValueError as error:
        raise NoRule(f"its inputs do not lie on one grid: {error}") from error
    return replace(x, geometry=joined)


def check_uniform(value: Array, x: Map) -> None:
    """Raise where a constant differs from position to position of the window, or from image to image."""
    lead = len(x.shape) - value.ndim
    if not lead and (value != value[:1]).any():
        raise NoRule(f"a constant of shape {list(value.shape)} differs from image to image of the batch")
    for axis in x.axes:
        inside = axis - lead
        if inside < 0 or value.shape[inside] == 1:
            continue
        if (value != value.take([0], inside)).any():
            raise NoRule(
                f"a constant of shape {list(value.shape)} differs from position to position in the window; "
                "it has no meaning in a larger image (a mean image: use its mean per channel; coordinates, "
                "or a position embedding: the exact engine, --exact, keeps them)"
            )


# ------------------------------------------------------------------ lifted


@lift.rule(*UNARY)
def same_op(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """The same op, at every position; on a folded window, on the map it is folded from."""
    return each(build, op, inputs[0], [])


@lift.rule(*GELUS, domain=MICROSOFT)
def same_gelu(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """The same op at every position, its bias added before it."""
    if len(inputs) == 1 or inputs[1] is None:
        return each(build, op, inputs[0], [])
    x = materialize(build, inputs[0])
    bias = align(inputs[1], len(x.shape))
    features = view(build, x, x.shape)
    moved = build.emit("Add", [features, beside(build, bias, "bias")])
    kind = "Gelu" if op.kind == "BiasGelu" else op.kind
    return Lifted(build.emit(kind, [moved], domain=MICROSOFT), x.shape, x.shape)


@lift.rule("Clip")
def same_clip(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """Clip with its bounds as they are."""
    bounds = inputs[1:]
    if any(b is not None and not isinstance(b, np.ndarray) for b in bounds):
        raise NoRule("its bounds depend on the image")
    consts = [gs.Variable.empty() if b is None else scalar(build, b, "bound") for b in bounds]
    return each(build, op, inputs[0], consts)


def each(build: Builder, op: Op, x: Folded | Lifted, settings: list[Any]) -> Folded | Lifted:
    """Emit the op over every value of `x`, with scalar settings."""
    if isinstance(x, Folded) and x.plain:
        return on_sources(x, lambda tensor: _apply(build, op, [tensor, *settings]))
    x = materialize(build, x)
    return replace(x, tensor=_apply(build, op, [x.tensor, *settings]))


def on_sources(x: Folded, change: Callable[[Any], Any]) -> Folded:
    """The folded window with a change made to each of its maps."""
    return replace(x, sources=tuple(replace(s, tensor=change(s.tensor)) for s in x.sources))


def _apply(build: Builder, op: Op, inputs: list[Any]) -> Any:
    out = build.emit(op.kind, inputs, dict(op.node.attrs), domain=op.domain)
    out.dtype = op.facts.dtypes[op.outputs[0]]
    return out


@lift.rule("Dropout")
def inference_dropout(build: Builder, op: Op, inputs: list[Any]) -> list[Any]:
    """Dropout is the identity in inference."""
    _check_dropout(op)
    if len(op.outputs) > 1 and op.node.outputs[1].outputs:
        raise NoRule("its mask is used")
    return [inputs[0], *[None] * (len(op.outputs) - 1)]


def _check_dropout(op: Op) -> None:
    if op.kind != "Dropout":
        return
    training = op.value(2) if op.opset >= 12 else (None if op.opset >= 7 else op.attr("is_test") == 0)
    if training is not None and bool(np.any(training)):
        raise NoRule("it is left in training mode and draws random numbers; export the model in eval mode")


@lift.rule(*BINARY)
def same_binary(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """The same op, features against features, a constant given two dims more."""
    if len(inputs) == 1:
        return each(build, op, inputs[0], [])
    on_maps = _on_maps(build, op, inputs)
    if on_maps is not None:
        return on_maps
    if _foldable(op, inputs):
        return affine(op, inputs)
    attach = bias_of(build, op, inputs)
    if attach is not None:
        return attach
    values = [materialize(build, v) if isinstance(v, Folded) else v for v in inputs]
    return _emit_broadcast(build, op, values)


def _foldable(op: Op, inputs: list[Any]) -> bool:
    """Whether it is arithmetic of a folded window with a constant, to be taken into the next kernel."""
    if op.kind not in AFFINE or len(inputs) != 2 or sum(isinstance(i, np.ndarray) for i in inputs) != 1:
        return False
    x = next(i for i in inputs if not isinstance(i, np.ndarray))
    value = next(i for i in inputs if isinstance(i, np.ndarray))
    if not isinstance(x, Folded) or value.dtype.kind not in "fV":
        return False
    if (op.kind == "Div" and isinstance(inputs[0], np.ndarray)) or value.ndim > len(x.shape) + 1:
        return False
    return np.broadcast_shapes(align(value, len(x.shape)).shape, x.shape) == x.shape


def affine(op: Op, inputs: list[Any]) -> Folded:
    """Take arithmetic per feature into the scale and shift of a folded window."""
    left = isinstance(inputs[0], np.ndarray)
    x: Folded = inputs[1] if left else inputs[0]
    value: Array = inputs[0] if left else inputs[1]
    value = np.broadcast_to(align(value, len(x.shape)), x.shape)
    scale = np.ones(x.shape, value.dtype) if x.scale is None else x.scale
    shift = np.zeros(x.shape, value.dtype) if x.shift is None else x.shift
    if op.kind == "Add":
        return replace(x, shift=shift + value)
    if op.kind == "Sub":
        return replace(x, scale=-scale, shift=value - shift) if left else replace(x, shift=shift - value)
    if op.kind == "Mul":
        return replace(x, scale=scale * value, shift=None if x.shift is None else shift * value)
    return replace(x, scale=scale / value, shift=None if x.shift is None else shift / value)


def _on_maps(build: Builder, op: Op, inputs: list[Any]) -> Folded | None:
    """The op done on the map itself, where it is of one value with scalars or others of the same cell."""
    first = next((v for v in inputs if isinstance(v, Folded)), None)
    if first is None:
        return None
    consts = {}
    for i, value in enumerate(inputs):
        if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= len(first.shape) + 1:
            consts[i] = scalar(build, value)
        elif not isinstance(value, Folded) or not _same_cells(build, first, value):
            return None

    def at(k: int) -> Any:
        tensors = [consts[i] if i in consts else v.sources[k].tensor for i, v in enumerate(inputs)]
        return _apply(build, op, tensors)

    sources = tuple(replace(s, tensor=at(k)) for k, s in enumerate(first.sources))
    return replace(first, sources=sources)


def _same_cells(build: Builder, x: Folded, y: Folded) -> bool:
    """Whether two folded windows hold, feature by feature, values of the same cell of the same map."""
    if not (x.plain and y.plain) or len(x.sources) != len(y.sources) or not np.array_equal(x.index, y.index):
        return False
    return all(
        _root(build, a.tensor) is _root(build, b.tensor) for a, b in zip(x.sources, y.sources, strict=True)
    )


def _root(build: Builder, tensor: Any) -> Any:
    """The map that ops which treat every value alone have made a tensor from."""
    while tensor.inputs and id(tensor.inputs[0]) in build.made and tensor.inputs[0].op in (*UNARY, *BINARY):
        tensor = next(i for i in tensor.inputs[0].inputs if not isinstance(i, gs.Constant))
    return tensor


def bias_of(build: Builder, op: Op, inputs: list[Any]) -> Lifted | None:
    """The Add behind a lifted MatMul as the bias of its Conv, where nothing else reads the MatMul."""
    if op.kind != "Add" or sum(isinstance(i, np.ndarray) for i in inputs) != 1:
        return None
    at = 0 if isinstance(inputs[1], np.ndarray) else 1
    x, value = inputs[at], inputs[1 - at]
    if not isinstance(x, Lifted) or not x.tensor.inputs:
        return None
    conv, before = x.tensor.inputs[0], op.node.inputs[at]
    fresh = conv.op == "Conv" and len(conv.inputs) == 2 and id(conv) in build.made and not x.tensor.outputs
    alone = len(before.outputs) == 1 and before.name not in {o.name for o in build.graph.outputs}
    features = align(value, len(x.shape))
    if not fresh or not alone or np.broadcast_shapes(features.shape, x.shape) != x.shape or len(x.dims) != 1:
        return None
    bias = np.broadcast_to(features, x.shape).ravel().astype(conv.inputs[1].values.dtype)
    conv.inputs.append(build.constant("bias", bias))
    return x


def _emit_broadcast(build: Builder, op: Op, values: list[Any]) -> Lifted:
    lifted = [v for v in values if isinstance(v, Lifted)]
    rank = max(len(v.shape) for v in lifted)
    rank = max([rank, *[v.ndim - 1 for v in values if isinstance(v, np.ndarray)]])
    shapes = {id(v): (1,) * (rank - len(v.shape)) + v.shape for v in lifted}
    consts = {id(v): align(v, rank) for v in values if isinstance(v, np.ndarray) and v.size > 1}
    shape = np.broadcast_shapes(*shapes.values(), *[c.shape for c in consts.values()])
    drop = shape != ()  # dims that are 1 everywhere need not be there
    keep = [i for i, d in enumerate(shape) if drop and d != 1]
    inputs = []
    for v in values:
        if isinstance(v, np.ndarray):
            if v.size == 1:
                inputs.append(scalar(build, v))
            else:
                inputs.append(beside(build, consts[id(v)].reshape([consts[id(v)].shape[i] for i in keep])))
        else:
            inputs.append(view(build, v, tuple(shapes[id(v)][i] for i in keep) or (1,)))
    return Lifted(_apply(build, op, inputs), shape, without_units(shape))
