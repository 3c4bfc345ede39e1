"""Gates, which take all positions together and return to the map, must take the whole image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.errors import Refused
from surgery.findings import SPREADS
from surgery.geometry import Trunk
from surgery.graph import Builder, Op
from surgery.ops.pointwise import BINARY, UNARY
from surgery.ops.reduce import GLOBAL_POOLS
from surgery.ops.shape import RESHAPES, follow_dims, free_expand
from surgery.unbake import free_reshape, name_squeezed, seen, take_over

MEETING = (*UNARY, *BINARY, *RESHAPES, *SPREADS, "Concat")  # dims stay, or meet those of a map
GLOBAL = {pool: whole for whole, pool in GLOBAL_POOLS.items()}


def free_gate(build: Builder, op: Op, trunk: Trunk) -> list[str]:
    """Rewrite an op of a gate, in place, to take an image of any size; returns a line for what was done.

    Raises Refused where it has no batch of its own.
    """
    if op.outputs[0] in trunk.packed and op.kind == "Expand":
        return free_expand(op, seen(trunk, op.inputs[0]), build)
    if op.outputs[0] in trunk.packed:
        return free_reshape(build, op, trunk)
    if not any(n in trunk.maps or n in trunk.packed for n in op.inputs):
        return free_features(build, op, trunk)
    if op.kind not in GLOBAL:
        return []
    what, attrs = op.kind, {"p": op.attr("p")} if op.kind == "LpPool" else {}
    op.node.op, op.node.attrs = GLOBAL[op.kind], attrs
    return [f"{what} {op.name!r}: pools the whole image"]


def free_features(build: Builder, op: Op, trunk: Trunk) -> list[str]:
    """A gate's vector has a batch that is free, and is not laid out over the window's positions."""
    shape, before = op.out_shape(), op.in_shape()
    if op.kind in SPREADS and shape != before:
        return narrow_spread(build, op, trunk)
    if op.kind in (*RESHAPES, "Transpose") and shape[:1] != before[:1]:
        why = "it gives up the batch as a dim of its own, and returns to the map"
        raise Refused(
            f"cannot free {op.kind} {op.name!r}: {why}. The exact engine (--exact) keeps the crops' answers.",
            node=op.name,
            op=op.kind,
            why=why,
        )
    if op.kind == "Reshape":
        laid = positions_behind(op, trunk)
        sizes = [1 if d in laid else size for d, size in enumerate(shape)]
        take_over(build, op.node, build.reshape(op.node.inputs[0], [0, *sizes[1:]]))
    elif op.kind in RESHAPES:
        name_squeezed(build, op)
    return []


def narrow_spread(build: Builder, op: Op, trunk: Trunk) -> list[str]:
    """What lays a vector out over the window's positions repeats its features only: the map lays it out."""
    shape, before = op.out_shape(), op.in_shape()
    before = (1,) * (len(shape) - len(before)) + before
    positions = positions_behind(op, trunk)
    place = f"{op.kind} {op.name!r}"
    if all(a == b or d in positions for d, (a, b) in enumerate(zip(before, shape, strict=True))):
        take_over(build, op.node, op.node.inputs[0])
        return [f"{place}: left out, as the map it meets lays it out"]
    fixed = {0, *positions}
    if op.kind == "Tile":
        times = [1 if d in fixed else b // a for d, (a, b) in enumerate(zip(before, shape, strict=True))]
        op.node.inputs[1] = build.ints("times", times)
    else:
        op.node.inputs[1] = build.ints("features", [1 if d in fixed else b for d, b in enumerate(shape)])
    return [f"{place}: repeats features only"]


def positions_behind(op: Op, trunk: Trunk) -> set[int]:
    """The dims that hold positions in the map to which an op's output returns."""
    return _positions_of(op.node.outputs[0], op.out_shape(), op.facts.shapes, trunk)


def _positions_of(
    tensor: Any, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]], trunk: Trunk
) -> set[int]:
    """The dims of a tensor of a gate that hold positions in a map made from it."""
    found: set[int] = set()
    for node in tensor.outputs:
        out = node.outputs[0]
        after = shapes.get(out.name, shape)  # what was put in here changes no shape
        if out.name in shapes and node.op not in MEETING:
            continue
        known = trunk.maps.get(out.name) or trunk.packed.get(out.name)
        inside = set(known.axes) if known is not None else _positions_of(out, after, shapes, trunk)
        if node.op in RESHAPES:
            found |= {d for d, home in enumerate(follow_dims(shape, after)) if home in inside}
        else:  # dims meet from the last one on
            lead = len(after) - len(shape)
            found |= {d - lead for d in inside if d >= lead}
    return found


def free_aside(build: Builder, op: Op, trunk: Trunk) -> list[str]:
    """What an input beside the image becomes has a batch that is free, if it has one."""
    batched = op.inputs and op.in_shape()[:1] == op.out_shape()[:1] == (op.facts.batch,)
    return free_features(build, op, trunk) if batched else []
