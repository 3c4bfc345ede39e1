"""Writes into a part of a tensor, as exporters write `x[:, 0] = y`: the parts one behind the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Ints = NDArray[np.int64]
SCATTERS = ("ScatterND", "ScatterElements")


@dataclass(frozen=True)
class Piece:
    """Neighbouring slabs of one of a node's inputs, the data (0) or what is written (2)."""

    source: int
    start: int
    end: int


def join_written(
    graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Any]
) -> bool:
    """Put a Concat in the place of every scatter that writes whole slabs along one dim, in place.

    Which images of a batch it writes, and which positions of the window, is then no number any more.
    Returns whether there was one.
    """
    taken = {}
    for node in graph.node:
        found = _slabs_of(node, shapes, values) if node.op_type in SCATTERS and not node.domain else None
        if found is not None:
            taken[node.output[0]] = _joined(node, *found, shapes, graph)
    if taken:
        nodes = [n for node in graph.node for n in taken.get(node.output[0], [node])]
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    return bool(taken)


def _slabs_of(
    node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Any]
) -> tuple[int, list[Piece]] | None:
    """The dim along which a scatter writes slabs, and where each slab of its output comes from."""
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    places = values.get(node.input[1])
    data, written = (tuple(shapes[node.input[i]]) for i in (0, 2))
    if places is None or attrs.get("reduction", b"none") != b"none" or len(data) != len(written):
        return None
    own = np.arange(np.prod(data, dtype=int)).reshape(data)
    new = -1 - np.arange(np.prod(written, dtype=int)).reshape(written)
    made = own.copy()
    if node.op_type == "ScatterND":
        made[tuple(np.moveaxis(places, -1, 0))] = new
    else:
        axis = attrs.get("axis", 0) % len(data)
        grid = list(np.indices(places.shape))
        grid[axis] = places
        made[tuple(grid)] = new
    for axis in range(len(data) - 1, -1, -1):
        if data[:axis] + data[axis + 1 :] == written[:axis] + written[axis + 1 :]:
            pieces = _pieces(*(np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (made, own, new)))
            if pieces is not None:
                return axis, pieces
    return None


def _pieces(made: Ints, own: Ints, new: Ints) -> list[Piece] | None:
    """The runs of rows of `made` that are rows of `own` or `new`; None where one is a mixture."""
    row_of = {int(row[0]): (source, i) for source, rows in ((0, own), (2, new)) for i, row in enumerate(rows)}
    pieces: list[Piece] = []
    for row in made:
        source, i = row_of.get(int(row[0]), (0, 0))
        if (row != (new if source else own)[i]).any():
            return None
        last = pieces[-1] if pieces else None
        if last is not None and (last.source, last.end) == (source, i):
            pieces[-1] = Piece(source, last.start, i + 1)
        else:
            pieces.append(Piece(source, i, i + 1))
    return pieces


def _joined(
    node: onnx.NodeProto,
    axis: int,
    pieces: Sequence[Piece],
    shapes: Mapping[str, Sequence[int]],
    graph: onnx.GraphProto,
) -> list[onnx.NodeProto]:
    """A Slice for each piece that is not all of its input, and the Concat of all."""
    out, nodes, names = node.output[0], [], []
    for n, piece in enumerate(pieces):
        name = node.input[piece.source]
        if (piece.start, piece.end) != (0, shapes[name][axis]):
            bounds = {"start": piece.start, "end": piece.end, "axis": axis}
            settings = [f"{out}/{n}/{word}" for word in bounds]
            graph.initializer.extend(
                numpy_helper.from_array(np.array([value], np.int64), setting)
                for setting, value in zip(settings, bounds.values(), strict=True)
            )
            cut = f"{out}/{n}"
            nodes.append(helper.make_node("Slice", [name, *settings], [cut], f"{node.name or out}/{n}"))
            name = cut
        names.append(name)
    if len(names) == 1:
        return [*nodes, helper.make_node("Identity", names, [out], node.name)]
    return [*nodes, helper.make_node("Concat", names, [out], node.name, axis=axis)]
