"""Nets drawn by hypothesis for the exact engine: any pads, kernels, strides, dilations, branches, joins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import law
import nets
import onnx
from hypothesis import strategies as st
from random_nets import Cells, Draw, Trunk

MOST_PADS = 3
WINDOWS = (5, 20)


@dataclass(frozen=True)
class Way:
    """How an op slides along one axis, from so many cells to so many."""

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int


def way(draw: Draw, cells: int, stride: int, kind: str, *, ceil: bool, out: int = 0) -> Way | None:
    """A random way of an op by this stride, to `out` cells where that is given; None where none is found."""
    pool = kind != "Conv"
    kernel = draw(st.integers(1, min(5, cells)))
    dilation = draw(st.integers(1, 2)) if kernel > 1 and kind != "AveragePool" else 1
    most = min(MOST_PADS, kernel - 1 if pool else MOST_PADS)
    before = draw(st.integers(0, most))
    extent = (kernel - 1) * dilation + 1
    fits = [
        after
        for after in range(most + 1)
        if cells + before + after >= extent
        and out in (0, law.outputs(cells, kernel, stride, dilation, (before, after), ceil))
        and not (ceil and _overlooked(cells, extent, stride, before, after))
    ]
    return Way(kernel, stride, dilation, before, draw(st.sampled_from(fits))) if fits else None


def _overlooked(cells: int, extent: int, stride: int, before: int, after: int) -> bool:
    """Whether ceil_mode would begin a last output in the padding, which shape inference overlooks."""
    return -(-(cells + before + after - extent) // stride) * stride >= cells + before


def slid(draw: Draw, trunk: Trunk, strides: Cells, out: Cells = (0, 0)) -> tuple[str, Cells] | None:
    """A Conv or pool of the last tensor, with its cells, as many as `out` says; None if none is found."""
    kind = draw(st.sampled_from(KINDS))
    ceil = kind != "Conv" and draw(st.booleans())
    sides = zip(trunk.cells, strides, out, strict=True)
    ways = [w for n, s, o in sides if (w := way(draw, n, s, kind, ceil=ceil, out=o)) is not None]
    if len(ways) < len(strides):
        return None
    said = {
        "kernel_shape": [w.kernel for w in ways],
        "strides": [w.stride for w in ways],
        "pads": [w.before for w in ways] + [w.after for w in ways],
    }
    rows, cols = (
        law.outputs(n, w.kernel, w.stride, w.dilation, (w.before, w.after), ceil)
        for n, w in zip(trunk.cells, ways, strict=True)
    )
    if kind != "AveragePool":
        said["dilations"] = [w.dilation for w in ways]
    if kind == "Conv":
        weight = trunk.weight(trunk.channels, trunk.channels, *said["kernel_shape"])
        return trunk.emit(f"Conv <{_listed(said)}>", trunk.last, weight), (rows, cols)
    counted = f", count_include_pad = {draw(st.integers(0, 1))}" if kind == "AveragePool" else ""
    name = trunk.emit(f"{kind} <{_listed(said)}, ceil_mode = {int(ceil)}{counted}>", trunk.last)
    return name, (rows, cols)


def _listed(said: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {values}" for name, values in said.items())


KINDS = ("Conv", "Conv", "MaxPool", "AveragePool")


def layer(draw: Draw, trunk: Trunk) -> None:
    """One to three ways from the last tensor to as many cells, each as random as it can be, and a join."""
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    first = slid(draw, trunk, strides)
    if first is None:
        return
    others = [slid(draw, trunk, strides, first[1]) for _ in range(draw(st.integers(0, 2)))]
    made = [first[0], *(other[0] for other in others if other is not None)]
    if first[1] == trunk.cells and strides == (1, 1) and draw(st.booleans()):
        made.append(trunk.last)
    trunk.last, trunk.cells = made[0], first[1]
    if len(made) > 1 and trunk.channels <= 2 and draw(st.booleans()):
        trunk.last = trunk.emit("Concat <axis = 1>", *made)
        trunk.channels *= len(made)
        return
    for other in made[1:]:
        trunk.last = trunk.emit(draw(st.sampled_from(["Add", "Mul", "Max"])), trunk.last, other)


def pointwise(draw: Draw, trunk: Trunk) -> None:
    """An op that moves nothing."""
    trunk.last = trunk.emit(draw(st.sampled_from(["Relu", "Tanh", "LRN <size = 3>"])), trunk.last)


def bordered(draw: Draw, trunk: Trunk) -> None:
    """A Pad of a constant that is not 0, or of what lies at the border."""
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    mode = draw(st.sampled_from(["constant", "edge"]))
    sizes = trunk.constant("int64[8]", f"0, 0, {pads[0]}, {pads[1]}, 0, 0, {pads[2]}, {pads[3]}")
    value = trunk.constant("float", "0.5")
    trunk.last = trunk.emit(f'Pad <mode = "{mode}">', trunk.last, sizes, value)
    trunk.cells = (trunk.cells[0] + pads[0] + pads[2], trunk.cells[1] + pads[1] + pads[3])


@st.composite
def networks(draw: Draw) -> onnx.ModelProto:
    """A classifier of one to six such steps over a small window, its last map an output too at times."""
    window = (draw(st.integers(*WINDOWS)), draw(st.integers(*WINDOWS)))
    trunk = Trunk(window, cells=window)
    for _ in range(draw(st.integers(1, 6))):
        step = draw(st.sampled_from([layer, layer, layer, layer, pointwise, bordered]))
        before = (trunk.last, trunk.channels, trunk.cells, len(trunk.lines), len(trunk.weights))
        step(draw, trunk)
        if max(trunk.cells) < 2:  # the trunk would end here
            trunk.last, trunk.channels, trunk.cells = before[:3]
            del trunk.lines[before[3] :], trunk.weights[before[4] :]
    trunk.lines.append(f"map = Tanh ({trunk.last})")
    features = trunk.channels * trunk.cells[0] * trunk.cells[1]
    trunk.lines.append("folded = Flatten (map)")
    trunk.lines.append(f"scores = MatMul (folded, {trunk.weight(features, 3)})")
    text = trunk.text("scores")
    if draw(st.integers(0, 3)) == 0:
        text = text.replace("scores)\n", f"scores, float[1,{trunk.channels},h,w] map)\n", 1)
    return nets.parse(text)
