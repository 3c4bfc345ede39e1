"""The exact engine runs a few windows at a time: which ops, how many windows, and the same answers."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import nets
import numpy as np
import onnx
import pytest
from exactly import assert_every_cut, cuts, forced
from hypothesis import given
from hypothesis import strategies as st

import surgery
from surgery import groups

STEM = "a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (image, w1) b = Relu (a) "  # [1, 4, 4, 4]
TOKENS = (
    "sides = Constant <value = int64[3] {1, 4, 16}> () c = Reshape (b, sides) "
    "t = Transpose <perm = [0, 2, 1]> (c) q = MatMul (t, wq) k = Transpose <perm = [0, 2, 1]> (q) "
    "m = MatMul (q, k) s = Softmax <axis = -1> (m) y = MatMul (s, t) "
)
HEAD = "f = Flatten (y) h = Gemm <transB = 1> (f, wf) r = Relu (h) scores = Gemm <transB = 1> (r, wh)"
SIZE = (16, 12)  # a grid of 5 rows and 3 columns, every 2 pixels


def net(lines: str, head: str = HEAD) -> onnx.ModelProto:
    """A net of attention over 16 tokens of 4 values, and a head of fully connected layers."""
    return nets.parse(
        '<ir_version: 9, opset_import: ["": 17]> net (float[1,2,8,8] image) => (float[1,5] scores) '
        "<float[4,2,3,3] w1, float[4,4] wq, float[32,64] wf, float[5,32] wh, float[16,16] wm> "
        f"{{ {STEM}{lines}{head} }}"
    )


def kinds(model: onnx.ModelProto, cut: int = 0) -> Counter[str]:
    """How often each op is in the exact model, its windows one row of the grid at a time."""
    with forced(groups=3):
        (made,) = cuts(model, SIZE, (2, 2), [cut])
    return Counter(node.op_type for node in made.proto.graph.node)


def test_tokens_run_a_row_at_a_time_and_layers_that_only_read_weights_once() -> None:
    seen = kinds(net(TOKENS))
    assert seen["Softmax"] == seen["Conv"] == 5
    assert seen["Gemm"] == 2
    assert seen["MatMul"] == 3 * 5


@pytest.mark.parametrize("cut", [0, -1])
def test_matrices_are_not_packed_for_many_groups(monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    monkeypatch.setattr(groups, "ALIVE", 0.01)  # 153 bytes: two of the packed matrix of 64
    seen = kinds(net(TOKENS), cut)
    assert seen["Softmax"] == 2
    assert seen["Gemm"] == 2


def test_what_a_gate_is_made_of_runs_with_it() -> None:
    gate = "p = GlobalAveragePool (b) e = Conv (p, wg1) g = Conv (e, wg2) y = Mul (b, g) "
    model = nets.parse(
        '<ir_version: 9, opset_import: ["": 17]> net (float[1,2,8,8] image) => (float[1,5] scores) '
        "<float[4,2,3,3] w1, float[32,4,1,1] wg1, float[4,32,1,1] wg2, float[32,64] wf, float[5,32] wh> "
        f"{{ {STEM}{gate}{HEAD} }}"
    )
    seen = kinds(model)
    assert seen["Mul"] == seen["GlobalAveragePool"] == 5
    assert seen["Conv"] == 15
    assert seen["Gemm"] == 2
    with forced(groups=3):
        assert_every_cut(model, SIZE, (2, 2))


def test_tokens_before_the_batch_are_joined_by_the_batch() -> None:
    """The rows that reach the wide layer are tokens times windows: no window's rows lie side by side."""
    apart = (
        TOKENS + "z = Transpose <perm = [1, 0, 2]> (y) rows = Constant <value = int64[2] {16, 4}> () "
        "x = Reshape (z, rows) w = MatMul (x, wide) back = Constant <value = int64[3] {16, 1, 2000}> () "
        "v = Reshape (w, back) u = Transpose <perm = [1, 0, 2]> (v) "
    )
    model = nets.parse(
        '<ir_version: 9, opset_import: ["": 17]> net (float[1,2,8,8] image) => (float[1,2000] scores) '
        "<float[4,2,3,3] w1, float[4,4] wq, float[4,2000] wide> "
        f"{{ {STEM}{apart}scores = ReduceMean <axes = [1], keepdims = 0> (u) }}"
    )
    with forced(groups=3), pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "bound_by_weights", lambda op, windows: "wide" in op.inputs)
        (made,) = cuts(model, SIZE, (2, 2), [0])
        assert sum(node.op_type == "Softmax" for node in made.proto.graph.node) == 5
        wide = [node for node in made.proto.graph.node if "wide" in node.input]
        assert len(wide) == 1
        assert_every_cut(model, SIZE, (2, 2))


def test_what_a_softmax_hides_is_compared_whatever_runs_in_groups() -> None:
    """The rows of a wide head are not read often enough to keep it, and its softmax, behind the groups."""
    head = "f = Flatten (y) h = Gemm <transB = 1> (f, wf) z = Gemm <transB = 1> (h, wh) p = Softmax (z) "
    model = net(TOKENS, f"{head} scores = Identity (p)")
    with forced(groups=3), pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "bound_by_weights", lambda op, windows: False)
        result = surgery.convert(model, sizes=[SIZE], exact=True, stride=2)
    assert result.proto is not None
    assert result.proof is not None
    assert sum(node.op_type == "Gemm" for node in result.proto.graph.node) == 2 * 5
    for check in result.proof.checks:
        assert "softmax input of scores" in check.compared


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6])
def test_tokens_answer_as_the_crops(count: int) -> None:
    with forced(groups=count):
        assert_every_cut(net(TOKENS), SIZE, (2, 2))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.floats(1, 2000))
def test_a_group_is_part_of_a_row_or_some_whole_rows(sides: list[int], fit: float) -> None:
    grid = tuple(sides)
    shape = groups.group_of(grid, fit)
    assert all(1 <= c <= n for c, n in zip(shape, grid, strict=True))
    split = next((k for k, c in enumerate(shape) if c > 1), len(grid) - 1)
    assert shape[split + 1 :] == grid[split + 1 :]
    assert fit / 2 < np.prod(shape) < fit * 2 or np.prod(shape) == np.prod(grid) <= fit


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 400))
def test_there_are_no_more_groups_than_the_graph_should_hold(sides: list[int], most: int) -> None:
    grid, op = tuple(sides), SimpleNamespace(outputs=(), kind="Relu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "NODES", most)
        shape = groups.windows_at_once([op], None, grid)  # type: ignore[list-item, arg-type]
    assert np.prod([-(-n // c) for n, c in zip(grid, shape, strict=True)]) <= most
