"""Pads of every mode, and cuts: in a larger image only its own border has them."""

from __future__ import annotations

from collections.abc import Sequence

import heads
import law
import numpy as np
import onnx
import pytest
from done import convert
from hypothesis import given
from hypothesis import strategies as st
from trunks import OPSETS, cut, ints, net, pad

import surgery
from surgery.analysis import analyse

DOWN = "c = Conv <strides = [2, 2]> (image, w1) "  # [1, 4, 8, 11]
WEIGHTS = "float[4,2,3,3] w1"
SECOND = "float[4,4,3,3] w2"
MODES = [(m, o) for o in OPSETS for m in ("constant", "reflect", "edge")] + [("wrap", 21)]
UNEVEN = [0, 0, 1, 2, 0, 0, 3, 1]

# ------------------------------------------------ Pad


@pytest.mark.parametrize(("mode", "opset"), MODES)
def test_pad_makes_a_margin(mode: str, opset: int) -> None:
    model = net(DOWN + pad("map", "c", UNEVEN, mode, opset=opset), WEIGHTS, 4, opset=opset)
    done = convert(model)
    assert (done.result.verdict, done.geometry.margin) == ("padded", ((1, 3), (2, 1)))
    assert done.geometry.field_start == (-2, -4)
    assert [r.op for r in done.result.reasons] == ["Pad"]
    assert law.assert_equals_windows(model, done.proto, (22, 27), {"map": 1}) == 9


@given(st.lists(st.integers(-3, 3), min_size=4, max_size=4), st.sampled_from(["constant", "reflect", "edge"]))
def test_margin_is_what_is_added_and_cuts_are_exact(sides: list[int], mode: str) -> None:
    top, left, bottom, right = sides
    value = 7.5 if mode == "constant" else 0.0
    lines = pad("map", "c", [0, 0, top, left, 0, 0, bottom, right], mode, value)
    model = net(DOWN + lines, WEIGHTS, 4)
    done = convert(model)
    margin = tuple((max(a, 0), max(b, 0)) for a, b in ((top, bottom), (left, right)))
    assert done.geometry.margin == margin
    assert done.result.verdict == ("exact" if max(map(max, margin)) == 0 else "padded")
    assert done.geometry.field_start == (-2 * top, -2 * left)
    if done.result.verdict == "exact":
        law.assert_equals_crops(model, done.proto, (21, 25), (2, 2))
    else:
        law.assert_equals_windows(model, done.proto, (21, 25), {"map": 1})


def test_a_pool_behind_a_pad_that_pads_with_the_lowest() -> None:
    """What frameworks write for a padded MaxPool; its cells are those of the pool with pads of its own."""
    lowest = float(np.finfo(np.float32).min)
    lines = pad("p", "c", [0, 0, 1, 1, 0, 0, 1, 1], value=lowest)
    apart = net(f"{DOWN} {lines} map = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (p)", WEIGHTS, 4)
    inside = "map = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (c)"
    together = net(DOWN + inside, WEIGHTS, 4)
    done, twin = convert(apart), convert(together)
    assert done.geometry == twin.geometry
    image = law.random_image(apart, (26, 31))
    law.assert_close(law.run(done.proto, image)["scores"], law.run(twin.proto, image)["scores"], "twins")


def test_axes_name_what_is_padded() -> None:
    lines = ints("p", 1, -2, 2, 1) + ints("x", -1, 2)
    model = net(f"{DOWN} {lines} map = Pad (c, p, , x)", WEIGHTS, 4, opset=18)
    done = convert(model)
    assert done.geometry.margin == ((0, 1), (1, 2))
    law.assert_equals_windows(model, done.proto, (21, 27), {"map": 1})


def test_channels_may_be_padded() -> None:
    model = net(DOWN + pad("map", "c", [0, 1, 0, 0, 0, 2, 0, 0], value=1.5), WEIGHTS, 7)
    done = convert(model)
    assert done.result.verdict == "exact"
    law.assert_equals_crops(model, done.proto, (21, 27), (2, 2))


