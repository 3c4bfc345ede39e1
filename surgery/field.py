"""Interval algebra of one axis: which pixels a cell sees, and which cells see the window's border."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor, gcd

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class Field:
    """The pixels a cell can see: cell `u` sees `size` pixels from `start + u * stride` on.

    `start` is negative where padding lies before the image. All three are in pixels; they are
    fractions only behind an upsampling (stride 1/2: two cells a pixel).

    >>> Field().slide(Slide(kernel=3, before=1, after=1)).slide(Slide(kernel=2, stride=2))
    Field(start=-1, size=4, stride=2)
    """

    start: Fraction | int = 0
    size: Fraction | int = 1
    stride: Fraction | int = 1

    def slide(self, op: Slide) -> Field:
        """The field after a windowed op (Dumoulin & Visin 2016, arXiv:1603.07285)."""
        return Field(
            tidy(self.start - op.before * self.stride),
            tidy(self.size + (op.extent - 1) * self.stride),
            tidy(self.stride * op.stride),
        )

    def join(self, other: Field) -> Field:
        """The field of a cell that depends on both; the strides must be equal."""
        if self.stride != other.stride:
            raise ValueError(f"cells {self.stride} pixels apart meet cells {other.stride} pixels apart")
        start = min(self.start, other.start)
        return Field(start, max(self.start + self.size, other.start + other.size) - start, self.stride)

    def span(self, cells: int) -> Field:
        """The field of `cells` neighbouring cells taken as one."""
        return Field(self.start, tidy(self.size + (cells - 1) * self.stride), self.stride)


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

    def taps(self, cells: int, at: int = 0) -> list[tuple[int, int]]:
        """The pairs (tap, input cell) of output `at` that lie inside an input of so many cells."""
        reads = [(t, at * self.stride - self.before + t * self.dilation) for t in range(self.kernel)]
        return [(t, cell) for t, cell in reads if 0 <= cell < cells]


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

    def respaced(self, op: Slide) -> Slide:
        """The windowed op over cells `spacing` apart that gives the outputs this grid needs."""
        out = replace(self, field=self.field.slide(op))
        stride = op.stride * self.spacing // out.spacing
        d = self.spacing
        return Slide(op.kernel, stride, op.dilation * d, op.before * d, op.after * d, op.ceil)

    def slide(self, op: Slide) -> Axis:
        """The axis after a windowed op."""
        out = int(op.lengths(np.array([self.cells]))[0])
        if out == 1:
            op = replace(op, stride=1)  # the stride of a single cell is free
        lengths = np.where(self.lengths < 0, -1, self.respaced(op).lengths(self.lengths))
        margin = op.margin(self.margin, self.cells, out)
        return replace(self, field=self.field.slide(op), margin=margin, cells=out, lengths=lengths)

    def join(self, other: Axis) -> Axis:
        """The axis of an op over both, cell by cell."""
        if self.cells != other.cells:
            raise ValueError(f"{self.cells} cells meet {other.cells}")
        margin = (max(self.margin[0], other.margin[0]), max(self.margin[1], other.margin[1]))
        lengths = np.where(self.lengths == other.lengths, self.lengths, -1)
        return replace(self, field=self.field.join(other.field), margin=margin, lengths=lengths)

    def soil(self) -> Axis:
        """The same axis with no clean cell: every cell depends on the whole window."""
        return replace(self, margin=(self.cells, self.cells))

    @property
    def clean(self) -> int:
        """How many cells of the window no border reaches."""
        return max(0, self.cells - sum(self.margin))
