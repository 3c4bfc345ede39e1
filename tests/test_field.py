"""The interval algebra of one axis, against counting cells by hand."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from surgery import Field, Slide
from surgery.field import Axis, tidy

slides = st.builds(
    Slide,
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
    ceil=st.booleans(),
).filter(lambda op: max(op.before, op.after) < op.kernel or not op.ceil)  # as runtimes demand of a pool
fields = st.builds(Field, start=st.integers(-20, 20), size=st.integers(1, 30), stride=st.integers(1, 8))


def reads(op: Slide, at: int) -> list[int]:
    """The input cells of output `at`, padded ones among them, written out."""
    return [at * op.stride - op.before + t * op.dilation for t in range(op.kernel)]


def outputs(op: Slide, cells: int) -> int:
    """How many outputs there are, counted one by one.

    The last ends inside the padded input; with ceil_mode one more may be cut short by less than a stride,
    but begins before the padding at the end.
    """
    count = 0
    while True:
        places = reads(op, count)
        missing = places[-1] - (cells + op.after - 1)
        cut_short = op.ceil and missing < op.stride and places[0] < cells
        if missing > 0 and not cut_short:
            return count
        count += 1


# ------------------------------------------------ Slide


@given(slides, st.integers(1, 40))
def test_lengths_count_the_outputs(op: Slide, cells: int) -> None:
    assume(cells + op.before + op.after >= op.extent)
    assert op.lengths(np.array([cells])).tolist() == [outputs(op, cells)]


@given(slides, st.integers(0, 4), st.integers(0, 4), st.integers(1, 40))
def test_margin_counts_outputs_that_read_beyond_the_clean_cells(
    op: Slide, a: int, b: int, cells: int
) -> None:
    assume(cells + op.before + op.after >= op.extent)
    out = outputs(op, cells)
    clean = [all(a <= cell < cells - b for cell in reads(op, at)) for at in range(out)]
    first, last = op.margin((a, b), cells, out)
    if any(clean):
        assert (first, last) == (clean.index(True), clean[::-1].index(True))
        assert all(clean[first : out - last])
    else:
        assert first + last >= out


@given(slides, st.integers(1, 40), st.integers(0, 5))
def test_taps_are_the_reads_inside(op: Slide, cells: int, at: int) -> None:
    inside = [(t, cell) for t, cell in enumerate(reads(op, at)) if 0 <= cell < cells]
    assert op.taps(cells, at) == inside


# ------------------------------------------------ Field


@given(fields, slides)
def test_slide_covers_what_its_reads_cover(field: Field, op: Slide) -> None:
    """The pixels of output 3 are those of its first read to those of its last."""
    after = field.slide(op)
    starts = [field.start + cell * field.stride for cell in reads(op, 3)]
    assert after.start + 3 * after.stride == starts[0]
    assert after.size == starts[-1] + field.size - starts[0]


@given(fields, slides, slides)
def test_slides_compose(field: Field, first: Slide, second: Slide) -> None:
    """Two ops in a row are one op whose taps are the first's around each of the second's."""
    both = Slide(
        kernel=first.extent + (second.extent - 1) * first.stride,
        stride=first.stride * second.stride,
        before=first.before + second.before * first.stride,
    )
    assert field.slide(first).slide(second) == field.slide(both)


@given(fields, fields, fields)
def test_join_is_the_hull(x: Field, y: Field, z: Field) -> None:
    y, z = replace(y, stride=x.stride), replace(z, stride=x.stride)
    joined = x.join(y)
    assert joined == y.join(x)
    assert joined.join(z) == x.join(y.join(z))
    assert joined.join(x) == joined
    assert joined.start == min(x.start, y.start)
    assert joined.start + joined.size == max(x.start + x.size, y.start + y.size)


def test_join_of_two_strides_is_refused() -> None:
    with pytest.raises(ValueError, match="cells 2 pixels apart meet cells 3 pixels apart"):
        Field(stride=2).join(Field(stride=3))


@given(fields, st.integers(1, 9))
def test_span_is_the_join_of_its_cells(field: Field, cells: int) -> None:
    hull = field
    for k in range(cells):
        hull = hull.join(replace(field, start=field.start + k * field.stride))
    assert field.span(cells) == hull


def test_fractions_that_are_whole_are_ints() -> None:
    assert isinstance(tidy(Fraction(6, 2)), int)
    assert tidy(Fraction(1, 2)) == Fraction(1, 2)
    up = Field(stride=Fraction(1, 2))
    assert up.slide(Slide(kernel=3, stride=2)) == Field(0, 2, 1)


# ------------------------------------------------ Axis


@given(st.lists(slides, min_size=1, max_size=4), st.integers(8, 40))
def test_axis_follows_the_window_and_every_larger_size(ops: list[Slide], window: int) -> None:
    axis = Axis.image(window, 12)
    lengths = list(range(window, window + 12))
    for op in ops:
        assume(lengths[0] + op.before + op.after >= op.extent)
        assume(outputs(op, lengths[0]) > 1)
        axis = axis.slide(op)
        lengths = [outputs(op, n) for n in lengths]
    assert axis.cells == lengths[0]
    assert axis.lengths.tolist() == lengths
    assert axis.clean == max(0, axis.cells - sum(axis.margin))


def test_stride_of_a_single_cell_is_free() -> None:
    """Windows stay as close as the cells before the op: the one cell has no neighbour to be apart from."""
    axis = Axis.image(8, 6).slide(Slide(kernel=2, stride=2)).slide(Slide(kernel=4, stride=4))
    assert (axis.cells, axis.field) == (1, Field(0, 8, 2))
    assert axis.lengths.tolist() == [1, 1, 2, 2, 3, 3]


def test_axes_meet_where_their_lengths_are_equal() -> None:
    """A Conv and a pool of other kernels meet at every second size only."""
    conv = Axis.image(13, 6).slide(Slide(kernel=3, stride=2))
    pool = Axis.image(13, 6).slide(Slide(kernel=2, stride=2))
    met = conv.join(pool)
    assert met.lengths.tolist() == [6, -1, 7, -1, 8, -1]
    assert met.field == Field(0, 3, 2)
    with pytest.raises(ValueError, match="6 cells meet 7"):
        conv.join(Axis.image(14, 6).slide(Slide(kernel=2, stride=2)))


def test_soiled_axis_has_no_clean_cell() -> None:
    axis = Axis.image(9, 1)
    assert (axis.clean, axis.soil().clean) == (9, 0)
