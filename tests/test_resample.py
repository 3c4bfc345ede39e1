"""More cells or fewer: ConvTranspose, DepthToSpace, SpaceToDepth, upsamplings, and chains that are these."""

from __future__ import annotations

import re

import law
import numpy as np
import onnx
import pytest
from done import Done, convert
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from reads import assert_reads, weights_of
from trunks import FLAT, floats, ints, net, resize

import surgery
from surgery.field import Slide
from surgery.ops.resample import kernels


@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_transposed_reads_what_it_says(k: int, s: int, d: int, before: int, after: int, more: int) -> None:
    extent = (k - 1) * d + 1
    before, after, more = min(before, extent - 1), min(after, extent - 1), min(more, s - 1)
    node = helper.make_node(
        "ConvTranspose",
        ["x", "w"],
        ["y"],
        strides=[s, 1],
        dilations=[d, 1],
        pads=[before, 0, after, 0],
        output_padding=[more, 0],
    )
    constants = {"w": np.arange(1, k + 1, dtype=np.float32).reshape(1, 1, k, 1)}
    cells = 6 + 2 * extent
    way = kernels(Slide(k, s, d, before, after), cells, (cells - 1) * s + extent + more - before - after)
    assert_reads(way, cells, lambda n: weights_of(node, n, constants, 11))


# ------------------------------------------------ conversions

DOWN = "c = Conv <strides = [2, 2]> (image, w1) "  # [1, 4, 8, 11]
WEIGHTS = "float[4,2,3,3] w1"
SECOND = "float[4,4,3,3] w2"
S2D = ints("r", 1, 2, 8, 2, 11, 2) + ints("q", 1, 8, 8, 11)
D2S = ints("r", 1, 2, 2, 2, 8, 11) + ints("q", 1, 2, 16, 22)
EVEN = "float[1,2,16,22] image"
NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}

