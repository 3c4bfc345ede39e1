"""The batch behind the place where windows part: which dim holds it, and what was written out for another.

The rest of a net runs on many windows in the place of the batch it was exported with. Most ops do not
care; a Reshape, an Expand or a constant that is joined to every sample holds the old batch as a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx_graphsurgeon as gs

from surgery.dynamic import freeze_sizes
from surgery.errors import Refused
from surgery.graph import Builder, Op
from surgery.ops.normalize import SOFT
from surgery.ops.pointwise import BINARY
from surgery.ops.reduce import ARGS, REDUCTIONS, axes_of
from surgery.shapes import Facts

RECURRENT = ("LSTM", "GRU", "RNN")
SIZED = (*RECURRENT, "GatherElements", "GatherND", "ScatterElements", "ScatterND", "If", "Loop", "Scan")


@dataclass(frozen=True)
class Place:
    """The dim of a tensor that holds its batch, with `before` other things outside it in that dim."""

    dim: int
    before: int = 1


def regrouped(place: Place, old: Sequence[int], new: Sequence[int], batch: int) -> Place | None:
    """Where the batch lies after a Reshape; None where no dim can hold it.

    A batch of 1 could belong to the dim on its left or on its right. What lies in a dim of its own stays
    so; features, the last dim, never take the batch in.

    >>> regrouped(Place(1), (197, 1, 768), (197, 12, 64), 1)
    Place(dim=1, before=1)
    >>> regrouped(Place(1), (197, 12, 64), (197, 768), 1)
    Place(dim=0, before=197)
    """
    lead = prod(old[: place.dim]) * place.before
    fits: list[tuple[int, Place]] = []
    outside = 1
    for d, size in enumerate(new):
        before, rest = divmod(lead, outside)
        if not rest and before and size and size % (before * batch) == 0:
            alone = before == 1 and size == batch
            features = before == 1 and d == len(new) - 1 > 0
            fits.append((0 if alone else 3 if features else 1 if before == 1 else 2, Place(d, before)))
        outside *= size
    return min(fits, key=lambda fit: fit[0])[1] if fits else None


class Batches:
    """Follows the batch from the windows through the rest of a net, and frees what holds its old size."""

    def __init__(self, build: Builder, facts: Facts, maps: Sequence[str]) -> None:
        self.build = build
        self.facts = facts
        self.places: dict[str, Place | None] = dict.fromkeys(maps, Place(0))

    def free(self, op: Op) -> None:
        """Let an op take any number of samples. Raises Refused where it would mix them."""
        known = [(i, p) for i, n in enumerate(op.inputs) if (p := self.places.get(n)) is not None]
        if op.kind not in SIZED:
            freeze_sizes(self.build, op, self.facts)
        if not known:
            return
        follow = RULES.get("" if op.domain else op.kind, _same)
        for n, name in enumerate(op.outputs):
            if name:
                self.places[name] = follow(self, op, *known[0], n)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape at the window, the old batch included."""
        return self.facts.shapes[name]

    def count(self, tensor: Any, name: str) -> Any:
        """How many samples a tensor holds, as an int64 vector of one."""
        place = self.places[name]
        assert place is not None
        return self.build.shape_of(tensor, place.dim, place.dim + 1)

    def widen(self, op: Op, i: int, dim: int, like: int) -> None:
        """Repeat, for as many samples as input `like` has, a constant that has one for each along `dim`."""
        value = op.value(i)
        if value is None or value.ndim <= dim or value.shape[dim] != self.facts.batch:
            return
        one = self.build.constant("one", value.take([0], dim))
        op.node.inputs[i] = self.build.emit("Expand", [one, self.sized(op, value.shape, dim, like)])

    def sized(self, op: Op, shape: Sequence[int], dim: int, like: int) -> Any:
        """A shape as an int64 vector of the graph, with as many samples along `dim` as input `like` has."""
        sides: list[Any] = [self.build.ints("sides", s) for s in (shape[:dim], shape[dim + 1 :])]
        sides.insert(1, self.count(op.node.inputs[like], op.inputs[like]))
        return self.build.emit("Concat", sides, {"axis": 0})


def refuse(op: Op, what: str) -> Refused:
    """The refusal of an op that takes several samples of a batch together."""
    why = f"it {what}, so windows cannot be a batch"
    return Refused(
        f"--exact: {op.kind} {op.name!r}: {why}: its batch is baked in beyond repair. Export the model with "
        "a dynamic batch.",
        node=op.name,
        op=op.kind,
        why=why,
    )


# ------------------------------------------------------------------ where the batch goes


