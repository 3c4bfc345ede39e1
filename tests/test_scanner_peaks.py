"""The best positions are those a plain greedy search finds, and their boxes are the windows' own pixels."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from surgery import Geometry
from surgery.scanner.peaks import peaks
from surgery.scanner.plan import View, resized, scale_name

Maps = list[tuple[View, NDArray[Any]]]


def geometry(window: tuple[int, int], stride: tuple[int, int]) -> Geometry:
    return Geometry(window, stride, (0, 0), window, ((0, 0), (0, 0)), 0.0, (0, 0), (1, 1))


sides = st.tuples(st.integers(1, 6), st.integers(1, 6))


@st.composite
def views(draw: st.DrawFn) -> View:
    """A view that holds a window or more."""
    g = geometry(draw(sides), draw(sides))
    size = tuple(w + draw(st.integers(0, 12)) for w in g.window)
    image = tuple(draw(st.integers(1, 40)) for _ in range(2))
    return View("1", (image[0], image[1]), (size[0], size[1]), g)


@st.composite
def score_maps(draw: st.DrawFn) -> Maps:
    """Maps of one net over one image at up to three scales; equal scores are common."""
    g, image = geometry(draw(sides), draw(sides)), (24, 30)
    maps: Maps = []
    for name in draw(
        st.lists(st.sampled_from(["0.5", "0.8", "1", "2"]), min_size=1, max_size=3, unique=True)
    ):
        view = View(name, image, resized(name, image), g)
        seed = draw(st.integers(0, 99))
        maps.append((view, np.random.default_rng(seed).integers(0, 9, view.grid).astype(np.float32)))
    return maps


Box = tuple[Fraction, Fraction, Fraction, Fraction]


def exact_box(view: View, row: int, col: int) -> Box:
    """The window in pixels of the image, in fractions."""
    top, left, bottom, right = view.geometry.box(row, col)
    y, x = (Fraction(n, s) for n, s in zip(view.image, view.size, strict=True))
    return top * y, left * x, bottom * y, right * x


def area(a: Box) -> Fraction:
    return max(a[2] - a[0], Fraction(0)) * max(a[3] - a[1], Fraction(0))


def share(a: Box, b: Box) -> Fraction:
    common = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    if a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]:
        return Fraction(0)
    return common / min(area(a), area(b))


def greedy(maps: Maps, top: int, overlap: Fraction) -> list[tuple[float, int, int, str]]:
    """The rule by the book: sort everything, take what overlaps nothing taken."""
    places = [
        (-float(scores[row, col]), k, row, col)
        for k, (view, scores) in enumerate(maps)
        for row, col in product(*map(range, view.grid))
    ]
    taken: list[tuple[float, int, int, str]] = []
    boxes: list[Box] = []
    for minus, k, row, col in sorted(places):
        box = exact_box(maps[k][0], row, col)
        if len(taken) < top and all(share(box, b) <= overlap for b in boxes):
            taken.append((-minus, row, col, maps[k][0].scale))
            boxes.append(box)
    return taken


@given(score_maps(), st.integers(0, 12), st.sampled_from([0, 0.3, 0.5, 1]))
def test_peaks_are_what_a_plain_greedy_search_takes(maps: Maps, top: int, overlap: float) -> None:
    before = [scores.copy() for _, scores in maps]
    found = peaks(maps, top, overlap)
    assert [(p.score, p.row, p.col, p.scale) for p in found] == greedy(
        maps, top, Fraction(overlap).limit_denominator(10)
    )
    assert all(np.array_equal(a, b) for a, (_, b) in zip(before, maps, strict=True)), (
        "the maps are left alone"
    )


@given(views())
def test_a_box_is_the_smallest_of_whole_pixels_that_holds_the_window(view: View) -> None:
    for row, col in product(*map(range, view.grid)):
        box, exact = view.box(row, col), exact_box(view, row, col)
        assert 0 <= box[0] < box[2] <= view.image[0]
        assert 0 <= box[1] < box[3] <= view.image[1]
        for near, far in ((0, 2), (1, 3)):
            assert box[near] <= exact[near] < box[near] + 1
            assert box[far] - 1 < exact[far] <= box[far]


def test_scores_of_minus_infinity_are_no_peaks() -> None:
    view = View("1", (8, 8), (8, 8), geometry((2, 2), (2, 2)))
    scores = np.full(view.grid, -np.inf)
    assert peaks([(view, scores)]) == ()
    scores[1, 2] = -3.0
    assert [p.score for p in peaks([(view, scores)])] == [-3.0]


@pytest.mark.parametrize(
    ("scale", "name"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1.00", "1"),
        (0.25, "0.25"),
        (" 128px ", "128px"),
        ("128 px", "128px"),
        ("0128px", "128px"),
        (1e-7, "1e-07"),
    ],
)
def test_a_scale_has_one_spelling(scale: float | str, name: str) -> None:
    assert scale_name(scale) == name


@pytest.mark.parametrize(
    ("scale", "size"),
    [("1", (37, 100)), ("0.5", (18, 50)), ("37px", (37, 100)), ("64px", (64, 173)), ("0.001", (1, 1))],
)
def test_a_scale_keeps_the_aspect(scale: str, size: tuple[int, int]) -> None:
    assert resized(scale, (37, 100)) == size
