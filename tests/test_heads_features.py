"""Ops between and behind the products of a head: each means the same at every position."""

from __future__ import annotations

import pytest
from heads import assert_lifted, net

HIDDEN = "f = Flatten (map) h = Gemm (f, w1, b1)"
HIDDEN_WEIGHTS = "float[72,12] w1, float[12] b1, float[12,5] w2, float[5] b2"
LAST = "scores = Gemm (y, w2, b2)"

I64 = "Constant <value = int64[{n}] {{{v}}}> ()"


def ints(name: str, *values: int) -> str:
    return f"{name} = Constant <value = int64[{len(values)}] {{{', '.join(map(str, values))}}}> ()"


def scalar(name: str, value: float) -> str:
    return f"{name} = Constant <value = float {{{value}}}> ()"


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
    "Clip by attributes": (9, "y = Clip <min = -0.5, max = 0.5> (h)"),
    "Clip below by attributes": (9, "y = Clip <min = -0.5> (h)"),
    "Dropout": (9, "y = Dropout (h)"),
    "Dropout with its mask unused": (9, "y, m = Dropout (h)"),
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


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21, 26])
@pytest.mark.parametrize("name", UNARY)
def test_value_by_value(name: str, opset: int) -> None:
    since, lines = UNARY[name]
    until = {
        "Clip by attributes": 10,
        "Clip below by attributes": 10,
        "Dropout with its mask unused": 99,
    }.get(name, 99)
    if not since <= opset <= until:
        return
    weights = f"{HIDDEN_WEIGHTS}, float[1] slope, float[12] slopes, float[1,12] slopes1, float[12,1] w0, float[1] b0, float[12,1] rows"
    assert_lifted(net(f"{HIDDEN} {lines} {LAST}", weights, opset=opset))


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
    "sum over channels": "g = [0, 3, -1] r = Reshape (map, g) n = ReduceSum[1] <keepdims = 1> (r) o = Add (r, n) y = Flatten (o)",
}


@pytest.mark.parametrize("opset", [9, 13, 21])
@pytest.mark.parametrize("name", ON_WINDOWS)
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
        "two = 2.0 eps = 0.00001 m = ReduceMean[-1] (h) c = Sub (h, m) p = Pow (c, two) q = ReduceMean[-1] (p) "
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


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21, 26])
@pytest.mark.parametrize("name", NORMS)
def test_norm(name: str, opset: int) -> None:
    since, lines = NORMS[name]
    if opset < since:
        return
    weights = (
        f"{HIDDEN_WEIGHTS}, float[12] v, float[12] g, float[4] v4, float[4] g4, float[3,4] v34, float[3] v3"
    )
    assert_lifted(net(f"{HIDDEN} {lines} {LAST}", weights, opset=opset))


# ------------------------------------------------ parts, and other shapes

PARTS = {
    "Split, Concat": "{split2} y = Concat <axis = 1> (b, a)",
    "Split of Split": "{split2} m = Mul (a, b) y = Concat <axis = 1> (m, a)",
    "Slice": "{slice:0, 6} {slice:6, 12} y = Concat <axis = 1> (s6, s0)",
    "Gather": "i = [3, 3, 0, 11, 5, 6, 7, 8, 9, 1, 2, 4] y = Gather <axis = 1> (h, i)",
    "Gather from the end": f"{ints('i', *range(-12, 0))} y = Gather <axis = -1> (h, i)",
    "Gather of one": ("i = 2 g = Gather <axis = 1> (h, i) u = Unsqueeze[1] (g) y = Add (h, u)"),
    "Gather of a table": "i = Constant <value = int64[3,4] {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}> () g = Gather <axis = 1> (h, i) y = Flatten (g)",
    "Reshape, Transpose, Flatten": "r = [0, 3, 4] u = Reshape (h, r) t = Transpose <perm = [0, 2, 1]> (u) y = Flatten (t)",
    "Transpose of [N, K, 1, 1]": "u = Unsqueeze[2, 3] (h) t = Transpose <perm = [0, 2, 3, 1]> (u) y = Flatten (t)",
    "maximum of groups (maxout)": "r = [0, 6, 2] u = Reshape (h, r) m = ReduceMax[2] <keepdims = 0> (u) y = Concat <axis = 1> (m, m)",
    "mean of groups": "r = [0, 6, 2] u = Reshape (h, r) m = ReduceMean[2] <keepdims = 0> (u) y = Concat <axis = 1> (m, m)",
    "Expand": "n = ReduceMean[1] <keepdims = 1> (h) s = [1, 12] y = Expand (n, s)",
    "Expand that adds a dim": "u = Unsqueeze[1] (h) s = [1, 3, 12] e = Expand (u, s) y = ReduceMean[1] <keepdims = 0> (e)",
    "Expand to what it is": "s = [1, 1] y = Expand (h, s)",
    "Tile": "{slice:0, 6} s = [1, 2] y = Tile (s0, s)",
    "Tile of groups": "r = [0, 3, 2] {slice:0, 6} u = Reshape (s0, r) s = [1, 2, 1] t = Tile (u, s) y = Flatten (t)",
    "CumSum": "i = 1 y = CumSum (h, i)",
    "CumSum from the end": "i = -1 y = CumSum <reverse = 1, exclusive = 1> (h, i)",
    "Softmax, weighted mean": "p = Softmax <axis = 1> (h) m = Mul (p, h) s = ReduceSum[1] <keepdims = 1> (m) y = Add (h, s)",
}


