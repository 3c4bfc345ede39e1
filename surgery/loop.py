"""The body of a net as a loop: over the images, and for each of them over a few windows at a time.

Copies of the body, one for each group of windows, would make the graph of a large grid endless. Here it is
written once, in two Scans, one within the other (ONNX Scan-9). How many windows a turn has is a name, not a
number, in the shapes of its windows: onnxruntime fuses what it can tell to be of one shape, and where it has
the number it makes of a MatMul of tokens a Gemm, which was seen to take a quarter longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.arrange import Ints
from surgery.batch import Batches
from surgery.graph import Builder
from surgery.parting import SLICES, Parting, lie_in_one
from surgery.places import Places

EACH = "windows"  # the name of the dim that holds the windows of a turn
SINCE = 10  # the opset at which a Slice takes its places from another tensor


class Loop:
    """Runs nodes on `at_once` windows of one image at a time; the last turn repeats the last window."""

    def __init__(self, parting: Parting, at_once: int, batches: Batches) -> None:
        self.parting = parting
        self.build = parting.build
        self.batches = batches
        self.windows = prod(parting.grid)
        self.turns = -(-self.windows // at_once)
        self.at_once = -(-self.windows // self.turns)
        numbers = np.minimum(np.arange(self.turns * self.at_once), self.windows - 1)
        self.window = [n.reshape(self.turns, -1) for n in np.unravel_index(numbers, parting.grid)]
        self.image = self._graph("image")  # one turn of the outer loop
        self.turn = self._graph("windows")  # one turn of the inner loop
        self.stored: list[tuple[Any, Any]] = []  # what the images' turns read: of all images, and of one
        self.told: list[tuple[Any, Any]] = []  # what the windows' turns read: of all turns, and of one

    def run(self, nodes: Sequence[Any], ends: Sequence[Any]) -> list[Any]:
        """The ends, made by these nodes of the graph, for the batch of all windows."""
        facts = self.batches.facts
        read = {id(t) for node in nodes for t in node.inputs}
        doors = {name: door for name, door in self.parting.doors.items() if id(door) in read}
        self._move(nodes, {id(door): self._windows(name) for name, door in doors.items()})
        if not self.told:  # nothing differs from turn to turn
            self._tell(ends[0].name, np.zeros((self.turns, 1), np.int64))
        self.turn.outputs = list(ends)
        for end in ends:
            end.dtype = facts.dtypes[end.name]
        self.build.prefix = ends[0].name
        with self.build.within(self.image):
            self.image.outputs = self._scan(self.turn, self.told, ends)
        outputs = self._scan(self.image, self.stored, ends)
        return [self._joined(end.name, made) for end, made in zip(ends, outputs, strict=True)]

    def _graph(self, name: str) -> gs.Graph:
        outer = self.build.graph
        return gs.Graph(
            name=self.build.fresh(f"each/{name}"), opset=outer.opset, import_domains=outer.import_domains
        )

    def _scan(self, body: gs.Graph, over: Sequence[tuple[Any, Any]], ends: Sequence[Any]) -> list[Any]:
        body.inputs = [one for _, one in over]
        attrs = {"body": body, "num_scan_inputs": len(over)}
        made = self.build.emit("Scan", [every for every, _ in over], attrs, outs=len(ends))
        outputs = made if len(ends) > 1 else [made]
        for end, output in zip(ends, outputs, strict=True):
            output.dtype = end.dtype
        return list(outputs)

    # -------------------------------------------------------------- into the loop

    def _windows(self, name: str) -> Any:
        """The windows of one turn of a stored tensor; of what is stored for images, a copy for each."""
        build, parting, facts = self.build, self.parting, self.batches.facts
        build.prefix = name
        strips, m = parting.strips.get(name), parting.maps.get(name)
        shape = list(facts.shapes[name][1:])
        if strips and m:
            for axis, strip in zip(m.axes, strips, strict=True):
                shape[axis - 1] = strip.length
        one = gs.Variable(build.fresh(f"{name}/image"), facts.dtypes[name], shape)
        self.stored.append((parting.current[name], one))
        with build.within(self.image):
            alone = build.with_axes("Unsqueeze", one, [0])
            if not strips or not m:
                return build.emit("Tile", [alone, build.ints("windows", [self.at_once, *[1] * len(shape)])])
            index = [strip.index for strip in strips]
            one_piece = self.at_once <= SLICES and lie_in_one(m, index)
            made = (self._sliced if one_piece else self._gathered)(name, alone, index)
        made.dtype, made.shape = facts.dtypes[name], [EACH, *m.shape[1:]]
        return made

    def _tell(self, name: str, values: Ints) -> Any:
        """What a turn reads of these values, which hold an entry for each turn."""
        one = gs.Variable(self.build.fresh(f"{name}/turn"), np.int64, values.shape[1:])
        self.told.append((self.build.constant("turns", values.astype(np.int64)), one))
        return one

    def _sliced(self, name: str, alone: Any, index: Sequence[Ints]) -> Any:
        """Windows that lie in one piece each."""
        build, m = self.build, self.parting.maps[name]
        starts = np.stack([i[:, 0][w] for i, w in zip(index, self.window, strict=True)], axis=-1)
        ends = starts + [i.shape[1] for i in index]
        bounds = [[self._tell(name, of_all[:, n]) for of_all in (starts, ends)] for n in range(self.at_once)]
        with build.within(self.turn):
            axes = build.ints("axes", m.axes)
            parts = [build.emit("Slice", [alone, *of_one, axes]) for of_one in bounds]
            whole = parts[0] if len(parts) == 1 else build.emit("Concat", parts, {"axis": 0})
            return build.reshape(whole, [-1, *m.shape[1:]])

    def _gathered(self, name: str, alone: Any, index: Sequence[Ints]) -> Any:
        """Windows whose cells lie anywhere, whole cells of channels at a time."""
        build, m = self.build, self.parting.maps[name]
        lengths = [strip.length for strip in self.parting.strips[name]]
        places = Places(build)
        channels = [m.shape[d] for d in m.channel_dims]
        rows = build.reshape(places.cells_first(alone, m), [1, prod(lengths), *channels])
        numbers = [self._tell(name, w) for w in self.window]
        count = self._tell(name, np.full((self.turns, 1), self.at_once))
        with build.within(self.turn):
            at = None
            for k, (i, number) in enumerate(zip(index, numbers, strict=True)):
                table = build.constant("places", i * prod(lengths[k + 1 :]))
                number = build.emit("Slice", [number, build.ints("first", [0]), count])
                picked = build.emit("Gather", [table, number])
                sides = [-1 if d == k else 1 for d in range(len(index))]
                sides[k] = i.shape[1]
                part = build.reshape(picked, [-1, *sides])
                at = part if at is None else build.emit("Add", [at, part])
            inside = [m.shape[a] for a in m.axes]
            flat = build.reshape(at, [-1])
            taken = build.emit("Gather", [rows, flat], {"axis": 1})
            cells = build.reshape(taken, [-1, *inside, *channels])
            return Places(build).channels_back(cells, m)

    def _move(self, nodes: Sequence[Any], windows: dict[int, Any]) -> None:
        """Put the nodes into the inner loop, with what they read that no image has a part in."""
        inside = {id(node) for node in nodes}
        outer = self.build.graph
        outer.nodes[:] = [n for n in outer.nodes if id(n) not in inside]
        made = {id(t) for node in nodes for t in node.outputs}
        brought = _Brought(self.build, nodes)
        for node in nodes:
            for output in node.outputs:
                output.shape = None
            node.inputs = [
                windows[id(t)] if id(t) in windows else t if id(t) in made else brought.of(t)
                for t in node.inputs
            ]
        self.turn.nodes += [*brought.nodes, *nodes]

    # -------------------------------------------------------------- and out of it

    def _joined(self, name: str, made: Any) -> Any:
        """One batch of what the turns give, `[N, turns, ...]`, in the order of Parting's batches."""
        build, place = self.build, self.batches.places[name]
        assert place is not None
        build.prefix = name
        shape = list(self.batches.shape(name))
        lead, tail = [*shape[: place.dim], place.before], shape[place.dim + 1 :]
        if place.before == 1:
            lead.pop()
        else:
            made = build.reshape(made, [0, self.turns, *lead, -1, *tail])
        n, rank = len(lead), len(lead) + len(tail)
        turns_behind = [0, *range(2, 2 + n), 1, *range(2 + n, 3 + rank)]
        every = build.reshape(build.transpose(made, turns_behind), [0, *lead, -1, *tail])
        every = build.slice(every, [0], [self.windows], [1 + n])  # says how many they are, whoever lost count
        images_behind = [*range(1, 2 + n), 0, *range(2 + n, 2 + rank)]
        shape[place.dim] = -1
        return build.reshape(build.transpose(every, images_behind), shape)


