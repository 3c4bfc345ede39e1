"""Quantized models: small integers stay, scales move with the weights, and every score is the crop's own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import law
import numpy as np
import onnx
import pytest
import small
from done import convert
from heads import SIZES, assert_lifted, net
from small import SCALES, STEPS, filled, integers, weights_of

MICROSOFT = ', "com.microsoft": 1'


@pytest.fixture(autouse=True)
def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let onnxruntime compute what the model says."""
    monkeypatch.setattr(law, "session", small.session)


# ------------------------------------------------ as onnxruntime's own quantizer writes them

TWO_LAYERS = (
    "f = Flatten (map) h = Gemm <transB = 1> (f, w, b) r = Relu (h) l = Gemm (r, v, c) scores = "
    "Softmax <axis = 1> (l)",
    "float[12,72] w, float[12] b, float[12,5] v, float[5] c",
)
NETS = {
    "Gemm": TWO_LAYERS,
    "MatMul, Add": (
        "f = Flatten (map) m = MatMul (f, w) h = Add (m, b) r = Sigmoid (h) n = MatMul (r, v) scores "
        "= Add (n, c)",
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
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_fragments_of_a_quantized_trunk(form: str, tmp_path: Path) -> None:
    model = quantized(net(*TWO_LAYERS), tmp_path, form)
    done = convert(model, stride=(1, 1), stride_form="fragments")
    for size in SIZES:
        law.assert_equals_crops(model, done.proto, size, (1, 1))


TRUNKS = {
    "a sum": "a = Conv (image, tw, tb) d = Conv (a, tk, tb) r = Relu (d) map = Add (a, r)",
    "a product": "a = Conv (image, tw, tb) d = Conv (a, tk, tb) map = Mul (a, d)",
    "a number": "a = Conv (image, tw, tb) map = Mul (a, half)",
    "branches": "a = Conv (image, tw, tb) d = Conv (a, tk, tb) map = Concat <axis = 1> (a, d)",
    "activations": "a = Conv (image, tw, tb) d = Sigmoid (a) map = LeakyRelu (d)",
    "a pool": "a = Conv (image, tw, tb) map = AveragePool <kernel_shape = [2, 2]> (a)",
    "strides": "a = Conv <strides = [2, 1]> (image, tw, tb) map = MaxPool <kernel_shape = [2, 2], "
    "strides = [2, 2]> (a)",
}
COUNTS = {"branches": 252, "a pool": 90, "strides": 18}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("name", TRUNKS)
def test_trunk_quantized_by_onnxruntime(name: str, form: str, tmp_path: Path) -> None:
    model = net(
        "f = Flatten (map) scores = Gemm (f, v, c)",
        f"float[{COUNTS.get(name, 126)},5] v, float[5] c, float half = {{0.5}}",
        trunk=TRUNKS[name],
        trunk_weights="float[3,2,3,3] tw, float[3] tb, float[3,3,1,1] tk",
    )
    assert_lifted(quantized(model, tmp_path, form))


# ------------------------------------------------ the axis moves with the weight

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
        "e = DequantizeLinear <axis = 0> (w, ws, wz) r = [5, 72] t = Reshape (e, r) scores = Gemm "
        "<transB = 1> (f, t)",
        "5,3,4,6",
    ),
}


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
