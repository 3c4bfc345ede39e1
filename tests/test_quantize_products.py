"""Products of small integers, and what quantized models are refused for."""

from __future__ import annotations

from typing import Any

import law
import numpy as np
import onnx
import pytest
import small
from done import convert
from heads import assert_lifted, net
from small import SCALES, filled, integers

import surgery

MICROSOFT = ', "com.microsoft": 1'


@pytest.fixture(autouse=True)
def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let onnxruntime compute what the model says."""
    monkeypatch.setattr(law, "session", small.session)


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
        "m = com.microsoft.QGemm <transB = 1> (f, s, z, w, ws, wz, b, ys, yz) scores = "
        "DequantizeLinear (m, ys, yz)",
        "int8[5,72] w, float[5] ws, int8[5] wz, int32[5] b, float ys = {0.05}, uint8 yz = {128}",
    ),
    "QGemm, alpha": (
        "m = com.microsoft.QGemm <alpha = 0.5> (f, s, z, w, ws, wz, b, ys, yz) scores = "
        "DequantizeLinear (m, ys, yz)",
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
        "n = MaxPool <kernel_shape = [4, 6]> (q) c = ConvInteger (n, w, z) d = Cast <to = 1> (c) "
        "scores = Flatten (d)",
        "int8[5,3,1,1] w",
    ),
    "ConvInteger over the window": (
        "c = ConvInteger (q, w, z) d = Cast <to = 1> (c) scores = Flatten (d)",
        "int8[5,3,4,6] w",
    ),
    **{
        f"QLinearSoftmax of opset {opset}, its axis left out": (
            "m = QLinearMatMul (f, s, z, w, ws, wz, ys, yz) "
            f"p = com.microsoft.QLinearSoftmax <opset = {opset}> (m, ys, yz, ps, z) "
            "scores = DequantizeLinear (p, ps, z)",
            "int8[72,5] w, float ws, int8 wz, float ys = {0.05}, uint8 yz = {128}, float ps = {0.00390625}",
        )
        for opset in (12, 13)
    },
    "QLinearConv over the window": (
        "c = QLinearConv (q, s, z, w, ws, wz, ys, yz, b) d = DequantizeLinear (c, ys, yz) scores = "
        "Flatten (d)",
        "int8[5,3,4,6] w, float[5] ws, int8[5] wz, int32[5] b, float ys = {0.05}, uint8 yz = {128}",
    ),
    "a scale per feature": (
        "d = DequantizeLinear <axis = 1> (q, fs, fz) e = Flatten (d) m = MatMul (e, u) n = "
        "QuantizeLinear <axis = 1> (m, gs, gz) "
        "scores = DequantizeLinear <axis = 1> (n, gs, gz)",
        "float[3] fs = {0.1, 0.2, 0.3}, uint8[3] fz = {0, 1, 2}, float[72,5] u, float[5] gs = {0.1, "
        "0.2, 0.3, 0.1, 0.2}, "
        "int8[5] gz = {0, 1, 2, 3, -4}",
    ),
    "another scale behind what is flattened": (  # onnxruntime makes one pair of two that stand together
        "d = DequantizeLinear (q, s, z) h = Flatten (d) e = QuantizeLinear (h, ys, yz) "
        "g = DequantizeLinear (e, ys, yz) scores = MatMul (g, u)",
        "float ys = {0.09}, uint8 yz = {3}, float[72,5] u",
    ),
    "another scale for what is flattened": (
        "d = DequantizeLinear (f, s, z) e = QuantizeLinear (d, ys, yz) g = DequantizeLinear (e, ys, "
        "yz) scores = MatMul (g, u)",
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

INTEGERS = (
    f"{SCALES}, int8[72,5] w, float ws = {{0.01}}, int8 wz = {{0}}, float ys = {{0.05}}, uint8 yz = {{128}}"
)
REFUSALS = {
    "a scale of the whole tensor": (
        "f = Flatten (map) q, s, z = DynamicQuantizeLinear (f) m = MatMulInteger (q, w, z) scores = "
        "Cast <to = 1> (m)",
        "int8[72,5] w",
        r"cannot lift DynamicQuantizeLinear 'q' -> 'q': it takes its scale from the whole tensor, .* "
        r"Quantize statically",
    ),
    "a dynamic scale in the trunk": (
        "q, s, z = DynamicQuantizeLinear (map) d = DequantizeLinear (q, s, z) c = Conv (d, k) f = "
        "Flatten (c) scores = MatMul (f, w)",
        "float[3,3,2,2] k, float[45,5] w",
        r"cannot lift DequantizeLinear 'd' -> 'd': its scale depends on the image",
    ),
    "two matrices of the image": (
        f"{U8} u = Unsqueeze[2] (f) v = Unsqueeze[1] (f) m = MatMulInteger (u, v) c = Cast <to = 1> "
        f"(m) scores = ReduceMax[2] <keepdims = 0> (c)",
        SCALES,
        r"cannot lift MatMulInteger 'm' -> 'm': its matrix depends on the image",
    ),
    "a matrix of integers on the left": (
        f"{U8} u = Unsqueeze[2] (f) m = MatMulInteger (w, u) c = Cast <to = 1> (m) scores = Squeeze[2] (c)",
        f"{SCALES}, uint8[5,72] w",
        r"MatMulInteger 'm'.*its matrix depends on the image, or stands on the left",
    ),
    "a scale of the image": (
        f"{U8} x = ReduceMax <keepdims = 0> (map) m = QLinearMatMul (f, x, z, w, ws, wz, ys, yz) "
        "scores = DequantizeLinear (m, ys, yz)",
        INTEGERS,
        r"(ReduceMax 'x'.*it reduces over the batch|QLinearMatMul 'm')",
    ),
    "a scale of the features' own": (
        "f = Flatten (map) a = Abs (f) x = ReduceMax[1] <keepdims = 0> (a) q = QuantizeLinear <axis "
        "= 0> (f, x) "
        "d = DequantizeLinear <axis = 0> (q, x) scores = MatMul (d, v)",
        "float[72,5] v",
        r"QuantizeLinear 'q'.*its scale depends on the image",
    ),
    "a zero point per output that 8 bits cannot take in": (
        f"{U8} m = MatMulInteger (f, w, z, zs) scores = Cast <to = 1> (m)",
        f"{SCALES}, uint8[72,5] w, uint8[5] zs = {{0, 10, 200, 30, 40}}",
        r"MatMulInteger 'm'.*every output has a zero point of its own",
    ),
    "a QGemm that transposes the features": (
        f"{U8} m = com.microsoft.QGemm <transA = 1> (f, s, z, o, ws, wz) scores = ReduceMax[0] "
        f"<keepdims = 1> (m)",
        f"{INTEGERS}, int8[1,5] o",
        r"QGemm 'm'.*transA makes features of the batch",
    ),
    "a convolution of integers over flattened cells": (
        f"{U8} r = [1, 72, 1, 1] g = Reshape (f, r) t = Transpose <perm = [0, 2, 1, 3]> (g) m = "
        f"ConvInteger (t, k, z) "
        "c = Cast <to = 1> (m) e = Flatten (c) scores = MatMul (e, v)",
        f"{SCALES}, int8[1,1,2,1] k, float[71,5] v",
        r"ConvInteger 'm'.*(map made of features|no longer a map|no map any more)",
    ),
    "a quantized softmax over the batch": (
        f"{U8} m = com.microsoft.QLinearSoftmax <axis = 0, opset = 13> (f, s, z, ys, yz) "
        "d = DequantizeLinear (m, ys, yz) scores = MatMul (d, v)",
        "float s = {0.05}, uint8 z = {0}, float ys = {0.01}, uint8 yz = {0}, float[72,5] v",
        r"QLinearSoftmax 'm'.*normalises over the batch",
    ),
    "a quantized pool of cells in other rows": (
        f"{U8} r = [1, 6, 4, 3] g = Reshape (f, r) m = com.microsoft.QLinearAveragePool <kernel_shape "
        f"= [2, 2]> "
        "(g, s, z, ys, yz) d = DequantizeLinear (m, ys, yz) e = Flatten (d) scores = MatMul (e, v)",
        "float s = {0.05}, uint8 z = {0}, float ys = {0.05}, uint8 yz = {0}, float[36,5] v",
        r"QLinearAveragePool 'm'.*it pools features that are no longer a map",
    ),
    "a product per row": (
        f"{U8} r = [0, 3, 24] g = Reshape (q, r) m = MatMulInteger (g, w) c = Cast <to = 1> (m) "
        f"scores = ReduceMax[1] <keepdims = 0> (c)",
        f"{SCALES}, int8[24,5] w",
        r"cannot lift MatMulInteger 'm' -> 'm': of \[1, 3, 24\] and \[24, 5\] it makes a product per row",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name: str) -> None:
    lines, weights, says = REFUSALS[name]
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(net(lines, weights, domains=MICROSOFT))


ADD = "com.microsoft.QLinearAdd"
BRANCHES = f"""
i = QuantizeLinear (image, s, o) c = QLinearConv (i, s, o, k, ws, wz, s, o)
a = QLinearConv <pads = [1, 1, 1, 1]> (c, s, o, k3, ws, wz, s, o) b = QLinearConv (c, s, o, k1, ws, wz, s, o)
e = {ADD} (a, s, o, b, s, o, s, o) da = DequantizeLinear (a, s, o) db = DequantizeLinear (b, s, o)
de = DequantizeLinear (e, s, o) x = Max (de, da) y = Sub (da, db) t = QuantizeLinear (x, s, o)
u = {ADD} (e, s, o, t, s, o, s, o) v = QuantizeLinear (y, s, o) map = {ADD} (u, s, o, v, s, o, s, o)
g = com.microsoft.QLinearGlobalAveragePool (map, s, o, s, o) f = Flatten (g)
m = QLinearMatMul (f, s, o, w, ws, wz, s, o) scores = DequantizeLinear (m, s, o)
""".replace("\n", " ")


def test_inner_tensors_that_onnxruntime_cannot_give_optimized() -> None:
    """Its optimizer moves Transposes past integer ops, wrongly where the proof asks for the map as well."""
    weights = (
        "int8[3,2,3,4] k, int8[3,3,3,3] k3, int8[3,3,1,1] k1, int8[3,5] w, float ws = {0.01}, int8 wz = {0}, "
        "float s = {0.05}, uint8 o = {128}"
    )
    model = net(BRANCHES, weights, trunk="", trunk_weights="", domains=MICROSOFT)
    kernels = {t.name: integers(tuple(t.dims)) for t in model.graph.initializer if len(t.dims) > 1}
    done = convert(filled(model, **kernels))
    assert done.proof.passed
    image = law.random_image(done.model, law.window_of(done.model))
    got, want = (law.run(m, image)["scores"] for m in (done.proto, done.model))
    law.assert_close(law.at(got, (0, 0)), want, "scores")


@pytest.mark.parametrize("factor", [1.0, 0.83, 0.5, 1.5])
def test_a_global_pool_of_an_even_number_of_cells_rounds_as_the_original(factor: float) -> None:
    """A mean of 72 integers is often just between two, where onnxruntime's pools round each their way."""
    lines = (
        "q = QuantizeLinear (image, s, o) g = com.microsoft.QLinearGlobalAveragePool (q, s, o, ps, po) "
        "f = Flatten (g) scores = DequantizeLinear (f, ps, po)"
    )
    weights = f"float s = {{0.01}}, uint8 o = {{128}}, float ps = {{{0.01 * factor}}}, uint8 po = {{127}}"
    model = net(lines, weights, domains=MICROSOFT, out="float[1,2] scores", trunk="", trunk_weights="")
    assert_lifted(model, sizes=[(40, 40)])
