"""What a scan leaves on disk: its maps, its heat map and its report, all of them or none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from surgery.errors import BadInput
from surgery.report.heat import Layer, Mark, fit, levels, paint
from surgery.saving import move_into, staged
from surgery.scanner.result import Scan, ScoreMap

MARKED = 0.9  # a box is drawn where the score is at least this share of the best one, in colours


def save(scan: Scan, folder: Path, stem: str, *, force: bool) -> tuple[Path, ...]:
    """Write the files of a scan into a folder, which is made if need be; returns their paths."""
    names = {map_name(stem, m, len(scan.maps)): m for m in scan.maps}
    paths = tuple(folder / name for name in [*names, f"{stem}.png", f"{stem}.json"])
    check_free(paths, scan.picture.path, force=force)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with staged(folder) as stage:
            for name, score_map in names.items():
                np.save(stage / name, score_map.scores)
            picture(scan).save(stage / f"{stem}.png")
            (stage / f"{stem}.json").write_text(scan.to_json() + "\n", "utf-8")
            move_into(stage, folder)
    except (BadInput, OSError) as error:
        for place in missing:  # what was made for nothing goes again, innermost first
            with suppress(OSError):
                place.rmdir()
        if isinstance(error, OSError):
            raise BadInput(f"cannot make the folder {folder}: {error.strerror or error}.") from error
        raise
    return paths


def check_free(paths: Sequence[Path], image: Path | None, *, force: bool) -> None:
    """Raise BadInput where a file is the image itself, or is there already without `force`."""
    there = [path for path in paths if path.exists()]
    for path in there:
        if image is not None and image.exists() and path.samefile(image):
            raise BadInput(
                f"the heat map {path} would replace the image itself, which is never changed; give another "
                "folder."
            )
    if there and not force:
        raise BadInput(f"{there[0]} exists already; give another folder, or --force to replace it.")


def map_name(stem: str, score_map: ScoreMap, count: int) -> str:
    """The file name of a map: with its scale where there are several."""
    return f"{stem}@{score_map.view.scale}.npy" if count > 1 else f"{stem}.npy"


def picture(scan: Scan) -> Image.Image:
    """The heat map of the class shown over the image, with the boxes of the best positions."""
    photo = fit(scan.picture.image.convert("RGB"))
    height, width = scan.picture.size
    shrunk = photo.height / height, photo.width / width
    layers = [layer(m, scan.label, shrunk) for m in scan.maps]
    ends = levels(layers)
    marks = [
        Mark(tuple(side * shrunk[k % 2] for k, side in enumerate(peak.box)), f"{peak.score:.4g}")
        for peak in scan.best
        if peak.score - ends[0] >= MARKED * (scan.best[0].score - ends[0])
    ]
    caption = f"class {scan.label} of {scan.output!r}"
    return paint(photo, layers, ends, marks, caption)


def layer(score_map: ScoreMap, label: int, shrunk: tuple[float, float]) -> Layer:
    """The scores of a class as a layer of the picture, which is the image times `shrunk`."""
    view = score_map.view
    ratio = tuple(r * s for r, s in zip(view.ratio, shrunk, strict=True))
    stride, window = view.geometry.stride, view.geometry.window
    return Layer(
        score_map.of(label),
        (stride[0] * ratio[0], stride[1] * ratio[1]),
        (window[0] * ratio[0], window[1] * ratio[1]),
    )
