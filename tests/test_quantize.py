"""Quantized models: small integers stay, scales move with the weights, and every score is the crop's own."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import law
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from done import convert
from heads import SIZES, assert_lifted, net
from onnx import numpy_helper

import surgery

MICROSOFT = ', "com.microsoft": 1'


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def weights_of(model: onnx.ModelProto, op: str, place: int = 1) -> list[np.ndarray[Any, Any]]:
    """The constants that ops of a kind read at an input, through a DequantizeLinear where there is one."""
    makers = {node.output[0]: node for node in model.graph.node}
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == op:
            name = node.input[place]
            maker = makers.get(name)
            found.append(held[maker.input[0] if maker is not None else name])
    return found


@pytest.fixture(autouse=True)
def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let onnxruntime compute what the model says.

    By default it quantizes the features of a MatMul by small integers once more (MatMulNBits).
    """

    def session(model: onnx.ModelProto) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(law, "session", session)


# ------------------------------------------------ as onnxruntime's own quantizer writes them

TWO_LAYERS = (
    "f = Flatten (map) h = Gemm <transB = 1> (f, w, b) r = Relu (h) l = Gemm (r, v, c) scores = Softmax <axis = 1> (l)",
    "float[12,72] w, float[12] b, float[12,5] v, float[5] c",
)
NETS = {
    "Gemm": TWO_LAYERS,
    "MatMul, Add": (
        "f = Flatten (map) m = MatMul (f, w) h = Add (m, b) r = Sigmoid (h) n = MatMul (r, v) scores = Add (n, c)",
        "float[72,12] w, float[12] b, float[12,5] v, float[5] c",
    ),
    "global pool": (
        "g = GlobalAveragePool (map) f = Flatten (g) scores = Gemm (f, v, c)",
        "float[3,5] v, float[5] c",
    ),
    "Conv behind the pool": (
        "g = GlobalAveragePool (map) d = Conv (g, k, e) f = Flatten (d) scores = Gemm (f, v, c)",
        "float[12,3,1,1] k, float[12] e, float[12,5] v, float[5] c",
    ),
    "channels last": (
        "t = Transpose <perm = [0, 2, 3, 1]> (map) f = Flatten (t) scores = Gemm (f, v, c)",
        "float[72,5] v, float[5] c",
    ),
    "branches": (
        "f = Flatten (map) g = GlobalAveragePool (map) e = Flatten (g) j = Concat <axis = 1> (f, e) "
        "scores = Gemm (j, v, c)",
        "float[75,5] v, float[5] c",
    ),
    "residual": (
        "f = Flatten (map) h = Gemm (f, v, c) g = Gemm (h, u, c) scores = Add (h, g)",
        "float[72,5] v, float[5] c, float[5,5] u",
    ),
    "product of features": (
        "f = Flatten (map) h = Gemm (f, v, c) g = LeakyRelu (h) scores = Mul (h, g)",
        "float[72,5] v, float[5] c",
    ),
}


