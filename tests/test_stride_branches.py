"""Dilation where branches end unevenly, a ceil_mode cuts a pool short, a gate takes the whole map."""

from __future__ import annotations

from typing import Any

import law
import nets
import numpy as np
import onnx
import pytest
from done import convert
from hypothesis import given, settings
from hypothesis import strategies as st
from strides import (
    FORMS,
    GAP,
    HEAD,
    STEM,
    assert_equals_crops,
    at_stride,
    crops_as_maps,
    images_of,
    larger,
    net,
    trunks,
)

import surgery
from surgery.field import Axis, Slide, surplus

SHORTCUT = (
    f"{STEM} p = Conv <strides = [2, 2]> (b, wp) "
    f"q = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (b) r = Conv (q, wr) map = Add (p, r) {GAP}"
)
BRANCHED: dict[str, dict[str, Any]] = {
    "shortcut": {"image": "1,2,23,23", "body": SHORTCUT, "wp": "4,4,3,3", "wr": "4,4,1,1", "w9": "5,4"},
    "heads_of_two_strides": {
        "body": f"{STEM} c = Conv <strides = [2, 2]> (b, w2) fb = Flatten (b) fc = Flatten (c) "
        "f = Concat <axis = 1> (fb, fc) scores = Gemm <transB = 1> (f, w9, b9)",
        "w2": "4,4,3,3",
        "w9": "5,464",
    },
    "two_pools": {
        "body": f"{STEM} c = Conv <strides = [2, 2]> (b, w2) p = GlobalAveragePool (b) q = GlobalMaxPool (c) "
        "f = Concat <axis = 1> (p, q) g = Flatten (f) scores = Gemm <transB = 1> (g, w9, b9)",
        "w2": "4,4,3,3",
        "w9": "5,8",
    },
}


# ------------------------------------------------ branches


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1), (1, 4)])
@pytest.mark.parametrize("name", BRANCHED)
def test_branches_of_unequal_kernels_meet_dilated(name: str, stride: int | tuple[int, int]) -> None:
    model = net(**BRANCHED[name])
    plain = convert(model)
    assert plain.geometry.step == (4, 4)  # undilated they meet at some sizes only
    done = convert(model, stride=stride)
    assert (done.result.verdict, done.proof.passed) == ("exact", True)
    for more in ((0, 0), (5, 2), (7, 4)):
        assert_equals_crops(model, done, more, count=1)


@pytest.mark.parametrize("name", BRANCHED)
def test_fragments_keep_the_sizes_of_the_plain_net(name: str) -> None:
    model = net(**BRANCHED[name])
    for stride in (1, 2):
        done = convert(model, stride=stride, stride_form="fragments")
        assert (done.proof.passed, done.geometry.step) == (True, (4, 4))
        assert_equals_crops(model, done, (4, 8))


def test_the_fixture_of_unequal_branches() -> None:
    model = nets.load("uneven")
    for stride in (1, 3, (1, 2), (2, 1)):
        assert_equals_crops(model, at_stride(model, stride, "dilated"), (5, 4))


@settings(max_examples=30)
@given(trunks(uneven=True), st.data())
def test_random_trunks_of_uneven_branches(model: onnx.ModelProto, data: st.DataObject) -> None:
    own = convert(model, sizes=[law.window_of(model)]).geometry.stride
    stride = data.draw(st.tuples(*(st.sampled_from([d for d in range(1, s + 1) if s % d == 0]) for s in own)))
    more = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 7)))
    for form in FORMS:
        assert_equals_crops(model, at_stride(model, stride, form), more, count=1)


def test_surplus_is_what_no_window_takes() -> None:
    image = Axis.image(11, 32, grid=1)
    large, small = (image.slide(Slide(kernel, stride=2)) for kernel in (3, 2))
    assert [large.cells, small.cells] == [5, 5]
    assert surplus([large, small]) == [0, 1]
    assert (large.join(small).lengths == large.lengths).all()
    plain = [Axis.image(11, 32).slide(Slide(kernel, stride=2)) for kernel in (3, 2)]
    assert surplus(plain) == [0, 0]


def test_branches_that_never_meet_are_refused() -> None:
    body = f"{STEM} p = Conv <strides = [3, 3]> (b, wp) q = Conv <strides = [3, 3]> (b, wq) "
    body += f"map = Concat <axis = 1> (p, q) {HEAD}"
    model = net(body, image="1,2,19,19", wp="2,4,3,3", wq="2,4,1,1", w9="5,36")
    words = r"branches of the net do not meet on windows 3 pixels apart\. Use --stride-form fragments"
    with pytest.raises(surgery.Refused, match=words):
        convert(model, stride=3)
    assert_equals_crops(model, at_stride(model, 3, "fragments"), (6, 12))
    for stride in (1, 2):
        assert_equals_crops(model, at_stride(model, stride, "dilated"), (3, 8))


