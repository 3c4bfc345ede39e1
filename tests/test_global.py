"""Whole-image ops in the trunk: refused with node and reason, converted when allowed, the deviation told."""

from __future__ import annotations

from collections.abc import Sequence

import law
import numpy as np
import pytest
from done import Done, convert
from gates import DENSE, DOWN, FIXED, GATES, HELD, MIXING, THEN, model_of
from trunks import FLAT, GAP, net

import surgery


def assert_runs(done: Done, sizes: Sequence[tuple[int, int]] = ((21, 27), (22, 26))) -> None:
    """The converted model runs at other sizes, for two images at once as for each alone."""
    for size in sizes:
        images = [law.random_image(done.model, size, seed=s) for s in (1, 2)]
        both = law.run(done.proto, np.concatenate(images))["scores"]
        assert both.shape[2:] == done.geometry.grid(size)
        for i, image in enumerate(images):
            law.assert_close(both[i : i + 1], law.run(done.proto, image)["scores"], f"image {i} of a batch")


def assert_measured(done: Done) -> None:
    """The crops are measured, and need not agree; the windows do."""
    assert done.result.verdict == "global"
    assert done.geometry.touched == 1
    crops = [c for c in done.proof.checks if c.name == "crops"]
    windows = [c for c in done.proof.checks if c.name == "windows"]
    assert len(crops) == len(windows) == 2
    assert all(not c.required and c.max_error is not None for c in crops)
    assert all(c.required and c.passed for c in windows)
    assert all(f"{c.max_error:.2g}" in str(done.proof) for c in crops)


@pytest.mark.parametrize(("lines", "root", "back"), GATES.values(), ids=GATES.keys())
def test_a_gate_is_refused_and_converted_when_allowed(lines: str, root: str, back: str) -> None:
    model = model_of(DOWN + lines + THEN)
    says = rf"verdict global: {root}: what it takes from every position returns to the map at {back}"
    with pytest.raises(surgery.Refused, match=says) as caught:
        surgery.convert(model)
    assert "--allow-global" in str(caught.value)
    assert "--exact" in str(caught.value)
    assert caught.value.op == root.split()[0]
    done = convert(model, allow_global=True)
    assert_measured(done)
    assert_runs(done)


@pytest.mark.parametrize(("lines", "reason"), MIXING.values(), ids=MIXING.keys())
def test_mixing_is_refused_and_converted_when_allowed(lines: str, reason: str) -> None:
    model = model_of(DOWN + lines + THEN)
    with pytest.raises(surgery.Refused, match=f"verdict global: {reason}"):
        surgery.convert(model)
    done = convert(model, allow_global=True)
    assert_measured(done)
    assert_runs(done)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21])
@pytest.mark.parametrize("head", [GAP, FLAT], ids=["pooled", "flat"])
def test_a_gate_at_every_opset(opset: int, head: str) -> None:
    lines = f"g = GlobalAveragePool (c) f = Flatten (g) {DENSE} u = Reshape (s, back) m = Mul (u, c)"
    done = convert(model_of(DOWN + lines + THEN, opset, head, 4 if head == GAP else 352), allow_global=True)
    assert_measured(done)
    assert_runs(done)


@pytest.mark.parametrize("name", ["squeeze-excite", "mean and deviation"])
def test_windows_are_those_of_the_original_on_the_whole_image(name: str) -> None:
    """The original runs at any size here: its own trunk is the oracle, and the crops are told apart."""
    model = model_of(DOWN + GATES[name][0] + THEN)
    done = convert(model, allow_global=True)
    law.assert_equals_windows(model, done.proto, (22, 28), {"map": 1})
    with pytest.raises(AssertionError, match="off by"):
        law.assert_equals_crops(model, done.proto, (22, 28), (2, 2))


def test_statistics_over_channels_alone_keep_the_positions() -> None:
    model = model_of(f"{DOWN} m = MeanVarianceNormalization <axes = [1]> (c) {THEN}")
    done = convert(model)
    assert done.result.verdict == "exact"
    law.assert_equals_crops(model, done.proto, (21, 27), (2, 2))