def quantized(model: onnx.ModelProto, folder: Path, form: str, **options: Any) -> onnx.ModelProto:
    """The model quantized by onnxruntime, calibrated on noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnxruntime import quantization
    images = iter([{"image": law.random_image(model, law.window_of(model), seed=s)} for s in range(4)])

    class Noise(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> Any:
            return next(images, None)

    onnx.save(model, folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx",
        folder / "small.onnx",
        Noise(),
        quant_format=quantization.QuantFormat[form],
        weight_type=quantization.QuantType.QInt8,
        **options,
    )
    return onnx.load(folder / "small.onnx")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("name", NETS)
def test_quantized_by_onnxruntime(name: str, form: str, per_channel: bool, tmp_path: Path) -> None:
    model = quantized(net(*NETS[name]), tmp_path, form, per_channel=per_channel)
    done = assert_lifted(model)
    convs = ["Conv"] if form == "QDQ" else ["QLinearConv"]
    for op in convs:
        read = weights_of(done.proto, op, 1 if op == "Conv" else 3)
        kept = [w for w in read if np.setdiff1d(w, [0, 1]).size]  # not those that copy windows to features
        assert len(kept) >= 2
        assert {w.dtype for w in kept} == {np.dtype(np.int8)}


@pytest.mark.filterwarnings("ignore")
def test_fragments_of_a_quantized_trunk(tmp_path: Path) -> None:
    model = quantized(net(*TWO_LAYERS), tmp_path, "QOperator")
    done = convert(model, stride=(1, 1), stride_form="fragments")
    for size in SIZES:
        law.assert_equals_crops(model, done.proto, size, (1, 1))


# ------------------------------------------------ the axis moves with the weight

STEPS = "q = QuantizeLinear (map, s, z) d = DequantizeLinear (q, s, z) f = Flatten (d)"
SCALES = "float s = {0.05}, uint8 z = {0}"
PER_CHANNEL = {
    "Gemm transB, axis 0": (
        "e = DequantizeLinear <axis = 0> (w, ws, wz) scores = Gemm <transB = 1> (f, e)",
        "5,72",
    ),
    "Gemm, axis 1": ("e = DequantizeLinear <axis = 1> (w, ws, wz) scores = Gemm (f, e)", "72,5"),
    "Gemm, last axis": ("e = DequantizeLinear <axis = -1> (w, ws, wz) scores = Gemm (f, e)", "72,5"),
    "MatMul, axis 1": ("e = DequantizeLinear <axis = 1> (w, ws, wz) scores = MatMul (f, e)", "72,5"),
    "through a Transpose": (
        "e = DequantizeLinear <axis = 0> (w, ws, wz) t = Transpose (e) scores = MatMul (f, t)",
        "5,72",
    ),
    "through a Reshape": (
        "e = DequantizeLinear <axis = 0> (w, ws, wz) r = [5, 72] t = Reshape (e, r) scores = Gemm <transB = 1> (f, t)",
        "5,3,4,6",
    ),
}


def filled(model: onnx.ModelProto, **values: Any) -> onnx.ModelProto:
    """The model with other values in some initializers, of the same type."""
    for tensor in model.graph.initializer:
        if tensor.name in values:
            old = numpy_helper.to_array(tensor)
            new = np.broadcast_to(np.asarray(values[tensor.name]), old.shape).astype(old.dtype)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new), tensor.name))
    return model


def integers(shape: Any, low: int = -60, high: int = 60) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(low, high, shape)


@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("name", PER_CHANNEL)
def test_scale_per_output(name: str, zero: int) -> None:
    lines, dims = PER_CHANNEL[name]
    weights = f"{SCALES}, int8[{dims}] w, float[5] ws, int8[5] wz"
    values = {
        "w": integers([int(d) for d in dims.split(",")]),
        "ws": np.linspace(0.001, 0.01, 5),
        "wz": [zero, 0, -2, 1, 0] if zero else 0,
    }
    done = assert_lifted(filled(net(f"{STEPS} {lines}", weights), **values))
    (last,) = [n for n in done.proto.graph.node if n.op_type == "Conv" and n.output[0] == "scores"]
    maker = next(n for n in done.proto.graph.node if n.output[0] == last.input[1])
    assert (maker.op_type, [a.i for a in maker.attribute if a.name == "axis"]) == ("DequantizeLinear", [0])
    assert weights_of(done.proto, "Conv")[-1].dtype == np.int8


def test_flattened_channels_last_the_blank_cells_weigh_nothing() -> None:
    """Where a kernel covers cells that the product leaves out, they must weigh 0, which is the zero point."""
    lines = (
        "i = Constant <value = int64[4] {0, 9, 33, 71}> () g = Gather <axis = 1> (f, i) "
        "e = DequantizeLinear <axis = 1> (w, ws, wz) scores = MatMul (g, e)"
    )
    model = net(f"{STEPS} {lines}", f"{SCALES}, int8[4,5] w, float[5] ws, int8[5] wz")
    done = assert_lifted(
        filled(model, w=integers((4, 5)), ws=np.linspace(0.001, 0.01, 5), wz=[3, 0, -2, 1, 0])
    )
    assert np.array_equal(weights_of(done.proto, "Conv")[-1][:, 0, 0, 1], [3, 0, -2, 1, 0])


FLOATS_INSTEAD = {
    "a scale per input": (
        "e = DequantizeLinear <axis = 0> (w, ws, wz) scores = MatMul (f, e)",
        13,
        "float[72] ws, int8[72] wz",
    ),
    "a scale per block": (
        "e = DequantizeLinear <axis = 0, block_size = 24> (w, ws, wz) scores = MatMul (f, e)",
        21,
        "float[3,5] ws, int8[3,5] wz",
    ),
    "features scaled one by one": (
        "m = Mul (f, per) e = DequantizeLinear <axis = 1> (w, ws, wz) scores = MatMul (m, e)",
        13,
        "float[5] ws, int8[5] wz, float[72] per",
    ),
    "alpha": (
        "e = DequantizeLinear <axis = 1> (w, ws, wz) scores = Gemm <alpha = 0.5> (f, e)",
        13,
        "float[5] ws, int8[5] wz",
    ),
}


@pytest.mark.parametrize("name", FLOATS_INSTEAD)
def test_scales_that_no_conv_has_give_a_float_weight(name: str) -> None:
    lines, opset, scales = FLOATS_INSTEAD[name]
    model = net(f"{STEPS} {lines}", f"{SCALES}, int8[72,5] w, {scales}", opset=opset)
    rng = np.random.default_rng(0)
    shape = next(t.dims for t in model.graph.initializer if t.name == "ws")
    done = assert_lifted(filled(model, w=integers((72, 5)), ws=rng.uniform(0.001, 0.01, shape), wz=0))
    assert weights_of(done.proto, "Conv")[-1].dtype == np.float32


# ------------------------------------------------ products of integers

U8 = "q = QuantizeLinear (map, s, z) f = Flatten (q)"
PRODUCTS = {
    "MatMulInteger": ("m = MatMulInteger (f, w, z) scores = Cast <to = 1> (m)", "int8[72,5] w"),
    "MatMulInteger without zero points": (
        "m = MatMulInteger (f, w) scores = Cast <to = 1> (m)",
        "int8[72,5] w",
    ),
    "MatMulInteger with zero points": (
        "m = MatMulInteger (f, w, z, wz) scores = Cast <to = 1> (m)",
        "int8[72,5] w, int8 wz",
    ),
    "MatMulInteger, a zero point per output": (
        "m = MatMulInteger (f, w, z, wz) scores = Cast <to = 1> (m)",
        "int8[72,5] w, int8[5] wz",
    ),
    "MatMulInteger, unsigned": (
        "m = MatMulInteger (f, w, z, wz) scores = Cast <to = 1> (m)",
        "uint8[72,5] w, uint8 wz",
    ),
    "MatMulInteger of several maps": (
        "n = MaxPool <kernel_shape = [4, 6]> (q) e = Flatten (n) g = Concat <axis = 1> (f, e) "
        "m = MatMulInteger (g, w, z) scores = Cast <to = 1> (m)",
        "int8[75,5] w",
    ),
    "QLinearMatMul": (
        "m = QLinearMatMul (f, s, z, w, ws, wz, ys, yz) scores = DequantizeLinear (m, ys, yz)",
        "int8[72,5] w, float ws, int8 wz, float ys = {0.05}, uint8 yz = {128}",
    ),
    "QLinearMatMul, a scale per output": (
        "m = QLinearMatMul (f, s, z, w, ws, wz, ys, yz) scores = DequantizeLinear (m, ys, yz)",
        "int8[72,5] w, float[5] ws, int8[5] wz, float ys = {0.05}, uint8 yz = {128}",
    ),
    "QLinearMatMul of several maps": (
        "n = MaxPool <kernel_shape = [4, 6]> (q) e = Flatten (n) g = Concat <axis = 1> (f, e) "
        "m = QLinearMatMul (g, s, z, w, ws, wz, ys, yz) scores = DequantizeLinear (m, ys, yz)",
        "int8[75,5] w, float ws, int8 wz, float ys = {0.05}, uint8 yz = {128}",
    ),
    "QGemm": (
        "m = com.microsoft.QGemm <transB = 1> (f, s, z, w, ws, wz, b, ys, yz) scores = DequantizeLinear (m, ys, yz)",
        "int8[5,72] w, float[5] ws, int8[5] wz, int32[5] b, float ys = {0.05}, uint8 yz = {128}",
    ),
    "QGemm, alpha": (
        "m = com.microsoft.QGemm <alpha = 0.5> (f, s, z, w, ws, wz, b, ys, yz) scores = DequantizeLinear (m, ys, yz)",
        "int8[72,5] w, float ws, int8 wz, int32[1,5] b, float ys = {0.05}, uint8 yz = {128}",
    ),
    "QGemm that gives floats": (
        "scores = com.microsoft.QGemm <transB = 1> (f, s, z, w, ws, wz, b)",
        "int8[5,72] w, float[5] ws, int8[5] wz, int32[5] b",
    ),
    "QGemm without bias": (
        "scores = com.microsoft.QGemm <transB = 1> (f, s, z, w, ws, wz)",
        "int8[5,72] w, float ws, int8 wz",
    ),
    "ConvInteger behind a pool": (
        "n = MaxPool <kernel_shape = [4, 6]> (q) c = ConvInteger (n, w, z) d = Cast <to = 1> (c) scores = Flatten (d)",
        "int8[5,3,1,1] w",
    ),
    "ConvInteger over the window": (
        "c = ConvInteger (q, w, z) d = Cast <to = 1> (c) scores = Flatten (d)",
        "int8[5,3,4,6] w",
    ),
    "QLinearConv over the window": (
        "c = QLinearConv (q, s, z, w, ws, wz, ys, yz, b) d = DequantizeLinear (c, ys, yz) scores = Flatten (d)",
        "int8[5,3,4,6] w, float[5] ws, int8[5] wz, int32[5] b, float ys = {0.05}, uint8 yz = {128}",
    ),
    "a scale per feature": (
        "d = DequantizeLinear <axis = 1> (q, fs, fz) e = Flatten (d) m = MatMul (e, u) n = QuantizeLinear <axis = 1> (m, gs, gz) "
        "scores = DequantizeLinear <axis = 1> (n, gs, gz)",
        "float[3] fs = {0.1, 0.2, 0.3}, uint8[3] fz = {0, 1, 2}, float[72,5] u, float[5] gs = {0.1, 0.2, 0.3, 0.1, 0.2}, "
        "int8[5] gz = {0, 1, 2, 3, -4}",
    ),
    "another scale for what is flattened": (
        "d = DequantizeLinear (f, s, z) e = QuantizeLinear (d, ys, yz) g = DequantizeLinear (e, ys, yz) scores = MatMul (g, u)",
        "float ys = {0.02}, int8 yz = {-3}, float[72,5] u",
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_of_integers(name: str) -> None:
    lines, weights = PRODUCTS[name]
    model = net(f"{U8} {lines}", f"{SCALES}, {weights}", domains=MICROSOFT)
    values: dict[str, Any] = {"ws": 0.01, "wz": 0, "b": [100, -300, 500, 0, 200]}
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            low, high = (0, 255) if tensor.data_type == onnx.TensorProto.UINT8 else (-60, 60)
            values["w"] = integers(tuple(tensor.dims), low, high)
        elif tensor.name == "ws" and tensor.dims:
            values["ws"] = np.linspace(0.005, 0.02, 5)
        elif tensor.name == "wz" and "Integer" in name:
            values["wz"] = [3, 0, -2, 1, 0] if tensor.dims else 4
    if "per output" in name and "Integer" in name:
        values["w"] = values["w"] // 2
    assert_lifted(filled(model, **values))


# ------------------------------------------------ refusals

REFUSALS = {
    "a scale of the whole tensor": (
        "f = Flatten (map) q, s, z = DynamicQuantizeLinear (f) m = MatMulInteger (q, w, z) scores = Cast <to = 1> (m)",
        "int8[72,5] w",
        r"cannot lift DynamicQuantizeLinear 'q' -> 'q': it takes its scale from the whole tensor, .* Quantize statically",
    ),
    "a dynamic scale in the trunk": (
        "q, s, z = DynamicQuantizeLinear (map) d = DequantizeLinear (q, s, z) c = Conv (d, k) f = Flatten (c) scores = MatMul (f, w)",
        "float[3,3,2,2] k, float[45,5] w",
        r"DynamicQuantizeLinear 'q': it takes its scale from the whole image",
    ),
    "two matrices of the image": (
        f"{U8} u = Unsqueeze[2] (f) v = Unsqueeze[1] (f) m = MatMulInteger (u, v) c = Cast <to = 1> (m) scores = ReduceMax[2] <keepdims = 0> (c)",
        SCALES,
        r"cannot lift MatMulInteger 'm' -> 'm': its matrix depends on the image",
    ),
    "a product per row": (
        f"{U8} r = [0, 3, 24] g = Reshape (q, r) m = MatMulInteger (g, w) c = Cast <to = 1> (m) scores = ReduceMax[1] <keepdims = 0> (c)",
        f"{SCALES}, int8[24,5] w",
        r"cannot lift MatMulInteger 'm' -> 'm': of \[1, 3, 24\] and \[24, 5\] it makes a product per row",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name: str) -> None:
    lines, weights, says = REFUSALS[name]
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(net(lines, weights))
