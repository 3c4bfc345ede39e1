"""The body of a net, copied for each group of windows; what the copies give is put one behind the other.

The graph stays a plain one, which every runtime takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import onnx_graphsurgeon as gs

from surgery.batch import Batches
from surgery.parting import Box, Parting


def _parts(count: int, size: int) -> list[tuple[int, int]]:
    return [(a, min(a + size, count)) for a in range(0, count, size)]


class Copies:
    """Runs nodes on so many windows of each axis of the grid at a time."""

    def __init__(self, parting: Parting, at_once: tuple[int, ...], batches: Batches) -> None:
        self.parting = parting
        self.build = parting.build
        self.batches = batches
        self.boxes: list[Box] = list(product(*map(_parts, parting.grid, at_once)))

    def run(self, nodes: Sequence[Any], ends: Sequence[Any]) -> list[Any]:
        """The ends, made by these nodes of the graph, for the batch of all windows."""
        groups = [self._copy(nodes, box, f"{i}") for i, box in enumerate(self.boxes)]
        joined = []
        for end in ends:
            self.build.prefix = end.name
            joined.append(self.batches.joined([made[id(end)] for made in groups], end.name))
        return joined

    def _copy(self, nodes: Sequence[Any], box: Box, group: str) -> dict[int, Any]:
        """The nodes once more, on a part of the grid; their tensors by the id of those they stand for."""
        made: dict[int, Any] = {
            id(d): self.parting.windows(n, box) for n, d in self.parting.doors.items() if d.outputs
        }
        for node in nodes:
            outputs = [
                gs.Variable(self.build.fresh(f"{t.name}/{group}"), dtype=t.dtype) for t in node.outputs
            ]
            made.update({id(old): new for old, new in zip(node.outputs, outputs, strict=True)})
            inputs = [made.get(id(t), t) for t in node.inputs]
            name = self.build.fresh(f"{node.name}/{group}")
            self.build.graph.nodes.append(
                gs.Node(node.op, name, dict(node.attrs), inputs, outputs, domain=node.domain)
            )
        return made
