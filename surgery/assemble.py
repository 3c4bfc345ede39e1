"""The exact engine's graph: the planned ops over the mosaic, the windows as a batch, the rest unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from surgery.dynamic import BATCH, freeze_sizes, narrow_constants, write_slides
from surgery.errors import Refused
from surgery.exact import Plan, Planned, Strips
from surgery.geometry import Trunk
from surgery.graph import Builder, Op
from surgery.mosaic import Ints, Step
from surgery.ops.window import statement
from surgery.positions import without_units
from surgery.rules import Map
from surgery.shapes import Facts

PADDED_WITH_LOWEST = ("MaxPool",)


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
    moving = moving_names(rest, trunk, facts)
    writer.part_windows(rest)
    for op in rest:
        if op.outputs[0] in moving:
            build.prefix = op.name
            writer.free_batch(op, moving)
    return writer.unfold(moving)


def moving_names(rest: Sequence[Op], trunk: Trunk, facts: Facts) -> set[str]:
    """The tensors of the rest that depend on the image's pixels."""
    moving = {facts.image, *trunk.maps}
    for op in rest:
        if any(n in moving for n in op.inputs) and op.outputs[0] not in facts.values:
            moving.update(n for n in op.outputs if n)
    return moving


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
        self.strips: dict[str, Strips] = {facts.image: plan.image, **plan.strips()}
        self.made: dict[Any, Any] = {}
        self.folded: dict[str, Any] = {}
        self.names = [str(o.name) for o in build.graph.outputs]

    def once(self, call: tuple[str, list[Any], dict[str, Any]]) -> Any:
        """The output of a new node, one for all uses of the same op on the same inputs."""
        op, inputs, attrs = call
        key = (op, *(t.name for t in inputs), *attrs.items())
        if key not in self.made:
            self.made[key] = self.build.emit(op, inputs, attrs)
        return self.made[key]

    def constant(self, name: str, value: NDArray[Any]) -> gs.Constant:
        """An initializer, one for all uses of the same value."""
        key = (name, value.dtype.str, value.shape, value.tobytes())
        if key not in self.made:
            self.made[key] = self.build.constant(name, value)
        made: gs.Constant = self.made[key]
        return made

    # -------------------------------------------------------------- over the mosaic

    def write(self, planned: Planned) -> None:
        """Write one op over the mosaic: its own node, with what it reads brought into order first."""
        op = planned.op
        names = [n for n in op.inputs if n in self.maps]
        if planned.steps:
            self._write_window(op, planned.steps)
        else:
            gathers = planned.gathers or (((None,) * len(planned.strips)),) * len(names)
            ways = iter(gathers)
            for i, name in enumerate(op.inputs):
                if name in self.maps:
                    op.node.inputs[i] = self.gather(self.current[name], self.maps[name], next(ways))
            if op.kind == "Reshape":
                self._retarget(op, planned)
            narrow_constants(self.build, op, self.trunk)
            freeze_sizes(self.build, op, self.facts)
        for name, tensor in zip(op.outputs, op.node.outputs, strict=True):
            self.current.setdefault(name, tensor)

    def gather(self, tensor: Any, m: Map, ways: Sequence[Ints | None]) -> Any:
        """The stored places in another order along each axis."""
        for axis, places in zip(m.axes, ways, strict=True):
            if places is not None:
                index = self.constant("places", places)
                tensor = self.once(("Gather", [tensor, index], {"axis": axis}))
        return tensor

    def _write_window(self, op: Op, steps: tuple[Step, ...]) -> None:
        m = self.maps[op.inputs[0]]
        tensor = self.gather(self.current[op.inputs[0]], m, [s.gather for s in steps])
        op.node.inputs[0] = self._masked(tensor, m, steps, op)
        slides = list(statement(op).slides)
        for dim, step in zip(m.axes, steps, strict=True):
            slides[dim - 2] = step.slide
        for name in ("auto_pad", "ceil_mode"):
            op.node.attrs.pop(name, None)
        counted = bool(op.attr("count_include_pad"))
        write_slides(op, slides)
        if op.kind == "AveragePool":
            op.node.attrs["count_include_pad"] = 1
            self._divide(op, m, steps, counted)

    def _masked(self, tensor: Any, m: Map, steps: tuple[Step, ...], op: Op) -> Any:
        """The tensor with the op's padding value wherever a window's border must be seen."""
        valid = [None if s.masked is None else ~s.masked for s in steps]
        if all(v is None for v in valid):
            return tensor
        dtype = self.facts.dtypes[op.inputs[0]]
        lowest = np.finfo(dtype).min if np.dtype(dtype).kind == "f" else np.iinfo(dtype).min
        value = np.array(lowest if op.kind in PADDED_WITH_LOWEST else 0, dtype)
        rank = len(m.shape)
        sides = []
        for axis, v in zip(m.axes, valid, strict=True):
            if v is not None:
                shape = [1] * rank
                shape[axis] = -1
                sides.append(self.constant("cells", v.reshape(shape)))
        if self.build.opset < 9:  # Where came with opset 9
            return self._mask_by_product(tensor, sides, value)
        cells = sides[0]
        for side in sides[1:]:
            cells = self.once(("And", [cells, side], {}))
        return self.once(("Where", [cells, tensor, self.constant("border", value)], {}))

    def _mask_by_product(self, tensor: Any, sides: list[gs.Constant], value: NDArray[Any]) -> Any:
        for side in sides:
            tensor = self.once(("Mul", [tensor, self.constant("keep", side.values.astype(value.dtype))], {}))
            if value.item():
                fill = np.where(side.values, 0, value).astype(value.dtype)
                tensor = self.once(("Add", [tensor, self.constant("fill", fill)], {}))
        return tensor

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
            out = self.build.emit("Mul", [out, self.constant("share", share)])
        self.current[op.outputs[0]] = out

    def _retarget(self, op: Op, planned: Planned) -> None:
        m = self.maps[op.outputs[0]]
        dims = [0, *m.shape[1:]]
        for axis, strip in zip(m.axes, planned.strips, strict=True):
            dims[axis] = strip.length
        op.node.inputs[1] = self.build.ints("shape", dims)

    # -------------------------------------------------------------- windows as a batch

    def part_windows(self, rest: Sequence[Op]) -> None:
        """Let the rest read windows, folded into the batch, wherever it read the mosaic."""
        stored = set(self.current)
        for op in rest:
            for i, name in enumerate(op.inputs):
                if name not in stored:
                    continue
                self.build.prefix = name
                op.node.inputs[i] = self.windows(name)
        for i, tensor in enumerate(self.build.graph.outputs):
            if tensor.name in stored:
                self.build.graph.outputs[i] = self.windows(tensor.name)

    def windows(self, name: str) -> Any:
        """Every window of a stored tensor: `[N * windows, ...]`, one behind the other."""
        if name not in self.folded:
            m, grid = self.maps[name], self.plan.grid
            ways = [s.index().ravel() for s in self.strips[name]]
            whole = [
                w.size == s.length and bool((w == np.arange(w.size)).all())
                for w, s in zip(ways, self.strips[name], strict=True)
            ]
            tensor = self.gather(
                self.current[name], m, [None if w else way for w, way in zip(whole, ways, strict=True)]
            )
            dims: list[int] = [0]
            ends: list[int] = [0]
            inner: list[int] = []
            for d in range(1, len(m.shape)):
                if d in m.axes:
                    ends.append(len(dims))
                    dims.append(grid[m.axes.index(d)])
                inner.append(len(dims))
                dims.append(m.shape[d])
            order = [0, *(ends[1:][sorted(m.axes).index(a)] for a in m.axes), *inner]
            split = self.build.transpose(self.build.reshape(tensor, dims), order)
            self.folded[name] = self.build.reshape(split, [-1, *m.shape[1:]])
        return self.folded[name]

    def free_batch(self, op: Op, moving: set[str]) -> None:
        """Let an op of the rest take more samples than the original's own batch."""
        batch = self.facts.batch
        if op.kind == "Reshape" and op.inputs[0] in moving:
            old, new = op.in_shape(), list(op.out_shape())
            if old[:1] == (batch,) and new[:1] == [batch] and not op.attr("allowzero"):
                op.node.inputs[1] = self.build.ints("shape", [0, *new[1:]])
            elif new and old[:1] == (batch,) and new[0] % batch == 0 and new[0] != 0:
                op.node.inputs[1] = self.build.ints("shape", [-1, *new[1:]])
        elif op.kind == "Expand" and op.inputs[0] in moving and op.out_shape()[:1] == (batch,):
            op.node.inputs[1] = self.build.ints("shape", [1, *op.out_shape()[1:]])
        elif op.kind == "Concat" and int(op.attr("axis")) % len(op.out_shape()) != 0:
            self._widen_constants(op, moving)

    def _widen_constants(self, op: Op, moving: set[str]) -> None:
        """Repeat a constant that is joined to every sample."""
        like = next(t for t, n in zip(op.node.inputs, op.inputs, strict=True) if n in moving)
        for i, name in enumerate(op.inputs):
            value = self.facts.values.get(name)
            if value is None or value.ndim == 0 or value.shape[0] != self.facts.batch:
                continue
            one = self.constant("one", value[:1])
            count = self.build.shape_of(like, 0, 1)
            tail = self.build.ints("tail", value.shape[1:])
            shape = self.build.emit("Concat", [count, tail], {"axis": 0})
            op.node.inputs[i] = self.build.emit("Expand", [one, shape])

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
                raise Refused(f"cannot give the output {name!r} positions: {why}.", node=name, why=why)
            self.build.prefix = name
            dims[name] = self._unfold_one(i, name, tensor, shape[1:])
        return dims

    def _unfold_one(self, i: int, name: str, tensor: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
        space = self.build.space
        units = sum(1 for d in shape if d == 1)
        features = without_units(shape) if units >= space and len(shape) > 1 else shape
        split = self.build.reshape(tensor, [-1, *self.plan.grid, *features])
        order = [0, *range(space + 1, space + 1 + len(features)), *range(1, space + 1)]
        out = self.build.emit("Transpose", [split], {"perm": order})
        old = self.build.graph.outputs[i]
        dtype = self.facts.dtypes[name]
        if old.name == name:
            old.name = self.build.fresh(f"{name}/windows")
        out.name, out.dtype = name, dtype
        out.shape = [BATCH, *features, *self.plan.grid]
        self.build.graph.outputs[i] = out
        return features
