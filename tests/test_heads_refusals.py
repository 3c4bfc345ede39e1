"""Heads that have no right conversion are refused, and the words say where, why, and what to do."""

from __future__ import annotations

import onnx
import pytest
from heads import net
from onnx import TensorProto, helper, numpy_helper

import surgery

FC = "float[72,5] w, float[5] b"
SEQUENCE = "s = ReduceMean[2] <keepdims = 0> (map) t = Transpose <perm = [2, 0, 1]> (s)"
TOKENS = "r = [1, 3, 24] u = Reshape (map, r) t = Transpose <perm = [0, 2, 1]> (u)"

REFUSALS = {
    # ---------------------------------------------- the batch
    # ---------------------------------------------- settings that depend on the image
    "how many depends on the image": (
        "f = Flatten (map) h = MatMul (f, w) m = ReduceMax[1] <keepdims = 0> (h) k = Cast <to = 7> (m) "
        "o = 1 n = Mul (k, o) a = Abs (n) q = Clip (a, o, o) v, scores = TopK (h, q)",
        "float[72,5] w",
        r"cannot lift TopK 'v' -> 'v': how many values it takes depends on the image",
    ),
    "places that depend on the image": (
        "f = Flatten (map) h = MatMul (f, w) a = ArgMax <axis = 1, keepdims = 0> (h) scores = Gather "
        "<axis = 1> (h, a)",
        "float[72,5] w",
        r"cannot lift Gather 'scores' -> 'scores': the places it takes depend on the image",
    ),
    "bounds that depend on the image": (
        "f = Flatten (map) h = MatMul (f, w) n = ReduceMin[1] <keepdims = 0> (h) i = 0 m = Gather "
        "(n, i) scores = Clip (h, m)",
        "float[72,5] w",
        r"cannot lift Gather 'm' -> 'm'",
    ),
    "an inner dim of a table": (
        "f = Flatten (map) h = MatMul (f, w) a = ArgMax <axis = 1> (h) g = Gather <axis = 1> (table, a) "
        "scores = ReduceMax[2] <keepdims = 0> (g)",
        "float[72,5] w, float[1,5,8] table",
        r"cannot lift Gather 'g' -> 'g': its data are constant, and it takes places that depend on the image",
    ),
    "statistics of the batch": (
        "f = Flatten (map) n, m, v = BatchNormalization <training_mode = 1> (f, s, s, s, t) scores = "
        "MatMul (n, w)",
        "float[72] s, float[72] t, float[72,5] w",
        r"cannot lift BatchNormalization 'n' -> 'n': it is in training mode; export the model in eval mode",
    ),
    "the mask of a Dropout": (
        "f = Flatten (map) d, m = Dropout (f) c = Cast <to = 1> (m) e = Add (d, c) scores = MatMul (e, w)",
        "float[72,5] w",
        r"cannot lift Dropout 'd' -> 'd': its mask is used",
    ),
    # ---------------------------------------------- other kinds of models
    "an LSTM over positions": (
        f"{SEQUENCE} y, h, c = LSTM <hidden_size = 4> (t, k, r) q = Squeeze[0] (h) scores = MatMul (q, v)",
        "float[1,16,3] k, float[1,16,4] r, float[4,5] v",
        r"LSTM 'y'.*: it runs over a sequence in order",
    ),
    "a GRU over positions": (
        f"{SEQUENCE} y, h = GRU <hidden_size = 4> (t, k, r) q = Squeeze[0] (h) scores = MatMul (q, v)",
        "float[1,12,3] k, float[1,12,4] r, float[4,5] v",
        r"GRU 'y'.*: it runs over a sequence in order",
    ),
    "attention over positions": (
        f"{TOKENS} k = Transpose <perm = [0, 2, 1]> (t) a = MatMul (t, k) p = Softmax (a) o = MatMul "
        f"(p, t) "
        "m = ReduceMean[1] <keepdims = 0> (o) scores = MatMul (m, v)",
        "float[3,5] v",
        r"MatMul 'a'.*: it multiplies each of the window's 24 positions by every other \(attention\): "
        r"a token model",
    ),
    "a position embedding": (
        f"{TOKENS} e = Add (t, p) q = MatMul (e, k) r2 = Relu (q) m = ReduceMean[1] <keepdims = 0> (r2) "
        "scores = MatMul (m, v)",
        "float[1,24,3] p, float[3,3] k, float[3,5] v",
        r"Add 'e'.*position embedding",
    ),
    "a loop that reads the map from outside": (
        "f = Flatten (map) n = 2 o = [5] start = ConstantOfShape (o) "
        "l = Loop <body = body (int64 i, bool go, float[5] s) => (bool on, float[5] e) "
        "{ on = Identity (go) h = MatMul (f, w) a = ReduceSum <keepdims = 0> (h) e = Add (s, a) }> "
        "(n, , start) scores = Unsqueeze[0] (l)",
        "float[72,5] w",
        r"cannot lift Loop 'l' -> 'l': the body runs a number of times",
    ),
    "a class token": (
        f"{TOKENS} e = Concat <axis = 1> (cls, t) k = Transpose <perm = [0, 2, 1]> (e) a = MatMul (e, "
        f"k) i = 0 "
        "q = Softmax (a) o = MatMul (q, e) g = Gather <axis = 1> (o, i) scores = MatMul (g, v)",
        "float[1,1,3] cls, float[3,5] v",
        r"(Concat 'e'.*class token|MatMul 'a'.*attention)",
    ),
    "a detector": (
        "t = Transpose <perm = [0, 2, 3, 1]> (map) r = [1, -1, 3] a = Reshape (t, r) d = MaxPool "
        "<kernel_shape = [2, 2], "
        "strides = [2, 2]> (map) e = Transpose <perm = [0, 2, 3, 1]> (d) g = Reshape (e, r) j = "
        "Concat <axis = 1> (a, g) "
        "scores = Softmax (j)",
        "",
        r"the answer 'scores' \[1, 30, 3\] has a row for each of 30 positions already: a detector or "
        r"a segmenter",
    ),
    "boxes chosen": (
        "r = [1, 24, 3] a = Reshape (map, r) t = Transpose <perm = [0, 2, 1]> (a) n = 3 s = "
        "NonMaxSuppression (bx, t, n) "
        "scores = Cast <to = 1> (s)",
        "float[1,24,4] bx",
        r"NonMaxSuppression 's'.*: the number of boxes it keeps depends on the data: a detector",
    ),
    "an op of another domain": (
        "f = Flatten (map) scores = com.example.Fancy (f)",
        "",
        r"cannot convert Fancy 'scores' of domain 'com.example': onnxruntime has no such op",
    ),
    "a second map of features": (
        "f = Flatten (map) h = MatMul (f, w) r = [0, 1, 2, 4] m = Reshape (h, r) c = ConvTranspose "
        "(m, k) scores = Flatten (c)",
        "float[72,8] w, float[1,1,2,2] k",
        r"cannot lift ConvTranspose 'c' -> 'c'",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_says_where_and_why(name: str) -> None:
    lines, weights, says = REFUSALS[name]
    model = net(lines, weights, opset=17, domains=', "com.example": 1')
    with pytest.raises(surgery.Refused, match=says) as caught:
        surgery.convert(model)
    assert "\n" not in str(caught.value)
    assert caught.value.node
    assert caught.value.op
    assert caught.value.why


TWO = "float[2,2,9,8] image"
BAKED = {  # what two images do to each other, where the batch is baked in
    "batch and features mixed": (
        "r = [144] f = Reshape (map, r) u = Unsqueeze[0] (f) scores = MatMul (u, m)",
        "float[144,5] m",
        r"cannot lift Reshape 'f' -> 'f': it mixes batch and features: \[2, 3, 4, 6\] becomes \[144\].*"
        r"cannot be reshaped to the requested shape. Keep the batch in dim 0",
    ),
    "the first image of the batch": (
        "z = 0 f = Flatten (map) g = Gather <axis = 0> (f, z) u = Unsqueeze[0] (g) scores = MatMul (u, w)",
        "float[72,5] w",
        r"cannot lift Gather 'g' -> 'g': it takes a part of the batch",
    ),
    "images joined": (
        "f = Flatten (map) g = Concat <axis = 0> (f, f) h = MatMul (g, w) scores = ReduceMax[0] "
        "<keepdims = 1> (h)",
        "float[72,5] w",
        r"cannot lift Concat 'g' -> 'g': it joins images of the batch",
    ),
    "the batch repeated": (
        "f = Flatten (map) h = MatMul (f, w) r = [2, 1] t = Tile (h, r) scores = ReduceMean[0] "
        "<keepdims = 1> (t)",
        "float[72,5] w",
        r"cannot lift Tile 't' -> 't': it repeats the batch",
    ),
    "a constant per image": (
        "f = Flatten (map) h = MatMul (f, w) scores = Add (h, two)",
        "float[72,5] w, float[2,5] two",
        r"cannot lift Add 'scores' -> 'scores': a constant of shape \[2, 5\] differs from image to image",
    ),
    "a bias per image": (
        "f = Flatten (map) scores = Gemm (f, w, two)",
        "float[72,5] w, float[2,5] two",
        r"its bias \[2, 5\] differs from image to image of the batch",
    ),
    "a norm over the batch": (
        "f = Flatten (map) h = MatMul (f, w) scores = LpNormalization <axis = 0> (h)",
        "float[72,5] w",
        r"cannot lift LpNormalization 'scores' -> 'scores': it normalises over the batch",
    ),
    "the largest of the batch": (
        "f = Flatten (map) h = MatMul (f, w) m = ArgMax <axis = 0> (h) scores = Cast <to = 1> (m)",
        "float[72,5] w",
        r"cannot lift ArgMax 'm' -> 'm': it reduces over the batch",
    ),
    "sums along the batch": (
        "f = Flatten (map) h = MatMul (f, w) z = 0 scores = CumSum (h, z)",
        "float[72,5] w",
        r"cannot lift CumSum 'scores' -> 'scores': it works along the batch",
    ),
    "a product of the batch": (
        "f = Flatten (map) t = Transpose (f) m = MatMul (v, t) scores = Transpose (m)",
        "float[5,72] v",
        r"cannot lift Transpose 't' -> 't': it moves the batch dim",
    ),
    "features of the batch": (
        "f = Flatten (map) g = Gemm <transA = 1> (f, v) scores = ReduceMax[0] <keepdims = 1> (g)",
        "float[2,5] v",
        r"cannot lift Gemm 'g' -> 'g': transA makes features of the batch",
    ),
    "an Einsum over the batch": (
        'f = Flatten (map) scores = Einsum <equation = "bi,bj->ij"> (f, o)',
        "float[2,5] o",
        r"cannot lift Einsum 'scores' -> 'scores': 'bi,bj->ij' sums over the batch",
    ),
    "an Einsum that moves the batch": (
        'f = Flatten (map) scores = Einsum <equation = "bi,io->ob"> (f, w)',
        "float[72,5] w",
        r"cannot lift Einsum 'scores' -> 'scores': 'bi,io->ob' moves the batch dim or sums over it",
    ),
    "a batch of matrices": (
        "f = Flatten (map) u = Unsqueeze[1] (f) m = MatMul (u, v) scores = Squeeze[1] (m)",
        "float[2,72,5] v",
        r"cannot lift MatMul 'm' -> 'm': a constant of shape \[2, 72, 5\] differs from image to image",
    ),
}


@pytest.mark.parametrize("name", BAKED)
def test_what_images_of_a_baked_batch_do_to_each_other(name: str) -> None:
    lines, weights, says = BAKED[name]
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(net(lines, weights, opset=17, image=TWO, out="float[2,5] scores"))


# ------------------------------------------------ types onnxruntime cannot compute


def typed(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """The same model in another float type."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = kind
    return model


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.DOUBLE, "float64"), (TensorProto.BFLOAT16, "bfloat16")]
)
def test_a_net_in_a_type_without_kernels(kind: int, name: str) -> None:
    model = typed(net("f = Flatten (map) scores = Gemm (f, w, b)", FC, opset=21), kind)
    says = (
        rf"cannot convert Conv 'c0' \({name}\): onnxruntime cannot compute it in {name} on the CPU.* "
        rf"float32"
    )
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model)


def test_an_inner_tensor_in_bfloat16() -> None:
    lines = "d = Cast <to = 16> (map) e = Cast <to = 1> (d) f = Flatten (e) scores = Gemm (f, w, b)"
    with pytest.raises(surgery.Refused, match=r"cannot compute it in bfloat16"):
        surgery.convert(net(lines, FC, opset=21))
