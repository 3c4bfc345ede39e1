"""onnxruntime's quantized ops that treat values alone, join or pool them: QLinearAdd and others."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from surgery.graph import Builder, Op
from surgery.ops.join import concat_maps, everywhere
from surgery.ops.pointwise import broadcast
from surgery.ops.window import slide
from surgery.positions import align, beside, focus, materialize, reading, view, window_of
from surgery.rules import EndsTrunk, Folded, Lifted, Map, NoRule, Source, geometry, lift

MICROSOFT = "com.microsoft"
UNARY = ("QLinearLeakyRelu", "QLinearSigmoid")
BINARY = ("QLinearAdd", "QLinearMul")
POOLS = ("QLinearAveragePool", "QLinearGlobalAveragePool")


# ------------------------------------------------------------------ geometry


@geometry.rule(*UNARY, domain=MICROSOFT)
def unchanged(op: Op, inputs: list[Any]) -> Map:
    """Positions untouched."""
    x: Map = inputs[0]
    return x.with_shape(op.out_shape())


@geometry.rule(*BINARY, domain=MICROSOFT)
def cell_by_cell(op: Op, inputs: list[Any]) -> Map:
    """Cell meets cell; a constant must be the same at every position."""
    joined: Map = broadcast(op, [inputs[0], inputs[3]])
    return joined


@geometry.rule("QLinearConcat", domain=MICROSOFT)
def concat(op: Op, inputs: list[Any]) -> Map:
    """Along channels the cells of all inputs must meet."""
    joined: Map = concat_maps(op, inputs[2::3])
    return joined


@geometry.rule("QLinearAveragePool", domain=MICROSOFT)
def slide_pool(op: Op, inputs: list[Any]) -> Map:
    """Cells move by the stride and see the kernel's extent more."""
    if any(s != 1 for s in inputs[0].spacing):
        raise NoRule("closer windows would dilate it, and it has no dilations; use --stride-form fragments")
    moved: Map = slide(op, inputs)
    return moved


@geometry.rule("QLinearGlobalAveragePool", "QLinearSoftmax", domain=MICROSOFT)
def end_at_pool(op: Op, inputs: list[Any]) -> Map:
    """It takes all positions together, or is followed in the head only."""
    raise EndsTrunk("it pools over every position, or normalises over features")


# ------------------------------------------------------------------ lifted


@lift.rule(*UNARY, domain=MICROSOFT)
def same_op(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """The same op at every position."""
    x = materialize(build, inputs[0])
    out = build.emit(
        op.kind, [x.tensor, *_settings(op, inputs, (0,))[1:]], dict(op.node.attrs), domain=MICROSOFT
    )
    return Lifted(_typed(op, out), x.shape, x.dims)


@lift.rule(*BINARY, domain=MICROSOFT)
def same_binary(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """The same op of features with features, or with a constant."""
    shape = op.out_shape()[1:]
    given = _settings(op, inputs, (0, 3))
    for i in (0, 3):
        if isinstance(inputs[i], np.ndarray):
            given[i] = beside(build, align(inputs[i], len(shape)))
        else:
            x = materialize(build, inputs[i])
            given[i] = view(build, x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    return Lifted(_typed(op, build.emit(op.kind, given, domain=MICROSOFT)), shape, shape)


@lift.rule("QLinearConcat", domain=MICROSOFT)
def concat_features(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """Features one behind the other, each with its own scale."""
    shape = op.out_shape()
    axis = int(op.attr("axis")) % len(shape)
    if axis == 0:
        raise NoRule("it joins images of the batch")
    at = range(2, len(inputs), 3)
    given = _settings(op, inputs, at)
    for i, value in zip(at, everywhere(build, inputs[2::3], len(shape) - 1), strict=True):
        given[i] = view(build, value, value.shape)
    out = build.emit(op.kind, given, {"axis": axis}, domain=MICROSOFT)
    return Lifted(_typed(op, out), shape[1:], shape[1:])


@lift.rule("QLinearSoftmax", domain=MICROSOFT)
def softmax(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """Softmax over one feature dim at every position."""
    x, rank = materialize(build, inputs[0]), len(op.in_shape())
    old = int(op.attr("opset")) < 13  # as the standard's Softmax of that opset, its default axis included
    named = op.attr("axis")
    axis = ((1 if old else -1) if named is None else int(named)) % rank
    if axis == 0 or (old and prod(x.shape[axis:]) != 1):
        raise NoRule("it normalises over the batch, or over several dims together")
    tensor, _, at = focus(build, x, axis - 1)
    attrs = {**op.node.attrs, "axis": at + 1, "opset": 13}
    out = build.emit(op.kind, [tensor, *_settings(op, inputs, (0,))[1:]], attrs, domain=MICROSOFT)
    kept = tuple(d for i, d in enumerate(x.shape) if d != 1 or i == axis - 1)
    return Lifted(_typed(op, out), x.shape, kept)


@lift.rule(*POOLS, domain=MICROSOFT)
def pool_window(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A pool of the whole window, as a pool whose kernel is the window; a global one as a Conv of ones."""
    x, shape = inputs[0], op.out_shape()[1:]
    source = window_of(x) if isinstance(x, Folded) else None
    kernel = op.attr("kernel_shape") or (source.cells if source else ())
    if op.attr("channels_last") or source is None or x.shape != (source.channels, *source.cells):
        raise NoRule("it pools features that are no longer a map, or a map whose channels are last")
    if tuple(kernel) != source.cells or any(op.attr("pads") or ()) or any(s != 1 for s in source.spacing):
        raise NoRule(f"its kernel {list(kernel)} is not the window's {list(source.cells)} cells")
    given = [source.tensor, *_settings(op, inputs, (0,))[1:]]
    known = len(given) == 5 and all(t.name for t in given)  # its zero points may be left out
    if op.kind == "QLinearGlobalAveragePool" and build.opset >= 10 and known:
        out = _sum_of_cells(build, op, inputs, source, given)
    else:
        out = build.emit("QLinearAveragePool", given, reading(source), domain=MICROSOFT)
    return Lifted(_typed(op, out), shape, (source.channels,))


def _sum_of_cells(build: Builder, op: Op, inputs: list[Any], source: Source, given: list[Any]) -> Any:
    """The mean of a window's cells as a depthwise QLinearConv of ones.

    onnxruntime adds up the integers and multiplies by one float32, x_scale / (y_scale * cells), as a Conv
    does by x_scale * w_scale / y_scale; its QLinearAveragePool adds up floats. A mean is often just between
    two integers, where only the same product rounds the same way: so that is the Conv's one scale.
    """
    read, made = (np.float32(inputs[i].item()) for i in (1, 3))
    dtype = op.facts.dtypes[op.inputs[0]]
    ones = build.constant("ones", np.ones((source.channels, 1, *source.cells), dtype))
    zero, one = build.constant("zero", np.array(0, dtype)), build.constant("one", np.array(1, np.float32))
    share = build.constant("share", np.array(read / (made * np.float32(prod(source.cells)))))
    tensors = [given[0], share, given[2], ones, one, zero, one, given[4]]
    return build.emit("QLinearConv", tensors, {**reading(source), "group": source.channels})


def _settings(op: Op, inputs: list[Any], moving: Any) -> list[Any]:
    """The op's own inputs, of which those that are not features must be constants."""
    if not all(v is None or isinstance(v, np.ndarray) for i, v in enumerate(inputs) if i not in moving):
        raise NoRule("its scales depend on the image")
    return list(op.node.inputs)


def _typed(op: Op, tensor: Any) -> Any:
    tensor.dtype = op.facts.dtypes[op.outputs[0]]
    return tensor
