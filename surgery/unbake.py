"""Reshapes of the trunk that hold the window's height and width take them from the image instead."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.errors import Refused
from surgery.field import Axis
from surgery.geometry import Trunk
from surgery.graph import Builder, Op
from surgery.packed import BATCH, CELLS, CONTEXT, FEATURES, Dim, Packed, Part, holds, same, size
from surgery.rules import Map


def free_reshape(build: Builder, op: Op, trunk: Trunk) -> list[str]:
    """A Reshape takes height and width from its input, not from the window.

    A channel shuffle (Reshape, Transpose, Reshape) becomes what it is: a Gather of channels.
    """
    if op.kind != "Reshape":
        name_squeezed(build, op)
        return []  # Flatten, Squeeze and Unsqueeze name dims, not sizes
    place = f"Reshape {op.name!r}"  # said before the node loses its output
    shuffled = channel_order(op.node, trunk)
    if shuffled is not None:
        tensor, order = shuffled
        kept = (order == np.arange(order.size)).all()
        ints = build.ints("channels", order)
        take_over(build, op.node, tensor if kept else build.emit("Gather", [tensor, ints], {"axis": 1}))
        return [f"{place}: a channel shuffle, now a Gather of channels"]
    old, new = (seen(trunk, name) for name in (op.inputs[0], op.outputs[0]))
    take_over(build, op.node, build.reshape(op.node.inputs[0], target(build, op, old, new, trunk)))
    return [f"{place}: takes height and width from its input"]


def name_squeezed(build: Builder, op: Op) -> None:
    """A Squeeze of every dim of 1 names those of the window, so that no other batch or size changes them."""
    named = "axes" in op.node.attrs or len(op.node.inputs) > 1
    if op.kind != "Squeeze" or named:
        return
    axes = [d for d, size_ in enumerate(op.in_shape()) if size_ == 1]
    if build.opset < 13:
        op.node.attrs["axes"] = axes
    else:
        op.node.inputs.append(build.ints("axes", axes))


def seen(trunk: Trunk, name: str) -> Packed:
    """What the dims of a tensor of the trunk hold."""
    return Packed.of(trunk.maps[name]) if name in trunk.maps else trunk.packed[name]


def target(build: Builder, op: Op, old: Packed, new: Packed, trunk: Trunk) -> list[Any]:
    """The dims of a Reshape for an image of any size: ints, and int64 vectors of the graph."""
    dims: list[Any] = []
    open_dims = []
    for d, dim in enumerate(new.dims):
        if d < len(old.dims) and same(dim, old.dims[d]) and holds(dim, BATCH, CELLS, CONTEXT):
            dims.append(0)
        elif holds(dim, BATCH, CELLS, CONTEXT):
            open_dims.append(d)
            dims.append(-1)
        else:
            dims.append(size(dim))
    for d in open_dims[:-1]:  # Reshape finds out one dim by itself
        dims[d] = length_of(build, op, new.dims[d], old, trunk)
    return dims


def length_of(build: Builder, op: Op, dim: Dim, old: Packed, trunk: Trunk) -> Any:
    """The size of a dim in the graph, for whatever image, as an int64 vector of one."""
    total = None
    times = 1
    for part in dim:
        if part.kind == FEATURES:
            times *= part.size
            continue
        length = _length(build, op, part, old, trunk)
        total = length if total is None else build.emit("Mul", [total, length])
    if times != 1:
        total = build.emit("Mul", [total, build.ints("times", [times])])
    return total


def _length(build: Builder, op: Op, part: Part, old: Packed, trunk: Trunk) -> Any:
    """The number of things of one kind: from the dim of a tensor that holds just them."""
    if part.kind == BATCH:
        tensor, d = donor(build, op, trunk, lambda m: 0)
        return build.shape_of(tensor, d, d + 1)
    axis = part.along or old.geometry[part.axis]
    cells = axis.cells
    own = [d for d, dim in enumerate(old.dims) if len(dim) == 1 and dim[0].axis == part.axis]
    if own and part.along is None:
        length = build.shape_of(op.node.inputs[0], own[0], own[0] + 1)
    else:
        tensor, d = donor(build, op, trunk, lambda m: _dim_of(m, part.axis, axis))
        length = build.shape_of(tensor, d, d + 1)
        cells = trunk.maps[tensor.name].cells[part.axis]
    share = Fraction(part.size, cells)  # cells that are grouped, or taken apart
    if share.numerator != 1:
        length = build.emit("Mul", [length, build.ints("up", [share.numerator])])
    if share.denominator != 1:
        length = build.emit("Div", [length, build.ints("down", [share.denominator])])
    return length


def _dim_of(m: Map, k: int, axis: Axis) -> int | None:
    """The dim of a map that is as long as an axis, or so many times as long, wherever that has a length."""
    own, runs = m.geometry[k], axis.lengths >= 0
    whole = own.cells % axis.cells == 0
    alike = (own.lengths * axis.cells == axis.lengths * own.cells) | ~runs
    return m.axes[k] if whole and alike.all() else None


def donor(build: Builder, op: Op, trunk: Trunk, fits: Any) -> tuple[Any, int]:
    """The last map before an op, with the dim of it that `fits` names."""
    tensors = build.graph.tensors()
    before = _ancestors(op.node.inputs[0])
    for name, m in reversed(trunk.maps.items()):
        tensor = tensors.get(name)
        if tensor is not None and id(tensor) in before and (d := fits(m)) is not None:
            return tensor, d
    why = "no tensor before it has the height or the width that it makes"
    raise Refused(
        f"cannot free {op.kind} {op.name!r}: its shape {list(op.out_shape())} is the window's, and {why}. "
        "Export the model with dynamic height and width (torch: dynamic_axes), or use the exact engine "
        "(--exact).",
        node=op.name,
        op=op.kind,
        why=why,
    )


def _ancestors(tensor: Any) -> set[int]:
    """A tensor and all that it is computed from, by id."""
    found: set[int] = set()
    queue = [tensor]
    while queue:
        t = queue.pop()
        if id(t) not in found:
            found.add(id(t))
            queue += [i for node in t.inputs for i in node.inputs]
    return found


def channel_order(node: gs.Node, trunk: Trunk) -> tuple[Any, Any] | None:
    """The tensor and the order of its channels, where Reshapes and Transposes only reorder channels."""
    new = trunk.maps.get(node.outputs[0].name)
    if new is None or len(new.channel_dims) != 1 or new.axes != tuple(range(2, len(new.shape))):
        return None
    chain = [node]
    tensor = node.inputs[0]
    while tensor.inputs and tensor.inputs[0].op in ("Transpose", "Reshape") and tensor.name in trunk.maps:
        chain.append(tensor.inputs[0])
        tensor = tensor.inputs[0].inputs[0]
        source = trunk.maps.get(tensor.name)
        if source is None or any(
            m.cells != new.cells for m in (source, trunk.maps[chain[-1].outputs[0].name])
        ):
            return None  # cells were taken apart, or put together
        if source.axes == new.axes and len(source.channel_dims) == 1 and len(source.shape) == len(new.shape):
            break
    else:
        return None
    return tensor, _followed(chain, source, trunk)


def _followed(chain: list[gs.Node], source: Map, trunk: Trunk) -> Any:
    order = np.arange(source.shape[1]).reshape(_channels_only(source))
    for step in reversed(chain):
        if step.op == "Transpose":
            order = order.transpose(step.attrs.get("perm", list(range(order.ndim))[::-1]))
        else:
            order = order.reshape(_channels_only(trunk.maps[step.outputs[0].name]))
    return order.ravel()


def _channels_only(m: Map) -> list[int]:
    return [1 if d == 0 or d in m.axes else side for d, side in enumerate(m.shape)]


def take_over(build: Builder, node: gs.Node, tensor: Any) -> None:
    """Let a new tensor stand where a node's output stood."""
    hand_over(build, node.outputs[0], tensor)
    node.outputs.clear()


def hand_over(build: Builder, old: Any, tensor: Any) -> None:
    """Let a new tensor stand, under its name, where an old one stood."""
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
