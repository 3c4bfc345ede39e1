"""The walk over the head: every op is given its meaning at every position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from surgery.others import at_every_position
from surgery.positions import END, materialize, unfolded, view, without_units
from surgery.refusal import refusal
from surgery.rules import Folded, Lifted, Map, NoRule, Refusal, Rows, Source
from surgery.rules import fold as fold_rules
from surgery.rules import lift as lift_rules
from surgery.tokens import Tokens

RENAMING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose", "Cast", "Dropout")
IN_BATCH = "folded into the batch"


@dataclass(frozen=True)
class Row:
    """What became of one op of the head."""

    node: str
    op: str
    becomes: str


def lift_head(
    graph: gs.Graph,
    opset: int,
    trunk: Trunk,
    head: Head,
    tensors: Mapping[str, Any] = MappingProxyType({}),
    *,
    pure_conv: bool = False,
) -> tuple[list[Row], dict[str, tuple[int, ...]]]:
    """Rewrite the head in place; returns a row for each of its ops, and the feature dims of each output.

    `tensors` may name others to read in the place of maps; `pure_conv` refuses to fold positions into
    the batch.

    Raises Refused at the first op that has no meaning at every position.
    """
    build = Builder(graph, opset, space=len(head.geometry.window))
    refuse_known(head, trunk)
    refuse_tokens(head, trunk, [o.name for o in graph.outputs if o.name not in trunk.maps])
    lifter = _Lifter(build, trunk, head, tensors, pure_conv)
    rows = [lifter.step(op) for op in head.ops]
    kept = {id(op.node) for op in trunk.gates}  # a gate whose vector the head reads too is there twice
    old = {id(op.node) for op in head.ops} - kept
    lifted = [o.name for o in graph.outputs if o.name in lifter.values and o.name not in trunk.maps]
    finals = {name: lifter.final(name) for name in lifted}
    dims = {name: final.dims for name, final in finals.items()}
    graph.nodes[:] = [n for n in graph.nodes if id(n) not in old]
    _freeze(graph, build, head)
    _rename(
        graph, build, lifter.values, finals, {n for op in head.ops if id(op.node) in old for n in op.outputs}
    )
    if all(row.becomes == "unchanged" for row in rows):
        raise Refused(
            f"nothing to convert: the {len(rows)} ops behind the last map work at every position as they "
            "are, so the model is already fully convolutional. Only its input dims may need to be made "
            "symbolic (onnx.tools.update_model_dims).",
            why="it is already fully convolutional",
        )
    return rows, dims


def refuse_known(head: Head, trunk: Trunk) -> None:
    """Raise Refused at an op that no rule can follow: it says more than what leads to it."""
    for reason in trunk.never:
        raise Refused(
            f"cannot convert {reason}. The exact engine (--exact) keeps the crops' answers.",
            node=reason.node,
            op=reason.op,
            why=reason.why,
        )
    for op in head.ops:
        key = (op.domain, op.kind)
        entry = lift_rules.entries.get(key)
        if isinstance(entry, Refusal) and key not in fold_rules.entries:
            raise Refused(refusal(op, entry.why, trunk), node=op.name, op=op.kind, why=entry.why)


def refuse_tokens(head: Head, trunk: Trunk, outputs: Sequence[str]) -> None:
    """Raise Refused where the head works on positions as tokens, or answers for each: no classifier."""
    found = Tokens(head)
    if found.why is not None:
        op, why = found.why
        raise Refused(refusal(op, why, trunk), node=op.name, op=op.kind, why=why)
    count = found.answers(outputs)
    if count > 1:
        op = next(o for o in reversed(head.ops) if outputs[0] in o.outputs)
        why = (
            f"the answer {outputs[0]!r} {list(op.facts.shapes[outputs[0]])} has a row for each of {count} "
            "positions already: a detector or a segmenter, whose windows would answer over and over. Cut the "
            "model where its maps are flattened; before that it takes any image size"
        )
        raise Refused(refusal(op, why, trunk), node=op.name, op=op.kind, why=why)


class _Lifter:
    """Walks over the ops of a head with the values they have made so far."""

    def __init__(
        self, build: Builder, trunk: Trunk, head: Head, tensors: Mapping[str, Any], pure_conv: bool
    ) -> None:
        self.build = build
        self.trunk = trunk
        self.head = head
        self.tensors = tensors
        self.pure_conv = pure_conv
        self.values: dict[str, Any] = {}
        self.unfolded: dict[str, Lifted] = {}
        self.answers = _answers(head, build.graph)

    def step(self, op: Op) -> Row:
        """Lift one op; raises Refused where that has no meaning."""
        self.build.prefix = op.name
        count = len(self.build.graph.nodes)
        with self._named(op):
            outs, folded = self._apply(op)
            self.values.update(_checked(op, outs))
        emitted = [node.op for node in self.build.graph.nodes[count:]]
        return Row(op.name, op.kind, _became(op, emitted, folded))

    def final(self, name: str) -> Lifted:
        """The value of a graph output; raises Refused where it would be too large."""
        with self._named(next(op for op in self.head.ops if name in op.outputs)):
            return _final(self.build, name, self.values[name])

    @contextmanager
    def _named(self, op: Op) -> Iterator[None]:
        """Let a rule that is missing refuse this op."""
        try:
            yield
        except NoRule as missing:
            why = str(missing)
            raise Refused(refusal(op, why, self.trunk), node=op.name, op=op.kind, why=why) from missing

    def _apply(self, op: Op) -> tuple[list[Any], bool]:
        """The values of an op's outputs, and whether its positions were folded into the batch for it."""
        inputs = [self._value(op, n) for n in op.inputs]
        foldable = not self.pure_conv and (op.domain, op.kind) in fold_rules.entries
        in_rows = any(isinstance(v, Rows) for v in inputs) and op.outputs[0] not in self.answers
        if foldable and in_rows:
            return _listed(fold_rules.look_up(op.domain, op.kind)(self.build, op, inputs)), True
        inputs = [self._unfolded(n, v) for n, v in zip(op.inputs, inputs, strict=True)]
        try:
            rule = lift_rules.look_up(op.domain, op.kind)
            return _listed(rule(self.build, op, inputs)), False
        except NoRule as missing:
            if foldable:
                return _listed(fold_rules.look_up(op.domain, op.kind)(self.build, op, inputs)), True
            if (op.domain, op.kind) in fold_rules.entries:
                raise NoRule(f"{missing}; it could be {IN_BATCH}, which --pure-conv forbids") from missing
            raise

    def _value(self, op: Op, name: str) -> Any:
        if name not in self.values and name in self.trunk.maps:
            tensor = self.tensors.get(name) or self.build.graph.tensors()[name]
            m = self.trunk.maps[name]
            self.values[name] = fold(self.build, tensor, m, op.facts.dtypes[name], self.head)
        elif name and name not in self.values and name not in op.facts.values:
            self.values[name] = at_every_position(
                self.build, name, op.facts.shapes[name], self.head, self.tensors
            )
        return self.values.get(name, op.facts.values.get(name))

    def _unfolded(self, name: str, value: Any) -> Any:
        if not isinstance(value, Rows):
            return value
        if name not in self.unfolded:
            self.unfolded[name] = unfolded(self.build, value)
        return self.unfolded[name]


