"""Nets drawn by hypothesis: a random trunk, and a random head over it, as ONNX text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import law
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
Cells = tuple[int, int]


@dataclass
class Trunk:
    """A trunk under construction: the tensor written last, its channels and its cells in the window."""

    window: Cells
    last: str = "image"
    channels: int = 2
    cells: Cells = (0, 0)
    lines: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)

    def emit(self, op: str, *inputs: str) -> str:
        """Write `op` (with its attributes) over these inputs."""
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {op} ({', '.join(inputs)})")
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(f"float{list(shape)} {name}")
        return name

    def constant(self, kind: str, values: str) -> str:
        """Declare a constant by its ONNX text."""
        name = f"w{len(self.weights)}"
        self.weights.append(f"{kind} {name} = {{{values}}}")
        return name

    def text(self, out: str, *, batch: int = 1) -> str:
        """The net as ONNX text; `out` is the name of its output."""
        header = '<ir_version: 8, opset_import: ["": 13]>'
        image = f"float[{batch},2,{self.window[0]},{self.window[1]}] image"
        weights = f"<{', '.join(self.weights)}>" if self.weights else ""
        lines = "\n  ".join(self.lines)
        return f"{header}\nnet ({image}) => (float[1,k] {out})\n{weights}\n{{\n  {lines}\n}}\n"


@dataclass(frozen=True)
class Side:
    """A windowed op along one axis."""

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    def out(self, cells: int, ceil: bool) -> int:
        """How many outputs it gives."""
        return law.outputs(cells, self.kernel, self.stride, self.dilation, (self.before, self.after), ceil)

    def drops(self, cells: int) -> bool:
        """Whether ceil_mode would begin a last output in the padding, which shape inference overlooks."""
        room = cells + self.before + self.after - (self.kernel - 1) * self.dilation - 1
        return -(-room // self.stride) * self.stride >= cells + self.before


def draw_side(
    draw: Draw, cells: int, *, pads: bool, dilated: bool, strided: bool, below_kernel: bool
) -> Side:
    """An op that leaves at least one cell of `cells`."""
    kernel = draw(st.integers(1, min(7, cells)))
    dilation = draw(st.integers(1, 2)) if dilated and kernel > 1 and 2 * kernel - 1 <= cells else 1
    most = min(2, kernel - 1) if below_kernel else 2
    before, after = (draw(st.integers(0, most)), draw(st.integers(0, most))) if pads else (0, 0)
    stride = draw(st.integers(1, 3)) if strided else 1
    return Side(kernel, stride, dilation, before, after)


def attributes(sides: list[Side], *, dilations: bool = True, **more: int) -> str:
    """The attributes of a windowed op."""
    pairs = {
        "kernel_shape": [s.kernel for s in sides],
        "strides": [s.stride for s in sides],
        "pads": [s.before for s in sides] + [s.after for s in sides],
    }
    if dilations:
        pairs["dilations"] = [s.dilation for s in sides]
    listed = [f"{k} = {v}" for k, v in pairs.items()]
    return "<" + ", ".join(listed + [f"{k} = {v}" for k, v in more.items()]) + ">"


# ------------------------------------------------ steps of a trunk


def convolve(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """A Conv of any kernel, stride, dilation and pads."""
    sides = [
        draw_side(draw, n, pads=pads, dilated=True, strided=True, below_kernel=False) for n in trunk.cells
    ]
    channels = draw(st.integers(1, 3))
    weight = trunk.weight(channels, trunk.channels, *(s.kernel for s in sides))
    trunk.last = trunk.emit(f"Conv {attributes(sides)}", trunk.last, weight)
    trunk.channels = channels
    trunk.cells = (sides[0].out(trunk.cells[0], False), sides[1].out(trunk.cells[1], False))


def pool(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """A MaxPool or an AveragePool, with its last window cut short or not."""
    largest = draw(st.booleans())
    up = ceil and draw(st.booleans())
    sides = [
        draw_side(draw, n, pads=pads, dilated=largest, strided=True, below_kernel=True) for n in trunk.cells
    ]
    up = up and not any(s.drops(n) for s, n in zip(sides, trunk.cells, strict=True))
    more = {"ceil_mode": int(up)}
    if not largest:
        more["count_include_pad"] = draw(st.integers(0, 1))
    kind = "MaxPool" if largest else "AveragePool"
    trunk.last = trunk.emit(f"{kind} {attributes(sides, dilations=largest, **more)}", trunk.last)
    trunk.cells = (sides[0].out(trunk.cells[0], up), sides[1].out(trunk.cells[1], up))


def branch(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """A Conv and a MaxPool of one extent side by side, joined by Concat."""
    sides = [
        draw_side(draw, n, pads=pads, dilated=False, strided=True, below_kernel=True) for n in trunk.cells
    ]
    weight = trunk.weight(2, trunk.channels, *(s.kernel for s in sides))
    conv = trunk.emit(f"Conv {attributes(sides)}", trunk.last, weight)
    most = trunk.emit(f"MaxPool {attributes(sides)}", trunk.last)
    trunk.last = trunk.emit("Concat <axis = 1>", conv, most)
    trunk.channels += 2
    trunk.cells = (sides[0].out(trunk.cells[0], False), sides[1].out(trunk.cells[1], False))


def residual(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """A Conv that keeps the cells, added to what it read."""
    reach = draw(st.integers(0, 2)) if pads else 0
    weight = trunk.weight(trunk.channels, trunk.channels, 2 * reach + 1, 2 * reach + 1)
    conv = trunk.emit(f"Conv <pads = {[reach] * 4}>", trunk.last, weight)
    trunk.last = trunk.emit("Add", conv, trunk.last)


def activate(draw: Draw, trunk: Trunk, *, pads: bool, ceil: bool) -> None:
    """An activation."""
    trunk.last = trunk.emit("Relu", trunk.last)


STEPS = (convolve, pool, activate, branch, residual)


@st.composite
def trunks(draw: Draw, *, pads: bool = True, ceil: bool = True, least: int = 2) -> Trunk:
    """A trunk of one to five steps over a small window, whose map `map` has `least` cells or more a side."""
    window = (draw(st.integers(9, 26)), draw(st.integers(9, 26)))
    trunk = Trunk(window, cells=window)
    for _ in range(draw(st.integers(1, 5))):
        before = (trunk.last, trunk.channels, trunk.cells, len(trunk.lines), len(trunk.weights))
        STEPS[draw(st.integers(0, len(STEPS) - 1))](draw, trunk, pads=pads, ceil=ceil)
        if min(trunk.cells) < least:  # one step too many: as if it had not been drawn
            trunk.last, trunk.channels, trunk.cells = before[:3]
            del trunk.lines[before[3] :], trunk.weights[before[4] :]
            break
    trunk.lines.append(f"map = Identity ({trunk.last})")
    trunk.last = "map"
    return trunk