def with_parts(lines: str, opset: int) -> str:
    import re

    split = "a, b = Split <axis = 1> (h)" if opset < 18 else "a, b = Split <axis = 1, num_outputs = 2> (h)"
    lines = lines.replace("{split2}", split)

    def slices(match: re.Match[str]) -> str:
        start, end = match[1], match[2]
        if opset < 10:
            return f"s{start} = Slice <axes = [1], starts = [{start}], ends = [{end}]> (h)"
        return (
            f"{ints(f'a{start}', int(start))} {ints(f'e{start}', int(end))} {ints(f'x{start}', 1)} "
            f"s{start} = Slice (h, a{start}, e{start}, x{start})"
        )

    return re.sub(r"\{slice:(\d+), (\d+)\}", slices, lines)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21, 26])
@pytest.mark.parametrize("name", PARTS)
def test_parts_and_shapes(name: str, opset: int) -> None:
    if opset < 11 and name.startswith("CumSum"):
        return
    assert_lifted(net(f"{HIDDEN} {with_parts(PARTS[name], opset)} {LAST}", HIDDEN_WEIGHTS, opset=opset))


STEPS = {
    "every second": (0, 99, 2),
    "backwards": (-1, -99, -1),
    "backwards by two": (11, -99, -2),
    "from the end": (-4, 99, 1),
}


@pytest.mark.parametrize("name", STEPS)
def test_slice_by_steps(name: str) -> None:
    start, end, step = STEPS[name]
    lines = f"{ints('a', start)} {ints('e', end)} x = [1] {ints('t', step)} scores = Slice (h, a, e, x, t)"
    count = len(range(12)[slice(start, None if end < 0 else end, step)])
    assert_lifted(net(f"{HIDDEN} {lines}", HIDDEN_WEIGHTS, out=f"float[1,{count}] scores"))


