"""The original on the crops of an image: one by one, in batches, or all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.errors import BadInput
from surgery.head import Geometry
from surgery.model import Model, dims_of, dtype_of
from surgery.oracle import Arrays, grid_places, window_at
from surgery.probes import relaxed
from surgery.session import Session

BATCH = 8
TIMED = 256  # crops run one by one and in batches, at most
ROUNDING = 0.02  # of the largest value: what half precision may differ by from batch to batch
MAX_MEMORY = 2**31  # bytes of activations that all crops in one batch may take


@dataclass(frozen=True)
class Way:
    """One way to run the original over crops: `batch` at once, `crops` of them in all.

    `skipped` says why it cannot be taken, and is empty where it can.
    """

    name: str
    batch: int
    crops: int
    skipped: str = ""


def plan(positions: int, own: int, each: int, baked: str) -> tuple[Way, ...]:
    """The ways to run so many crops through an original of batch `own`, whose activations take `each` bytes.

    `baked` says why its batch of 1 cannot be made larger, and is empty where it can.
    """
    some = min(TIMED, positions)
    fixed = f"its batch is fixed at {own}" if own > 1 else ""
    need = positions * each
    large = f"its activations would take about {need / 2**30:.1f} GiB" if need > MAX_MEMORY else ""
    return (
        Way("sequential", 1, some, fixed),
        Way("batched", own if own > 1 else BATCH, some, baked),
        Way("all", positions, positions, fixed or baked or large),
    )


class Cropper:
    """The original in one session, and the crops of one image `[1, ...]` in batches of any size."""

    def __init__(
        self, model: Model, geometry: Geometry, axes: Sequence[int], image: NDArray[Any], threads: int = 0
    ) -> None:
        self.model = model
        self.geometry = geometry
        self.image = image
        dims = dims_of(model.image)
        self.axes = tuple(axes)
        self.own = dims[0] if isinstance(dims[0], int) and dims[0] > 0 else 1
        self.session = Session(relaxed(model.proto) if self.own == 1 else model.proto, threads=threads)

    @property
    def grid(self) -> tuple[int, ...]:
        """Windows per axis."""
        return self.geometry.grid([self.image.shape[a] for a in self.axes])

    def crops(self, first: int, last: int) -> NDArray[Any]:
        """Some of the crops, counted row by row, as one batch: a copy."""
        g, places = self.geometry, grid_places(self.grid)[first:last]
        return np.concatenate([window_at(self.image, self.axes, g.window, p, g.stride) for p in places])

    def batches(self, count: int, batch: int) -> Iterator[Arrays]:
        """The feeds to run the first `count` crops so many at once, each cut when its turn comes.

        A fixed batch that is not full repeats some.
        """
        for first in range(0, count, batch):
            part = self.crops(first, min(first + batch, count))
            if self.own > 1 and len(part) < batch:
                part = np.resize(part, (batch, *part.shape[1:]))
            yield with_others(self.model, part)

    def baked(self) -> str:
        """Why two crops cannot go through at once; empty where they can, or the batch is fixed above 1."""
        if self.own > 1:
            return ""
        some = self.crops(0, 2)
        two = np.resize(some, (2, *some.shape[1:]))
        alone = [self.session.run(with_others(self.model, two[i : i + 1])) for i in range(2)]
        try:
            together = self.session.run(with_others(self.model, two))
        except BadInput as error:
            return f"its batch is baked in: {error}"
        mixed = [name for name in together if not _stacked(together[name], [v[name] for v in alone])]
        return f"its batch is baked in: {mixed[0]!r} of two crops is not what each gives" if mixed else ""


def _stacked(together: NDArray[Any], alone: list[NDArray[Any]]) -> bool:
    """Whether an output for two samples is what each alone gives, whatever the rounding of its dtype."""
    first = alone[0].shape
    if first[:1] != (1,) or alone[1].shape != first or together.shape != (2, *first[1:]):
        return False
    apart = np.concatenate(alone)
    if apart.dtype.kind != "f":
        return True
    room = ROUNDING * float(np.nanmax(np.abs(apart), initial=0.0))
    return bool(np.allclose(together, apart, rtol=0, atol=room, equal_nan=True))


def with_others(model: Model, images: NDArray[Any]) -> Arrays:
    """The feeds for a batch of images, with ones for every other input."""
    feeds = {model.image.name: images}
    for value in model.proto.graph.input:
        if value.name != model.image.name:
            dims = [d if isinstance(d, int) and d > 0 else 1 for d in dims_of(value)]
            feeds[value.name] = np.ones([len(images), *dims[1:]] if dims else [], dtype_of(value))
    return feeds
