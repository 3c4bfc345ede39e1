"""The runs: one session of a converted model, asked for every window of one image after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surgery.errors import BadInput
from surgery.model import ModelLike, read
from surgery.scanner import plan
from surgery.scanner.feed import Numbers, plan_feed
from surgery.scanner.images import ImageLike, Picture, load
from surgery.scanner.peaks import OVERLAP, peaks
from surgery.scanner.plan import Card, Scale, View
from surgery.scanner.result import Scan, ScoreMap
from surgery.session import Session


class Scanner:
    """A converted model, loaded once and ready for any number of images.

    `model` is a path or a ModelProto that `convert` made. Pixels of 0..255 become the float input
    `(low + pixel / 255 * (high - low) - mean) / std`: `input_range` is (low, high), by default (0, 1);
    `mean` and `std` are one number or one per channel in the model's order, by default 0 and 1. So
    torchvision's models take their usual mean and std, Caffe's input_range (0, 255) and a mean. Integer
    inputs take the pixels as they are. `layout` (NCHW, NHWC) and `channels` (RGB, BGR, L) are read off
    the input's dims; `output` names the scores, by default the first map that ends in a softmax or a
    sigmoid, else the first.

    Raises BadInput where the model was not converted, or what is given does not fit it.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        mean: Numbers | None = None,
        std: Numbers | None = None,
        input_range: Sequence[float] | None = None,
        layout: str | None = None,
        channels: str | None = None,
        output: str | None = None,
        threads: int = 0,
    ) -> None:
        source = read(model)
        self.card = Card.of(source)
        self.output, self.kind = plan.choose_output(source, self.card, output)
        self.feed = plan_feed(
            source, mean=mean, std=std, input_range=input_range, layout=layout, channels=channels
        )
        self._session = Session(source.proto, threads=threads)

    def scan(
        self,
        image: ImageLike,
        *,
        scales: Sequence[Scale] = (1.0,),
        label: int | None = None,
        top: int = 10,
        overlap: float = OVERLAP,
    ) -> Scan:
        """Score every full window of an image, once per scale.

        `scales` are factors (0.25) or shorter sides in pixels ("128px"). `label` is the class whose best
        positions are wanted, by default the one with the highest score anywhere; `top` how many of them,
        where windows that share more than `overlap` of the smaller with a better one are left out.

        Raises BadInput where the image cannot be read or, at a scale, holds no window.
        """
        if self.card.reduce:
            raise BadInput(
                f"{self.card.model} pools its scores over positions (--reduce {self.card.reduce}), so it has "
                "no map to show. Convert the original without --reduce, or use classify."
            )
        picture = load(image)
        views = plan.views(scales, picture.size, picture.name, self.card, self.feed.size)
        maps = tuple(ScoreMap(view, self.scores(picture, view)) for view in views)
        chosen = self._class(maps, label)
        best = peaks([(m.view, m.of(chosen)) for m in maps], top, overlap)
        return Scan(picture, self.card, self.output, self.kind, chosen, label is not None, maps, best)

    def _class(self, maps: Sequence[ScoreMap], label: int | None) -> int:
        count = len(maps[0].scores)
        if label is None:
            return int(np.max([m.scores.max(axis=(1, 2)) for m in maps], axis=0).argmax())
        if not 0 <= label < count:
            raise BadInput(
                f"there is no class {label}: the output {self.output!r} of {self.card.model} has {count}, "
                f"counted from 0."
            )
        return label

    def scores(self, picture: Picture, view: View, *, mirrored: bool = False) -> NDArray[Any]:
        """The scores of every full window of one view, `[K, rows, cols]`; `[K]` of a model that pools.

        Class dims of several axes are flattened. `mirrored` runs the image with left and right swapped.
        """
        pixels = picture.resized(view.size, self.feed.mode)
        if mirrored:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.feed.size is None:
            pixels = pixels.crop((0, 0, view.fed[1], view.fed[0]))
        feeds = {self.feed.name: self.feed.tensor(pixels)}
        values = self._session.run(feeds, [self.output])[self.output]
        return self._checked(values, view)

    def _checked(self, values: NDArray[Any], view: View) -> NDArray[Any]:
        if np.isnan(values).any():
            raise BadInput(
                f"the output {self.output!r} of {self.card.model} holds NaN for this image; look at the "
                "input's normalisation (mean, std, input range) first."
            )
        if self.card.reduce:
            return values.reshape(-1)
        have, grid, extra = values.shape[-2:], view.grid, self.card.geometry.extra
        if values.ndim < 3 or any(not g <= h <= g + e for h, g, e in zip(have, grid, extra, strict=True)):
            raise BadInput(
                f"the output {self.output!r} of {self.card.model} is no score map: its shape is "
                f"{list(values.shape)} where the image has {grid[0]}x{grid[1]} windows. Name another with "
                "output (--output)."
            )
        rows, cols = grid
        return np.ascontiguousarray(values[..., :rows, :cols].reshape(-1, rows, cols))


def scan(
    model: ModelLike,
    image: ImageLike,
    *,
    scales: Sequence[Scale] = (1.0,),
    mean: Numbers | None = None,
    std: Numbers | None = None,
    input_range: Sequence[float] | None = None,
    layout: str | None = None,
    channels: str | None = None,
    output: str | None = None,
    label: int | None = None,
    top: int = 10,
    overlap: float = OVERLAP,
) -> Scan:
    """Score every full window of one image of any size with a converted model.

    `image` is a file, a PIL image, or uint8 pixels `[H, W]` or `[H, W, 3]`. See Scanner for what the model
    is fed, and Scanner.scan for scales, class and best positions; use a Scanner for several images.
    """
    scanner = Scanner(
        model, mean=mean, std=std, input_range=input_range, layout=layout, channels=channels, output=output
    )
    return scanner.scan(image, scales=scales, label=label, top=top, overlap=overlap)
