"""The peak of activations of an exact model, estimated from its plan."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from surgery.cost import FREE, FUSED
from surgery.exact import Plan, Planned, Strips
from surgery.geometry import Trunk
from surgery.graph import Op
from surgery.shapes import Facts


def peak(plan: Plan, ops: Sequence[Op], trunk: Trunk, facts: Facts) -> int:
    """Bytes of activations alive at once, for one image, at the worst op.

    A tensor lives from the op that makes it to the last that reads it; ops that onnxruntime runs in place
    or fuses into the op before make none.
    """
    inside = {id(p.op): p for p in plan.planned}
    strips = {facts.image: plan.image, **plan.strips()}
    uses: dict[str, int] = {}
    moving = [op for op in ops if op.outputs[0] not in facts.values]
    for op in moving:
        for name in op.inputs:
            uses[name] = uses.get(name, 0) + 1
    stored = {n: _stored(n, strips[n], trunk, facts) for n in strips}
    windows = prod(plan.grid)
    alive: dict[str, float] = {facts.image: stored[facts.image]}
    parted: set[str] = set()
    worst = alive[facts.image]
    for op in moving:
        planned = inside.get(id(op))
        extra = _temporary(planned, trunk, facts) if planned else 0.0
        if planned is None:
            for name in op.inputs:
                if name in strips and name not in parted:
                    parted.add(name)
                    alive[f"{name}/windows"] = windows * _values(name, facts)
                    extra += windows * _values(name, facts)
        made = [n for n in op.outputs if n]
        size = sum(stored[n] if planned else windows * _values(n, facts) for n in made)
        in_place = op.kind in (*FREE, *FUSED) or prod(op.out_shape()) == prod(op.in_shape())
        fresh = size if not in_place or any(uses.get(n, 0) > 1 for n in op.inputs if n in alive) else 0.0
        worst = max(worst, sum(alive.values()) + fresh + extra)
        for name in op.inputs:
            uses[name] -= 1
            if uses[name] == 0:
                alive.pop(name, None)
                alive.pop(f"{name}/windows", None)
        for name in made:
            if uses.get(name, 0):
                alive[name] = stored[name] if planned else windows * _values(name, facts)
    return int(worst)


def _values(name: str, facts: Facts) -> float:
    return prod(facts.shapes[name]) / facts.batch * int(facts.dtypes[name].itemsize)


def _stored(name: str, strips: Strips, trunk: Trunk, facts: Facts) -> float:
    return _values(name, facts) * prod(s.length for s in strips) / prod(trunk.maps[name].cells)


def _temporary(planned: Planned, trunk: Trunk, facts: Facts) -> float:
    """What gathers and masks before an op hold beside its input."""
    if not planned.steps or all(s.gather is None and s.masked is None for s in planned.steps):
        return 0.0
    name = planned.op.inputs[0]
    m = trunk.maps[name]
    sides = prod(
        s.gather.size if s.gather is not None else c for s, c in zip(planned.steps, m.cells, strict=True)
    )
    return 2 * _values(name, facts) * sides / prod(m.cells)
