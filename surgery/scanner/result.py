"""What a scan gives: the score maps, the best positions, and their table, JSON and files."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.head import Geometry
from surgery.scanner.images import Picture
from surgery.scanner.peaks import Peak
from surgery.scanner.plan import Card, View
from surgery.scanner.tables import render_scan


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """The scores of one pass, `[K, rows, cols]` in the model's dtype: `scores[k, i, j]` is what the
    original answers for class `k` on the window at `view.box(i, j)`."""

    view: View
    scores: NDArray[Any]

    def of(self, label: int) -> NDArray[Any]:
        """The scores of one class, `[rows, cols]`."""
        return np.asarray(self.scores[label])

    def to_dict(self) -> dict[str, Any]:
        """The keys of the reports."""
        return {"scale": self.view.scale, "size": list(self.view.size), "grid": list(self.view.grid)}


@dataclass(frozen=True, eq=False)
class Scan:
    """The scores of every window of one image, at every scale asked for. Prints as a table.

    `label` is the class shown, `asked` whether it was asked for (else it has the highest score
    anywhere); `kind` is what the output's values are: `softmax`, `sigmoid` or `raw`.
    """

    picture: Picture = field(repr=False)
    card: Card
    output: str
    kind: str
    label: int
    asked: bool
    maps: tuple[ScoreMap, ...]
    best: tuple[Peak, ...]

    @property
    def geometry(self) -> Geometry:
        """Where the windows lie in the resized image."""
        return self.card.geometry

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data; boxes are in pixels of the image as read."""
        return {
            "image": self.picture.name,
            "size": list(self.picture.size),
            "model": self.card.model,
            "engine": self.card.engine,
            "verdict": self.card.verdict,
            "geometry": self.geometry.to_json(),
            "output": self.output,
            "kind": self.kind,
            "class": self.label,
            "class_chosen": "asked" if self.asked else "highest score",
            "scales": [m.to_dict() for m in self.maps],
            "best": [p.to_dict() for p in self.best],
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.to_dict())

    def save(
        self, directory: str | os.PathLike[str], *, stem: str | None = None, force: bool = False
    ) -> tuple[Path, ...]:
        """Write the maps (`.npy`), the heat map (`.png`) and the report (`.json`); returns their paths.

        The files are named `stem`, by default the image's own, and appear whole or not at all. The maps
        are `[K, rows, cols]`, of several scales one file each, as `<stem>@0.25.npy`. Raises BadInput where
        the folder cannot be written, or a file is there already and `force` is not given.
        """
        from surgery.scanner.write import save

        return save(self, Path(directory), stem or self.picture.stem, force=force)

    def __str__(self) -> str:
        return render_scan(self.to_dict())
