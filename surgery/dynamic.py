"""Make height and width symbolic, and undo what froze them in the body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.errors import Refused
from surgery.field import Slide
from surgery.geometry import Trunk
from surgery.graph import Builder, Op
from surgery.ops.pointwise import BINARY
from surgery.ops.reduce import DILATED_SINCE, average_by_conv
from surgery.ops.shape import RESHAPES
from surgery.ops.window import WINDOWED, statement
from surgery.rules import Map
from surgery.shapes import Facts

SPACE_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
GRID_NAMES = {1: ("cols",), 2: ("rows", "cols"), 3: ("slices", "rows", "cols")}
BATCH = "N"


def free(graph: gs.Graph, opset: int, ops: Sequence[Op], trunk: Trunk, facts: Facts) -> list[str]:
    """Rewrite, in place, the trunk nodes that hold the window's size; returns a line for each."""
    build = Builder(graph, opset, space=len(facts.axes))
    alive = {id(n) for n in graph.nodes}
    notes = []
    for op in ops:
        if id(op.node) not in alive or op.outputs[0] not in trunk.maps:
            continue
        build.prefix = op.name
        if op.kind in WINDOWED and not op.domain:
            notes += free_window(build, op, trunk)
        elif op.kind in RESHAPES:
            notes += free_reshape(build, op, trunk)
        narrow_constants(build, op, trunk)
        freeze_sizes(build, op, facts)
    for gate in trunk.gates:
        build.prefix = gate.name
        notes += free_gate(build, gate, trunk)
    return notes


def free_window(build: Builder, op: Op, trunk: Trunk) -> list[str]:
    """Write out what the size or the windows' stride decides: pads of auto_pad, strides, dilations.

    A stride over a single cell becomes 1. Where windows lie closer than the net's own stride, strides
    turn into dilations, and an AveragePool, which few runtimes can dilate, into a depthwise Conv.
    """
    x = trunk.maps[op.inputs[0]]
    attrs = op.node.attrs
    old = statement(op).slides
    new = list(old)
    for dim, axis in zip(x.axes, x.geometry, strict=True):
        slide = old[dim - 2]
        single = op.out_shape()[dim] == 1
        new[dim - 2] = axis.respaced(replace(slide, stride=1) if single else slide)
    mode = attrs.pop("auto_pad", "NOTSET")
    notes = [f"{op.kind} {op.name!r}: auto_pad {mode} written out"] if mode not in ("NOTSET", "") else []
    if new == list(old) and not notes:
        return []
    if any(n.dilation != o.dilation for n, o in zip(new, old, strict=True)):
        notes.append(
            f"{op.kind} {op.name!r}: strides {[o.stride for o in old]} become {[n.stride for n in new]}, "
            f"dilations {[n.dilation for n in new]}"
        )
        if op.kind != "Conv":
            return notes + dilate_pool(build, op, new)
    else:
        notes.append(f"{op.kind} {op.name!r}: strides {[n.stride for n in new]}")
    write_slides(op, new)
    return notes


def write_slides(op: Op, slides: Sequence[Slide]) -> None:
    """Write a windowed op's strides, dilations and pads as attributes."""
    attrs = op.node.attrs
    attrs["strides"] = [s.stride for s in slides]
    attrs["pads"] = [s.before for s in slides] + [s.after for s in slides]
    if any(s.dilation != 1 for s in slides):
        attrs["dilations"] = [s.dilation for s in slides]


def dilate_pool(build: Builder, op: Op, slides: Sequence[Slide]) -> list[str]:
    """Dilate a pool: MaxPool by its attribute, AveragePool as a depthwise Conv."""
    if op.kind == "AveragePool":
        counted = bool(op.attr("count_include_pad"))
        if any(s.ceil and s.stride > 1 for s in slides):
            raise refuse_stride(op, "its ceil_mode has no Conv")
        channels, dtype = op.in_shape()[1], op.facts.dtypes[op.inputs[0]]
        out = average_by_conv(build, op.node.inputs[0], channels, dtype, list(slides), counted=counted)
        _take_over(build, op.node, out)
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


