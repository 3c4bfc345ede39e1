"""Inputs beside the image under the exact engine: all windows of an image share its row of them."""

from __future__ import annotations

import law
import numpy as np
import onnx
import pytest
import strides
from done import convert
from exact_nets import DEEPER, HEAD, STEM, padded
from exactly import WAYS, cuts, forced

import surgery

SIZE, STRIDE = (31, 28), (5, 3)
MORE = ", float[1,3] vector"
FILM = "e = Gemm <transB = 1> (vector, we) r = Reshape (e, dims) "
NETS: dict[str, onnx.ModelProto] = {
    "beside the features": padded(
        more=MORE,
        body=f"{STEM}{DEEPER}g = GlobalAveragePool (map) f = Flatten (g) x = Concat <axis = 1> (f, vector) "
        "scores = MatMul (x, wx)",
        wx="6,5",
    ),
    "multiplied with the map": padded(
        more=MORE,
        body=f"{STEM}{FILM}m = Mul (b, r) {DEEPER.replace('(b)', '(m)')}{HEAD}",
        we="4,3",
        dims="int64[4] = -1, 4, 1, 1",
    ),
    "laid out over the map, its batch written out": padded(
        more=MORE,
        body=f"{STEM}{FILM}l = Expand (r, to) k = Concat <axis = 1> (b, l) "
        f"{DEEPER.replace('(b)', '(k)')}{HEAD}",
        we="4,3",
        w2="3,8,3,3",
        dims="int64[4] = 1, 4, 1, 1",
        to="int64[4] = 1, 4, 21, 22",
    ),
}


def with_inputs(model: onnx.ModelProto, batch: int | str) -> onnx.ModelProto:
    """The model with its two inputs of this batch, the vector in front of the image."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kind = onnx.TensorProto.FLOAT
    image = onnx.helper.make_tensor_value_info("image", kind, [batch, 2, 21, 22])
    vector = onnx.helper.make_tensor_value_info("vector", kind, [batch, 3])
    del copy.graph.input[:]
    copy.graph.input.extend([vector, image])
    return copy


def answers(model: onnx.ModelProto, images: law.Array, vectors: law.Array) -> law.Array:
    """The original's answers `[N, 5, rows, cols]`, crop by crop."""
    opened = law.session(model)
    rows, cols = law.grid_of(SIZE, (21, 22), STRIDE)
    want = np.empty((len(images), 5, rows, cols), np.float32)
    for n, i, j in np.ndindex(len(images), rows, cols):
        crop = law.part(images[n : n + 1], (2, 3), (i * STRIDE[0], j * STRIDE[1]), (21, 22))
        feeds = {"image": np.ascontiguousarray(crop), "vector": vectors[n : n + 1]}
        want[n, :, i, j] = opened.run(["scores"], feeds)[0][0]
    return want


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETS)
def test_every_image_has_its_own(name: str, way: str) -> None:
    model = NETS[name]
    images = strides.images_of(model, SIZE, 2)
    vectors = np.random.default_rng(5).standard_normal((2, 3)).astype(np.float32)
    want = answers(model, images, vectors)
    with forced(**WAYS[way]):
        for cut in cuts(model, SIZE, STRIDE):
            got = law.run(cut.proto, images, vector=vectors)["scores"]
            law.assert_close(got, want, f"{name}, {cut}")


@pytest.mark.parametrize("batch", [1, "N"])
def test_it_may_come_first(batch: int | str) -> None:
    model = with_inputs(NETS["multiplied with the map"], batch)
    done = convert(model, exact=True, sizes=[SIZE], stride=STRIDE)
    images = strides.images_of(NETS["multiplied with the map"], SIZE, 2)
    vectors = np.random.default_rng(5).standard_normal((2, 3)).astype(np.float32)
    got = law.session(done.proto).run(["scores"], {"image": images, "vector": vectors})[0]
    law.assert_close(got, answers(model, images, vectors), "scores")
    assert surgery.validate(model, done.proto).passed
