"""Verbs on the graph: read an attribute with its default, make a constant, emit a node, find a fresh name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from surgery.rules import Array, key_of
from surgery.shapes import Facts


def _schema(kind: str, opset: int, domain: str) -> Any:
    for version in range(opset, onnx.defs.onnx_opset_version() + 1):
        try:
            return onnx.defs.get_schema(kind, version, domain)
        except onnx.defs.SchemaError:
            continue
    return None


@dataclass(frozen=True, eq=False)
class Op:
    """A node as the rules see it: attributes with their defaults, shapes and constants at the window.

    `inputs` and `outputs` are the names that the original has there; an input left out is an empty string.
    What a body or a branch reads from outside stands behind the inputs.
    """

    node: gs.Node
    opset: int
    facts: Facts
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, node: gs.Node, opset: int, facts: Facts) -> Op:
        """The op of a node."""
        inputs, outputs = (tuple(str(t.name) for t in side) for side in (node.inputs, node.outputs))
        inner = (
            name for graph in node.attrs.values() if isinstance(graph, gs.Graph) for name in _read(graph)
        )
        outer = (name for name in inner if name in facts.shapes and name not in inputs)
        return cls(node, opset, facts, (*inputs, *dict.fromkeys(outer)), outputs)

    @property
    def kind(self) -> str:
        """The op type."""
        return str(self.node.op)

    @property
    def domain(self) -> str:
        """The op's domain, empty for the standard one."""
        return key_of(self.node.domain or "", "")[0]

    @property
    def name(self) -> str:
        """The node's name, or its first output's where it has none."""
        return str(self.node.name or self.outputs[0])

    def attr(self, name: str) -> Any:
        """An attribute, or the default of the op's schema at the model's opset (None without one).

        An op newer than the opset, which onnxruntime writes, has that of its first schema.
        """
        if name in self.node.attrs:
            return self.node.attrs[name]
        schema = _schema(self.kind, self.opset, self.domain)
        if schema is None:
            return None
        attribute = schema.attributes.get(name)
        if attribute is None or not attribute.default_value.name:
            return None
        value = onnx.helper.get_attribute_value(attribute.default_value)
        return value.decode() if isinstance(value, bytes) else value

    def value(self, index: int) -> Array | None:
        """The constant at an input, or None where it is left out or depends on the image."""
        names = self.inputs
        if index >= len(names) or not names[index]:
            return None
        return self.facts.values.get(names[index])

    def setting(self, name: str, index: int, since: int) -> Any:
        """What was an attribute and became an input at opset `since`: its value, or None."""
        if self.opset < since:
            return self.attr(name)
        value = self.value(index)
        return None if value is None else value.tolist()

    def in_shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an input at the window, batch included."""
        return self.facts.shapes[self.inputs[index]]

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an output at the window, batch included."""
        return self.facts.shapes[self.outputs[index]]


def _read(graph: gs.Graph) -> Iterator[str]:
    """The names that the nodes of a body or a branch read, those of graphs inside it included."""
    for node in graph.nodes:
        yield from (tensor.name for tensor in node.inputs)
        for inner in node.attrs.values():
            if isinstance(inner, gs.Graph):
                yield from _read(inner)