SPLITS = {
    "equal": (13, "a, b, c = Split <axis = 1> (h)"),
    "by sizes": (13, "z = [4, 4, 4] a, b, c = Split <axis = -1> (h, z)"),
    "by sizes of old": (11, "a, b, c = Split <axis = 1, split = [4, 4, 4]> (h)"),
    "by their number": (18, "a, b, c = Split <axis = 1, num_outputs = 3> (h)"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_split(name: str) -> None:
    opset, lines = SPLITS[name]
    assert_lifted(
        net(
            f"{HIDDEN} {lines} m = Mul (a, b) scores = Add (m, c)",
            HIDDEN_WEIGHTS,
            opset=opset,
            out="float[1,4] scores",
        )
    )


# ------------------------------------------------ answers

A_K = "r = [0, 3, 4] u = Reshape (h, r)"
ANSWERS = {
    "Softmax": (9, "scores = Softmax <axis = 1> (h)", "float[1,12] scores"),
    "Softmax from the end": (13, "scores = Softmax (h)", "float[1,12] scores"),
    "LogSoftmax": (9, "scores = LogSoftmax <axis = 1> (h)", "float[1,12] scores"),
    "Hardmax": (9, "scores = Hardmax <axis = 1> (h)", "float[1,12] scores"),
    "Sigmoid": (9, "scores = Sigmoid (h)", "float[1,12] scores"),
    "[N, A, K]": (9, f"{A_K} scores = Identity (u)", "float[1,3,4] scores"),
    "[N, A, K], Softmax over K": (9, f"{A_K} scores = Softmax <axis = 2> (u)", "float[1,3,4] scores"),
    "[N, A, K], Softmax over A": (13, f"{A_K} scores = Softmax <axis = 1> (u)", "float[1,3,4] scores"),
    "[N, A, K], Softmax from dim 1 on": (9, f"{A_K} scores = Softmax <axis = 1> (u)", "float[1,3,4] scores"),
    "[N, A, K], LogSoftmax over A": (13, f"{A_K} scores = LogSoftmax <axis = -2> (u)", "float[1,3,4] scores"),
    "[N, A, K], Transpose, Softmax": (
        9,
        f"{A_K} t = Transpose <perm = [0, 2, 1]> (u) scores = Softmax <axis = 2> (t)",
        "float[1,4,3] scores",
    ),
    "ArgMax": (9, "scores = ArgMax <axis = 1> (h)", "int64[1,1] scores"),
    "ArgMax without dims": (9, "scores = ArgMax <axis = 1, keepdims = 0> (h)", "int64[1] scores"),
    "ArgMax over K": (9, f"{A_K} scores = ArgMax <axis = -1> (u)", "int64[1,3,1] scores"),
    "ArgMin": (9, f"{A_K} scores = ArgMin <axis = 1, keepdims = 0> (u)", "int64[1,4] scores"),
    "ReduceMax": (9, "scores = ReduceMax[1] <keepdims = 1> (h)", "float[1,1] scores"),
    "ReduceMax without dims": (9, "scores = ReduceMax[1] <keepdims = 0> (h)", "float[1] scores"),
    "one score": (9, "scores = Gemm (h, w0, b0)", "float[1,1] scores"),
    "one score squeezed": (9, "s = Gemm (h, w0, b0) scores = Squeeze[1] (s)", "float[1] scores"),
    "TopK": (
        11,
        "k = [3] scores, places = TopK <axis = 1> (h, k)",
        "float[1,3] scores, int64[1,3] places",
    ),
    "TopK of the smallest": (
        11,
        "k = [3] scores, places = TopK <axis = -1, largest = 0> (h, k)",
        "float[1,3] scores, int64[1,3] places",
    ),
    "TopK over A": (
        11,
        f"{A_K} k = [2] scores, places = TopK <axis = 1> (u, k)",
        "float[1,2,4] scores, int64[1,2,4] places",
    ),
    "places of TopK": (11, "k = [3] v, scores = TopK <axis = 1> (h, k)", "int64[1,3] scores"),
    "values of the best": (
        11,
        "k = [3] v, p = TopK <axis = 1> (h, k) scores = GatherElements <axis = 1> (h, p)",
        "float[1,3] scores",
    ),
    "one-hot of the best": (
        11,
        "a = ArgMax <axis = 1, keepdims = 0> (h) n = 12 v = Constant <value = float[2] {0.0, 1.0}> () "
        "scores = OneHot <axis = -1> (a, n, v)",
        "float[1,12] scores",
    ),
    "cast of the best": (9, "a = ArgMax <axis = 1> (h) scores = Cast <to = 1> (a)", "float[1,1] scores"),
    "above a threshold": (
        9,
        "z = 0.1 g = Greater (h, z) scores = Cast <to = 1> (g)",
        "float[1,12] scores",
    ),
    "logic": (
        9,
        "z = 0.1 g = Greater (h, z) l = Less (h, b1) o = Or (g, l) a = And (g, o) n = Not (a) scores = Cast <to = 1> (n)",
        "float[1,12] scores",
    ),
    "several outputs": (
        9,
        "p = Softmax <axis = 1> (h) scores = Identity (p) q = Sigmoid (h)",
        "float[1,12] scores, float[1,12] h, float[1,12] p, float[1,12] q",
    ),
    "the flattened cells too": (9, "scores = Relu (h)", "float[1,12] scores, float[1,72] f"),
    "[N, K, 1, 1]": (9, "scores = Unsqueeze[2, 3] (h)", "float[1,12,1,1] scores"),
    "[N, 1, K]": (9, "scores = Unsqueeze[1] (h)", "float[1,1,12] scores"),
}


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21, 26])
@pytest.mark.parametrize("name", ANSWERS)
def test_answer(name: str, opset: int) -> None:
    since, lines, out = ANSWERS[name]
    if opset < since:
        return
    weights = f"{HIDDEN_WEIGHTS}, float[12,1] w0, float[1] b0"
    assert_lifted(net(f"{HIDDEN} {lines}", weights, opset=opset, out=out))


def test_topk_of_old() -> None:
    out = "float[1,3] scores, int64[1,3] places"
    assert_lifted(
        net(f"{HIDDEN} scores, places = TopK <axis = 1, k = 3> (h)", HIDDEN_WEIGHTS, opset=9, out=out)
    )
