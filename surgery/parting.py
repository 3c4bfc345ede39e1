"""Where the windows part: every window of a stored tensor as a sample of a batch.

The batch is ordered by the grid, rows before columns, images last. The body of the net may run on a few
windows at a time (see surgery.copies and surgery.loop).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.arrange import Ints
from surgery.cost import THIN
from surgery.exact import Strips
from surgery.graph import Builder, in_order
from surgery.places import Places
from surgery.rules import Map

Box = tuple[tuple[int, int], ...]  # the first window of each axis of the grid, and the one behind the last
Run = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]  # nodes and what they end in, which it makes

SLICES = 64  # windows taken one by one; beyond, a gather is the smaller graph


def lie_in_one(m: Map, index: Sequence[Ints]) -> bool:
    """Whether slices take the windows best: each lies in one piece, with too few channels for a gather."""
    few = prod(m.shape[d] for d in m.channel_dims) < THIN
    return few and all((np.diff(i, axis=1) == 1).all() for i in index)


def take_windows(places: Places, tensor: Any, m: Map, index: Sequence[Ints]) -> Any:
    """The windows at these stored places of each axis, as a batch: `[windows * N, ...]`."""
    build, count = places.build, prod(len(i) for i in index)
    if count <= SLICES and lie_in_one(m, index):
        return _sliced(build, tensor, m, index)
    cells = places.cells_first(tensor, m)
    for k, taken_at in enumerate(index):
        cells = places.along(1 + k, cells, taken_at.ravel())
    grid = [len(i) for i in index]
    inside = [m.shape[a] for a in m.axes]
    channels = [m.shape[d] for d in m.channel_dims]
    split = build.reshape(
        cells, [0, *(n for pair in zip(grid, inside, strict=True) for n in pair), *channels]
    )
    rank = len(index)
    order = [
        *range(1, 2 * rank, 2),
        0,
        *range(2, 2 * rank + 1, 2),
        *range(2 * rank + 1, 2 * rank + 1 + len(channels)),
    ]
    batch = build.reshape(build.emit("Transpose", [split], {"perm": order}), [-1, *inside, *channels])
    return places.channels_back(batch, m)


def _sliced(build: Builder, tensor: Any, m: Map, index: Sequence[Ints]) -> Any:
    starts = np.stack(np.meshgrid(*(i[:, 0] for i in index), indexing="ij"), axis=-1)
    cells = [i.shape[1] for i in index]
    parts = []
    for start in starts.reshape(-1, len(index)).tolist():
        ends = [a + n for a, n in zip(start, cells, strict=True)]
        parts.append(build.slice(tensor, start, ends, m.axes))
    return parts[0] if len(parts) == 1 else build.emit("Concat", parts, {"axis": 0})


class Parting:
    """The places where the rest reads windows, until it is known how many at a time."""

    def __init__(
        self,
        build: Builder,
        places: Places,
        maps: dict[str, Map],
        grid: tuple[int, ...],
        strips: dict[str, Strips],
        current: dict[str, Any],
    ) -> None:
        self.build = build
        self.places = places
        self.maps = maps
        self.grid = grid
        self.strips = strips
        self.current = current
        self.doors: dict[str, gs.Variable] = {}
        self.parted: dict[tuple[str, Box], Any] = {}

    def door(self, name: str) -> gs.Variable:
        """A tensor that stands for the windows of a stored one."""
        if name not in self.doors:
            self.doors[name] = gs.Variable(self.build.fresh(f"{name}/windows"))
        return self.doors[name]

    def windows(self, name: str, box: Box) -> Any:
        """The windows of a part of the grid; of what is stored for images, a copy for each window."""
        key = (name, box)
        if key in self.parted:
            return self.parted[key]
        self.build.prefix = name
        count = prod(last - first for first, last in box)
        if name not in self.strips:
            times = [count, *[1] * (len(self.current[name].shape) - 1)]
            made = self.build.emit("Tile", [self.current[name], self.build.ints("windows", times)])
        else:
            index = [s.index[a:b] for s, (a, b) in zip(self.strips[name], box, strict=True)]
            made = take_windows(self.places, self.current[name], self.maps[name], index)
        self.parted[key] = made
        return made

    def open(self, body: set[str], run: Run | None) -> None:
        """Let `run` make the tensors of these names from windows; all else runs on all of them at once."""
        graph = self.build.graph
        if run:
            in_order(graph)
            nodes, ends = self._body(body)
            inside = {id(n) for n in nodes}
            for end, made in zip(ends, run(nodes, ends), strict=True):
                self._replace(end, made, inside)
            graph.nodes[:] = [n for n in graph.nodes if id(n) not in inside]
        for name, door in self.doors.items():
            if door.outputs or any(o is door for o in graph.outputs):
                self._replace(door, self.windows(name, tuple((0, n) for n in self.grid)), set())

    def _body(self, body: set[str]) -> tuple[list[Any], list[Any]]:
        """The nodes between the doors and what the body gives to others, in order, and those tensors.

        Others are those that lead to an output: what only read a size leads nowhere by now.
        """
        outputs = {id(o) for o in self.build.graph.outputs}
        moving = {id(d) for d in self.doors.values()}
        behind = []
        for node in self.build.graph.nodes:
            if any(id(t) in moving for t in node.inputs):
                behind.append(node)
                moving |= {id(t) for t in node.outputs}
        nodes: list[Any] = []
        wanted: set[int] = set()
        idle: set[int] = set()
        for node in reversed(behind):
            if not any(id(t) in outputs or any(id(u) not in idle for u in t.outputs) for t in node.outputs):
                idle.add(id(node))
            elif any(t.name in body or id(t) in wanted for t in node.outputs):
                nodes.append(node)
                wanted |= {id(t) for t in node.inputs}
        kept = idle.union(id(n) for n in nodes)
        made = [t for n in reversed(nodes) for t in n.outputs if t.name in body]
        ends = [t for t in made if id(t) in outputs or any(id(u) not in kept for u in t.outputs)]
        return nodes[::-1], ends

    def _replace(self, old: Any, new: Any, except_in: set[int]) -> None:
        for user in list(old.outputs):
            if id(user) not in except_in:
                user.inputs = [new if t is old else t for t in user.inputs]
        outputs = self.build.graph.outputs
        outputs[:] = [new if o is old else o for o in outputs]
