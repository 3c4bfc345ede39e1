"""The walk over the head: every op is given its meaning at every position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.errors import Refused
from surgery.geometry import Trunk
from surgery.graph import Builder, Op
from surgery.head import Head
from surgery.positions import END, materialize, view, without_units
from surgery.rules import Folded, Lifted, Map, NoRule, Source, lift


@dataclass(frozen=True)
class Row:
    """What became of one op of the head."""

    node: str
    op: str
    becomes: str


def lift_head(
    graph: gs.Graph, opset: int, trunk: Trunk, head: Head, tensors: Mapping[str, Any] = MappingProxyType({})
) -> tuple[list[Row], dict[str, tuple[int, ...]]]:
    """Rewrite the head in place; returns a row for each of its ops, and the feature dims of each output.

    `tensors` may name others to read in the place of maps.

    Raises Refused at the first op that has no meaning at every position.
    """
    build = Builder(graph, opset, space=len(head.geometry.window))
    values: dict[str, Any] = {}
    rows = []
    for op in head.ops:
        build.prefix = op.name
        count = len(graph.nodes)
        _lift_op(build, op, values, trunk, head, tensors)
        emitted = [node.op for node in graph.nodes[count:]]
        rows.append(Row(op.name, op.kind, _became(op, emitted)))
    old = {id(op.node) for op in head.ops}
    lifted = [o.name for o in graph.outputs if o.name in values and o.name not in trunk.maps]
    finals = {name: _final(build, name, values) for name in lifted}
    dims = {name: final.dims for name, final in finals.items()}
    graph.nodes[:] = [n for n in graph.nodes if id(n) not in old]
    _rename(graph, build, values, finals, head)
    if all(row.becomes == "unchanged" for row in rows):
        raise Refused(
            f"nothing to convert: the {len(rows)} ops behind the last map work at every position as they "
            "are, so the model is already fully convolutional. Only its input dims may need to be made "
            "symbolic (onnx.tools.update_model_dims).",
            why="it is already fully convolutional",
        )
    return rows, dims


def _became(op: Op, emitted: list[str]) -> str:
    if not emitted:
        return "taken into its neighbours"
    if emitted == [op.kind]:
        return "unchanged"
    return " + ".join(emitted)


def _lift_op(
    build: Builder, op: Op, values: dict[str, Any], trunk: Trunk, head: Head, tensors: Mapping[str, Any]
) -> None:
    def value(name: str) -> Any:
        if name in values:
            return values[name]
        if name in trunk.maps:
            tensor = tensors.get(name) or build.graph.tensors()[name]
            values[name] = fold(build, tensor, trunk.maps[name], op.facts.dtypes[name], head)
            return values[name]
        return op.facts.values.get(name)

    try:
        rule = lift.look_up(op.domain, op.kind)
        result = rule(build, op, [value(n) for n in op.inputs])
    except NoRule as missing:
        raise Refused(
            refusal(op, str(missing), trunk), node=op.name, op=op.kind, why=str(missing)
        ) from missing
    outs = result if isinstance(result, list) else [result]
    values.update({n: v for n, v in zip(op.outputs, outs, strict=False) if n and v is not None})


def refusal(op: Op, why: str, trunk: Trunk) -> str:
    """What, where, what was seen, what to do."""
    seen = ", ".join(f"{n!r} {list(op.facts.shapes[n])}" for n in op.inputs if n in op.facts.shapes)
    earlier = next((r for r in trunk.unknown.values() if r.node != op.name), None)
    before = f" Before it the trunk had already ended at {earlier}." if earlier else ""
    return (
        f"cannot lift {op.kind} {op.name!r} -> {op.outputs[0]!r}: {why}. Its inputs at the window: {seen}."
        f"{before} `surgery ops` lists what can be lifted; a rule of your own can be entered with "
        "surgery.rules.lift."
    )


def fold(build: Builder, tensor: Any, m: Map, dtype: Any, head: Head) -> Folded:
    """A trunk map as the window a head op folds, whatever order its dims have."""
    tensor.dtype = dtype
    order = [*m.channel_dims, *m.axes]
    canonical = build.transpose(tensor, [0, *order])
    if len(m.channel_dims) != 1:
        channels = prod(m.shape[d] for d in m.channel_dims)
        canonical = build.reshape(canonical, [0, channels, build.shape_of(canonical, -build.space, END)])
    canonical.dtype = dtype
    source = Source(
        canonical, prod(m.shape[d] for d in m.channel_dims), m.cells, head.stride_in_cells(m), m.spacing
    )
    index = np.arange(source.size).reshape([m.shape[d] for d in order])
    return Folded((source,), np.transpose(index, [order.index(d) for d in range(1, len(m.shape))]))


def _final(build: Builder, name: str, values: dict[str, Any]) -> Lifted:
    """The value of a graph output: logical dims first, units of a one-cell map left out, positions last."""
    build.prefix = name
    value = values[name]
    x: Lifted = materialize(build, value) if isinstance(value, Folded) else value
    units = sum(1 for d in x.shape if d == 1)
    dims = without_units(x.shape) if units >= build.space and len(x.shape) > 1 else x.shape
    return Lifted(view(build, x, dims), x.shape, dims)


def _rename(
    graph: gs.Graph, build: Builder, values: dict[str, Any], finals: dict[str, Lifted], head: Head
) -> None:
    """Give lifted tensors the names of what they were, outputs first."""
    gone = {name for op in head.ops for name in op.outputs}
    outputs = list(graph.outputs)
    for i, old in enumerate(outputs):
        if old.name not in finals:
            continue
        name, tensor = old.name, finals[old.name].tensor
        old.name = build.fresh(f"{name}/before")
        made = bool(tensor.inputs) and id(tensor.inputs[0]) in build.made
        if not made or any(tensor is o for o in graph.outputs):
            build.prefix = name
            tensor = build.emit("Identity", [tensor])
        tensor.name, tensor.dtype = name, old.dtype
        graph.outputs[i] = tensor
    taken = {o.name for o in graph.outputs}
    renamed: set[int] = {id(o) for o in graph.outputs}
    for name, value in values.items():
        if not isinstance(value, Lifted) or name not in gone or name in taken or id(value.tensor) in renamed:
            continue
        if value.tensor.inputs and id(value.tensor.inputs[0]) in build.made:
            value.tensor.name = name
            renamed.add(id(value.tensor))
