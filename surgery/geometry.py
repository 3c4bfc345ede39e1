"""The forward walk: where every trunk tensor's cells lie, where the trunk ends, and what soils it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import onnx_graphsurgeon as gs

import surgery.ops  # noqa: F401  (enters the rules)
from surgery.errors import Reason
from surgery.field import Axis
from surgery.graph import Op
from surgery.ops.pointwise import BINARY, UNARY
from surgery.ops.shape import RESHAPES
from surgery.ops.window import SLIDING
from surgery.packed import Never, Packed, packed, settle
from surgery.rules import EndsTrunk, Map, Mixes, NoRule, geometry, key_of
from surgery.shapes import Facts

RESIDUES = 64
STRUCTURAL = (*RESHAPES, "Transpose")
PACKS = (*STRUCTURAL, "MatMul")  # what may make of a map something that is none, and comes back
SPREADS = ("Expand", "Tile", "Resize", "Upsample")  # what lays one cell out over all positions
RETURNS = (*BINARY, "Concat", "MatMul")
SETTINGS = ("ConvInteger", "MatMulInteger", "QuantizeLinear", "DequantizeLinear")  # may take the image's
Outs = list[Map | Packed | None]


@dataclass(frozen=True, eq=False)
class Trunk:
    """What the walk found.

    `maps` holds the tensors that are maps, by name, and `packed` those that only pass from map to map;
    `head` the ops behind the trunk, in order; `gates` the ops that no map comes out of and a map needs;
    `aside` those that read inputs beside the image alone.
    `pads` names the nodes that read beyond the window, `mixing` those that mix the whole image into a
    cell, `ends` why the trunk ends at an op, `never` why the net can have no conversion at all, `rigid`
    the ops that dilation cannot serve, and why.
    """

    maps: dict[str, Map]
    packed: dict[str, Packed]
    head: tuple[Op, ...]
    gates: tuple[Op, ...]
    aside: tuple[Op, ...]
    pads: tuple[Reason, ...]
    mixing: tuple[Reason, ...]
    ends: dict[str, Reason]
    unknown: dict[str, Reason]
    never: tuple[Reason, ...] = ()
    rigid: tuple[tuple[Op, str], ...] = ()


def ops_of(graph: gs.Graph, opset: int, facts: Facts) -> list[Op]:
    """The nodes of a graph, in their order, as the rules see them."""
    return [Op.of(node, opset, facts) for node in graph.nodes]


def walk(
    ops: Sequence[Op], facts: Facts, residues: int = RESIDUES, grid: Sequence[int] | None = None
) -> Trunk:
    """Follow the image through the ops.

    `residues` is how many larger sizes, pixel by pixel, to follow; `grid` the pixels between windows
    where it is not the net's own stride.
    """
    steps = grid or [0] * len(facts.window)
    image = tuple(Axis.image(size, residues, g) for size, g in zip(facts.window, steps, strict=True))
    walker = _Walker(facts, {facts.image: Map(facts.shape, facts.axes, image)})
    for op in ops:
        walker.step(op)
    return walker.result(ops)


class _Walker:
    """What is known of every tensor that depends on the image: a map, packed, or behind the trunk."""

    def __init__(self, facts: Facts, maps: dict[str, Map]) -> None:
        self.facts = facts
        self.maps = maps
        self.packed: dict[str, Packed] = {}
        self.behind: dict[str, Op] = {}  # by the op that makes them
        self.aside: dict[str, Op] = {}  # what inputs beside the image make, likewise
        self.returned: list[tuple[Op, Op]] = []
        self.pads: list[tuple[Op, Reason]] = []
        self.mixing: list[tuple[Op, Reason]] = []
        self.never: list[tuple[Op, Reason]] = []
        self.ends: dict[str, Reason] = {}
        self.unknown: dict[str, Reason] = {}

    def step(self, op: Op) -> None:
        """Find out what an op makes of what it reads."""
        known = [n for n in op.inputs if n in self.maps or n in self.packed]
        folded = [n for n in op.inputs if n in self.behind]
        if op.outputs[0] in self.facts.values:
            return
        if not (known or folded):
            self.aside.update({name: op for name in op.outputs if name})
            return
        outs = self._outputs(op, folded) if known else None
        for name, out in zip(op.outputs, outs or [None] * len(op.outputs), strict=False):
            if isinstance(out, Map):
                self.maps[name] = out
            elif isinstance(out, Packed):
                self.packed[name] = out
            elif name:
                self.behind[name] = op

    def _outputs(self, op: Op, folded: list[str]) -> Outs | None:
        """What an op makes, an entry per output (None: no positions); None where it ends the trunk."""
        reason = partial(Reason, op.name, op.kind)
        try:
            self._check_returns(op, folded)
            outs = self._apply(op, [self._value(n) for n in op.inputs])
            self._check_outputs(op, outs)
        except Mixes as mixed:
            self.mixing.append((op, reason(str(mixed))))
            return [mixed.result.soil()]
        except Never as never:
            self.never.append((op, reason(str(never))))
            return None
        except EndsTrunk as end:
            self.ends[op.outputs[0]] = reason(str(end))
            return None
        except NoRule as missing:
            telling = self.unknown if self._in_trunk(op) else self.ends
            telling[op.outputs[0]] = reason(str(missing))
            return None
        if folded:
            self.returned += [(op, self.behind[n]) for n in folded]
            return [None if o is None else o.soil() for o in outs]
        self._note_pads(op, outs)
        return outs

    def _in_trunk(self, op: Op) -> bool:
        """Whether what an op reads may still be a trunk's: a map, or positions apart from features."""
        rows = [self.packed[n] for n in op.inputs if n in self.packed]
        return all(any(len(x.dims[d]) <= len(x.geometry) for d in x.axes) for x in rows)

    def _value(self, name: str) -> Any:
        for known in (self.maps, self.packed, self.facts.values):
            if name in known:
                return known[name]
        return None

    def _apply(self, op: Op, inputs: list[Any]) -> Outs:
        """The rule for maps, or, for what no map is or stays, the rule for packed tensors."""
        key = key_of(op.domain, op.kind)
        if not any(isinstance(i, Packed) for i in inputs):
            try:
                return _listed(geometry.look_up(*key)(op, inputs))
            except (Mixes, Never):
                raise
            except NoRule:
                if key not in ((("", kind)) for kind in PACKS):
                    raise
        if key not in packed.entries:
            raise EndsTrunk("it reads positions that lie in one row")
        seen = [Packed.of(i) if isinstance(i, (Map, Packed)) else i for i in inputs]
        try:
            outs = _listed(packed.look_up(*key)(op, seen))
            return [None if out is None else settle(out) for out in outs]
        except Mixes as mixed:
            raise Mixes(str(mixed), settle(mixed.result)) from mixed

    def _check_returns(self, op: Op, folded: list[str]) -> None:
        """Raise where what is no map meets a map otherwise than by being the same at every position."""
        maps = [m for n in op.inputs if (m := self.maps.get(n) or self.packed.get(n))]
        others = [n for n in op.inputs if n and self._value(n) is None]
        for name in others:
            shape = self._lean(name)
            if op.kind in SETTINGS and prod(shape) == 1:
                continue
            what = f"{name!r} {list(shape)}"
            if op.kind not in RETURNS:
                raise EndsTrunk(f"{what} sets how it works, and depends on the image or on another input")
            if op.kind == "MatMul":
                continue
            lead = len(op.out_shape()) - len(shape)
            whose = "was taken from the positions" if name in folded else "is an input of its own"
            if any(d >= lead and shape[d - lead] != 1 for m in maps for d in m.axes):
                raise EndsTrunk(f"{what} {whose}, and meets the map position by position")
            if lead and shape and not self._of_all(name):
                raise EndsTrunk(f"{what} {whose}, and its batch would meet another dim of the map")

    def _of_all(self, name: str) -> bool:
        """Whether a tensor behind the trunk has no batch: a scale of all images together."""
        return name in self.behind and self._root(self.behind[name]).kind == "DynamicQuantizeLinear"

    def _lean(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor behind the trunk before it was laid out over all positions."""
        op = self.behind.get(name) or self.aside.get(name)
        shape = self.facts.shapes[name]
        if op is not None and op.kind in (*SPREADS, *UNARY) and op.inputs[0] not in self.maps:
            before = self._lean(op.inputs[0])
            return (1,) * (len(shape) - len(before)) + before
        return shape

    def _check_outputs(self, op: Op, outs: Outs) -> None:
        """Raise where the runtime has made another number of cells than the rules say."""
        for name, out in zip(op.outputs, outs, strict=False):
            if out is None or not name:
                continue
            said = [out.shape[d] for d in out.axes]
            cells = [a.cells for a in out.geometry] if isinstance(out, Map) else said
            if out.shape != self.facts.shapes[name] or said != cells:
                seen = list(self.facts.shapes[name])
                raise NoRule(f"by its attributes it makes {cells} cells, and onnxruntime made {seen}")

    def _note_pads(self, op: Op, outs: Outs) -> None:
        """Note an op that would soil even a map of clean cells."""
        if not any(isinstance(o, Map) and any(sum(a.margin) for a in o.geometry) for o in outs):
            return
        values = [self._value(n) for n in op.inputs]
        clean = [_cleaned(v) if isinstance(v, (Map, Packed)) else v for v in values]
        for made in self._apply(op, clean):
            if made is None or not any(sum(a.margin) for a in made.geometry):
                continue
            ends = ", ".join(f"{a.margin[0]} + {a.margin[1]} of {a.cells}" for a in made.geometry)
            why = f"it reads beyond the window's border ({ends} cells per axis, at start + end)"
            self.pads.append((op, Reason(op.name, op.kind, why)))

    def result(self, ops: Sequence[Op]) -> Trunk:
        """What was found, with the ops parted into the trunk's own, its gates, and the head."""
        makers = {name: op for op in ops for name in op.outputs if name}
        head = self._head(makers)
        self._take_structure(ops, head)
        read = [n for op in ops if id(op) in head for n in op.inputs if n in self.maps]
        used = _ancestors(ops, [*read, *(o for o in self.facts.outputs if o in self.maps)])
        gates = [op for op in ops if id(op) in used and op.outputs[0] not in self.maps and self._moves(op)]
        mixing = dict.fromkeys(r for op, r in [*self.mixing, *self._returns()] if id(op) in used)
        pads = tuple(r for op, r in self.pads if id(op) in used)
        live = _ancestors(ops, self.facts.outputs)
        never = tuple(r for op, r in self.never if id(op) in live)
        behind = tuple(op for op in ops if id(op) in head)
        rigid = tuple((op, why) for op in ops if id(op) in used and (why := self._rigid(op)))
        return Trunk(
            self.maps,
            self.packed,
            behind,
            tuple(gates),
            tuple({id(op): op for op in self.aside.values()}.values()),
            pads,
            tuple(mixing),
            self.ends,
            self.unknown,
            never,
            rigid,
        )

    def _rigid(self, op: Op) -> str:
        """Why dilation cannot serve an op that is no windowed one; empty where it can."""
        x, out = (self.maps.get(n) for n in (*op.inputs[:1], op.outputs[0])) if op.inputs else (None, None)
        if x is None or out is None or op.kind in (*SLIDING, "Pad", "Slice"):
            return ""
        for before, after in zip(x.geometry, out.geometry, strict=True):
            if after.field.stride != before.field.stride:
                return f"lie {after.field.stride} pixels apart, in place of {before.field.stride}"
        return ""

    def _moves(self, op: Op) -> bool:
        return op.outputs[0] in self.behind or op.outputs[0] in self.packed

    def _head(self, makers: dict[str, Op]) -> set[int]:
        """The ops that make an output of the model from maps, by id."""
        found: set[int] = set()
        queue = [n for n in self.facts.outputs if n in self.behind or n in self.packed]
        while queue:
            op = makers[queue.pop()]
            if id(op) not in found:
                found.add(id(op))
                queue += [n for n in op.inputs if n in self.behind or n in self.packed]
        return found

    def _take_structure(self, ops: Sequence[Op], head: set[int]) -> None:
        """Give the head what only renames dims for it alone: it is the head's own order of features."""
        nodes = {id(op.node): op for op in ops if id(op) in head}
        for op in reversed(ops):
            out = op.node.outputs[0]
            if op.kind not in STRUCTURAL or out.name not in self.maps or out.name in self.facts.outputs:
                continue
            users = [nodes.get(id(user)) for user in out.outputs]
            slid = any(u is not None and u.kind in SLIDING for u in users) and op.kind != "Transpose"
            if users and all(users) and not slid and op.inputs[0] in self.maps:
                nodes[id(op.node)] = op
                head.add(id(op))
                del self.maps[out.name]

    def _returns(self) -> list[tuple[Op, Reason]]:
        """The ops at which something taken from every position comes back, with what took it."""
        found = []
        for op, maker in self.returned:
            root = self._root(maker)
            why = f"what it takes from every position returns to the map at {op.kind} {op.name!r}"
            found.append((op, Reason(root.name, root.kind, why)))
        return found

    def _root(self, maker: Op) -> Op:
        """The op of a gate that took the positions together."""
        while True:
            before = [self.behind[n] for n in maker.inputs if n in self.behind]
            if not before or before[0] is maker:
                return maker
            maker = before[0]


def _listed(result: Any) -> list[Any]:
    return result if isinstance(result, list) else [result]


def _cleaned(m: Any) -> Any:
    return replace(m, geometry=tuple(replace(a, margin=(0, 0)) for a in m.geometry))


def _ancestors(ops: Sequence[Op], names: Iterable[str]) -> set[int]:
    """The ops that the named tensors depend on, themselves among them, by id."""
    wanted = set(names)
    found: set[int] = set()
    for op in reversed(ops):
        if wanted & set(op.outputs):
            found.add(id(op))
            wanted |= set(op.inputs)
    return found
