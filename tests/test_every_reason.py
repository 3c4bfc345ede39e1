"""What few nets do, and the rules have a line for: settings that depend on the image, rows as channels."""

from __future__ import annotations

import re

import law
import nets
import onnx
import pytest
from done import convert
from reason_rows import ATTENTION, BATCHES, CONVERTED, DECLARED, FIRST, POOL, REFUSED
from trunks import named

import surgery


def net(lines: str, features: int, batch: int = 1, opset: int = 23) -> onnx.ModelProto:
    """A model of these lines, which make `map` or the features `folded`, with one layer more."""
    ends = "" if re.search(r"\bfolded =", lines) else POOL
    lines = f"{FIRST} {lines} {ends} scores = Gemm <transB = 1> (folded, w5, b5)"
    weights = f"{named(lines, DECLARED)}, float[5,{features}] w5, float[5] b5"
    ir, domains = (8 if opset < 21 else 10), f'"": {opset}, "com.microsoft": 1'
    return nets.parse(
        f"<ir_version: {ir}, opset_import: [{domains}]> net (float[{batch},2,17,23] image) => "
        f"(float[{batch},5] scores) <{weights}> {{ {lines} }}"
    )


@pytest.mark.parametrize("lines", ATTENTION.values(), ids=ATTENTION.keys())
def test_attention_over_another_grid_is_refused(lines: str) -> None:
    with pytest.raises(surgery.Refused, match="each of the window's 88 positions by every other"):
        surgery.convert(net(f"{lines} folded = ReduceMean <keepdims = 0> (y, k1)", 4))


@pytest.mark.parametrize(("lines", "features", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_its_reason(lines: str, features: int, says: str) -> None:
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(net(lines, features))


@pytest.mark.parametrize(("lines", "features"), CONVERTED.values(), ids=CONVERTED.keys())
def test_converted_all_the_same(lines: str, features: int) -> None:
    model = net(lines.replace("'", '"'), features)
    done = convert(model)
    assert done.result.verdict == "exact"
    size = [w + s + 3 for w, s in zip(done.geometry.window, done.geometry.stride, strict=True)]
    assert law.assert_equals_crops(model, done.proto, size, done.geometry.stride) > 1


@pytest.mark.parametrize(("lines", "features", "batch", "says"), BATCHES.values(), ids=BATCHES.keys())
def test_refused_for_a_batch(lines: str, features: int, batch: int, says: str) -> None:
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(net(lines, features, batch))


def test_a_layer_over_a_row_of_cells() -> None:
    model = nets.parse(
        '<ir_version: 8, opset_import: ["": 13]> net (float[1,1,23] image) => (float[1,5] scores) '
        "<float[5,23] w, float[5] b, int64[1] k1 = {1}> "
        "{ r = Relu (image) s = Squeeze (r, k1) scores = Gemm <transB = 1> (s, w, b) }"
    )
    done = convert(model)
    assert law.assert_equals_crops(model, done.proto, (30,), done.geometry.stride) == 8


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pad_at_an_old_opset_and_a_closer_stride(stride: int) -> None:
    model = net(
        "p = Pad <pads = [0, 0, -1, -1, 0, 0, -1, 0]> (c) map = MaxPool <kernel_shape = [2, 2]> (p) "
        "g = GlobalAveragePool (map) f = Flatten (g) folded = Pad <pads = [0, 1, 0, 0], value = 0.5> (f)",
        5,
        opset=10,
    )
    done = convert(model, stride=stride)
    assert done.geometry.stride == (stride, stride)
    assert law.assert_equals_crops(model, done.proto, (21, 28), (stride, stride)) > 1


def test_an_upsample_of_opset_7() -> None:
    model = net("map = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (c)", 4, opset=8)
    done = convert(model)
    assert law.assert_equals_crops(model, done.proto, (21, 28), done.geometry.stride) > 1
