"""Verbs on head values: view the feature dims, broadcast a constant, take a folded window apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from surgery.graph import Builder
from surgery.rules import Array, Folded, Lifted, NoRule, Rows, Source

END = 2**63 - 1  # the end of an axis, for Slice
CONV_TYPES = ("float32", "float16")  # what onnxruntime's CPU convolves
POOL_TYPES = {"MaxPool": (*CONV_TYPES, "float64")}  # and pools, where these are others
LARGEST = 2**30  # bytes of a kernel that makes the cells of a window channels
SMALL_TYPES = ("bool", "int8", "uint8", "int16", "uint16")


def without_units(shape: Sequence[int]) -> tuple[int, ...]:
    """The dims that are not 1, or a single 1."""
    return tuple(d for d in shape if d != 1) or (1,)


def view(build: Builder, x: Lifted, dims: Sequence[int]) -> Any:
    """The tensor of `x` as `[N, *dims, rows, cols]`, by the cheapest op that does it."""
    dims = tuple(dims)
    if x.dims == dims:
        return x.tensor
    if prod(x.dims) != prod(dims):
        raise NoRule(f"features {list(x.dims)} cannot be seen as {list(dims)}")
    if tuple(d for d in x.dims if d != 1) == tuple(d for d in dims if d != 1):
        drop = [1 + i for i, d in enumerate(x.dims) if d == 1]
        add = [1 + i for i, d in enumerate(dims) if d == 1]
        return build.with_axes("Unsqueeze", build.with_axes("Squeeze", x.tensor, drop), add)
    if all(d > 0 for d in dims):
        return build.reshape(x.tensor, [0, *dims, build.shape_of(x.tensor, -build.space, END)])
    raise NoRule(f"features {list(dims)} hold nothing")


def flat(build: Builder, x: Lifted) -> Any:
    """The tensor of `x` as `[N, features, rows, cols]`."""
    return view(build, x, (prod(x.dims),))


def focus(build: Builder, x: Lifted, axis: int) -> tuple[Any, tuple[int, ...], int]:
    """The tensor with one feature dim (counted without the batch) kept apart, other dims of 1 left out.

    Returns the tensor, its feature dims, and which of them the dim is.
    """
    kept = [i for i, d in enumerate(x.shape) if d != 1 or i == axis]
    dims = tuple(x.shape[i] for i in kept)
    return view(build, x, dims), dims, kept.index(axis)


def align(value: Array, rank: int) -> Array:
    """A constant seen against features of so many dims (batch left out); raises where it has a batch."""
    value = np.asarray(value)
    if value.ndim > rank + 1 or (value.ndim == rank + 1 and value.shape[0] != 1):
        raise NoRule(f"a constant of shape {list(value.shape)} differs from image to image of the batch")
    if value.ndim == rank + 1:
        value = value[0]
    return value.reshape((1,) * (rank - value.ndim) + value.shape)


def beside(build: Builder, value: Array, name: str = "constant") -> gs.Constant:
    """A constant per feature dim as an initializer that broadcasts over the positions."""
    return build.constant(name, value.reshape(value.shape + (1,) * build.space))


def scalar(build: Builder, value: Array, name: str = "constant") -> gs.Constant:
    """A constant of one element as an initializer without dims."""
    return build.constant(name, np.asarray(value).reshape(()))


def window_of(x: Folded) -> Source | None:
    """The one map a folded window is, if its features are all of that map's cells in their own order."""
    if len(x.sources) != 1 or not x.plain:
        return None
    source = x.sources[0]
    if x.index.size != source.size or not np.array_equal(x.index.ravel(), np.arange(source.size)):
        return None
    return source


def offsets(x: Folded) -> list[int]:
    """Where each source's features begin in the index, and where the last ends."""
    return [0, *np.cumsum([source.size for source in x.sources]).tolist()]