def test_pads_computed_from_the_image_are_the_windows() -> None:
    """TensorFlow's SAME, as exporters of PyTorch write it: max((ceil(n / 2) - 1) * 2 + 3 - n, 0) in all."""
    chain = (
        "sh = Shape (image) "
        + "".join(ints(f"k{n}", n) for n in (0, 1, 2, 3, 4))
        + "n = Slice (sh, k2, k4) up = Add (n, k1) half = Div (up, k2) less = Sub (half, k1) "
        "reach = Mul (less, k2) all = Add (reach, k3) total = Sub (all, n) first = Div (total, k2) "
        "second = Sub (total, first) zeros = Sub (n, n) p = Concat <axis = 0> (zeros, first, zeros, second) "
        "padded = Pad (image, p) map = Conv <strides = [2, 2]> (padded, w1)"
    )
    model = net(chain, WEIGHTS, 4, image="float[1,2,16,23] image")
    done = convert(model)
    assert done.geometry.margin == ((0, 1), (1, 1))
    written = net(
        "map = Conv <strides = [2, 2], pads = [0, 1, 1, 1]> (image, w1)",
        WEIGHTS,
        4,
        image="float[1,2,16,23] image",
    )
    for size in ((16, 23), (21, 28), (19, 26)):
        law.assert_equals_windows(written, done.proto, size, {"map": 1})


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("flat", [False, True])
def test_features_may_be_padded_in_the_head(mode: str, flat: bool) -> None:
    """Behind a global pool, and in a flattened window."""
    opset = 21 if mode == "wrap" else 13
    before = "f = Flatten (map) " if flat else "g = GlobalAveragePool (map) f = Flatten (g) "
    count = 72 if flat else 3
    lines = before + pad("p", "f", [0, 1, 0, 2] if mode != "constant" else [0, -1, 0, 2], mode, 0.5)
    width = count + (3 if mode != "constant" else 1)
    model = heads.net(
        f"{lines} scores = Gemm <transB = 1> (p, w, b)", f"float[5,{width}] w, float[5] b", opset=opset
    )
    heads.assert_lifted(model)


REFUSED = {
    "the batch": (
        pad("p", "c", [1, 0, 0, 0, 0, 0, 0, 0]) + "map = ReduceSum[0] (p)",
        r"cannot lift Pad 'p' -> 'p': it pads the batch",
    ),
    "by the image": (
        ints("p", *UNEVEN) + "v = ReduceMax[1, 2, 3] <keepdims = 0> (c) q = Pad (c, p, v) map = Conv (q, w2)",
        r"cannot lift Pad 'q' -> 'q': .*depends on the image",
    ),
}


