"""Rare turns of a head: each lifted rightly, or refused for its own reason."""

from __future__ import annotations

import law
import numpy as np
import onnx
import pytest
from heads import assert_lifted, net
from onnx import numpy_helper

import surgery

HIDDEN = "f = Flatten (map) h = Gemm (f, w1, b1)"
WEIGHTS = "float[72,12] w1, float[12] b1"
GROUPS = "r = [0, 3, 4] u = Reshape (h, r)"

LIFTED = {
    "rows and features of fewer dims": (
        f"{HIDDEN} {GROUPS} m = MatMul (u, v) g = Gemm (f, w5, b5) scores = Add (m, g)",
        "float[4,5] v, float[72,5] w5, float[5] b5",
        "float[1,3,5] scores",
    ),
    "rows clipped from above": (
        f"{HIDDEN} {GROUPS} m = MatMul (u, v) z = 0.1 scores = Clip (m, , z)",
        "float[4,5] v",
        "float[1,3,5] scores",
    ),
    "rows read by an op that cannot stay folded": (
        f"{HIDDEN} {GROUPS} m = MatMul (u, v) k = [2] scores, p = TopK <axis = 2> (m, k)",
        "float[4,5] v",
        "float[1,3,2] scores",
    ),
    "rows read twice": (
        f"{HIDDEN} {GROUPS} m = MatMul (u, v) a = ReduceMax[2] <keepdims = 1> (m) b = ReduceMin[2] "
        f"<keepdims = 1> (m) "
        "scores = Sub (a, b)",
        "float[4,5] v",
        "float[1,3,1] scores",
    ),
    "an activation of a window in another order": (
        "t = Transpose <perm = [0, 2, 3, 1]> (map) f = Flatten (t) m = Mul (f, s) y = Tanh (m) "
        "scores = MatMul (y, v)",
        "float[72] s, float[72,5] v",
        "float[1,5] scores",
    ),
    "windows expanded": (
        "r = [1, 1, 72] f = Reshape (map, r) s = [1, 2, 72] e = Expand (f, s) g = Flatten (e) scores "
        "= MatMul (g, v)",
        "float[144,5] v",
        "float[1,5] scores",
    ),
    "windows tiled": (
        "f = Flatten (map) s = [1, 2] e = Tile (f, s) scores = MatMul (e, v)",
        "float[144,5] v",
        "float[1,5] scores",
    ),
    "a pool over a part of the window": (
        "r = [1, 3, 24] f = Reshape (map, r) c = [0, 2] g = Gather <axis = 1> (f, c) m = "
        "ReduceMean[2] <keepdims = 0> (g) "
        "scores = MatMul (m, v)",
        "float[2,5] v",
        "float[1,5] scores",
    ),
    "a pool over some rows of the window": (
        "r = [1, 3, 4, 6] f = Reshape (map, r) t = Transpose <perm = [0, 1, 3, 2]> (f) i = [1, 2] "
        "g = Gather <axis = 3> (t, i) m = ReduceMax[2, 3] <keepdims = 0> (g) scores = MatMul (m, v)",
        "float[3,5] v",
        "float[1,5] scores",
    ),
    "a pool over cells that are no box": (
        "r = [1, 3, 24] f = Reshape (map, r) i = [0, 5, 11] g = Gather <axis = 2> (f, i) "
        "m = ReduceMean[2] <keepdims = 0> (g) scores = MatMul (m, v)",
        "float[3,5] v",
        "float[1,5] scores",
    ),
    "a mean of one value": (
        f"{HIDDEN} u = Unsqueeze[2] (h) scores = ReduceMean[2] <keepdims = 0> (u)",
        "",
        "float[1,12] scores",
    ),
    "a mean over no dim": (
        f"{HIDDEN} scores = ReduceMean <noop_with_empty_axes = 1> (h)",
        "",
        "float[1,12] scores",
    ),
    "one answer under two names": (
        f"{HIDDEN} scores = Identity (h) again = Identity (h)",
        "",
        "float[1,12] scores, float[1,12] again",
    ),
    "channels in two dims of the map": (
        "r = [1, 1, 3, 4, 6] e = Reshape (map, r) g = Relu (e) t = Transpose <perm = [0, 1, 3, 4, "
        "2]> (g) f = Flatten (t) "
        "scores = MatMul (f, v)",
        "float[72,5] v",
        "float[1,5] scores",
    ),
    "one cell of the map as it is": (
        "p = GlobalMaxPool (map) q = Neg (p) f = Flatten (q) m = Mul (f, s) y = Tanh (m) scores = "
        "MatMul (y, v)",
        "float[3] s, float[3,5] v",
        "float[1,5] scores",
    ),
    "NaN where the original has it": (f"{HIDDEN} l = Log (h) scores = Sqrt (l)", "", "float[1,12] scores"),
}


