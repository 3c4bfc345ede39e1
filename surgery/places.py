"""Stored cells of a map brought into another order, with borders set: as rows of channels.

onnxruntime copies a cell's channels at once where they lie last, and turns its own blocked tensors into
that order, and back, in the one pass it would need anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto, helper

from surgery.arrange import Ints
from surgery.graph import Builder
from surgery.rules import Map

Mask = NDArray[np.bool_]

SMALL = 2**14  # places whose numbers are written into the model; those of more are added up as it runs


@dataclass(frozen=True)
class Border:
    """What an op sees beyond a window: the `value`, and the `masks` of the places that must hold it.

    There is one mask per axis, over the places taken; None where nothing is to be set.
    """

    value: NDArray[Any]
    masks: tuple[Mask | None, ...]


class Places:
    """Takes stored places of maps; nodes and constants that would do the same again are shared."""

    def __init__(self, build: Builder) -> None:
        self.build = build
        self._made: dict[Any, Any] = {}

    def take(
        self,
        tensor: Any,
        m: Map,
        lengths: Sequence[int],
        ways: Sequence[Ints | None],
        border: Border | None = None,
    ) -> Any:
        """The places `ways` along each axis (None: all, as they are), with a border set.

        `lengths` says how many places are stored along each axis.
        """
        if all(way is None for way in ways) and border is None:
            return tensor
        channels = [m.shape[d] for d in m.channel_dims]
        rows = self._once(
            "Reshape", [self.cells_first(tensor, m), self._shape([0, prod(lengths), *channels])]
        )
        if border:
            rows = self._with_border(rows, len(channels), border.value)
        index = self._index(lengths, ways, border)
        return self.channels_back(self._once("Gather", [rows, index], axis=1), m)

    def cells_first(self, tensor: Any, m: Map) -> Any:
        """The tensor with its axes of space right behind the batch."""
        return self._turned(tensor, _order(m))

    def channels_back(self, cells: Any, m: Map) -> Any:
        """What `cells_first` gave, with the dims where they were."""
        return self._turned(cells, np.argsort(_order(m)).tolist())

    def along(self, axis: int, tensor: Any, places: Ints) -> Any:
        """Some places along one axis of a tensor."""
        return self._once("Gather", [tensor, self._constant("places", places)], axis=axis)

    def _with_border(self, rows: Any, channels: int, value: NDArray[Any]) -> Any:
        """One row more in front of all, which holds the border's value."""
        pads = [0, 1, *[0] * channels, 0, 0, *[0] * channels]
        if self.build.opset < 11:
            return self._padded_as_floats(rows, pads, value)
        return self._once("Pad", [rows, self._shape(pads), self._constant("beyond", value)])

    def _padded_as_floats(self, rows: Any, pads: Sequence[int], value: NDArray[Any]) -> Any:
        """Pad took nothing but floats before opset 11, which hold the small integers of that time."""
        floats = value.dtype.kind == "f"
        rows = rows if floats else self._once("Cast", [rows], to=int(TensorProto.FLOAT))
        padded = self._once("Pad", [rows], pads=tuple(pads), value=float(value))
        kind = int(helper.np_dtype_to_tensor_dtype(value.dtype))
        return padded if floats else self._once("Cast", [padded], to=kind)

    def _index(self, lengths: Sequence[int], ways: Sequence[Ints | None], border: Border | None) -> Any:
        """Which row each place taken lies in: the first one, if it is to hold the border's value."""
        rank = len(lengths)
        dtype = np.int32 if prod(lengths) < 2**31 - 1 else np.int64
        at: list[NDArray[Any]] = []
        for k, (way, length) in enumerate(zip(ways, lengths, strict=True)):
            places = np.arange(length) if way is None else way
            at.append(_along(k, rank, (places * prod(lengths[k + 1 :])).astype(dtype)))
        inside: list[NDArray[Any]] = []
        if border:
            at[0] = at[0] + dtype(1)
            inside = [
                _along(k, rank, (~v).astype(dtype)) for k, v in enumerate(border.masks) if v is not None
            ]
        if prod(part.size for part in at) <= SMALL:
            return self._constant("places", prod(inside, start=sum(at[1:], start=at[0])))
        index = self._once("Add", [self._zero(dtype), self._constant("places", at[0])])
        for part in at[1:]:
            index = self._once("Add", [index, self._constant("places", part)])
        for part in inside:
            index = self._once("Mul", [index, self._constant("inside", part)])
        return index

    def _zero(self, dtype: Any) -> Any:
        """A zero of the run: an index made of constants alone would be held as long as the session lives."""
        image = self.build.graph.inputs[0]
        batch = self._once("Gather", [self._once("Shape", [image]), self._shape([0])], axis=0)
        zero = self._once("Sub", [batch, batch])
        return zero if dtype is np.int64 else self._once("Cast", [zero], to=int(TensorProto.INT32))

    def _shape(self, dims: Sequence[int]) -> gs.Constant:
        return self._constant("dims", np.array(dims, np.int64))

    def _turned(self, tensor: Any, perm: Sequence[int]) -> Any:
        if list(perm) == sorted(perm):
            return tensor
        return self._once("Transpose", [tensor], perm=tuple(perm))

    def _once(self, op: str, inputs: list[Any], **attrs: Any) -> Any:
        key = (op, *(t.name for t in inputs), *attrs.items())
        if key not in self._made:
            self._made[key] = self.build.emit(op, inputs, attrs)
        return self._made[key]

    def _constant(self, name: str, value: NDArray[Any]) -> gs.Constant:
        key = (name, value.dtype.str, value.shape, value.tobytes())
        if key not in self._made:
            self._made[key] = self.build.constant(name, value)
        made: gs.Constant = self._made[key]
        return made


def _along(k: int, rank: int, values: NDArray[Any]) -> NDArray[Any]:
    """A vector as axis k of an array of this rank."""
    return values.reshape([-1 if d == k else 1 for d in range(rank)])


def _order(m: Map) -> list[int]:
    return [0, *m.axes, *m.channel_dims]
