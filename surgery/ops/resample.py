"""Ops that make more cells, or fewer: ConvTranspose, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from typing import Any

from surgery.field import Slide, Stretch
from surgery.graph import Builder, Op
from surgery.packed import grouping, spreading
from surgery.rules import EndsTrunk, Map, NoRule, geometry, lift

# ------------------------------------------------------------------ ConvTranspose


@geometry.rule("ConvTranspose")
def spread_kernels(op: Op, inputs: list[Any]) -> Map:
    """Every cell lays its kernel out over several; neighbours add up (ONNX ConvTranspose)."""
    x = inputs[0]
    if not isinstance(x, Map) or any(isinstance(i, Map) for i in inputs[1:]) or inputs[1] is None:
        raise NoRule("its weights, not only its data, depend on the image")
    if sorted(x.axes) != list(range(2, len(x.shape))):
        raise EndsTrunk(f"it slides over the channels of {list(x.shape)}")
    slides, _ = transposed(op)
    sides = zip(x.axes, x.geometry, strict=True)
    cells = op.out_shape()
    moved = tuple(axis.stretch(kernels(slides[d - 2], axis.cells, cells[d])) for d, axis in sides)
    return Map(op.out_shape(), x.axes, moved)


def kernels(slide: Slide, cells: int, out: int) -> Stretch:
    """The reads of a transposed convolution on an axis: tap t of cell i goes to output i*s - b + t*d."""
    s = slide.stride
    reads: list[tuple[int, int] | None] = []
    for v in range(s):
        taps = [(v + slide.before - t * slide.dilation, s) for t in range(slide.kernel)]
        seen = sorted(at // step for at, step in taps if at % step == 0)
        reads.append((seen[0], seen[-1]) if seen else None)
    return Stretch(s, 1, tuple(reads), more=out - cells * s)


def transposed(op: Op) -> tuple[list[Slide], list[int]]:
    """Kernel, stride, dilation and pads per axis, and the output_padding, that give the window's output.

    auto_pad and output_shape are resolved to pads: SAME_UPPER puts the smaller half first, all else the
    larger (ONNX ConvTranspose, attributes auto_pad and output_shape).
    """
    cells, out = op.in_shape()[2:], op.out_shape()[2:]
    rank = len(cells)
    kernel = op.attr("kernel_shape") or op.in_shape(1)[2:]
    strides, dilations = op.attr("strides") or [1] * rank, op.attr("dilations") or [1] * rank
    extra = list(op.attr("output_padding") or [0] * rank)
    pads = op.attr("pads") or [0] * (2 * rank)
    mode = op.attr("auto_pad") or "NOTSET"
    slides = []
    for i in range(rank):
        slide = Slide(kernel[i], strides[i], dilations[i], pads[i], pads[rank + i])
        if op.attr("output_shape") or mode in ("SAME_UPPER", "SAME_LOWER"):
            total = (cells[i] - 1) * slide.stride + extra[i] + slide.extent - out[i]
            small, large = max(total, 0) // 2, max(total, 0) - max(total, 0) // 2
            before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
            extra[i] += max(-total, 0)
            slide = Slide(slide.kernel, slide.stride, slide.dilation, before, after)
        elif mode == "VALID":
            slide = Slide(slide.kernel, slide.stride, slide.dilation)
        slides.append(slide)
    return slides, extra


def free_transposed(op: Op, m: Map, build: Builder) -> list[str]:
    """The output_shape of the window, or its auto_pad, as the pads it stands for."""
    attrs = op.node.attrs
    if not attrs.get("output_shape") and attrs.get("auto_pad", "NOTSET") in ("NOTSET", ""):
        return []
    slides, extra = transposed(op)
    attrs.pop("output_shape", None)
    attrs.pop("auto_pad", None)
    attrs["pads"] = [s.before for s in slides] + [s.after for s in slides]
    attrs["output_padding"] = extra
    return [f"ConvTranspose {op.name!r}: pads {attrs['pads']} in place of its output's size"]


# ------------------------------------------------------------------ DepthToSpace, SpaceToDepth


@geometry.rule("DepthToSpace", "SpaceToDepth")
def regroup_cells(op: Op, inputs: list[Any]) -> Map:
    """A cell's channels become so many cells, or the other way round."""
    x: Map = inputs[0]
    if x.axes != (2, 3):
        raise NoRule("its channels are positions")
    block = int(op.attr("blocksize"))
    one = grouping(block) if op.kind == "SpaceToDepth" else spreading(block)
    if all(d == 1 for d in op.out_shape()[2:]):
        raise EndsTrunk("it leaves one cell of the window")
    return Map(op.out_shape(), x.axes, tuple(axis.stretch(one) for axis in x.geometry))


# ------------------------------------------------------------------ refused

_why = "it makes more cells, or fewer, of what is no map any more"
lift.refuse("ConvTranspose", "DepthToSpace", "SpaceToDepth", why=_why)
for _table in (geometry, lift):
    _table.refuse("MaxUnpool", why="it puts values at places that count through the window's own cells")
    _table.refuse(
        "GridSample",
        "AffineGrid",
        why="it reads at places given for the whole image (a spatial transformer), so a window is none of it",
    )
    _table.refuse("DeformConv", why="how far it reads depends on the data, so a window has no border")
