"""Make height and width symbolic, and undo what froze them in the body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.errors import Refused
from surgery.field import Slide
from surgery.gates import free_aside, free_gate
from surgery.geometry import Trunk
from surgery.graph import Builder, Op
from surgery.ops.cut import free_slice
from surgery.ops.pad import free_pad
from surgery.ops.pointwise import BINARY
from surgery.ops.reduce import DILATED_SINCE, average_by_conv
from surgery.ops.resample import free_transposed
from surgery.ops.resize import free_resize
from surgery.ops.shape import RESHAPES, free_expand
from surgery.ops.window import POOLS, SLIDING, statement
from surgery.rules import Map
from surgery.shapes import Facts
from surgery.unbake import free_reshape, take_over

SPACE_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
GRID_NAMES = {1: ("cols",), 2: ("rows", "cols"), 3: ("slices", "rows", "cols")}
BATCH = "N"
FREED: dict[str, Callable[[Op, Map, Builder], list[str]]] = {
    "Pad": free_pad,
    "Slice": free_slice,
    "Resize": free_resize,
    "Upsample": free_resize,
    "ConvTranspose": free_transposed,
    "Expand": free_expand,
}


def free(graph: gs.Graph, opset: int, ops: Sequence[Op], trunk: Trunk, facts: Facts) -> list[str]:
    """Rewrite, in place, the trunk nodes that hold the window's size; returns a line for each."""
    build = Builder(graph, opset, space=len(facts.axes))
    alive = {id(n) for n in graph.nodes}
    notes = []
    for op in ops:
        if id(op.node) not in alive or op.outputs[0] not in trunk.maps:
            continue
        build.prefix = op.name
        if (op.kind in SLIDING and not op.domain) or op.kind == "QLinearAveragePool":
            notes += free_window(build, op, trunk)
        elif op.kind in RESHAPES:
            notes += free_reshape(build, op, trunk)
        elif op.kind in FREED and not op.domain:
            notes += FREED[op.kind](op, trunk.maps[op.inputs[0]], build)
        narrow_constants(build, op, trunk)
        freeze_sizes(build, op, facts)
    for op in trunk.aside:
        build.prefix = op.name
        notes += free_aside(build, op, trunk)
    for gate in trunk.gates:
        build.prefix = gate.name
        if gate.outputs[0] in trunk.packed:
            narrow_constants(build, gate, trunk)
            freeze_sizes(build, gate, facts)
        notes += free_gate(build, gate, trunk)
    return notes


def free_window(build: Builder, op: Op, trunk: Trunk) -> list[str]:
    """Write out what the size or the windows' stride decides: pads of auto_pad, strides, dilations.

    A stride over a single cell becomes the least one. Where windows lie closer than the net's own stride,
    strides turn into dilations, and an AveragePool, which few runtimes can dilate, into a depthwise Conv.
    """
    x = trunk.maps[op.inputs[0]]
    attrs = op.node.attrs
    old = statement(op).slides
    new = list(old)
    for dim, axis in zip(x.axes, x.geometry, strict=True):
        new[dim - 2] = axis.respaced(old[dim - 2].tightened(axis.cells))
    mode = attrs.pop("auto_pad", "NOTSET")
    notes = [f"{op.kind} {op.name!r}: auto_pad {mode} written out"] if mode not in ("NOTSET", "") else []
    if new == list(old) and not notes:
        return []
    beyond = any(n.after * o.dilation > o.after * n.dilation for n, o in zip(new, old, strict=True))
    if beyond and op.kind == "AveragePool" and op.attr("count_include_pad"):
        raise refuse_stride(op, "its average counts its pads, but not what its ceil_mode adds to them")
    if any(n.dilation != o.dilation for n, o in zip(new, old, strict=True)):
        notes.append(
            f"{op.kind} {op.name!r}: strides {[o.stride for o in old]} become {[n.stride for n in new]}, "
            f"dilations {[n.dilation for n in new]}"
        )
        if op.kind in POOLS:
            return notes + dilate_pool(build, op, new)
    else:
        notes.append(f"{op.kind} {op.name!r}: strides {[n.stride for n in new]}")
    write_slides(op, new)
    return notes


def write_slides(op: Op, slides: Sequence[Slide]) -> None:
    """Write a windowed op's strides, dilations and pads as attributes."""
    attrs = op.node.attrs
    if attrs.get("ceil_mode"):
        attrs["ceil_mode"] = int(any(s.ceil for s in slides))
    attrs["strides"] = [s.stride for s in slides]
    attrs["pads"] = [s.before for s in slides] + [s.after for s in slides]
    if any(s.dilation != 1 for s in slides):
        attrs["dilations"] = [s.dilation for s in slides]


def dilate_pool(build: Builder, op: Op, slides: Sequence[Slide]) -> list[str]:
    """Dilate a pool: MaxPool by its attribute, AveragePool as a depthwise Conv."""
    if op.kind == "AveragePool":
        counted = bool(op.attr("count_include_pad"))
        channels, dtype = op.in_shape()[1], op.facts.dtypes[op.inputs[0]]
        out = average_by_conv(build, op.node.inputs[0], channels, dtype, list(slides), counted=counted)
        take_over(build, op.node, out)
        return [f"AveragePool {op.name!r}: as a depthwise Conv with dilations"]
    if build.opset < DILATED_SINCE[op.kind]:
        raise refuse_stride(op, f"{op.kind} has no dilations before opset {DILATED_SINCE[op.kind]}")
    if any(max(s.before, s.after) >= s.kernel for s in slides):
        op.node.inputs[0] = pad_apart(build, op, slides)
        slides = [replace(s, before=0, after=0) for s in slides]
    write_slides(op, slides)
    return []


