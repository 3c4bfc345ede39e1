"""Parts of features, features in other shapes, and the answers made of them."""

from __future__ import annotations

import re

import pytest
from heads import assert_lifted, at_opsets, net

HIDDEN = "f = Flatten (map) h = Gemm (f, w1, b1)"
WEIGHTS = "float[72,12] w1, float[12] b1"
LAST = "scores = Gemm (y, w2, b2)"
LAST_WEIGHTS = "float[12,5] w2, float[5] b2"

# ------------------------------------------------ parts, and other shapes

PARTS = {
    "Split, Concat": "{split2} y = Concat <axis = 1> (b, a)",
    "Split of Split": "{split2} m = Mul (a, b) y = Concat <axis = 1> (m, a)",
    "Slice": "{slice:0, 6} {slice:6, 12} y = Concat <axis = 1> (s6, s0)",
    "Gather": "i = [3, 3, 0, 11, 5, 6, 7, 8, 9, 1, 2, 4] y = Gather <axis = 1> (h, i)",
    "Gather from the end": "i = [-12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1] y = Gather <axis "
    "= -1> (h, i)",
    "Gather of one": ("i = 2 g = Gather <axis = 1> (h, i) u = Unsqueeze[1] (g) y = Add (h, u)"),
    "Gather of a table": "i = Constant <value = int64[3,4] {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}> "
    "() g = Gather <axis = 1> (h, i) y = Flatten (g)",
    "Reshape, Transpose, Flatten": "r = [0, 3, 4] u = Reshape (h, r) t = Transpose <perm = [0, 2, "
    "1]> (u) y = Flatten (t)",
    "Transpose of [N, K, 1, 1]": "u = Unsqueeze[2, 3] (h) t = Transpose <perm = [0, 2, 3, 1]> (u) y "
    "= Flatten (t)",
    "maximum of groups (maxout)": "r = [0, 6, 2] u = Reshape (h, r) m = ReduceMax[2] <keepdims = 0> "
    "(u) y = Concat <axis = 1> (m, m)",
    "mean of groups": "r = [0, 6, 2] u = Reshape (h, r) m = ReduceMean[2] <keepdims = 0> (u) y = "
    "Concat <axis = 1> (m, m)",
    "Expand": "n = ReduceMean[1] <keepdims = 1> (h) s = [1, 12] y = Expand (n, s)",
    "Expand that adds a dim": "u = Unsqueeze[1] (h) s = [1, 3, 12] e = Expand (u, s) y = "
    "ReduceMean[1] <keepdims = 0> (e)",
    "Expand to what it is": "s = [1, 1] y = Expand (h, s)",
    "Tile": "{slice:0, 6} s = [1, 2] y = Tile (s0, s)",
    "Tile of groups": "r = [0, 3, 2] {slice:0, 6} u = Reshape (s0, r) s = [1, 2, 1] t = Tile (u, s) "
    "y = Flatten (t)",
    "CumSum": "i = 1 y = CumSum (h, i)",
    "CumSum from the end": "i = -1 y = CumSum <reverse = 1, exclusive = 1> (h, i)",
    "Softmax, weighted mean": "p = Softmax <axis = 1> (h) m = Mul (p, h) s = ReduceSum[1] <keepdims "
    "= 1> (m) y = Add (h, s)",
}


def with_parts(lines: str, opset: int) -> str:
    split = "a, b = Split <axis = 1> (h)" if opset < 18 else "a, b = Split <axis = 1, num_outputs = 2> (h)"
    lines = lines.replace("{split2}", split)

    def slices(match: re.Match[str]) -> str:
        start, end = match[1], match[2]
        if opset < 10:
            return f"s{start} = Slice <axes = [1], starts = [{start}], ends = [{end}]> (h)"
        return (
            f"a{start} = [{start}] e{start} = [{end}] x{start} = [1] "
            f"s{start} = Slice (h, a{start}, e{start}, x{start})"
        )

    return re.sub(r"\{slice:(\d+), (\d+)\}", slices, lines)


@pytest.mark.parametrize(("name", "opset"), at_opsets(PARTS))
def test_parts_and_shapes(name: str, opset: int) -> None:
    if opset < 11 and name.startswith("CumSum"):
        return
    assert_lifted(
        net(f"{HIDDEN} {with_parts(PARTS[name], opset)} {LAST}", f"{WEIGHTS}, {LAST_WEIGHTS}", opset=opset)
    )


STEPS = {
    "every second": (0, 99, 2),
    "backwards": (-1, -99, -1),
    "backwards by two": (11, -99, -2),
    "from the end": (-4, 99, 1),
}


@pytest.mark.parametrize("name", STEPS)
def test_slice_by_steps(name: str) -> None:
    start, end, step = STEPS[name]
    lines = f"a = [{start}] e = [{end}] x = [1] t = [{step}] scores = Slice (h, a, e, x, t)"
    count = len(range(12)[slice(start, None if end < 0 else end, step)])
    assert_lifted(net(f"{HIDDEN} {lines}", WEIGHTS, out=f"float[1,{count}] scores"))


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
            WEIGHTS,
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
        "z = 0.1 g = Greater (h, z) l = Less (h, b1) o = Or (g, l) a = And (g, o) n = Not (a) scores "
        "= Cast <to = 1> (n)",
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


@pytest.mark.parametrize(("name", "opset"), at_opsets(ANSWERS))
def test_answer(name: str, opset: int) -> None:
    _, lines, out = ANSWERS[name]
    weights = f"{WEIGHTS}, float[12,1] w0, float[1] b0"
    assert_lifted(net(f"{HIDDEN} {lines}", weights, opset=opset, out=out))


def test_topk_of_old() -> None:
    out = "float[1,3] scores, int64[1,3] places"
    assert_lifted(net(f"{HIDDEN} scores, places = TopK <axis = 1, k = 3> (h)", WEIGHTS, opset=9, out=out))
