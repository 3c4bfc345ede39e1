"""Windows closer than the net's own stride: branches that still meet, phases in the batch, shifted passes.

Fragments: where a strided op would skip cells that closer windows need, its input is shifted by every
skipped cell and the shifts are put into the batch (max-pooling fragments; Giusti et al. 2013,
arXiv:1302.1700). At the end the fragments are interleaved. The batch is ordered phase by phase, row
phases before column phases, images last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from surgery.dynamic import GRID_NAMES
from surgery.errors import BadInput, Refused
from surgery.geometry import Trunk
from surgery.graph import Builder, Op
from surgery.head import Geometry, Head, check_refinable
from surgery.model import Model, ModelLike, dims_of, metadata_of, read
from surgery.ops.pointwise import BINARY
from surgery.ops.window import SLIDING, statement
from surgery.positions import END
from surgery.rules import Map
from surgery.session import Session


@dataclass(frozen=True)
class Phases:
    """How an axis is split into fragments: each of `before` fragments is shifted by `shifts` cells.

    `kept` are the fragments that come of it, in the order of their offsets: (place in shifts, old fragment).
    """

    before: int
    shifts: tuple[int, ...]
    kept: tuple[tuple[int, int], ...]


def phases(stride: int, step: int, wanted: int) -> Phases:
    """The shifts for an op of stride `step` over cells `stride` pixels apart, for windows `wanted` apart.

    >>> phases(stride=2, step=2, wanted=1)
    Phases(before=2, shifts=(0, 1), kept=((0, 0), (0, 1), (1, 0), (1, 1)))
    >>> phases(stride=2, step=3, wanted=3)
    Phases(before=2, shifts=(0, 1), kept=((0, 0), (1, 1)))
    """
    fine, coarse = gcd(stride, wanted), gcd(stride * step, wanted)
    offsets = [divmod(offset, stride) for offset in range(0, stride * step, coarse)]
    shifts = sorted({shift for shift, _ in offsets})
    kept = tuple((shifts.index(shift), rest // fine) for shift, rest in offsets)
    return Phases(stride // fine, tuple(shifts), kept)


def align(graph: gs.Graph, opset: int, ops: Sequence[Op], trunk: Trunk, head: Head) -> dict[str, Any]:
    """Cut, in place, what a branch of small kernel has more at its end than the branch it meets.

    At the net's own stride branches of unequal kernels can have equally many cells; dilated they have not.
    Returns the tensors that the head is to read in the place of its maps.
    """
    build = Builder(graph, opset, space=len(head.geometry.window))
    for op in ops:
        m = trunk.maps.get(op.outputs[0])
        joins = op.kind in (*BINARY, "Concat") and op.outputs[0] not in op.facts.wraps
        if m is None or not joins:
            continue
        build.prefix = op.name
        for i, name in enumerate(op.inputs):
            if name in trunk.maps:
                op.node.inputs[i] = _cut(build, op.node.inputs[i], trunk.maps[name], m)
    tensors, read = graph.tensors(), {}
    for name, m in head.sources.items():
        build.prefix = name
        read[name] = _cut(build, tensors[name], trunk.maps[name], m)
    return read


def _cut(build: Builder, tensor: Any, m: Map, wanted: Map) -> Any:
    """The tensor with the lengths of another map over the same windows."""
    ends = {}
    for dim, has, wants in zip(m.axes, m.geometry, wanted.geometry, strict=True):
        more = (has.lengths - wants.lengths)[wants.lengths >= 0]
        if more.any():
            ends[dim] = -int(more[0])
    if not ends:
        return tensor
    return build.slice(tensor, [0] * len(ends), list(ends.values()), list(ends))


def fragment(
    graph: gs.Graph,
    opset: int,
    ops: Sequence[Op],
    trunk: Trunk,
    head: Head,
    wanted: Sequence[int],
    tensors: Mapping[str, Any],
) -> dict[str, Any]:
    """Put shifts before every op that would skip windows `wanted` pixels apart, in place.

    Returns the tensors that the head is to read in the place of `tensors`.

    Raises Refused where an output is taken before the head, or an op of the trunk allows no other stride.
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
    check_refinable(trunk)
    refuse_skips(ops, trunk)
    build = Builder(graph, opset, space=len(wanted))
    made: dict[tuple[str, tuple[Phases, ...]], Any] = {}
    behind = {id(op) for op in head.ops}
    for op in ops:
        name = op.inputs[0] if op.inputs else ""
        if id(op) in behind or op.kind not in SLIDING or op.outputs[0] not in trunk.maps:
            continue
        m = trunk.maps[name]
        slides = statement(op).slides
        steps = [1 if op.out_shape()[d] == 1 else slides[d - 2].stride for d in m.axes]
        build.prefix = op.name
        op.node.inputs[0] = _shifted(build, op.node.inputs[0], m, steps, wanted, made)
    read = {}
    for name, m in head.sources.items():
        build.prefix = name
        read[name] = _shifted(build, tensors[name], m, head.stride_in_cells(m), wanted, made)
    return read


