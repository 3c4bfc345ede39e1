"""The worked example of the course note: 224 to 384, 7x7 to 12x12, one score to 6x6; and its page."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import law
import onnx
import pytest
from done import Done, convert

ROOT = Path(__file__).parents[1]
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "worked_example"))
SIZE = (384, 384)
FEW = 0.04  # of the channels

full = pytest.mark.parametrize("width", [FEW, pytest.param(1.0, marks=pytest.mark.deep)])


def converted(net: str, width: float) -> tuple[Done, str]:
    """The conversion of one of the script's nets, and the name of the map its head reads."""
    model: onnx.ModelProto = SCRIPT[net](width)
    done = convert(model, sizes=[(224, 224), SIZE])
    (flatten,) = [node for node in model.graph.node if node.op_type == "Flatten"]
    return done, flatten.input[0]


def assert_shapes(done: Done, source: str, width: float) -> None:
    """[1, 512, 12, 12] before the head and [1, 1000, 6, 6] after it, for an image of 384x384."""
    shown = law.run(law.with_outputs(done.proto, [source]), law.random_image(done.model, SIZE))
    assert shown[source].shape == (1, round(512 * width), 12, 12)
    (scores,) = law.run(done.proto, law.random_image(done.model, SIZE)).values()
    assert scores.shape == (1, 1000, 6, 6)


@full
def test_without_padding_the_36_scores_are_the_36_crops(width: float) -> None:
    done, source = converted("pad_free", width)
    assert (done.result.verdict, done.geometry.extra) == ("exact", (0, 0))
    assert_shapes(done, source, width)
    assert law.assert_equals_crops(done.model, done.proto, SIZE, (32, 32)) == 36


@full
def test_with_padding_they_are_the_original_head_on_its_windows(width: float) -> None:
    done, source = converted("padded", width)
    assert done.result.verdict == "padded"
    assert done.geometry.touched == pytest.approx(48 / 49)
    assert_shapes(done, source, width)
    assert law.assert_equals_windows(done.model, done.proto, SIZE, {source: 1}) == 36
    measured = {check.name: check.max_error for check in done.proof.checks}
    assert measured["crops"] is not None
    assert measured["crops"] > 0.01
    with pytest.raises(AssertionError, match="off by"):
        law.assert_equals_crops(done.model, done.proto, SIZE, (32, 32))


def test_page_is_written_by_the_script() -> None:
    page = (ROOT / "docs" / "worked_example.md").read_text(encoding="utf-8")
    measure, table, with_table = (SCRIPT[name] for name in ("measure", "table", "with_table"))
    content = table({"pad-free": measure(SCRIPT["pad_free"](0.02), 1)}, 1)
    assert "| verdict | `exact` |" in content
    assert "| scores, 384x384 | [1, 1000, 6, 6] |" in content
    assert with_table(with_table(page, "other"), content).count(content) == 1
    with pytest.raises(SystemExit, match="0 places"):
        with_table("no marks", content)


def test_page_shows_what_was_measured() -> None:
    page = (ROOT / "docs" / "worked_example.md").read_text(encoding="utf-8")
    for row in (
        "| verdict | `padded` | `exact` |",
        "| map before the head, 384x384 | [1, 512, 12, 12] | [1, 512, 12, 12] |",
        "| scores, 384x384 | [1, 1000, 6, 6] | [1, 1000, 6, 6] |",
    ):
        assert row in page, "run scripts/worked_example"
