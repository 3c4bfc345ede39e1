"""Ops that have no convolutional form: positions are folded into the batch, and the op stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from surgery.graph import Builder, Op
from surgery.ops.dense import letters
from surgery.ops.normalize import SOFT, soft_axes
from surgery.ops.pointwise import BINARY, UNARY
from surgery.ops.shape import RESHAPES, mixed, permutation
from surgery.positions import in_rows
from surgery.rules import Array, Folded, Lifted, NoRule, Rows, fold

SLIDING = ("Conv", "AveragePool", "MaxPool", "LpPool", "InstanceNormalization", "GroupNormalization")
MOVING = (Folded, Lifted, Rows)


@fold.rule("MatMul", *BINARY)
def same_product(build: Builder, op: Op, inputs: list[Any]) -> Rows:
    """The same op on every row, whatever is the same for all rows broadcast to them.

    Where ranks differ, or a dim of the batch is one of a matrix, the batch the original had (one image)
    stays, and the rows lie before it.
    """
    rows = _moving(build, inputs)
    for value in inputs:
        full = isinstance(value, np.ndarray) and value.ndim == len(op.out_shape())
        if full and value.shape[0] != 1 and not (op.kind == "MatMul" and value.ndim == 2):
            raise NoRule(f"a constant of shape {list(value.shape)} differs from image to image of the batch")
    ranks = [1 + len(r.shape) for r in rows.values()]
    rank = max([*ranks, *(v.ndim for v in inputs if isinstance(v, np.ndarray))])
    inner = op.kind == "MatMul" and min(ranks) < 3
    for i, x in rows.items():
        if inner:
            rows[i] = Rows(build.reshape(x.tensor, [-1, *(1,) * (rank - len(x.shape)), *x.shape]), (), x.like)
        elif 1 + len(x.shape) < rank:
            rows[i] = Rows(
                build.reshape(x.tensor, [-1, *(1,) * (rank - 1 - len(x.shape)), *x.shape]), (), x.like
            )
    tensor = _emit(build, op, inputs, rows)
    return _row(build, op, tensor, rows, exact=not inner)


@fold.rule(*SLIDING)
def same_on_features(build: Builder, op: Op, inputs: list[Any]) -> Rows:
    """The same op on every row of features; the window's own cells would be as many maps as windows."""
    if any(isinstance(v, Folded) for v in inputs):
        raise NoRule("it takes the window's cells as a map, so that it would run once for every window")
    if any(isinstance(v, MOVING) for v in inputs[1:]):
        raise NoRule("its weights depend on the image")
    rows = _moving(build, inputs)
    return _row(build, op, _emit(build, op, inputs, rows), rows)


@fold.rule(*UNARY, "Clip")
def same_on_every_row(build: Builder, op: Op, inputs: list[Any]) -> Rows:
    """The same op on every row."""
    if any(isinstance(v, MOVING) for v in inputs[1:]):
        raise NoRule("its bounds depend on the image")
    rows = _moving(build, inputs)
    return _row(build, op, _emit(build, op, inputs, rows), rows)


@fold.rule(*SOFT, "LayerNormalization", "RMSNormalization", "LpNormalization")
def same_on_some_dims(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """The same op on every row, over dims that are not the batch."""
    first = min(soft_axes(op)) if op.kind in SOFT else int(op.attr("axis")) % len(op.in_shape())
    if first == 0:
        raise NoRule("it normalises over the batch")
    if any(isinstance(v, MOVING) for v in inputs[1:]):
        raise NoRule("its scale depends on the image")
    rows = _moving(build, inputs)
    return [_row(build, op, _emit(build, op, inputs, rows), rows), *[None] * (len(op.outputs) - 1)]


@fold.rule(*RESHAPES)
def same_values(build: Builder, op: Op, inputs: list[Any]) -> Rows:
    """Another shape of every row."""
    if not isinstance(inputs[0], MOVING):
        raise NoRule("its shape, not its data, depends on the image")
    rows = _moving(build, inputs)
    shape = op.out_shape()[1:]
    if prod(shape) != prod(rows[0].shape):
        raise NoRule(mixed(op))
    return Rows(build.reshape(rows[0].tensor, [-1, *shape]), shape, rows[0].like)


@fold.rule("Transpose")
def same_order(build: Builder, op: Op, inputs: list[Any]) -> Rows:
    """Another order of every row's dims."""
    rows, perm = _moving(build, inputs), permutation(op)
    if perm[0] != 0:
        raise NoRule("it moves the batch dim")
    return Rows(build.transpose(rows[0].tensor, perm), op.out_shape()[1:], rows[0].like)


@fold.rule("Gemm")
def same_matrix(build: Builder, op: Op, inputs: list[Any]) -> Rows:
    """The same op on every row of features."""
    if op.attr("transA") or not isinstance(inputs[1], np.ndarray):
        raise NoRule(
            "transA makes features of the batch" if op.attr("transA") else "its matrix depends on the image"
        )
    if len(inputs) > 2 and isinstance(inputs[2], np.ndarray) and inputs[2].ndim == 2 and len(inputs[2]) != 1:
        raise NoRule(f"its bias {list(inputs[2].shape)} differs from image to image of the batch")
    rows = _moving(build, inputs)
    return _row(build, op, _emit(build, op, inputs, rows), rows)


@fold.rule("Einsum")
def same_sum(build: Builder, op: Op, inputs: list[Any]) -> Rows:
    """The same sum on every row: its first letter is the batch, now of rows."""
    operands, result = letters(op)
    batch = next(w[0] for w, v in zip(operands, inputs, strict=True) if not isinstance(v, np.ndarray))
    for word, value in zip(operands, inputs, strict=True):
        moving = not isinstance(value, np.ndarray)
        if word.startswith(batch) != moving or word.count(batch) > 1:
            raise NoRule(
                f"{op.attr('equation')!r} sums over the batch, or has it in other places than the first"
            )
    if not result.startswith(batch):
        raise NoRule(f"{op.attr('equation')!r} moves the batch dim or sums over it")
    rows = _moving(build, inputs)
    return _row(build, op, _emit(build, op, inputs, rows), rows)


# ------------------------------------------------------------------ what the rules share


def _moving(build: Builder, inputs: Sequence[Any]) -> dict[int, Rows]:
    """The inputs that depend on the image, in rows."""
    return {i: in_rows(build, v) for i, v in enumerate(inputs) if isinstance(v, MOVING)}


def _emit(build: Builder, op: Op, inputs: Sequence[Any], rows: dict[int, Rows]) -> Any:
    """The original op over rows and constants."""
    tensors = [rows[i].tensor if i in rows else _constant(build, op, i, v) for i, v in enumerate(inputs)]
    outs = build.emit(op.kind, tensors, dict(op.node.attrs), domain=op.domain, outs=len(op.outputs))
    return outs[0] if isinstance(outs, list) else outs


def _constant(build: Builder, op: Op, index: int, value: Array | None) -> Any:
    if value is None or not op.inputs[index]:
        return op.node.inputs[index]
    return build.constant("constant", value)


def _row(build: Builder, op: Op, tensor: Any, rows: dict[int, Rows], exact: bool = True) -> Rows:
    """The op's first output in rows."""
    shape = op.out_shape()
    like = next(iter(rows.values())).like
    assert shape[:1] == (op.facts.batch,), f"{op.name!r} gives its batch up, and rows would mix"
    return Rows(tensor if exact else build.reshape(tensor, [-1, *shape[1:]]), shape[1:], like)
