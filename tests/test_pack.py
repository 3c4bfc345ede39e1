"""Trunk tensors that leave the form of a map and come back: rows of positions, other dims, moved cells."""

from __future__ import annotations

from math import prod

import law
import numpy as np
import onnx
import pytest
from done import convert
from hypothesis import assume, given
from hypothesis import strategies as st
from trunks import ints, named, net

import surgery
from surgery.field import Axis
from surgery.packed import CELLS, Packed, regroup, settle
from surgery.rules import Map

DOWN = "c = Conv <strides = [2, 2]> (image, w1) "  # [1, 4, 8, 11]
DECLARED = (
    "float[4,2,3,3] w1, float[4,4,3,3] w3, float[4,4,1,1] w44, float[4,8,3,3] w83, float[4,2,3,3] w23, "
    "float[4,1,3,3] w13, float[4] n4, float[4] o4, float[88,4] n88, float[4,4] square, float[1,88,1] slope, "
    "int64[3] row = {1, 4, 88}, int64[4] grid = {1, 4, 8, 11}, int64[4] grid8 = {1, 8, 8, 11}, "
    "int64[4] grid2 = {1, 2, 8, 11}, int64[4] grid1 = {1, 1, 8, 11}, int64[1] last = {3}, "
    "int64[1] none = {0}, int64[1] two = {2}, int64[1] channels = {2}, int64[2] some = {3, 1}, "
    "float scale = {0.05}, int8 zero = {0}, float[4] scales = {0.05, 0.1, 0.2, 0.05}, "
    "int8[4] zeros = {0, 0, 0, 0}, int64[2] halves = {2, 2}, float[1] one = {1.5}, "
    "float[4] v4 = {0.5, 1.5, 1.0, 0.7}, int64[1] k44 = {44}, int64[1] k1 = {1}, "
    "int64[3] tokens = {1, 88, 4}, int64[3] times = {1, 1, 4}, int64[6] beside = {0, 0, 0, 0, 0, 1}, "
    "int64[1] k4 = {4}"
)
ROWS = "r = Reshape (c, row) t = Transpose <perm = [0, 2, 1]> (r)"  # [1, 88, 4]
BACK = "u = Transpose <perm = [0, 2, 1]> (x) s = Reshape (u, {}) map = Conv (s, {})"


def model_of(lines: str, grid: str = "grid", weight: str = "w3") -> onnx.ModelProto:
    """A net of lines that make `x` of the rows of positions `t`, and a Conv over their map."""
    text = f"{DOWN} {ROWS} {lines} {BACK.format(grid, weight)}"
    return net(text, named(text, DECLARED), 4)


KEEPING: dict[str, tuple[str, ...]] = {  # what keeps the positions of rows apart: exact
    "a norm of channels": ("x = LayerNormalization <axis = -1> (t, n4, o4)",),
    "a length of channels": ("x = LpNormalization <axis = 2> (t)",),
    "a norm by channel": ("y = BatchNormalization (r, n4, o4, o4, v4) x = Transpose <perm = [0, 2, 1]> (y)",),
    "a softmax of channels": ("x = Softmax <axis = 2> (t)",),
    "halves the other way round": ("a, b = Split <axis = 2> (t, halves) x = Concat <axis = 2> (b, a)",),
    "some channels": ("x = Gather <axis = 2> (t, some)", "grid2", "w23"),
    "a part of the channels": ("x = Slice (t, none, two, channels)", "grid2", "w23"),
    "the largest of channels": ("x = ReduceMax[2] <keepdims = 1> (t)", "grid1", "w13"),
    "channels twice": ("x = Concat <axis = 2> (t, t)", "grid8", "w83"),
    "a product from the left": ("y = MatMul (square, r) x = Transpose <perm = [0, 2, 1]> (y)",),
    "in eight bits": ("q = QuantizeLinear (t, scale, zero) x = DequantizeLinear (q, scale, zero)",),
    "a clip, and what is left out in training": ("d = Dropout (t) x = Clip (d, scale)",),
    "rows with themselves": ("y = Tanh (t) x = Mul (t, y)",),
    "unit vectors": ("n = ReduceL2[2] <keepdims = 1> (t) e = Expand (n, tokens) x = Div (t, e)",),
    "the largest repeated": ("n = ReduceMax[2] <keepdims = 1> (t) x = Tile (n, times)",),
    "a feature put beside and taken away": ("p = Pad (t, beside) x = Slice (p, none, k4, channels)",),
    "a dim of 1 put in and taken out": ("y = Unsqueeze[2] (t) z = Relu (y) x = Squeeze[2] (z)",),
}


