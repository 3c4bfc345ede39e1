"""One axis of a mosaic: what is stored serves every window, whatever op runs over it and however it lies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from surgery.arrange import Reach, number
from surgery.field import Slide
from surgery.mosaic import Joined, Step, Strip, join, slide

Values = NDArray[np.uint64]
BORDER = np.uint64(37)  # what the op reads where a window has padding
JUNK = np.uint64(99)  # what lies between the cells of windows, and no window may see
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # splitmix64: no two rows of taps are likely to give one value
NO_REACH = Reach((0, 0))


def weighed(taps: Values) -> Values:
    """A number made of an op's taps, which no two different rows are likely to share."""
    total = np.zeros(taps.shape[:-1], np.uint64)
    for t in range(taps.shape[-1]):
        total = (total ^ taps[..., t]) * SPREAD + np.uint64(t + 1)
        total ^= total >> np.uint64(31)
    return total


def slid(cells: Values, op: Slide) -> Values:
    """The op on the cells of one window, padded with its border."""
    outs = int(op.lengths(np.array([len(cells)]))[0])
    far = (outs - 1) * op.stride + op.extent - op.before - len(cells)
    bordered = np.pad(cells, (op.before, max(far, 0)), constant_values=BORDER)
    return weighed(bordered[np.arange(outs)[:, None] * op.stride + np.arange(op.kernel) * op.dilation])


def run(step: Step, stored: Values) -> Values:
    """The op over what is stored, as the graph runs it: gather, set the borders, slide."""
    taken = stored if step.gather is None else stored[step.gather]
    if step.masked is not None:
        taken = np.where(step.masked, BORDER, taken)
    made = slid(taken, step.slide)
    return np.where(step.out.content < 0, JUNK, made)


def joined(values: list[Values], how: Joined) -> Values:
    """An op over stored tensors, cell by cell, as the graph runs it."""
    taken = [v if g is None else v[g] for v, g in zip(values, how.gathers, strict=True)]
    return np.where(how.out.content < 0, JUNK, weighed(np.stack(taken, axis=-1)))


def assert_serves(strip: Strip, stored: Values, windows: list[Values]) -> None:
    """Every window finds its cells, every key is stored, and equal keys are equal values."""
    assert len(stored) == strip.length
    assert (strip.content[strip.index] == strip.keys).all()
    for i, want in enumerate(windows):
        np.testing.assert_array_equal(stored[strip.index[i]], want)
    values = np.concatenate(windows)
    keys = strip.keys.ravel()
    assert len({*zip(keys.tolist(), values.tolist(), strict=True)}) == len(set(keys.tolist()))


@given(
    count=st.integers(1, 20),
    taps=st.integers(1, 6),
    most=st.sampled_from([1, 2, 2**20, 2**40]),
    seed=st.integers(0, 99),
)
def test_distinct_rows_are_numbered_in_their_order(count: int, taps: int, most: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).choice([-1, 0, most - 1, most], (2 * count, taps))
    wanted, seen = drawn[:count], drawn[count:]
    order = sorted({tuple(row) for row in wanted.tolist()})
    keys, found = number(wanted, seen)
    assert keys.tolist() == [order.index(tuple(row)) for row in wanted.tolist()]
    assert found.tolist() == [order.index(r) if r in order else -1 for r in map(tuple, seen.tolist())]


@st.composite
def images(draw: st.DrawFn) -> tuple[Strip, Values, list[Values]]:
    """An axis of an image with windows on it: what is stored, and the windows themselves."""
    window, windows, stride = draw(st.integers(1, 14)), draw(st.integers(1, 7)), draw(st.integers(1, 9))
    size = window + (windows - 1) * stride + draw(st.integers(0, stride - 1))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(100, 2**62, size, dtype=np.uint64)
    crops = [pixels[i * stride : i * stride + window] for i in range(windows)]
    return Strip.image(windows, stride, window, size), pixels, crops


ops = st.builds(
    Slide,
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    ceil=st.booleans(),
)
sides = st.tuples(st.integers(0, 4), st.integers(0, 4))
reaches = st.builds(Reach, margin=sides, grow=sides, pad=st.integers(0, 4), align=st.integers(1, 4))


def fits(op: Slide, cells: int) -> bool:
    """Whether the op gives an output for so many cells."""
    return cells + op.before + op.after >= op.extent and int(op.lengths(np.array([cells]))[0]) > 0


def room(own: tuple[int, int], reach: Reach) -> Reach:
    """A reach as a plan would state it: its margin is no narrower than that of the op's own output."""
    margin = max(own[0], reach.margin[0]), max(own[1], reach.margin[1])
    return Reach(margin, reach.grow, reach.pad, reach.align)


