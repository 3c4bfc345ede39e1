"""Transplants: what is copied, coerced, dropped or kept, and that the nets then answer alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law import run
from nets import NAMES, load, parse

import surgery

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def head(op: str, weights: str, flat: str = "f = Flatten (map)", dims: str = "1,4") -> onnx.ModelProto:
    """A classifier of a 3x5 map of 3 channels with 4 classes, its last layer written in some way."""
    return parse(
        f"""{HEAD} net (float[1,2,4,6] image) => (float[{dims}] scores)
        <float[3,2,2,2] w, {weights}> {{ map = Conv (image, w) {flat} scores = {op} }}"""
    )


GEMM = head("Gemm <transB = 1> (f, v, b)", "float[4,45] v, float[4] b")
GEMM_COLUMNS = head("Gemm (f, v, b)", "float[45,4] v, float[1,4] b")
MATMUL = head("MatMul (f, v)", "float[45,4] v")
CONV = head("Conv (map, v, b)", "float[4,3,3,5] v, float[4] b", flat="", dims="1,4,1,1")
NHWC = head(
    "Gemm <transB = 1> (f, v, b)",
    "float[4,45] v, float[4] b",
    flat="t = Transpose <perm = [0, 2, 3, 1]> (map) f = Flatten (t)",
)


def image() -> Any:
    return np.random.default_rng(3).random((1, 2, 4, 6), np.float32)


def lines(account: surgery.Transplant) -> list[str]:
    return str(account).splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_all_of_a_net_goes_into_another_of_its_kind(name: str) -> None:
    source, target = load(name, seed=1), load(name, seed=2)
    net = surgery.Net(target)
    account = net.transplant(source)
    assert not account.dropped
    assert not account.kept
    assert not account.coerced
    for theirs, ours in zip(surgery.Net(source).params.values(), net.params.values(), strict=True):
        for role in theirs:
            np.testing.assert_array_equal(theirs[role], ours[role])


@pytest.mark.parametrize("source", [GEMM, GEMM_COLUMNS], ids=["rows", "columns"])
@pytest.mark.parametrize("target", [GEMM, GEMM_COLUMNS, CONV], ids=["rows", "columns", "conv"])
def test_a_fully_connected_layer_means_the_same_in_every_form(
    source: onnx.ModelProto, target: onnx.ModelProto
) -> None:
    net = surgery.Net(target)
    net.params["v"].weight = 0
    account = net.transplant(source, coerce=True)
    assert not account.dropped
    got = net.forward(image())["scores"].ravel()
    np.testing.assert_allclose(got, run(source, image())["scores"].ravel(), rtol=1e-5)


def test_a_square_matrix_is_not_taken_for_its_transpose() -> None:
    rows = parse(f"{HEAD} net (float[1,4] x) => (float y) <float[4,4] v> {{ y = Gemm <transB = 1> (x, v) }}")
    columns = parse(f"{HEAD} net (float[1,4] x) => (float y) <float[4,4] v> {{ y = MatMul (x, v) }}")
    net = surgery.Net(columns)
    assert [row.action for row in net.transplant(rows).rows] == ["dropped"]
    net.transplant(rows, coerce=True)
    x = np.float32([[1, 2, 3, 4]])
    np.testing.assert_allclose(net.forward(x)["y"], run(rows, x)["y"], rtol=1e-6)


def test_what_is_reshaped_needs_coerce() -> None:
    net = surgery.Net(CONV)
    before = net.params["v"].weight.copy()
    account = net.transplant(surgery.Net(GEMM))
    assert lines(account) == [
        "copied   w.weight [3, 2, 2, 2]",
        "dropped  v.weight [4, 45] -> v.weight [4, 3, 3, 5]: the shapes [4, 45] and [4, 3, 3, 5] differ; "
        "coerce reshapes what has as many values",
        "copied   v.bias [4]",
        "2 copied, 0 coerced, 1 dropped, 0 kept",
    ]
    np.testing.assert_array_equal(net.params["v"].weight, before)
    account = net.transplant(GEMM, coerce=True)
    assert lines(account)[1] == "coerced  v.weight [4, 45] -> v.weight [4, 3, 3, 5]"


def test_features_in_another_order_are_not_reshaped_wrongly() -> None:
    net = surgery.Net(CONV)
    account = net.transplant(NHWC, coerce=True)
    assert [r.source for r in account.dropped] == ["v.weight"]
    assert "Transpose 't' orders the features" in account.dropped[0].why
    dense = surgery.Net(surgery.convert(NHWC).proto)  # which follows the order
    got = dense.forward(image())["scores"].ravel()
    np.testing.assert_allclose(got, run(NHWC, image())["scores"].ravel(), rtol=1e-5)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (head("Gemm <transB = 1, alpha = 0.5> (f, v, b)", "float[4,45] v, float[4] b"), "by 1, Gemm by 0.5"),
        (
            head("Gemm <transB = 1> (f, v, b)", "float[5,45] v, float[5] b", dims="1,5"),
            "different numbers of",
        ),
    ],
)
def test_what_would_mean_something_else_is_dropped(target: onnx.ModelProto, words: str) -> None:
    account = surgery.Net(target).transplant(GEMM, coerce=True)
    assert words in account.dropped[0].why


def test_as_many_values_of_other_outputs_are_dropped() -> None:
    target = parse(
        f"{HEAD} net (float[1,6] x) => (float y) <float[4,6] v> {{ y = Gemm <transB = 1> (x, v) }}"
    )
    source = parse(
        f"{HEAD} net (float[1,4] x) => (float y) <float[6,4] v> {{ y = Gemm <transB = 1> (x, v) }}"
    )
    account = surgery.Net(target).transplant(source, coerce=True)
    assert account.dropped[0].why == "[6, 4] has 6 outputs, [4, 6] 4"


def test_layers_without_a_partner_are_named_on_both_sides() -> None:
    net = surgery.Net(load("plain"))
    account = net.transplant(load("prelu"))
    assert [r.source for r in account.dropped if not r.target] == [
        "slope2.slope",
        "slope4.slope",
        "w5.weight",
    ]
    assert [r.target for r in account.kept] == ["w4.weight", "w4.bias"]
    assert lines(account)[-1] == "6 copied, 0 coerced, 3 dropped, 2 kept"


def test_a_mapping_says_what_goes_where() -> None:
    net, other = surgery.Net(load("plain")), surgery.Net(load("plain", seed=9))
    before = net.params["w3"].weight.copy()
    account = net.transplant(other, {"w1.bias": "w1.bias", "w4": "w4"})
    assert [row.source for row in account.copied] == ["w1.bias", "w4.weight", "w4.bias"]
    np.testing.assert_array_equal(net.params["w1"].bias, other.params["w1"].bias)
    np.testing.assert_array_equal(net.params["w3"].weight, before)
    account = net.transplant(other, {"w2.bias": "w1.bias"})
    assert account.dropped[0].why == "the shapes [4] and [5] hold different numbers of values"
    with pytest.raises(surgery.BadInput, match="no parameter 'w9'; the nearest names are"):
        net.transplant(other, {"w9": "w1"})
    with pytest.raises(surgery.BadInput, match="no parameter 'fc'"):
        net.transplant(other, {"w1": "fc"})


def test_other_dtypes_are_taken_on_request() -> None:
    half = parse(f"{HEAD} net (float16[1,4] x) => (float16 y) <float16[4,4] v> {{ y = MatMul (x, v) }}")
    whole = parse(f"{HEAD} net (float[1,4] x) => (float y) <float[4,4] v> {{ y = MatMul (x, v) }}")
    net = surgery.Net(whole)
    assert "is float32, the value float16" in net.transplant(half).dropped[0].why
    assert net.transplant(half, cast=True).copied
    np.testing.assert_array_equal(net.params["v"].weight, surgery.Net(half).params["v"].weight)
    net.params["v"].weight = 1e6
    back = surgery.Net(half)
    assert "too large" in back.transplant(net, cast=True).dropped[0].why
    assert np.isfinite(back.params["v"].weight).all()


def test_one_place_is_not_filled_twice() -> None:
    net = surgery.Net(load("shared_weight"))  # w3 and Gemm_k are one tensor
    text = f"""{HEAD} net (float[1,60] x) => (float y) <float[6,60] p, float[6,60] q>
    {{ a = Gemm <transB = 1> (x, p) b = Gemm <transB = 1> (x, q) y = Add (a, b) }}"""
    account = net.transplant(parse(text), {"w3": "p", "Gemm_k": "q"})
    assert [row.action for row in account.rows] == ["copied", "dropped"]
    assert account.dropped[0].why == "its place is shared, and already filled from p"


def test_edits_of_the_other_net_count_and_it_stays_as_it_is() -> None:
    other = surgery.Net(GEMM)
    other.params["v"].bias = 5
    proto = other.proto
    net = surgery.Net(GEMM)
    net.transplant(other)
    assert (net.params["v"].bias == 5).all()
    net.params["v"].bias = 6
    assert other.proto == proto


def test_the_account_is_plain_data() -> None:
    account = surgery.Net(CONV).transplant(GEMM, coerce=True)
    data = json.loads(account.to_json())
    assert data == account.to_dict()
    assert (data["copied"], data["coerced"], data["dropped"], data["kept"]) == (2, 1, 0, 0)
    assert data["rows"][1] == {
        "action": "coerced",
        "source": "v.weight",
        "target": "v.weight",
        "source_shape": [4, 45],
        "target_shape": [4, 3, 3, 5],
        "why": "",
    }
    with pytest.raises(AttributeError):
        account.rows = ()  # type: ignore[misc]


@given(
    outputs=st.integers(1, 4),
    channels=st.integers(1, 3),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    columns=st.booleans(),
)
def test_a_cast_layer_is_the_layer(
    outputs: int, channels: int, height: int, width: int, columns: bool
) -> None:
    size, features = f"1,{channels},{height},{width}", channels * height * width
    weight = f"{features},{outputs}" if columns else f"{outputs},{features}"
    full = parse(
        f"""{HEAD} net (float[{size}] x) => (float y) <float[{weight}] v, float[{outputs}] b>
        {{ f = Flatten (x) y = Gemm <transB = {int(not columns)}> (f, v, b) }}""",
    )
    kernel = f"{outputs},{channels},{height},{width}"
    net = surgery.Net(
        parse(
            f"""{HEAD} net (float[{size}] x) => (float y) <float[{kernel}] v, float[{outputs}] b>
            {{ y = Conv (x, v, b) }}""",
            seed=1,
        )
    )
    assert not net.transplant(full, coerce=True).dropped
    x = np.random.default_rng(0).standard_normal((1, channels, height, width), np.float32)
    got = net.forward(x)["y"].reshape(1, outputs)
    np.testing.assert_allclose(got, run(full, x)["y"], rtol=1e-4, atol=1e-5)