@pytest.mark.parametrize("case", KEEPING.values(), ids=KEEPING.keys())
def test_what_keeps_positions_apart_is_exact(case: tuple[str, ...]) -> None:
    model = model_of(*case)
    done = convert(model, pure_conv=True)
    assert (done.result.verdict, done.geometry.stride) == ("exact", (2, 2))
    law.assert_equals_crops(model, done.proto, (21, 27), (2, 2))


MIXING = {
    "a softmax of positions": (
        "x = Softmax <axis = 1> (t)",
        "Softmax 'x': it normalises over all positions",
    ),
    "a norm of rows": (
        "y = LayerNormalization <axis = 2> (r, one) x = Transpose <perm = [0, 2, 1]> (y)",
        "LayerNormalization 'y': it takes its statistics from the whole image",
    ),
}


@pytest.mark.parametrize(("lines", "says"), MIXING.values(), ids=MIXING.keys())
def test_what_mixes_positions_is_global(lines: str, says: str) -> None:
    with pytest.raises(surgery.Refused, match=f"verdict global: {says}"):
        surgery.convert(model_of(lines))
    assert convert(model_of(lines), allow_global=True).result.verdict == "global"


ENDING = {  # what is the head's from there on: a Conv behind it has no map
    "a slope for each position": (
        "x = Mul (t, slope)",
        r"Mul 'x': a constant of shape \[1, 88, 1\] differs from position to position",
    ),
    "a scale for each position": (
        "x = LayerNormalization <axis = 1> (t, n88)",
        r"LayerNormalization 'x': a constant of shape \[88, 4\] differs",
    ),
    "a scale for each channel": (
        """q = QuantizeLinear <axis = 2> (t, scales, zeros)
           x = DequantizeLinear <axis = 2> (q, scales, zeros)""",
        r"QuantizeLinear 'q': its scale differs along a dim that holds several things",
    ),
    "a part of the rows": ("y = Slice (t, none, k44, k1) x = Concat <axis = 1> (y, y)", "cannot lift"),
    "rows of two grids": (
        "p = AveragePool <kernel_shape = [1, 1], strides = [1, 1]> (image) e = Cut[0, 0, 8, 11] (p) "
        "v = Concat <axis = 1> (e, e) w = Reshape (v, row) y = Transpose <perm = [0, 2, 1]> (w) "
        "x = Add (t, y)",
        r"Add 'x': its inputs do not lie on one grid: cells 2 pixels apart meet cells 1 pixels apart",
    ),
}


@pytest.mark.parametrize(("lines", "says"), ENDING.values(), ids=ENDING.keys())
def test_what_ends_the_trunk_is_named(lines: str, says: str) -> None:
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model_of(lines), pure_conv=True)


# ------------------------------------------------ random orders and groupings


