"""What onnxruntime's CPU provider makes of a graph: the order of its nodes, and its own copies of tensors.

It runs 2-D convolutions and pools over tensors whose channels lie in blocks (NCHWc); what lies otherwise is
copied before them, and copied back for any op that reads plain tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from surgery.bodies import body_of, captured, one_turn, scanned
from surgery.workload import inferred, inferred_values

BLOCK = 16  # channels in one block on CPUs with AVX-512; 8 with AVX2
ALIGNED = 4  # channels must be a multiple of it to be put into blocks
VIEWS = ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
FUSED = ("BatchNormalization", "Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh")
SUMS = ("Add", "Mul", "Sum")
IN_PLACE = (
    *FUSED, *SUMS, "Abs", "Div", "Elu", "Erf", "Exp", "HardSwish", "Max", "Min", "Neg", "Pow", "Selu", "Sqrt",
    "Sub",
)  # fmt: skip
POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")

Key = tuple[Any, ...] | None


@dataclass(frozen=True)
class Buffer:
    """A tensor that takes memory. What is dead serves others of its `key`, its shape (None: nothing)."""

    name: str
    bytes: int
    key: Key = None


@dataclass(frozen=True)
class Step:
    """One kernel: what it reads, what it makes, and `scratch` bytes while it runs.

    It may write over the tensors in `over` that nothing reads later; `view` is the tensor that its output
    is another name for.
    """

    reads: tuple[str, ...]
    makes: tuple[Buffer, ...]
    scratch: int = 0
    over: tuple[str, ...] = ()
    view: str = ""


def run_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes in the order of a run: depth first from the ends, the last of a node's inputs first."""
    makers = {o: i for i, node in enumerate(graph.node) for o in node.output if o}
    before = [sorted({makers[i] for i in node.input if i in makers}) for node in graph.node]
    read = {i for node in graph.node for i in node.input}
    stack = [(i, False) for i, node in enumerate(graph.node) if not read & set(node.output)]
    seen: set[int] = set()
    order = []
    while stack:
        i, done = stack.pop()
        if done:
            order.append(graph.node[i])
        elif i not in seen:
            seen.add(i)
            stack += [(i, True), *((j, False) for j in before[i] if j not in seen)]
    return order


