"""Heads that give their batch of one image up: each answers for every window, with a batch in front."""

from __future__ import annotations

import re

import law
import numpy as np
import onnx
import pytest
from done import convert
from heads import SIZES, assert_lifted, net

import surgery
from surgery.analysis import ONE_IMAGE, Options, analyse
from surgery.probes import relaxed

FC = "f = Flatten (map) h = Gemm (f, w, b)"
FREE = "float[N,2,9,8] image"
WEIGHTS = "float[72,5] w, float[5] b, float[72,12] w12, float[12] b12"
ROWS = (
    "f = Flatten (map) h = Gemm (f, w12, b12) r = [3, 4] q = Reshape (h, r)"  # rows in the place of the batch
)
STACKED = f"{FC} u = Unsqueeze[0] (h) v = Neg (u) e = Exp (u) t = Concat <axis = 0> (u, v, e)"

GIVEN_UP = {  # lines, weights, the output's shape, what it becomes (features only)
    # ---------------------------------------------- answers without a batch
    "squeeze": (f"{FC} scores = Squeeze (h)", "", "float[5] scores", [5]),
    "squeeze of the batch": (f"{FC} scores = Squeeze[0] (h)", "", "float[5] scores", [5]),
    "the first image": (f"{FC} i = 0 scores = Gather <axis = 0> (h, i)", "", "float[5] scores", [5]),
    "flattened": (f"{FC} s = [-1] scores = Reshape (h, s)", "", "float[5] scores", [5]),
    "a single score": (
        f"{FC} m = ReduceMax[1] <keepdims = 0> (h) scores = Squeeze (m)", "",
        "float scores", [],
    ),
    "the largest of all": (f"{FC} scores = ReduceMax <keepdims = 0> (h)", "", "float scores", []),
    "the largest of the map": ("scores = ReduceMax <keepdims = 0> (map)", "", "float scores", []),
    "probabilities of a vector": (
        f"{FC} q = Squeeze (h) scores = Softmax <axis = 0> (q)", "", "float[5] scores", [5],
    ),
    "a class": (
        f"{FC} q = Squeeze (h) scores = ArgMax <axis = 0, keepdims = 0> (q)", "", "int64 scores", [],
    ),
    "the best two": (
        f"{FC} q = Squeeze (h) k = [2] scores, places = TopK <axis = 0> (q, k)", "",
        "float[2] scores, int64[2] places", [2],
    ),
    "a table": (f"{FC} s = [5, 1] scores = Reshape (h, s)", "", "float[5,1] scores", [5, 1]),
    "two tables": (f"{ROWS} scores = Softmax <axis = 1> (q)", "", "float[3,4] scores", [3, 4]),
    # ---------------------------------------------- vectors and rows on the way
    "a matrix behind a vector": (
        "s = [-1] f = Reshape (map, s) h = MatMul (f, w) scores = Add (h, b)", "", "float[5] scores", [5],
    ),
    "a matrix before a vector": (
        "s = [-1] f = Reshape (map, s) scores = MatMul (v, f)", "float[5,72] v", "float[5] scores", [5],
    ),
    "a vector made a row again": (
        "s = [72] f = Reshape (map, s) u = Unsqueeze[0] (f) scores = Gemm (u, w, b)",
        "", "float[1,5] scores", [5],
    ),
    "pooled, squeezed and a row again": (
        "p = GlobalAveragePool (map) f = Squeeze (p) u = Unsqueeze[0] (f) scores = MatMul (u, v)",
        "float[3,5] v", "float[1,5] scores", [5],
    ),
    "Gemm of rows": (
        f"{ROWS} g = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (q, v, c) s = [1, 6] scores = Reshape (g, s)",
        "float[2,4] v, float[2] c", "float[1,6] scores", [6],
    ),
    "Gemm of columns": (
        f"{ROWS} g = Gemm <transA = 1> (q, v) s = [1, 8] scores = Reshape (g, s)",
        "float[3,2] v", "float[1,8] scores", [8],
    ),
    "Gemm of rows with rows": (
        f"{ROWS} g = Gemm <transB = 1> (q, q, q3) s = [1, 9] scores = Reshape (g, s)",
        "float[3,3] q3", "float[1,9] scores", [9],
    ),
    "a norm of rows": (
        f"{ROWS} g = BatchNormalization (q, s4, s4, s4, v4) s = [1, 12] scores = Reshape (g, s)",
        "float[4] s4, float[4] v4", "float[1,12] scores", [12],
    ),
    "rows by their own kind": (
        f"{ROWS} a, z = Split <axis = 0> (q, p) d = ReduceMax[0] <keepdims = 1> (z) e = Mul (d, a) "
        "scores = Tanh (e)",
        "int64[2] p = {1, 2}", "float[1,4] scores", [4],
    ),
    "the last row": (
        f"{ROWS} i = -1 g = Gather <axis = 0> (q, i) scores = Neg (g)", "",
        "float[4] scores", [4],
    ),
    "rows turned": (
        f"{ROWS} t = Transpose (q) m = MatMul (t, v) s = [1, -1] scores = Reshape (m, s)",
        "float[3,2] v", "float[1,8] scores", [8],
    ),
    "sums along rows": (f"{ROWS} z = 0 scores = CumSum (q, z)", "", "float[3,4] scores", [3, 4]),
    "rows and a constant row": (
        f"{ROWS} g = Concat <axis = 0> (q, k) m = ReduceMin[0] <keepdims = 1> (g) scores = Neg (m)",
        "float[1,4] k", "float[1,4] scores", [4],
    ),
    "rows repeated": (
        f"{ROWS} t = [2, 1] g = Tile (q, t) s = [6, 4] e = Expand (g, s) "
        "scores = ReduceSum[0] <keepdims = 1> (e)",
        "", "float[1,4] scores", [4],
    ),
    "an Einsum of rows": (
        f'{ROWS} scores = Einsum <equation = "ri,io->ro"> (q, v)',
        "float[4,2] v", "float[3,2] scores", [3, 2],
    ),
    "an Einsum without a result": (
        f'{ROWS} scores = Einsum <equation = "...i,io"> (q, v)', "float[4,2] v", "float[3,2] scores", [3, 2],
    ),
    "attention, the batch in dim 1": (
        f"{ROWS} s = [1, 3, 4] u = Reshape (q, s) t = Transpose <perm = [1, 0, 2]> (u) k = MatMul (t, v) "
        "a = Transpose <perm = [1, 0, 2]> (k) z = Transpose <perm = [1, 2, 0]> (k) m = MatMul (a, z) "
        "p = Softmax <axis = -1> (m) o = MatMul (p, a) scores = Transpose <perm = [1, 0, 2]> (o)",
        "float[4,4] v", "float[3,1,4] scores", [3, 1, 4],
    ),
    # ---------------------------------------------- several answers, one behind the other in the batch
    "the mean of several": (
        f"{STACKED} scores = ReduceMean[0] <keepdims = 0> (t)", "",
        "float[1,5] scores", [5],
    ),
    "several": (f"{STACKED} scores = Sigmoid (t)", "", "float[3,1,5] scores", [3, 1, 5]),
    "a constant for each of them": (
        f"{FC} t = Concat <axis = 0> (h, h) a = Add (t, two) scores = ReduceMax[0] <keepdims = 1> (a)",
        "float[2,5] two", "float[1,5] scores", [5],
    ),
    "a dim before the batch": (
        f"{FC} u = Unsqueeze[0] (h) n = Neg (u) t = Concat <axis = 1> (u, n) "
        "scores = ReduceMax[0, 1] <keepdims = 0> (t)",
        "", "float[5] scores", [5],
    ),
    # ---------------------------------------------- what is computed from shapes stays what it was
    "a shape of a vector": (
        f"{FC} q = Squeeze (h) z = Shape (q) d = Cast <to = 1> (z) scores = Div (q, d)",
        "", "float[5] scores", [5],
    ),
}  # fmt: skip


