"""Images in every layout, of fixed and of open size, for all that asks which dims of an image are space."""

from __future__ import annotations

import law
import numpy as np
import onnx
import pytest
from done import convert
from trunk_table import DECLARED, LAYOUTS
from trunks import named, net

import surgery

WINDOW = (17, 23)
BAKED = [name for name, (lines, _, _) in LAYOUTS.items() if "Reshape" in lines]
NHWC = "t = Transpose <perm = [0, 3, 1, 2]> (image) c = Conv <strides = [2, 2]> (t, {}) map = Relu (c)"
OPEN = {  # image, lines, its dims of space
    "no channel": ("float[N,H,W] image", LAYOUTS["no channel, put in behind a scaling"][0], (1, 2)),
    "three channels last": ("float[N,H,W,3] image", NHWC.format("wrgb"), (1, 2)),
    "two channels last": ("float[N,H,W,2] image", NHWC.format("w1"), (1, 2)),
    "channels first": (
        "float[N,2,H,W] image",
        "c = Conv <strides = [2, 2]> (image, w1) map = Relu (c)",
        (2, 3),
    ),
}


def model_of(image: str, lines: str) -> onnx.ModelProto:
    return net(lines, named(lines, DECLARED), 4, image=image, opset=13)


@pytest.mark.parametrize("engine", ["dense", "exact"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_bench_cuts_crops_along_the_dims_of_space(name: str, engine: str) -> None:
    lines, image, axes = LAYOUTS[name]
    model = model_of(image, lines)
    window = tuple(law.image_dims(model)[a] for a in axes)
    size = tuple(side + 3 + k for k, side in enumerate(window))
    done = convert(model, exact=True, sizes=[size]) if engine == "exact" else convert(model)
    bench = surgery.bench(model, done.proto, size=size, runs=1)
    assert (bench.size, bench.window, bench.grid) == (size, window, done.geometry.grid(size))


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n not in BAKED])
def test_net_reshapes_the_dims_of_space(name: str) -> None:
    lines, image, axes = LAYOUTS[name]
    edited = surgery.Net(model_of(image, lines))
    old = tuple(edited.proto.graph.input[0].type.tensor_type.shape.dim[a].dim_value for a in axes)
    edited.reshape(*(side + 4 for side in old))
    new = tuple(edited.proto.graph.input[0].type.tensor_type.shape.dim[a].dim_value for a in axes)
    assert new == tuple(side + 4 for side in old)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("name", OPEN)
def test_a_window_for_an_image_of_open_size(name: str, stride: int) -> None:
    image, lines, axes = OPEN[name]
    model = model_of(image, lines)
    size = (25, 30)
    done = convert(model, exact=True, window=WINDOW, stride=stride, sizes=[size])
    assert (done.geometry.window, done.geometry.stride) == (WINDOW, (stride, stride))
    dims = [1, *law.image_dims(model)[1:]]
    for axis, side in zip(axes, size, strict=True):
        dims[axis] = side
    pixels = np.random.default_rng(3).standard_normal(dims).astype(np.float32)
    scores, opened = law.run(done.proto, pixels)["scores"], law.session(model)
    for place in np.ndindex(done.geometry.grid(size)):
        start = [i * stride for i in place]
        want = law.run(opened, np.ascontiguousarray(law.part(pixels, axes, start, WINDOW)))["scores"]
        law.assert_close(law.at(scores, place), want, f"scores at {place}")
    dense = convert(model, window=WINDOW)
    assert (dense.result.verdict, dense.geometry.window) == ("exact", WINDOW)
    assert surgery.validate(model, done.proto, window=WINDOW).passed
    assert surgery.bench(model, dense.proto, runs=1).window == WINDOW


def test_a_matrix_for_an_image_of_open_size_without_channels() -> None:
    image, lines, _ = OPEN["no channel"]
    model = model_of(image, lines)
    fixed = surgery.to_fc(model, size=WINDOW).proto
    pixels = np.random.default_rng(4).standard_normal((1, *WINDOW)).astype(np.float32)
    law.assert_close(law.run(fixed, pixels)["scores"], law.run(model, pixels)["scores"], "scores")