class Lowering:
    """The steps of a run at the sizes that a model's inputs state; a dim that is open counts as 1.

    `inner` gives the bytes that one turn of a loop's body takes, bodies being `surgery.bodies.bound`.
    """

    def __init__(self, model: onnx.ModelProto, inner: Callable[[onnx.ModelProto], int]) -> None:
        self.model, self.inner = model, inner
        graph = model.graph
        self.weights = {t.name: t for t in graph.initializer}
        self.inputs = {v.name for v in graph.input} - set(self.weights)
        self.known = inferred(graph, _images(graph, self.inputs), model)
        self.keys = _keys(model)
        nodes = run_order(graph)
        self.still = _still(nodes, self.weights)
        self.users: dict[str, list[onnx.NodeProto | None]] = {o.name: [None] for o in graph.output}
        for node in nodes:
            for name in (*node.input, *captured(node)):
                self.users.setdefault(name, []).append(node)
        self.plain: set[str] = set()
        self.blocked: set[str] = set()
        self.turned: dict[str, str] = {}
        self.steps: list[Step] = []
        for node in nodes:
            self._lower(node)
        for output in graph.output:
            self._as_plain(output.name)

    def size(self, name: str) -> int:
        """Bytes of a tensor as the model has it; 0 where its shape is not known."""
        shape, kind = self.known.get(name, ((), 0))
        return prod(shape) * helper.tensor_dtype_to_np_dtype(kind).itemsize if kind else 0

    def channels(self, name: str) -> int:
        """Channels of a tensor of four dims of float32, which alone are put into blocks; else 0."""
        shape, kind = self.known.get(name, ((), 0))
        return shape[1] if len(shape) == 4 and kind == TensorProto.FLOAT else 0

    # -------------------------------------------------------------- layouts

    def _as_plain(self, name: str) -> str:
        if name not in self.plain and (name in self.blocked or name in self.turned):
            self.plain.add(name)
            source = _block(name) if name in self.blocked else self.turned[name]
            self.steps.append(Step((source,), (self._buffer(name),)))
        return name

    def _as_blocked(self, name: str) -> str:
        if name not in self.blocked:
            self.blocked.add(name)
            source = name if name in self.plain else self.turned.get(name, name)
            self.steps.append(Step((source,), (self._block_buffer(name),)))
        return _block(name)

    def _buffer(self, name: str) -> Buffer:
        return Buffer(name, self.size(name), self.keys.get(name))

    def _block_buffer(self, name: str) -> Buffer:
        channels = max(1, self.channels(name))
        key = self.keys.get(name)
        whole = self.size(name) // channels * (-(-channels // BLOCK) * BLOCK)
        return Buffer(_block(name), whole, None if key is None else ("blocks", *key))

    def _make_blocked(self, name: str, reads: Sequence[str], over: Sequence[str] = ()) -> None:
        self.blocked.add(name)
        self.steps.append(Step((*reads, *over), (self._block_buffer(name),), over=tuple(over)))

    # -------------------------------------------------------------- nodes

    def _lower(self, node: onnx.NodeProto) -> None:
        made = [o for o in node.output if o in self.users and o not in self.still]
        if not made:
            return
        moving = [i for i in (*node.input, *sorted(captured(node))) if i and i not in self.still]
        if self._runs_blocked(node, made[0], moving) or self._turns(node, made[0]):
            return
        reads = tuple(self._as_plain(i) for i in moving)
        self.plain.update(made)
        if node.op_type in VIEWS:
            self.steps.append(Step(reads, (Buffer(made[0], 0),), view=reads[0]))
            return
        scratch = self.size(made[0]) if node.op_type == "Where" else 0
        if body_of(node) is not None:
            scratch = self.inner(one_turn(node, self.known, self.model))
        over = reads if node.op_type in IN_PLACE else ()
        self.steps.append(Step(reads, tuple(self._buffer(o) for o in made), scratch, over))

    def _turns(self, node: onnx.NodeProto, made: str) -> bool:
        """Channels put last, or second again, by the pass that takes a tensor out of blocks, or into them."""
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
        x = node.input[0] if node.input else ""
        if node.op_type != "Transpose" or not self.channels(made):
            return False
        if perm == [0, 2, 3, 1] and x in self.blocked and x not in self.plain:
            self.plain.add(made)
            self.steps.append(Step((_block(x),), (self._buffer(made),)))
            return True
        if perm == [0, 3, 1, 2]:
            self.turned[made] = self._as_plain(x)
            return True
        return False

    def _runs_blocked(self, node: onnx.NodeProto, made: str, moving: list[str]) -> bool:
        """Write the steps of a node that runs over blocks of channels; False where it is none."""
        kind, x = node.op_type, moving[0] if moving else ""
        if kind == "Conv" and self.channels(made):
            return self._convolves(node, made)
        if kind in POOLS and self.channels(x) and self.channels(x) % BLOCK == 0:
            self._make_blocked(made, [self._as_blocked(x)])
            return True
        if not moving or not self.blocked.issuperset(moving):
            return False
        blocks = [_block(i) for i in moving]
        alike = len(moving) == len(node.input) and len({self.known[i][0] for i in moving}) == 1
        if (kind in FUSED and len(moving) == 1) or (kind in SUMS and alike):
            self._make_blocked(made, [], blocks)
            return True
        whole = all(self.channels(i) % BLOCK == 0 for i in moving)
        if kind == "Concat" and whole and len(moving) == len(node.input) and _attribute(node, "axis", 0) == 1:
            self._make_blocked(made, blocks)
            return True
        return False

    def _convolves(self, node: onnx.NodeProto, made: str) -> bool:
        """A Conv, if its channels fit into blocks; one sum behind it is done by the same kernel."""
        weight = self.weights.get(node.input[1])
        if weight is None:
            return False
        out, inside = weight.dims[0], weight.dims[1]
        group = _attribute(node, "group", 1)
        if group > 1:
            single = out == group and inside == 1 and out >= BLOCK
            fits = out % ALIGNED == 0 and (single or (inside % BLOCK == 0 and out // group % BLOCK == 0))
        else:
            fits = inside < BLOCK or inside % ALIGNED == 0
        if not fits:
            return False
        plain = group == 1 and inside < BLOCK
        read = self._as_plain(node.input[0]) if plain else self._as_blocked(node.input[0])
        self._make_blocked(made, [read], self._summed(made))
        return True

    def _summed(self, made: str) -> list[str]:
        """What is added to a Conv's output and nothing else."""
        users = self.users[made]
        if len(users) != 1 or users[0] is None or users[0].op_type != "Add":
            return []
        return [_block(i) for i in users[0].input if i != made and i in self.blocked]


def _block(name: str) -> str:
    return f"{name} in blocks"


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _still(nodes: Sequence[onnx.NodeProto], weights: dict[str, Any]) -> set[str]:
    """The tensors that onnxruntime computes when it loads the model."""
    still = set(weights)
    for node in nodes:
        if node.input and still.issuperset(i for i in (*node.input, *captured(node)) if i):
            still.update(node.output)
    return still


def _images(graph: onnx.GraphProto, names: set[str]) -> dict[str, Any]:
    """Inputs that take no memory, of the shapes that the model states."""
    images = {}
    for value in graph.input:
        if value.name in names:
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
            images[value.name] = np.broadcast_to(np.zeros((), kind), dims)
    return images


def _keys(model: onnx.ModelProto) -> dict[str, Key]:
    """The shapes known with open dims left open, by name: a dead tensor serves others of its own.

    onnxruntime knows only the names that the model has, and no two dims without a name for the same;
    shape inference makes up a name for each of those.
    """
    graph = model.graph
    weights = {t.name for t in graph.initializer}
    inputs = [v for v in graph.input if v.name not in weights]
    stated = (*graph.input, *graph.value_info, *graph.output)
    names = {d.dim_param for v in stated for d in v.type.tensor_type.shape.dim} - {""}
    keys: dict[str, Key] = {}
    for value in inferred_values(graph, inputs, model, stated=graph.value_info, untold=scanned(graph)):
        dims = value.type.tensor_type.shape.dim
        known = all(d.HasField("dim_value") or d.dim_param in names for d in dims)
        if value.type.tensor_type.HasField("shape") and known:
            key = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims)
            keys[value.name] = (value.type.tensor_type.elem_type, *key)
    return keys