def refuse_skips(ops: Sequence[Op], trunk: Trunk) -> None:
    """Raise Refused where a Slice skips cells, which a fragment's shift would bring back."""
    for op in ops:
        if op.kind != "Slice" or op.outputs[0] not in trunk.maps:
            continue
        if trunk.maps[op.outputs[0]].stride != trunk.maps[op.inputs[0]].stride:
            why = "it skips cells by its steps"
            raise Refused(
                f"--stride-form fragments: Slice {op.name!r}: {why}. Use --stride-form dilated.",
                node=op.name,
                op=op.kind,
                why=why,
            )


def _shifted(
    build: Builder, tensor: Any, m: Map, steps: Sequence[int], wanted: Sequence[int], made: Any
) -> Any:
    """The tensor with the shifts that an op of these strides needs, in the batch."""
    split = tuple(phases(int(j), s, w) for j, s, w in zip(m.stride, steps, wanted, strict=True))
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
    return _in_order(build, build.emit("Concat", parts, {"axis": 0}), m, split)


def _in_order(build: Builder, tensor: Any, m: Map, split: Sequence[Phases]) -> Any:
    """Bring the batch from (shifts..., old phases..., images) to the phases kept, axis by axis."""
    sides = [len(p.shifts) for p in split] + [p.before for p in split]
    places = np.arange(prod(sides)).reshape(sides)
    chosen = product(*(p.kept for p in split))
    order = [places[tuple(s for s, _ in k) + tuple(f for _, f in k)] for k in chosen]
    if order == list(range(places.size)):
        return tensor
    rest = [
        m.shape[d] if d not in m.axes else build.shape_of(tensor, d, d + 1) for d in range(1, len(m.shape))
    ]
    fragments = build.reshape(tensor, [places.size, -1, *rest])
    kept = build.emit("Gather", [fragments, build.ints("phases", order)], {"axis": 0})
    return build.reshape(kept, [-1, *rest])


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

    `image` is a batch as the model takes it, `[N, C, height, width]`. Pass (a, b) of factor * factor sees it
    from pixel `(a, b) * stride / factor` on and gives every factor-th row and column of the finer map (Long
    et al. 2015, arXiv:1411.4038, section 3.2). Only windows that lie in the image are returned, and only
    outputs that are score maps.

    Raises BadInput where the model has no score maps to stitch, the factor does not divide its stride, or
    the image is smaller than its window.
    """
    source = read(model)
    geometry = geometry_of(source)
    if factor < 1 or any(s % factor for s in geometry.stride):
        raise BadInput(f"the factor {factor} does not divide the model's stride {list(geometry.stride)}.")
    fine = geometry.refined(tuple(s // factor for s in geometry.stride))
    sides = dims_of(source.image)
    axes = [d for d in range(1, len(sides)) if isinstance(sides[d], str)]
    if image.ndim != len(sides) or not all(fine.grid([image.shape[a] for a in axes])):
        raise BadInput(
            f"the image {list(image.shape)} is none of {list(sides)} that holds a window of "
            f"{list(geometry.window)} pixels."
        )
    session, space = Session(source.proto), len(axes)
    names = [o.name for o in source.proto.graph.output if dims_of(o)[-space:] == GRID_NAMES[space]]
    grid = fine.grid([image.shape[a] for a in axes])
    maps: dict[str, NDArray[Any]] = {}
    for shift in product(*(range(min(factor, n)) for n in grid)):
        part = shifted(image, axes, geometry, [a * s for a, s in zip(shift, fine.stride, strict=True)])
        for name, value in session.run({source.image.name: part}, names).items():
            whole = maps.setdefault(name, np.zeros((*value.shape[:-space], *grid), value.dtype))
            places = _last(slice(a, None, factor) for a in shift)
            room = whole[places].shape[-space:]
            whole[places] = value[_last(slice(n) for n in room)]
    return maps


def _last(slices: Iterable[slice]) -> Any:
    """An index of the last axes."""
    return (Ellipsis, *slices)


def geometry_of(model: Model) -> Geometry:
    """The geometry a converted model carries. Raises BadInput where it has none, or no score maps."""
    facts = metadata_of(model.proto)
    if "surgery.geometry" not in facts:
        raise BadInput(
            f"{model.name} carries no surgery.geometry: shift_and_stitch takes a converted model. Make one "
            "with `surgery convert`."
        )
    if "surgery.reduce" in facts:
        raise BadInput(
            f"{model.name} has no map to stitch: it was converted with --reduce {facts['surgery.reduce']}. "
            "Convert it without."
        )
    return Geometry.from_json(json.loads(facts["surgery.geometry"]))


def shifted(
    image: NDArray[Any], axes: Sequence[int], geometry: Geometry, start: Sequence[int]
) -> NDArray[Any]:
    """The image from these pixels on, as large as the model takes it."""
    index = [slice(None)] * image.ndim
    for axis, a, window, step in zip(axes, start, geometry.window, geometry.step, strict=True):
        index[axis] = slice(a, a + window + (image.shape[axis] - a - window) // step * step)
    return np.ascontiguousarray(image[tuple(index)])
