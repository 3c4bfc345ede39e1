"""The words of a refusal: what, where, what was seen, what to do."""

from __future__ import annotations

from surgery.errors import Reason
from surgery.geometry import Trunk
from surgery.graph import Op
from surgery.ops.window import SLIDING

RESAMPLING = ("ConvTranspose", "DepthToSpace", "SpaceToDepth", "Resize", "Upsample")
STATISTICS = ("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization")


def refusal(op: Op, why: str, trunk: Trunk) -> str:
    """What, where, what was seen, what to do."""
    seen = ", ".join(f"{n!r} {list(op.facts.shapes[n])}" for n in op.inputs if n in op.facts.shapes)
    earlier = next((r for r in trunk.unknown.values() if r.node != op.name), None)
    own = trunk.unknown.get(op.outputs[0])  # why it has no meaning in the trunk says the more
    if own is None and op.kind in RESAMPLING:
        own = trunk.ends.get(op.outputs[0])
    if own is not None and own.why != why:
        why = f"{own.why}; {why}"
    earlier = earlier or _end_before(op, trunk)
    before = f" Before it the trunk had already ended at {earlier}." if earlier else ""
    return (
        f"cannot lift {op.kind} {op.name!r} -> {op.outputs[0]!r}: {why}. Its inputs at the window: {seen}."
        f"{before} `surgery ops` lists what can be lifted; the exact engine (--exact) takes any head that "
        "keeps the images of a batch apart."
    )


def _end_before(op: Op, trunk: Trunk) -> Reason | None:
    """Where the trunk ended before an op that wants a map: there it stopped being one."""
    queue = [op.node] if op.kind in (*SLIDING, *RESAMPLING, *STATISTICS) else []
    seen: set[int] = set()
    while queue:
        node = queue.pop(0)
        for made in (n for tensor in node.inputs for n in tensor.inputs if id(n) not in seen):
            reason = trunk.ends.get(made.outputs[0].name)
            if reason is not None:
                return reason
            seen.add(id(made))
            queue.append(made)
    return None