def materialize(build: Builder, x: Folded | Lifted) -> Lifted:
    """Every feature of a folded window as a channel of its own at every position.

    A depthwise Conv of one-hot kernels copies cell t of channel c to channel `c * cells + t`: the
    order of Flatten itself.
    """
    if isinstance(x, Lifted):
        return x
    parts = [_unfold(build, source) for source in x.sources]
    tensor = parts[0] if len(parts) == 1 else build.emit("Concat", parts, {"axis": 1})
    order = x.index.ravel()
    if not np.array_equal(order, np.arange(offsets(x)[-1])):
        tensor = build.emit("Gather", [tensor, build.ints("order", order)], {"axis": 1})
    for op, value in (("Mul", x.scale), ("Add", x.shift)):
        if value is not None:
            tensor = build.emit(op, [tensor, beside(build, value.ravel())])
    return Lifted(tensor, x.shape, (order.size,))


def in_rows(build: Builder, x: Folded | Lifted | Rows) -> Rows:
    """The positions folded into the batch: `[N, *shape, rows, cols]` as `[N * rows * cols, *shape]`."""
    if isinstance(x, Rows):
        return x
    x = materialize(build, x)
    rank = len(x.dims)
    perm = [0, *range(1 + rank, 1 + rank + build.space), *range(1, 1 + rank)]
    return Rows(build.reshape(build.transpose(x.tensor, perm), [-1, *x.shape]), x.shape, x.tensor)


def unfolded(build: Builder, x: Rows) -> Lifted:
    """The positions taken out of the batch again."""
    rank = len(x.shape)
    apart = build.reshape(x.tensor, [build.shape_of(x.like, 0, 1), -1, *x.shape])
    turned = build.transpose(apart, [0, *range(2, 2 + rank), 1])
    sides = build.shape_of(x.like, -build.space, END)
    return Lifted(build.reshape(turned, [*[0] * (1 + rank), sides]), x.shape, x.shape)


def reading(source: Source) -> dict[str, list[int]]:
    """The attributes of a Conv or pool that reads windows of a map."""
    attrs = {"kernel_shape": list(source.cells), "strides": list(source.stride)}
    if any(s != 1 for s in source.spacing):
        attrs["dilations"] = list(source.spacing)
    return attrs


def _unfold(build: Builder, source: Source) -> Any:
    count = prod(source.cells)
    if count == 1 and set(source.stride) == {1}:
        return source.tensor
    dtype = np.dtype(source.tensor.dtype)
    if dtype in SMALL_TYPES:  # every value of theirs is a float32 too
        wide = build.emit("Cast", [source.tensor], {"to": onnx.TensorProto.FLOAT})
        wide.dtype = np.dtype(np.float32)
        copied = _unfold(build, replace(source, tensor=wide))
        return build.emit("Cast", [copied], {"to": onnx.helper.np_dtype_to_tensor_dtype(dtype)})
    if dtype not in CONV_TYPES:
        return _by_slices(build, source)
    size = source.channels * count**2 * dtype.itemsize
    if size > LARGEST:
        raise NoRule(
            f"it takes each of the {count:,} cells of a window for itself, and the kernel that makes them "
            f"channels would hold {size / 2**30:.1f} GiB"
        )
    hot = np.eye(count, dtype=dtype).reshape((count, 1, *source.cells))
    weight = build.constant("unfold", np.tile(hot, (source.channels, *[1] * (hot.ndim - 1))))
    return build.emit("Conv", [source.tensor, weight], {**reading(source), "group": source.channels})


def _by_slices(build: Builder, source: Source) -> Any:
    """The same of a type that onnxruntime has no Conv for: each cell of all windows is a Slice of the map."""
    if build.opset < 10 and set(source.stride) != {1}:
        raise NoRule(
            f"the windows of its {source.tensor.dtype} map lie {list(source.stride)} cells apart, and opset "
            f"{build.opset} has no Slice with steps; Cast the map to float32 before it"
        )
    axes = [2 + k for k in range(build.space)]
    cells = []
    for place in np.ndindex(*source.cells):
        sides = list(zip(place, source.cells, source.spacing, strict=True))
        starts = [i * apart for i, _, apart in sides]
        ends = [(i - (n - 1)) * apart or END for i, n, apart in sides]
        cell = build.slice(source.tensor, starts, ends, axes, source.stride)
        cells.append(build.with_axes("Unsqueeze", cell, [2]))
    stacked = build.emit("Concat", cells, {"axis": 2})
    sides_of_map = build.shape_of(stacked, -build.space, END)
    return build.reshape(stacked, [0, source.channels * len(cells), sides_of_map])