@pytest.mark.parametrize(("lines", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(lines: str, says: str) -> None:
    with pytest.raises(surgery.Refused, match=says) as caught:
        surgery.convert(net(DOWN + lines, f"{WEIGHTS}, {SECOND}", 4, opset=13))
    assert caught.value.op == "Pad"


# ------------------------------------------------ Slice along space


@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.lists(st.integers(1, 3), min_size=2, max_size=2),
    st.sampled_from(["counted from the start", "counted from the end", "beyond the end"]),
)
def test_a_cut_is_exact(sides: list[int], steps: list[int], spelled: str) -> None:
    top, left, bottom, right = sides
    cells = (8, 11)
    ends: Sequence[int] = [-bottom or 2**62, -right or 2**62]
    if spelled == "counted from the start":
        ends = [cells[0] - bottom, cells[1] - right]
    if spelled == "beyond the end":
        ends, bottom, right = [100, 2**63 - 1], 0, 0
    model = net(DOWN + cut("map", "c", [top, left - 11], ends, steps), WEIGHTS, 4)
    done = convert(model)
    assert done.result.verdict == "exact"
    assert all(g <= 2 * s for g, s in zip(done.geometry.stride, steps, strict=True))
    law.assert_equals_crops(model, done.proto, (17 + 13, 23 + 14), done.geometry.stride)


@pytest.mark.parametrize("opset", OPSETS)
def test_a_cut_at_every_opset(opset: int) -> None:
    lines = cut("s", "c", [1, 2], [-1, 9], opset=opset) + "map = Conv (s, w2)"
    model = net(DOWN + lines, f"{WEIGHTS}, {SECOND}", 4, opset=opset)
    done = convert(model)
    assert (done.result.verdict, done.geometry.stride) == ("exact", (2, 2))
    law.assert_equals_crops(model, done.proto, (21, 28), (2, 2))


def test_phases_taken_apart_by_slices() -> None:
    """The first layer of some detectors: every second pixel, four times, side by side."""
    starts = [(0, 0), (1, 0), (0, 1), (1, 1)]
    lines = "".join(cut(f"s{n}", "image", s, [2**62, 2**62], [2, 2]) for n, s in enumerate(starts))
    model = net(
        f"{lines} all = Concat <axis = 1> (s0, s1, s2, s3) map = Conv (all, w8)",
        "float[4,8,3,3] w8",
        4,
        image="float[1,2,16,22] image",
    )
    done = convert(model)
    assert (done.result.verdict, done.geometry.stride, done.geometry.step) == ("exact", (2, 2), (2, 2))
    law.assert_equals_crops(model, done.proto, (20, 24), (2, 2))


def test_a_shortcut_that_skips_cells_and_pads_channels() -> None:
    """The parameter-free shortcut of the first residual nets."""
    lines = (
        "a = Conv <pads = [1, 1, 1, 1]> (image, w1) b = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (a, w3) "
        + cut("s", "a", [0, 0], [2**62, 2**62], [2, 2])
        + pad("q", "s", [0, 2, 0, 0, 0, 2, 0, 0])
        + "map = Add (b, q)"
    )
    model = net(lines, f"{WEIGHTS}, float[8,4,3,3] w3", 8)
    done = convert(model)
    assert (done.result.verdict, done.geometry.stride) == ("padded", (2, 2))
    law.assert_equals_windows(model, done.proto, (22, 27), {"map": 1})


def test_a_cut_of_the_window_in_halves_keeps_them() -> None:
    """Halves counted from the shape: the upper one ends where the window's does, not the image's."""
    lines = (
        "sh = Shape (c) "
        + "".join(ints(f"k{n}", n) for n in (0, 2, 3))
        + ints("end", 2**62)
        + "h = Slice (sh, k2, k3) mid = Div (h, k2) up = Slice (c, k0, mid, k2) "
        "low = Slice (c, mid, end, k2) map = Concat <axis = 1> (up, low)"
    )
    model = net(DOWN + lines, WEIGHTS, 8)
    done = convert(model)
    assert done.result.verdict == "exact"
    assert done.geometry.field_start == (0, 0)
    law.assert_equals_crops(model, done.proto, (25, 28), (2, 2))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pads_and_cuts_at_closer_windows(stride: int) -> None:
    lines = cut("s", "c", [1, 0], [-1, 9], [2, 1]) + "map = Conv (s, w21)"
    exact = net(DOWN + lines, f"{WEIGHTS}, float[4,4,2,1] w21", 4)
    done = convert(exact, stride=stride)
    law.assert_equals_crops(exact, done.proto, (22, 27), (stride, stride))
    padded = net(DOWN + pad("p", "c", UNEVEN, "reflect") + "map = Conv (p, w2)", f"{WEIGHTS}, {SECOND}", 4)
    assert convert(padded, stride=stride).proof.passed


def test_fragments_cannot_skip_cells_by_a_slice() -> None:
    model = net(DOWN + cut("map", "c", [0, 0], [99, 99], [2, 1]), WEIGHTS, 4)
    with pytest.raises(
        surgery.Refused, match=r"--stride-form fragments: Slice 'map': it skips cells by its steps"
    ):
        surgery.convert(model, stride=2, stride_form="fragments")


def test_a_flipped_map_is_refused_and_flipped_channels_are_not() -> None:
    flip = "{a} {b} {x} s = Slice (image, a, b, x, a) map = Conv (s, w1)"
    parts = {"a": ints("a", -1), "b": ints("b", -(2**62))}
    channels = net(flip.format(**parts, x=ints("x", 1)), WEIGHTS, 4)
    law.assert_equals_crops(channels, convert(channels).proto, (18, 25), (1, 1))
    rows = net(flip.format(**parts, x=ints("x", 2)), WEIGHTS, 4)
    with pytest.raises(surgery.Refused, match=r"ended at Slice 's': it turns the order of positions around"):
        surgery.convert(rows)


def test_one_position_taken_is_the_head() -> None:
    """A slice of one cell, and a cell picked by index: the answer at that cell of every window."""
    for lines in (
        cut("p", "c", [3, 4], [4, 5]),
        ints("k", 3) + "q = Gather <axis = 2> (c, k) p = ReduceMean[3] (q)",
    ):
        model = net(
            f"{DOWN} {lines} f = Flatten (p) scores = Gemm (f, wg)", f"{WEIGHTS}, float[4,5] wg", 0, head=""
        )
        done = convert(model)
        assert done.result.verdict == "exact"
        law.assert_equals_crops(model, done.proto, (21, 27), (2, 2))


def test_a_cut_moves_the_field() -> None:
    model = net(DOWN + cut("map", "c", [1, 2], [-1, 9]), WEIGHTS, 4)
    analysis, _, _ = analyse(model)
    fields = [a.field.span(a.cells) for a in analysis.trunk.maps["map"].geometry]
    assert [(f.start, f.size) for f in fields] == [(2, 13), (4, 15)]
    assert isinstance(model, onnx.ModelProto)
