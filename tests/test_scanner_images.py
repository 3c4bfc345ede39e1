"""Images of every mode come in upright, as 8 bits of grey or RGB, or are refused in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from pictures import noise
from PIL import Image

from surgery.errors import BadInput
from surgery.scanner.images import ImageLike, load

ORIENTATION = 0x0112  # the EXIF tag


def pixels(image: ImageLike) -> Any:
    return np.asarray(load(image).image)


def saved(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


# ------------------------------------------------------------------ what comes in


def test_arrays_and_images_and_files_give_the_same(tmp_path: Path) -> None:
    for array in (noise(5, 7), noise(5, 7, None)):
        image = Image.fromarray(array)
        for given in (array, image, saved(tmp_path, image), str(saved(tmp_path, image))):
            assert np.array_equal(pixels(given), array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_of_8_bits_becomes_grey_or_rgb(mode: str) -> None:
    image = Image.fromarray(noise(9, 6)).convert(mode)
    grey = mode in ("1", "L", "LA")
    want = np.asarray(image.convert("L" if grey else "RGB"))
    assert np.array_equal(pixels(image), want)


def test_alpha_is_dropped_not_blended() -> None:
    colours, alpha = noise(9, 6), noise(9, 6, 1, seed=1)
    image = Image.fromarray(np.concatenate([colours, alpha], axis=2))
    assert np.array_equal(pixels(image), colours)


def test_a_palette_with_transparent_colours(tmp_path: Path) -> None:
    image = Image.fromarray(noise(9, 6)).quantize(16)
    path = saved(tmp_path, image, transparency=bytes(range(0, 160, 10)))
    assert np.array_equal(pixels(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_keep_their_range(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 128, 129, 257, 32767, 65406, 65407, 65535]], np.uint16)
    path = saved(tmp_path, Image.fromarray(levels), f"deep.{suffix}")
    assert pixels(path).tolist() == [[0, 0, 1, 1, 127, 254, 255, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    upright = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.T,
        6: np.rot90(array, -1),
        7: array[::-1, ::-1].T,
        8: np.rot90(array),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path, Image.fromarray(array), exif=exif)
    assert np.array_equal(pixels(path), upright)
    assert load(path).size == upright.shape


def test_the_first_frame_of_several_is_taken(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(9, 6, None, seed=k)) for k in range(2)]
    path = saved(tmp_path, frames[0], "frames.tif", save_all=True, append_images=frames[1:])
    assert np.array_equal(pixels(path), np.asarray(frames[0]))


def test_an_image_beyond_pillow_s_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.new("L", (40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert load(path).size == (40, 40)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_the_given_image_is_not_shared() -> None:
    image = Image.new("RGB", (4, 4))
    picture = load(image)
    image.paste((255, 0, 0), (0, 0, 4, 4))
    assert not np.asarray(picture.image).any()


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4), np.float32), "float32 and shape"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \[4, 4, 4\] is no image"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \[3, 4, 5\] is no image"),
        (np.zeros(4, np.uint8), "is no image"),
        (np.zeros((0, 4), np.uint8), "0x4 pixels: it holds nothing"),
        (np.zeros((4, 0, 3), np.uint8), "4x0 pixels: it holds nothing"),
    ],
)
def test_an_array_that_is_no_image(array: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load(array)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_32_bits(tmp_path: Path, dtype: Any) -> None:
    path = saved(tmp_path, Image.fromarray(np.ones((4, 4), dtype)), "deep.tif")
    with pytest.raises(BadInput, match=r"deep.tif has pixels of 32 bits .* save it with 8 or 16 bits"):
        load(path)


def test_files_that_are_no_image(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read the image .*missing.png: No such file"):
        load(tmp_path / "missing.png")
    with pytest.raises(BadInput, match=r"cannot read the image .*: Is a directory"):
        load(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(BadInput, match=r"text.png is not an image that Pillow can read"):
        load(tmp_path / "text.png")
    with pytest.raises(BadInput, match=r"rnet24.onnx is not an image"):
        load(nets.FIXTURES / "rnet24.onnx")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "webp"])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.9])
def test_a_file_that_is_cut_short(tmp_path: Path, suffix: str, kept: float) -> None:
    path = saved(tmp_path, Image.fromarray(noise(64, 64)), f"cut.{suffix}")
    blob = path.read_bytes()
    path.write_bytes(blob[: int(len(blob) * kept)])
    with pytest.raises(BadInput, match=rf"cut.{suffix}"):
        load(path)


def test_an_image_too_large_for_one_pass(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("1", (20000, 15000)))
    with pytest.raises(BadInput, match=r"15000x20000 pixels, more than the 268,435,456 that one pass takes"):
        load(path)
