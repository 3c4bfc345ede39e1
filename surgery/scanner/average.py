"""Scores averaged over positions, mirror images and scales: the dense evaluation of the VGG paper."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.errors import BadInput
from surgery.model import ModelLike
from surgery.scanner import plan
from surgery.scanner.feed import Numbers
from surgery.scanner.images import ImageLike, load
from surgery.scanner.plan import Card, View
from surgery.scanner.run import Scanner
from surgery.scanner.tables import render_evaluation

Labels = str | os.PathLike[str] | Sequence[str]


@dataclass(frozen=True)
class Ranked:
    """A class and its score; `label` is its name, None where no names were given."""

    index: int
    label: str | None
    score: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One score per class for a whole image. Prints as the table of the best.

    `scores` is `[K]` in float64, `of_scale[i]` what the view `views[i]` alone gives; `kind` is what the
    values are: `softmax`, `sigmoid` (so probabilities were averaged) or `raw`.
    """

    image: str
    size: tuple[int, int]
    card: Card
    output: str
    kind: str
    flip: bool
    views: tuple[View, ...]
    of_scale: NDArray[np.float64]
    scores: NDArray[np.float64]
    top: tuple[Ranked, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        scales = [
            {"scale": v.scale, "size": list(v.size), "grid": list(v.grid), "top": int(s.argmax())}
            for v, s in zip(self.views, self.of_scale, strict=True)
        ]
        return {
            "image": self.image,
            "size": list(self.size),
            "model": self.card.model,
            "engine": self.card.engine,
            "verdict": self.card.verdict,
            "geometry": self.card.geometry.to_json(),
            "output": self.output,
            "kind": self.kind,
            "reduce": self.card.reduce,
            "flip": self.flip,
            "scales": scales,
            "top": [{"class": t.index, "label": t.label, "score": t.score} for t in self.top],
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        return render_evaluation(self.to_dict())


def read_labels(labels: Labels | None) -> tuple[str, ...] | None:
    """The names of the classes, in order: given as they are, or one a line of a UTF-8 file."""
    if labels is None:
        return None
    if not isinstance(labels, str | os.PathLike):
        return tuple(labels)
    path = Path(labels)
    try:
        return tuple(line.strip() for line in path.read_text("utf-8").rstrip().splitlines())
    except OSError as error:
        raise BadInput(f"cannot read the labels {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"the labels {path} are no UTF-8 text: {error}.") from error


def evaluate_with(
    scanner: Scanner,
    image: ImageLike,
    *,
    scales: Sequence[int] | None = None,
    flip: bool = False,
    topk: int = 5,
    labels: Labels | None = None,
) -> Evaluation:
    """Average the scores of one image with a scanner that is loaded already; see `evaluate`."""
    if topk < 1:
        raise BadInput(f"topk is {topk}; give 1 or more.")
    names = read_labels(labels)
    picture = load(image)
    if scales is None:
        asked: list[plan.Scale] = [plan.at_least_window(picture.size, scanner.card.geometry)]
    else:
        asked = [f"{side}px" for side in scales]
    views = plan.views(asked, picture.size, picture.name, scanner.card, scanner.feed.size)
    sides = (False, True) if flip else (False,)
    runs = [[over_positions(scanner.scores(picture, v, mirrored=m)) for m in sides] for v in views]
    of_scale = np.mean(runs, axis=1)
    scores = of_scale.mean(axis=0)
    if names is not None and len(names) != len(scores):
        raise BadInput(
            f"there are {len(names)} labels, and {len(scores)} classes in the output {scanner.output!r} of "
            f"{scanner.card.model}; give one label a line, in the order of the classes."
        )
    order = np.argsort(-scores, kind="stable")[:topk]
    top = tuple(Ranked(int(k), names[k] if names else None, float(scores[k])) for k in order)
    return Evaluation(
        picture.name,
        picture.size,
        scanner.card,
        scanner.output,
        scanner.kind,
        flip,
        tuple(views),
        of_scale,
        scores,
        top,
    )


def over_positions(scores: NDArray[Any]) -> NDArray[np.float64]:
    """The average of `[K, rows, cols]` over positions; `[K]` was pooled inside the model already."""
    values = scores.astype(np.float64)
    return np.asarray(values if values.ndim == 1 else values.mean(axis=(1, 2)))


def evaluate(
    model: ModelLike,
    image: ImageLike,
    *,
    scales: Sequence[int] | None = None,
    flip: bool = False,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    input_range: Sequence[float] | None = None,
    layout: str | None = None,
    channels: str | None = None,
    output: str | None = None,
    topk: int = 5,
    labels: Labels | None = None,
) -> Evaluation:
    """Classify an image of any size: scores averaged over positions, mirror images and scales.

    Dense evaluation as in Simonyan & Zisserman 2015 (arXiv:1409.1556, section 3.2): the shorter side is
    resized to each of `scales` (pixels), the aspect kept; the scores of all full windows are averaged,
    then those of the image and, with `flip`, its mirror image, then those of the scales, each of which
    counts once. Without `scales` the image is taken as it is, enlarged where no window fits. `labels` is a
    file of one class name a line, or the names.

    What is averaged is the output as it is: probabilities where it is a softmax, as in the paper. See
    Scanner for what the model is fed. Raises BadInput where image, scale or labels do not fit the model.
    """
    scanner = Scanner(
        model, mean=mean, std=std, input_range=input_range, layout=layout, channels=channels, output=output
    )
    return evaluate_with(scanner, image, scales=scales, flip=flip, topk=topk, labels=labels)
