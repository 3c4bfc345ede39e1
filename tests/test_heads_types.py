"""Number types other than float32, and images of one and three dimensions."""

from __future__ import annotations

from typing import Any

import law
import nets
import numpy as np
import onnx
import pytest
import small
from done import convert
from heads import TRUNK, assert_lifted, net
from onnx import TensorProto, helper, numpy_helper

import surgery

FC = "float[72,5] w, float[5] b"

# ------------------------------------------------ float16


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in float16 from the image to the answer."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


HALVES = {
    "a whole net": halved(
        net("f = Flatten (map) h = Gemm (f, w, b) scores = Softmax <axis = 1> (h)", FC, opset=13)
    ),
    "a whole net with a pool": halved(
        net("p = GlobalAveragePool (map) f = Flatten (p) scores = Gemm (f, v)", "float[3,5] v", opset=13)
    ),
    "a whole net that gives its batch up": halved(
        net(
            "s = [-1] f = Reshape (map, s) h = MatMul (f, w) scores = Add (b, h)",
            FC,
            opset=13,
            out="float[5] scores",
        )
    ),
    "a head": net(
        "c = Cast <to = 10> (map) f = Flatten (c) h = Gemm (f, w, b) scores = Cast <to = 1> (h)",
        "float16[72,5] w, float16[5] b",
    ),
    "a head that moves its features": net(
        "c = Cast <to = 10> (map) f = Flatten (c) m = Mul (f, s) r = Relu (m) h = MatMul (r, w) "
        "scores = Cast <to = 1> (h)",
        "float16[72] s, float16[72,5] w",
    ),
}


@pytest.mark.parametrize("name", HALVES)
def test_float16(name: str) -> None:
    model = HALVES[name]
    done = convert(model)
    assert done.proof.tolerance == 5e-3
    image = law.random_image(model, (14, 10))
    got = law.run(done.proto, image)["scores"]
    for place, answers in law.crops_of(model, image, done.geometry.stride):
        law.assert_close(law.at(got, place), answers["scores"].reshape(1, -1), str(place), 5e-3)
    with pytest.raises(surgery.Mismatch, match=r"against the tolerance 1e-07"):
        surgery.convert(HALVES["a head"], tolerance=1e-7)


# ------------------------------------------------ other types

TYPES = {
    "float64 behind features": (
        "f = Flatten (map) h = Gemm (f, w, b) d = Cast <to = 11> (h) e = Gemm (d, v, c) s = Softmax "
        "<axis = 1> (e) "
        "scores = Cast <to = 1> (s)",
        f"{FC}, double[5,5] v, double[5] c",
    ),
    "float64 behind a pool": (
        "p = GlobalAveragePool (map) d = Cast <to = 11> (p) f = Flatten (d) e = MatMul (f, v) t = Tanh (e) "
        "scores = Cast <to = 1> (t)",
        "double[3,5] v",
    ),
    "int32 behind a pool": (
        "p = GlobalMaxPool (map) k = 9.5 m = Mul (p, k) i = Cast <to = 6> (m) f = Flatten (i) e = "
        "MatMul (f, v) "
        "scores = Cast <to = 1> (e)",
        "int32[3,5] v = {1, -2, 3, 4, 5, 6, -7, 8, 9, 1, 2, 3, -4, 5, 6}",
    ),
    "windows of bool": (
        "z = 0.3 g = Greater (map, z) f = Flatten (g) n = Not (f) c = Cast <to = 1> (n) scores = "
        "MatMul (c, w)",
        "float[72,5] w",
    ),
    "windows of bool, told apart": (
        "z = 0.3 g = Greater (map, z) f = Flatten (g) o = Xor (f, m) c = Cast <to = 1> (o) scores = "
        "MatMul (c, w)",
        "float[72,5] w, bool[72] m",
    ),
    "windows of small integers, in another order": (
        "k = 9.5 e = Mul (map, k) i = Cast <to = 3> (e) f = Flatten (i) q = Gather <axis = 1> (f, p) "
        "a = Abs (q) "
        "c = Cast <to = 1> (a) scores = MatMul (c, v)",
        "int64[4] p = {5, 71, 0, 33}, float[4,5] v",
    ),
    "weights in bfloat16": (
        "f = Flatten (map) v = Cast <to = 1> (w) scores = Gemm (f, v, b)",
        "bfloat16[72,5] w, float[5] b",
    ),
    "weights in float16": (
        "f = Flatten (map) v = Cast <to = 1> (w) scores = Gemm (f, v, b)",
        "float16[72,5] w, float[5] b",
    ),
}


