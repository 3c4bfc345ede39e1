"""The ops of a net parted: the trunk's own, its gates, and the head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from surgery.findings import Findings
from surgery.graph import Op
from surgery.ops.shape import RESHAPES
from surgery.ops.window import SLIDING

STRUCTURAL = (*RESHAPES, "Transpose")


@dataclass(frozen=True, eq=False)
class Parts:
    """The ops of the head, and those that no map comes out of and a map needs; `used` holds the ids of the
    ops that the head's input depends on, `live` of those that any output does.
    """

    head: tuple[Op, ...]
    gates: tuple[Op, ...]
    used: set[int]
    live: set[int]


def part(ops: Sequence[Op], found: Findings) -> Parts:
    """Part the ops of a net.

    What no output depends on, and maps that only the head reads, in another order, leave the findings.
    """
    outputs = found.facts.outputs
    live = ancestors(ops, outputs)
    for name in [n for op in ops if id(op) not in live for n in op.outputs]:
        for known in (found.maps, found.packed, found.behind):
            known.pop(name, None)
    head = _head(ops, found)
    kept = {id(op) for op in _gates(ops, head, found)[1]}
    _take_structure([op for op in ops if id(op) in live], head, kept, found)
    used, gates = _gates(ops, head, found)
    behind = tuple(op for op in ops if id(op) in head)
    return Parts(behind, gates, used, live)


def _gates(ops: Sequence[Op], head: set[int], found: Findings) -> tuple[set[int], tuple[Op, ...]]:
    """What the maps of the head and of the outputs depend on, by id, and the ops of it that make no map."""
    read = [n for op in ops if id(op) in head for n in op.inputs if n in found.maps]
    used = ancestors(ops, [*read, *(o for o in found.facts.outputs if o in found.maps)])
    no_map = found.behind.keys() | found.packed.keys()
    gates = tuple(op for op in ops if id(op) in used and op.outputs[0] in no_map - found.maps.keys())
    return used, gates


def _head(ops: Sequence[Op], found: Findings) -> set[int]:
    """The ops that make an output of the model from maps, by id."""
    makers = {name: op for op in ops for name in op.outputs if name}
    taken: set[int] = set()
    queue = [n for n in found.facts.outputs if n in found.behind or n in found.packed]
    while queue:
        op = makers[queue.pop()]
        if id(op) not in taken:
            taken.add(id(op))
            queue += [n for n in op.inputs if n in found.behind or n in found.packed]
    return taken


def _take_structure(live: Sequence[Op], head: set[int], kept: set[int], found: Findings) -> None:
    """Give the head what only renames dims for it alone: it is the head's own order of features.

    An op of the head that is among those `kept` is a gate's too.
    """
    nodes = {id(op.node): op for op in live if id(op) in head - kept}
    alive = {id(op.node) for op in live}
    for op in reversed(live):
        out = op.node.outputs[0]
        if op.kind not in STRUCTURAL or out.name not in found.maps or out.name in found.facts.outputs:
            continue
        users = [nodes.get(id(user)) for user in out.outputs if id(user) in alive]
        slid = any(u is not None and u.kind in SLIDING for u in users) and op.kind != "Transpose"
        if users and all(users) and not slid and op.inputs[0] in found.maps:
            nodes[id(op.node)] = op
            head.add(id(op))
            del found.maps[out.name]


def rigid(op: Op, found: Findings) -> str:
    """Why dilation cannot serve an op that is no windowed one; empty where it can."""
    x, out = (found.maps.get(n) for n in (*op.inputs[:1], op.outputs[0])) if op.inputs else (None, None)
    if x is None or out is None:
        return ""
    circular = op.outputs[0] in op.facts.wraps or (op.kind == "Pad" and op.attr("mode") == "wrap")
    if circular and any(axis.field.stride != 1 for axis in x.geometry):
        return "come from the window's other end, and are others where cells lie closer (circular padding)"
    if op.kind in (*SLIDING, "Pad", "Slice"):
        return ""
    for before, after in zip(x.geometry, out.geometry, strict=True):
        if after.field.stride != before.field.stride:
            return f"lie {after.field.stride} pixels apart, in place of {before.field.stride}"
    return ""


def ancestors(ops: Sequence[Op], names: Iterable[str]) -> set[int]:
    """The ops that the named tensors depend on, themselves among them, by id."""
    wanted = set(names)
    found: set[int] = set()
    for op in reversed(ops):
        if wanted & set(op.outputs):
            found.add(id(op))
            wanted |= set(op.inputs)
    return found
