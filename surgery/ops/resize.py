"""Resize and Upsample: by a scale every position is as every other, to a size the whole image is squeezed."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np

from surgery.field import Stretch
from surgery.graph import Builder, Op
from surgery.rules import Array, EndsTrunk, Map, Mixes, NoRule, geometry, lift

RESIZES = ("Resize", "Upsample")
LARGEST = 4096  # cells up to which float32 must read what fractions say
Way = tuple[str, str, str, bool]  # mode, coordinates, rounding, antialias


@geometry.rule(*RESIZES)
def resize(op: Op, inputs: list[Any]) -> Map:
    """By a scale it keeps the positions; to a size of its own it squeezes the whole image into it."""
    x: Map = inputs[0]
    shape = op.out_shape()
    if any(shape[d] != x.shape[d] for d in range(len(shape)) if d not in x.axes):
        raise NoRule("it resizes channels, or the batch")
    if all(shape[d] == 1 for d in x.axes):
        raise EndsTrunk("it leaves one cell of the window")
    scales, way = scales_of(op), way_of(op)
    if all(scales[d] == 1 for d in x.axes):
        return x
    moved = []
    for d, axis in zip(x.axes, x.geometry, strict=True):
        after = axis.stretch(stretch(scales[d], way))
        moved.append(after.soil() if way[1] == "pytorch_half_pixel" and shape[d] == 1 else after)
    out = Map(shape, x.axes, tuple(moved))
    whole = all(scales[d].denominator == 1 for d in x.axes)
    if way[1] == "align_corners" or (way[1] == "half_pixel_symmetric" and not whole):
        raise Mixes(
            f"with coordinate_transformation_mode {way[1]} what it reads depends on the image's size", out
        )
    if fixed_size(op, x):
        raise Mixes(f"it resizes to {[shape[d] for d in x.axes]}, whatever the size of the image", out)
    return out


def scales_of(op: Op) -> list[Fraction]:
    """By how much it scales each dim, at the window."""
    given = given_scales(op)
    found = []
    for d, (cells, size) in enumerate(zip(op.in_shape(), op.out_shape(), strict=True)):
        exact = Fraction(size, cells)
        if given is not None:
            near = Fraction(float(given[d])).limit_denominator(64)
            exact = near if np.float32(near) == np.float32(given[d]) else exact
        if in_float(exact, way_of(op), None if given is None else np.float32(given[d])) is None:
            raise NoRule(
                f"float32 does not keep its scale {float(exact):g}, so what it reads varies by place"
            )
        found.append(exact)
    return found


def given_scales(op: Op) -> Array | None:
    """The scales it is given, one for each dim, or None where it is given sizes."""
    if op.kind == "Upsample" and op.opset < 9:
        return np.asarray(op.attr("scales"), np.float32)
    if op.opset >= 11 and len(op.inputs) > 3 and op.inputs[3]:
        return None
    given = op.value(2 if op.opset >= 11 and op.kind == "Resize" else 1)
    assert given is not None, "what sets how an op works and is no constant has ended the trunk"
    axes = op.attr("axes")
    if axes is None:
        return given
    whole = np.ones(len(op.in_shape()), np.float32)
    whole[[a % whole.size for a in axes]] = given
    return whole


def way_of(op: Op) -> Way:
    """How it reads: Upsample, and Resize before opset 11, know nearest (or its floor) and linear only."""
    mode = op.attr("mode") or "nearest"
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)
    if op.kind == "Upsample" or op.opset < 11:
        return mode, "asymmetric", "simple", False
    coordinates = op.attr("coordinate_transformation_mode")
    if coordinates == "tf_crop_and_resize":
        raise NoRule("it reads a region of interest, given as a share of the whole image")
    return mode, coordinates, op.attr("nearest_mode"), bool(op.attr("antialias"))


def stretch(scale: Fraction, way: Way) -> Stretch:
    """What an output reads on an axis: the cells that have a weight, beyond the border too (ONNX Resize)."""
    mode, coordinates, rounding, antialias = way
    reads = []
    for v in range(scale.numerator):
        x = COORDINATES[coordinates](Fraction(v), scale)
        if mode == "nearest":
            cell = _ROUND[rounding if rounding != "simple" else "ceil" if scale < 1 else "floor"](x)
            reads.append((cell, cell))
        elif antialias and scale < 1:
            reach = (1 if mode == "linear" else 2) / scale
            reads.append((floor(x - reach) + 1, ceil(x + reach) - 1))
        else:
            more = 0 if mode == "linear" or x.denominator == 1 else 1
            reads.append((floor(x) - more, ceil(x) + more))
    return Stretch(scale.numerator, scale.denominator, tuple(reads))


HALF = Fraction(1, 2)
COORDINATES: dict[str, Callable[[Any, Any], Any]] = {
    "asymmetric": lambda v, scale: v / scale,
    "align_corners": lambda v, scale: v / scale,
    "tf_half_pixel_for_nn": lambda v, scale: (v + HALF) / scale,
    "half_pixel": lambda v, scale: (v + HALF) / scale - HALF,
    "half_pixel_symmetric": lambda v, scale: (v + HALF) / scale - HALF,
    "pytorch_half_pixel": lambda v, scale: (v + HALF) / scale - HALF,
}
_ROUND: dict[str, Callable[[Any], int]] = {
    "round_prefer_floor": lambda x: ceil(x - HALF),
    "round_prefer_ceil": lambda x: floor(x + HALF),
    "floor": floor,
    "ceil": ceil,
}


def in_float(exact: Fraction, way: Way, given: np.float32 | None = None) -> np.float32 | None:
    """The scale as a float with which a runtime makes as many cells, and reads the same, as fractions say.

    None where the given one, or one that is free to choose, does not.
    """
    nearest = np.float32(exact)
    return next(
        (
            f
            for f in ([given] if given else [nearest, np.nextafter(nearest, np.float32(np.inf))])
            if _keeps(f, exact, way)
        ),
        None,
    )


def _keeps(scale: np.float32, exact: Fraction, way: Way) -> bool:
    cells = np.arange(1, LARGEST + 1)
    lengths = (cells.astype(np.float32) * scale).astype(np.int64)
    if not np.array_equal(lengths, cells * exact.numerator // exact.denominator):
        return False
    if way[0] != "nearest" or exact == 1:
        return True
    v, half = np.arange(LARGEST), np.float32(0.5)
    centred = half if way[1] not in ("asymmetric", "align_corners") else np.float32(0)
    moved = half if way[1] != "tf_half_pixel_for_nn" else np.float32(0)
    x = (v.astype(np.float32) + centred) / scale - (moved if centred else centred)
    down, up = np.floor(x), np.ceil(x)
    cell = {
        "round_prefer_floor": np.where(x - down == half, down, np.floor(x + half)),
        "round_prefer_ceil": np.floor(x + half),
        "floor": down,
        "ceil": up,
        "simple": up if scale < 1 else down,
    }[way[2]]
    op = stretch(exact, way)
    first = np.array([r[0] for r in op.reads if r is not None])
    return np.array_equal(cell, first[v % op.up] + v // op.up * op.down)


def fixed_size(op: Op, x: Map) -> bool:
    """Whether it is given a size that does not grow with the image."""
    if given_scales(op) is not None:
        return False
    doubled = op.facts.doubled(op.inputs[3])
    axes = [a % len(x.shape) for a in op.attr("axes") or range(len(x.shape))]
    sizes = op.facts.values[op.inputs[3]]
    return any(int(doubled[i]) != 2 * int(sizes[i]) for i, d in enumerate(axes) if d in x.axes)


def free_resize(op: Op, m: Map, build: Builder) -> list[str]:
    """A size becomes the scale that it is of the window."""
    if given_scales(op) is not None:
        return []
    scales = scales_of(op)
    op.node.attrs.pop("keep_aspect_ratio_policy", None)
    op.node.attrs.pop("axes", None)
    values = np.array([in_float(s, way_of(op)) for s in scales], np.float32)
    roi = build.constant("roi", np.zeros(0, np.float32))
    op.node.inputs = [op.node.inputs[0], roi, build.constant("scales", values)]
    return [f"{op.kind} {op.name!r}: by the scales {[str(s) for s in scales]}, in place of a size"]


lift.refuse(*RESIZES, why="it resizes what is no map any more")
