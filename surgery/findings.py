"""What a walk has found of every tensor that depends on the image, and what may come back to a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from surgery.errors import Reason
from surgery.graph import Op
from surgery.ops.pointwise import BINARY, UNARY
from surgery.ops.reduce import GLOBAL_POOLS, REDUCTIONS, axes_of
from surgery.ops.shape import RESHAPES, homes_of
from surgery.ops.window import POOLS, pools_all
from surgery.packed import CELLS, CONTEXT, Packed, holds
from surgery.rules import EndsTrunk, Map
from surgery.shapes import Facts

SPREADS = ("Expand", "Tile", "Resize", "Upsample")  # what lays one cell out over all positions
RETURNS = (*BINARY, "Concat", "MatMul")
SETTINGS = ("ConvInteger", "MatMulInteger", "QuantizeLinear", "DequantizeLinear")  # may take the image's


@dataclass(eq=False)
class Findings:
    """Tensors by name: maps, packed on their way from map to map, behind the trunk, or aside of it.

    `behind` and `aside` give the op that makes each; `returned` the ops at which something from behind
    comes back to a map, with the op that made it.
    """

    facts: Facts
    maps: dict[str, Map]
    packed: dict[str, Packed] = field(default_factory=dict)
    behind: dict[str, Op] = field(default_factory=dict)
    aside: dict[str, Op] = field(default_factory=dict)
    returned: list[tuple[Op, Op]] = field(default_factory=list)
    pads: list[tuple[Op, Reason]] = field(default_factory=list)
    mixing: list[tuple[Op, Reason]] = field(default_factory=list)
    never: list[tuple[Op, Reason]] = field(default_factory=list)
    ends: dict[str, Reason] = field(default_factory=dict)
    unknown: dict[str, Reason] = field(default_factory=dict)
    _kept: dict[int, frozenset[int] | None] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """A map, a packed tensor or a constant; None for any other."""
        for known in (self.maps, self.packed, self.facts.values):
            if name in known:
                return known[name]
        return None

    def known(self, op: Op) -> list[Map | Packed]:
        """What an op reads that holds positions."""
        return [m for n in op.inputs if (m := self.maps.get(n) or self.packed.get(n))]

    def check_returns(self, op: Op, folded: list[str]) -> None:
        """Raise where what is no map meets a map otherwise than by being the same at every position."""
        maps = self.known(op)
        others = [n for n in op.inputs if n and self.value(n) is None]
        for name in others:
            shape = self.lean(name)
            if op.kind in SETTINGS and prod(shape) == 1:
                continue
            what = f"{name!r} {list(shape)}"
            if op.kind not in RETURNS:
                raise EndsTrunk(f"{what} sets how it works, and depends on the image or on another input")
            if name in self.behind and not self.closed(name):
                raise EndsTrunk(f"{what} still holds positions of the window")
            if op.kind == "MatMul":
                continue
            lead = len(op.out_shape()) - len(shape)
            whose = "was taken from the positions" if name in folded else "is an input of its own"
            if any(d >= lead and shape[d - lead] != 1 for m in maps for d in m.axes):
                raise EndsTrunk(f"{what} {whose}, and meets the map position by position")
            if lead and shape and not self._of_all(name):
                raise EndsTrunk(f"{what} {whose}, and its batch would meet another dim of the map")

    def closed(self, name: str) -> bool:
        """Whether a tensor behind the trunk holds no position any more, one of a single cell included."""
        return self._held(name) == frozenset()

    def _held(self, name: str) -> frozenset[int] | None:
        """The dims of a tensor behind the trunk that still hold positions; None where that is not known."""
        op = self.behind[name]
        if id(op) not in self._kept:
            known = self.known(op)
            inner = [self._held(n) for n in op.inputs if n in self.behind and self.behind[n] is not op]
            self._kept[id(op)] = held_by(op, known, inner)
        return self._kept[id(op)]

    def _of_all(self, name: str) -> bool:
        """Whether a tensor behind the trunk has no batch: a scale of all images together."""
        return name in self.behind and self.root(self.behind[name]).kind == "DynamicQuantizeLinear"

    def lean(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor behind the trunk before it was laid out over all positions."""
        op = self.behind.get(name) or self.aside.get(name)
        shape = self.facts.shapes[name]
        if op is None or self.value(op.inputs[0]) is not None:
            return shape
        if op.kind in RESHAPES:
            return _regrouped(self.lean(op.inputs[0]), homes_of(op, op.in_shape(), shape), shape)
        if op.kind in (*SPREADS, *UNARY):
            before = self.lean(op.inputs[0])
            return (1,) * (len(shape) - len(before)) + before
        return shape

    def root(self, maker: Op) -> Op:
        """The op of a gate that took the positions together."""
        while True:
            before = [self.behind[n] for n in maker.inputs if n in self.behind]
            if not before or before[0] is maker:
                return maker
            maker = before[0]


def _regrouped(lean: tuple[int, ...], homes: Sequence[int | None], shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape in which a dim that was laid out, and stays a dim of its own, is the 1 it was."""
    laid = {home for size, home in zip(lean, homes, strict=True) if size == 1}
    return tuple(1 if d in laid else size for d, size in enumerate(shape))


def held_by(
    op: Op, known: Sequence[Map | Packed], inner: Sequence[frozenset[int] | None]
) -> frozenset[int] | None:
    """The dims of what an op behind the trunk makes that hold positions, by those of what it reads.

    Positions may be taken together axis by axis: rows first, then what is left of them.
    """
    whole = not known or takes_all(op, known)
    if whole and all(dims == frozenset() for dims in inner):
        return frozenset()
    if len(known) + len(inner) != 1:
        return None
    held = frozenset(known[0].axes) if known else inner[0]
    if held is None or (op.kind in REDUCTIONS and 0 in axes_of(op)):
        return None
    if op.kind in REDUCTIONS:
        axes = set(axes_of(op))
        gone = {d: 0 if op.attr("keepdims") else sum(a < d for a in axes) for d in held}
        return frozenset(d - gone[d] for d in held - axes)
    if known or op.kind not in (*UNARY, "Squeeze", "Unsqueeze"):
        return None  # a Reshape says how many positions there are
    if op.kind in UNARY:
        return held
    homes = homes_of(op, op.in_shape(), op.out_shape())
    kept = [homes[d] for d in held]
    return frozenset(d for d in kept if d is not None) if None not in kept else None


def takes_all(op: Op, known: Sequence[Map | Packed]) -> bool:
    """Whether an op takes all positions of what it reads together, so that none is left."""
    if op.kind in GLOBAL_POOLS or op.kind == "DynamicQuantizeLinear":
        return True
    if op.kind in POOLS:
        return pools_all(op)
    if op.kind in REDUCTIONS:
        axes = set(axes_of(op))
        return set(known[0].axes) <= axes and 0 not in axes
    if op.kind != "MatMul" or len(known) != 2:
        return False
    left, right = (Packed.of(m) for m in known)
    kept = (*left.dims[:-1], *right.dims[:-2], right.dims[-1])
    return not any(holds(dim, CELLS, CONTEXT) for dim in kept)
