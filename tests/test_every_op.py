"""Every op of the matrix: followed in a trunk, lifted in a head, refused with its reason."""

from __future__ import annotations

import re

import law
import nets
import onnx
import pytest
from done import convert
from op_rows import ANYWHERE, BETWEEN, DECLARED, GELUS, HEAD_ONLY, MICROSOFT, OPSETS, TRUNKS
from op_rows_of_heads import HEADS
from op_rows_refused import ONE_IMAGE, REFUSED
from trunks import named

import surgery
from surgery import matrix

NEVER_REFUSED = {
    *ANYWHERE,
    *BETWEEN,
    *(
        "Acosh",
        "Cast",
        "IsInf",
        "IsNaN",
        "Not",
        "Squeeze",
        "Unsqueeze",
        f"{MICROSOFT}QLinearGlobalAveragePool",
    ),
    *("AveragePool", "LpPool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"),
    *(f"{MICROSOFT}{op}" for op in GELUS),
}
WRITTEN_BY_ONNXRUNTIME = "com.microsoft.nchwc."  # and refused in test_channels_last
ROWS = {row.name: row for row in matrix.rows() if not row.name.startswith(WRITTEN_BY_ONNXRUNTIME)}
SIZE = (21, 28)
FIRST = "c = Conv <strides = [2, 2]> (image, w1)"
FEATURES = "m = Conv <strides = [2, 2]> (image, w1) flat1 = Flatten (m) c = Gemm <transB = 1> (flat1, wf)"
POOL = "pooled = GlobalAveragePool (map) folded = Flatten (pooled)"


def net(op: str, lines: str, features: int, batch: int = 1) -> onnx.ModelProto:
    """A model of these lines with one layer more, in the words of the opset of the op."""
    opset = OPSETS.get(op, 23)
    lines += " scores = Gemm <transB = 1> (folded, w5, b5)"
    declared = re.sub(r"\bN\b", str(batch), DECLARED)
    weights = f"{named(lines, declared)}, float[5,{features}] w5, float[5] b5"
    ir, domains = (8 if opset < 21 else 10), f'"": {opset}, "com.microsoft": 1'
    return nets.parse(
        f"<ir_version: {ir}, opset_import: [{domains}]> "
        f"net (float[{batch},2,17,23] image) => (float[{batch},5] scores) <{weights}> {{ {lines} }}"
    )


def test_every_op_that_is_followed_in_a_trunk_has_a_row() -> None:
    followed = {name for name, row in ROWS.items() if row.geometry.state != "refused"}
    assert followed == set(TRUNKS) | HEAD_ONLY


def test_every_op_that_is_lifted_in_a_head_has_a_row() -> None:
    assert {name for name, row in ROWS.items() if row.lift.state != "refused"} == set(HEADS)


def test_every_op_that_can_be_refused_has_a_row() -> None:
    """All but those that treat each value alone, whatever it is, and pools of all positions."""
    assert ROWS.keys() - REFUSED.keys() == NEVER_REFUSED


@pytest.mark.parametrize("op", TRUNKS)
def test_in_a_trunk(op: str) -> None:
    lines, channels, verdict = TRUNKS[op]
    model = net(op, f"{FIRST} s = Sigmoid (c) {lines} {POOL}", channels)
    done = convert(model, allow_global=True)
    assert done.result.verdict == verdict
    if verdict == "exact":
        assert law.assert_equals_crops(model, done.proto, SIZE, done.geometry.stride) > 1
    elif verdict == "padded":
        assert law.assert_equals_windows(model, done.proto, SIZE, {"map": 1}) > 1
    else:
        with pytest.raises(surgery.Refused, match=f"verdict global: {op} "):
            surgery.convert(model)


@pytest.mark.parametrize("op", HEADS)
def test_in_a_head(op: str) -> None:
    lines, features = HEADS[op]
    model = net(op, f"{FEATURES} s = Sigmoid (c) {lines} folded = Identity (map)", features)
    done = convert(model)
    assert done.result.verdict == "exact"
    assert law.assert_equals_crops(model, done.proto, SIZE, done.geometry.stride) > 1


@pytest.mark.parametrize("op", REFUSED)
def test_refused(op: str) -> None:
    lines, says = REFUSED[op]
    model = net(op, f"{FIRST} s = Sigmoid (c) {lines} {POOL}", 4, 1 if op in ONE_IMAGE else 2)
    with pytest.raises(surgery.Refused, match=says) as caught:
        surgery.convert(model)
    assert f" {op.rpartition('.')[2]} " in str(caught.value)
    assert "onnxruntime" not in str(caught.value)
