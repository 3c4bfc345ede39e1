"""What a scan saves: maps, heat map and report, whole or not at all; and the heat is where the scores are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import converted, noise
from PIL import Image

import surgery
from surgery.report import heat
from surgery.report.heat import Layer
from surgery.scanner.write import picture


def found(*scales: float | str, image: Any = None) -> surgery.Scan:
    return surgery.scan(converted("plain"), noise(40, 50) if image is None else image, scales=scales or (1,))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------ files


def test_one_scale_is_three_files(tmp_path: Path) -> None:
    result = found()
    paths = result.save(tmp_path / "new" / "folder")
    assert [p.name for p in paths] == ["image.npy", "image.png", "image.json"]
    assert files(tmp_path / "new" / "folder") == sorted(p.name for p in paths)
    assert np.array_equal(np.load(paths[0]), result.maps[0].scores)
    assert json.loads(paths[2].read_text()) == result.to_dict()
    with Image.open(paths[1]) as shown:
        assert shown.size == (400, 320 + heat.LEGEND)


def test_several_scales_are_a_map_each(tmp_path: Path) -> None:
    result = found(1, 0.8, "35px")
    paths = result.save(tmp_path, stem="photo")
    assert files(tmp_path) == ["photo.json", "photo.png", "photo@0.8.npy", "photo@1.npy", "photo@35px.npy"]
    for path, score_map in zip(paths, result.maps, strict=False):
        assert np.array_equal(np.load(path), score_map.scores)


def test_an_existing_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    found().save(tmp_path)
    before = (tmp_path / "image.npy").read_bytes()
    other = found(image=noise(40, 50, seed=1))
    with pytest.raises(surgery.BadInput, match=r"image.npy exists already; give another folder, or --force"):
        other.save(tmp_path)
    assert (tmp_path / "image.npy").read_bytes() == before
    other.save(tmp_path, force=True)
    assert np.array_equal(np.load(tmp_path / "image.npy"), other.maps[0].scores)


def test_the_image_itself_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(noise(40, 50)).save(path)
    before = path.read_bytes()
    with pytest.raises(surgery.BadInput, match="would replace the image itself, which is never changed"):
        found(image=path).save(tmp_path, force=True)
    assert files(tmp_path) == ["photo.png"]
    assert path.read_bytes() == before


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(surgery.BadInput, match="No space left on device"):
        found().save(tmp_path / "new" / "folder")
    assert files(tmp_path) == []


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(surgery.BadInput, match=r"cannot make the folder .*out"):
        found().save(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


# ------------------------------------------------------------------ the picture


def one_hot(row: int, col: int) -> Layer:
    scores = np.zeros((9, 7))
    scores[row, col] = 0.8
    return Layer(scores, (4.0, 6.0), (16.0, 20.0))


@pytest.mark.parametrize(("row", "col"), [(0, 0), (4, 3), (8, 6), (2, 6)])
def test_the_heat_of_one_window_lies_around_its_centre_and_inside_it(row: int, col: int) -> None:
    warmth = heat.heat([one_hot(row, col)], (60, 70), (0, 1))
    assert warmth.max() == pytest.approx(0.8)
    rows, cols = np.nonzero(warmth)
    assert (rows.min(), rows.max()) == (row * 4, row * 4 + 15)
    assert (cols.min(), cols.max()) == (col * 6, col * 6 + 19)
    y, x = np.unravel_index(warmth.argmax(), warmth.shape)
    at_border = row in (0, 8) or col in (0, 6)  # where no other window shares the pixels
    assert at_border or (abs(y + 0.5 - row * 4 - 8) <= 2 and abs(x + 0.5 - col * 6 - 10) <= 2)


def test_equal_scores_are_equal_heat_wherever_a_window_is() -> None:
    layer = Layer(np.full((9, 7), 0.6), (4.0, 6.0), (16.0, 20.0))
    warmth = heat.heat([layer], (60, 70), (0, 1))
    assert warmth[:48, :56] == pytest.approx(0.6)
    assert not warmth[48:].any()
    assert not warmth[:, 56:].any()


def test_pixels_between_windows_that_lie_apart_are_cold() -> None:
    warmth = heat.heat([Layer(np.ones((2, 2)), (10.0, 10.0), (4.0, 4.0))], (14, 14), (0, 1))
    assert not warmth[4:10].any()
    assert warmth[:4, :4].all()


def test_the_ends_of_the_colours() -> None:
    def ends(*values: float) -> tuple[float, float]:
        return heat.levels([Layer(np.array([values]), (1, 1), (1, 1))])

    assert ends(0.2, 0.7) == (0, 1)
    assert ends(-3, 5) == (-3, 5)
    assert ends(-np.inf, -2, -1) == (-2, -1)
    assert ends(-np.inf) == (0, 1)
    assert ends(7, 7) == (7, 7)


@pytest.mark.parametrize("value", [-np.inf, 0.0, 7.0, -7.0])
def test_equal_scores_make_a_picture(value: float) -> None:
    layer = Layer(np.full((3, 3), value), (4.0, 4.0), (8.0, 8.0))
    photo = Image.new("RGB", (16, 16), (200, 100, 50))
    shown = heat.paint(photo, [layer], heat.levels([layer]))
    assert shown.size == (16, 16 + heat.LEGEND)


def test_colours_grow_brighter_step_by_step() -> None:
    shown = heat.colours(np.linspace(0, 1, 101)) / 255
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    lightness = np.cbrt(linear @ (0.2126, 0.7152, 0.0722))
    steps = np.diff(lightness)
    assert (steps > 0).all()
    assert steps[5:].max() / steps[5:].min() < 3, "equal steps of score look alike"


@pytest.mark.parametrize(
    ("size", "shown"), [((120, 5000), (49, 2048)), ((30, 40), (300, 400)), ((200, 500), (200, 500))]
)
def test_the_picture_is_of_a_size_to_look_at(size: tuple[int, int], shown: tuple[int, int]) -> None:
    width, height = picture(found("30px", image=noise(*size))).size
    assert (height - heat.LEGEND, width) == shown


def test_the_photograph_is_lit_where_the_score_is_and_dark_elsewhere() -> None:
    photo = Image.new("RGB", (70, 60), (120, 120, 120))
    shown = np.asarray(heat.paint(photo, [one_hot(4, 3)], (0, 1)), dtype=float).sum(axis=2)[:60]
    y, x = np.unravel_index(shown.argmax(), shown.shape)
    assert abs(y - 24) <= 2
    assert abs(x - 28) <= 3
    assert shown[50:, :].max() < 360 / 2


@pytest.mark.parametrize("box", [(3.2, 3.3, 3.6, 3.7), (0, 0, 16, 16), (15.5, 0, 16, 0.5)])
def test_boxes_of_any_size_are_drawn(box: tuple[float, ...]) -> None:
    layer = Layer(np.zeros((3, 3)), (4.0, 4.0), (8.0, 8.0))
    photo = Image.new("RGB", (16, 16))
    marks = [heat.Mark(box, "0.9"), heat.Mark(box, "0.8")]
    marked, plain = (np.asarray(heat.paint(photo, [layer], (0, 1), m)) for m in (marks, []))
    assert (marked[:16] != plain[:16]).any()
