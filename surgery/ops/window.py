"""Ops that slide a window over space: convolutions and pools."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.field import Slide
from surgery.graph import Builder, Op
from surgery.ops.reduce import pool
from surgery.positions import flat, reading, view, window_of
from surgery.rules import Array, EndsTrunk, Folded, Lifted, Map, NoRule, Source, Window, geometry, lift
from surgery.weights import matrix_of

POOLS = ("AveragePool", "MaxPool", "LpPool")
WINDOWED = ("Conv", *POOLS)
INTEGER = ("QLinearConv", "ConvInteger")
SLIDING = (*WINDOWED, *INTEGER)
WEIGHT_AT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}


def statement(op: Op) -> Window:
    """What a windowed op says of itself, at the window's size, per spatial dim.

    auto_pad is resolved to the pads it stands for at this size (ONNX Conv, attribute auto_pad).
    """
    cells = op.in_shape()[2:]
    rank = len(cells)
    kernel = op.attr("kernel_shape") or op.in_shape(WEIGHT_AT.get(op.kind, 1))[2:]
    strides = op.attr("strides") or [1] * rank
    dilations = op.attr("dilations") or [1] * rank
    pads = op.attr("pads") or [0] * (2 * rank)
    ceil = bool(op.attr("ceil_mode"))
    slides = []
    for i in range(rank):
        slide = Slide(kernel[i], strides[i], dilations[i], pads[i], pads[rank + i], ceil)
        slides.append(freeze(slide, op.attr("auto_pad") or "NOTSET", cells[i]))
    return Window(tuple(slides))


def freeze(slide: Slide, auto_pad: str, cells: int) -> Slide:
    """The slide with the pads that auto_pad stands for on so many cells."""
    if auto_pad == "NOTSET":
        return slide
    before = after = 0
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        out = -(-cells // slide.stride)
        total = max((out - 1) * slide.stride + slide.extent - cells, 0)
        small, large = total // 2, total - total // 2
        before, after = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    return Slide(slide.kernel, slide.stride, slide.dilation, before, after, slide.ceil)


@geometry.rule(*SLIDING)
def slide(op: Op, inputs: list[Any]) -> Map:
    """Cells move by the stride and see the kernel's extent more."""
    x = inputs[0]
    if not isinstance(x, Map):
        raise NoRule("its weights, not its data, depend on the image")
    if any(isinstance(i, Map) for i in inputs[1:]):
        raise NoRule("its weights depend on the image")
    if 1 in x.axes:
        raise EndsTrunk(f"it takes positions as channels: its input is {list(x.shape)}")
    if len(op.outputs) > 1 and op.node.outputs[1].outputs:
        raise NoRule("its second output, the places of the maxima, counts through the window's own cells")
    shape = op.out_shape()
    if all(shape[d] == 1 for d in x.axes):
        raise EndsTrunk("it leaves one cell of the window")
    slides = statement(op).slides
    moved = [axis.slide(slides[dim - 2]) for dim, axis in zip(x.axes, x.geometry, strict=True)]
    return Map(shape, x.axes, tuple(moved))


# ------------------------------------------------------------------ lifted: the window's one cell


