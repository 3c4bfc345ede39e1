"""Gates, which take all positions together and return to the map, must take the whole image."""

from __future__ import annotations

from surgery.errors import Refused
from surgery.geometry import SPREADS, Trunk
from surgery.graph import Builder, Op
from surgery.ops.reduce import GLOBAL_POOLS, REDUCTIONS, axes_of
from surgery.ops.shape import RESHAPES
from surgery.ops.window import statement
from surgery.rules import Map
from surgery.unbake import free_reshape, name_squeezed, take_over

GLOBAL = {pool: whole for whole, pool in GLOBAL_POOLS.items()}


def free_gate(build: Builder, op: Op, trunk: Trunk) -> list[str]:
    """Rewrite an op of a gate, in place, to take an image of any size; returns a line for what was done.

    Raises Refused where it takes a number of positions that the window fixes.
    """
    if op.outputs[0] in trunk.packed:
        return free_reshape(build, op, trunk)
    x = next((v for n in op.inputs if (v := trunk.maps.get(n) or trunk.packed.get(n))), None)
    if x is None:
        return free_features(build, op)
    if op.kind in REDUCTIONS and 0 in axes_of(op):
        raise _refused(op, "it reduces over the batch, and returns to the map")
    sums = op.kind == "MatMul" and not any(op.value(i) is not None for i in range(2))
    if sums or op.kind in GLOBAL_POOLS or (op.kind in REDUCTIONS and set(x.axes) <= set(axes_of(op))):
        return []
    if op.kind in GLOBAL and isinstance(x, Map) and pools_all(op):
        attrs = {"p": op.attr("p")} if op.kind == "LpPool" else {}
        what = op.kind
        op.node.op, op.node.attrs = GLOBAL[op.kind], attrs
        return [f"{what} {op.name!r}: pools the whole image"]
    raise _refused(op)


FIXED = "it takes a number of positions that the window fixes, and returns to the map"


def _refused(op: Op, why: str = FIXED) -> Refused:
    return Refused(
        f"cannot free {op.kind} {op.name!r}: {why}. It has no meaning at another size, with --allow-global "
        "or without; the exact engine (--exact) keeps the crops' answers.",
        node=op.name,
        op=op.kind,
        why=why,
    )


def pools_all(op: Op) -> bool:
    """Whether a pool takes just the window's cells, all of them."""
    slides = zip(statement(op).slides, op.in_shape()[2:], strict=True)
    return all(s.kernel == cells and s.dilation == 1 and s.before == 0 == s.after for s, cells in slides)


def free_features(build: Builder, op: Op) -> list[str]:
    """A gate's vector has a batch that is free, and is not laid out over the window's positions."""
    shape, before = op.out_shape(), op.in_shape()
    if op.kind in SPREADS and shape != before:
        lead = len(shape) - len(before)
        if any(a not in (1, b) for a, b in zip(before, shape[lead:], strict=True)):
            raise _refused(op)
        place = f"{op.kind} {op.name!r}"
        take_over(build, op.node, op.node.inputs[0])
        return [f"{place}: left out, as the map it meets lays it out"]
    if op.kind in (*RESHAPES, "Transpose") and shape[:1] != before[:1]:
        raise _refused(op, "it gives up the batch as a dim of its own, and returns to the map")
    if op.kind == "Reshape":
        take_over(build, op.node, build.reshape(op.node.inputs[0], [0, *shape[1:]]))
    elif op.kind in RESHAPES:
        name_squeezed(build, op)
    return []


def free_aside(build: Builder, op: Op) -> list[str]:
    """What an input beside the image becomes has a batch that is free, if it has one."""
    batched = op.inputs and op.in_shape()[:1] == op.out_shape()[:1] == (op.facts.batch,)
    return free_features(build, op) if batched else []
