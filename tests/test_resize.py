"""Resize and Upsample: what they read in every mode; scales, and sizes in their place."""

from __future__ import annotations

from fractions import Fraction

import law
import numpy as np
import onnx
import pytest
from done import convert
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from reads import assert_reads, weights_of
from trunks import floats, ints, net, resize

import surgery
from surgery.ops.resize import in_float, stretch

DOWN = "c = Conv <strides = [2, 2]> (image, w1) "  # [1, 4, 8, 11]
WEIGHTS = "float[4,2,3,3] w1"
SECOND = "float[4,4,3,3] w2"
EVEN = "float[1,2,16,22] image"
NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}

# ------------------------------------------------ what is read


SCALES = [Fraction(n) for n in ("2", "3", "4", "1/2", "1/3", "1/4", "3/2", "5/2", "2/3", "3/4", "8/5")]
COORDINATES = ("asymmetric", "half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@given(
    st.sampled_from(SCALES),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(COORDINATES),
    st.sampled_from(ROUNDINGS),
    st.booleans(),
    st.integers(2, 4),
)
def test_resize_reads_what_it_says(
    scale: Fraction, mode: str, coordinates: str, rounding: str, antialias: bool, times: int
) -> None:
    if coordinates == "half_pixel_symmetric" and scale.denominator > 1:
        coordinates = "half_pixel"  # the one is the other but for lengths that the scale does not divide
    antialias = antialias and mode != "nearest"
    way = (mode, coordinates, rounding, antialias)
    given_scale = in_float(scale, way)
    if given_scale is None:
        assert scale.denominator not in (1, 2, 4)  # what float32 holds is kept
        return
    words = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], antialias=int(antialias), **words)
    scales = np.array([1, 1, given_scale, 1], np.float32)
    cells = scale.denominator * times + 3 * scale.denominator  # whole periods, more than any kernel
    assert_reads(stretch(scale, way), cells, lambda n: weights_of(node, n, {"scales": scales}, 19))


@pytest.mark.parametrize(
    ("op", "opset", "mode", "scale"),
    [
        *(("Upsample", 9, mode, Fraction(n)) for mode in ("nearest", "linear") for n in (2, 3)),
        *(("Resize", 10, "nearest", Fraction(n)) for n in ("2", "3", "1/2", "1/3")),
    ],
)
def test_older_resizes_read_what_they_say(op: str, opset: int, mode: str, scale: Fraction) -> None:
    node = helper.make_node(op, ["x", "scales"], ["y"], mode=mode)
    scales = {"scales": np.array([1, 1, scale, 1], np.float32)}
    cells = 6 * scale.denominator
    way = stretch(scale, (mode, "asymmetric", "simple", False))
    assert_reads(way, cells, lambda n: weights_of(node, n, scales, opset))


def test_a_scale_that_float32_does_not_keep_is_told() -> None:
    nearest = ("nearest", "asymmetric", "floor", False)
    assert in_float(Fraction(3, 5), nearest, np.float32(0.6)) is None
    assert in_float(Fraction(3, 4), nearest) == np.float32(0.75)


# ------------------------------------------------ sizes in the place of scales

SHAPE_TWICE = "sh = Shape (c) " + ints("two", 1, 1, 2, 2) + "s = Mul (sh, two) "
HALVES = (
    "sh = Shape (c) "
    + ints("i0", 0)
    + ints("i2", 2)
    + ints("i4", 4)
    + ints("n2", 2)
    + "nc = Slice (sh, i0, i2) "
    "hw = Slice (sh, i2, i4) hw2 = Mul (hw, n2) s = Concat <axis = 0> (nc, hw2) "
)
OF_ANOTHER = (
    "s0 = Shape (a) "
    + ints("i0", 0)
    + ints("i2", 2)
    + ints("i4", 4)
    + ("s1 = Shape (b) nc = Slice (s1, i0, i2) hw = Slice (s0, i2, i4) s = Concat <axis = 0> (nc, hw) ")
)
SIZED = (
    'u = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (c, , , s) '
    "map = Conv (u, w2)"
)


@pytest.mark.parametrize("computed", [SHAPE_TWICE, HALVES], ids=["Shape times 2", "Slice, Mul, Concat"])
def test_a_size_computed_from_the_shape_is_a_scale(computed: str) -> None:
    weights = f"{WEIGHTS}, {SECOND}"
    scaled = f"{DOWN} {resize('u', 'c', [1, 1, 2, 2], 'linear', coordinate_transformation_mode='half_pixel')}"
    done = convert(net(f"{DOWN} {computed} {SIZED}", weights, 4))
    assert done.result.verdict == "padded"
    law.assert_equals_windows(
        net(f"{scaled} map = Conv (u, w2)", weights, 4), done.proto, (22, 27), {"map": 2}
    )