class Builder:
    """Adds nodes to a graph on behalf of a node that is being rewritten."""

    def __init__(self, graph: gs.Graph, opset: int, space: int) -> None:
        self.graph = graph
        self.opset = opset
        self.space = space
        self.taken = set(graph.tensors()) | {n.name for n in graph.nodes}
        self.counts: dict[str, int] = {}  # of each name, the number to try next
        self.prefix = ""
        self.made: set[int] = set()

    def fresh(self, name: str) -> str:
        """A name that nothing in the graph has yet."""
        candidate, count = name, self.counts.get(name, 1)
        while candidate in self.taken:
            candidate, count = f"{name}_{count}", count + 1
        self.counts[name] = count
        self.taken.add(candidate)
        return candidate

    @contextmanager
    def within(self, body: gs.Graph) -> Iterator[None]:
        """Add nodes to the body of a loop meanwhile."""
        outer, self.graph = self.graph, body
        try:
            yield
        finally:
            self.graph = outer

    def constant(self, name: str, value: Array) -> gs.Constant:
        """A new initializer."""
        return gs.Constant(self.fresh(f"{self.prefix}/{name}"), np.asarray(value, order="C"))

    def ints(self, name: str, values: Iterable[int]) -> gs.Constant:
        """A new initializer of int64."""
        return self.constant(name, np.array(list(values), np.int64))

    def emit(
        self,
        op: str,
        inputs: Sequence[Any],
        attrs: dict[str, Any] | None = None,
        *,
        domain: str = "",
        outs: int = 1,
    ) -> Any:
        """Add a node and return its output, or the list of them where `outs` is more than 1."""
        name = self.fresh(f"{self.prefix}/{op.lower()}")
        outputs = [
            gs.Variable(self.fresh(f"{name}_out{i}" if outs > 1 else f"{name}_out")) for i in range(outs)
        ]
        node = gs.Node(op, name, attrs or {}, list(inputs), outputs, domain=domain or None)
        self.graph.nodes.append(node)
        self.made.add(id(node))
        return outputs if outs > 1 else outputs[0]

    def transpose(self, x: Any, perm: Sequence[int]) -> Any:
        """Transpose, taken together with one of the builder's that made `x`; the identity adds nothing."""
        made_by = x.inputs[0] if x.inputs else None
        if made_by is not None and made_by.op == "Transpose" and id(made_by) in self.made:
            before = list(made_by.attrs["perm"])
            return self.transpose(made_by.inputs[0], [before[p] for p in perm])
        if list(perm) == list(range(len(perm))):
            return x
        return self.emit("Transpose", [x], {"perm": [int(p) for p in perm]})

    def with_axes(self, op: str, x: Any, axes: Sequence[int]) -> Any:
        """Squeeze or Unsqueeze, whose axes became an input at opset 13."""
        if not axes:
            return x
        if self.opset < 13:
            return self.emit(op, [x], {"axes": list(axes)})
        return self.emit(op, [x, self.ints("axes", axes)])

    def pad_end(self, x: Any, room: Sequence[int]) -> Any:
        """Zeros behind every dim, so many of them; Pad's pads became an input at opset 11."""
        if not any(room):
            return x
        pads = [0] * len(room) + list(room)
        if self.opset < 11:
            return self.emit("Pad", [x], {"pads": pads})
        return self.emit("Pad", [x, self.ints("pads", pads)])

    def slice(
        self,
        x: Any,
        starts: Sequence[int],
        ends: Sequence[int],
        axes: Sequence[int],
        steps: Sequence[int] = (),
    ) -> Any:
        """Slice with constant bounds, which became inputs at opset 10, with the steps."""
        if self.opset < 10:
            return self.emit("Slice", [x], {"starts": list(starts), "ends": list(ends), "axes": list(axes)})
        named = {"starts": starts, "ends": ends, "axes": axes} | ({"steps": steps} if any(steps) else {})
        return self.emit("Slice", [x, *(self.ints(name, values) for name, values in named.items())])

    def shape_of(self, x: Any, start: int, stop: int) -> Any:
        """Some dims of a tensor's shape, as int64."""
        return self.slice(self.emit("Shape", [x]), [start], [stop], [0])

    def reshape(self, x: Any, dims: Sequence[Any]) -> Any:
        """Reshape to ints (0 copies, -1 is the rest) and int64 vectors of the graph, in this order."""
        parts: list[Any] = []
        run: list[int] = []
        for dim in [*dims, None]:
            if isinstance(dim, int):
                run.append(dim)
                continue
            if run:
                parts.append(self.ints("dims", run))
                run = []
            if dim is not None:
                parts.append(dim)
        shape = parts[0] if len(parts) == 1 else self.emit("Concat", parts, {"axis": 0})
        return self.emit("Reshape", [x, shape])

    def reduce(self, op: str, x: Any, axes: Sequence[int], *, keepdims: int) -> Any:
        """A reduction, whose axes became an input at opset 18 (13 for ReduceSum)."""
        since = 13 if op == "ReduceSum" else 18
        if self.opset < since:
            return self.emit(op, [x], {"axes": list(axes), "keepdims": keepdims})
        return self.emit(op, [x, self.ints("axes", axes)], {"keepdims": keepdims})


def in_order(graph: gs.Graph) -> gs.Graph:
    """Put every node behind what it reads, in place; returns the graph.

    graphsurgeon's own sort calls itself once for each node of a chain that is out of order, which ends in a
    RecursionError in nets of thousands of nodes.
    """
    nodes = list(graph.nodes)
    places = {id(node): i for i, node in enumerate(nodes)}
    before = {i: _makers_read(node, places) for i, node in enumerate(nodes)}
    levels: dict[int, int] = {}
    for i in TopologicalSorter(before).static_order():
        levels[i] = 1 + max((levels[j] for j in before[i]), default=-1)
    graph.nodes[:] = [nodes[i] for i in sorted(levels, key=lambda i: (levels[i], i))]
    return graph


def _makers_read(node: gs.Node, places: dict[int, int]) -> list[int]:
    """The places of the nodes whose outputs a node reads, within its subgraphs too."""
    readers = [node, *(n for inner in node.subgraphs(recursive=True) for n in inner.nodes)]
    ends = [t for inner in node.subgraphs(recursive=True) for t in inner.outputs]
    tensors = [*(t for reader in readers for t in reader.inputs), *ends]
    return list(dict.fromkeys(places[id(m)] for t in tensors for m in t.inputs if id(m) in places))
