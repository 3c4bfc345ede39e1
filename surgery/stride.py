"""Windows closer than the net's own stride, without dilation: phases in the batch, or shifted passes.

Fragments: where a strided op would skip cells that closer windows need, its input is shifted by every
skipped cell and the shifts are put into the batch (max-pooling fragments; Giusti et al. 2013,
arXiv:1302.1700). At the end the fragments are interleaved. The batch is ordered phase by phase, row
phases before column phases, images last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from surgery.errors import BadInput, Refused
from surgery.geometry import Trunk
from surgery.graph import Builder, Op
from surgery.head import Geometry, Head
from surgery.model import ModelLike, metadata_of, read
from surgery.ops.window import WINDOWED, statement
from surgery.positions import END
from surgery.rules import Map
from surgery.session import Session


@dataclass(frozen=True)
class Phases:
    """How an axis is split into fragments: `before` fragments become `before * len(shifts)`.

    Each fragment is shifted by every number of cells in `shifts`.
    """

    before: int
    shifts: tuple[int, ...]


def phases(stride: int, step: int, wanted: int) -> Phases:
    """The shifts for an op of stride `step` over cells `stride` pixels apart, for windows `wanted` apart.

    >>> phases(stride=2, step=4, wanted=2)
    Phases(before=1, shifts=(0, 1, 2, 3))

    Raises ValueError where the shifts would differ from fragment to fragment.
    """
    after = stride * step
    fine, coarse = gcd(stride, wanted), gcd(after, wanted)
    needed: dict[int, set[int]] = {}
    for offset in range(0, after, coarse):
        needed.setdefault(offset % stride, set()).add(offset // stride)
    shifts = {tuple(sorted(s)) for s in needed.values()}
    if len(shifts) != 1 or len(needed) != stride // fine:
        raise ValueError(f"cells {stride} and {after} pixels apart share no whole phases at {wanted}")
    return Phases(stride // fine, shifts.pop())


def fragment(
    graph: gs.Graph, opset: int, ops: Sequence[Op], trunk: Trunk, head: Head, wanted: Sequence[int]
) -> dict[str, Any]:
    """Put shifts before every op that would skip windows `wanted` pixels apart, in place.

    Returns the tensors that the head is to read in the place of its maps.

    Raises Refused where the stride cannot be split so, or where an output is taken before the head.
    """
    taken = [o.name for o in graph.outputs if o.name in trunk.maps]
    if taken:
        why = "it is a map of the trunk, whose fragments would lie in the batch"
        raise Refused(
            f"--stride-form fragments: the output {taken[0]!r} is taken before the head: {why}. Use "
            "--stride-form dilated.",
            node=taken[0],
            why=why,
        )
    build = Builder(graph, opset, space=len(wanted))
    made: dict[tuple[str, tuple[Phases, ...]], Any] = {}
    behind = {id(op) for op in head.ops}
    for op in ops:
        name = op.inputs[0] if op.inputs else ""
        if id(op) in behind or op.kind not in WINDOWED or op.outputs[0] not in trunk.maps:
            continue
        m = trunk.maps[name]
        slides = statement(op).slides
        steps = [1 if op.out_shape()[d] == 1 else slides[d - 2].stride for d in m.axes]
        build.prefix = op.name
        op.node.inputs[0] = _shifted(build, op.node.inputs[0], m, steps, wanted, made)
    tensors = graph.tensors()
    read = {}
    for name, m in head.sources.items():
        build.prefix = name
        read[name] = _shifted(build, tensors[name], m, head.stride_in_cells(m), wanted, made)
    return read


def _shifted(
    build: Builder, tensor: Any, m: Map, steps: Sequence[int], wanted: Sequence[int], made: Any
) -> Any:
    """The tensor with the shifts that an op of these strides needs, in the batch."""
    try:
        split = tuple(phases(int(j), s, w) for j, s, w in zip(m.stride, steps, wanted, strict=True))
    except ValueError as error:
        raise Refused(
            f"--stride-form fragments: {error}; use --stride-form dilated.", why=str(error)
        ) from error
    if all(p.shifts == (0,) for p in split):
        return tensor
    key = (tensor.name, split)
    if key not in made:
        made[key] = _shift(build, tensor, m, split)
    return made[key]


def _shift(build: Builder, tensor: Any, m: Map, split: tuple[Phases, ...]) -> Any:
    rank = len(m.shape)
    room = [0] * rank
    for axis, p in zip(m.axes, split, strict=True):
        room[axis] = max(p.shifts)
    padded = build.pad_end(tensor, room)  # a shift reads beyond the image only for windows that leave it
    parts = []
    for shift in product(*(p.shifts for p in split)):
        ends = [s - max(p.shifts) or END for s, p in zip(shift, split, strict=True)]
        parts.append(build.slice(padded, shift, ends, m.axes))
    out = build.emit("Concat", parts, {"axis": 0})
    return _in_order(build, out, m, [len(p.shifts) for p in split], [p.before for p in split])


def _in_order(build: Builder, tensor: Any, m: Map, counts: list[int], befores: list[int]) -> Any:
    """Bring the batch from (shifts..., old phases..., images) to (shift, old phase) axis by axis."""
    space = len(counts)
    if all(b == 1 for b in befores[:-1]):
        return tensor
    rest = [
        m.shape[d] if d not in m.axes else build.shape_of(tensor, d, d + 1) for d in range(1, len(m.shape))
    ]
    split = build.reshape(tensor, [*counts, *befores, -1, *rest])
    order = [i for k in range(space) for i in (k, space + k)]
    perm = [*order, *range(2 * space, 2 * space + 1 + len(rest))]
    return build.reshape(build.transpose(split, perm), [-1, *rest])


def interleave(graph: gs.Graph, opset: int, names: Sequence[str], factors: Sequence[int]) -> None:
    """Put the fragments of the named outputs back between each other, in place: `[N, ..., rows, cols]`."""
    space = len(factors)
    build = Builder(graph, opset, space)
    for k, old in enumerate(list(graph.outputs)):
        if old.name not in names:
            continue
        name, features = old.name, [int(d) for d in old.shape[1:-space]]
        build.prefix = f"interleave/{name}"
        sides = build.shape_of(old, -space, END)
        split = build.reshape(old, [*factors, -1, *features, sides])
        first = space + 1 + len(features)
        ends = [i for axis in range(space) for i in (first + axis, axis)]
        mixed = build.transpose(split, [space, *range(space + 1, first), *ends])
        grown = build.emit("Mul", [sides, build.ints("factors", factors)])
        out = build.reshape(mixed, [0, *features, grown])
        old.name, out.name = build.fresh(f"{name}/fragments"), name
        out.shape, out.dtype, old.shape = old.shape, old.dtype, None
        graph.outputs[k] = out


def interleaved(value: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    """The same on an array: fragments `[phases * N, ..., rows, cols]` as one map of each image."""
    space = len(factors)
    count = value.shape[0] // prod(factors)
    x = value.reshape(*factors, count, *value.shape[1:])
    first = x.ndim - space
    ends = [i for axis in range(space) for i in (first + axis, axis)]
    x = x.transpose([space, *range(space + 1, first), *ends])
    sides = [n * f for n, f in zip(value.shape[-space:], factors, strict=True)]
    mixed: NDArray[Any] = x.reshape(count, *value.shape[1:-space], *sides)
    return mixed


def shift_and_stitch(
    model: ModelLike | os.PathLike[str], image: NDArray[Any], factor: int
) -> dict[str, NDArray[Any]]:
    """The score maps of a converted model on a grid `factor` times finer, from shifted passes.

    `image` is one batch as the model takes it, `[N, C, height, width]`. Pass (a, b) of
    factor * factor sees it from pixel `(a, b) * stride / factor` on and gives every factor-th row and
    column of the finer map (Long et al. 2015, arXiv:1411.4038, section 3.2). A course note combines two passes, shifted along the diagonal:
    they give half the positions of the finer grid. Only windows that lie in the image are returned.

    Raises BadInput where the model has no `surgery.geometry`, or the factor does not divide its stride.
    """
    source = read(model)
    entry = metadata_of(source.proto).get("surgery.geometry")
    if entry is None:
        raise BadInput("shift_and_stitch needs a converted model; make one with `surgery convert`.")
    geometry = Geometry.from_json(json.loads(entry))
    space = len(geometry.window)
    if factor < 1 or any(s % factor for s in geometry.stride):
        raise BadInput(f"the factor {factor} does not divide the model's stride {list(geometry.stride)}.")
    session = Session(source.proto)
    axes = range(image.ndim - space, image.ndim)
    fine = geometry.refined(tuple(s // factor for s in geometry.stride))
    grid = fine.grid([image.shape[a] for a in axes])
    maps: dict[str, NDArray[Any]] = {}
    for shift in product(range(factor), repeat=space):
        starts = [a * s for a, s in zip(shift, fine.stride, strict=True)]
        part = image[_last(slice(a, None) for a in starts)]
        if any(n == 0 for n in geometry.grid([part.shape[a] for a in axes])):
            continue
        for name, value in session.run({session.inputs[0]: part}).items():
            whole = maps.setdefault(name, np.zeros((*value.shape[:-space], *grid), value.dtype))
            places = _last(slice(a, None, factor) for a in shift)
            room = whole[places].shape[-space:]
            whole[places] = value[_last(slice(n) for n in room)]
    return maps


def _last(slices: Iterable[slice]) -> Any:
    """An index of the last axes."""
    return (Ellipsis, *slices)
