"""Ops that rank features, pick some, or add them up in turn: TopK, GatherElements, OneHot, CumSum."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph import Builder, Op
from surgery.ops.join import everywhere
from surgery.positions import focus, materialize, view
from surgery.rules import EndsTrunk, Lifted, Map, NoRule, geometry, lift

PICKS = ("TopK", "GatherElements", "OneHot", "CumSum")


@geometry.rule(*PICKS)
def end_at_choice(op: Op, inputs: list[Any]) -> Map:
    """What ranks, picks or adds up along a dim is followed in the head only."""
    raise EndsTrunk("it ranks, picks or adds up values along a dim")


def _dim(axis: int, rank: int) -> int:
    """A dim counted from 0 with the batch; raises NoRule where it is the batch."""
    if axis % rank == 0:
        raise NoRule("it works along the batch")
    return axis % rank


@lift.rule("TopK")
def largest(build: Builder, op: Op, inputs: list[Any]) -> list[Any]:
    """The largest values along a feature dim, and their places."""
    axis = _dim(int(op.attr("axis")), len(op.in_shape()))
    settings = []
    if op.opset >= 10:
        if not isinstance(inputs[1], np.ndarray):
            raise NoRule("how many values it takes depends on the image")
        settings = [build.constant("k", inputs[1])]
    tensor, dims, at = focus(build, materialize(build, inputs[0]), axis - 1)
    outs = build.emit("TopK", [tensor, *settings], {**op.node.attrs, "axis": at + 1}, outs=2)
    shape = op.facts.shapes[next(o for o in op.outputs if o)][1:]
    kept = (*dims[:at], shape[axis - 1], *dims[at + 1 :])
    return [Lifted(out, shape, kept) for out in outs]


@lift.rule("GatherElements")
def pick_each(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """The features at places that are features themselves."""
    axis = _dim(int(op.attr("axis")), len(op.in_shape()))
    data, places = everywhere(build, inputs, len(op.in_shape()) - 1)
    tensors = [view(build, v, v.shape) for v in (data, places)]
    out = build.emit("GatherElements", tensors, {"axis": axis})
    return Lifted(out, places.shape, places.shape)


@lift.rule("OneHot")
def one_hot(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A feature dim more, as many as there are classes."""
    if not all(isinstance(v, np.ndarray) for v in inputs[1:]):
        raise NoRule("its depth or its values depend on the image")
    shape = op.out_shape()
    axis = _dim(int(op.attr("axis")), len(shape))
    x = materialize(build, inputs[0])
    consts = [build.constant(n, v) for n, v in zip(("depth", "values"), inputs[1:], strict=True)]
    out = build.emit("OneHot", [view(build, x, x.shape), *consts], {"axis": axis})
    return Lifted(out, shape[1:], shape[1:])


@lift.rule("CumSum")
def running_sum(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """Sums of the first features along a dim."""
    if not isinstance(inputs[1], np.ndarray):
        raise NoRule("the dim it adds up along depends on the image")
    axis = _dim(int(inputs[1].item()), len(op.in_shape()))
    x = materialize(build, inputs[0])
    place = build.constant("axis", np.array(axis, inputs[1].dtype))
    return Lifted(
        build.emit("CumSum", [view(build, x, x.shape), place], dict(op.node.attrs)), x.shape, x.shape
    )
