"""Interval algebra of one axis: which pixels a cell sees, and which cells see the window's border."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor, gcd, lcm

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]
Span = tuple[Fraction | int, Fraction | int]  # the first pixel, and the end


@dataclass(frozen=True)
class Field:
    """The pixels a cell can see: cell `u` sees `size` pixels from `start + u * stride` on.

    `start` is negative where padding lies before the image. All are in pixels. Behind an upsampling the
    stride can be a fraction (1/2: two cells a pixel), and cells see alike only every `period` pixels:
    `spans` then holds what each cell of the first period sees, as (first pixel, end); `start` and `size`
    are those of the first.

    >>> Field().slide(Slide(kernel=3, before=1, after=1)).slide(Slide(kernel=2, stride=2))
    Field(start=-1, size=4, stride=2, spans=())
    """

    start: Fraction | int = 0
    size: Fraction | int = 1
    stride: Fraction | int = 1
    spans: tuple[Span, ...] = ()

    @classmethod
    def over(cls, spans: Sequence[Span], period: int) -> Field:
        """The field of cells that see these spans, and the same again every `period` pixels.

        >>> Field.over([(0, 2), (0, 2)], period=1)
        Field(start=0, size=2, stride=Fraction(1, 2), spans=((0, 2), (0, 2)))
        """
        first, end = spans[0]
        several = tuple(spans) if len(spans) > 1 else ()
        return cls(first, end - first, tidy(Fraction(period, len(spans))), several)

    @property
    def period(self) -> int:
        """By how many pixels the image must move for the cells to move by whole ones and see alike."""
        return Fraction(self.stride * max(len(self.spans), 1)).numerator

    def at(self, cell: int) -> Span:
        """The pixels that a cell sees: the first, and the end."""
        if not self.spans:
            first = tidy(self.start + cell * self.stride)
            return first, first + self.size
        periods, place = divmod(cell, len(self.spans))
        first, end = self.spans[place]
        return first + periods * self.period, end + periods * self.period

    def follow(self, reads: Callable[[int], tuple[int, int]], step: Fraction | int) -> Field:
        """The field of an op whose output `v` reads the cells `reads(v)`; outputs lie `step` cells apart."""
        stride = Fraction(self.stride * step)
        period = lcm(self.period, stride.numerator)
        return Field.over([self._hull(*reads(v)) for v in range(int(period / stride))], period)

    def slide(self, op: Slide) -> Field:
        """The field after a windowed op (Dumoulin & Visin 2016, arXiv:1603.07285)."""
        return self.follow(
            lambda v: (v * op.stride - op.before, v * op.stride - op.before + op.extent - 1), op.stride
        )

    def join(self, other: Field) -> Field:
        """The field of a cell that depends on both; the strides must be equal."""
        if self.stride != other.stride:
            raise ValueError(f"cells {self.stride} pixels apart meet cells {other.stride} pixels apart")
        period = lcm(self.period, other.period)
        both = [(self.at(u), other.at(u)) for u in range(int(period / self.stride))]
        return Field.over([(min(a, c), max(b, d)) for (a, b), (c, d) in both], period)

    def span(self, cells: int) -> Field:
        """The field of `cells` neighbouring cells taken as one."""
        first, end = self._hull(0, cells - 1)
        return Field(first, end - first, self.stride)

    def _hull(self, first: int, last: int) -> Span:
        """The pixels that a row of cells sees; behind an upsampling the outermost need not see the most."""
        several = max(len(self.spans), 1)
        ends = {
            *range(first, min(first + several, last + 1)),
            *range(max(first, last - several + 1), last + 1),
        }
        seen = [self.at(cell) for cell in ends]
        return min(a for a, _ in seen), max(b for _, b in seen)


def tidy(value: Fraction | int) -> Fraction | int:
    """A fraction that is whole as an int."""
    return int(value) if value == int(value) else value


@dataclass(frozen=True)
class Slide:
    """A windowed op on one axis: output `u` reads the cells `u * stride - before + t * dilation`.

    `before` and `after` are padded cells at the two ends, `ceil` the rounding of the number of outputs
    (ONNX MaxPool, attribute ceil_mode: a last window that starts beyond the input is dropped).
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    ceil: bool = False

    @property
    def extent(self) -> int:
        """Input cells from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1

    def lengths(self, cells: Lengths) -> Lengths:
        """How many outputs an input of so many cells gives.

        >>> Slide(kernel=3, stride=2, ceil=True).lengths(np.array([6, 7, 8]))
        array([3, 3, 4])
        """
        room = cells + (self.before + self.after - self.extent)
        if not self.ceil:
            return room // self.stride + 1
        out = -(-room // self.stride) + 1
        return out - ((out - 1) * self.stride >= cells + self.before)

    def margin(self, margin: tuple[int, int], cells: int, out: int) -> tuple[int, int]:
        """How many outputs at each end read a padded, a missing or an unclean cell.

        >>> Slide(kernel=3, before=1, after=1).margin((0, 0), 7, 7)
        (1, 1)
        >>> Slide(kernel=2, stride=2, ceil=True).margin((0, 0), 5, 3)
        (0, 1)
        """
        first = ceil(Fraction(margin[0] + self.before, self.stride))
        last = floor(Fraction(cells - 1 - margin[1] + self.before - (self.extent - 1), self.stride))
        return min(max(first, 0), out), min(max(out - 1 - last, 0), out)

    def tightened(self, cells: int) -> Slide:
        """The op with the least stride at which it still gives a single output of so many cells.

        A stride over a single output is free, so windows may lie as close as the cells before the op; but
        one more output at the window's own size would be a neighbour that the original has not. An op
        that gives more than one output stays as it is.

        >>> Slide(kernel=7, stride=7).tightened(7).stride, Slide(kernel=7, stride=7).tightened(9).stride
        (1, 3)
        """
        tighter = (replace(self, stride=s) for s in range(1, self.stride))
        if self.lengths(np.array([cells])) != 1:
            return self
        return next((op for op in tighter if op.lengths(np.array([cells])) == 1), self)

    def taps(self, cells: int, at: int = 0) -> list[tuple[int, int]]:
        """The pairs (tap, input cell) of output `at` that lie inside an input of so many cells."""
        reads = [(t, at * self.stride - self.before + t * self.dilation) for t in range(self.kernel)]
        return [(t, cell) for t, cell in reads if 0 <= cell < cells]


@dataclass(frozen=True)
class Stretch:
    """An op that makes `up` outputs of every `down` inputs on one axis.

    Output `v` of the first `up` reads the input cells `reads[v]`, first to last (None: it reads none);
    output `v + up` reads those `down` cells on. A length of n gives `(n * up + more) // down` outputs;
    `whole` says that the op only runs where `down` divides it.
    """

    up: int
    down: int
    reads: tuple[tuple[int, int] | None, ...]
    more: int = 0
    whole: bool = False

    def at(self, output: int) -> tuple[int, int] | None:
        """The input cells that an output reads, the first and the last."""
        times, place = divmod(output, self.up)
        cells = self.reads[place]
        return None if cells is None else (cells[0] + times * self.down, cells[1] + times * self.down)

    def lengths(self, cells: Lengths) -> Lengths:
        """How many outputs an input of so many cells gives; -1 where the op cannot run.

        >>> Stretch(up=1, down=2, reads=((0, 1),), whole=True).lengths(np.array([6, 7, 8]))
        array([ 3, -1,  4])
        """
        out = (cells * self.up + self.more) // self.down
        return np.where(cells % self.down == 0, out, -1) if self.whole else out

    def margin(self, margin: tuple[int, int], cells: int, out: int) -> tuple[int, int]:
        """How many outputs at each end read a cell beyond the input, or an unclean one.

        >>> Stretch(up=2, down=1, reads=((-1, 0), (0, 1))).margin((0, 0), 4, 8)
        (1, 1)
        """
        reads = [(v, self.at(v)) for v in range(out)]
        early = [v for v, cells_read in reads if cells_read and cells_read[0] < margin[0]]
        late = [v for v, cells_read in reads if cells_read and cells_read[1] > cells - 1 - margin[1]]
        return max(early, default=-1) + 1, out - min(late, default=out)

    def nearest(self, output: int) -> tuple[int, int]:
        """The cells that an output reads; for one that reads none, those of the next that reads any."""
        return next(cells for v in range(output, output + self.up) if (cells := self.at(v)) is not None)


@dataclass(frozen=True, eq=False)
class Axis:
    """What is known of one spatial axis of a trunk tensor.

    `cells` is its length in the window; `margin` counts the cells at the start and end that depend on
    the window's own border. `lengths[r]` is its length for an image of `window + r` pixels, or -1 where
    the net cannot run at that size. `grid` is the pixels between windows where they lie closer than the
    net's own stride (0: they do not); the tensor then holds `spacing` cells for each one of the window's.
    """

    field: Field
    margin: tuple[int, int]
    cells: int
    lengths: Lengths
    grid: int = 0

    @classmethod
    def image(cls, window: int, residues: int, grid: int = 0) -> Axis:
        """The axis of the input itself, followed for so many pixels more than the window."""
        lengths = np.arange(window, window + residues, dtype=np.int64)
        return cls(Field(), (0, 0), window, lengths, grid)

    @property
    def spacing(self) -> int:
        """Cells of the tensor from one cell of a window to the next.

        Cells `stride` pixels apart serve windows `grid` pixels apart only if they are thinned out no
        further than the greatest common divisor of both: the rest of the stride becomes dilation
        (a-trous; Chen et al. 2015, arXiv:1412.7062).
        """
        if not self.grid or self.field.stride != int(self.field.stride):
            return 1
        return int(self.field.stride // gcd(int(self.field.stride), self.grid))

    @property
    def extent(self) -> int:
        """Cells of the tensor from a window's first to its last."""
        return (self.cells - 1) * self.spacing + 1

    @property
    def pitch(self) -> Fraction | int:
        """Pixels from one cell of the tensor to the next."""
        return tidy(Fraction(self.field.stride) / self.spacing)

    def respaced(self, op: Slide) -> Slide:
        """The windowed op over cells `spacing` apart that gives the outputs this grid needs.

        What ceil_mode adds becomes a pad: rounding up the number of outputs that lie closer would reach
        less far beyond the input.
        """
        if not self.grid:
            return op
        out = replace(self, field=self.field.slide(op))
        d = self.spacing
        after = op.after
        if op.ceil:
            outputs = int(op.lengths(np.array([self.cells]))[0])
            read = (outputs - 1) * op.stride + op.extent - op.before
            after = max(after, read - self.cells)
        return Slide(op.kernel, op.stride * d // out.spacing, op.dilation * d, op.before * d, after * d)

    def slide(self, op: Slide) -> Axis:
        """The axis after a windowed op."""
        op = op.tightened(self.cells)
        out = int(op.lengths(np.array([self.cells]))[0])
        lengths = np.where(self.lengths < 0, -1, self.respaced(op).lengths(self.lengths))
        margin = op.margin(self.margin, self.cells, out)
        return replace(self, field=self.field.slide(op), margin=margin, cells=out, lengths=lengths)

    def stretch(self, op: Stretch) -> Axis:
        """The axis after an op that changes the number of cells but by sliding."""
        out = int(op.lengths(np.array([self.cells]))[0])
        lengths = np.where(self.lengths < 0, -1, op.lengths(self.lengths))
        margin = op.margin(self.margin, self.cells, out)
        field = self.field.follow(op.nearest, Fraction(op.down, op.up))
        return replace(self, field=field, margin=margin, cells=out, lengths=lengths)

    def join(self, other: Axis) -> Axis:
        """The axis of an op over both, cell by cell."""
        if self.cells != other.cells:
            raise ValueError(f"{self.cells} cells meet {other.cells}")
        margin = (max(self.margin[0], other.margin[0]), max(self.margin[1], other.margin[1]))
        mine, others = (a.cut(n).lengths for a, n in zip((self, other), surplus([self, other]), strict=True))
        lengths = np.where(mine == others, mine, -1)
        return replace(self, field=self.field.join(other.field), margin=margin, lengths=lengths)

    def cut(self, cells: int) -> Axis:
        """The axis of a tensor without so many cells at its end."""
        return replace(self, lengths=np.where(self.lengths < 0, -1, self.lengths - cells))

    def soil(self) -> Axis:
        """The same axis with no clean cell: every cell depends on the whole window."""
        return replace(self, margin=(self.cells, self.cells))

    @property
    def clean(self) -> int:
        """How many cells of the window no border reaches."""
        return max(0, self.cells - sum(self.margin))


def surplus(axes: Sequence[Axis]) -> list[int]:
    """How many cells at its end each axis has that windows never take together with cells of the others.

    Where strides became dilations, or a single cell's stride became 1, an op of small kernel makes more
    cells than one of large kernel. No cells are counted where the difference changes with the image's size.
    """
    good = np.all([axis.lengths >= 0 for axis in axes], axis=0)
    pitches = [float(axis.pitch) for axis in axes]
    pixels = [(axis.lengths - axis.extent)[good] * p for axis, p in zip(axes, pitches, strict=True)]
    more = [(room - np.min(pixels, axis=0)) / p for room, p in zip(pixels, pitches, strict=True)]
    if any((m != m[:1]).any() or (m % 1 != 0).any() for m in more):
        return [0] * len(axes)
    return [int(m[0]) if m.size else 0 for m in more]
