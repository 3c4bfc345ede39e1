"""The batch behind the place where windows part: which dim holds it, and what was written out for another.

The rest of a net runs on many windows in the place of the batch it was exported with. Most ops do not
care; a Reshape, an Expand or a constant that is joined to every sample holds the old batch as a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from surgery.dynamic import freeze_sizes
from surgery.errors import Refused
from surgery.graph import Builder, Op
from surgery.rules import Array, Refusal, Table, key_of
from surgery.shapes import Facts

RECURRENT = ("LSTM", "GRU", "RNN")
SIZED = (*RECURRENT, "GatherElements", "GatherND", "ScatterElements", "ScatterND", "If", "Loop", "Scan")
ALONE = "every answer would depend on the other windows. "
NAMED = ALONE + "Export the model so that it names other dims, and with a dynamic batch."
BAKED = (
    "its batch is baked in beyond repair. Export the model with a dynamic batch, and name the dims to "
    "squeeze, flatten or reduce (torch: x.flatten(1), not x.flatten() or x.squeeze())."
)


@dataclass(frozen=True)
class Place:
    """The dim of a tensor that holds its batch, with `before` other things outside it in that dim."""

    dim: int
    before: int = 1


Rule = Callable[["Batches", Op, int, Place, int], "Place | None"]
batching: Table[Rule] = Table("batching")


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
        entry = batching.entries.get(key_of(op.domain, op.kind), same_dim)
        if isinstance(entry, Refusal):
            raise refuse(op, entry.why)
        for n, name in enumerate(op.outputs):
            if name:
                self.places[name] = entry(self, op, *known[0], n)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape at the window, the old batch included."""
        return self.facts.shapes[name]

    def count(self, tensor: Any, name: str) -> Any:
        """How many samples a tensor holds, as an int64 vector of one."""
        place = self.places[name]
        assert place is not None
        return self.build.shape_of(tensor, place.dim, place.dim + 1)

    def joined(self, parts: Sequence[Any], name: str) -> Any:
        """One batch of the samples of several: each part is the tensor of this name for some of them."""
        place = self.places[name]
        assert place is not None
        if place.before == 1:
            return self.build.emit("Concat", list(parts), {"axis": place.dim})
        shape = list(self.shape(name))
        apart = [*shape[: place.dim], place.before, -1, *shape[place.dim + 1 :]]
        sides = [self.build.reshape(part, apart) for part in parts]
        shape[place.dim] = -1
        return self.build.reshape(self.build.emit("Concat", sides, {"axis": place.dim + 1}), shape)

    def single(self, op: Op, i: int, dim: int) -> Array | None:
        """What a constant that has an entry per sample along `dim` holds for each; None for any other.

        Raises Refused where it differs from sample to sample.
        """
        value = op.value(i)
        if value is None or not 0 <= dim < value.ndim or value.shape[dim] != self.facts.batch:
            return None
        one: Array = value.take([0], dim)
        if (value != one).any():
            raise refuse(op, "holds a constant that differs from sample to sample")
        return one

    def narrow(self, op: Op, i: int, dim: int) -> None:
        """A constant that has an entry per sample along `dim` keeps one, which broadcasts."""
        one = self.single(op, i, dim)
        if one is not None and self.facts.batch > 1:
            op.node.inputs[i] = self.build.constant("one", one)

    def widen(self, op: Op, i: int, dim: int, like: int) -> None:
        """Repeat, for as many samples as input `like` has, a constant that has one for each along `dim`."""
        one = self.single(op, i, dim)
        if one is not None:
            made = self.build.constant("one", one)
            op.node.inputs[i] = self.build.emit("Expand", [made, self.sized(op, one.shape, dim, like)])

    def sized(self, op: Op, shape: Sequence[int], dim: int, like: int) -> Any:
        """A shape as an int64 vector of the graph, with as many samples along `dim` as input `like` has."""
        sides: list[Any] = [self.build.ints("sides", s) for s in (shape[:dim], shape[dim + 1 :])]
        sides.insert(1, self.count(op.node.inputs[like], op.inputs[like]))
        return self.build.emit("Concat", sides, {"axis": 0})


def same_dim(b: Batches, op: Op, i: int, place: Place, n: int) -> Place | None:
    """Where an op without a rule leaves the batch: in the dim it is in, else in the first."""
    old, new = b.shape(op.inputs[i]), op.out_shape(n)
    if len(old) == len(new) and old[place.dim] == new[place.dim]:
        return place
    return Place(0) if new and new[0] == b.facts.batch else None


def refuse(op: Op, what: str, cure: str = BAKED) -> Refused:
    """The refusal of an op that takes several samples of a batch together."""
    why = f"it {what}, so windows cannot be a batch"
    return Refused(f"--exact: {op.kind} {op.name!r}: {why}: {cure}", node=op.name, op=op.kind, why=why)
