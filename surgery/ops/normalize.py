"""Ops that normalise: BatchNormalization, Softmax, LRN, norms over features or over space."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph import Builder, Op
from surgery.positions import flat, focus, materialize, view
from surgery.rules import EndsTrunk, Folded, Lifted, Map, Mixes, NoRule, geometry, lift

SOFT = ("Softmax", "LogSoftmax", "Hardmax")


# ------------------------------------------------------------------ geometry


@geometry.rule("BatchNormalization")
def per_channel(op: Op, inputs: list[Any]) -> Map:
    """Per channel in inference; in training it takes its statistics from the image."""
    x: Map = inputs[0]
    if op.attr("training_mode") or 1 in x.axes:
        raise NoRule("it is in training mode, or normalises positions; export the model in eval mode")
    return x.with_shape(op.out_shape())


@geometry.rule("LRN")
def across_channels(op: Op, inputs: list[Any]) -> Map:
    """LRN sums over channels, so it is pointwise in space (ONNX LRN)."""
    x: Map = inputs[0]
    if 1 in x.axes:
        raise NoRule("its channels are positions")
    return x.with_shape(op.out_shape())


@geometry.rule(*SOFT)
def soft_over_channels(op: Op, inputs: list[Any]) -> Map:
    """Over channels it keeps the positions; before opset 13 it takes every dim from its axis on."""
    x: Map = inputs[0]
    if set(soft_axes(op)) & set(x.axes):
        raise EndsTrunk("it normalises over positions")
    return x.with_shape(op.out_shape())


def soft_axes(op: Op) -> tuple[int, ...]:
    """The dims a softmax sums over, batch counted."""
    rank = len(op.in_shape())
    axis = int(op.attr("axis")) % rank
    return (axis,) if op.opset >= 13 else tuple(range(axis, rank))


@geometry.rule("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization")
def over_space(op: Op, inputs: list[Any]) -> Map:
    """Statistics over all positions."""
    x: Map = inputs[0]
    if op.kind == "MeanVarianceNormalization":
        axes = {a % len(x.shape) for a in op.attr("axes")}
        if 0 in axes:
            raise NoRule("it takes its statistics from all images of a batch together; name axes without 0")
        if not axes & set(x.axes):
            return x.with_shape(op.out_shape())
    elif 1 in x.axes:
        raise NoRule("its channels are positions")
    raise Mixes("it takes its statistics from the whole image", inputs[0].with_shape(op.out_shape()))


@geometry.rule("LayerNormalization", "RMSNormalization", "LpNormalization")
def over_last_dims(op: Op, inputs: list[Any]) -> Map:
    """Over channels it keeps the positions."""
    x: Map = inputs[0]
    rank = len(x.shape)
    axis = int(op.attr("axis")) % rank
    normalised = {axis} if op.kind == "LpNormalization" else set(range(axis, rank))
    if normalised & set(x.axes):
        if any(isinstance(v, np.ndarray) and v.size > 1 for v in inputs[1:]):
            raise NoRule("it has a scale for each position of the window")
        raise Mixes("it takes its statistics from the whole image", x.with_shape(op.out_shape()))
    return x.with_shape(op.out_shape())


# ------------------------------------------------------------------ lifted


@lift.rule("BatchNormalization")
def batch_norm(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """Scale and shift per feature; on a folded window they go into the next kernel."""
    if op.attr("training_mode"):
        raise NoRule("it is in training mode; export the model in eval mode")
    x, *stats = inputs
    if not all(isinstance(s, np.ndarray) for s in stats):
        raise NoRule("its statistics depend on the image")
    if isinstance(x, Folded):
        scale, shift, mean, var = (s.astype(np.float64) for s in stats)
        slope = scale / np.sqrt(var + op.attr("epsilon"))
        return fold_channels(x, slope, shift - mean * slope, stats[0].dtype)
    channels = x.shape[0] if x.shape else 0
    if x.dims[0] != channels:
        x = Lifted(view(build, x, x.shape), x.shape, x.shape)
    consts = [build.constant(n, s) for n, s in zip(("scale", "shift", "mean", "var"), stats, strict=True)]
    attrs = {k: v for k, v in op.node.attrs.items() if k in ("epsilon", "momentum")}
    return [
        Lifted(build.emit("BatchNormalization", [x.tensor, *consts], attrs), x.shape, x.dims),
        *[None] * (len(op.outputs) - 1),
    ]


def fold_channels(x: Folded, slope: Any, shift: Any, dtype: Any) -> Folded:
    """A folded window with `value * slope + shift` along its first dim."""
    along = (-1,) + (1,) * (len(x.shape) - 1)
    slope, shift = (np.broadcast_to(v.astype(dtype).reshape(along), x.shape) for v in (slope, shift))
    old_scale = np.ones(x.shape, dtype) if x.scale is None else x.scale
    old_shift = np.zeros(x.shape, dtype) if x.shift is None else x.shift
    return Folded(x.sources, x.index, old_scale * slope, old_shift * slope + shift)


@lift.rule(*SOFT)
def softmax(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """Softmax over features at every position.

    Before opset 13 the op takes every dim from its axis on together, so on a map it would sum over
    positions: there the features are moved last for it.
    """
    x = materialize(build, inputs[0])
    axes = soft_axes(op)
    if 0 in axes:
        if op.in_shape()[0] != 1:
            raise NoRule("it normalises over the batch")
        raise NoRule("it normalises over the batch dim (axis 0); export it with axis 1")
    if op.opset >= 13:
        tensor, dims, at = focus(build, x, axes[0] - 1)
        return Lifted(build.emit(op.kind, [tensor], {"axis": at + 1}), x.shape, dims)
    lead = x.shape[: axes[0] - 1]
    rest = int(np.prod(x.shape[axes[0] - 1 :]))
    if all(d == 1 for d in lead):
        tensor, dims = flat(build, x), (rest,)
    else:
        tensor, dims = view(build, x, (*lead, rest)), (*lead, rest)
    tensor = _features_last(build, op, tensor, len(dims))
    return Lifted(tensor, x.shape, dims)


def _features_last(build: Builder, op: Op, tensor: Any, dims: int, inputs: tuple[Any, ...] = ()) -> Any:
    """Emit an op that works on the last dim, with the last feature dim moved there and back."""
    rank = 1 + dims + build.space
    perm = [i for i in range(rank) if i != dims] + [dims]
    back = [perm.index(i) for i in range(rank)]
    attrs = {**op.node.attrs, "axis": rank - 1}
    out = build.emit(op.kind, [build.transpose(tensor, perm), *inputs], attrs)
    return build.transpose(out, back)


@lift.rule("LayerNormalization", "RMSNormalization")
def layer_norm(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """Normalise the last feature dims at every position: moved last for the op, and back."""
    x = materialize(build, inputs[0])
    axis = int(op.attr("axis")) % len(op.in_shape())
    if axis == 0:
        raise NoRule("it normalises over the batch")
    if not all(v is None or isinstance(v, np.ndarray) for v in inputs[1:]):
        raise NoRule("its scale depends on the image")
    lead, rest = x.shape[: axis - 1], int(np.prod(x.shape[axis - 1 :]))
    dims = (rest,) if all(d == 1 for d in lead) else (*lead, rest)
    shape = x.shape[axis - 1 :]
    consts = tuple(
        build.constant("scale", np.broadcast_to(v, shape).reshape(-1)) for v in inputs[1:] if v is not None
    )
    tensor = _features_last(build, op, view(build, x, dims), len(dims), consts)
    return [Lifted(tensor, x.shape, dims), *[None] * (len(op.outputs) - 1)]


@lift.rule("LpNormalization")
def lp_norm(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """The same norm over the same feature dim."""
    x = materialize(build, inputs[0])
    axis = int(op.attr("axis")) % len(op.in_shape())
    if axis == 0:
        raise NoRule("it normalises over the batch")
    tensor, dims, at = focus(build, x, axis - 1)
    return Lifted(build.emit(op.kind, [tensor], {**op.node.attrs, "axis": at + 1}), x.shape, dims)


@lift.rule("LRN")
def lrn(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """Across the first feature dim, at every position."""
    x = materialize(build, inputs[0])
    if any(d != 1 for d in x.shape[1:]):
        raise NoRule(f"it is local to channels of a map made of features, {list(op.in_shape())}")
    return Lifted(build.emit("LRN", [flat(build, x)], dict(op.node.attrs)), x.shape, (int(np.prod(x.shape)),))


lift.refuse(
    "InstanceNormalization",
    "GroupNormalization",
    "MeanVarianceNormalization",
    why="it takes its statistics from each window alone, so that neighbouring windows share nothing",
)
