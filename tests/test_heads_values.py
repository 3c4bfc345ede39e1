"""Ops that treat features one by one, or normalise them: each means the same at every position."""

from __future__ import annotations

import pytest
from heads import assert_lifted, at_opsets, net

HIDDEN = "f = Flatten (map) h = Gemm (f, w1, b1)"
WEIGHTS = "float[72,12] w1, float[12] b1"
LAST = "scores = Gemm (y, w2, b2)"
LAST_WEIGHTS = "float[12,5] w2, float[5] b2"

# ------------------------------------------------ activations and arithmetic

UNARY = {
    "Relu": (9, "y = Relu (h)"),
    "Sigmoid": (9, "y = Sigmoid (h)"),
    "LeakyRelu": (9, "y = LeakyRelu <alpha = 0.2> (h)"),
    "HardSigmoid": (9, "y = HardSigmoid (h)"),
    "HardSwish": (14, "y = HardSwish (h)"),
    "HardSwish spelled out": (
        11,
        "three = 3.0 low = 0.0 six = 6.0 a = Add (h, three) c = Clip (a, low, six) "
        "m = Mul (h, c) y = Div (m, six)",
    ),
    "Gelu": (20, "y = Gelu (h)"),
    "Gelu by tanh": (20, 'y = Gelu <approximate = "tanh"> (h)'),
    "Gelu by Erf": (
        9,
        "root = 1.4142135 one = 1.0 half = 0.5 d = Div (h, root) e = Erf (d) "
        "a = Add (e, one) m = Mul (h, a) y = Mul (m, half)",
    ),
    "Mish": (18, "y = Mish (h)"),
    "Swish": (9, "s = Sigmoid (h) y = Mul (h, s)"),
    "Softplus": (9, "y = Softplus (h)"),
    "PRelu with a slope": (9, "y = PRelu (h, slope)"),
    "PRelu with K slopes": (9, "y = PRelu (h, slopes)"),
    "PRelu with [1, K] slopes": (9, "y = PRelu (h, slopes1)"),
    "Clip": (11, "low = -0.5 high = 0.5 y = Clip (h, low, high)"),
    "Clip above": (11, "high = 0.5 y = Clip (h, , high)"),
    "Dropout": (9, "y = Dropout (h)"),
    "Dropout with a ratio": (12, "r = 0.5 y = Dropout (h, r)"),
    "Dropout not in training": (
        12,
        "r = 0.5 t = Constant <value = bool {0}> () y = Dropout (h, r, t)",
    ),
    "Identity": (9, "y = Identity (h)"),
    "Cast there and back": (9, "d = Cast <to = 11> (h) y = Cast <to = 1> (d)"),
    "Where": (9, "z = 0.0 c = Greater (h, z) y = Where (c, h, slopes)"),
    "Where of constants": (9, "z = 0.0 c = Less (h, z) y = Where (c, z, h)"),
    "Pow": (12, "two = 2.0 y = Pow (h, two)"),
    "Max with a vector": (9, "y = Max (h, slopes)"),
    "Min of three": (9, "s = Neg (h) y = Min (h, s, slopes)"),
    "Sum of one": (9, "y = Sum (h)"),
    "Mean of two": (9, "s = Exp (h) y = Mean (h, s)"),
    "constant divided by features": (9, "s = Exp (h) y = Div (slopes, s)"),
    "a number of the features": (9, "g = Gemm (h, w0, b0) y = Mul (h, g)"),
    "a column": (9, "u = Unsqueeze[2] (h) m = Mul (u, rows) y = Flatten (m)"),
}


@pytest.mark.parametrize(("name", "opset"), at_opsets(UNARY))
def test_value_by_value(name: str, opset: int) -> None:
    _, lines = UNARY[name]
    weights = (
        f"{WEIGHTS}, {LAST_WEIGHTS}, float[1] slope, float[12] slopes, float[1,12] slopes1, "
        f"float[12,1] w0, float[1] b0, float[12,1] rows"
    )
    assert_lifted(net(f"{HIDDEN} {lines} {LAST}", weights, opset=opset))


OLD = {
    "Clip by attributes": "y = Clip <min = -0.5, max = 0.5> (h)",
    "Clip below by attributes": "y = Clip <min = -0.5> (h)",
    "Dropout with its mask unused": "y, m = Dropout (h)",
}


@pytest.mark.parametrize("name", OLD)
def test_value_by_value_of_old(name: str) -> None:
    assert_lifted(net(f"{HIDDEN} {OLD[name]} {LAST}", f"{WEIGHTS}, {LAST_WEIGHTS}", opset=9))