def test_statistics_over_the_batch_are_refused() -> None:
    model = model_of(f"{DOWN} m = MeanVarianceNormalization (c) {THEN}")
    says = r"MeanVarianceNormalization 'm'.*it takes its statistics from all images of a batch together"
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model, allow_global=True)


def test_group_normalization() -> None:
    model = model_of(f"{DOWN} m = GroupNormalization <num_groups = 2> (c, n4, o4) {THEN}", 21)
    with pytest.raises(surgery.Refused, match="GroupNormalization 'm': it takes its statistics"):
        surgery.convert(model)
    done = convert(model, allow_global=True)
    assert_measured(done)
    assert_runs(done)


def test_dynamic_quantisation() -> None:
    lines = """x, xs, xz = DynamicQuantizeLinear (c) y = ConvInteger (x, wi, xz) f = Cast <to = 1> (y)
               k = Mul (xs, wq) map = Mul (f, k)"""
    model = model_of(DOWN + lines)
    says = "DynamicQuantizeLinear 'x': it takes its scale from the whole image.* or quantize statically"
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model)
    done = convert(model, allow_global=True)
    assert_measured(done)
    assert {r.node for r in done.result.reasons} == {"x"}


def test_a_head_that_cannot_be_lifted_says_so_before_the_trunk_that_mixes() -> None:
    """onnxruntime's quantize_dynamic: --allow-global would be refused at the head, so it is no cure."""
    lines = """x, xs, xz = DynamicQuantizeLinear (c) y = ConvInteger (x, wi, xz) f = Cast <to = 1> (y)
               k = Mul (xs, wq) map = Mul (f, k)"""
    head = """g = GlobalAveragePool (map) e = Flatten (g) q, qs, qz = DynamicQuantizeLinear (e)
              m = MatMulInteger (q, wm, qz) n = Cast <to = 1> (m) scores = Mul (n, qs)"""
    model = model_of(f"{DOWN}{lines} {head}", head="")
    says = "cannot lift DynamicQuantizeLinear 'q'.*Quantize statically"
    with pytest.raises(surgery.Refused, match=says) as caught:
        surgery.convert(model)
    assert "--allow-global" not in str(caught.value)
    assert surgery.inspect(model).verdict == "refused"


def test_spatial_attention_stays_a_map() -> None:
    """Maxima and means over channels, a wide Conv, a sigmoid (CBAM's second half): padded, not global."""
    lines = """x = ReduceMean[1] <keepdims = 1> (c) y = ReduceMax[1] <keepdims = 1> (c)
               z = Concat <axis = 1> (x, y) a = Conv <pads = [3, 3, 3, 3]> (z, ws) s = Sigmoid (a)
               m = Mul (c, s)"""
    model = model_of(DOWN + lines + THEN)
    done = convert(model)
    assert (done.result.verdict, done.geometry.margin) == ("padded", ((3, 3), (3, 3)))
    law.assert_equals_windows(model, done.proto, (25, 31), {"map": 1})


def test_a_gate_that_is_an_output_too() -> None:
    """The gate opens for the whole image; the output is the gate of each window's own map."""
    lines = f"g = GlobalAveragePool (c) s = Sigmoid (g) m = Mul (c, s) {THEN}"
    model = model_of(DOWN + lines, out="float[1,4,1,1] s")
    done = convert(model, allow_global=True)
    assert [o["shape"][:2] for o in done.result.outputs] == [["N", 5], ["N", 4]]
    image = law.random_image(model, (21, 27))
    vector = law.run(done.proto, image)["s"]
    for place, answers in law.crops_of(model, image, (2, 2)):
        law.assert_close(law.at(vector, place), answers["s"].reshape(1, -1), f"the gate at {place}")


def test_a_gate_over_flattened_features_is_exact() -> None:
    """What multiplies features that belong to one window already is the head's, and sees the window."""
    lines = """g = GlobalAveragePool (c) s = Sigmoid (g) f = Flatten (s) p = GlobalMaxPool (c) q = Flatten (p)
               m = Mul (f, q) scores = Gemm <transB = 1> (m, wf)"""
    model = model_of(DOWN + lines.replace("wf", "ga"), head="")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    done = convert(model)
    assert done.result.verdict == "exact"
    law.assert_equals_crops(model, done.proto, (21, 27), (2, 2))


