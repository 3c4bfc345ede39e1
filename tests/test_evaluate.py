"""The average over positions, mirror images and scales is the average of the original's answers on crops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import Array, converted, crops, nchw, noise, original
from PIL import Image

import surgery
from surgery.scanner.average import evaluate_with


def over_crops(net: str, pixels: Array, stride: tuple[int, int] = (4, 4), output: str = "scores") -> Array:
    """The mean of the original's answers over all crops, `[K]`."""
    return crops(original(net), nchw()(pixels), stride, output).astype(np.float64).mean(axis=(1, 2))


def shrunk(pixels: Array, height: int, width: int) -> Array:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def close(got: Array, want: Array) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ the arithmetic


@pytest.mark.parametrize("net", ["plain", "branches", "leftover", "gap"])
def test_the_average_over_positions_is_the_average_over_the_crops(net: str) -> None:
    pixels = noise(40, 51)
    found = surgery.evaluate(converted(net), pixels)
    assert found.card.verdict == "exact"
    close(found.scores, over_crops(net, pixels, found.card.geometry.stride))
    assert found.scores.dtype == np.float64


def test_then_over_the_mirror_image() -> None:
    pixels = noise(40, 51)
    found = surgery.evaluate(converted("plain"), pixels, flip=True)
    want = (over_crops("plain", pixels) + over_crops("plain", pixels[:, ::-1])) / 2
    close(found.scores, want)
    assert not np.allclose(found.scores, over_crops("plain", pixels), rtol=1e-3), "the mirror image counts"


def test_then_over_the_scales_each_of_which_counts_once() -> None:
    pixels = noise(40, 60)
    found = surgery.evaluate(converted("plain"), pixels, scales=(24, 40, 56))
    sizes = [(24, 36), (40, 60), (56, 84)]
    assert [v.size for v in found.views] == sizes
    each = [over_crops("plain", shrunk(pixels, *size)) for size in sizes]
    close(found.of_scale, np.array(each))
    close(found.scores, np.mean(each, axis=0))


def test_all_three_together() -> None:
    pixels = noise(40, 60)
    found = surgery.evaluate(converted("two_outputs"), pixels, scales=(24, 40), flip=True, mean=0, std=1)
    views = [shrunk(pixels, 24, 36), pixels]
    each = [
        (over_crops("two_outputs", v, output="faces") + over_crops("two_outputs", v[:, ::-1], output="faces"))
        / 2
        for v in views
    ]
    assert (found.output, found.kind) == ("faces", "softmax")
    close(found.scores, np.mean(each, axis=0))
    assert found.scores.sum() == pytest.approx(1)


def test_a_model_that_pools_inside_gives_the_same() -> None:
    pooled = surgery.convert(original("plain"), reduce="mean").proto
    assert pooled is not None
    pixels = noise(40, 60)
    inside = surgery.evaluate(pooled, pixels, scales=(24, 40), flip=True)
    outside = surgery.evaluate(converted("plain"), pixels, scales=(24, 40), flip=True)
    close(inside.scores, outside.scores)
    assert "mean (inside the model) over" in str(inside)


def test_an_image_as_it_is_when_a_window_fits() -> None:
    assert surgery.evaluate(converted("plain"), noise(17, 23)).views[0].size == (17, 23)


@pytest.mark.parametrize(("size", "run"), [((10, 50), (17, 85)), ((34, 11), (71, 23)), ((1, 1), (23, 23))])
def test_a_small_image_is_enlarged_until_one_window_fits(size: tuple[int, int], run: tuple[int, int]) -> None:
    found = surgery.evaluate(converted("plain"), noise(*size))
    assert found.views[0].size == run
    assert all(found.views[0].grid)


# ------------------------------------------------------------------ the table


def test_the_best_classes_with_their_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\n two words \nfour\nfünf\nsix\n\n", "utf-8")
    found = surgery.evaluate(converted("plain"), noise(40, 51), labels=path, topk=4)
    names = ["cat", "dog", "two words", "four", "fünf", "six"]
    order = np.argsort(-found.scores)[:4]
    assert [(t.index, t.label, t.score) for t in found.top] == [(k, names[k], found.scores[k]) for k in order]
    assert (
        found.to_json() == surgery.evaluate(converted("plain"), noise(40, 51), labels=names, topk=4).to_json()
    )
    assert all(names[k] in str(found) for k in order)


def test_more_classes_asked_for_than_there_are() -> None:
    assert len(surgery.evaluate(converted("plain"), noise(40, 51), topk=99).top) == 6


def test_the_report_as_json() -> None:
    found = surgery.evaluate(converted("plain"), noise(40, 51), scales=(30, 40), flip=True, topk=2)
    data = json.loads(found.to_json())
    assert data == found.to_dict()
    assert data["flip"] is True
    assert [(s["scale"], s["size"], s["grid"]) for s in data["scales"]] == [
        ("30px", [30, 38], [4, 4]),
        ("40px", [40, 51], [6, 8]),
    ]
    assert [set(t) for t in data["top"]] == [{"class", "label", "score"}] * 2


def test_the_report_as_text() -> None:
    text = str(surgery.evaluate(converted("plain"), noise(40, 51), scales=(30, 40), flip=True))
    assert "average over 64 positions of 2 scales (each counts once), and their mirror images" in text
    assert "probabilities (softmax)" in text


def test_one_scanner_serves_many_images() -> None:
    scanner = surgery.Scanner(converted("plain"))
    for seed in range(2):
        pixels = noise(40, 51, seed=seed)
        assert (
            evaluate_with(scanner, pixels).to_json() == surgery.evaluate(converted("plain"), pixels).to_json()
        )


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": ["a", "b"]}, "there are 2 labels, and 6 classes in the output 'scores'"),
        ({"scales": (8,)}, r"at scale 8px is 8x10 pixels, smaller than the window of 17x23"),
        ({"scales": ()}, "no scale is given"),
        ({"scales": (0,)}, "'0px' is neither"),
        ({"scales": (30, 30)}, "scale 30px is given twice"),
        ({"topk": 0}, "topk is 0; give 1 or more"),
        ({"output": "other"}, "has no output 'other'"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(surgery.BadInput, match=words):
        surgery.evaluate(converted("plain"), noise(40, 50), **options)


def test_labels_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(surgery.BadInput, match=r"cannot read the labels .*none.txt: No such file"):
        surgery.evaluate(converted("plain"), noise(40, 50), labels=tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"f\xfcnf\n")
    with pytest.raises(surgery.BadInput, match=r"latin.txt are no UTF-8 text"):
        surgery.evaluate(converted("plain"), noise(40, 50), labels=tmp_path / "latin.txt")


def test_an_output_that_is_no_score_map() -> None:
    with pytest.raises(surgery.BadInput, match=r"'map' .* is no score map"):
        surgery.evaluate(converted("map_output"), noise(25, 31), output="map")
