"""Trunks for tests: lines of ONNX text at any opset, with a small head, and steps that change the cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

import heads
import nets
import onnx
import random_nets
from hypothesis import strategies as st
from random_nets import Draw, Trunk

IMAGE = "float[1,2,17,23] image"
OPSETS = (9, 11, 13, 18, 21)
GAP = "pooled = GlobalAveragePool (map) flat = Flatten (pooled) scores = Gemm <transB = 1> (flat, wh, bh)"
FLAT = "flat = Flatten (map) scores = Gemm <transB = 1> (flat, wh, bh)"


def net(
    lines: str,
    weights: str,
    features: int,
    *,
    opset: int = 17,
    image: str = IMAGE,
    head: str = GAP,
    out: str = "",
    positive: bool = False,
) -> onnx.ModelProto:
    """A model of these lines, which make `map`, and a head of five classes over it.

    `features` are the channels of `map` for GAP, all of its values for FLAT; `out` declares outputs more.
    """
    ir = 8 if opset < 21 else 10
    lines = spelled(lines, opset)
    declared = ", ".join(w for w in (weights, f"float[5,{features}] wh, float[5] bh" if head else "") if w)
    batch = image[image.index("[") + 1 : image.index(",")]
    outputs = f"float[{batch},5] scores{', ' + out if out else ''}"
    return nets.parse(
        f'<ir_version: {ir}, opset_import: ["": {opset}]> net ({image}) => ({outputs}) '
        f"<{declared}> {{ {lines} {head} }}",
        positive=positive,
    )


def named(lines: str, declared: str) -> str:
    """Of declarations, with a value or without, those whose name these lines use."""
    found = re.finditer(r"\w+(?:\[[\d,]+\])? (\w+)(?: = \{[^}]*\})?", declared)
    return ", ".join(m[0] for m in found if re.search(rf"\b{m[1]}\b", lines))


def spelled(lines: str, opset: int) -> str:
    """Lines in the words of an opset.

    `p = Pad[0, 1, 0, 2] (x)` pads two spatial dims, starts before ends; `s = Cut[1, 2, -1, 9] (x)` slices
    them; `u = Up[2, 2] (x)` repeats their cells; axes in brackets behind any other op as in `heads`.
    """
    four = r"\[(-?\d+), (-?\d+), (-?\d+), (-?\d+)\] \((\w+)\)"
    words = {} if opset < 11 else {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}

    def padded(m: re.Match[str]) -> str:
        a, b, c, d = (int(m[i]) for i in range(2, 6))
        return pad(m[1], m[6], [0, 0, a, b, 0, 0, c, d], opset=opset)

    def sliced(m: re.Match[str]) -> str:
        a, b, c, d = (int(m[i]) for i in range(2, 6))
        return cut(m[1], m[6], [a, b], [c, d], opset=opset)

    def larger(m: re.Match[str]) -> str:
        return resize(m[1], m[4], [1, 1, int(m[2]), int(m[3])], opset=opset, **words)

    lines = re.sub(rf"(\w+) = Pad{four}", padded, lines)
    lines = re.sub(rf"(\w+) = Cut{four}", sliced, lines)
    lines = re.sub(r"(\w+) = Up\[(\d+), (\d+)\] \((\w+)\)", larger, lines)
    return heads.spelled(lines, opset)


def ints(name: str, *values: int) -> str:
    """A line that makes a vector of int64."""
    return f"{name} = Constant <value = int64[{len(values)}] {{{', '.join(map(str, values))}}}> () "


def floats(name: str, *values: float) -> str:
    """A line that makes a vector of floats."""
    listed = ", ".join(repr(float(v)) for v in values)
    return f"{name} = Constant <value = float[{len(values)}] {{{listed}}}> () "


def pad(
    out: str, x: str, pads: Sequence[int], mode: str = "constant", value: float = 0.0, opset: int = 17
) -> str:
    """A line that pads, in the words of an opset."""
    if opset < 11:
        return f'{out} = Pad <mode = "{mode}", pads = {list(pads)}, value = {value}> ({x}) '
    constant = f"{out}_v = Constant <value = float {{{value}}}> () " if mode == "constant" else ""
    third = f", {out}_v" if mode == "constant" else ""
    return f'{ints(f"{out}_p", *pads)}{constant}{out} = Pad <mode = "{mode}"> ({x}, {out}_p{third}) '


def cut(
    out: str, x: str, starts: Sequence[int], ends: Sequence[int], steps: Sequence[int] = (), opset: int = 17
) -> str:
    """A line that slices the two spatial dims, in the words of an opset."""
    if opset < 10:
        return f"{out} = Slice <starts = {list(starts)}, ends = {list(ends)}, axes = [2, 3]> ({x}) "
    lines = ints(f"{out}_a", *starts) + ints(f"{out}_b", *ends) + ints(f"{out}_x", 2, 3)
    if steps:
        lines += ints(f"{out}_s", *steps)
    return f"{lines}{out} = Slice ({x}, {out}_a, {out}_b, {out}_x{f', {out}_s' if steps else ''}) "


def resize(
    out: str, x: str, scales: Sequence[float], mode: str = "nearest", opset: int = 17, **attrs: str
) -> str:
    """A line that resizes by scales, in the words of an opset: Upsample, or Resize."""
    words = [f'mode = "{mode}"', *(f'{k} = "{v}"' for k, v in attrs.items())]
    given = f"<{', '.join(words)}>"
    if opset < 10:
        return f"{floats(f'{out}_s', *scales)}{out} = Upsample {given} ({x}, {out}_s) "
    roi = f"{out}_r = Constant <value = float[0] {{}}> () " if opset in (11, 12) else ""
    middle = "" if opset < 11 else f"{out}_r, " if roi else ", "
    return f"{floats(f'{out}_s', *scales)}{roi}{out} = Resize {given} ({x}, {middle}{out}_s) "


# ------------------------------------------------ steps of a random trunk


def step_pad(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """A Pad of any mode, which may cut."""
    top, bottom, left, right = (draw(st.integers(-1, 2 if pads else 0)) for _ in range(4))
    mode = draw(st.sampled_from(["constant", "reflect", "edge"]))
    out = (trunk.cells[0] + top + bottom, trunk.cells[1] + left + right)
    if min(out) < 2 or min(trunk.cells) < 4:  # a reflection needs cells to reflect
        return
    name = f"t{len(trunk.lines)}"
    trunk.lines.append(pad(name, trunk.last, [0, 0, top, left, 0, 0, bottom, right], mode))
    trunk.last, trunk.cells = name, out


def step_crop(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """A Slice that cuts both ends off, and may skip cells."""
    starts = [draw(st.integers(0, min(2, n - 2))) for n in trunk.cells]
    off = [draw(st.integers(0, min(2, n - a - 2))) for n, a in zip(trunk.cells, starts, strict=True)]
    steps = [draw(st.integers(1, 2)) for _ in trunk.cells]
    name = f"t{len(trunk.lines)}"
    trunk.lines.append(cut(name, trunk.last, starts, [-b or 2**62 for b in off], steps))
    trunk.last = name
    left = [n - a - b for n, a, b in zip(trunk.cells, starts, off, strict=True)]
    trunk.cells = (-(-left[0] // steps[0]), -(-left[1] // steps[1]))


def step_resize(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """A Resize by any scale, in a way that moves with the image; without pads only what reads no border."""
    scales = [draw(st.sampled_from([1, 2, 3] if pads else [1, 2])) for _ in trunk.cells]
    ways = [("nearest", "asymmetric", "floor")]
    if pads:
        ways += [("nearest", "half_pixel", "round_prefer_floor"), ("nearest", "asymmetric", "ceil")]
        ways += [("linear", "half_pixel", "floor"), ("linear", "asymmetric", "floor")]
    mode, coordinates, rounding = draw(st.sampled_from(ways))
    name = f"t{len(trunk.lines)}"
    words = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    trunk.lines.append(resize(name, trunk.last, [1, 1, *scales], mode, **words))
    trunk.last = name
    trunk.cells = (trunk.cells[0] * scales[0], trunk.cells[1] * scales[1])


def step_transposed(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """A ConvTranspose; without pads its kernel is its stride, so that neighbours do not meet."""
    strides = [draw(st.integers(1, 3)) for _ in trunk.cells]
    kernel = [draw(st.integers(s, s + 2)) if pads else s for s in strides]
    before = [draw(st.integers(0, min(2, k - 1))) if pads else 0 for k in kernel * 2]
    more = [draw(st.integers(0, s - 1)) if pads else 0 for s in strides]
    channels = draw(st.integers(1, 3))
    weight = trunk.weight(trunk.channels, channels, *kernel)
    words = f"<strides = {strides}, pads = {before}, output_padding = {more}>"
    out = [
        (n - 1) * s + k - a - b + m
        for n, s, k, a, b, m in zip(trunk.cells, strides, kernel, before[:2], before[2:], more, strict=True)
    ]
    if min(out) < 2:
        return
    trunk.last = trunk.emit(f"ConvTranspose {words}", trunk.last, weight)
    trunk.channels, trunk.cells = channels, (out[0], out[1])


def step_depth(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """Cells into channels, or channels into cells."""
    if all(n % 2 == 0 and n > 2 for n in trunk.cells) and draw(st.booleans()):
        trunk.last = trunk.emit("SpaceToDepth <blocksize = 2>", trunk.last)
        trunk.channels, trunk.cells = 4 * trunk.channels, (trunk.cells[0] // 2, trunk.cells[1] // 2)
        return
    weight = trunk.weight(4, trunk.channels, 1, 1)
    wide = trunk.emit("Conv", trunk.last, weight)
    trunk.last = trunk.emit("DepthToSpace <blocksize = 2>", wide)
    trunk.channels, trunk.cells = 1, (2 * trunk.cells[0], 2 * trunk.cells[1])


def step_pyramid(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """A map beside itself, made half as large and as large again (a U-Net of one level)."""
    if any(n % 2 for n in trunk.cells) or min(trunk.cells) < 4:
        return
    small = trunk.emit("MaxPool <kernel_shape = [2, 2], strides = [2, 2]>", trunk.last)
    weight = trunk.weight(2, trunk.channels, 1, 1)
    deep = trunk.emit("Conv", small, weight)
    name = f"t{len(trunk.lines)}"
    trunk.lines.append(
        resize(name, deep, [1, 1, 2, 2], coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    )
    trunk.last = trunk.emit("Concat <axis = 1>", trunk.last, name)
    trunk.channels += 2


STEPS = (step_pad, step_crop, step_resize, step_transposed, step_depth, step_pyramid)


@st.composite
def mixtures(draw: Draw, *, pads: bool = True) -> Trunk:
    """A trunk of one to five steps, those of `random_nets` among them, over a small window."""
    window = (draw(st.integers(8, 20)), draw(st.integers(8, 20)))
    trunk = Trunk(window, cells=window)
    for _ in range(draw(st.integers(2, 6))):
        before = (trunk.last, trunk.channels, trunk.cells, len(trunk.lines), len(trunk.weights))
        step = draw(st.sampled_from([*STEPS, *random_nets.STEPS]))
        step(draw, trunk, pads=pads, ceil=pads)
        if min(trunk.cells) < 2 or max(trunk.cells) > 60 or prod(trunk.cells) * trunk.channels > 20000:
            trunk.last, trunk.channels, trunk.cells = before[:3]
            del trunk.lines[before[3] :], trunk.weights[before[4] :]
            break
    trunk.lines.append(f"map = Identity ({trunk.last})")
    trunk.last = "map"
    return trunk