def _same(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    old, new = b.shape(op.inputs[i]), op.out_shape(n)
    if len(old) == len(new) and old[place.dim] == new[place.dim]:
        return place
    return Place(0) if new and new[0] == b.facts.batch else None


def _aligned(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Dims meet from the last one on; a constant that has a row per sample keeps one of them."""
    rank = len(op.out_shape())
    dim = place.dim + rank - len(b.shape(op.inputs[i]))
    for k in range(len(op.inputs)):
        value, at = op.value(k), 0
        if value is not None:
            at = dim - (rank - value.ndim)
        if value is not None and at >= 0 and value.shape[at] == b.facts.batch > 1:
            if (value != value.take([0], at)).any():
                raise refuse(op, "holds a constant that differs from sample to sample")
            op.node.inputs[k] = b.build.constant("one", value.take([0], at))
    return Place(dim, place.before)


def _reshape(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    new = op.out_shape()
    if i != 0:
        return None
    moved = regrouped(place, op.in_shape(), new, b.facts.batch)
    if op.kind == "Reshape" and moved is not None and 0 not in new:
        op.node.inputs[1] = b.build.ints("shape", [-1 if d == moved.dim else s for d, s in enumerate(new)])
        op.node.attrs.pop("allowzero", None)
    return moved


def _expand(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    new = list(op.out_shape())
    dim = place.dim + len(new) - len(op.in_shape())
    if i == 0:
        new[dim] = 1
        op.node.inputs[1] = b.build.ints("shape", new)
    return Place(dim, place.before)


def _concat(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    if int(op.attr("axis")) % len(op.out_shape()) == place.dim:
        raise refuse(op, "joins samples of a batch")
    if place.before == 1:
        for k in range(len(op.inputs)):
            b.widen(op, k, place.dim, i)
    return place


def _transpose(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    rank = len(op.in_shape())
    perm = list(op.attr("perm") or reversed(range(rank)))
    return Place(perm.index(place.dim), place.before)


def _squeeze(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    old = op.in_shape()
    axes = op.setting("axes", 1, 13)
    if axes is None:
        axes = [d for d, size in enumerate(old) if size == 1]
    dropped = {int(a) % len(old) for a in axes}
    if place.dim in dropped:
        raise refuse(op, "drops the dim of the batch")
    return Place(place.dim - sum(d < place.dim for d in dropped), place.before)


def _unsqueeze(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    rank = len(op.out_shape())
    made = {int(a) % rank for a in op.setting("axes", 1, 13)}
    kept = [d for d in range(rank) if d not in made]
    return Place(kept[place.dim], place.before)


def _matmul(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    rank, own = len(op.out_shape()), len(b.shape(op.inputs[i]))
    if place.dim == own - (1 if i == 0 else 2) and own > 1:
        raise refuse(op, "adds up over the batch")
    return Place(place.dim + rank - own, place.before)


def _reduce(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    axes = set(axes_of(op))
    if place.dim in axes:
        raise refuse(op, "reduces over the batch")
    if op.attr("keepdims"):
        return place
    return Place(place.dim - sum(d < place.dim for d in axes), place.before)


def _soft(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    axis = int(op.attr("axis")) % len(op.in_shape())
    if place.dim == axis or (op.opset < 13 and place.dim > axis):
        raise refuse(op, "normalises over the batch")
    return place


def _gather(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    axis = int(op.attr("axis") or 0) % len(op.in_shape())
    if i == 1:
        return Place(axis + place.dim, place.before)
    if place.dim == axis:
        raise refuse(op, "takes samples out of the batch")
    return Place(place.dim + (len(b.shape(op.inputs[1])) - 1) * (place.dim > axis), place.before)


def _resize(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Where it is given sizes, one of them is the batch's."""
    sizes = op.value(3) if len(op.inputs) > 3 and op.inputs[3] else None
    if sizes is not None and not op.attr("axes"):
        op.node.inputs[3] = b.sized(op, op.out_shape(), place.dim, i)
    return place


def _maxima(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    if n == 1 and (op.node.outputs[1].outputs or op.outputs[1] in b.facts.outputs):
        raise refuse(op, "counts the places of its maxima through the whole batch")
    return place


def _recurrent(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    first = bool(op.attr("layout"))
    for k in (5, 6) if n == 0 else ():
        if k < len(op.inputs) and isinstance(op.node.inputs[k], gs.Constant):
            b.widen(op, k, 0 if first else 1, i)
    return Place(0 if first else 2 if n == 0 else 1, place.before)


Rule = Callable[[Batches, Op, int, Place, int], "Place | None"]
RULES: dict[str, Rule] = {
    **dict.fromkeys(BINARY, _aligned),
    **dict.fromkeys((*REDUCTIONS, *ARGS), _reduce),
    **dict.fromkeys(SOFT, _soft),
    **dict.fromkeys(RECURRENT, _recurrent),
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "MatMul": _matmul,
    "MaxPool": _maxima,
    "Reshape": _reshape,
    "Resize": _resize,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
