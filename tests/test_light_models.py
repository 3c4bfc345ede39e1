"""Real models: the nine light_* models of the onnx package, and two trained R-Nets on a photograph."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import law
import light
import nets
import numpy as np
import onnx
import pytest
from done import Done, convert
from onnx import numpy_helper
from PIL import Image

SMALL = ("inception_v1", "inception_v2", "shufflenet", "squeezenet")


@dataclass(frozen=True)
class Found:
    """What must be found in a light model; strides and fields are the same along both axes."""

    output: str
    stride: int
    field: int
    margin: tuple[int, int]
    cells: int
    step: int = 1


FOUND = {
    "bvlc_alexnet": Found("prob_1", 32, 355, (2, 3), 6),
    "densenet121": Found("fc6_1", 32, 2263, (7, 7), 7),
    "inception_v1": Found("prob_1", 32, 875, (6, 6), 7),
    "inception_v2": Found("prob_1", 32, 891, (7, 7), 7, step=32),
    "resnet50": Found("gpu_0/softmax_1", 32, 619, (7, 6), 7),
    "shufflenet": Found("gpu_0/softmax_1", 32, 719, (7, 7), 7),
    "squeezenet": Found("softmaxout_1", 16, 399, (6, 6), 13),
    "vgg19": Found("prob_1", 32, 460, (4, 4), 7),
    "zfnet512": Found("gpu_0/softmax_1", 32, 315, (2, 2), 6),
}


def deep_unless_small(name: str) -> object:
    return name if name in SMALL else pytest.param(name, marks=pytest.mark.deep)


def test_every_light_model_is_expected() -> None:
    assert set(FOUND) == set(light.NAMES)


@pytest.mark.parametrize("name", [deep_unless_small(name) for name in light.NAMES])
def test_light_model_is_converted_and_proven(name: str) -> None:
    found, done = FOUND[name], convert(light.load(name))
    g = done.geometry
    assert done.result.verdict == "padded"
    assert (g.window, g.stride, g.field_size) == ((224, 224), (found.stride,) * 2, (found.field,) * 2)
    assert (g.margin, g.step) == ((found.margin,) * 2, (found.step,) * 2)
    clean = max(0, found.cells - sum(found.margin))
    assert g.touched == pytest.approx(1 - clean**2 / found.cells**2)
    assert done.result.reasons
    assert done.result.outputs == ({"name": found.output, "shape": ["N", 1000, "rows", "cols"]},)
    assert_proven(done)


def assert_proven(done: Done) -> None:
    """The required checks passed with float32's error, and the others measured how far crops differ."""
    required = [c for c in done.proof.checks if c.required]
    assert [c.name for c in required] == ["native", "windows", "windows"]
    for check in required:
        assert check.max_error is not None
        assert check.max_error < 2e-5
        assert check.argmax_agreement == 1
    measured = [c for c in done.proof.checks if c.name == "crops"]
    assert len(measured) == 2
    assert all(c.max_error is not None and c.max_error > 1e-2 for c in measured)


# ------------------------------------------------ a body that holds its height and width


def regrown(model: onnx.ModelProto, cells: dict[int, tuple[int, int]]) -> onnx.ModelProto:
    """The model with the sizes its Reshapes hold replaced by hand: `cells` gives the new ones by the old."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    shapes = {n.input[1] for n in copy.graph.node if n.op_type == "Reshape"}
    for tensor in copy.graph.initializer:
        dims = numpy_helper.to_array(tensor)
        if tensor.name in shapes and dims.size > 2:
            dims = np.concatenate([dims[:-2], cells[int(dims[-1])]]).astype(np.int64)
            tensor.CopyFrom(numpy_helper.from_array(dims, tensor.name))
    return copy


def test_shuffles_become_gathers_of_channels() -> None:
    done = convert(light.load("shufflenet"))
    before = Counter(n.op_type for n in done.model.graph.node)
    after = Counter(n.op_type for n in done.proto.graph.node)
    assert before["Reshape"] == 2 * 16 + 1
    assert (after["Reshape"], after["Gather"], after["Transpose"]) == (0, 16, 2)  # two around the Softmax
    (pool,) = [n for n in done.model.graph.node if n.op_type == "AveragePool"][-1:]
    image = law.random_image(done.model, (288, 320))
    larger = regrown(done.model, {56: (72, 80), 28: (36, 40), 14: (18, 20), 7: (9, 10)})
    want = law.run(law.trunk_of(larger, [pool.input[0]]), image)[pool.input[0]]
    got = law.run(law.with_outputs(done.proto, [pool.input[0]]), image)[pool.input[0]]
    assert want.shape[2:] == (9, 10)
    law.assert_close(got, want, pool.input[0], 1e-5)


# ------------------------------------------------ trained nets on a photograph


def face(height: int, width: int) -> law.Array:
    """A part of the photograph around the face at a quarter of its size, as R-Net takes it."""
    picture = Image.open(nets.FIXTURES / "astronaut.png").convert("RGB").resize((128, 128))
    pixels = np.asarray(picture, np.float32)[10 : 10 + height, 35 : 35 + width]
    return np.ascontiguousarray(((pixels - 127.5) / 128).transpose(2, 0, 1)[None])


def rnet(window: int) -> Done:
    return convert(onnx.load(str(nets.FIXTURES / f"rnet{window}.onnx")))


def test_rnet_of_window_25_equals_every_crop_of_a_photograph() -> None:
    done = rnet(25)
    assert (done.result.verdict, done.geometry.stride, done.geometry.extra) == ("exact", (4, 4), (1, 1))
    assert [o["shape"][1] for o in done.result.outputs] == [4, 2]
    assert law.assert_equals_crops(done.model, done.proto, face(51, 62), (4, 4)) == 7 * 10


def test_rnet_of_window_24_is_padded_by_a_pool_cut_short() -> None:
    done = rnet(24)
    assert (done.result.verdict, done.geometry.margin) == ("padded", ((0, 1), (0, 1)))
    (reason,) = done.result.reasons
    assert reason.op == "MaxPool"
    (fold,) = [n for n in done.model.graph.node if n.name == "/Transpose"]
    image = face(51, 62)
    assert law.assert_equals_windows(done.model, done.proto, image, {fold.input[0]: 1}) >= 7 * 10
    with pytest.raises(AssertionError, match="off by"):
        law.assert_equals_crops(done.model, done.proto, image, (4, 4))


def test_rnet_finds_the_face() -> None:
    """The best window of the converted net is a face by the original's own word, and lies on it."""
    done = rnet(25)
    image = face(90, 80)
    (faces,) = [o["name"] for o in done.result.outputs if o["shape"][1] == 2]
    scores = law.run(done.proto, image)[faces][0, 1]
    best = np.unravel_index(scores.argmax(), scores.shape)
    top, left, bottom, right = done.geometry.box(*(int(i) for i in best))
    alone = law.run(done.model, np.ascontiguousarray(image[:, :, top:bottom, left:right]))[faces][0, 1]
    assert alone == pytest.approx(scores.max(), abs=1e-4)
    assert alone > 0.9
