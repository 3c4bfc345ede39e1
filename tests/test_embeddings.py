"""Tables that are read at places which features name: a row of the table at every position."""

from __future__ import annotations

import pytest
from heads import assert_lifted, at_opsets, net

BEST = "f = Flatten (map) h = MatMul (f, w)"
READ = {
    "a row": (
        f"{BEST} a = ArgMax <axis = 1, keepdims = 0> (h) scores = Gather <axis = 0> (table, a)",
        "float[1,8] scores",
    ),
    "a row in a dim of its own": (
        f"{BEST} a = ArgMax <axis = 1, keepdims = 1> (h) scores = Gather <axis = 0> (table, a)",
        "float[1,1,8] scores",
    ),
    "several rows": (
        f"{BEST} k = [3] v, a = TopK (h, k) e = Gather <axis = 0> (table, a) m = ReduceMean[1] "
        "<keepdims = 0> (e) scores = MatMul (m, w8)",
        "float[1,3] scores",
    ),
    "a number": (
        f"{BEST} a = ArgMax <axis = 1, keepdims = 0> (h) scores = Gather <axis = 0> (prices, a)",
        "float[1] scores",
    ),
    "a matrix": (
        f"{BEST} a = ArgMax <axis = 1, keepdims = 0> (h) scores = Gather <axis = 0> (matrices, a)",
        "float[1,2,3] scores",
    ),
    "a row for a class without a batch": (
        f"{BEST} q = Squeeze (h) a = ArgMax <axis = 0, keepdims = 0> (q) scores = Gather <axis = 0> "
        "(table, a)",
        "float[8] scores",
    ),
    "codes of the window's cells": (
        "k = 0.8 z = 0.0 e = 4.0 m = Mul (map, k) c = Clip (m, z, e) i = Cast <to = 7> (c) f = Flatten (i) "
        "t = Gather <axis = 0> (table, f) v = ReduceMean[1] <keepdims = 0> (t) scores = MatMul (v, w8)",
        "float[1,3] scores",
    ),
}
WEIGHTS = "float[72,5] w, float[5,8] table, float[5] prices, float[5,2,3] matrices, float[8,3] w8"


@pytest.mark.parametrize(("name", "opset"), at_opsets(READ, least=11))
def test_a_table_is_read_at_every_position(name: str, opset: int) -> None:
    lines, out = READ[name]
    assert_lifted(net(lines, WEIGHTS, opset=opset, out=out))
