"""Ops that take many values together, or are given sizes and places: none may take several samples."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from surgery.batch import ALONE, NAMED, RECURRENT, Batches, Place, batching, refuse
from surgery.graph import Op
from surgery.ops.normalize import SOFT
from surgery.ops.reduce import ARGS, REDUCTIONS, axes_of
from surgery.ops.window import POOLS
from surgery.shapes import COUNTING

OVER_MAPS = ("Conv", "ConvInteger", "ConvTranspose", "QLinearConv", *POOLS)
OVER_CHANNELS = ("LRN", "DepthToSpace", "SpaceToDepth")


# ------------------------------------------------------------------ several values together


@batching.rule(*REDUCTIONS, *ARGS)
def reduce(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Over any dims but the batch."""
    axes = set(axes_of(op))
    if place.dim in axes:
        raise refuse(op, "reduces over the batch")
    if op.attr("keepdims"):
        return place
    return Place(place.dim - sum(d < place.dim for d in axes), place.before)


@batching.rule(*SOFT, "LpNormalization")
def soft(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Over any dims but the batch; a softmax takes all dims from its axis on before opset 13."""
    axis = int(op.attr("axis")) % len(op.in_shape())
    rest = op.kind in SOFT and op.opset < 13
    if place.dim == axis or (rest and place.dim > axis):
        raise refuse(op, "normalises over the batch")
    return place


@batching.rule("LayerNormalization", "RMSNormalization")
def last_dims(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Over the dims from its axis on, which must lie behind the batch."""
    if place.dim >= int(op.attr("axis")) % len(op.in_shape()):
        raise refuse(op, "normalises over the batch", NAMED)
    return place if n == 0 or place.dim < len(op.out_shape(n)) else None


@batching.rule("MeanVarianceNormalization")
def statistics(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Over any dims but the batch; by default it takes its statistics from that too."""
    if place.dim in {int(a) % len(op.in_shape()) for a in op.attr("axes")}:
        cure = ALONE + "Name its axes without the batch's, 0."
        raise refuse(op, "takes its statistics from all samples of a batch together", cure)
    return place


@batching.rule("BatchNormalization", "InstanceNormalization", "GroupNormalization")
def by_channel(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Per channel, and an image at a time, unless it is left in training mode."""
    if op.attr("training_mode"):
        cure = ALONE + "Export the model in eval mode."
        raise refuse(op, "takes its statistics from all samples of a batch together", cure)
    return over_maps(b, op, i, place, n)


@batching.rule(*OVER_MAPS, *OVER_CHANNELS)
def over_maps(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """An op over maps takes the first dim for its batch."""
    if i == 0 and place.dim != 0:
        raise refuse(op, f"takes the batch, dim {place.dim} of {list(op.in_shape())}, for something else")
    if n == 1 and not _unpooled(b, op):
        raise refuse(op, "counts the places of its maxima through the whole batch")
    return Place(0, place.before)


def _unpooled(b: Batches, op: Op) -> bool:
    """Whether the places of the maxima are read by a MaxUnpool alone, which counts through the batch too."""
    taken = op.outputs[1] in b.facts.outputs
    return not taken and all(user.op == "MaxUnpool" for user in op.node.outputs[1].outputs)


@batching.rule("MaxUnpool")
def unpool(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Where it is given a size, one of its sides is the batch's."""
    if len(op.inputs) > 2 and op.inputs[2]:
        op.node.inputs[2] = b.sized(op, op.out_shape(), 0, i)
    return Place(0)


@batching.rule("DynamicQuantizeLinear")
def one_scale(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """One scale for all that it reads."""
    cure = ALONE + "Quantize statically (with calibration), or convert the float model."
    raise refuse(op, "takes one scale from all samples of a batch together", cure)


# ------------------------------------------------------------------ sizes and places given


@batching.rule("Resize")
def resize(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Where it is given sizes, one of them is the batch's."""
    sizes = op.value(3) if len(op.inputs) > 3 and op.inputs[3] else None
    if sizes is not None and not op.attr("axes"):
        op.node.inputs[3] = b.sized(op, op.out_shape(), place.dim, i)
    return place


@batching.rule("GridSample")
def sample(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Places that are the same for every sample are repeated for each."""
    b.widen(op, 1 - i, 0, i)
    return Place(0)


@batching.rule("AffineGrid")
def places(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """The first of its sizes is the batch's."""
    size = op.value(1)
    if size is not None:
        op.node.inputs[1] = b.sized(op, size.tolist(), 0, i)
    return Place(0)


@batching.rule(*RECURRENT)
def recurrent(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """First, or behind the sequence; constant states are repeated for every sample."""
    first = bool(op.attr("layout"))
    for k in (5, 6) if n == 0 else ():
        if k < len(op.inputs) and isinstance(op.node.inputs[k], gs.Constant):
            b.widen(op, k, 0 if first else 1, i)
    return Place(0 if first else 2 if n == 0 else 1, place.before)


batching.refuse(*COUNTING, why="gives as many values as the data say")
