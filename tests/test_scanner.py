"""A scan gives, at every full window and scale, what the original answers for that crop of the image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from pictures import Array, converted, crops, nchw, noise, original
from PIL import Image

import surgery

RNET = nets.FIXTURES / "rnet24.onnx"
ASTRONAUT = nets.FIXTURES / "astronaut.png"
FACE = (64, 170, 180, 290)  # top, left, bottom, right of the face in the photograph, as a person sees it


@pytest.fixture(scope="module")
def rnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rnet") / "map.onnx"
    surgery.convert(RNET, path)
    return path


@pytest.fixture(scope="module")
def faces(rnet: Path) -> surgery.Scanner:
    return surgery.Scanner(rnet, input_range=(-127.5 / 128, 127.5 / 128))


def close(got: Array, want: Array) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ the law: scan == original on crops


@pytest.mark.parametrize("size", [(17, 23), (30, 41), (45, 23)])
def test_every_score_is_the_original_s_on_that_crop(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    found = surgery.scan(converted("plain"), pixels)
    want = crops(original("plain"), nchw()(pixels), (4, 4), "scores")
    close(found.maps[0].scores, want)
    assert found.maps[0].scores.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "to_input"),
    [
        ({"input_range": (0, 255)}, lambda x: x * 1.0),
        ({"input_range": (-1, 1)}, lambda x: x / 127.5 - 1),
        (
            {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)},
            lambda x: (x / 255 - (0.4, 0.5, 0.6)) / (0.2, 0.3, 0.1),
        ),
        ({"mean": 127.5, "std": 128, "input_range": (0, 255)}, lambda x: (x - 127.5) / 128),
        (
            {"mean": (1, 2, 3), "channels": "BGR", "input_range": (0, 255)},
            lambda x: x[..., ::-1] - (1.0, 2.0, 3.0),
        ),
    ],
)
def test_what_the_model_is_fed(options: dict[str, Any], to_input: Any) -> None:
    pixels = noise(22, 29)
    found = surgery.scan(converted("gap"), pixels, **options)
    close(
        found.maps[0].scores, crops(original("gap"), nchw(to_input)(pixels), found.geometry.stride, "scores")
    )


def test_a_channels_last_input() -> None:
    pixels = noise(25, 31)
    tensor = (pixels / 255).astype(np.float32)[None]
    want = crops(original("nhwc_input"), tensor, (4, 4), "scores")
    close(surgery.scan(converted("nhwc_input"), pixels).maps[0].scores, want)


def test_a_grey_channels_last_input_of_a_colour_image() -> None:
    pixels = noise(25, 31)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    want = crops(original("nhwc_grey"), (grey / 255).astype(np.float32)[None, ..., None], (4, 4), "scores")
    close(surgery.scan(converted("nhwc_grey"), pixels).maps[0].scores, want)


def test_a_grey_image_in_a_colour_net() -> None:
    grey = noise(25, 31, None)
    found = surgery.scan(converted("plain"), grey)
    close(found.maps[0].scores, surgery.scan(converted("plain"), np.stack([grey] * 3, -1)).maps[0].scores)


def test_an_input_of_bytes_takes_the_pixels_as_they_are() -> None:
    pixels = noise(25, 31)
    want = crops(original("bytes"), pixels.transpose(2, 0, 1)[None].copy(), (4, 4), "scores")
    close(surgery.scan(converted("bytes"), pixels).maps[0].scores, want)


@pytest.mark.parametrize(("scale", "size"), [(0.5, (30, 40)), ("40px", (40, 53)), (1.37, (82, 110))])
def test_a_scale_is_the_image_resized(scale: float | str, size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(60, 80))
    small = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    found = surgery.scan(converted("plain"), image, scales=(scale,))
    assert found.maps[0].view.size == size
    close(found.maps[0].scores, crops(original("plain"), nchw()(small), (4, 4), "scores"))


def test_only_full_windows_count() -> None:
    pixels = noise(31, 41)
    found = surgery.scan(converted("leftover"), pixels)
    assert found.geometry.extra != (0, 0)
    want = crops(original("leftover"), nchw()(pixels), (4, 4), "scores")
    assert want.shape == (6, *found.geometry.grid((31, 41)))
    close(found.maps[0].scores, want)


@pytest.mark.parametrize("size", [(13, 17), (20, 24), (21, 26)])
def test_sizes_between_the_steps_of_a_net_lose_no_window(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    found = surgery.scan(converted("uneven"), pixels)
    assert found.geometry.step == (2, 2)
    close(found.maps[0].scores, crops(original("uneven"), nchw()(pixels), (2, 2), "scores"))


def test_class_dims_of_several_axes_are_flattened() -> None:
    pixels = noise(25, 31)
    found = surgery.scan(converted("softmax_13_groups"), pixels)
    close(found.maps[0].scores, crops(original("softmax_13_groups"), nchw()(pixels), (4, 4), "scores"))


def test_a_model_that_takes_one_size_only() -> None:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(converted("plain"))
    for axis, side in ((2, 25), (3, 31)):
        fixed.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    pixels = noise(25, 31)
    assert np.array_equal(
        surgery.scan(fixed, pixels).maps[0].scores, surgery.scan(converted("plain"), pixels).maps[0].scores
    )
    with pytest.raises(surgery.BadInput, match=r"takes images of 25x31 only.*--exact --size 30x31"):
        surgery.scan(fixed, noise(30, 31))


# ------------------------------------------------------------------ the face


def test_the_face_is_the_one_bright_spot(faces: surgery.Scanner) -> None:
    found = faces.scan(ASTRONAUT, scales=(0.18, 0.21, 0.25), label=1)
    best, second = found.best[:2]
    assert best.score > 0.99
    assert second.score < 0.9
    top, left, bottom, right = best.box
    centre = (top + bottom) / 2, (left + right) / 2
    assert FACE[0] < centre[0] < FACE[2]
    assert FACE[1] < centre[1] < FACE[3]
    assert found.output == "44"
    assert found.kind == "softmax"


def test_one_scanner_serves_many_images(faces: surgery.Scanner, rnet: Path) -> None:
    first = faces.scan(ASTRONAUT, scales=(0.25,))
    faces.scan(nets.FIXTURES / "chelsea.png", scales=(0.25, 0.5))
    alone = surgery.scan(rnet, ASTRONAUT, scales=(0.25,), input_range=(-127.5 / 128, 127.5 / 128))
    again = faces.scan(ASTRONAUT, scales=(0.25,))
    assert first.to_json() == again.to_json() == alone.to_json()


# ------------------------------------------------------------------ what is shown


def test_the_class_with_the_highest_score_anywhere_is_shown() -> None:
    found = surgery.scan(converted("plain"), noise(40, 50), scales=(1.0, 0.8))
    scores = [m.scores for m in found.maps]
    highest = max(float(s.max()) for s in scores)
    assert any(s[found.label].max() == highest for s in scores)
    assert found.to_dict()["class_chosen"] == "highest score"
    assert found.best[0].score == pytest.approx(highest)


def test_the_class_asked_for_is_shown() -> None:
    found = surgery.scan(converted("plain"), noise(40, 50), label=2, top=4)
    assert found.to_dict()["class_chosen"] == "asked"
    assert found.best[0].score == pytest.approx(float(found.maps[0].scores[2].max()))
    assert len(found.best) <= 4


@pytest.mark.parametrize(
    ("net", "output", "kind"), [("two_outputs", "faces", "softmax"), ("map_output", "scores", "raw")]
)
def test_the_output_is_the_first_softmax_or_else_the_first_map(net: str, output: str, kind: str) -> None:
    found = surgery.scan(converted(net), noise(25, 31))
    assert (found.output, found.kind) == (output, kind)


def test_another_output_by_name() -> None:
    pixels = noise(25, 31)
    found = surgery.scan(converted("two_outputs"), pixels, output="boxes")
    assert found.kind == "raw"
    close(found.maps[0].scores, crops(original("two_outputs"), nchw()(pixels), (4, 4), "boxes"))


def test_the_report_as_json() -> None:
    found = surgery.scan(converted("plain"), noise(40, 50), scales=(1.0, "30px"), label=1, top=2)
    data = json.loads(found.to_json())
    assert data == found.to_dict()
    assert data["size"] == [40, 50]
    assert data["geometry"]["window"] == [17, 23]
    assert [s["scale"] for s in data["scales"]] == ["1", "30px"]
    assert [s["size"] for s in data["scales"]] == [[40, 50], [30, 38]]
    assert [s["grid"] for s in data["scales"]] == [[6, 7], [4, 4]]
    assert set(data["best"][0]) == {"score", "row", "col", "scale", "box"}


def test_the_report_as_text() -> None:
    text = str(surgery.scan(converted("plain"), noise(40, 50), label=1))
    assert "class       1 (as asked)" in text
    assert "40x50 pixels, 6x7 windows" in text
    assert "probabilities (softmax)" in text