def features_of(model: onnx.ModelProto) -> list[int]:
    dims = model.graph.output[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "N"
    assert [d.dim_param for d in dims[-2:]] == ["rows", "cols"]
    return [d.dim_value for d in dims[1:-2]]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("name", GIVEN_UP)
def test_the_batch_is_given_back(name: str, opset: int) -> None:
    lines, weights, out, features = GIVEN_UP[name]
    done = assert_lifted(net(lines, f"{WEIGHTS}, {weights}".strip(", "), opset=opset, out=out))
    assert features_of(done.proto) == features
    assert surgery.validate(done.model, done.proto).passed


@pytest.mark.parametrize("name", [n for n in GIVEN_UP if n != "rows and a constant row"])
def test_the_model_with_its_batch_takes_several_images(name: str) -> None:
    """It is the oracle of the proof, which may ask it about several windows at once."""
    lines, weights, out, _ = GIVEN_UP[name]
    model = net(lines, f"{WEIGHTS}, {weights}".strip(", "), out=out)
    analysis, _, _ = analyse(model, None, Options(reading=(ONE_IMAGE,)))
    opened = law.session(relaxed(analysis.model.proto))
    images = [law.random_image(model, law.window_of(model), seed=s) for s in (1, 2)]
    for name_, both in law.run(opened, np.concatenate(images)).items():
        assert len(both) == 2
        for value, image in zip(both, images, strict=True):
            alone = law.run(model, image)[name_]
            law.assert_close(value.reshape(-1), np.asarray(alone).reshape(-1), name_)


OLD = ["squeeze", "the largest of all", "probabilities of a vector", "a matrix before a vector"]


@pytest.mark.parametrize("opset", [9, 11])
@pytest.mark.parametrize("name", [*OLD, "the last row"])
def test_the_batch_is_given_back_at_older_opsets(name: str, opset: int) -> None:
    lines, weights, out, features = GIVEN_UP[name]
    done = assert_lifted(net(lines, f"{WEIGHTS}, {weights}".strip(", "), opset=opset, out=out))
    assert features_of(done.proto) == features


@pytest.mark.parametrize("axis", [0, 1])
def test_an_old_softmax_takes_all_that_lies_behind_its_axis(axis: int) -> None:
    model = net(f"{ROWS} scores = Softmax <axis = {axis}> (q)", WEIGHTS, opset=11, out="float[3,4] scores")
    done = assert_lifted(model)
    total = law.run(done.proto, law.random_image(model, SIZES[0]))["scores"].sum(axis=(1, 2))
    law.assert_close(total, np.full_like(total, 1 if axis == 0 else 3), "sums")


def test_the_report_says_which_outputs_have_a_batch_now() -> None:
    model = net(f"{FC} scores = Squeeze (h) m = Identity (h)", WEIGHTS, out="float[5] scores, float[1,5] m")
    result = surgery.convert(model)
    assert [n for n in result.notes if "batch" in n] == [
        "output 'scores' [5] had no batch: it has one in front"
    ]
    assert [o["shape"] for o in result.outputs] == [["N", 5, "rows", "cols"]] * 2
    assert [o["shape"] for o in surgery.inspect(model).outputs] == [["N", 5, "rows", "cols"]] * 2


@pytest.mark.parametrize(
    "name", ["squeeze", "the first image", "the largest of all", "attention, the batch in dim 1"]
)
def test_the_exact_engine_has_a_batch_too(name: str) -> None:
    lines, weights, out, _ = GIVEN_UP[name]
    model = net(lines, f"{WEIGHTS}, {weights}".strip(", "), out=out)
    done = convert(model, exact=True, sizes=[SIZES[0]])
    assert law.assert_equals_crops(model, done.proto, SIZES[0], done.geometry.stride) > 1
    assert surgery.inspect(model, exact=True, size=SIZES[0]).verdict == "exact"
    assert surgery.validate(model, done.proto).passed


# ------------------------------------------------ a batch of any size


@pytest.mark.parametrize(
    "name", ["squeeze", "squeeze of the batch", "the first image", "flattened", "Gemm of rows"]
)
def test_a_free_batch_is_given_back(name: str) -> None:
    lines, weights, out, features = GIVEN_UP[name]
    fixed = net(lines, f"{WEIGHTS}, {weights}".strip(", "), out=out)
    model = net(lines, f"{WEIGHTS}, {weights}".strip(", "), out=re.sub(r"\[.*\]", "[M]", out), image=FREE)
    done = convert(model)
    assert features_of(done.proto) == features
    law.assert_equals_crops(fixed, done.proto, SIZES[1], done.geometry.stride)


def test_what_several_images_do_to_each_other_is_refused() -> None:
    lines = f"{FC} m = ReduceMean[0] <keepdims = 1> (h) scores = Sub (h, m)"
    with pytest.raises(
        surgery.Refused, match=r"cannot lift ReduceMean 'm' -> 'm': it reduces over the batch"
    ):
        surgery.convert(net(lines, WEIGHTS, image=FREE, out="float[N,5] scores"))


REFUSED = {
    "an op that is not known to work without": (
        f"{ROWS} u = Unsqueeze[1] (q) c = Conv (u, k) s = [1, -1] scores = Reshape (c, s)",
        "float[1,1,2] k", "float[1,9] scores", r"cannot lift Reshape 'q' -> 'q': it mixes batch and features",
    ),
    "the first op that cannot": (
        f"{FC} q = Squeeze (h) n = NonZero (q) scores = Cast <to = 1> (n)",
        "", "float[1,5] scores", r"cannot lift NonZero 'n'",
    ),
    "two images baked in": (
        f"{FC} scores = ReduceMax <keepdims = 0> (h)", "", "float scores",
        r"cannot lift ReduceMax 'scores' -> 'scores': it reduces over the batch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_given_back_is_refused_as_it_is(name: str) -> None:
    lines, weights, out, says = REFUSED[name]
    image = "float[2,2,9,8] image" if name.startswith("two") else "float[1,2,9,8] image"
    model = net(lines, f"{WEIGHTS}, {weights}".strip(", "), out=out, image=image)
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model)