class _Brought:
    """What a body reads of the graph around it, if it is made of constants alone: its own.

    onnxruntime brings the weights of a Conv into blocks of channels where they lie in the Conv's own graph.
    """

    def __init__(self, build: Builder, nodes: Sequence[Any]) -> None:
        self.build = build
        self.inside = {id(node) for node in nodes}
        self.still: set[int] = set()
        for node in build.graph.nodes:
            if all(self._is_still(t) for t in node.inputs):
                self.still.update(id(t) for t in node.outputs)
        self.nodes: list[Any] = []
        self.mine: dict[int, Any] = {}

    def of(self, tensor: Any) -> Any:
        """The tensor a node of the body is to read in place of this one of the graph around it."""
        if id(tensor) not in self.mine:
            self.mine[id(tensor)] = self._copy(tensor) if self._is_still(tensor) else tensor
        return self.mine[id(tensor)]

    def _is_still(self, tensor: Any) -> bool:
        return isinstance(tensor, gs.Constant) or id(tensor) in self.still

    def _copy(self, tensor: Any) -> Any:
        if isinstance(tensor, gs.Constant):
            if self.inside.issuperset(id(user) for user in tensor.outputs):
                return tensor
            return gs.Constant(self.build.fresh(tensor.name), tensor.values)
        node = tensor.inputs[0]
        inputs = [self.of(t) for t in node.inputs]
        outputs = [gs.Variable(self.build.fresh(t.name), dtype=t.dtype) for t in node.outputs]
        name = self.build.fresh(node.name)
        self.nodes.append(gs.Node(node.op, name, dict(node.attrs), inputs, outputs, domain=node.domain))
        self.mine |= {id(old): new for old, new in zip(node.outputs, outputs, strict=True)}
        return self.mine[id(tensor)]
