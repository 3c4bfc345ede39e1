"""Ops that rename dims, or repeat what they hold: Reshape, Flatten, Squeeze, Transpose, Expand, Tile."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from surgery.graph import Builder, Op
from surgery.packed import PLACES, Packed, holds
from surgery.positions import view
from surgery.rules import EndsTrunk, Folded, Lifted, Map, NoRule, geometry, lift

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


# ------------------------------------------------------------------ geometry


@geometry.rule(*RESHAPES)
def regroup(op: Op, inputs: list[Any]) -> Map:
    """Channels may be split and merged; a spatial dim must stay a dim of its own."""
    x: Map = inputs[0]
    shape = op.out_shape()
    homes = homes_of(op, x.shape, shape)
    axes = [homes[a] for a in x.axes]
    if any(a is None for a in axes):
        raise EndsTrunk("it folds positions into features")
    if homes[0] != 0 or shape[0] != x.shape[0]:
        raise EndsTrunk(f"it moves the batch: {list(x.shape)} becomes {list(shape)}")
    return Map(shape, tuple(int(a) for a in axes if a is not None), x.geometry)


def homes_of(op: Op, old: tuple[int, ...], new: tuple[int, ...]) -> list[int | None]:
    """Where each dim goes; Squeeze and Unsqueeze say which of several dims of 1 they mean."""
    axes = op.setting("axes", 1, 13) if op.kind in ("Squeeze", "Unsqueeze") else None
    if axes is None:
        return follow_dims(old, new)
    if op.kind == "Unsqueeze":
        added = {int(a) % len(new) for a in axes}
        return [j for j in range(len(new)) if j not in added]
    dropped = {int(a) % len(old) for a in axes}
    kept = [d for d in range(len(old)) if d not in dropped]
    return [kept.index(d) if d in kept else None for d in range(len(old))]


def follow_dims(old: tuple[int, ...], new: tuple[int, ...]) -> list[int | None]:
    """Where each dim of a row-major tensor goes when it is reshaped; None where it is split or merged.

    >>> follow_dims((1, 6, 5, 4), (1, 2, 3, 5, 4))
    [0, None, 3, 4]
    >>> follow_dims((1, 6, 5, 4), (1, 6, 20))
    [0, 1, None, None]
    >>> follow_dims((1, 6), (2, 6))  # no reshape at all: it was repeated
    [None, None]
    """
    homes: list[int | None] = [None] * len(old)
    if prod(old) != prod(new) or 0 in old:
        return homes
    i = j = 0
    while i < len(old) and j < len(new):
        if old[i] == new[j]:
            homes[i] = j
            i, j = i + 1, j + 1
        elif old[i] == 1:
            i += 1
        elif new[j] == 1:
            j += 1
        else:  # the smallest run of dims on both sides that holds the same values
            a, b, i, j = old[i], new[j], i + 1, j + 1
            while a != b:
                if a < b:
                    a, i = a * old[i], i + 1
                else:
                    b, j = b * new[j], j + 1
    return homes


@geometry.rule("Transpose")
def permute(op: Op, inputs: list[Any]) -> Map:
    """Space moves with the dims."""
    x = inputs[0]
    perm = permutation(op)
    if perm[0] != 0:
        raise NoRule("it moves the batch dim")
    return Map(op.out_shape(), tuple(perm.index(a) for a in x.axes), x.geometry)


@geometry.rule("Expand", "Tile")
def repeat_features(op: Op, inputs: list[Any]) -> Map:
    """Features may be repeated; positions may not."""
    x: Map = inputs[0]
    shape = op.out_shape()
    if len(shape) != len(x.shape) or any(shape[d] != x.shape[d] for d in (0, *x.axes)):
        raise EndsTrunk("it repeats what it reads to a size that the window fixes")
    return x.with_shape(shape)


def free_expand(op: Op, m: Map | Packed, build: Builder) -> list[str]:
    """An Expand leaves the batch and the positions as many as they are."""
    dims = zip(op.out_shape(), Packed.of(m).dims, strict=True)
    sizes = [1 if holds(dim, *PLACES) else n for n, dim in dims]
    op.node.inputs[1] = build.ints("features", sizes)
    return []


def permutation(op: Op) -> list[int]:
    """The order a Transpose puts the dims in; reversed where it says nothing."""
    return list(op.attr("perm") or reversed(range(len(op.in_shape()))))


# ------------------------------------------------------------------ lifted


def mixed(op: Op) -> str:
    """Why a Reshape has no meaning for one image of a batch."""
    return (
        f"it mixes batch and features: {list(op.in_shape())} becomes {list(op.out_shape())}, so that a "
        "larger image, or another batch, cannot be reshaped to the requested shape. Keep the batch in dim 0"
    )


@lift.rule(*RESHAPES)
def reshape(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """Another shape at each position: nothing moves until an op asks for the dims."""
    x, shape = inputs[0], op.out_shape()
    if not isinstance(x, (Folded, Lifted)):
        raise NoRule("its shape, not its data, depends on the image")
    if prod(x.shape) != prod(shape[1:]) or shape[:1] != op.in_shape()[:1]:
        raise NoRule(mixed(op))
    if isinstance(x, Folded):
        return x.rearrange(lambda a: a.reshape(shape[1:]))
    return replace(x, shape=tuple(shape[1:]))


@lift.rule("Transpose")
def transpose(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """The same order of the feature dims, with space behind them."""
    x, perm = inputs[0], permutation(op)
    if perm[0] != 0:
        raise NoRule("it moves the batch dim")
    inner = [p - 1 for p in perm[1:]]
    if isinstance(x, Folded):
        return x.rearrange(lambda a: np.transpose(a, inner))
    shape = tuple(x.shape[p] for p in inner)
    if (
        tuple(d for d in shape if d != 1) == tuple(d for d in x.shape if d != 1)
        and sum(d != 1 for d in shape) < 2
    ):
        return replace(x, shape=shape)
    rank = len(perm)
    tail = list(range(rank, rank + build.space))
    return Lifted(build.transpose(view(build, x, x.shape), [*perm, *tail]), shape, shape)


@lift.rule("Expand")
def expand(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """The same features repeated along dims of 1."""
    x, shape = inputs[0], op.out_shape()[1:]
    if not isinstance(x, (Folded, Lifted)) or not isinstance(inputs[1], np.ndarray):
        raise NoRule("the size it expands to depends on the image")
    if isinstance(x, Folded):
        return x.rearrange(lambda a: np.broadcast_to(a, shape))
    seen = (1,) * (len(shape) - len(x.shape)) + x.shape
    if seen == shape:
        return replace(x, shape=shape)
    target = build.ints("shape", [1, *shape, *(1,) * build.space])
    return Lifted(build.emit("Expand", [view(build, x, seen), target]), shape, shape)


@lift.rule("Tile")
def tile(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """The same features repeated along any dim."""
    x, repeats = inputs[0], inputs[1]
    if not isinstance(repeats, np.ndarray) or repeats[0] != 1:
        raise NoRule("it repeats the batch, or as often as the image says")
    times = tuple(int(r) for r in repeats[1:])
    if isinstance(x, Folded):
        return x.rearrange(lambda a: np.tile(a, times))
    target = build.ints("repeats", [1, *times, *(1,) * build.space])
    shape = op.out_shape()[1:]
    return Lifted(build.emit("Tile", [view(build, x, x.shape), target]), shape, shape)
