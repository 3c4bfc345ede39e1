"""The exact engine's graph: the planned ops over the mosaic, the windows as a batch, the rest unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import surgery.batch_mixes
import surgery.batch_rules  # noqa: F401  (enters the rules)
from surgery.arrange import Ints
from surgery.batch import Batches
from surgery.copies import Copies
from surgery.dynamic import BATCH, freeze_sizes, narrow_constants, pad_apart, write_slides
from surgery.errors import Refused
from surgery.exact import Plan, Planned
from surgery.geometry import Trunk
from surgery.graph import Builder, Op
from surgery.groups import groupable, grouping
from surgery.loop import Loop
from surgery.mosaic import Step
from surgery.ops.pad import pad_value
from surgery.ops.window import POOLS, statement
from surgery.parting import Parting
from surgery.places import Border, Places
from surgery.positions import without_units
from surgery.rules import Map
from surgery.runtime import BLOCK
from surgery.shapes import Facts

KEEPS_BATCH = {"Reshape": 0, "Expand": 1}  # ops whose shape is written out, and how it says "as it is"


def assemble(
    graph: gs.Graph, opset: int, ops: Sequence[Op], trunk: Trunk, facts: Facts, plan: Plan
) -> dict[str, tuple[int, ...]]:
    """Rewrite the graph in place; returns each output's feature dims.

    Raises Refused where an output does not have the batch first.
    """
    build = Builder(graph, opset, space=len(plan.grid))
    tensors = graph.tensors()
    writer = _Writer(build, trunk, facts, plan, {facts.image: tensors[facts.image]})
    for planned in plan.planned:
        build.prefix = planned.op.name
        writer.write(planned)
    inside = {id(p.op) for p in plan.planned}
    rest = [op for op in ops if id(op) not in inside]
    beside = [i.name for i in graph.inputs if i.name != facts.image]
    moving = moving_names(rest, trunk, facts, beside)
    writer.part_windows(rest, beside)
    batches = Batches(build, facts, [facts.image, *trunk.maps, *beside])
    for op in rest:
        if op.outputs[0] in moving:
            build.prefix = op.name
            batches.free(op)
    writer.open(rest, moving, batches)
    return writer.unfold(moving)


def moving_names(rest: Sequence[Op], trunk: Trunk, facts: Facts, beside: Sequence[str]) -> set[str]:
    """The tensors of the rest that depend on the image's pixels, or on the inputs beside it."""
    moving = {facts.image, *trunk.maps, *beside}
    for op in rest:
        if any(n in moving for n in op.inputs) and op.outputs[0] not in facts.values:
            moving.update(n for n in op.outputs if n)
    return moving


def border_value(op: Op, dtype: Any) -> Any:
    """What an op sees beyond a window's border: the least number for MaxPool, a Pad's own, else 0."""
    if op.kind == "MaxPool":
        return np.finfo(dtype).min if np.dtype(dtype).kind == "f" else np.iinfo(dtype).min
    return pad_value(op) if op.kind == "Pad" else 0


