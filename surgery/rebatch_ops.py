"""Each op of a head for tensors that have their batch in front again: the same on all dims behind it."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_letters
from typing import Any

import numpy as np

from surgery.graph import Builder, Op
from surgery.ops.normalize import SOFT, soft_axes
from surgery.ops.pointwise import BINARY, UNARY
from surgery.ops.reduce import ARGS, REDUCTIONS, axes_of
from surgery.ops.shape import RESHAPES, permutation
from surgery.rules import Array
from surgery.shapes import Facts
from surgery.unbake import hand_over


class NoBatch(Exception):
    """Raised where the batch cannot be given back."""


class Region:
    """The tensors that have one dim more in front than the model had: the batch, `spread` by name."""

    def __init__(self, build: Builder, facts: Facts) -> None:
        self.build = build
        self.facts = facts
        self.spread: set[str] = set()

    def moving(self, op: Op, i: int) -> bool:
        """Whether an input depends on the image."""
        return bool(op.inputs[i]) and op.inputs[i] not in self.facts.values

    def image(self, op: Op, i: int, ones: int = 0) -> Any:
        """An input as `[N, *shape]`, after so many more dims of 1; `shape` is all that the model had."""
        tensor = op.node.inputs[i]
        if op.inputs[i] in self.spread and not ones:
            return tensor
        if 0 in op.in_shape(i):
            raise NoBatch
        return self.build.reshape(tensor, [-1, *(1,) * ones, *op.in_shape(i)])

    def constant(self, op: Op, i: int) -> Array:
        """The value of an input that must not depend on the image."""
        value = op.value(i)
        if value is None:
            raise NoBatch
        return value

    def put(self, op: Op, made: Any) -> None:
        """Let new tensors, with the batch in front, stand where the op's outputs stood.

        What the model had with a first dim of 1 has its batch there.
        """
        tensors = made if isinstance(made, list) else [made]
        for old, tensor, name in zip(list(op.node.outputs), tensors, op.outputs, strict=True):
            if name:
                self._put(old, tensor, name)
        op.node.outputs.clear()

    def _put(self, old: Any, tensor: Any, name: str) -> None:
        shape = self.facts.shapes[name]
        if shape[:1] == (1,):
            tensor = self.build.reshape(tensor, [-1, *shape[1:]])
        else:
            self.spread.add(name)
        hand_over(self.build, old, tensor)

    def freeze(self, op: Op) -> None:
        """Let what an op makes of the shapes at the window be a constant."""
        old = op.node.outputs[0]
        if any(o is old for o in self.build.graph.outputs):
            raise NoBatch
        value = self.build.constant("at_window", self.facts.values[op.outputs[0]])
        for user in list(old.outputs):
            user.inputs = [value if i is old else i for i in user.inputs]
        op.node.outputs.clear()

    def along(self, op: Op, axis: int, inputs: list[Any], **more: Any) -> None:
        """The same op on other inputs, along a dim counted without the batch."""
        attrs = {**op.node.attrs, "axis": axis + 1, **more}
        self.put(op, self.build.emit(op.kind, inputs, attrs, outs=len(op.outputs)))


def _others(r: Region, op: Op, first: int = 1) -> list[Any]:
    """The inputs from one on, which must not depend on the image."""
    if any(r.moving(op, i) for i in range(first, len(op.inputs))):
        raise NoBatch
    return list(op.node.inputs[first:])


def _axis(op: Op) -> int:
    return int(op.attr("axis")) % len(op.in_shape())


def _each(r: Region, op: Op) -> None:
    inputs = [r.image(op, 0), *_others(r, op)]
    r.put(op, r.build.emit(op.kind, inputs, dict(op.node.attrs), outs=len(op.outputs)))


def _one_scale(r: Region, op: Op) -> None:
    if any(op.in_shape(i) not in ((), (1,)) for i in range(1, len(op.inputs)) if op.inputs[i]):
        raise NoBatch
    _each(r, op)


def _together(r: Region, op: Op) -> None:
    rank = len(op.out_shape())
    inputs = [
        r.image(op, i, rank - len(op.in_shape(i))) if r.moving(op, i) else op.node.inputs[i]
        for i in range(len(op.inputs))
    ]
    r.put(op, r.build.emit(op.kind, inputs, dict(op.node.attrs)))


def _reshape(r: Region, op: Op) -> None:
    shape = op.out_shape()
    if 0 in shape or not r.moving(op, 0):
        raise NoBatch
    r.put(op, r.build.reshape(op.node.inputs[0], [-1, *shape]))


def _transpose(r: Region, op: Op) -> None:
    r.put(op, r.build.emit("Transpose", [r.image(op, 0)], {"perm": [0, *(p + 1 for p in permutation(op))]}))


def _joined(r: Region, op: Op) -> None:
    inputs = [
        r.image(op, i) if r.moving(op, i) else r.build.constant("constant", r.constant(op, i)[None])
        for i in range(len(op.inputs))
    ]
    r.along(op, _axis(op), inputs)


def _apart(r: Region, op: Op) -> None:
    r.along(op, _axis(op), [r.image(op, 0), *_others(r, op)])


def _gather(r: Region, op: Op) -> None:
    if not r.moving(op, 0):  # a table, read at places that depend on the image
        if _axis(op) != 0:
            raise NoBatch
        r.put(op, r.build.emit("Gather", [op.node.inputs[0], r.image(op, 1)], {"axis": 0}))
    else:
        _apart(r, op)


def _slice(r: Region, op: Op) -> None:
    _others(r, op)
    rank = len(op.in_shape())
    starts, ends, axes = (op.setting(n, i, 10) for n, i in (("starts", 1), ("ends", 2), ("axes", 3)))
    moved = [a % rank + 1 for a in (range(len(starts)) if axes is None else axes)]
    if op.opset < 10:
        made = r.build.slice(r.image(op, 0), starts, ends, moved)
    else:
        steps = op.setting("steps", 4, 10) or [1] * len(moved)
        named = (("starts", starts), ("ends", ends), ("axes", moved), ("steps", steps))
        made = r.build.emit("Slice", [r.image(op, 0), *(r.build.ints(n, v) for n, v in named)])
    r.put(op, made)


def _reduce(r: Region, op: Op) -> None:
    _others(r, op)
    axes = [a + 1 for a in axes_of(op)]
    x = r.image(op, 0)
    keepdims = int(op.attr("keepdims"))
    r.put(op, r.build.reduce(op.kind, x, axes, keepdims=keepdims) if axes else r.build.emit("Identity", [x]))


def _soft(r: Region, op: Op) -> None:
    r.along(op, soft_axes(op)[0], [r.image(op, 0)])


def _running(r: Region, op: Op) -> None:
    axis = r.constant(op, 1)
    place = np.array(axis.item() % len(op.in_shape()) + 1, axis.dtype)
    inputs = [r.image(op, 0), r.build.constant("axis", place)]
    r.put(op, r.build.emit("CumSum", inputs, dict(op.node.attrs)))


def _one_hot(r: Region, op: Op) -> None:
    r.along(op, int(op.attr("axis")) % len(op.out_shape()), [r.image(op, 0), *_others(r, op)])


def _expand(r: Region, op: Op) -> None:
    _others(r, op)
    shape = op.out_shape()
    x = r.image(op, 0, len(shape) - len(op.in_shape()))
    r.put(op, r.build.emit("Expand", [x, r.build.ints("shape", [1, *shape])]))


def _tile(r: Region, op: Op) -> None:
    times = r.build.ints("repeats", [1, *r.constant(op, 1).tolist()])
    r.put(op, r.build.emit("Tile", [r.image(op, 0), times]))


def _matmul(r: Region, op: Op) -> None:
    r.put(op, _product(r, op, [_side(r, op, i) for i in range(2)]))


def _side(r: Region, op: Op, i: int) -> tuple[Any, tuple[int, ...]]:
    """An operand of a MatMul and its shape without the batch, as a matrix."""
    shape = op.in_shape(i)
    if len(shape) == 1:
        shape = (1, *shape) if i == 0 else (*shape, 1)
    if r.moving(op, i):
        return r.build.reshape(op.node.inputs[i], [-1, *shape]), shape
    value = r.constant(op, i)
    return (op.node.inputs[i] if value.ndim > 1 else r.build.constant("vector", value.reshape(shape))), shape


def _product(r: Region, op: Op, sides: list[tuple[Any, tuple[int, ...]]]) -> Any:
    """The product of two matrices, or stacks of them, for every image: as `[N, *shape of the output]`."""
    rank = max(len(shape) for _, shape in sides)
    inputs = []
    for i, (x, shape) in enumerate(sides):
        ones = rank - len(shape)
        inputs.append(r.build.reshape(x, [-1, *(1,) * ones, *shape]) if r.moving(op, i) and ones else x)
    return r.build.reshape(r.build.emit("MatMul", inputs), [-1, *op.out_shape()])


def _gemm(r: Region, op: Op) -> None:
    """alpha * A B + beta * C by its parts, as Gemm takes no batch of matrices (ONNX Gemm)."""
    dtype = op.facts.dtypes[op.outputs[0]]
    sides: list[tuple[Any, tuple[int, ...]]] = []
    for i, turned in enumerate((op.attr("transA"), op.attr("transB"))):
        shape = op.in_shape(i) if len(op.in_shape(i)) == 2 else (1, *op.in_shape(i))  # as onnxruntime has it
        rows, cols = reversed(shape) if turned else shape
        if r.moving(op, i):
            x = r.build.reshape(op.node.inputs[i], [-1, *shape])
            sides.append((r.build.transpose(x, [0, 2, 1]) if turned else x, (rows, cols)))
        else:
            value = r.constant(op, i)
            sides.append((r.build.constant("matrix", value.T if turned else value), (rows, cols)))
    made = _product(r, op, sides)
    if op.attr("alpha") != 1:
        made = r.build.emit("Mul", [made, r.build.constant("alpha", np.array(op.attr("alpha"), dtype))])
    if len(op.inputs) > 2 and op.inputs[2]:
        beta = r.build.constant("beta", np.array(op.attr("beta"), dtype))
        more = r.image(op, 2, 2 - len(op.in_shape(2))) if r.moving(op, 2) else op.node.inputs[2]
        made = r.build.emit(
            "Add", [made, more if op.attr("beta") == 1 else r.build.emit("Mul", [more, beta])]
        )
    r.put(op, made)


def _einsum(r: Region, op: Op) -> None:
    equation = str(op.attr("equation")).replace(" ", "")
    left, arrow, result = equation.partition("->")
    if not arrow:
        single = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
        result = ("..." if "..." in left else "") + "".join(single)
    batch = next(c for c in ascii_letters if c not in equation)
    words, inputs = [], []
    for i, word in enumerate(left.split(",")):
        words.append(batch + word if r.moving(op, i) else word)
        inputs.append(r.image(op, i) if r.moving(op, i) else op.node.inputs[i])
    r.put(op, r.build.emit("Einsum", inputs, {"equation": f"{','.join(words)}->{batch}{result}"}))


def _batch_norm(r: Region, op: Op) -> None:
    """Scale and shift per dim 1, which is dim 2 behind the batch."""
    if op.attr("training_mode") or len(op.in_shape()) < 2:
        raise NoBatch
    scale, shift, mean, var = (r.constant(op, i).astype(np.float64) for i in range(1, 5))
    slope = scale / np.sqrt(var + op.attr("epsilon"))
    dtype = op.facts.dtypes[op.outputs[0]]
    along = (-1, *(1,) * (len(op.in_shape()) - 2))
    x = r.image(op, 0)
    for kind, value in (("Mul", slope), ("Add", shift - mean * slope)):
        x = r.build.emit(kind, [x, r.build.constant(kind.lower(), value.astype(dtype).reshape(along))])
    r.put(op, x)


RULES: dict[str, Callable[[Region, Op], None]] = {
    **dict.fromkeys((*UNARY, "Clip", "Dropout"), _each),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _one_scale),
    **dict.fromkeys(BINARY, _together),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(ARGS, _apart),
    **dict.fromkeys(SOFT, _soft),
    **dict.fromkeys(("Split", "TopK", "LpNormalization", "LayerNormalization", "RMSNormalization"), _apart),
    **dict.fromkeys(("Concat", "GatherElements"), _joined),
    "Transpose": _transpose,
    "Gather": _gather,
    "Slice": _slice,
    "CumSum": _running,
    "OneHot": _one_hot,
    "Expand": _expand,
    "Tile": _tile,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
}
