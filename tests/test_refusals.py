"""What is refused says where and why; what is asked wrongly is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import law
import nets
import pytest
from done import convert

import surgery


def body(
    lines: str, weights: str, image: str = "float[1,2,9,9] image", out: str = "float[1,6] scores"
) -> str:
    header = '<ir_version: 8, opset_import: ["": 13, "com.example": 1]>'
    return f"{header} net ({image}) => ({out}) <{weights}> {{ {lines} }}"


REFUSALS = {
    "a map already": (
        body("scores = Conv (image, w)", "float[6,2,3,3] w", out="float[1,6,7,7] scores"),
        r"nothing to convert: every tensor .* still a map, so .* already fully convolutional",
    ),
    "cells by the ten thousand, one by one": (
        body("a = Relu (image) f = Flatten (a) scores = Mul (f, f)", "", "float[1,2,150,150] image"),
        r"cannot lift Mul 'scores' -> 'scores': it takes each of the 22,500 cells of a window for itself, "
        r"and the kernel that makes them channels would hold 3\.8 GiB\. .*--exact",
    ),
    "cells by the ten thousand as the answer": (
        body("a = Relu (image) scores = Flatten (a)", "", "float[1,2,150,150] image"),
        r"cannot lift Flatten 'scores' -> 'scores': it takes each of the 22,500 cells of a window for itself",
    ),
    "Dropout in training": (
        body(
            "a = Flatten (image) d = Dropout (a, r, t) scores = Gemm <transB = 1> (d, w)",
            "float[6,162] w, float r = {0.5}, bool t = {1}",
        ),
        r"cannot lift Dropout 'd' -> 'd': it is left in training mode .* export the model in eval mode",
    ),
    "random numbers": (
        body(
            "a = Flatten (image) n = RandomNormalLike (a) d = Add (a, n) scores = Gemm <transB = 1> (d, w)",
            "float[6,162] w",
        ),
        r"RandomNormalLike .* draws random numbers, so no two answers can be compared",
    ),
    "a mean image before a Conv": (
        body(
            "s = Sub (image, mean) c = Conv (s, w1) a = Flatten (c) scores = Gemm <transB = 1> (a, w)",
            "float[6,147] w, float[3,2,3,3] w1, float[2,9,9] mean",
        ),
        r"cannot lift Conv 'c' -> 'c': .*ended at Sub 's': a constant .* use its mean per channel",
    ),
    "softmax over the batch": (
        body(
            "a = Flatten (image) g = Gemm <transB = 1> (a, w) scores = Softmax <axis = 0> (g)",
            "float[6,162] w",
        ),
        r"cannot lift Softmax 'scores' -> 'scores': it normalises over the batch",
    ),
    "a Gemm that transposes the image": (
        body(
            "a = Flatten (image) scores = Gemm <transA = 1> (a, w)", "float[1,6] w", out="float[162,6] scores"
        ),
        r"cannot lift Gemm 'scores' -> 'scores': transA makes features of the batch",
    ),
    "no image": (
        body("scores = Gemm <transB = 1> (image, w)", "float[6,18] w", image="float[1,18] image"),
        r"no image input \(its inputs: 'image' \[1, 18\]\): an image is an input of rank 3, 4 or 5",
    ),
    "two images": (
        body(
            "s = Add (image, other) a = Flatten (s) scores = Gemm <transB = 1> (a, w)",
            "float[6,162] w",
            image="float[1,2,9,9] image, float[1,2,9,9] other",
        ),
        r"has 2 image inputs .* Export the model with exactly one",
    ),
}


@pytest.mark.parametrize(("text", "says"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusal_says_where_and_why(text: str, says: str, tmp_path: Path) -> None:
    model = nets.parse(text)
    with pytest.raises(surgery.Refused, match=says) as caught:
        surgery.convert(model, tmp_path / "out.onnx")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert caught.value.why
    assert not list(tmp_path.iterdir())
    assert surgery.inspect(model).verdict == "refused"


BAD_REQUESTS = {
    "reduce": ({"reduce": "median"}, r"reduce 'median' is not known; there are mean, max"),
    "size too small": ({"sizes": [(16, 30)]}, r"16x30 is smaller than the window of 17x23"),
    "size of one side": ({"sizes": [(30,)]}, r"the size \[30\] has 1 sides, the window 2"),
    "window other than the model's": ({"window": (20, 23)}, r"fixes its window at 17, not 20"),
    "window of three sides": ({"window": (17, 23, 3)}, r"has 3 sides, the image 2"),
}


@pytest.mark.parametrize(("request_", "says"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_bad_request_is_told(request_: dict[str, Any], says: str) -> None:
    with pytest.raises(surgery.BadInput, match=says) as caught:
        surgery.convert(nets.load("plain"), **request_)
    assert caught.value.exit_code == 2


def test_open_size_needs_a_window() -> None:
    model = nets.load("gap")
    for dim, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[dim].dim_param = name
    with pytest.raises(surgery.BadInput, match=r"leaves its size open, .* Give it with --window HxW"):
        surgery.convert(model)
    done = convert(model, window=(17, 23))
    assert law.assert_equals_crops(nets.load("gap"), done.proto, (26, 33), (4, 4)) == 9


def test_sizes_that_branches_do_not_meet_at_are_told() -> None:
    done = convert(nets.load("uneven"))
    assert done.geometry.step == (2, 2)
    with pytest.raises(
        surgery.BadInput, match=r"branches of its trunk would not meet. It takes 13x17 and every 2x2"
    ):
        surgery.validate(done.model, done.proto, sizes=[(14, 18)])