class _Writer:
    def __init__(
        self, build: Builder, trunk: Trunk, facts: Facts, plan: Plan, current: dict[str, Any]
    ) -> None:
        self.build = build
        self.trunk = trunk
        self.maps = trunk.maps
        self.facts = facts
        self.plan = plan
        self.current = current
        strips = {facts.image: plan.image, **plan.strips()}
        self.places = Places(build)
        self.parting = Parting(build, self.places, trunk.maps, plan.grid, strips, current)
        self.names = [str(o.name) for o in build.graph.outputs]

    # -------------------------------------------------------------- over the mosaic

    def write(self, planned: Planned) -> None:
        """Write one op over the mosaic: its own node, with what it reads brought into order first."""
        op = planned.op
        names = [n for n in op.inputs if n in self.maps]
        if planned.steps:
            self._write_window(op, planned.steps)
        else:
            gathers = planned.gathers or ((None,) * len(planned.strips),) * len(names)
            ways = iter(gathers)
            for i, name in enumerate(op.inputs):
                if name in self.maps:
                    op.node.inputs[i] = self._brought(op, name, next(ways))
            if op.kind in KEEPS_BATCH:
                self._retarget(op, planned)
            narrow_constants(self.build, op, self.trunk)
            freeze_sizes(self.build, op, self.facts)
        for name, tensor in zip(op.outputs, op.node.outputs, strict=True):
            self.current.setdefault(name, tensor)

    def _taken(self, name: str, ways: Sequence[Ints | None], border: Border | None = None) -> Any:
        lengths = [strip.length for strip in self.parting.strips[name]]
        return self.places.take(self.current[name], self.maps[name], lengths, ways, border)

    def _brought(self, op: Op, name: str, ways: Sequence[Ints | None]) -> Any:
        """An input of a join in the order of its output.

        onnxruntime adds a shortcut within the Conv before, if it lies in blocks of channels, and a pool of
        single cells, which changes nothing, brings it into these.
        """
        taken = self._taken(name, ways)
        if taken is self.current[name] or not self._added_to_conv(op, name):
            return taken
        return self.build.emit("AveragePool", [taken], {"kernel_shape": [1, 1]})

    def _added_to_conv(self, op: Op, name: str) -> bool:
        """Whether an op adds this input, which fits into blocks, to what a Conv makes."""
        m = self.maps[name]
        if (
            op.kind != "Add"
            or m.axes != (2, 3)
            or m.shape[1] % BLOCK
            or self.facts.dtypes[name] != np.float32
        ):
            return False
        beside = [t for n, t in zip(op.inputs, op.node.inputs, strict=True) if n != name]
        return [t.inputs[0].op if t.inputs else "" for t in beside] in (["Conv"], ["BatchNormalization"])

    def _write_window(self, op: Op, steps: tuple[Step, ...]) -> None:
        m = self.maps[op.inputs[0]]
        ways = [s.gather for s in steps]
        op.node.inputs[0] = self._taken(op.inputs[0], ways, self._border(op, steps))
        if op.kind == "Pad":
            self._pad_ends(op, m, steps)
            return
        slides = list(statement(op).slides)
        for dim, step in zip(m.axes, steps, strict=True):
            slides[dim - 2] = step.slide
        for name in ("auto_pad", "ceil_mode"):
            op.node.attrs.pop(name, None)
        counted = bool(op.attr("count_include_pad"))
        if op.kind in POOLS and any(max(s.before, s.after) >= s.kernel for s in slides):
            op.node.inputs[0] = pad_apart(self.build, op, slides)
            slides = [replace(s, before=0, after=0) for s in slides]
        write_slides(op, slides)
        if op.kind == "AveragePool":
            op.node.attrs["count_include_pad"] = 1
            self._divide(op, m, steps, counted)

    def _pad_ends(self, op: Op, m: Map, steps: tuple[Step, ...]) -> None:
        """Pad what is stored at its two ends only: the borders in between were set already."""
        pads = [0] * (2 * len(m.shape))
        for axis, step in zip(m.axes, steps, strict=True):
            pads[axis], pads[axis + len(m.shape)] = step.slide.before, step.slide.after
        if self.build.opset < 11:
            op.node.attrs["pads"] = pads
            return
        value = np.asarray(pad_value(op), self.facts.dtypes[op.inputs[0]]).reshape(())
        op.node.inputs = [
            op.node.inputs[0],
            self.build.ints("pads", pads),
            self.build.constant("border", value),
        ]

    def _border(self, op: Op, steps: tuple[Step, ...]) -> Border | None:
        """The op's padding value wherever a window's border must be seen."""
        masks = tuple(s.masked for s in steps)
        if all(mask is None for mask in masks):
            return None
        dtype = self.facts.dtypes[op.inputs[0]]
        return Border(np.asarray(border_value(op, dtype), dtype).reshape(()), masks)

    def _divide(self, op: Op, m: Map, steps: tuple[Step, ...], counted: bool) -> None:
        """Correct an average, taken over all taps, to the taps the original counts."""
        out = op.node.outputs[0]
        for axis, step in zip(m.axes, steps, strict=True):
            taps = np.maximum(step.counted if counted else step.read, 1)
            if (taps == step.slide.kernel).all():
                continue
            shape = [1] * len(m.shape)
            shape[axis] = -1
            share = (step.slide.kernel / taps).astype(self.facts.dtypes[op.inputs[0]]).reshape(shape)
            out = self.build.emit("Mul", [out, self.build.constant("share", share)])
        self.current[op.outputs[0]] = out

    def _retarget(self, op: Op, planned: Planned) -> None:
        m = self.maps[op.outputs[0]]
        dims = [KEEPS_BATCH[op.kind], *m.shape[1:]]
        for axis, strip in zip(m.axes, planned.strips, strict=True):
            dims[axis] = strip.length
        op.node.inputs[1] = self.build.ints("shape", dims)
        op.node.attrs.pop("allowzero", None)

    # -------------------------------------------------------------- windows as a batch

    def part_windows(self, rest: Sequence[Op], beside: Sequence[str]) -> None:
        """Let the rest read windows wherever it read the mosaic, or an input beside the image."""
        tensors = self.build.graph.tensors()
        self.current.update({name: tensors[name] for name in beside})
        stored = set(self.current)
        for op in rest:
            for i, name in enumerate(op.inputs):
                if name in stored:
                    op.node.inputs[i] = self.parting.door(name)
        for i, tensor in enumerate(self.build.graph.outputs):
            if tensor.name in stored:
                self.build.graph.outputs[i] = self.parting.door(tensor.name)

    def open(self, rest: Sequence[Op], moving: set[str], batches: Batches) -> None:
        """Give the rest its windows, the body of the net a few at a time."""
        always = [*self.trunk.gates, *(op for op in rest if op.outputs[0] in self.maps)]
        body = groupable(rest, moving, always, batches.places, prod(self.plan.grid))
        groups = grouping(body, self.facts, self.plan.grid, self.build.opset)
        run = None
        if groups.turn:
            run = Loop(self.parting, groups.turn, batches).run
        elif groups.box != self.plan.grid:
            run = Copies(self.parting, groups.box, batches).run
        self.parting.open({n for op in body for n in op.outputs if n}, run)

    # -------------------------------------------------------------- and back

    def unfold(self, moving: set[str]) -> dict[str, tuple[int, ...]]:
        """Give every output its positions: `[N, features, rows, cols]`."""
        dims = {}
        graph = self.build.graph
        names = self.names
        for i, (name, tensor) in enumerate(zip(names, list(graph.outputs), strict=True)):
            if name not in moving:
                continue
            shape = self.facts.shapes[name]
            if shape[:1] != (self.facts.batch,):
                why = f"its shape {list(shape)} does not begin with the batch"
                raise Refused(
                    f"cannot give the output {name!r} positions: {why}. Export the model with the batch in "
                    "dim 0 of every output (torch: squeeze and flatten with a dim, not of everything).",
                    node=name,
                    why=why,
                )
            self.build.prefix = name
            dims[name] = self._unfold_one(i, name, tensor, shape[1:])
        return dims

    def _unfold_one(self, i: int, name: str, tensor: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
        space = self.build.space
        units = sum(1 for d in shape if d == 1)
        features = without_units(shape) if units >= space and len(shape) > 1 else shape
        split = self.build.reshape(tensor, [*self.plan.grid, -1, *features])
        order = [space, *range(space + 1, space + 1 + len(features)), *range(space)]
        out = self.build.emit("Transpose", [split], {"perm": order})
        dtype = self.facts.dtypes[name]
        for old in (self.build.graph.outputs[i], self.current.get(name)):
            if old is not None and old.name == name:
                old.name = self.build.fresh(f"{name}/windows")
        out.name, out.dtype = name, dtype
        out.shape = [BATCH, *features, *self.plan.grid]
        self.build.graph.outputs[i] = out
        return features