def soiled(op: Slide, strip: Strip, margin: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """The margin behind an op, from that of what it reads."""
    return op.margin(margin, strip.cells, int(op.lengths(np.array([strip.cells]))[0]))


# ------------------------------------------------ laws


@given(images())
def test_the_image_serves_every_window(image: tuple[Strip, Values, list[Values]]) -> None:
    assert_serves(*image)


@given(images(), st.lists(st.tuples(ops, reaches), min_size=1, max_size=4))
def test_ops_one_after_another_serve_every_window(
    image: tuple[Strip, Values, list[Values]], steps: list[tuple[Slide, Reach]]
) -> None:
    strip, stored, windows = image
    margin = (0, 0)
    for op, reach in steps:
        if not fits(op, strip.cells):
            break
        margin = soiled(op, strip, margin)
        step = slide(strip, op, room(margin, reach))
        stored, windows = run(step, stored), [slid(w, op) for w in windows]
        assert_serves(step.out, stored, windows)
        strip = step.out


@given(images(), ops, reaches)
def test_taps_are_counted_as_in_the_window(
    image: tuple[Strip, Values, list[Values]], op: Slide, reach: Reach
) -> None:
    strip, _, windows = image
    assume(fits(op, strip.cells))
    step = slide(strip, op, room(soiled(op, strip), reach))
    cells = strip.cells
    outs = len(slid(windows[0], op))
    reads = np.arange(outs)[:, None] * op.stride - op.before + np.arange(op.kernel) * op.dilation
    for i in range(len(windows)):
        places = step.out.index[i]
        np.testing.assert_array_equal(step.read[places], ((reads >= 0) & (reads < cells)).sum(1))
        if op.dilation == 1:
            np.testing.assert_array_equal(step.counted[places], (reads < cells + op.after).sum(1))


@given(images(), st.lists(st.tuples(ops, reaches), min_size=2, max_size=3))
def test_branches_meet_cell_by_cell(
    image: tuple[Strip, Values, list[Values]], ways: list[tuple[Slide, Reach]]
) -> None:
    strip, stored, windows = image
    ways = [(op, reach) for op, reach in ways if fits(op, strip.cells)]
    assume(len(ways) > 1)
    steps = [slide(strip, op, room(soiled(op, strip), reach)) for op, reach in ways]
    outs = [s for s in steps if s.out.cells == steps[0].out.cells]
    chosen = [op for (op, _), s in zip(ways, steps, strict=True) if s.out.cells == steps[0].out.cells]
    how = join([s.out for s in outs])
    branches = [[slid(w, op) for w in windows] for op in chosen]
    want = [weighed(np.stack(cells, axis=-1)) for cells in zip(*branches, strict=True)]
    assert_serves(how.out, joined([run(s, stored) for s in outs], how), want)


@given(images(), st.integers(2, 4))
def test_a_tensor_meets_itself_as_it_lies(image: tuple[Strip, Values, list[Values]], count: int) -> None:
    strip, *_ = image
    how = join([strip] * count)
    assert how.gathers == (None,) * count
    assert how.out is strip


# ------------------------------------------------ what sharing is worth


def test_without_padding_the_image_is_computed_as_it_lies() -> None:
    strip = Strip.image(9, 4, 24, 24 + 8 * 4 + 3)
    for op in (Slide(3), Slide(3, stride=2), Slide(2, stride=2), Slide(3)):
        step = slide(strip, op, NO_REACH)
        assert step.gather is None
        assert step.masked is None
        assert step.out.length == int(op.lengths(np.array([strip.length]))[0])
        strip = step.out


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_every_distinct_cell_is_computed_once(stride: int) -> None:
    strip = Strip.image(11, stride, 20, 20 + 10 * stride)
    for op in (Slide(3), Slide(2, stride=2), Slide(3), Slide(2, stride=2)):
        step = slide(strip, op, NO_REACH)
        useful = step.out.content[step.out.content >= 0]
        assert len(set(useful.tolist())) == len(set(step.out.keys.ravel().tolist()))
        strip = step.out
    assert strip.length <= 2 * len(set(strip.keys.ravel().tolist())) + 8


def test_room_for_the_convolutions_to_come_spares_their_gathers() -> None:
    strip = Strip.image(6, 32, 224, 384)
    conv, pool = Slide(3, before=1, after=1), Slide(2, stride=2)
    roomy = Reach(margin=(4, 4), grow=(3, 3), pad=1, align=2)
    gathers = []
    for op, reach in ((conv, roomy), (conv, NO_REACH), (conv, NO_REACH), (pool, NO_REACH)):
        step = slide(strip, op, reach)
        gathers.append(step.gather is not None)
        strip = step.out
    assert gathers == [True, False, False, False]
    assert strip.length < 6 * 112 / 2


def test_padding_between_windows_is_shared() -> None:
    strip = Strip.image(4, 30, 10, 100)
    step = slide(strip, Slide(3, before=1, after=1), Reach(margin=(5, 5)))
    assert step.gather is not None
    assert step.masked is not None
    assert len(step.gather) == 4 * 10 + 3
    assert step.masked.sum() == 3
