"""onnxruntime's own quantized ops in the trunk: strided pools, channels last, a graph that it optimized."""

from __future__ import annotations

import re
from pathlib import Path

import law
import nets
import onnx
import onnxruntime as ort
import pytest
from done import convert
from exactly import assert_every_cut
from small import filled, integers

import surgery
from surgery.rules import NoRule, geometry, lift

HALF = "kernel_shape = [2, 2], strides = [2, 2]"
THREE = "kernel_shape = [3, 3], strides = [2, 2]"
TO = "t = Transpose <perm = [0, 2, 3, 1]> (q) "
FROM = " t4 = Transpose <perm = [0, 3, 1, 2]> (c) map = DequantizeLinear (t4, y, z)"
GAP = " pooled = GlobalAveragePool (map) flat = Flatten (pooled) scores = Gemm <transB = 1> (flat, wh)"
DECLARED = (
    "float x = {0.03}",
    "float y = {0.05}",
    "float v = {0.02}",
    "uint8 z = {128}",
    "int8[4,2,3,3] w",
    "float k = {0.01}",
    "int8 n = {0}",
    "float[5,4] wh",
    "int32[4] b = {3, -5, 100, 0}",
)
BODIES: dict[str, tuple[str, str]] = {
    "a strided pool": (f"c = com.microsoft.QLinearAveragePool <{THREE}> (a, y, z, v, z)", "exact"),
    "a strided pool with pads": (
        f"c = com.microsoft.QLinearAveragePool <{THREE}, pads = [1, 0, 1, 0]> (a, y, z, v, z)",
        "padded",
    ),
    "pads that count": (
        f"c = com.microsoft.QLinearAveragePool <{THREE}, pads = [1, 1, 1, 1], count_include_pad = 1> "
        "(a, y, z, v, z)",
        "padded",
    ),
    "pads by the size": (
        f'c = com.microsoft.QLinearAveragePool <{THREE}, auto_pad = "SAME_UPPER"> (a, y, z, v, z)',
        "padded",
    ),
    "a pool cut short": (
        f"c = com.microsoft.QLinearAveragePool <{HALF}, ceil_mode = 1> (a, y, z, v, z)",
        "padded",
    ),
}
LAST: dict[str, tuple[str, str]] = {
    "a convolution": (
        f"{TO} c = com.microsoft.QLinearConv <channels_last = 1, strides = [2, 1], kernel_shape = [3, 3]> "
        "(t, x, z, w, k, n, y, z, b)",
        "exact",
    ),
    "a convolution with pads": (
        f"{TO} c = com.microsoft.QLinearConv <channels_last = 1, pads = [1, 0, 0, 1]> "
        "(t, x, z, w, k, n, y, z)",
        "padded",
    ),
    "pools": (
        f"a = QLinearConv (q, x, z, w, k, n, y, z) t = Transpose <perm = [0, 2, 3, 1]> (a) "
        f"m = com.microsoft.NhwcMaxPool <{HALF}> (t) "
        f"c = com.microsoft.QLinearAveragePool <channels_last = 1, {THREE}> (m, y, z, y, z)",
        "exact",
    ),
}


def net(lines: str, head: str = GAP) -> onnx.ModelProto:
    body = f"q = QuantizeLinear (image, x, z) {lines} {head}"
    used = [d for d in DECLARED if re.search(rf"[(,] ?{d.split(' = ')[0].split()[-1]}[,)]", body)]
    model = nets.parse(
        '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> net (float[1,2,20,23] image) => '
        f"(float[1,5] scores) <{', '.join(used)}> {{ {body} }}"
    )
    return filled(model, w=integers((4, 2, 3, 3)))


CONV = "a = QLinearConv (q, x, z, w, k, n, y, z, b) "


@pytest.mark.parametrize("name", BODIES)
def test_a_quantized_pool_in_the_trunk(name: str) -> None:
    lines, verdict = BODIES[name]
    model = net(f"{CONV}{lines} map = DequantizeLinear (c, v, z)")
    done = convert(model)
    assert done.result.verdict == verdict
    if verdict == "exact":
        law.assert_equals_crops(model, done.proto, (26, 30), (2, 2))
    assert_every_cut(model, (25, 27), (3, 2), count=1)


@pytest.mark.parametrize(
    ("pool", "words"),
    [(THREE, "it makes cells that lie 4 pixels apart"), ("kernel_shape = [3, 3]", "it has no dilations")],
)
def test_a_quantized_pool_has_no_dilations(pool: str, words: str) -> None:
    lines = (
        "a = QLinearConv <strides = [2, 2]> (q, x, z, w, k, n, y, z, b) "
        f"c = com.microsoft.QLinearAveragePool <{pool}> (a, y, z, v, z)"
    )
    model = net(f"{lines} map = DequantizeLinear (c, v, z)")
    with pytest.raises(surgery.Refused, match=words):
        surgery.convert(model, stride=1)


@pytest.mark.parametrize("name", LAST)
def test_channels_last(name: str) -> None:
    lines, verdict = LAST[name]
    model = net(lines + FROM)
    done = convert(model)
    assert done.result.verdict == verdict
    if verdict == "exact":
        law.assert_equals_crops(model, done.proto, (26, 30), done.geometry.stride)
    assert_every_cut(model, (25, 27), (3, 2), count=1)


def test_a_global_pool_of_channels_last() -> None:
    head = (
        " g = com.microsoft.QLinearGlobalAveragePool <channels_last = 1> (c, y, z, v, z) "
        "d = DequantizeLinear (g, v, z) flat = Flatten (d) scores = Gemm <transB = 1> (flat, wh)"
    )
    model = net(LAST["a convolution"][0], head)
    done = convert(model)
    law.assert_equals_crops(model, done.proto, (26, 30), done.geometry.stride)


@pytest.mark.parametrize("level", ["ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_what_onnxruntime_has_optimized(level: str, tmp_path: Path) -> None:
    model = net(f"{CONV}c = MaxPool <{HALF}> (a) map = DequantizeLinear (c, y, z)")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    done = convert(onnx.load(tmp_path / "optimized.onnx"))
    assert done.result.verdict == "exact"
    law.assert_equals_crops(model, done.proto, (26, 30), done.geometry.stride)


@pytest.mark.parametrize("op", ["Conv", "ReorderInput"])
def test_a_graph_for_one_processor_is_refused(op: str) -> None:
    reason = "onnxruntime has optimized the model for one processor. Convert the model that was exported"
    for table in (geometry, lift):
        with pytest.raises(NoRule, match=reason):
            table.look_up("com.microsoft.nchwc", op)