ON_WINDOWS = {
    "Mul, Add per feature": "m = Mul (f, s) y = Add (m, t)",
    "Sub, Div per feature": "m = Sub (f, t) y = Div (m, s)",
    "constant minus features": "y = Sub (t, f)",
    "constant by features": "e = Exp (f) y = Div (t, e)",
    "scale of a number": "k = 0.5 y = Mul (f, k)",
    "scale of a vector of one": "k = Constant <value = float[1,1] {0.5}> () y = Mul (f, k)",
    "BatchNormalization": "y = BatchNormalization (f, v, t, m0, v)",
    "BatchNormalization, Mul": "n = BatchNormalization (f, v, t, m0, v) y = Mul (n, s)",
    "BatchNormalization per channel": (
        "g = [0, 3, -1] r = Reshape (map, g) n = BatchNormalization (r, c3, d3, d3, c3) y = Flatten (n)"
    ),
    "PRelu with a slope per feature": "y = PRelu (f, s)",
    "activation": "y = Tanh (f)",
    "Swish": "g = Sigmoid (f) y = Mul (f, g)",
    "Add to itself": "y = Add (f, f)",
    "Softmax": "y = Softmax <axis = 1> (f)",
    "scale, then activation": "m = Mul (f, s) y = Relu (m)",
    "per channel": "g = [0, 3, -1] r = Reshape (map, g) n = Mul (r, c31) y = Flatten (n)",
    "per cell": "g = [0, 3, -1] r = Reshape (map, g) n = Mul (r, c24) y = Flatten (n)",
    "sum over channels": "g = [0, 3, -1] r = Reshape (map, g) n = ReduceSum[1] <keepdims = 1> (r) o "
    "= Add (r, n) y = Flatten (o)",
}


@pytest.mark.parametrize(("name", "opset"), at_opsets(ON_WINDOWS))
def test_between_flatten_and_product(name: str, opset: int) -> None:
    weights = (
        "float[72] s, float[72] t, float[72] v, float[72] m0, float[3] c3, float[3] d3, float[3,1] c31, "
        "float[24] c24, float[72,5] w2, float[5] b2"
    )
    assert_lifted(net(f"f = Flatten (map) {ON_WINDOWS[name]} {LAST}", weights, opset=opset))


# ------------------------------------------------ norms

NORMS = {
    "BatchNormalization": (9, "y = BatchNormalization (h, v, g, g, v)"),
    "BatchNormalization of [N, K, 1]": (
        9,
        "u = Unsqueeze[2] (h) n = BatchNormalization (u, v, g, g, v) y = Squeeze[2] (n)",
    ),
    "LayerNormalization": (17, "y = LayerNormalization (h, v, g)"),
    "LayerNormalization without bias": (17, "y = LayerNormalization <axis = 1> (h, v)"),
    "LayerNormalization spelled out": (
        9,
        "two = 2.0 eps = 0.00001 m = ReduceMean[-1] (h) c = Sub (h, m) p = Pow (c, two) q = "
        "ReduceMean[-1] (p) "
        "a = Add (q, eps) r = Sqrt (a) d = Div (c, r) k = Mul (d, v) y = Add (k, g)",
    ),
    "RMSNormalization": (23, "y = RMSNormalization (h, v)"),
    "LpNormalization": (9, "y = LpNormalization <axis = 1> (h)"),
    "LpNormalization, p = 1": (9, "y = LpNormalization <axis = -1, p = 1> (h)"),
    "L2 as torch writes it": (
        11,
        "n = ReduceL2[1] <keepdims = 1> (h) eps = 0.000001 c = Clip (n, eps) s = Shape (h) "
        "e = Expand (c, s) y = Div (h, e)",
    ),
    "L2 by hand": (9, "q = Mul (h, h) s = ReduceSum[1] <keepdims = 1> (q) r = Sqrt (s) y = Div (h, r)"),
    "LayerNormalization of groups": (
        17,
        "r = [0, 3, 4] u = Reshape (h, r) n = LayerNormalization (u, v4, g4) y = Flatten (n)",
    ),
    "LayerNormalization of all dims": (
        17,
        "r = [0, 3, 4] u = Reshape (h, r) n = LayerNormalization <axis = 1> (u, v34) y = Flatten (n)",
    ),
    "LayerNormalization of the first dims": (
        17,
        "r = [0, 3, 4] u = Reshape (h, r) t = Transpose <perm = [0, 2, 1]> (u) "
        "n = LayerNormalization (t, v3) o = Transpose <perm = [0, 2, 1]> (n) y = Flatten (o)",
    ),
}


@pytest.mark.parametrize(("name", "opset"), at_opsets(NORMS))
def test_norm(name: str, opset: int) -> None:
    _, lines = NORMS[name]
    weights = (
        f"{WEIGHTS}, {LAST_WEIGHTS}, float[12] v, float[12] g, float[4] v4, float[4] g4, "
        f"float[3,4] v34, float[3] v3"
    )
    assert_lifted(net(f"{HIDDEN} {lines} {LAST}", weights, opset=opset))
