"""Statistics of a window, as its variance: what returns to the positions is summed up over them again."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.geometry import Trunk
from surgery.graph import Op
from surgery.ops.normalize import SOFT
from surgery.ops.pointwise import BINARY, UNARY
from surgery.ops.reduce import GLOBAL_POOLS, REDUCTIONS
from surgery.ops.shape import RESHAPES
from surgery.ops.window import POOLS, pools_all

VALUE_BY_VALUE = (*UNARY, *BINARY, "Clip", *RESHAPES, "Transpose")
WITHOUT_WEIGHTS = (*VALUE_BY_VALUE, *SOFT, *GLOBAL_POOLS, *REDUCTIONS, *POOLS)


def only_summed_up(trunk: Trunk, ops: Sequence[Op], outputs: Sequence[str]) -> bool:
    """Whether all that mixes the image is on its way to a sum over positions, and no weight is met before.

    Such a net can have its window taken apart where the mixing begins: no op behind it slides over a map.
    What meets a constant that differs from position to position is none of any other image either.
    """
    known = trunk.maps | trunk.packed
    nodes = {reason.node for reason in trunk.mixing}
    begun = [op for op in ops if op.name in nodes]
    mixed = {n for op in begun for n in op.outputs}
    if not mixed or mixed & set(outputs) or any(op.kind not in WITHOUT_WEIGHTS for op in trunk.gates):
        return False
    reached = set(mixed)
    for op in ops:
        if not reached & set(op.inputs):
            continue
        if op.outputs[0] in known:
            if op.kind not in VALUE_BY_VALUE or set(op.outputs) & set(outputs):
                return False
        elif any(n in known and n in reached for n in op.inputs) and not _ends(op):
            return False
        reached |= set(op.outputs)
    return True


def _ends(op: Op) -> bool:
    """Whether an op that ends the trunk sums over positions, or gives each a constant of its own."""
    if op.kind in BINARY:
        return any(op.value(i) is not None for i in range(len(op.inputs)))
    return op.kind in (*REDUCTIONS, *GLOBAL_POOLS) or (op.kind in POOLS and pools_all(op))
