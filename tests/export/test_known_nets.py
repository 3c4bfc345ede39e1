"""Well-known nets from both of torch's exporters: torch itself gives the crops' answers, and the windows'."""

from __future__ import annotations

from typing import Any

import law
import numpy as np
import onnx
import pytest
from done import Done, convert
from exporting import WAYS, Way, assert_map, at_crops, at_windows, export
from torch_nets import NETS, Known, Net, seeded

import surgery

pytestmark = pytest.mark.deep


def exported() -> list[Any]:
    """Every net in every way; attention is a single op only in torch, and no exporter knows it before 14."""
    return [
        pytest.param((name, way), id=f"{name}-{way}")
        for name in NETS
        for way in WAYS
        if name != "vit" or way.opset >= 14 or way.dynamo
    ]


class Model:
    """An exported net beside its original in torch."""

    def __init__(self, name: str, way: Way) -> None:
        self.known: Known = NETS[name]
        self.net: Net = seeded(self.known.build)
        self.proto: onnx.ModelProto = export(self.net, self.known.image, way)

    @property
    def window(self) -> tuple[int, ...]:
        return self.known.image[1:]


@pytest.fixture(scope="module", params=exported())
def model(request: pytest.FixtureRequest) -> Model:
    return Model(*request.param)


def sizes_of(g: surgery.Geometry) -> list[tuple[int, ...]]:
    """An image larger by whole strides, and one larger by what no stride divides."""
    sides = list(enumerate(zip(g.window, g.stride, g.step, strict=True)))
    return [
        tuple(w + (1 + k) * s for k, (w, s, _) in sides),
        tuple(w + (3 - k) * s - t for k, (w, s, t) in sides),
    ]


def picture(model: Model, size: tuple[int, ...]) -> law.Array:
    shape = (1, model.known.image[0], *size)
    return np.random.default_rng(3).standard_normal(shape, dtype=np.float32)


def scores(done: Done, image: law.Array) -> law.Array:
    return law.run(done.proto, image)["scores"]


# ------------------------------------------------ dense


def test_dense_model_equals_torch(model: Model) -> None:
    known = model.known
    if known.refused:
        with pytest.raises(surgery.Refused, match=known.refused) as refused:
            surgery.convert(model.proto)
        assert refused.value.node
        assert refused.value.op
    if known.verdict == "refused":
        return
    done = convert(model.proto, allow_global=known.verdict == "global")
    assert (done.result.verdict, done.geometry.stride) == (known.verdict, known.stride)
    for size in sizes_of(done.geometry):
        image = picture(model, size)
        if known.verdict == "exact":
            grid, want = at_crops(model.net, image, model.window, known.stride)
        else:
            grid, want = at_windows(model.net, image, model.window, known.step)
        assert_map(scores(done, image), grid, want, f"{size}")


# ------------------------------------------------ exact


def test_exact_model_equals_every_crop(model: Model) -> None:
    stride = tuple(3 + k for k in range(len(model.window)))  # none of the nets' own
    size = tuple(w + 2 * s + 1 for w, s in zip(model.window, stride, strict=True))
    done = convert(model.proto, exact=True, sizes=[size], stride=stride)
    image = picture(model, size)
    grid, want = at_crops(model.net, image, model.window, stride)
    assert done.geometry.grid(size) == grid == (3,) * len(grid)
    assert_map(scores(done, image), grid, want, f"{size}")