@pytest.mark.parametrize(("lines", "says"), FIXED.values(), ids=FIXED.keys())
def test_what_the_window_fixes_is_refused_even_if_allowed(lines: str, says: str) -> None:
    with pytest.raises(surgery.Refused, match=says) as caught:
        surgery.convert(model_of(DOWN + lines + THEN), allow_global=True)
    assert "--exact" in str(caught.value)


def test_a_scale_of_the_whole_batch_of_one_image_is_that_image_s_own() -> None:
    model = model_of(DOWN + "g = ReduceMax <keepdims = 0> (c) m = Div (c, g)" + THEN)
    done = convert(model, allow_global=True)
    assert done.result.verdict == "global"
    assert_runs(done)


@pytest.mark.parametrize("lines", HELD.values(), ids=HELD.keys())
def test_a_gate_that_holds_positions_is_computed_window_by_window(lines: str) -> None:
    """Its weights, or its cells, are the window's: with every window in the batch the answers are exact."""
    model = model_of(DOWN + lines + THEN)
    done = convert(model)
    assert done.result.verdict == "exact"
    law.assert_equals_crops(model, done.proto, (21, 27), (2, 2))
    says = r"the exact engine \(--exact\)|--pure-conv forbids"
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model_of(DOWN + lines + " map = Conv <pads = [1, 1, 1, 1]> (m, w3)"), pure_conv=True)


def test_positions_mixed_by_a_matrix_name_it() -> None:
    """Token mixing: weights for every pair of the window's positions, and a Conv behind."""
    lines = """t = Reshape (c, row) u = MatMul (t, m88) m = Reshape (u, grid)
               k = Conv <pads = [1, 1, 1, 1]> (m, w3) map = Relu (k)"""
    says = r"MatMul 'u'.*it multiplies over positions, and its other side \[88, 88\] fixes how many"
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model_of(DOWN + lines), allow_global=True, pure_conv=True)


@pytest.mark.parametrize("stride", [1, 3])
def test_a_gate_refuses_closer_windows(stride: int) -> None:
    model = model_of(DOWN + GATES["squeeze-excite"][0] + THEN)
    says = r"--stride: GlobalAveragePool 'g': what it takes from every position"
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model, stride=stride, allow_global=True)
    assert convert(model, stride=4, allow_global=True).geometry.stride == (4, 4)


def test_inspect_names_every_reason() -> None:
    result = surgery.inspect(model_of(DOWN + GATES["nested"][0] + THEN))
    assert result.verdict == "global"
    assert {(r.node, r.op) for r in result.reasons} == {("g", "GlobalAveragePool"), ("h", "GlobalMaxPool")}


@pytest.mark.parametrize(
    ("lines", "root"),
    [
        ("map = InstanceNormalization (c, k4, k4)", "InstanceNormalization 'map'"),
        (
            "s = Constant <value = int64[4] {1, 4, 16, 9}> () map = Resize (c, , , s)",
            "Resize 'map'",
        ),
    ],
)
def test_what_a_global_pool_sums_up_may_mix_the_whole_image_all_the_same(lines: str, root: str) -> None:
    """Window by window the op has no meaning in a head; the whole image it can take, if that is allowed."""
    lines = f"k4 = Constant <value = float[4] {{0.5, 1.0, 1.5, 2.0}}> () {DOWN}{lines} "
    model = net(lines, "float[4,2,3,3] w1", 4, opset=17)
    with pytest.raises(surgery.Refused, match=f"verdict global: {root}"):
        surgery.convert(model)
    done = convert(model, allow_global=True)
    assert_measured(done)
    assert_runs(done)


def test_what_wants_a_map_says_where_it_ended() -> None:
    lines = f"{DOWN}s = Softmax <axis = 3> (c) u = ConvTranspose <strides = [2, 2]> (s, wt) map = Relu (u)"
    model = net(lines, "float[4,2,3,3] w1, float[4,4,2,2] wt", 4)
    words = "cannot lift ConvTranspose 'u'.*had already ended at Softmax 's': it normalises over positions"
    with pytest.raises(surgery.Refused, match=words):
        surgery.convert(model)