@lift.rule("Conv")
def convolve(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A Conv that leaves one cell is a kernel over the window's cells; pads read nothing and go."""
    x, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    if not isinstance(weight, np.ndarray) or isinstance(bias, (Folded, Lifted)):
        raise NoRule("its weights depend on the image")
    if any(d != 1 for d in op.out_shape()[2:]):
        raise NoRule(f"it slides over a map made of features, {list(op.in_shape())}, inside the head")
    source = _cells(build, x, op)
    window, rows = statement(op), len(weight)
    laid = matrix_of(op, 1, lambda w: _clip_kernel(w, window, source.cells).reshape(rows, -1))
    kernel = laid.rows.reshape(rows, weight.shape[1], *source.cells)
    consts = [laid.tensor(build, kernel)]
    if bias is not None:
        consts.append(op.node.inputs[2] if laid.scale is not None else build.constant("bias", bias))
    attrs = {**reading(source), "group": op.attr("group")}
    out = build.emit("Conv", [source.tensor, *consts], attrs)
    return Lifted(out, op.out_shape()[1:], (weight.shape[0],))


def _cells(build: Builder, x: Folded | Lifted, op: Op) -> Source:
    if isinstance(x, Folded):
        source = window_of(x)
        if source is None or x.shape != (source.channels, *source.cells):
            raise NoRule("it slides over features that are no longer a map")
        return source
    channels, *cells = x.shape
    if any(c != 1 for c in cells):
        raise NoRule(f"it slides over a map made of features, {list(op.in_shape())}, inside the head")
    return Source.single(flat(build, x), channels, build.space)


def _clip_kernel(weight: Array, window: Window, cells: tuple[int, ...]) -> Array:
    """The kernel laid over the window's own cells: taps that read pads are dropped."""
    clean = all(
        s.kernel == c and s.dilation == 1 and s.before == 0
        for s, c in zip(window.slides, cells, strict=False)
    )
    if clean and len(cells) == len(window.slides):
        return weight
    for axis, slide in enumerate(window.slides):
        count = cells[axis] if axis < len(cells) else 1
        taps = slide.taps(count)
        moved = np.moveaxis(weight, 2 + axis, 0)
        laid = np.zeros((count, *moved.shape[1:]), weight.dtype)
        laid[[cell for _, cell in taps]] = moved[[tap for tap, _ in taps]]
        weight = np.moveaxis(laid, 0, 2 + axis)
    return weight


@lift.rule(*POOLS)
def pool_window(build: Builder, op: Op, inputs: list[Any]) -> Lifted:
    """A pool that leaves one cell pools the window's own cells, pads aside."""
    if len(op.outputs) > 1 and op.node.outputs[1].outputs:
        raise NoRule("its second output, the places of the maxima, is used")
    if any(d != 1 for d in op.out_shape()[2:]):
        raise NoRule(f"it slides over a map made of features, {list(op.in_shape())}, inside the head")
    x, slides = inputs[0], statement(op).slides
    shape = op.in_shape()[1:]
    boxes = [[cell for _, cell in s.taps(n)] for s, n in zip(slides, shape[1:], strict=True)]
    if isinstance(x, Folded):
        x = x.rearrange(lambda a: a[np.ix_(range(a.shape[0]), *boxes)])
    else:
        x = _taken(build, x, boxes)
    out = pool(build, op.kind, x, tuple(range(1, len(shape))), keepdims=True, p=op.attr("p") or 2)
    if op.kind == "AveragePool" and op.attr("count_include_pad"):
        read = int(np.prod([len(b) for b in boxes]))
        # ceil_mode's cells beyond the declared pads are counted by no runtime
        size = int(np.prod([_counted(s, n) for s, n in zip(slides, shape[1:], strict=True)]))
        if read != size:
            share = build.constant("share", np.array(read / size, dtype=out.tensor.dtype or np.float32))
            out = Lifted(build.emit("Mul", [out.tensor, share]), out.shape, out.dims)
    return out


def _taken(build: Builder, x: Lifted, boxes: list[list[int]]) -> Lifted:
    """The features of these cells, where a pool reads not all of them."""
    shape = x.shape
    if all(len(b) == n for b, n in zip(boxes, shape[1:], strict=True)):
        return x
    tensor = view(build, x, shape)
    for d, box in enumerate(boxes):
        if len(box) != shape[1 + d]:
            tensor = build.emit("Gather", [tensor, build.ints("cells", box)], {"axis": 2 + d})
    taken = (shape[0], *(len(b) for b in boxes))
    return Lifted(tensor, taken, taken)


def pools_all(op: Op) -> bool:
    """Whether a pool takes just the window's cells, all of them."""
    slides = zip(statement(op).slides, op.in_shape()[2:], strict=True)
    return all(s.kernel == cells and s.dilation == 1 and s.before == 0 == s.after for s, cells in slides)


def _counted(slide: Slide, cells: int) -> int:
    """Taps of the first output that lie on cells or on declared pads."""
    last = cells + slide.after
    return sum(1 for t in range(slide.kernel) if t * slide.dilation - slide.before < last)
