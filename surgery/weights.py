"""Matrices as the rules read them: plain values, or the small integers they are dequantized from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph import Builder, Op
from surgery.rules import Array

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")
SHAPE_ONLY = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight laid out as `rows`, `[outputs, features]`.

    Where it is quantized, `rows` holds the integers, and the weight is `(rows - zero) * scale` with both
    either a scalar or `[outputs]`.
    """

    rows: Array
    scale: Array | None = None
    zero: Array | None = None

    @property
    def values(self) -> Array:
        """The weight itself."""
        if self.scale is None:
            return self.rows
        zero = 0 if self.zero is None else _column(self.zero).astype(np.int32)
        values: Array = ((self.rows.astype(np.int32) - zero) * _column(self.scale)).astype(self.scale.dtype)
        return values

    @property
    def blank(self) -> Array:
        """What stands for a weight of nothing, per output."""
        if self.zero is None:
            return np.zeros(len(self.rows), self.rows.dtype)
        return np.broadcast_to(self.zero, (len(self.rows),))

    def tensor(self, build: Builder, kernel: Array) -> Any:
        """The rows, laid out as a kernel, as a weight: integers stay integers, and are dequantized."""
        weight = build.constant("weight", kernel)
        if self.scale is None:
            return weight
        inputs = [weight, build.constant("scale", self.scale)]
        if self.zero is not None:
            inputs.append(build.constant("zero_point", np.broadcast_to(self.zero, self.scale.shape)))
        attrs = {"axis": 0} if self.scale.ndim else {}
        return build.emit("DequantizeLinear", inputs, attrs)


def _column(value: Array) -> Array:
    return value.reshape(-1, 1) if value.ndim else value


def matrix_of(op: Op, index: int, arrange: Callable[[Array], Array]) -> Matrix:
    """The weight at an input, brought by `arrange` to `[outputs, features]`."""
    value = op.value(index)
    assert value is not None
    quantized = _quantized(op, index, arrange)
    return Matrix(arrange(value)) if quantized is None else quantized


def _quantized(op: Op, index: int, arrange: Callable[[Array], Array]) -> Matrix | None:
    """The integers behind a weight, if each of its rows is dequantized by one scale."""
    chain = []
    tensor = op.node.inputs[index]
    while tensor.inputs and tensor.inputs[0].op in SHAPE_ONLY:
        chain.append(tensor.inputs[0])
        tensor = tensor.inputs[0].inputs[0]
    if not tensor.inputs or tensor.inputs[0].op != "DequantizeLinear":
        return None
    dequantize = Op.of(tensor.inputs[0], op.opset, op.facts)
    integers, scale, zero = (dequantize.value(i) for i in range(3))
    if integers is None or scale is None or dequantize.attr("block_size"):
        return None
    if integers.dtype not in INTEGERS:  # 4 bits and the like: the values say it all
        return None
    per_element = [integers, *(_spread(v, dequantize, integers) for v in (scale, zero) if v is not None)]
    rows, *settings = (arrange(_through(chain, op, v)) for v in per_element)
    if any((v != v[:, :1]).any() for v in settings):
        return None  # a scale per input: no axis of a Conv's weight has it
    shared = all((v == v[:1]).all() for v in settings)
    small = [v[0, 0].reshape(()) if shared else np.ascontiguousarray(v[:, 0]) for v in settings]
    return Matrix(rows, small[0], small[1] if zero is not None else None)


def _spread(value: Array, dequantize: Op, integers: Array) -> Array:
    """A scale or zero point for every integer."""
    if value.size != 1:
        axis = int(dequantize.attr("axis") or 0) % integers.ndim
        value = value.reshape([-1 if d == axis else 1 for d in range(integers.ndim)])
    return np.broadcast_to(value, integers.shape)


def _through(chain: list[Any], op: Op, value: Array) -> Array:
    """What ops that only rename dims make of an array."""
    for node in reversed(chain):
        step = Op.of(node, op.opset, op.facts)
        if step.kind == "Transpose":
            value = np.transpose(value, step.attr("perm"))
        else:
            value = value.reshape(step.out_shape())
    return value
