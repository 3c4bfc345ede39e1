"""Ops without a convolutional form: positions are folded into the batch, and taken out of it again."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
from heads import assert_lifted, net

import surgery

HIDDEN = "f = Flatten (map) h = Gemm (f, w1, b1)"
WEIGHTS = "float[72,12] w1, float[12] b1"
GROUPS = "r = [0, 3, 4] u = Reshape (h, r)"

FOLDED = {
    "a matrix for every row": (f"{GROUPS} scores = MatMul (u, m)", "float[4,5] m", "float[1,3,5] scores"),
    "a matrix of every group": (
        f"{GROUPS} v = Unsqueeze[2] (u) scores = MatMul (v, m)",
        "float[3,4,5] m",
        "float[1,3,1,5] scores",
    ),
    "a matrix from the left": (f"{GROUPS} scores = MatMul (m, u)", "float[2,3] m", "float[1,2,4] scores"),
    "features by features": (
        f"{GROUPS} t = Transpose <perm = [0, 2, 1]> (u) scores = MatMul (u, t)",
        "",
        "float[1,3,3] scores",
    ),
    "a row by a matrix of features": (
        f"{GROUPS} g = Gemm (f, w0, b0) v = Unsqueeze[1] (g) m = MatMul (v, u) scores = Squeeze[1] (m)",
        "float[72,3] w0, float[3] b0",
        "float[1,4] scores",
    ),
    "ranks that differ": (
        f"{GROUPS} g = Gemm (f, w0, b0) scores = MatMul (g, u)",
        "float[72,3] w0, float[3] b0",
        "float[1,1,4] scores",
    ),
    "bilinear pooling": (
        'g = Gemm (f, w0, b0) scores = Einsum <equation = "bi,bj->bij"> (h, g)',
        "float[72,3] w0, float[3] b0",
        "float[1,12,3] scores",
    ),
    "an Einsum per row": (
        f'{GROUPS} scores = Einsum <equation = "bti,io->bto"> (u, m)',
        "float[4,5] m",
        "float[1,3,5] scores",
    ),
    "an Einsum with an ellipsis": (
        f'{GROUPS} scores = Einsum <equation = "...i,oi->...o"> (u, m)',
        "float[5,4] m",
        "float[1,3,5] scores",
    ),
    "a bilinear layer": (
        'scores = Einsum <equation = "bi,oij,bj->bo"> (h, m, h)',
        "float[5,12,12] m",
        "float[1,5] scores",
    ),
    "an Einsum of one tensor": (
        f'{GROUPS} scores = Einsum <equation = "bij->bji"> (u)',
        "",
        "float[1,4,3] scores",
    ),
    "a Conv over features (ECA)": (
        "u = Unsqueeze[1] (h) c = Conv <pads = [1, 1]> (u, k) s = Sigmoid (c) q = Squeeze[1] (s) "
        "scores = Mul (h, q)",
        "float[1,1,3] k",
        "float[1,12] scores",
    ),
    "a pool over features": (
        f"{GROUPS} scores = MaxPool <kernel_shape = [2]> (u)",
        "",
        "float[1,3,3] scores",
    ),
    "InstanceNormalization of features": (
        f"{GROUPS} scores = InstanceNormalization (u, s, s)",
        "float[3] s",
        "float[1,3,4] scores",
    ),
}


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("name", FOLDED)
def test_rows_in_the_batch(name: str, opset: int) -> None:
    lines, weights, out = FOLDED[name]
    model = net(f"{HIDDEN} {lines}", f"{WEIGHTS}, {weights}".strip(", "), opset=opset, out=out)
    done = assert_lifted(model)
    assert any(row.becomes.startswith("folded into the batch: ") for row in done.result.head)


ATTENTION = """
q = Gemm (f, wq, b1) k = Gemm (f, wk, b1) v = Gemm (f, wv, b1)
r = [0, 3, 2, 2] q0 = Reshape (q, r) k0 = Reshape (k, r) v0 = Reshape (v, r)
q1 = Transpose <perm = [0, 2, 1, 3]> (q0) k1 = Transpose <perm = [0, 2, 3, 1]> (k0)
v1 = Transpose <perm = [0, 2, 1, 3]> (v0)
a = MatMul (q1, k1) half = 0.5 s = Mul (a, half) m = Add (s, mask) p = Softmax <axis = -1> (m)
o = MatMul (p, v1) o1 = Transpose <perm = [0, 2, 1, 3]> (o) z = [0, 12] o2 = Reshape (o1, z)
scores = Gemm (o2, w2, b2)
"""
ATTENTION_WEIGHTS = (
    "float[72,12] wq, float[72,12] wk, float[72,12] wv, float[12] b1, float[3,3] "
    "mask, float[12,5] w2, float[5] b2"
)


def attention() -> onnx.ModelProto:
    return net(f"f = Flatten (map) {ATTENTION}".replace("\n", " "), ATTENTION_WEIGHTS)


def test_attention_over_features_stays_folded() -> None:
    done = assert_lifted(attention())
    became = {row.node: row.becomes for row in done.result.head}
    assert became["a"].endswith("MatMul")
    assert [became[n] for n in ("s", "m", "p")] == [
        f"folded into the batch: {op}" for op in ("Mul", "Add", "Softmax")
    ]
    # three tensors go into the batch, with an order of their own each, and one comes out of it
    assert kinds(done.proto)["Transpose"] <= 4 + 2


def test_pure_conv_refuses_to_fold() -> None:
    says = (
        r"cannot lift MatMul 'a' -> 'a': both its sides, \[1, 2, 3, 2\] and \[1, 2, 2, 3\], depend on "
        r"the image; "
        r"it could be folded into the batch, which --pure-conv forbids"
    )
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(attention(), pure_conv=True)


def test_pure_conv_takes_what_needs_no_folding() -> None:
    model = net("f = Flatten (map) scores = Gemm (f, w, b)", "float[72,5] w, float[5] b")
    assert_lifted(model, pure_conv=True)


def test_a_bias_for_each_of_several_heads_is_no_position_embedding() -> None:
    """Keras adds it to [N, positions, heads, size]; it is the same at every position."""
    lines = (
        "r = [1, 24, 3, 1] t = Transpose <perm = [0, 2, 3, 1]> (map) a = Reshape (t, r) q = Add (a, bias) "
        "p = MatMul (q, k) g = Relu (p) m = ReduceMean[1] <keepdims = 0> (g) f = Flatten (m) "
        "scores = MatMul (f, v)"
    )
    done = assert_lifted(net(lines, "float[3,1] bias, float[1,2] k, float[6,5] v"))
    assert any(row.becomes.startswith("folded into the batch: ") for row in done.result.head)
