"""Circular padding spelled out, as exporters write it: the last cells of a dim, all of it, the first ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper


@dataclass(frozen=True)
class Wrap:
    """Cells of `data` once more along `dim`: `before` of its last in front, `after` of its first behind.

    A Slice that only serves such a Concat is known by the cells it takes.
    """

    data: str
    dim: int
    before: int = 0
    after: int = 0


def wraps_of(
    graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Any]
) -> dict[str, Wrap]:
    """The Concats that pad circularly, and the Slices they read, by the names of their outputs."""
    users: dict[str, set[str]] = {o.name: {""} for o in graph.output}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, set()).add(node.output[0])
    concats = [node for node in graph.node if node.op_type == "Concat"]
    slices = (node for node in graph.node if node.op_type == "Slice")
    parts = {n.output[0]: w for n in slices if (w := _end(n, shapes, values))}
    while True:  # a part that serves something else too takes its Concats, and their parts, along
        found = {n.output[0]: w for n in concats if (w := _whole(n, parts, shapes))}
        kept = {name: w for name, w in parts.items() if users.get(name, set()) <= found.keys()}
        if len(kept) == len(parts):
            return found | parts
        parts = kept


def _end(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Any]) -> Wrap | None:
    """What a Slice takes, where that is the end, or the start, of a single dim."""
    attributes = {a.name: list(a.ints) for a in node.attribute}
    names = dict(zip(("data", "starts", "ends", "axes", "steps"), node.input, strict=False))
    bounds = [attributes.get(k, values.get(names.get(k, ""))) for k in ("starts", "ends", "axes", "steps")]
    starts, ends, axes, steps = bounds
    shape = shapes.get(node.input[0], ())
    if starts is None or ends is None or len(starts) != 1 or (steps is not None and steps[0] != 1):
        return None
    dim = 0 if axes is None else int(axes[0]) % len(shape)
    first, stop, _ = slice(int(starts[0]), int(ends[0])).indices(shape[dim])
    if first == 0 < stop < shape[dim]:
        return Wrap(node.input[0], dim, after=stop)
    return Wrap(node.input[0], dim, before=stop - first) if 0 < first < stop == shape[dim] else None


def _whole(
    node: onnx.NodeProto, parts: Mapping[str, Wrap], shapes: Mapping[str, Sequence[int]]
) -> Wrap | None:
    """The padding that a Concat of such parts around their data is."""
    ends = [parts[name] for name in node.input if name in parts]
    data = [name for name in node.input if name not in parts]
    if not ends or len(data) != 1 or len(ends) > 2 or any(w.data != data[0] for w in ends):
        return None
    axis = helper.get_attribute_value(node.attribute[0]) % len(shapes[node.output[0]])
    at = list(node.input).index(data[0])
    front, behind = ends[:at], ends[at:]
    placed = all(w.before for w in front) and all(w.after for w in behind)
    if not placed or max(len(front), len(behind)) > 1 or any(w.dim != axis for w in ends):
        return None
    return Wrap(data[0], axis, sum(w.before for w in front), sum(w.after for w in behind))