@st.composite
def structures(draw: st.DrawFn) -> tuple[list[str], str, tuple[int, ...]]:
    """Lines of Transposes and Reshapes from `c` [1, 4, 8, 11] on, with the last tensor and its shape."""
    shape: tuple[int, ...] = (1, 4, 8, 11)
    lines, last = [], "c"
    for n in range(draw(st.integers(1, 5))):
        out = f"x{n}"
        kind = draw(st.sampled_from(["transpose", "merge", "split"]))
        if kind == "transpose":
            perm = [0, *draw(st.permutations(range(1, len(shape))))]
            lines.append(f"{out} = Transpose <perm = {perm}> ({last}) ")
            shape = tuple(shape[p] for p in perm)
        else:
            at = draw(st.integers(1, len(shape) - 1))
            if kind == "merge":
                at = min(at, len(shape) - 2)
                if at < 1:
                    continue
                shape = (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
            else:
                first = draw(st.sampled_from([d for d in range(1, shape[at] + 1) if shape[at] % d == 0]))
                shape = (*shape[:at], first, shape[at] // first, *shape[at + 1 :])
            lines.append(f"{ints(f'{out}_d', *shape)}{out} = Reshape ({last}, {out}_d) ")
        last = out
    return lines, last, shape


@given(structures())
def test_any_order_and_grouping_of_a_map_is_exact(found: tuple[list[str], str, tuple[int, ...]]) -> None:
    """Transposes and Reshapes alone never mix: the answers are those of every crop, whatever they mean."""
    lines, last, shape = found
    assume(lines)
    text = f"{DOWN} {''.join(lines)} m = Relu ({last}) f = Flatten (m) scores = Gemm <transB = 1> (f, wh, bh)"
    weights = f"float[4,2,3,3] w1, float[5,{prod(shape)}] wh, float[5] bh"
    model = net(text, weights, 0, head="")
    done = convert(model)
    assert done.result.verdict == "exact"
    size = tuple(w + s for w, s in zip(done.geometry.window, done.geometry.stride, strict=True))
    law.assert_equals_crops(model, done.proto, size, done.geometry.stride)


@given(
    st.permutations([2, 4, 3]), st.sampled_from([(2, 12), (24,), (8, 3), (4, 6), (3, 8), (2, 3, 4), (6, 4)])
)
def test_regroup_keeps_the_order_of_values(sides: list[int], shape: tuple[int, ...]) -> None:
    """What the dims hold, multiplied out in row-major order, is the tensor's own order."""
    axes = (Axis.image(sides[1], 4), Axis.image(sides[2], 4))
    x = Packed.of(Map((1, *sides), (2, 3), axes))
    made = regroup(x, (1, *shape))
    if made is None:
        return
    assert made.shape == (1, *shape)
    flat = [p for dim in made.dims for p in dim]
    assert prod(p.size for p in flat) == prod(sides)
    assert [p.axis for p in flat if p.kind == CELLS] == [0, 1]
    back = regroup(made, (1, *sides))
    again = None if back is None else settle(back)
    if isinstance(again, Map) and not any(
        a.cells != n for a, n in zip(made.geometry, sides[1:], strict=True)
    ):
        assert again.axes == (2, 3)
        assert all(np.array_equal(a.lengths, b.lengths) for a, b in zip(again.geometry, axes, strict=True))


# ------------------------------------------------ attention among cells of one place in patches (MobileViT)


def patched(height: int, width: int) -> onnx.ModelProto:
    """Patches of 2x2 cells; each cell attends to those of its own place in all patches."""
    h, w = height // 2, width // 2
    shapes = {
        "apart": (4 * h, 2, w, 2),
        "listed": (1, 4, h * w, 4),
        "tokens": (4, h * w, 4),
        "again": (4 * h, w, 2, 2),
        "whole": (1, 4, height, width),
    }
    text = "".join(ints(name, *shape) for name, shape in shapes.items())
    text += """c = Conv <pads = [1, 1, 1, 1]> (image, w1) a = Reshape (c, apart)
        b = Transpose <perm = [0, 2, 1, 3]> (a) d = Reshape (b, listed)
        e = Transpose <perm = [0, 3, 2, 1]> (d) t = Reshape (e, tokens) k = Transpose <perm = [0, 2, 1]> (t)
        f = MatMul (t, k) g = Softmax <axis = -1> (f) y = MatMul (g, t) l = Reshape (y, listed)
        z = Transpose <perm = [0, 3, 2, 1]> (l) r = Reshape (z, again) s = Transpose <perm = [0, 2, 1, 3]> (r)
        m = Reshape (s, whole) map = Conv (m, w44)"""
    return net(text, "float[4,2,3,3] w1, float[4,4,1,1] w44", 4, image=f"float[1,2,{height},{width}] image")


def test_patches_that_move_into_the_batch_come_back_at_any_size() -> None:
    done = convert(patched(8, 12), allow_global=True)
    assert (done.result.verdict, done.geometry.step) == ("global", (2, 2))
    larger = patched(14, 16)
    image = law.random_image(larger, (14, 16))
    want, got = (law.run(law.with_outputs(m, ["map"]), image)["map"] for m in (larger, done.proto))
    law.assert_close(got, want, "map")