@pytest.mark.parametrize("name", TYPES)
def test_type(name: str) -> None:
    lines, weights = TYPES[name]
    if name == "weights in float16":  # the answers are computed in float32
        convert(net(lines, weights, opset=17), tolerance=1e-4)
    assert_lifted(net(lines, weights, opset=17))


WINDOWS = {  # of types that onnxruntime has no Conv, or no pool, for
    "int64, moved": "i = Mul (map, k) j = Cast <to = 7> (i) f = Flatten (j) g = Add (f, i72) c = Cast "
    "<to = 1> (g) "
    "scores = MatMul (c, w)",
    "int64, counted": "z = 0.3 g = Greater (map, z) j = Cast <to = 7> (g) f = Flatten (j) s = ReduceSum[1] "
    "<keepdims = 1> (f) scores = Cast <to = 1> (s)",
    "int64, summed per channel": "i = Mul (map, k) j = Cast <to = 7> (i) s = ReduceSum[2, 3] <keepdims "
    "= 0> (j) "
    "c = Cast <to = 1> (s) scores = MatMul (c, v)",
    "int32, the largest": "i = Mul (map, k) j = Cast <to = 6> (i) s = ReduceMax[2, 3] <keepdims = 0> (j) "
    "c = Cast <to = 1> (s) scores = MatMul (c, v)",
    "float64, multiplied": "d = Cast <to = 11> (map) f = Flatten (d) h = Gemm <alpha = 0.5> (f, w64, b64) "
    "scores = Cast <to = 1> (h)",
    "float64, moved": "d = Cast <to = 11> (map) f = Flatten (d) h = Mul (f, i64) m = MatMul (h, w64) a "
    "= Add (m, b64) "
    "scores = Cast <to = 1> (a)",
    "float64, averaged": "d = Cast <to = 11> (map) m = ReduceMean[2, 3] <keepdims = 0> (d) h = MatMul "
    "(m, v64) "
    "scores = Cast <to = 1> (h)",
    "float64, the largest": "d = Cast <to = 11> (map) m = ReduceMax[2, 3] <keepdims = 0> (d) h = MatMul "
    "(m, v64) "
    "scores = Cast <to = 1> (h)",
    "float64, a norm": "d = Cast <to = 11> (map) m = ReduceL2[2, 3] <keepdims = 0> (d) h = MatMul (m, v64) "
    "scores = Cast <to = 1> (h)",
}
OF_WINDOWS = (
    "float[72,5] w, float[3,5] v, double[72,5] w64, double[5] b64, double[72] i64, double[3,5] v64, "
    "float k = {9.5}, "
    "int64[72] i72"
)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_of_other_types_are_taken_by_slices(name: str, opset: int) -> None:
    out = "float[1,1] scores" if name == "int64, counted" else "float[1,5] scores"
    assert_lifted(net(WINDOWS[name], OF_WINDOWS, opset=opset, out=out))


def test_there_was_no_slice_with_steps() -> None:
    lines = "d = Cast <to = 11> (map) f = Flatten (d) m = MatMul (f, w) scores = Cast <to = 1> (m)"
    pooled = f"{TRUNK.replace('map', 'c1')} map = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c1) "
    model = net(lines, "double[18,5] w", opset=9, trunk=pooled)
    assert_lifted(model)
    says = (
        r"float64 map lie \[2, 2\] cells apart, and opset 9 has no Slice with steps; Cast the map to float32"
    )
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model, stride=(8, 4))


