"""The forward walk: where every trunk tensor's cells lie, where the trunk ends, and what soils it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import surgery.ops  # noqa: F401  (enters the rules)
from surgery.errors import Reason
from surgery.field import Axis
from surgery.graph import Op
from surgery.rules import EndsTrunk, Map, Mixes, NoRule, geometry
from surgery.shapes import Facts

RESIDUES = 64
JOINS = ("Add", "Mul", "Sub", "Div", "Max", "Min", "Sum", "Mean", "Where", "Pow")


@dataclass(frozen=True, eq=False)
class Trunk:
    """What the walk found.

    `maps` holds the tensors that are maps, by name; `head` the ops behind the trunk, in order; `gates`
    the ops that take all positions together and return to the trunk. `pads` names the nodes that read
    beyond the window, `mixing` those that mix the whole image into a cell, `ends` why the trunk ends
    at an op.
    """

    maps: dict[str, Map]
    head: tuple[Op, ...]
    gates: tuple[Op, ...]
    pads: tuple[Reason, ...]
    mixing: tuple[Reason, ...]
    ends: dict[str, Reason]
    unknown: dict[str, Reason]


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
    def __init__(self, facts: Facts, maps: dict[str, Map]) -> None:
        self.facts = facts
        self.maps = maps
        self.behind: dict[str, Op] = {}  # tensors behind the trunk, by the op that makes them
        self.returned: list[tuple[Op, Op]] = []
        self.pads: list[tuple[Op, Reason]] = []
        self.mixing: list[tuple[Op, Reason]] = []
        self.ends: dict[str, Reason] = {}
        self.unknown: dict[str, Reason] = {}

    def step(self, op: Op) -> None:
        moving = [n for n in op.inputs if n in self.maps or n in self.behind]
        if not moving or op.outputs[0] in self.facts.values:
            return
        folded = [n for n in moving if n in self.behind]
        if folded and (len(folded) == len(moving) or not self._returns(op, folded)):
            self._put_behind(op)
            return
        try:
            outs = self._apply(op, [self._value(n) for n in op.inputs])
        except Mixes as mixed:
            reason = Reason(op.name, op.kind, str(mixed))
            self.mixing.append((op, reason))
            outs = [mixed.result.soil()]
        except EndsTrunk as end:
            self.ends[op.outputs[0]] = Reason(op.name, op.kind, str(end))
            self._put_behind(op)
            return
        except NoRule as missing:
            self.unknown[op.outputs[0]] = Reason(op.name, op.kind, str(missing))
            self._put_behind(op)
            return
        if folded:
            self._note_return(op, folded)
            outs = [o.soil() for o in outs if o is not None]
        else:
            self._note_pads(op, outs)
        self.maps.update({n: m for n, m in zip(op.outputs, outs, strict=False) if n and m is not None})

    def _value(self, name: str) -> Any:
        return self.maps.get(name, self.facts.values.get(name))

    def _apply(self, op: Op, inputs: list[Any]) -> list[Map | None]:
        result = geometry.look_up(op.domain, op.kind)(op, inputs)
        return result if isinstance(result, list) else [result]

    def _put_behind(self, op: Op) -> None:
        self.behind.update({name: op for name in op.outputs if name})

    def _returns(self, op: Op, folded: list[str]) -> bool:
        """Whether an op brings what was taken behind the trunk back to every cell of a map."""
        if op.kind not in JOINS:
            return False
        out = op.out_shape()
        maps = [self.maps[n] for n in op.inputs if n in self.maps]
        small = all(np.prod(self.facts.shapes[n]) < np.prod(out) for n in folded)
        return small and all(len(m.shape) == len(out) for m in maps)

    def _note_return(self, op: Op, folded: list[str]) -> None:
        for name in folded:
            self.returned.append((op, self.behind[name]))

    def _note_pads(self, op: Op, outs: list[Map | None]) -> None:
        """Note an op that would soil even a map of clean cells."""
        clean = [_cleaned(self.maps[n]) if n in self.maps else self._value(n) for n in op.inputs]
        if all(not isinstance(m, Map) for m in clean):
            return
        for made in self._apply(op, clean):
            if made is None or not any(sum(a.margin) for a in made.geometry):
                continue
            ends = ", ".join(f"{a.margin[0]} + {a.margin[1]} of {a.cells}" for a in made.geometry)
            why = f"it reads beyond the window's border ({ends} cells per axis, at start + end)"
            self.pads.append((op, Reason(op.name, op.kind, why)))

    def result(self, ops: Sequence[Op]) -> Trunk:
        gates = self._gates()
        for op, maker in self.returned:
            root = self._root(maker, gates)
            why = f"what it takes from every position returns to the map at {op.kind} {op.name!r}"
            self.mixing.append((op, Reason(root.name, root.kind, why)))
        marks = {id(op) for op in gates}
        behind = {id(op) for op in self.behind.values()} - marks
        self._take_transposes(ops, behind)
        head = tuple(op for op in ops if id(op) in behind)
        used = _ancestors(ops, [n for op in head for n in op.inputs if n in self.maps] or list(self.maps))
        pads = tuple(r for op, r in self.pads if id(op) in used)
        mixing = dict.fromkeys(r for op, r in self.mixing if id(op) in used)
        return Trunk(self.maps, head, tuple(gates), pads, tuple(mixing), self.ends, self.unknown)

    def _gates(self) -> list[Op]:
        """The ops between the trunk and a place where what they made returns to it."""
        gates: dict[int, Op] = {}
        queue = [maker for _, maker in self.returned]
        while queue:
            op = queue.pop()
            if id(op) not in gates:
                gates[id(op)] = op
                queue += [self.behind[n] for n in op.inputs if n in self.behind]
        return list(gates.values())

    def _take_transposes(self, ops: Sequence[Op], behind: set[int]) -> None:
        """Give the head the Transposes that only it reads: they are its own order of features."""
        nodes = {id(op.node) for op in ops if id(op) in behind}
        for op in reversed(ops):
            out = op.node.outputs[0]
            if op.kind != "Transpose" or out.name not in self.maps or not out.outputs:
                continue
            if all(id(user) in nodes for user in out.outputs):
                nodes.add(id(op.node))
                behind.add(id(op))
                del self.maps[out.name]

    def _root(self, maker: Op, gates: list[Op]) -> Op:
        """The op of a gate that took the positions together."""
        while True:
            before = [self.behind[n] for n in maker.inputs if n in self.behind]
            if not before:
                return maker
            maker = before[0]


def _cleaned(m: Map) -> Map:
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