# ------------------------------------------------ ceil_mode


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 4), (1, 4)])
@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
def test_ceil_mode_that_truncates_nothing(kind: str, stride: int | tuple[int, int]) -> None:
    body = f"{STEM} map = {kind} <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (b) {HEAD}"
    model = net(body, w9="5,100")
    done = at_stride(model, stride, "dilated")
    assert done.result.verdict == "exact"
    for more in ((0, 0), (5, 2), (3, 8)):
        assert_equals_crops(model, done, more, count=1)


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 4), 8])
@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
def test_ceil_mode_that_truncates_stays_padded(kind: str, stride: int | tuple[int, int]) -> None:
    body = f"{STEM} map = {kind} <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (b) {HEAD}"
    model = net(body, image="1,2,19,21", w9="5,80")  # 9 and 10 cells: the last is whole, and cut short
    plain, done = convert(model), convert(model, stride=stride)
    assert plain.result.verdict == done.result.verdict == "padded"
    assert plain.geometry.margin == done.geometry.margin
    images = images_of(model, larger(plain.geometry, (9, 7)))
    want, got = (law.run(d.proto, images)["scores"] for d in (plain, done))
    shared = [int(np.lcm(a, b)) for a, b in zip(plain.geometry.stride, done.geometry.stride, strict=True)]
    thin = [
        v[..., :: shared[0] // d.geometry.stride[0], :: shared[1] // d.geometry.stride[1]]
        for v, d in ((want, plain), (got, done))
    ]
    rows, cols = plain.geometry.refined(shared).grid(images.shape[2:])
    law.assert_close(thin[1][..., :rows, :cols], thin[0][..., :rows, :cols], "own positions")


def test_an_average_that_counts_pads_but_not_what_ceil_mode_adds_has_no_conv() -> None:
    pool = (
        "<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1, count_include_pad = 1, pads = [1, 1, 0, 0]>"
    )
    model = net(f"{STEM} map = AveragePool {pool} (b) {HEAD}", image="1,2,23,23", w9="5,144")
    words = r"AveragePool 'map': its average counts its pads, but not what its ceil_mode adds to them"
    with pytest.raises(surgery.Refused, match=words):
        convert(model, stride=1)
    assert convert(model, stride=1, stride_form="fragments").proof.passed


# ------------------------------------------------ outputs and ops of the whole map


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_a_map_output_of_a_dilated_net_holds_the_windows_apart(stride: int) -> None:
    model = nets.load("map_output")
    done = convert(model, stride=stride)
    assert done.proof.passed
    assert all("map" in c.compared for c in done.proof.checks if c.name in ("native", "crops"))
    images = images_of(model, larger(done.geometry, (5, 9)))
    want = crops_as_maps(model, images, done.geometry.stride)["scores"]
    law.assert_close(law.run(done.proto, images)["scores"], want, "scores")


def test_a_gate_is_refused_at_windows_in_between() -> None:
    model = nets.load("gate")
    for form in FORMS:
        with pytest.raises(surgery.Refused, match=r"GlobalAveragePool 'g': .* returns to the map at Mul"):
            convert(model, stride=2, stride_form=form, allow_global=True)
    done = convert(model, stride=8, allow_global=True)  # thinned out, nothing is dilated
    assert (done.result.verdict, done.proof.passed) == ("global", True)


def test_an_input_beside_the_image_is_laid_over_windows_at_any_stride() -> None:
    model = nets.parse(
        '<ir_version: 8, opset_import: ["": 13]> '
        "net (float[1,2,21,21] image, float[1,3] side) => (float[1,5] scores) "
        "<float[4,2,3,3] w1, float[4] b1, float[4,4,3,3] w2, float[5,467] w9, float[5] b9> "
        f"{{ {STEM} c = Conv <strides = [2, 2]> (b, w2) fb = Flatten (b) fc = Flatten (c) "
        "f = Concat <axis = 1> (fb, fc, side) scores = Gemm <transB = 1> (f, w9, b9) }"
    )
    for stride in (1, 2):
        assert convert(model, stride=stride).proof.passed
    with pytest.raises(surgery.Refused, match=r"'side' .* --stride-form fragments has no place for it"):
        convert(model, stride=1, stride_form="fragments")


@pytest.mark.parametrize("name", ["shuffle", "same_pads", "nhwc_grey"])
def test_validate_reads_the_first_phase_where_the_original_cannot_run(name: str) -> None:
    model = nets.load(name)
    for form in FORMS:
        assert surgery.validate(model, at_stride(model, 1, form).proto).passed