@pytest.mark.parametrize("name", LIFTED)
def test_lifted(name: str) -> None:
    lines, weights, out = LIFTED[name]
    model = net(lines, f"{WEIGHTS}, {weights}".strip(", "), opset=18, out=out)
    if name.startswith("NaN"):
        assert surgery.convert(model).proof.passed  # type: ignore[union-attr]
    else:
        assert_lifted(model)


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("last", ["Softmax <axis = 1>", "Sigmoid", "LogSoftmax <axis = 1>"])
def test_probabilities_made_probabilities_again(last: str, opset: int) -> None:
    """What goes into the last of two is laid out otherwise, and hides nothing that the first does not."""
    lines = f"{HIDDEN} p = Softmax <axis = 1> (h) scores = {last} (p)"
    assert_lifted(net(lines, WEIGHTS, opset=opset, out="float[1,12] scores"))


STATIC = {
    "a weight": ("float[5] b", "", np.float32),
    "a shape": ("int64[4] other", "other = Shape (map)", np.int64),
    "the shape of the answer": ("int64[2] other", "other = Shape (scores)", np.int64),
    "a constant": ("float[5] other", "other = Exp (b)", np.float32),
}


@pytest.mark.parametrize("name", STATIC)
def test_an_output_that_no_pixel_reaches_stays_what_it_is_at_the_window(name: str) -> None:
    out, lines, dtype = STATIC[name]
    model = net(
        f"f = Flatten (map) scores = Gemm (f, w, b) {lines}",
        "float[72,5] w, float[5] b",
        out=f"float[1,5] scores, {out}",
    )
    proto = surgery.convert(model).proto
    assert proto is not None
    small, large = (law.random_image(model, size) for size in ((9, 8), (14, 10)))
    key = out.split()[1]
    want, got = law.run(model, small)[key], law.run(proto, large)[key]
    assert want.dtype == got.dtype == dtype
    assert np.array_equal(want, got)


