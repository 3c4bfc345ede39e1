"""The page on net surgery: its code runs, its claims hold, its pictures are those that its code draws."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "net_surgery.md"
TEXT = PAGE.read_text(encoding="utf-8")
PICTURES = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)

run_page = runpy.run_path(str(ROOT / "scripts" / "make_pictures"))["run_page"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def names(folder: Path) -> dict[str, Any]:
    """What the page's code has defined after its last line; a claim that fails raises here."""
    return run_page(PAGE, folder)


def test_the_map_is_8x8_and_its_windows_tile_the_image(names: dict[str, Any]) -> None:
    assert names["scores"].shape == (1, 20, 8, 8)
    np.testing.assert_allclose(names["scores"].sum(axis=1), 1, atol=1e-5)


def test_every_claim_of_a_section_is_asserted() -> None:
    sections = TEXT.split("\n## ")[1:]
    silent = [s.splitlines()[0] for s in sections if "```python" in s and "assert" not in s]
    assert silent == []


def test_a_failing_claim_points_at_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nx = 1\nassert x == 2\n```\n")
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(AssertionError) as caught:
        run_page(page, folder)
    assert caught.traceback[-1].lineno == 4  # counted from 0


@pytest.mark.parametrize("picture", PICTURES)
def test_the_picture_is_what_the_code_draws(picture: str, names: dict[str, Any], folder: Path) -> None:
    drawn = np.asarray(Image.open(folder / picture).convert("RGB"), np.float64)
    shown = np.asarray(Image.open(PAGE.parent / picture).convert("RGB"), np.float64)
    assert drawn.shape == shown.shape
    assert abs(drawn - shown).mean() < 1


def test_no_picture_is_drawn_for_nothing(names: dict[str, Any], folder: Path) -> None:
    assert {p.name for p in folder.glob("*.png")} == set(PICTURES)
