"""What the exact engine makes of batches written out: freed where samples stay apart, or refused by name."""

from __future__ import annotations

import re
from typing import Any

import law
import nets
import numpy as np
import onnx
import pytest
import strides
from done import convert
from exactly import forced
from small import filled, integers

import surgery

STEM = "a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (image, w1) b = Relu (a) "  # [B, 4, 9, 10]
GAP = " pooled = GlobalAveragePool (map) folded = Flatten (pooled) scores = Gemm <transB = 1> (folded, wh)"
DECLARED = (
    "float[4,2,3,3] w1, float[5,4] wh, float[1,5,6,2] grid, float[6,4] w6, float[6] b6, float[1,4,9] wr, "
    "float[4] s4, float[4] b4, float[4] v4, float[{B},2,9,10] beside, float[4,9,10] s3, float[1,1,9,9] w99"
)


def ints(name: str, *values: int | str) -> str:
    return f"{name} = Constant <value = int64[{len(values)}] {{{', '.join(map(str, values))}}}> () "


KEPT: dict[str, tuple[int, str]] = {
    "places of a constant grid": (
        17,
        ints("to", "{B}", 5, 6, 2) + "g = Expand (grid, to) map = GridSample (b, g)",
    ),
    "places of the image's own": (
        20,
        "p = GlobalAveragePool (b) f = Flatten (p) m = Gemm <transB = 1> (f, w6, b6) "
        + ints("rows", -1, 2, 3)
        + "theta = Reshape (m, rows) "
        + ints("size", "{B}", 4, 5, 6)
        + "g = AffineGrid (theta, size) map = GridSample (b, g)",
    ),
    "cells taken in two dims": (
        17,
        "t = Transpose <perm = [2, 3, 0, 1]> (b) at = Constant <value = int64[3, 2, 2] "
        "{0, 1, 8, 9, 4, 4, 2, 0, 7, 5, 3, 3}> () g = GatherND (t, at) "
        "map = Transpose <perm = [2, 3, 0, 1]> (g)",
    ),
    "maxima put back": (
        17,
        "p, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b) "
        + ints("size", "{B}", 4, 9, 10)
        + "map = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (p, i, size)",
    ),
    "a matrix per sample": (
        17,
        ints("to", "{B}", 4, 9, 9) + "m = Expand (w99, to) map = MatMul (m, b)",
    ),
    "a constant in an Einsum": (
        17,
        ints("to", "{B}", 4, 9)
        + "e = Expand (wr, to) t = Transpose <perm = [0, 3, 2, 1]> (b) "
        + 'map = Einsum <equation = "nwhc,nch->nchw"> (t, e)',
    ),
    "sums along channels": (17, ints("axis", 1) + "map = CumSum (b, axis)"),
    "values written to channels": (
        17,
        ints("to", "{B}", 1, 9, 10)
        + "two = Constant <value = int64[1, 1, 1, 1] {2}> () at = Expand (two, to) "
        + "half = Constant <value = float[1, 1, 1, 1] {0.5}> () u = Expand (half, to) "
        + "map = ScatterElements <axis = 1> (b, at, u)",
    ),
    "a constant beside each sample": (
        17,
        ints("to", "{B}", 4, 9, 10)
        + "e = Expand (s3, to) k = Concat <axis = 1> (b, e) "
        + "x, y = Split <axis = 1> (k) map = Mul (x, y)",
    ),
}


def net(lines: str, opset: int, batch: int) -> onnx.ModelProto:
    declared = DECLARED.replace("{B}", str(batch))
    body = (STEM + lines + GAP).replace("{B}", str(batch))
    used = [m[0] for m in re.finditer(r"float\[[\d,]+\] (\w+)", declared) if re.search(rf"\b{m[1]}\b", body)]
    head = f"float[{batch},2,18,19] image) => (float[{batch},5] scores"
    return nets.parse(
        f'<ir_version: 9, opset_import: ["": {opset}]> net ({head}) <{", ".join(used)}> {{ {body} }}'
    )


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", KEPT)
def test_samples_that_stay_apart(name: str, batch: int, groups: int) -> None:
    opset, lines = KEPT[name]
    model = net(lines, opset, batch)
    size, stride = (25, 24), (3, 4)
    with forced(groups=groups):
        done = convert(model, exact=True, sizes=[size], stride=stride)
    images = strides.images_of(model, size, 2 * batch)
    got, opened = law.run(done.proto, images)["scores"], law.session(model)
    assert got.shape == (2 * batch, 5, 3, 2)
    for place in np.ndindex(3, 2):
        crops = law.part(images, (2, 3), [i * s for i, s in zip(place, stride, strict=True)], (18, 19))
        for n in range(0, 2 * batch, batch):
            want = law.run(opened, np.ascontiguousarray(crops[n : n + batch]))["scores"]
            law.assert_close(got[(slice(n, n + batch), slice(None), *place)], want, f"{n} at {place}")