REFUSED = {
    "features as a matrix": (
        f"{HIDDEN} a = ReduceMax[1] <keepdims = 1> (h) scores = Gemm (a, h)",
        "",
        r"cannot lift Gemm 'scores' -> 'scores': its matrix depends on the image",
    ),
    "a Conv over flattened cells": (
        "r = [1, 3, 24] f = Reshape (map, r) t = Transpose <perm = [0, 2, 1]> (f) c = Conv (t, k) g "
        "= Flatten (c) "
        "scores = MatMul (g, v)",
        "float[2,24,2] k, float[4,5] v",
        r"Conv 'c'.*(would run once for every window|no map any more|no longer a map)",
    ),
    "a Conv with weights of the image": (
        f"{HIDDEN} s = [1, 1, 12] u = Reshape (h, s) e = ReduceMax[2] <keepdims = 1> (u) c = Conv (u, "
        f"e) scores = Flatten (c)",
        "",
        r"cannot lift Conv 'c' -> 'c': its weights depend on the image",
    ),
    "bounds of the image": (
        f"{HIDDEN} m = ReduceMean <keepdims = 0> (h) scores = Clip (h, m)",
        "",
        r"cannot lift ReduceMean 'm' -> 'm': it reduces over the batch",
    ),
    "places in more rows than there are": (
        f"{HIDDEN} {GROUPS} k = [2] v, p = TopK <axis = 2> (u, k) s = [0, 1, 12] w = Reshape (h, s) "
        "i = Concat <axis = 1> (p, p) scores = GatherElements <axis = 2> (u, i)",
        "",
        r"(GatherElements|onnxruntime cannot run)",
    ),
    "classes of the image": (
        f"{HIDDEN} a = ArgMax <axis = 1, keepdims = 0> (h) n = 12 q = ReduceMax[1] <keepdims = 0> (h) "
        "z = 0.0 o = Where (t, z, z) s = Unsqueeze[0] (o) v = Concat <axis = 0> (q, s) scores = "
        "OneHot <axis = -1> (a, n, v)",
        "bool t = {1}",
        r"cannot lift Concat 'v' -> 'v': it joins images of the batch",
    ),
    "a Dropout in training": (
        f"{HIDDEN} q = 0.5 t = Constant <value = bool {{1}}> () d = Dropout (h, q, t) scores = Identity (d)",
        "",
        r"Dropout 'd'.*left in training mode",
    ),
    "a shape repeated as often as it says": (
        f"{HIDDEN} s = Shape (h) t = Tile (h, s) scores = ReduceMax[1] <keepdims = 1> (t)",
        "",
        None,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    lines, weights, says = REFUSED[name]
    model = net(lines, f"{WEIGHTS}, {weights}".strip(", "), opset=17)
    if says is None:
        assert_lifted(model)
        return
    with pytest.raises(surgery.SurgeryError, match=says):
        surgery.convert(model)


@pytest.mark.parametrize("opset", [1, 5])
def test_an_opset_before_onnxruntimes_ops(opset: int) -> None:
    model = net("scores = Flatten (map)", opset=opset, out="float[1,72] scores")
    says = rf"opset {opset} is older than onnxruntime's ops, which begin at 7.* onnx.version_converter"
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model)


def test_a_constant_at_every_position_before_there_was_expand() -> None:
    model = net(
        f"{HIDDEN} c = Concat <axis = 1> (h, k) scores = MatMul (c, v)",
        f"{WEIGHTS}, float[1,2] k, float[14,5] v",
        opset=7,
    )
    with pytest.raises(surgery.Refused, match=r"Concat 'c'.*opset 7 has no Expand; export a later opset"):
        surgery.convert(model)


def test_a_head_of_ops_that_work_everywhere_already() -> None:
    model = net("p = GlobalMaxPool (map) scores = Neg (p)", out="float[1,3,1,1] scores")
    assert_lifted(model)


def test_a_branch_that_holds_weights_of_its_own() -> None:
    lines = (
        "f = Flatten (map) c = Constant <value = bool {1}> () scores = If <then_branch = yes () => "
        "(float[1,5] y) "
        "{ y = Gemm (f, w, b) }, else_branch = no () => (float[1,5] y) { y = Gemm (f, w) }> (c)"
    )
    model = net(lines, "float[72,5] w, float[5] b")
    branch = next(a.g for n in model.graph.node for a in n.attribute if a.name == "then_branch")
    for name in ("w", "b"):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        inner = branch.initializer.add()
        inner.CopyFrom(tensor)
        inner.name = f"inner_{name}"
        branch.node[0].input[:] = [inner.name if i == name else i for i in branch.node[0].input]
    onnx.checker.check_model(model)
    done = assert_lifted(model)
    kernels = [numpy_helper.to_array(t).shape for t in done.proto.graph.initializer]
    assert (5, 3, 4, 6) in kernels
