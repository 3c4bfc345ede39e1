"""The batch given back to a head that gives it up: what `x[0]` or `squeeze()` makes `[K]` stays `[1, K]`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from surgery.graph import Builder, Op, in_order
from surgery.model import Model, from_graph
from surgery.ops.normalize import SOFT, soft_axes
from surgery.ops.reduce import ARGS, REDUCTIONS, axes_of
from surgery.ops.shape import RESHAPES, permutation
from surgery.proof import tolerance_for
from surgery.rebatch_ops import RULES, NoBatch, Region
from surgery.session import Session
from surgery.shapes import SHAPE_OPS, Facts, feeds_for

ALONG = ("Concat", "Split", "Gather", "GatherElements", "TopK", "CumSum", "LpNormalization")
NORMS = ("LayerNormalization", "RMSNormalization")
RANKING = (*ARGS, *SOFT, "TopK", "CumSum", "LpNormalization")
MIXING = (*REDUCTIONS, *NORMS, *RANKING)


def rebatched(
    source: Model, facts: Facts, graph: gs.Graph, ops: Sequence[Op], head: Sequence[Op]
) -> Model | None:
    """The model with a batch dim in every tensor of its head; None where none was given up, or none can be.

    The answers must be those of the model itself, which was observed with a batch of one image. `ops`
    are those of the graph, which is used up, `head` those of its head.
    """
    if facts.batch != 1:
        return None
    region = Region(Builder(graph, source.opset, len(facts.axes)), facts)
    behind, changed = {id(op.node) for op in head}, False
    try:
        for op in ops:
            changed |= _step(region, op, in_head=id(op.node) in behind, free=_free_batch(source))
    except NoBatch:
        return None
    if not changed:
        return None
    for output in graph.outputs:
        if output.name in region.spread:
            output.shape = [1, *facts.shapes[output.name]]
    proto = from_graph(in_order(graph.cleanup()), source.proto)
    del proto.graph.value_info[:]
    made = Model(proto, source.name, source.sha256, source.external, source.path)
    return made if _same_answers(source, made, facts) else None


def _free_batch(source: Model) -> bool:
    """Whether the model says that it takes any number of images."""
    return not source.image.type.tensor_type.shape.dim[0].HasField("dim_value")


def _step(region: Region, op: Op, *, in_head: bool, free: bool) -> bool:
    """Write an op anew where it reads a tensor with a batch it had not, or gives it up; whether it did."""
    region.build.prefix = op.name
    reads = [n for n in op.inputs if n in region.spread]
    if op.outputs[0] in op.facts.values:
        if reads and op.kind in SHAPE_OPS:  # whose value was observed without the batch
            region.freeze(op)
        return False
    if not reads and not (in_head and gives_up_batch(op, free)):
        return False
    if not in_head or op.domain or op.kind not in RULES:
        raise NoBatch
    RULES[op.kind](region, op)
    return True


def gives_up_batch(op: Op, free: bool) -> bool:
    """Whether an op of a head takes the batch, of one image, for something else.

    Where the batch is `free`, what takes several images together, or some of them, does it on purpose.
    What ranks or normalises along the batch alone is a mistake, whose answer is the same for every image.
    """
    if op.kind in RANKING and (op.kind not in SOFT or op.opset >= 13) and tuple(_along(op)) == (0,):
        return False
    if any(op.facts.shapes[n][:1] != (1,) for n in op.outputs if n in op.facts.shapes):
        return True
    if op.kind == "Transpose":
        return permutation(op)[0] != 0
    if op.kind == "Unsqueeze":  # of several images it would put the batch into dim 1
        return 0 in (a % len(op.out_shape()) for a in op.setting("axes", 1, 13) or ())
    if op.kind in RESHAPES or (free and op.kind in (*MIXING, "Slice")):
        return False
    return 0 in _along(op)


def _along(op: Op) -> Sequence[int]:
    """The dims that an op works along, the batch among them."""
    rank = len(op.in_shape())
    if op.kind in (*REDUCTIONS, *ARGS):
        return axes_of(op)
    if op.kind in SOFT:
        return soft_axes(op)
    if op.kind in NORMS:
        return range(int(op.attr("axis")) % rank, rank)
    if op.kind == "Slice":
        axes, starts = op.setting("axes", 3, 10), op.setting("starts", 1, 10)
        return [a % rank for a in (range(len(starts or ())) if axes is None else axes)]
    if op.kind in ALONG:
        axis = op.value(1) if op.kind == "CumSum" else op.attr("axis")
        return () if axis is None else (int(np.asarray(axis).item()) % rank,)
    return ()


def _same_answers(source: Model, made: Model, facts: Facts) -> bool:
    """Whether both give the same at the window, but for the batch."""
    feeds = feeds_for(source, source.image, facts.shape)
    want, got = (Session(m.proto, optimize=False).run(feeds) for m in (source, made))
    near = tolerance_for(source.proto, None)
    return all(
        value.size == got[name].size
        and np.allclose(got[name].ravel(), value.ravel(), rtol=near, atol=near / 10, equal_nan=True)
        for name, value in want.items()
    )
