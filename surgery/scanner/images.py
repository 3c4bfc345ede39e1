"""Pictures in: files, PIL images and arrays as upright images of 8 bits, grey or RGB."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from surgery.errors import BadInput

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]

MOST_PIXELS = 2**28  # in one pass: 3 GiB of float32 in RGB before the net has done anything
GREY = ("1", "LA", "La")


@dataclass(frozen=True, eq=False)
class Picture:
    """An image to scan: its name for messages, its pixels (mode `L` or `RGB`), and its file if it has one."""

    name: str
    image: Image.Image
    path: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.height, self.image.width

    @property
    def stem(self) -> str:
        """The name without folder and suffix, to name files after."""
        return Path(self.name).stem

    def resized(self, size: tuple[int, int], mode: str) -> Image.Image:
        """The image in this mode, resized to (height, width) by a bilinear filter that averages when it
        shrinks; untouched where it has that size already."""
        image = self.image.convert(mode)
        if size == self.size:
            return image
        return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def load(image: ImageLike) -> Picture:
    """An image, turned upright as its EXIF orientation says, in 8 bits.

    A file may be anything Pillow reads (of several frames the first is taken). Colours become RGB and
    grey stays grey; an alpha channel is dropped, as training pipelines do; the 65,536 levels of 16-bit
    grey are mapped onto 256. An array is uint8 `[H, W]` or `[H, W, 3]`, in RGB.

    Raises BadInput where the file cannot be read or its pixels have no stated range (float, 32 bits).
    """
    if isinstance(image, np.ndarray):
        return Picture("image", from_array(image))
    if isinstance(image, Image.Image):
        check_size((image.height, image.width), "the image")
        return Picture("image", eight_bits(image, "the image"))
    path = Path(image)
    with unlimited():
        try:
            with Image.open(path) as opened:
                check_size((opened.height, opened.width), str(path))
                return Picture(str(path), eight_bits(opened, str(path)), path)
        except BadInput:
            raise
        except UnidentifiedImageError as error:
            raise BadInput(f"{path} is not an image that Pillow can read.") from error
        except Exception as error:  # the decoders raise errors of no common base
            reason = getattr(error, "strerror", None) or error
            raise BadInput(f"cannot read the image {path}: {reason}.") from error


@contextmanager
def unlimited() -> Iterator[None]:
    """Read beyond Pillow's own limit: large images are what a scan is for; `check_size` has ours."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise BadInput where an image is empty or too large for one pass."""
    height, width = size
    if not height * width:
        raise BadInput(f"{name} is {height}x{width} pixels: it holds nothing.")
    if height * width > MOST_PIXELS:
        raise BadInput(
            f"{name} is {height}x{width} pixels, more than the {MOST_PIXELS:,} that one pass takes; "
            "cut it into parts that overlap by the window less one stride, or scan it at a smaller scale."
        )


def from_array(array: NDArray[Any]) -> Image.Image:
    """An array of pixels as an image."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise BadInput(
            f"an array of {array.dtype} and shape {list(array.shape)} is no image: give uint8 pixels as "
            "[height, width] or [height, width, 3] in RGB."
        )
    check_size((array.shape[0], array.shape[1]), "the array")
    return Image.fromarray(np.ascontiguousarray(array))


def eight_bits(image: Image.Image, name: str) -> Image.Image:
    """An upright copy in mode `L` or `RGB`."""
    mode, kind = image.mode, image.format
    image = ImageOps.exif_transpose(image)
    if mode.startswith("I;16") or (mode == "I" and kind == "PNG"):  # older Pillow opens 16 bits as "I"
        levels = np.asarray(image).astype(np.int64)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if mode in ("I", "F"):
        raise BadInput(
            f"{name} has pixels of 32 bits (Pillow's mode {mode}), which state no range from black to "
            "white; save it with 8 or 16 bits."
        )
    if mode in GREY:
        return image.convert("L")
    if mode in ("P", "PA"):  # by way of RGBA, as a palette may hold transparent colours
        return image.convert("RGBA").convert("RGB")
    return image.copy() if mode in ("L", "RGB") else image.convert("RGB")
