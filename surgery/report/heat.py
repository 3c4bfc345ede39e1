"""Heat maps: scores of windows as light on the photograph they were taken from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Floats = NDArray[np.float64]

LEAST, MOST = 400, 2048  # pixels of a picture's longer side: smaller hides under its own text, larger is slow
SHARPNESS = 2  # power of the tent by which a window's score falls off from its centre to its border
DARK = 0.45  # how much of a cold photograph's light is left
GLOW = 0.5  # how much of a hot place is colour
LEGEND = 28  # pixels below the photograph
INK = (255, 255, 255)

# The colours of matplotlib's `inferno` (Smith & van der Walt 2015, CC0), every eighth: equal steps of
# score look like equal steps of brightness.
INFERNO = (
    (0, 0, 4),
    (31, 12, 72),
    (85, 15, 109),
    (136, 34, 106),
    (186, 54, 85),
    (227, 89, 51),
    (249, 140, 10),
    (249, 201, 50),
    (252, 255, 164),
)


@dataclass(frozen=True, eq=False)
class Layer:
    """The scores `[rows, cols]` of one pass: score (i, j) belongs to the window of `size` that begins at
    (i, j) * `step`, both (y, x) in pixels of the picture."""

    scores: NDArray[Any]
    step: tuple[float, float]
    size: tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """A box to draw, (top, left, bottom, right) in pixels of the picture, and the text at its corner."""

    box: tuple[float, ...]
    text: str


def fit(photo: Image.Image) -> Image.Image:
    """The photograph at a size to look at: its longer side is brought to 400 to 2048 pixels."""
    longest = max(photo.size)
    wanted = min(max(longest, LEAST), MOST)
    if wanted == longest:
        return photo
    width, height = (max(1, round(side * wanted / longest)) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.BILINEAR)


def levels(layers: Sequence[Layer]) -> tuple[float, float]:
    """The scores at the two ends of the colours: 0 and 1 of probabilities, else the lowest and highest."""
    finite = [x.scores[np.isfinite(x.scores)] for x in layers]
    low = min((float(s.min()) for s in finite if s.size), default=0.0)
    high = max((float(s.max()) for s in finite if s.size), default=1.0)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def heat(layers: Sequence[Layer], size: tuple[int, int], ends: tuple[float, float]) -> Floats:
    """The heat `[height, width]`, from 0 to 1, of every pixel of a picture of this size.

    A pixel takes the average of the windows it lies in, weighted by how near their centres are, and of
    the layers; the whole is then scaled so that the hottest pixel has the level of the highest score.
    Pixels in no window are cold.
    """
    low, high = ends
    span = high - low or 1.0
    levelled = [np.clip((x.scores.astype(np.float64) - low) / span, 0, 1) for x in layers]
    warmth = np.mean([spread(v, x, size) for v, x in zip(levelled, layers, strict=True)], axis=0)
    hottest = max(float(v.max()) for v in levelled)
    peak = float(warmth.max())
    return np.asarray(warmth * (hottest / peak)) if peak else np.asarray(warmth)


def spread(values: Floats, layer: Layer, size: tuple[int, int]) -> Floats:
    """The weighted average, at every pixel, of the windows it lies in."""
    rows, cols = (tents(size[k], values.shape[k], layer.step[k], layer.size[k]) for k in range(2))
    weight = np.outer(rows.sum(axis=1), cols.sum(axis=1))
    return np.asarray(np.divide(rows @ values @ cols.T, weight, out=np.zeros(size), where=weight > 0))


def tents(pixels: int, windows: int, step: float, size: float) -> Floats:
    """The weight `[pixels, windows]` of each window at each pixel of an axis: 1 at the window's centre, 0
    from its border on."""
    centres = np.arange(windows) * step + size / 2
    away = np.abs(np.arange(pixels)[:, None] + 0.5 - centres) / (size / 2)
    weights: Floats = np.clip(1 - away, 0, 1) ** SHARPNESS
    return weights


def colours(values: Floats) -> Floats:
    """Values from 0 to 1 as RGB from 0 to 255, in a last dim."""
    table = np.array(INFERNO, dtype=np.float64)
    places = np.linspace(0, 1, len(table))
    return np.stack([np.interp(values, places, table[:, k]) for k in range(3)], axis=-1)


def paint(
    photo: Image.Image,
    layers: Sequence[Layer],
    ends: tuple[float, float],
    marks: Sequence[Mark] = (),
    caption: str = "",
) -> Image.Image:
    """The photograph (RGB), dark and grey where cold, lit and glowing where hot, with boxes and a legend.

    `ends` are the scores at the two ends of the colours; the first mark is the best, and drawn so.
    """
    pixels = np.asarray(photo, dtype=np.float64)
    grey = pixels @ (0.299, 0.587, 0.114)
    warmth = heat(layers, (photo.height, photo.width), ends)[..., None]
    lit = pixels * warmth + DARK * grey[..., None] * (1 - warmth)
    glow = GLOW * np.sqrt(warmth)  # the root lets faint heat show its colour
    mixed = lit * (1 - glow) + colours(warmth[..., 0]) * glow
    canvas = Image.new("RGB", (photo.width, photo.height + LEGEND))
    canvas.paste(Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)))
    draw = ImageDraw.Draw(canvas)
    for rank, mark in reversed(list(enumerate(marks))):  # the best on top
        outline(draw, mark, best=rank == 0)
    legend(canvas, draw, ends, caption)
    return canvas


def outline(draw: ImageDraw.ImageDraw, mark: Mark, *, best: bool) -> None:
    """A box with its text inside; where the text has no room there, only the best has it, outside."""
    top, left, bottom, right = mark.box
    ink = INK if best else tuple(int(c) for c in colours(np.array(0.85)))
    edges = left, top, max(left, right - 1), max(top, bottom - 1)  # a window can be less than a pixel here
    draw.rectangle(edges, outline=ink, width=2 if best else 1)
    _, _, width, height = draw.textbbox((0, 0), mark.text)
    corner = (left + 4, top + 3)
    if width + 8 > right - left or height + 6 > bottom - top:
        if not best:
            return
        corner = (left, top - height - 4 if top > height + 4 else bottom + 3)
    x, y, x_end, y_end = draw.textbbox(corner, mark.text)
    draw.rectangle((x - 2, y - 1, x_end + 1, y_end + 1), fill=(0, 0, 0))
    draw.text(corner, mark.text, fill=ink)


def legend(canvas: Image.Image, draw: ImageDraw.ImageDraw, ends: tuple[float, float], caption: str) -> None:
    """The scale of colours with its ends, and what is shown, in the strip below the photograph."""
    font = ImageFont.load_default()
    middle = canvas.height - LEGEND // 2
    left, right = f"{ends[0]:.3g}", f"{ends[1]:.3g}"
    draw.text((6, middle), left, fill=INK, font=font, anchor="lm")
    start = 12 + round(draw.textlength(left, font=font))
    width = max(1, min(160, canvas.width // 3))
    ramp = colours(np.tile(np.linspace(0, 1, width), (10, 1)))
    canvas.paste(Image.fromarray(ramp.astype(np.uint8)), (start, middle - 5))
    draw.text((start + width + 6, middle), right, fill=INK, font=font, anchor="lm")
    after = start + width + 18 + round(draw.textlength(right, font=font))
    draw.text((after, middle), caption, fill=INK, font=font, anchor="lm")