def free_reshape(build: Builder, op: Op, trunk: Trunk) -> list[str]:
    """A Reshape of channels takes height and width from its input, not from the window.

    A channel shuffle (Reshape, Transpose, Reshape) becomes what it is: a Gather of channels.
    """
    if op.kind in ("Squeeze", "Unsqueeze"):
        return []
    place = f"{op.kind} {op.name!r}"  # said before the node loses its output
    old, new = trunk.maps[op.inputs[0]], trunk.maps[op.outputs[0]]
    shuffled = channel_order(op.node, old, new, trunk)
    if shuffled is not None:
        tensor, order = shuffled
        out = (
            tensor
            if (order == np.arange(order.size)).all()
            else build.emit("Gather", [tensor, build.ints("channels", order)], {"axis": 1})
        )
        _take_over(build, op.node, out)
        return [f"{place}: a channel shuffle, now a Gather of channels"]
    dims: list[Any] = []
    for j, size in enumerate(new.shape):
        if j == 0:
            dims.append(0)
        elif j not in new.axes:
            dims.append(size)
        else:
            a = old.axes[new.axes.index(j)]
            dims.append(0 if a == j else build.shape_of(op.node.inputs[0], a, a + 1))
    _take_over(build, op.node, build.reshape(op.node.inputs[0], dims))
    return [f"{place}: takes height and width from its input"]


def channel_order(node: gs.Node, old: Map, new: Map, trunk: Trunk) -> tuple[Any, Any] | None:
    """The tensor and the order of its channels, where Reshapes and Transposes only reorder channels."""
    if len(new.channel_dims) != 1 or new.axes != tuple(range(2, len(new.shape))):
        return None
    chain = [node]
    tensor = node.inputs[0]
    while tensor.inputs and tensor.inputs[0].op in ("Transpose", "Reshape") and tensor.name in trunk.maps:
        chain.append(tensor.inputs[0])
        tensor = tensor.inputs[0].inputs[0]
        source = trunk.maps.get(tensor.name)
        if source is None:
            return None
        if source.axes == new.axes and len(source.channel_dims) == 1 and len(source.shape) == len(new.shape):
            break
    else:
        return None
    order = np.arange(source.shape[1]).reshape(_channels_only(source))
    for step in reversed(chain):
        if step.op == "Transpose":
            order = order.transpose(step.attrs.get("perm", list(range(order.ndim))[::-1]))
        else:
            order = order.reshape(_channels_only(trunk.maps[step.outputs[0].name]))
    return tensor, order.ravel()


def _channels_only(m: Map) -> list[int]:
    return [1 if d == 0 or d in m.axes else size for d, size in enumerate(m.shape)]


def _take_over(build: Builder, node: gs.Node, tensor: Any) -> None:
    """Let a new tensor stand where a node's output stood."""
    old = node.outputs[0]
    for user in list(old.outputs):
        user.inputs = [tensor if i is old else i for i in user.inputs]
    if any(o is old for o in build.graph.outputs):
        name = old.name
        old.name = build.fresh(f"{name}/before")
        final = build.emit("Identity", [tensor])
        final.name, final.dtype = name, old.dtype
        build.graph.outputs[:] = [final if o is old else o for o in build.graph.outputs]
    elif tensor.inputs and id(tensor.inputs[0]) in build.made:
        old.name, tensor.name = build.fresh(f"{old.name}/before"), old.name
    node.outputs.clear()


def narrow_constants(build: Builder, op: Op, trunk: Trunk) -> None:
    """A constant as large as the window that is the same at every position keeps one of them."""
    if op.kind not in BINARY:
        return
    m = trunk.maps[op.outputs[0]]
    for i in range(len(op.inputs)):
        value = op.value(i)
        lead = 0 if value is None else len(m.shape) - value.ndim
        wide = [] if value is None else [a - lead for a in m.axes if a >= lead and value.shape[a - lead] > 1]
        for axis in wide:
            value = None if value is None else value.take([0], axis)
        if wide and value is not None:
            op.node.inputs[i] = build.constant("uniform", value)


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


def free_gate(build: Builder, op: Op, trunk: Trunk) -> list[str]:
    """A gate must take the whole image: a pool as large as the window's map becomes a global pool."""
    if op.inputs[0] not in trunk.maps or op.kind.startswith("Global") or op.kind.startswith("Reduce"):
        return []
    kinds = {"AveragePool": "GlobalAveragePool", "MaxPool": "GlobalMaxPool"}
    if op.kind in kinds:
        op.node.op = kinds[op.kind]
        op.node.attrs.clear()
        return [f"{op.kind} {op.name!r}: pools the whole image"]
    why = "it takes a number of positions that the window fixes, and returns to the map"
    raise Refused(
        f"cannot free {op.kind} {op.name!r}: {why}. It has no meaning at another size, with --allow-global "
        "or without; the exact engine (--exact) keeps the crops' answers.",
        node=op.name,
        op=op.kind,
        why=why,
    )


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
    for tensor in graph.outputs:
        if tensor.name in dims:
            tensor.shape = list(dims[tensor.name])
        elif tensor.name in trunk.maps:
            m = trunk.maps[tensor.name]
            tensor.shape = [
                BATCH if d == 0 else f"{tensor.name}_{names[m.axes.index(d)]}" if d in m.axes else size
                for d, size in enumerate(m.shape)
            ]