def packed(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """The model with its quantized weight in a type of 4 or 8 bits that numpy does not have."""
    for tensor in model.graph.initializer:
        if tensor.name in ("w", "wz"):
            values = np.random.default_rng(0).integers(-7, 7, tensor.dims) * (tensor.name == "w")
            made = helper.make_tensor(tensor.name, kind, tensor.dims, values.ravel().tolist())
            tensor.CopyFrom(made)
    return model


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.FLOAT8E4M3FN])
def test_weights_in_types_that_numpy_lacks(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law, "session", small.session)
    lines = "e = DequantizeLinear (w, ws, wz) f = Flatten (map) scores = MatMul (f, e)"
    model = packed(net(lines, "int8[72,5] w, float ws = {0.1}, int8 wz", opset=21), kind)
    assert_lifted(model)


# ------------------------------------------------ signals and volumes

SIGNAL: dict[str, Any] = {
    "image": "float[1,2,19] image",
    "trunk": "c0 = Conv <strides = [2]> (image, tw, tb) map = Relu (c0)",
    "trunk_weights": "float[3,2,3] tw, float[3] tb",  # map: [1, 3, 9]
}
VOLUME: dict[str, Any] = {
    "image": "float[1,2,6,5,7] image",
    "trunk": "c0 = Conv <strides = [1, 1, 2]> (image, tw, tb) map = Relu (c0)",
    "trunk_weights": "float[3,2,3,3,3] tw, float[3] tb",  # map: [1, 3, 4, 3, 3]
}
HEADS = {
    "Flatten": ("f = Flatten (map) scores = Gemm (f, w, b)", 0),
    "pool": ("p = GlobalAveragePool (map) f = Flatten (p) scores = Gemm (f, w, b)", 3),
    "largest": ("p = GlobalMaxPool (map) q = Conv (p, k) f = Flatten (q) scores = Gemm (f, w, b)", 4),
    "norm": (
        "f = Flatten (map) n = BatchNormalization (f, s, s, s, s) h = Gemm (n, w, b) scores = "
        "Softmax <axis = 1> (h)",
        0,
    ),
    "rows in the batch": ("f = Flatten (map) u = Unsqueeze[1] (f) v = Concat <axis = 1> (u, u) m = "
                          "MatMul (v, w) "
                          "scores = ReduceSum[1] <keepdims = 0> (m)", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", ["signal", "volume"])
def test_signals_and_volumes(kind: str, name: str) -> None:
    lines, features = HEADS[name]
    where, cells, space, sizes = {
        "signal": (SIGNAL, 27, 1, ((24,), (27,))),
        "volume": (VOLUME, 108, 3, ((7, 6, 10), (6, 7, 9))),
    }[kind]
    count = features or cells
    weights = f"float[{count},5] w, float[5] b, float[{cells}] s, float[4,3{',1' * space}] k"
    model = net(lines, weights, opset=13, **where)
    for tensor in model.graph.initializer:
        if tensor.name == "s":
            tensor.CopyFrom(numpy_helper.from_array(np.linspace(0.5, 1.5, cells).astype(np.float32), "s"))
    assert_lifted(model, sizes)


def test_a_batch_baked_into_the_model() -> None:
    """A batch of 2 in every Reshape: its rows are still answers of their own."""
    model = net(
        "r = [2, 72] f = Reshape (map, r) h = Gemm (f, w, b) scores = Softmax <axis = 1> (h)",
        FC,
        image="float[2,2,9,8] image",
        out="float[2,5] scores",
    )
    done = convert(model)
    one = nets.parse(
        onnx.printer.to_text(net("f = Flatten (map) h = Gemm (f, w, b) scores = Softmax <axis = 1> (h)", FC))
    )
    assert law.assert_equals_crops(one, done.proto, (14, 10), done.geometry.stride) > 1