def test_a_size_taken_from_another_map_is_a_scale() -> None:
    text = (
        "a = Conv (image, w1) b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a) {} map = Add (u, a)"
    )
    sized = (
        OF_ANOTHER
        + 'u = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (b, , , s)'
    )
    done = convert(net(text.format(sized), WEIGHTS, 4, image=EVEN))
    assert (done.result.verdict, done.geometry.stride, done.geometry.step) == ("exact", (2, 2), (2, 2))
    law.assert_equals_crops(done.model, done.proto, (20, 24), (2, 2))


def fixed(height: int, width: int, computed: bool = False) -> onnx.ModelProto:
    sizes = ints("s", 1, 4, height, width)
    if computed:
        sizes = ints("hw", height, width) + ints("i0", 0) + ints("i2", 2)
        sizes += "sh = Shape (c) nc = Slice (sh, i0, i2) s = Concat <axis = 0> (nc, hw) "
    return net(f"{DOWN} {sizes} {SIZED}", f"{WEIGHTS}, {SECOND}", 4)


@pytest.mark.parametrize("computed", [False, True])
def test_a_fixed_size_is_global(computed: bool) -> None:
    model = fixed(16, 22, computed)
    with pytest.raises(
        surgery.Refused, match=r"Resize 'u': it resizes to \[16, 22\], whatever the size of the image"
    ):
        surgery.convert(model)
    done = convert(model, allow_global=True)
    assert done.result.verdict == "global"
    assert (
        done.geometry.grid((21, 27))
        == law.run(done.proto, law.random_image(model, (21, 27)))["scores"].shape[2:]
    )


def test_a_fixed_size_that_changes_nothing_is_no_resize() -> None:
    done = convert(fixed(8, 11))
    assert done.result.verdict == "exact"
    law.assert_equals_crops(done.model, done.proto, (22, 27), (2, 2))


REFUSED = {
    "align_corners": (
        resize("u", "c", [1, 1, 2, 2], "linear", coordinate_transformation_mode="align_corners"),
        r"verdict global: Resize 'u': with coordinate_transformation_mode align_corners what",
    ),
    "symmetric, and no whole scale": (
        resize("u", "c", [1, 1, 1.5, 2], "linear", 19, coordinate_transformation_mode="half_pixel_symmetric"),
        r"verdict global: Resize 'u': with coordinate_transformation_mode half_pixel_symmetric",
    ),
    "a region of interest": (
        floats("roi", 0, 0, 0, 0, 1, 1, 1, 1)
        + floats("sc", 1, 1, 2, 2)
        + 'u = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (c, roi, sc) ',
        r"cannot lift Resize 'u' -> 'u': it reads a region of interest, given as a share of the whole image",
    ),
    "a scale of no float": (
        resize("u", "c", [1, 1, 0.6, 2], **NEAREST),
        r"cannot lift Resize 'u' -> 'u': float32 does not keep its scale 0.6, so what it reads varies",
    ),
    "channels": (
        resize("u", "c", [1, 2, 2, 2])
        + ints("i0", 0)
        + ints("i4", 4)
        + ints("i1", 1)
        + "u = Slice (u0, i0, i4, i1) ",
        r"cannot lift Resize 'u0' -> 'u0': it resizes channels, or the batch",
    ),
}


@pytest.mark.parametrize(("lines", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(lines: str, says: str) -> None:
    if "channels" in says:
        lines = lines.replace("u = Resize", "u0 = Resize")
    opset = 19 if "symmetric" in says else 17
    model = net(f"{DOWN} {lines} map = Conv (u, w2)", f"{WEIGHTS}, {SECOND}", 4, opset=opset)
    with pytest.raises(surgery.Refused, match=says) as caught:
        surgery.convert(model)
    assert (caught.value.op, bool(caught.value.why)) == ("Resize", True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["align_corners", "half_pixel_symmetric"])
def test_what_depends_on_the_size_is_measured_when_allowed(mode: str) -> None:
    scales = [1, 1, 1.5, 2] if mode == "half_pixel_symmetric" else [1, 1, 2, 2]
    lines = resize("u", "c", scales, "linear", 19, coordinate_transformation_mode=mode)
    model = net(f"{DOWN} {lines} map = Conv (u, w2)", f"{WEIGHTS}, {SECOND}", 4, opset=19)
    done = convert(model, allow_global=True)
    crops = [c for c in done.proof.checks if c.name == "crops"]
    assert crops
    assert not any(c.required for c in crops)
    assert all(c.max_error is not None and c.max_error > 1e-4 for c in crops)