CASES: dict[str, tuple[onnx.ModelProto, str, tuple[int, int]]] = {
    "transposed": (
        net(
            DOWN
            + "d = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 0]> (c, w2) "
            "map = Relu (d)",
            f"{WEIGHTS}, float[4,3,3,3] w2",
            3,
        ),
        "padded",
        (2, 2),
    ),
    "transposed, kernel of its stride": (
        net(
            DOWN + "d = ConvTranspose <strides = [2, 3]> (c, w2) map = Relu (d)",
            f"{WEIGHTS}, float[4,3,2,3] w2",
            3,
        ),
        "exact",
        (2, 2),
    ),
    "transposed in groups, dilated": (
        net(
            DOWN + "map = ConvTranspose <strides = [3, 2], dilations = [2, 1], group = 2> (c, w2)",
            f"{WEIGHTS}, float[4,3,2,2] w2",
            6,
        ),
        "exact",
        (2, 2),
    ),
    "depth to space": (
        net(
            DOWN + "d = DepthToSpace <blocksize = 2> (c) map = Conv (d, w2)",
            "float[8,2,3,3] w1, float[4,2,3,3] w2",
            4,
        ),
        "exact",
        (2, 2),
    ),
    "depth to space, columns first": (
        net(
            DOWN + 'd = DepthToSpace <blocksize = 2, mode = "CRD"> (c) map = Conv (d, w2)',
            "float[8,2,3,3] w1, float[4,2,3,3] w2",
            4,
        ),
        "exact",
        (2, 2),
    ),
    "depth to space as a chain": (
        net(
            f"{DOWN} {D2S} a = Reshape (c, r) b = Transpose <perm = [0, 1, 4, 2, 5, 3]> (a) "
            "s = Reshape (b, q) map = Conv (s, w2)",
            "float[8,2,3,3] w1, float[4,2,3,3] w2",
            4,
        ),
        "exact",
        (2, 2),
    ),
    "space to depth": (
        net(
            "s = SpaceToDepth <blocksize = 2> (image) map = Conv (s, w1)", "float[4,8,3,3] w1", 4, image=EVEN
        ),
        "exact",
        (2, 2),
    ),
    "space to depth as a chain": (
        net(
            f"{S2D} a = Reshape (image, r) b = Transpose <perm = [0, 1, 3, 5, 2, 4]> (a) s = Reshape (b, q) "
            "map = Conv (s, w1)",
            "float[4,8,3,3] w1",
            4,
            image=EVEN,
        ),
        "exact",
        (2, 2),
    ),
    "space to depth last, for the head alone": (
        net(
            f"c = Conv (image, w1) {ints('r', 1, 4, 7, 2, 10, 2)} {ints('q', 1, 16, 7, 10)} "
            "a = Reshape (c, r) b = Transpose <perm = [0, 1, 3, 5, 2, 4]> (a) map = Reshape (b, q)",
            WEIGHTS,
            16,
            image=EVEN,
        ),
        "exact",
        (1, 1),
    ),
    "a pool as a chain": (
        net(
            f"{DOWN} {ints('r', 1, 4, 4, 2, 11)} a = Reshape (c, r) p = ReduceMean[3] <keepdims = 0> (a) "
            "map = Conv (p, w44)",
            f"{WEIGHTS}, float[4,4,1,1] w44",
            4,
        ),
        "exact",
        (4, 2),
    ),
    "cells taken apart and put together": (
        net(
            f"{DOWN} {ints('r', 1, 4, 8, 11)} {ints('q', 1, 4, 4, 2, 11)} a = Reshape (c, q) "
            "s = Reshape (a, r) map = Conv (s, w2)",
            f"{WEIGHTS}, {SECOND}",
            4,
        ),
        "exact",
        (4, 2),
    ),
    "nearest": (
        net(
            f"{DOWN} {resize('u', 'c', [1, 1, 2, 3], **NEAREST)} map = Conv (u, w2)",
            f"{WEIGHTS}, {SECOND}",
            4,
        ),
        "exact",
        (2, 2),
    ),
    "upsampled by an old op": (
        net(
            f"{DOWN} {resize('u', 'c', [1, 1, 2, 2], 'linear', opset=9)} map = Conv (u, w2)",
            f"{WEIGHTS}, {SECOND}",
            4,
            opset=9,
        ),
        "padded",
        (2, 2),
    ),
    "two thirds of the pixels": (
        net(
            f"c = Conv <strides = [3, 3]> (image, w1) {resize('map', 'c', [1, 1, 2, 2], **NEAREST)}",
            WEIGHTS,
            4,
        ),
        "exact",
        (3, 3),
    ),
    "half the pixels, linear": (
        net(
            resize("u", "image", [1, 1, 0.5, 0.5], "linear", coordinate_transformation_mode="half_pixel")
            + "map = Conv (u, w1)",
            WEIGHTS,
            4,
            image=EVEN,
        ),
        "exact",
        (2, 2),
    ),
    "cubic": (
        net(
            f"{DOWN} {resize('u', 'c', [1, 1, 2, 2], 'cubic')} map = Conv (u, w2)", f"{WEIGHTS}, {SECOND}", 4
        ),
        "padded",
        (2, 2),
    ),
    "a pyramid": (
        net(
            "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (image, w1) "
            "b = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (a, w2) "
            f"{resize('u', 'b', [1, 1, 2, 2], **NEAREST)} map = Add (u, a)",
            f"{WEIGHTS}, {SECOND}",
            4,
            image="float[1,2,16,24] image",
        ),
        "padded",
        (4, 4),
    ),
    "a U-Net before a flat head": (
        net(
            "a = Conv (image, w1) b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a) "
            "e = Conv (b, w11) u = ConvTranspose <strides = [2, 2]> (e, w22) map = Concat <axis = 1> (u, a)",
            f"{WEIGHTS}, float[6,4,1,1] w11, float[6,4,2,2] w22",
            8 * 14 * 20,
            image=EVEN,
            head=FLAT,
        ),
        "exact",
        (2, 2),
    ),
}


@pytest.mark.parametrize(("model", "verdict", "stride"), CASES.values(), ids=CASES.keys())
def test_converted(model: onnx.ModelProto, verdict: str, stride: tuple[int, int]) -> None:
    done = convert(model)
    assert (done.result.verdict, done.geometry.stride) == (verdict, stride)
    assert done.proof.passed
    for more in ((2, 1), (0, 3)):
        size = tuple(
            w + m * s for w, m, s in zip(done.geometry.window, more, done.geometry.stride, strict=True)
        )
        if verdict == "exact":
            assert law.assert_equals_crops(model, done.proto, size, stride) == np.prod(
                done.geometry.grid(size)
            )
        else:
            law.assert_equals_windows(model, done.proto, size, {"map": cells_apart(done, model)})


