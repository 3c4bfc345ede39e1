"""Statistics of a window: its variance, its norm, a softmax over its positions that is summed up again."""

from __future__ import annotations

import nets
import pytest
from done import convert
from heads import SIZES, assert_lifted, net

import surgery

CENTRED = "u = ReduceMean[2, 3] <keepdims = 1> (map) d = Sub (map, u)"
VARIANCE = f"{CENTRED} q = Mul (d, d) v = ReduceMean[2, 3] <keepdims = 1> (q)"
END = "f = Flatten (v) scores = MatMul (f, w)"

LIFTED = {
    "variance": f"{VARIANCE} {END}",
    "deviation, unbiased": f"{VARIANCE} n = 24.0 m = 23.0 a = Mul (v, n) b = Div (a, m) v2 = Sqrt (b) "
    "f = Flatten (v2) scores = MatMul (f, w)",
    "mean and deviation": f"{VARIANCE} s = Sqrt (v) j = Concat <axis = 1> (u, s) f = Flatten (j) scores = "
    "MatMul (f, w6)",
    "third moment": f"{CENTRED} p = 3.0 q = Pow (d, p) v = ReduceSum[2, 3] <keepdims = 1> (q) {END}",
    "kurtosis": f"{VARIANCE} e = Sqrt (v) z = Div (d, e) p = 4.0 k = Pow (z, p) v2 = GlobalAveragePool (k) "
    "f = Flatten (v2) scores = MatMul (f, w)",
    "of a row of positions": "r = [0, 0, -1] t = Reshape (map, r) u = ReduceMean[2] <keepdims = 1> (t) d = "
    "Sub (t, u) "
    "q = Mul (d, d) v = ReduceMean[2] <keepdims = 0> (q) scores = MatMul (v, w)",
    "log-sum-exp by hand": "u = ReduceMax[2, 3] <keepdims = 1> (map) d = Sub (map, u) e = Exp (d) "
    "s = ReduceSum[2, 3] <keepdims = 1> (e) l = Log (s) v = Add (l, u) "
    "f = Flatten (v) scores = MatMul (f, w)",
    "contrast": "a = GlobalMaxPool (map) c = Neg (map) b = GlobalMaxPool (c) r = Add (a, b) m = Div (map, r) "
    "v = GlobalAveragePool (m) f = Flatten (v) scores = MatMul (f, w)",
    "a norm with weights of the window": f"{VARIANCE} o = 0.1 e = Add (v, o) s = Sqrt (e) z = Div (d, s) "
    "k = Mul (z, positions) f = Flatten (k) scores = MatMul (f, w72)",
    "expected position": "r = [1, 3, 24] t = Reshape (map, r) p = Softmax <axis = 2> (t) b = [1, 3, 4, 6] "
    "q = Reshape (p, b) y = Mul (q, positions) v = ReduceSum[2, 3] <keepdims = 1> (y) "
    "f = Flatten (v) scores = MatMul (f, w)",
}  # fmt: skip
WEIGHTS = "float[3,5] w, float[6,5] w6, float[72,5] w72, float[3,4,6] positions"


@pytest.mark.parametrize("opset", [9, 13, 18])
@pytest.mark.parametrize("name", LIFTED)
def test_a_statistic_of_every_window(name: str, opset: int) -> None:
    done = assert_lifted(net(LIFTED[name], WEIGHTS, opset=opset))
    assert done.result.verdict == "exact"
    assert surgery.validate(done.model, done.proto).passed
    assert surgery.inspect(done.model).verdict == "exact"


def test_the_report_says_that_windows_are_taken_apart() -> None:
    done = convert(net(LIFTED["variance"], WEIGHTS))
    assert "from ReduceMean 'u' on each window is taken apart: all of its cells are features" in "\n".join(
        done.result.notes
    )


@pytest.mark.parametrize("allow_global", [False, True])
def test_what_is_allowed_changes_nothing_where_the_crops_answers_can_be_had(allow_global: bool) -> None:
    assert_lifted(net(LIFTED["variance"], WEIGHTS), SIZES[:1], allow_global=allow_global)


GLOBAL = {
    "a norm of the map": f"{VARIANCE} s = Sqrt (v) z = Div (d, s) f = Flatten (z) scores = MatMul (f, w72)",
    "a gate with weights": "u = GlobalAveragePool (map) g = Conv (u, k) s = Sigmoid (g) m = Mul (map, s) "
    "v = GlobalAveragePool (m) f = Flatten (v) scores = MatMul (f, w)",
    "a Conv behind it": f"{CENTRED} c = Conv (d, k3) v = GlobalAveragePool (c) f = Flatten (v) scores = "
    "MatMul (f, w)",
    "a map that is an output": f"{VARIANCE} f = Flatten (v) scores = MatMul (f, w)",
}  # fmt: skip


@pytest.mark.parametrize("name", GLOBAL)
def test_what_goes_on_as_a_map_stays_global(name: str) -> None:
    out = "float[1,5] scores, float[1,3,4,6] d" if "output" in name else "float[1,5] scores"
    weights = f"{WEIGHTS}, float[3,3,1,1] k, float[3,3,2,2] k3"
    with pytest.raises(surgery.Refused, match="verdict global"):
        surgery.convert(net(GLOBAL[name], weights, out=out))


def test_the_gate_of_the_fixture_stays_global() -> None:
    assert surgery.inspect(nets.load("gate")).verdict == "global"