def pad_apart(build: Builder, op: Op, slides: Sequence[Slide]) -> Any:
    """The pads of a pool as a Pad before it: onnxruntime takes none as wide as the undilated kernel."""
    pads = [0, 0, *(s.before for s in slides), 0, 0, *(s.after for s in slides)]
    dtype = op.facts.dtypes[op.inputs[0]]
    lowest = np.finfo(dtype).min if dtype.kind == "f" else np.iinfo(dtype).min
    value = lowest if op.kind == "MaxPool" else 0
    if build.opset < 11:
        return build.emit("Pad", [op.node.inputs[0]], {"pads": pads, "value": float(value)})
    constant = build.constant("value", np.array(value, dtype))
    return build.emit("Pad", [op.node.inputs[0], build.ints("pads", pads), constant])


def refuse_stride(op: Op, why: str) -> Refused:
    """The refusal of a stride that an op cannot follow by dilation."""
    return Refused(
        f"--stride: cannot dilate {op.kind} {op.name!r}: {why}. Use --stride-form fragments, which "
        "dilates nothing.",
        node=op.name,
        op=op.kind,
        why=why,
    )


def narrow_constants(build: Builder, op: Op, trunk: Trunk) -> None:
    """A constant as large as the window that is the same at every position keeps one of them.

    So does one that is the same for every image of a batch. Beside a map (Concat) it is laid out over the
    map's positions, and so is a gate.
    """
    if op.kind not in (*BINARY, "Concat"):
        return
    m = trunk.maps.get(op.outputs[0]) or trunk.packed[op.outputs[0]]
    like = next((t for t, n in zip(op.node.inputs, op.inputs, strict=True) if n in trunk.maps), None)
    for i, name in enumerate(op.inputs):
        value = op.value(i)
        lead = 0 if value is None else len(m.shape) - value.ndim
        wide = [] if value is None else [a - lead for a in m.axes if a >= lead and value.shape[a - lead] > 1]
        if value is not None and not lead and isinstance(m, Map) and len(value) > 1:
            wide += [0] if (value == value[:1]).all() else []
        for axis in wide:
            value = None if value is None else value.take([0], axis)
        if wide and value is not None:
            op.node.inputs[i] = build.constant("uniform", value)
        if op.kind == "Concat" and isinstance(m, Map) and name not in trunk.maps:
            op.node.inputs[i] = laid_out(build, op.node.inputs[i], like, m, batch=value is not None)


def laid_out(build: Builder, tensor: Any, like: Any, m: Map, *, batch: bool) -> Any:
    """A tensor with one cell, repeated over the positions of another (and, if asked, over its batch)."""
    sides: list[Any] = []
    for d in range(len(m.shape)):
        whole = d in m.axes or (d == 0 and batch)
        sides.append(build.shape_of(like, d, d + 1) if whole else build.ints("one", [1]))
    return build.emit("Expand", [tensor, build.emit("Concat", sides, {"axis": 0})])


def freeze_sizes(build: Builder, op: Op, facts: Facts) -> None:
    """Settings that the original computes from a shape keep the window's value."""
    for i, tensor in enumerate(op.node.inputs):
        if isinstance(tensor, gs.Constant) or not tensor.inputs or tensor.name not in facts.values:
            continue
        if _from_shape(tensor):
            op.node.inputs[i] = build.constant("at_window", facts.values[tensor.name])


def _from_shape(tensor: Any) -> bool:
    """Whether a tensor is computed from the shape of another."""
    seen: set[str] = set()
    queue = [tensor]
    while queue:
        t = queue.pop()
        for node in t.inputs:
            if node.op in ("Shape", "Size"):
                return True
            queue += [i for i in node.inputs if i.name not in seen and not isinstance(i, gs.Constant)]
            seen |= {i.name for i in node.inputs}
    return False


def forget_shapes(graph: gs.Graph) -> None:
    """Forget every inner shape: onnxruntime takes a stale one as truth."""
    ends = {id(t) for t in [*graph.inputs, *graph.outputs]}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and id(tensor) not in ends:
            tensor.shape = None


def name_dims(graph: gs.Graph, facts: Facts, trunk: Trunk, dims: dict[str, tuple[Any, ...]]) -> None:
    """Name the dims of the image and the outputs, and forget every inner shape.

    onnxruntime takes a stale inner shape as truth, so none is left.
    """
    forget_shapes(graph)
    names = SPACE_NAMES[len(facts.axes)]
    for tensor in graph.inputs:
        if tensor.name == facts.image:
            batch = tensor.shape[0] if isinstance(tensor.shape[0], str) else BATCH
            shape = [batch, *facts.shape[1:]]
            for axis, name in zip(facts.axes, names, strict=True):
                shape[axis] = name
            tensor.shape = shape
        elif len(tensor.shape or ()) > 1 and tensor.shape[0] == facts.batch:
            tensor.shape = [BATCH, *tensor.shape[1:]]
    for tensor in graph.outputs:
        if tensor.name in dims:
            tensor.shape = list(dims[tensor.name])
        elif tensor.name in trunk.maps:
            m = trunk.maps[tensor.name]
            tensor.shape = [
                BATCH if d == 0 else f"{tensor.name}_{names[m.axes.index(d)]}" if d in m.axes else size
                for d, size in enumerate(m.shape)
            ]