def cells_apart(done: Done, model: onnx.ModelProto) -> int:
    """Cells of the map from window to window, seen by how much a window more makes it grow."""
    size = [w + s for w, s in zip(done.geometry.window, done.geometry.stride, strict=True)]
    lengths = [
        law.run(law.trunk_of(model, ["map"]), law.random_image(model, n))["map"].shape[2]
        for n in (size, done.geometry.window)
    ]
    return lengths[0] - lengths[1]


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad_of_a_transposed_means_the_pads_of_the_window(mode: str) -> None:
    """Written out by hand from the formulas of the ONNX documentation."""
    pads = {"SAME_UPPER": [0, 0, 1, 1], "SAME_LOWER": [1, 1, 0, 0], "VALID": [0, 0, 0, 0]}[mode]
    text = DOWN + "d = ConvTranspose <strides = [2, 2], {}> (c, w2) map = Relu (d)"
    weights = f"{WEIGHTS}, float[4,3,3,3] w2"
    automatic = net(text.format(f'auto_pad = "{mode}"'), weights, 3)
    written = net(text.format(f"pads = {pads}"), weights, 3)
    done = convert(automatic)
    law.assert_equals_windows(written, done.proto, (21, 27), {"map": 2})


@pytest.mark.parametrize(
    ("shape", "pads"), [([17, 23], [0, 0, 0, 0]), ([16, 21], [1, 1, 0, 1]), ([15, 22], [1, 1, 1, 0])]
)
def test_an_output_shape_means_the_pads_of_the_window(shape: list[int], pads: list[int]) -> None:
    text = DOWN + "d = ConvTranspose <strides = [2, 2], {}> (c, w2) map = Relu (d)"
    weights = f"{WEIGHTS}, float[4,3,3,3] w2"
    done = convert(net(text.format(f"output_shape = {shape}"), weights, 3))
    law.assert_equals_windows(
        net(text.format(f"pads = {pads}"), weights, 3), done.proto, (21, 27), {"map": 2}
    )


OUTSIDE = {
    "MaxUnpool": (
        "p, i = MaxPool <kernel_shape = [2, 1], strides = [2, 1]> (c) "
        "map = MaxUnpool <kernel_shape = [2, 1], strides = [2, 1]> (p, i)",
        "MaxPool|MaxUnpool",
    ),
    "GridSample": (
        f"{floats('g0', *[0.1] * 84)} {ints('gs', 1, 6, 7, 2)} g = Reshape (g0, gs) map = GridSample (c, g)",
        "GridSample",
    ),
    "DeformConv": ("map = DeformConv <kernel_shape = [1, 1]> (c, wd, off)", "DeformConv"),
}


@pytest.mark.parametrize(("lines", "op"), OUTSIDE.values(), ids=OUTSIDE.keys())
def test_ops_that_read_elsewhere_are_refused(lines: str, op: str) -> None:
    opset = 19 if op == "DeformConv" else 17
    weights = f"{WEIGHTS}, float[4,4,1,1] wd, float[1,2,8,11] off" if op == "DeformConv" else WEIGHTS
    with pytest.raises(surgery.Refused) as caught:
        surgery.convert(net(DOWN + lines, weights, 4, opset=opset))
    assert re.fullmatch(op, caught.value.op)


@pytest.mark.parametrize("stride", [1, 2, 4, (2, 4)])
def test_strides_over_an_upsampling(stride: int | tuple[int, int]) -> None:
    """Windows may lie on every cell that the net has, and on none between."""
    model = CASES["nearest"][0]
    if stride == 1:
        with pytest.raises(
            surgery.Refused, match=r"--stride: Resize 'u': it makes cells that lie 1 pixels apart"
        ):
            surgery.convert(model, stride=1)
        return
    sides = (stride, stride) if isinstance(stride, int) else stride
    done = convert(model, stride=stride)
    assert done.geometry.stride == sides
    law.assert_equals_crops(model, done.proto, (25, 31), sides)


def test_a_deeper_map_among_the_outputs_widens_the_stride() -> None:
    """Windows must lie on whole cells of every map that is an output, or it could not be compared."""
    model = net(
        "map = Conv <strides = [2, 2]> (image, w1) "
        "deep = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (map)",
        WEIGHTS,
        4,
        out="float[1,4,4,5] deep",
    )
    done = convert(model)
    assert done.geometry.stride == (4, 4)
    assert done.proof.passed


def test_nothing_is_lifted_that_makes_cells() -> None:
    lines = (
        DOWN + "p = GlobalAveragePool (c) u = DepthToSpace <blocksize = 2> (p) f = Flatten (u) "
        "scores = Gemm (f, wh)"
    )
    model = net(lines, f"{WEIGHTS}, float[4,5] wh", 0, head="")
    with pytest.raises(
        surgery.Refused, match=r"cannot lift DepthToSpace 'u' .*it makes more cells, or fewer"
    ):
        surgery.convert(model)
