"""Where ops that rename dims, repeat, join or take parts leave the batch behind the windows' parting."""

from __future__ import annotations

import numpy as np

from surgery.batch import NAMED, Batches, Place, batching, refuse, regrouped
from surgery.graph import Op
from surgery.ops.pointwise import BINARY

# ------------------------------------------------------------------ value by value


@batching.rule(*BINARY)
def aligned(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Dims meet from the last one on; a constant that has a row per sample keeps one of them."""
    rank = len(op.out_shape())
    dim = place.dim + rank - len(b.shape(op.inputs[i]))
    for k in range(len(op.inputs)):
        value = op.value(k)
        if value is not None:
            b.narrow(op, k, dim - (rank - value.ndim))
    return Place(dim, place.before)


@batching.rule("MatMul")
def matmul(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """The dims before the matrix meet as in any broadcast; the rows may be samples."""
    rank, own = len(op.out_shape()), len(b.shape(op.inputs[i]))
    if place.dim == own - (1 if i == 0 else 2) and own > 1:
        raise refuse(op, "adds up over the batch")
    dim = place.dim + rank - own
    other = op.value(1 - i)
    if other is not None and dim < rank - 2:
        b.narrow(op, 1 - i, dim - (rank - other.ndim))
    return Place(dim, place.before)


@batching.rule("Einsum")
def einsum(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """The letter of the batch says where it goes; a constant that has it too keeps one sample."""
    terms, _, out = str(op.attr("equation")).replace(" ", "").partition("->")
    letters = terms.split(",")
    letter = letters[i][place.dim] if "." not in terms + out and place.dim < len(letters[i]) else ""
    if not letter or letter not in out:
        raise refuse(op, f"adds up over the batch, or does not name it: {terms}->{out}")
    for k, term in enumerate(letters):
        if letter in term:
            b.widen(op, k, term.index(letter), i)
    return Place(out.index(letter), place.before)


# ------------------------------------------------------------------ other dims, other places


@batching.rule("Reshape", "Flatten")
def reshape(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """The dim that holds the batch is whatever is left."""
    new = op.out_shape()
    if i != 0:
        return None
    moved = regrouped(place, op.in_shape(), new, b.facts.batch)
    if op.kind == "Reshape" and moved is not None and 0 not in new:
        op.node.inputs[1] = b.build.ints("shape", [-1 if d == moved.dim else s for d, s in enumerate(new)])
        op.node.attrs.pop("allowzero", None)
    return moved


@batching.rule("Expand")
def expand(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """As many samples as there are."""
    new = list(op.out_shape())
    dim = place.dim + len(new) - len(op.in_shape())
    if i == 0:
        new[dim] = 1
        op.node.inputs[1] = b.build.ints("shape", new)
    return Place(dim, place.before)


@batching.rule("Tile")
def tile(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Features may be repeated, samples may not."""
    repeats = op.value(1)
    if repeats is None or repeats[place.dim] != 1:
        raise refuse(op, "repeats the batch")
    return place


@batching.rule("Concat")
def concat(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Constants beside the samples are repeated for each."""
    if int(op.attr("axis")) % len(op.out_shape()) == place.dim:
        raise refuse(op, "joins samples of a batch")
    if place.before == 1:
        for k in range(len(op.inputs)):
            b.widen(op, k, place.dim, i)
    return place


@batching.rule("Transpose")
def transpose(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """The batch moves with its dim."""
    rank = len(op.in_shape())
    perm = list(op.attr("perm") or reversed(range(rank)))
    return Place(perm.index(place.dim), place.before)


@batching.rule("Squeeze")
def squeeze(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """The dim of the batch stays, whatever its size."""
    old = op.in_shape()
    axes = op.setting("axes", 1, 13)
    if axes is None:
        axes = [d for d, size in enumerate(old) if size == 1]
    dropped = {int(a) % len(old) for a in axes}
    if place.dim in dropped:
        raise refuse(op, "drops the dim of the batch")
    return Place(place.dim - sum(d < place.dim for d in dropped), place.before)


@batching.rule("Unsqueeze")
def unsqueeze(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Dims of 1 put in move the batch on."""
    rank = len(op.out_shape())
    made = {int(a) % rank for a in op.setting("axes", 1, 13)}
    kept = [d for d in range(rank) if d not in made]
    return Place(kept[place.dim], place.before)


# ------------------------------------------------------------------ parts


@batching.rule("Slice", "Split")
def part(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Any part but of the batch."""
    if op.in_shape()[place.dim] != op.out_shape(n)[place.dim] or (
        op.kind == "Split" and int(op.attr("axis")) % len(op.in_shape()) == place.dim
    ):
        raise refuse(op, "takes samples out of the batch")
    return place


@batching.rule("Gather")
def gather(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """What is taken along another dim is taken of every sample."""
    axis = int(op.attr("axis") or 0) % len(op.in_shape())
    if i == 1:
        return Place(axis + place.dim, place.before)
    if place.dim == axis:
        raise refuse(op, "takes samples out of the batch")
    return Place(place.dim + (len(b.shape(op.inputs[1])) - 1) * (place.dim > axis), place.before)


@batching.rule("GatherND")
def gather_nd(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """The dims it names are followed by the others; those before are shared with the places."""
    lead, places = int(op.attr("batch_dims")), b.shape(op.inputs[1])
    first = lead + places[-1]
    if place.dim < lead:
        b.widen(op, 1 - i, place.dim, i)
        return place
    if i == 0 and place.dim < first:
        raise refuse(op, "takes samples out of the batch")
    if i == 1:
        return place if op.value(0) is not None else None
    return Place(len(places) - 1 + place.dim - first, place.before)


@batching.rule("GatherElements", "TopK", "CumSum")
def along(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Along another dim, of every sample; constant places are repeated for each."""
    axis = op.value(1) if op.kind == "CumSum" else np.array(op.attr("axis"))
    if axis is None or int(axis.ravel()[0]) % len(op.in_shape()) == place.dim:
        raise refuse(op, "works along the batch", NAMED)
    if op.kind == "GatherElements":
        b.widen(op, 1 - i, place.dim, i)
    return place


@batching.rule("ScatterElements")
def scatter(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Along another dim, into every sample; constants are repeated for each."""
    if int(op.attr("axis")) % len(op.out_shape()) == place.dim:
        raise refuse(op, "works along the batch", NAMED)
    for k in range(len(op.inputs)):
        b.widen(op, k, place.dim, i)
    return place


@batching.rule("ScatterND")
def scatter_nd(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """It names the first dims of places, the batch among them."""
    if place.dim < op.in_shape(1)[-1]:
        raise refuse(op, "writes to places counted through the batch")
    return place if i == 0 else None


@batching.rule("OneHot")
def one_hot(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """A dim more, at its axis."""
    axis = int(op.attr("axis")) % len(op.out_shape())
    return Place(place.dim + (axis <= place.dim), place.before)
