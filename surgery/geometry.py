"""The forward walk: where every trunk tensor's cells lie, where the trunk ends, and what soils it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import onnx_graphsurgeon as gs

import surgery.ops  # noqa: F401  (enters the rules)
from surgery.errors import Reason
from surgery.field import Axis
from surgery.findings import Findings
from surgery.graph import Op
from surgery.packed import Never, Packed, packed, settle
from surgery.parts import STRUCTURAL, part, rigid
from surgery.rules import EndsTrunk, Map, Mixes, NoRule, geometry, key_of
from surgery.shapes import Facts

RESIDUES = 64
PACKS = (*STRUCTURAL, "MatMul", "Gemm")  # what may make of a map something that is none, and comes back
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
    ops: Sequence[Op],
    facts: Facts,
    residues: int = RESIDUES,
    grid: Sequence[int] | None = None,
    *,
    whole_windows: bool = False,
) -> Trunk:
    """Follow the image through the ops.

    `residues` is how many larger sizes, pixel by pixel, to follow; `grid` the pixels between windows
    where it is not the net's own stride; `whole_windows` ends the trunk where all positions are mixed.
    """
    steps = grid or [0] * len(facts.window)
    image = tuple(Axis.image(size, residues, g) for size, g in zip(facts.window, steps, strict=True))
    found = Findings(facts, {facts.image: Map(facts.shape, facts.axes, image)})
    walker = _Walker(found, whole_windows)
    for op in ops:
        walker.step(op)
    return walker.result(ops)


class _Walker:
    """What is known of every tensor that depends on the image: a map, packed, or behind the trunk."""

    def __init__(self, found: Findings, whole_windows: bool) -> None:
        self.found = found
        self.whole_windows = whole_windows

    def step(self, op: Op) -> None:
        """Find out what an op makes of what it reads."""
        known = [n for n in op.inputs if n in self.found.maps or n in self.found.packed]
        folded = [n for n in op.inputs if n in self.found.behind]
        if op.outputs[0] in self.found.facts.values:
            return
        if not (known or folded):
            self.found.aside.update({name: op for name in op.outputs if name})
            return
        outs = self._outputs(op, folded) if known else None
        for name, out in zip(op.outputs, outs or [None] * len(op.outputs), strict=False):
            if isinstance(out, Map):
                self.found.maps[name] = out
            elif isinstance(out, Packed):
                self.found.packed[name] = out
            elif name:
                self.found.behind[name] = op

    def _outputs(self, op: Op, folded: list[str]) -> Outs | None:
        """What an op makes, an entry per output (None: no positions); None where it ends the trunk."""
        reason = partial(Reason, op.name, op.kind)
        try:
            self.found.check_returns(op, folded)
            outs = self._apply(op, [self.found.value(n) for n in op.inputs])
            self._check_outputs(op, outs)
            if folded and self.whole_windows:
                raise EndsTrunk("what was taken from every position of a window returns to its map")
        except Mixes as mixed:
            if self.whole_windows:
                self.found.ends[op.outputs[0]] = reason(str(mixed))
                return None
            self.found.mixing.append((op, reason(str(mixed))))
            return [mixed.result.soil()]
        except Never as never:
            self.found.never.append((op, reason(str(never))))
            return None
        except EndsTrunk as end:
            self.found.ends[op.outputs[0]] = reason(str(end))
            return None
        except NoRule as missing:
            telling = self.found.unknown if self._in_trunk(op) else self.found.ends
            telling[op.outputs[0]] = reason(str(missing))
            return None
        if folded:
            self.found.returned += [(op, self.found.behind[n]) for n in folded]
            return [None if o is None else o.soil() for o in outs]
        self._note_pads(op, outs)
        return outs

    def _in_trunk(self, op: Op) -> bool:
        """Whether what an op reads may still be a trunk's: a map, or positions apart from features."""
        rows = [self.found.packed[n] for n in op.inputs if n in self.found.packed]
        return all(any(len(x.dims[d]) <= len(x.geometry) for d in x.axes) for x in rows)

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

    def _check_outputs(self, op: Op, outs: Outs) -> None:
        """Raise where the runtime has made another number of cells than the rules say."""
        for name, out in zip(op.outputs, outs, strict=False):
            if out is None or not name:
                continue
            said = [out.shape[d] for d in out.axes]
            cells = [a.cells for a in out.geometry] if isinstance(out, Map) else said
            if out.shape != self.found.facts.shapes[name] or said != cells:
                seen = list(self.found.facts.shapes[name])
                raise NoRule(f"by its attributes it makes {cells} cells, and onnxruntime made {seen}")

    def _note_pads(self, op: Op, outs: Outs) -> None:
        """Note an op that would soil even a map of clean cells."""
        if not any(isinstance(o, Map) and any(sum(a.margin) for a in o.geometry) for o in outs):
            return
        values = [self.found.value(n) for n in op.inputs]
        clean = [_cleaned(v) if isinstance(v, (Map, Packed)) else v for v in values]
        for made in self._apply(op, clean):
            if made is None or not any(sum(a.margin) for a in made.geometry):
                continue
            ends = ", ".join(f"{a.margin[0]} + {a.margin[1]} of {a.cells}" for a in made.geometry)
            why = f"it reads beyond the window's border ({ends} cells per axis, at start + end)"
            self.found.pads.append((op, Reason(op.name, op.kind, why)))

    def result(self, ops: Sequence[Op]) -> Trunk:
        """What was found, with the ops parted into the trunk's own, its gates, and the head."""
        found = self.found
        parts = part(ops, found)
        mixing = dict.fromkeys(r for op, r in [*found.mixing, *self._returns()] if id(op) in parts.used)
        return Trunk(
            found.maps,
            found.packed,
            parts.head,
            parts.gates,
            tuple({id(op): op for op in found.aside.values()}.values()),
            tuple(r for op, r in found.pads if id(op) in parts.used),
            tuple(mixing),
            found.ends,
            found.unknown,
            tuple(r for op, r in found.never if id(op) in parts.live),
            tuple((op, why) for op in ops if id(op) in parts.used and (why := rigid(op, found))),
        )

    def _returns(self) -> list[tuple[Op, Reason]]:
        """The ops at which something taken from every position comes back, with what took it."""
        reasons = []
        for op, maker in self.found.returned:
            root = self.found.root(maker)
            why = f"what it takes from every position returns to the map at {op.kind} {op.name!r}"
            reasons.append((op, Reason(root.name, root.kind, why)))
        return reasons


def _listed(result: Any) -> list[Any]:
    return result if isinstance(result, list) else [result]


def _cleaned(m: Any) -> Any:
    return replace(m, geometry=tuple(replace(a, margin=(0, 0)) for a in m.geometry))
