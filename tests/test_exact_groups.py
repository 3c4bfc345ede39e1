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
from surgery.memory import peak
from surgery.workload import workload

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
    monkeypatch.setattr(groups, "HEAVY", 0)  # so that there is no loop, which packs them once
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
def test_there_are_no_more_copies_than_the_graph_should_hold(sides: list[int], most: int) -> None:
    grid, op = tuple(sides), SimpleNamespace(outputs=(), kind="Relu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "NODES", most)
        patch.setattr(groups, "PLAIN", most)
        old, new = (groups.grouping([op], None, grid, opset) for opset in (9, 17))  # type: ignore[list-item, arg-type]
    for found in (old, new):
        assert np.prod([-(-n // c) for n, c in zip(grid, found.box, strict=True)]) <= most
    assert not old.turn  # before opset 10 no Slice takes its places from another tensor
    assert new.turn in (0, *range(1, groups.TURN + 1))


@given(st.integers(1, 2000), st.integers(1, 40))
def test_turns_are_alike_and_make_up_few_windows(windows: int, fit: int) -> None:
    at_once = groups.turn_of(windows, fit)
    assert min(windows, fit - fit // 3) / 2 < at_once <= min(windows, fit + fit // 3)
    assert -windows % at_once <= -windows % fit


def bodies(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The graph of a model and the bodies of its Scans, each within the one before."""
    found = [model.graph]
    while scans := [n for n in found[-1].node if n.op_type == "Scan"]:
        (node,) = scans
        found += [a.g for a in node.attribute if a.name == "body"]
    return found


@pytest.mark.parametrize("gathers", [False, True])
def test_many_windows_are_a_loop_over_images_and_windows(gathers: bool) -> None:
    model = net(TOKENS)
    with forced(groups=2, loop=True, gathers=gathers):
        (made,) = cuts(model, SIZE, (2, 2), [0])
        assert_every_cut(model, SIZE, (2, 2), count=3)
    graph, image, turn = bodies(made.proto)
    seen = [Counter(n.op_type for n in g.node) for g in (graph, image, turn)]
    assert seen[2]["Softmax"] == seen[2]["Conv"] == 1
    assert seen[0]["Gemm"] == 2  # which only read weights
    assert {t.name for t in turn.initializer} >= {"w1", "wq"}
    told = {i for n in image.node for i in n.input if n.op_type == "Scan"}
    assert told
    assert all(t.dims[0] == 8 for t in image.initializer if t.name in told)  # turns, of 15 windows
    assert not {t.name for t in turn.initializer} & {t.name for t in graph.initializer}


def test_a_loop_gives_nothing_that_was_read_for_its_size_alone() -> None:
    sized = TOKENS.replace("s = Softmax <axis = -1> (m)", "w = Shape (q) v = Reshape (q, w) ")
    sized = sized.replace(
        "y = MatMul (s, t)", "n = Shape (m) u = Reshape (m, n) s = Softmax (u) y = MatMul (s, v)"
    )
    with forced(groups=4, loop=True):
        (made,) = cuts(net(sized), SIZE, (2, 2), [0])
        assert_every_cut(net(sized), SIZE, (2, 2))
    (scan,) = [n for n in made.proto.graph.node if n.op_type == "Scan"]
    assert len(scan.output) == 1


def test_what_is_made_of_constants_alone_goes_into_the_loop() -> None:
    lines = "again = Identity (wq) " + TOKENS.replace("MatMul (t, wq)", "MatMul (t, again)")
    head = (
        "f = Flatten (y) z = Gemm <transB = 1> (f, wf) r = MatMul (wq, wq) o = ReduceSum (r) u = Add (z, o) "
    )
    model = net(lines, f"{head} scores = Gemm <transB = 1> (u, wh)")
    before = model.SerializeToString()
    with forced(groups=4, loop=True):
        assert_every_cut(model, SIZE, (2, 2))
        (made,) = cuts(model, SIZE, (2, 2), [0])
    turn = bodies(made.proto)[-1]
    assert "Identity" in {n.op_type for n in turn.node}
    read = {i for n in turn.node for i in n.input if n.op_type == "Identity"}
    assert read <= {t.name for t in turn.initializer}
    assert model.SerializeToString() == before


def test_a_body_too_heavy_for_one_graph_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "HEAVY", 100)
    with forced(groups=4, loop=True):
        (made,) = cuts(net(TOKENS), SIZE, (2, 2), [0])
    assert len(bodies(made.proto)) == 1
    assert sum(n.op_type == "Softmax" for n in made.proto.graph.node) == 5


@pytest.mark.parametrize(("fit", "scans"), [(8, 1), (15, 0)])
def test_windows_that_fit_into_one_group_are_no_loop(fit: int, scans: int) -> None:
    with forced(groups=fit, loop=True):
        (made,) = cuts(net(TOKENS), SIZE, (2, 2), [0])
    assert sum(n.op_type == "Scan" for n in made.proto.graph.node) == scans


@pytest.mark.parametrize("loop", [True, False])
def test_the_report_names_a_loop_and_who_does_not_load_it(loop: bool) -> None:
    with forced(groups=4, loop=loop):
        made = surgery.convert(net(TOKENS), sizes=[SIZE], exact=True, stride=2)
        asked = surgery.inspect(net(TOKENS), size=SIZE, exact=True, stride=2)
    line = "loop: that batch runs in an ONNX Scan, a few windows at a time; OpenVINO and tract load none"
    assert (line in made.notes, line in asked.notes) == (loop, loop)


def test_the_memory_of_a_loop_is_that_of_one_turn() -> None:
    """Turns of 3 windows take less than turns of 5."""
    peaks = []
    for count in (3, 5):
        with forced(groups=count, loop=True):
            (made,) = cuts(net(TOKENS), SIZE, (2, 2), [0])
        peaks.append(peak(made.proto))
    widest = 4 * 16 * 16  # bytes of a window's attention over 16 tokens
    assert 2 * widest <= peaks[1] - peaks[0] <= 6 * widest  # of 2 windows


def test_the_work_of_a_loop_is_that_of_its_turns() -> None:
    """Groups of 5 and 3 divide 15 windows, so that no window runs twice."""
    image = {"image": np.zeros((1, 2, *SIZE), np.float32)}
    counts = []
    for forcing in ({}, {"groups": 5, "loop": True}, {"groups": 3, "loop": True}, {"groups": 3}):
        with forced(**forcing):
            (made,) = cuts(net(TOKENS), SIZE, (2, 2), [0])
        counts.append(workload(made.proto, image).multiply_adds)
    assert (
        counts
        == [15 * workload(net(TOKENS), {"image": np.zeros((1, 2, 8, 8), np.float32)}).multiply_adds] * 4
    )