MIXED: dict[str, tuple[int, str, str]] = {
    "statistics of all images": (
        17,
        "map = MeanVarianceNormalization (b)",
        "MeanVarianceNormalization 'map': it takes its statistics from all samples of a batch together, so "
        "windows cannot be a batch: every answer would depend on the other windows. Name its axes without "
        "the batch's, 0.",
    ),
    "one scale for all images": (
        17,
        "q, s, z = DynamicQuantizeLinear (b) map = DequantizeLinear (q, s, z)",
        "DynamicQuantizeLinear 'q': it takes one scale from all samples of a batch together, so windows "
        "cannot be a batch: every answer would depend on the other windows. Quantize statically",
    ),
    "statistics in training": (
        17,
        "map, m, v = BatchNormalization <training_mode = 1> (b, s4, b4, b4, v4)",
        "BatchNormalization 'map': it takes its statistics from all samples of a batch together, so windows "
        "cannot be a batch: every answer would depend on the other windows. Export the model in eval mode.",
    ),
    "sums along the batch": (
        17,
        "zero = Constant <value = int64 {0}> () map = CumSum (b, zero)",
        "CumSum 'map': it works along the batch, so windows cannot be a batch",
    ),
    "the largest of all images": (
        17,
        ints("one", 1) + "map, i = TopK <axis = 0> (b, one)",
        "TopK 'map': it works along the batch, so windows cannot be a batch",
    ),
    "a norm over the batch": (
        17,
        "map = LpNormalization <axis = 0> (b)",
        "LpNormalization 'map': it normalises over the batch, so windows cannot be a batch",
    ),
    "a norm over all dims": (
        17,
        "k = Constant <value = float[1] {1.0}> () map = LayerNormalization <axis = 0> (b, k)",
        "LayerNormalization 'map': it normalises over the batch, so windows cannot be a batch",
    ),
    "images repeated": (
        17,
        ints("times", 2, 1, 1, 1) + "map = Tile (b, times)",
        "Tile 'map': it repeats the batch, so windows cannot be a batch",
    ),
    "images told apart": (
        17,
        "x, y = Split <axis = 0> (b) z = Add (x, y) map = Concat <axis = 0> (z, z)",
        "Split 'x': it takes samples out of the batch, so windows cannot be a batch",
    ),
    "a sum over images": (
        17,
        'm = Einsum <equation = "nchw->chw"> (b) map = Mul (b, m)',
        "Einsum 'm': it adds up over the batch, or does not name it: nchw->chw, so windows",
    ),
    "images as channels": (
        17,
        "t = Transpose <perm = [1, 0, 2, 3]> (b) p = LRN <size = 3> (t) "
        "map = Transpose <perm = [1, 0, 2, 3]> (p)",
        "LRN 'p': it takes the batch, dim 1 of [4, 4, 9, 10], for something else, so windows cannot be",
    ),
    "a constant of each image's own": (
        17,
        "k = Concat <axis = 1> (b, beside) " + ints("c", 0, 1, 2, 5) + "map = Gather <axis = 1> (k, c)",
        "Concat 'k': it holds a constant that differs from sample to sample, so windows cannot be a batch",
    ),
    "values written by place": (
        18,
        "at = Constant <value = int64[2, 2] {0, 1, 3, 2}> () u = Constant <value = float[2, 9, 10] {"
        + ", ".join(["0.5"] * 180)
        + "}> () map = ScatterND (b, at, u)",
        "ScatterND 'map': it writes to places counted through the batch, so windows cannot be a batch",
    ),
    "as many values as the data say": (
        17,
        "n = NonZero (b) f = Cast <to = 1> (n) m = ReduceMean (f) map = Mul (b, m)",
        "NonZero 'n': it gives as many values as the data say, so windows cannot be a batch",
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_samples_that_would_mix(name: str) -> None:
    opset, lines, words = MIXED[name]
    options: dict[str, Any] = {"exact": True, "sizes": [(25, 24)], "stride": 3}
    with pytest.raises(surgery.Refused, match=re.escape(words)) as refused:
        surgery.convert(net(lines, opset, 4), **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_op_without_a_rule_that_mixes_samples_is_found(batch: int) -> None:
    lines = GAP.replace(
        "Gemm <transB = 1> (folded, wh)", "com.microsoft.DynamicQuantizeMatMul (folded, q, s)"
    )
    body = f"{STEM}map = Relu (b) {lines}"
    model = nets.parse(
        f'<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> net (float[{batch},2,18,19] image) => '
        f"(float[{batch},5] scores) <float[4,2,3,3] w1, int8[4,5] q, float s = {{0.01}}> {{ {body} }}"
    )
    words = (
        "--exact: DynamicQuantizeMatMul 'scores': what it gives for an image depends on the other images of "
        "the batch, and windows run as a batch. Run the model window by window, or replace the op."
    )
    with pytest.raises(surgery.Refused, match=re.escape(words)):
        surgery.convert(filled(model, q=integers((4, 5))), exact=True, sizes=[(25, 24)], stride=3)