def _answers(head: Head, graph: gs.Graph) -> set[str]:
    """The outputs, and what ops that only rename dims make them from: positions are taken out before these.

    The proof compares what goes into a last softmax, and wants to find it as a map.
    """
    names = {o.name for o in graph.outputs}
    for op in reversed(head.ops):
        if op.kind in RENAMING and op.outputs[0] in names:
            names.add(op.inputs[0])
    return names


def _listed(result: Any) -> list[Any]:
    return result if isinstance(result, list) else [result]


def _checked(op: Op, outs: list[Any]) -> dict[str, Any]:
    """The outputs by name; raises NoRule where one has no batch dim of its own any more."""
    values = {n: v for n, v in zip(op.outputs, outs, strict=False) if n and v is not None}
    for name, value in values.items():
        shape = op.facts.shapes[name]
        if shape[:1] != (op.facts.batch,) or shape[1:] != tuple(value.shape):
            raise NoRule(
                f"its output {list(shape)} has no batch dim of its own, so answers of positions would mix. "
                "Keep the batch in dim 0 (torch: squeeze and flatten with a dim, not of everything)"
            )
    return values


def _became(op: Op, emitted: list[str], folded: bool) -> str:
    if folded:
        return f"{IN_BATCH}: {' + '.join(emitted) or op.kind}"
    if not emitted:
        return "taken into its neighbours"
    if emitted == [op.kind]:
        return "unchanged"
    return " + ".join(emitted)


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


def _final(build: Builder, name: str, value: Any) -> Lifted:
    """The value of a graph output: logical dims first, units of a one-cell map left out, positions last."""
    build.prefix = name
    x = unfolded(build, value) if isinstance(value, Rows) else materialize(build, value)
    units = sum(1 for d in x.shape if d == 1)
    dims = without_units(x.shape) if units >= build.space and len(x.shape) > 1 else x.shape
    return Lifted(view(build, x, dims), x.shape, dims)


def _freeze(graph: gs.Graph, build: Builder, head: Head) -> None:
    """An output that no pixel reaches (a shape, a weight) stays what it is at the window."""
    values = head.ops[0].facts.values
    for i, old in enumerate(graph.outputs):
        if old.name not in values or isinstance(old, gs.Constant):
            continue
        name = build.prefix = old.name
        old.name = build.fresh(f"{name}/before")
        graph.outputs[i] = build.emit("Identity", [build.constant("at_window", values[name])])
        graph.outputs[i].name, graph.outputs[i].dtype = name, old.dtype
        graph.outputs[i].shape = list(values[name].shape)


def _rename(
    graph: gs.Graph, build: Builder, values: dict[str, Any], finals: dict[str, Lifted], gone: set[str]
) -> None:
    """Give lifted tensors the names of what they were and is gone, outputs first."""
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
