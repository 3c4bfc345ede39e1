"""What exporters write where something simpler was meant: views, slices of everything, selections, casts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from surgery.channels_last import channels_first
from surgery.writes import join_written

FAR = 10**9  # from this end on a Slice means "to the end", as exporters write it


def simplify(
    graph: onnx.GraphProto,
    shapes: Mapping[str, Sequence[int]],
    dtypes: Mapping[str, Any],
    values: Mapping[str, Any],
) -> bool:
    """Write the simpler op for all of these, in place; returns whether there was one.

    `shapes` and `dtypes` are those of every tensor, `values` those of the tensors that no pixel reaches.
    """
    found = [_views(graph, shapes, values), _whole_slices(graph, values), _selections(graph, shapes, values)]
    found += [join_written(graph, shapes, values), channels_first(graph, shapes), _casts(graph, dtypes)]
    return any(found)


def _views(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Any]) -> bool:
    """Put an Identity in the place of every Gather that lays a row of all values out as they were, in place.

    torch's exporter writes `as_strided` so, which its global pool of a channels-last map ends in: a Reshape
    to [-1], and a Gather of every value at its own place. Returns whether there was one.
    """
    makers = {o: node for node in graph.node for o in node.output}
    rows: list[onnx.NodeProto] = []
    for node in graph.node:
        row = makers.get(node.input[0]) if node.op_type == "Gather" else None
        if row is None or row.op_type != "Reshape" or len(shapes[row.output[0]]) != 1:
            continue
        places, shape = values.get(node.input[1]), tuple(shapes[row.input[0]])
        if places is None or places.shape != shape or (places.ravel() != np.arange(places.size)).any():
            continue
        view = helper.make_node("Identity", row.input[:1], node.output, node.name)
        node.CopyFrom(view)
        rows.append(row)
    read = {i for node in graph.node for i in node.input} | {o.name for o in graph.output}
    for row in rows:
        if row.output[0] not in read and row in graph.node:
            graph.node.remove(row)
    return bool(rows)


def _whole_slices(graph: onnx.GraphProto, values: Mapping[str, Any]) -> bool:
    """Leave out of every Slice, in place, the dims it takes all there is of, at any size.

    torch's newer exporter writes `x[:, :4]` with a Slice of the batch before that of the channels; tf2onnx
    names every dim of `x[:, 1:-1, 1:-1, :]`. Returns whether there was one.
    """
    taken = False
    for node in graph.node:
        cuts = _cuts(node, values) if node.op_type == "Slice" and not node.domain else []
        kept = [(d, *cut) for d, *cut in cuts if cut[0] != 0 or cut[1] < FAR or cut[2] != 1]
        if len(kept) == len(cuts):
            continue
        taken = True
        if not kept:
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output, node.name))
            continue
        settings: dict[str, Any] = dict(
            zip(("axes", "starts", "ends", "steps"), zip(*kept, strict=True), strict=True)
        )
        if len(node.input) == 1:
            del settings["steps"]
            node.CopyFrom(helper.make_node("Slice", node.input, node.output, node.name, **settings))
            continue
        names = [f"{node.output[0]}/{setting}" for setting in ("starts", "ends", "axes", "steps")]
        del node.input[1:]
        node.input.extend(names)
        for name in names:
            value = np.array(settings[name.rpartition("/")[2]], np.int64)
            graph.initializer.append(numpy_helper.from_array(value, name))
    return taken


def _cuts(node: onnx.NodeProto, values: Mapping[str, Any]) -> list[tuple[int, int, int, int]]:
    """The dims that a Slice names, each with its start, end and step; none where these are not constant."""
    settings: dict[str, Any] = {"axes": None, "steps": None}
    if len(node.input) == 1:  # before opset 10
        settings |= {a.name: helper.get_attribute_value(a) for a in node.attribute}
    else:
        named = zip(("starts", "ends", "axes", "steps"), node.input[1:], strict=False)
        settings |= {setting: values.get(name, ()) for setting, name in named if name}
    starts = settings["starts"]
    axes = range(len(starts)) if settings["axes"] is None else settings["axes"]
    steps = [1] * len(starts) if settings["steps"] is None else settings["steps"]
    columns = (axes, starts, settings["ends"], steps)
    if len({len(column) for column in columns}) > 1:
        return []
    return [(int(d), int(a), int(b), int(s)) for d, a, b, s in zip(*columns, strict=True)]


def _selections(
    graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Any]
) -> bool:
    """Put a Gather along its own dim in the place of a GatherND between two Transposes, in place.

    torch's newer exporter writes `x[:, [2, 1, 0]]` so, and an adaptive pool whose parts overlap: dims moved
    to the front, selected from, moved back. Several dims become one before. Returns whether there was one.
    """
    _part_fronts(graph, values)
    makers = {o: node for node in graph.node for o in node.output}
    read = Counter(i for node in graph.node for i in node.input)
    read.update(o.name for o in graph.output)
    dead: list[onnx.NodeProto] = []
    taken = False
    for back in graph.node:
        pick = makers.get(back.input[0]) if back.op_type == "Transpose" else None
        front = makers.get(pick.input[0]) if pick is not None and pick.op_type == "GatherND" else None
        if pick is None or front is None or front.op_type != "Transpose" or read[pick.output[0]] > 1:
            continue
        there, again = (_attribute(node, "perm", []) for node in (front, back))
        places, whole = values.get(pick.input[1]), shapes[front.input[0]]
        if places is None or _attribute(pick, "batch_dims", 0) or not there or not again:
            continue
        count, axis, alone = places.shape[-1], there[0], read[front.output[0]] == 1
        last = alone and axis + count == len(whole)
        if count > 1 and not (last and there[:count] == list(range(axis, axis + count))):
            continue
        _select(graph, (front, pick, back), places, whole)
        if count == 1 and alone:
            dead.append(front)
        taken = True
    for front in dead:
        graph.node.remove(front)
    return taken


def _part_fronts(graph: onnx.GraphProto, values: Mapping[str, Any]) -> None:
    """Give every GatherND of several dims a Transpose of its own, in place: pools of a pyramid share one."""
    makers = {o: (i, node) for i, node in enumerate(graph.node) for o in node.output}
    read = Counter(i for node in graph.node for i in node.input)
    shared = [n for n in graph.node if n.op_type == "GatherND" and read[n.input[0]] > 1]
    for pick in shared:
        at, front = makers.get(pick.input[0], (0, None))
        places = values.get(pick.input[1])
        if front is None or front.op_type != "Transpose" or places is None or places.shape[-1] < 2:
            continue
        own = f"{pick.output[0]}/front"
        copy = helper.make_node("Transpose", front.input, [own], own)
        copy.attribute.extend(front.attribute)
        read[pick.input[0]] -= 1
        pick.input[0] = own
        graph.node.insert(at, copy)
        makers = {o: (i, node) for i, node in enumerate(graph.node) for o in node.output}


def _select(
    graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], places: Any, whole: Sequence[int]
) -> None:
    """Make a Gather and a Transpose of a Transpose, a GatherND and a Transpose."""
    front, pick, back = nodes
    there, again = (_attribute(node, "perm", []) for node in (front, back))
    count, axis = places.shape[-1], there[0]
    name, order = f"{pick.output[0]}/selected", f"{pick.output[0]}/places"  # its dims are in another order
    flat = np.ravel_multi_index(np.moveaxis(places, -1, 0), [whole[d] for d in there[:count]], mode="wrap")
    graph.initializer.append(numpy_helper.from_array(flat, order))
    source = front.input[0]
    if count > 1:  # the dims to select from, the last ones, as one
        one, shape = f"{pick.output[0]}/one", f"{pick.output[0]}/shape"
        graph.initializer.append(numpy_helper.from_array(np.array([0] * axis + [-1], np.int64), shape))
        front.CopyFrom(helper.make_node("Reshape", [source, shape], [one], front.name))
        source = one
    selected = [-1 - k for k in range(flat.ndim)]
    made = [*range(axis), *selected, *range(axis + count, len(whole))]
    given = [*selected, *there[count:]]
    pick.CopyFrom(helper.make_node("Gather", [source, order], [name], pick.name, axis=axis))
    perm = [made.index(given[d]) for d in again]
    back.CopyFrom(helper.make_node("Transpose", [name], back.output, back.name, perm=perm))


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute's value, or the default where the node has none."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _casts(graph: onnx.GraphProto, dtypes: Mapping[str, Any]) -> bool:
    """Put a Cast, which names its type, in the place of every CastLike, in place.

    A constant cast to the type of the image depends on no pixel. Returns whether there was one.
    """
    found = [node for node in graph.node if node.op_type == "CastLike" and not node.domain]
    for node in found:
        kind = helper.np_dtype_to_tensor_dtype(dtypes[node.input[1]])
        cast = helper.make_node("Cast", node.input[:1], node.output, node.name, to=kind)
        cast.attribute.extend(node.attribute)
        node.CopyFrom(cast)
    return bool(found)
