"""A convolution or an average pool as the one matrix it is: mostly zero, the same blocks again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from surgery.errors import BadInput
from surgery.field import Slide

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[Any]
Sides = int | Sequence[int]


@dataclass(frozen=True, eq=False)
class BlockMatrix:
    """The matrix of a windowed linear op, known by its parts; nothing of its own size is held.

    `weight` is `[M, C / group, *kernel]`, `cells` the input's spatial dims, `slides` one per spatial axis.
    `share`, if given, is `[positions]`: a factor for every weight that this output position uses.
    Rows are the output values `[M, *positions]` flattened, columns the input values `[C, *cells]`.
    """

    weight: Array
    cells: tuple[int, ...]
    slides: tuple[Slide, ...]
    group: int = 1
    share: Array | None = None

    @cached_property
    def out(self) -> tuple[int, ...]:
        """Output cells per spatial axis."""
        pairs = zip(self.slides, self.cells, strict=True)
        return tuple(int(slide.lengths(np.array([n]))[0]) for slide, n in pairs)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        channels = self.weight.shape[1] * self.group
        return len(self.weight) * prod(self.out), channels * prod(self.cells)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense matrix."""
        return prod(self.shape) * self.weight.dtype.itemsize

    @cached_property
    def used(self) -> Array:
        """How often each tap of the kernel reads a cell and not a pad, over all positions: `[*kernel]`."""
        used = np.ones((), np.int64)
        for slide, n, length in zip(self.slides, self.cells, self.out, strict=True):
            used = np.multiply.outer(used, _inside(_reads(slide, length), n).sum(axis=0))
        return used

    @property
    def stored(self) -> int:
        """Entries that have a weight: taps that read a pad have none."""
        return prod(self.weight.shape[:2]) * int(self.used.sum())

    @cached_property
    def nonzeros(self) -> int:
        """Entries that are not zero; fewer than `stored` where a weight is itself zero."""
        return int(((self.weight != 0).sum(axis=(0, 1)) * self.used).sum())

    @cached_property
    def distinct(self) -> int:
        """How many different values the entries that are not zero have."""
        values = self.weight[:, :, self.used > 0]
        if self.share is not None:
            values = np.multiply.outer(np.unique(values), np.unique(self.share))
        return int(np.unique(values[values != 0]).size)

    def dense(self) -> Array:
        """The whole matrix, of the weight's dtype."""
        reads, inside = self._reads()
        position, tap = np.nonzero(inside)
        cell = reads[inside]
        matrix = np.zeros(self.shape, self.weight.dtype)
        group, taps = self.group, prod(self.weight.shape[2:])
        weight = self.weight.reshape(group, -1, self.weight.shape[1], taps)
        blocks = matrix.reshape(group, weight.shape[1], inside.shape[0], group, weight.shape[2], -1)
        for g in range(group):
            for m in range(weight.shape[1]):
                values = weight[g, m][:, tap].T
                if self.share is not None:
                    values = values * self.share[position, None]
                blocks[g, m][position, g, :, cell] = values
        return matrix

    def compressed(self) -> tuple[Array, Array, Array]:
        """The matrix as CSR: data, column indices (sorted in each row), and the start of each row.

        Written in order, one output channel's columns copied for the others, so nothing is sorted and
        the scratch space is that of one channel. Indices are int32 where they fit.
        """
        reads, inside = self._reads()
        groups, (count, depth, *kernel) = self.group, self.weight.shape
        size, taps = prod(self.cells), prod(kernel)
        kind = index_dtype(self.stored, max(self.shape))
        channels = np.arange(depth)[:, None]
        mask = np.broadcast_to(inside[:, None, :], (len(inside), depth, taps))
        columns = (reads[:, None, :] + channels * size)[mask].astype(kind, copy=False)
        use = np.broadcast_to(channels * taps + np.arange(taps), mask.shape)[mask]

        indices = np.empty((groups, count // groups, columns.size), kind)
        np.add(columns, (np.arange(groups) * depth * size).astype(kind)[:, None, None], out=indices)
        data = np.empty((count, columns.size), self.weight.dtype)
        np.take(self.weight.reshape(count, -1), use, axis=1, out=data, mode="clip")
        if self.share is not None:
            data *= np.repeat(self.share, depth * inside.sum(axis=1))
        starts = np.zeros(self.shape[0] + 1, kind)
        np.cumsum(np.tile(depth * inside.sum(axis=1), count), dtype=kind, out=starts[1:])
        return data.ravel(), indices.ravel(), starts

    def _reads(self) -> tuple[Array, Array]:
        """The input cell each tap reads at each output position, and whether it is none of the pads.

        Both are `[positions, taps]`.
        """
        rank = len(self.cells)
        reads, inside = np.zeros((1,) * 2 * rank, np.int64), np.ones((1,) * 2 * rank, bool)
        for k, (slide, n, length) in enumerate(zip(self.slides, self.cells, self.out, strict=True)):
            place = [1] * (2 * rank)
            place[k], place[rank + k] = length, slide.kernel
            axis = _reads(slide, length).reshape(place)
            reads = reads + axis * prod(self.cells[k + 1 :])
            inside = inside & _inside(axis, n)
        shape = (prod(self.out), -1)
        return reads.reshape(shape), inside.reshape(shape)


def _reads(slide: Slide, length: int) -> Array:
    """The cell each tap reads at each of so many outputs, on one axis: `[length, kernel]`."""
    first = np.arange(length)[:, None] * slide.stride - slide.before
    reads: Array = first + np.arange(slide.kernel) * slide.dilation
    return reads


def _inside(reads: Array, cells: int) -> Array:
    inside: Array = (reads >= 0) & (reads < cells)
    return inside


def index_dtype(entries: int, longest: int) -> type[np.int32 | np.int64]:
    """The integers that count so many entries in rows and columns of this length."""
    return np.int32 if max(entries, longest) <= np.iinfo(np.int32).max else np.int64


def average(
    channels: int, cells: tuple[int, ...], slides: tuple[Slide, ...], *, pads_count: bool, dtype: Any
) -> BlockMatrix:
    """The matrix of an AveragePool (ONNX AveragePool, attribute count_include_pad).

    The divisor belongs to the position: the cells its window reads, and with `pads_count` the declared
    pads too. What ceil_mode adds beyond the declared pads is never counted.
    """
    ones = np.ones((channels, 1, *(s.kernel for s in slides)), dtype)
    pool = BlockMatrix(ones, cells, slides, channels)
    divisor = np.ones((), np.int64)
    for slide, n, length in zip(slides, cells, pool.out, strict=True):
        reads = _reads(slide, length)
        counted = reads < n + slide.after if pads_count else _inside(reads, n)
        divisor = np.multiply.outer(divisor, counted.sum(axis=1))
    share = np.divide(1.0, divisor, out=np.zeros(divisor.shape), where=divisor > 0)
    return BlockMatrix(ones, cells, slides, channels, share.ravel().astype(dtype))


def toeplitz(
    weight: ArrayLike,
    input_shape: Sequence[int],
    strides: Sides = 1,
    pads: Sides = 0,
    dilations: Sides = 1,
    group: int = 1,
) -> csr_array[Any]:
    """The matrix of a convolution: `toeplitz(w, x.shape) @ x.ravel()` is `conv(x, w).ravel()`.

    `weight` is `[M, C / group, *kernel]` and `input_shape` `(C, *space)`, with one to three spatial axes
    (more work too). `strides`, `dilations` and `pads` are ONNX Conv's, in cells: one number for every
    axis, or one per axis; pads as `[begin..., end...]`. The bias is no part of it.

    The result has shape `(M * positions, C * cells)` and the weight's dtype (float32 for float16, which
    scipy does not store), sorted int32 indices (int64 beyond 2**31 - 1), and an entry for every tap that
    reads a cell: none for those in the padding. It is a `csr_array`, scipy's class for new code, in which
    `*` is by element as in numpy, where in `csr_matrix` it is the matrix product. Its transpose is the
    matrix of ConvTranspose.

    Raises BadInput where the shapes do not fit, or where scipy (the extra `sparse`) is missing.
    """
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise BadInput(
            "surgery.toeplitz returns a scipy sparse matrix, and scipy is not installed here. Install it "
            "with: pip install 'onnx-net-surgery[sparse]'."
        ) from error
    kernel = _storable(np.asarray(weight))
    slides = _slides(kernel, tuple(input_shape), strides, pads, dilations, group)
    matrix = BlockMatrix(kernel, tuple(input_shape[1:]), slides, group)
    if min(matrix.out) < 1:
        raise BadInput(
            f"a kernel of {_by(kernel.shape[2:])} with dilations {[s.dilation for s in slides]} spans "
            f"{_by([s.extent for s in slides])} cells, more than the input of {_by(matrix.cells)} "
            f"with its pads {[s.before for s in slides]} + {[s.after for s in slides]} has. Give a larger "
            "input, or pads."
        )
    result = csr_array(matrix.compressed(), shape=matrix.shape)
    result.has_canonical_format = True
    return result


def _storable(weight: Array) -> Array:
    if weight.dtype.name in ("float16", "bfloat16"):
        return weight.astype(np.float32)
    if weight.dtype.kind not in "fiu":
        raise BadInput(f"the weight has dtype {weight.dtype}; a matrix of numbers needs floats or integers.")
    return weight.astype(weight.dtype.newbyteorder("="), copy=False)


def _slides(
    weight: Array, input_shape: tuple[int, ...], strides: Sides, pads: Sides, dilations: Sides, group: int
) -> tuple[Slide, ...]:
    """The slide of each spatial axis. Raises BadInput where the parts do not fit each other."""
    rank = weight.ndim - 2
    whole = all(isinstance(n, (int, np.integer)) and n > 0 for n in input_shape)
    fits = rank >= 1 and len(input_shape) == rank + 1 and weight.size > 0 and whole
    if not fits or group < 1 or weight.shape[1] * group != input_shape[0] or len(weight) % group:
        raise BadInput(
            f"a weight of shape {list(weight.shape)} in {group} group(s) does not fit an input of shape "
            f"{list(input_shape)}: the weight is [M, C / group, *kernel] with M a multiple of the groups, "
            "the input [C, *space] with as many spatial axes as the kernel, and none of them is empty."
        )
    step = _per_axis("strides", strides, rank, least=1)
    dilation = _per_axis("dilations", dilations, rank, least=1)
    pad = _per_axis("pads", pads, 2 * rank, least=0)
    each = zip(weight.shape[2:], step, dilation, pad[:rank], pad[rank:], strict=True)
    return tuple(Slide(k, s, d, a, b) for k, s, d, a, b in each)


def _per_axis(name: str, value: Sides, count: int, *, least: int) -> tuple[int, ...]:
    given = np.asarray(value)
    sides = np.full(count, given) if given.ndim == 0 else given
    if sides.shape != (count,) or sides.dtype.kind not in "iu" or sides.min() < least:
        order = " as [begin..., end...]" if name == "pads" else ""
        raise BadInput(
            f"{name} is {value!r}; give one integer of {least} or more, or {count} of them{order}."
        )
    return tuple(int(s) for s in sides)


def _by(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))
