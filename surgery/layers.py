"""Which constants of a graph are parameters, and under which names a person finds them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from surgery.model import FLOATS
from surgery.ops.shape import RESHAPES
from surgery.rules import STANDARD
from surgery.shapes import RANDOM_OPS, captured

WEIGHT_AND_BIAS = {1: "weight", 2: "bias"}
SCALE_AND_BIAS = {1: "scale", 2: "bias"}
QUANTIZED_WEIGHT = {3: "weight", 4: "weight_scale", 5: "weight_zero_point"}
ROLES: dict[str, dict[int, str]] = {
    "Conv": WEIGHT_AND_BIAS,
    "ConvTranspose": WEIGHT_AND_BIAS,
    "Gemm": WEIGHT_AND_BIAS,
    "MatMul": {1: "weight"},
    "ConvInteger": {1: "weight"},
    "MatMulInteger": {1: "weight"},
    "QLinearConv": {**QUANTIZED_WEIGHT, 8: "bias"},
    "QLinearMatMul": QUANTIZED_WEIGHT,
    "BatchNormalization": {1: "scale", 2: "bias", 3: "mean", 4: "var"},
    "InstanceNormalization": SCALE_AND_BIAS,
    "LayerNormalization": SCALE_AND_BIAS,
    "GroupNormalization": SCALE_AND_BIAS,
    "PRelu": {1: "slope"},
}
ARITHMETIC = {"Add": "bias", "Mul": "scale", "Sub": "value", "Div": "value"}
EITHER_SIDE = ("MatMul", "Gemm")  # the constant may stand left or right of the image
SETTINGS = ("Resize", "Upsample", "Pad", "Clip", "QuantizeLinear", "DequantizeLinear")
BIASED_BY_ADD = ("MatMul", "Conv", "ConvTranspose")

# "conv1.weight", "fc6_w_0", "bn1/gamma:0", "dense/kernel/ReadVariableOp:0": what comes before is the layer
SUFFIX = re.compile(
    r"[._/](weights?|w|kernel|filters?|bias(es)?|b|gamma|beta|scale|slope|alpha"
    r"|((moving|running)_)?(mean|var(iance)?))([._]\d+)?(/ReadVariableOp)?(:\d+)?$",
    re.IGNORECASE,
)
COUNTED = re.compile(r"\d+$|.*::")  # "123", "onnx::Conv_45": an exporter's count, nobody's name


@dataclass(frozen=True)
class Parameter:
    """One constant that a node takes beside the image.

    `tensor` names what holds it; `columns` says that the outputs of a matrix lie along its last dim;
    `factor` is what the node itself multiplies it by (Gemm's alpha and beta); `reordered` names the
    Transpose that gives the features of a fully connected layer another order than channels, rows,
    columns.
    """

    role: str
    op: str
    tensor: str
    columns: bool = False
    factor: float = 1.0
    reordered: str = ""


@dataclass(frozen=True)
class Entry:
    """A layer of the graph: its name, the other names it is known by, and its parameters by role."""

    name: str
    op: str
    aliases: tuple[str, ...]
    parameters: dict[str, Parameter]


def find_layers(graph: onnx.GraphProto) -> list[Entry]:
    """The layers that hold parameters, in the order of the graph.

    A layer is a node, together with an Add that gives its product a bias. It is named as the node; where
    the node has no name, as the weight without its suffix ("conv1.weight": conv1); where that has no
    name either, after the op and its output. The other names are aliases.
    """
    return list(_Finder(graph).layers())


def holder(makers: dict[str, onnx.NodeProto], tensor: str) -> str:
    """The tensor that really holds a constant, behind any Identity nodes."""
    while tensor in makers and makers[tensor].op_type == "Identity":
        tensor = makers[tensor].input[0]
    return tensor


def makers_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor."""
    return {o: node for node in graph.node for o in node.output if o}


def stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The tensors whose values the graph stores: initializers, and the values of Constant nodes."""
    found = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in STANDARD and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def constant_names(graph: onnx.GraphProto) -> set[str]:
    """The tensors that no input of the graph reaches, not even by its shape."""
    names = {t.name for t in graph.initializer}
    for node in graph.node:
        reads = {i for i in node.input if i} | captured(node)
        if reads <= names and node.op_type not in RANDOM_OPS:
            names.update(o for o in node.output if o)
    return names


class _Finder:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.makers = makers_of(graph)
        self.stored = stored(graph)
        self.constant = constant_names(graph)
        self.weights = {t.name for t in graph.initializer}
        self.uses = Counter(i for node in graph.node for i in {*node.input, *captured(node)})
        self.uses.update(o.name for o in graph.output)
        self.readers = {i: node for node in graph.node for i in node.input}

    def layers(self) -> Iterator[Entry]:
        """Every layer once, under a name of its own."""
        nodes = [n for n in self.graph.node if not all(o in self.constant for o in n.output if o)]
        found = [(node, self.parameters(node)) for node in nodes]
        adds = {}
        for node, parameters in found:
            add = self.bias_after(node, parameters)
            if add is not None:
                parameters["bias"] = self.parameters(add)["bias"]
                adds[node.output[0]] = add
        joined = {add.output[0] for add in adds.values()}
        taken: set[str] = set()
        for node, parameters in found:
            if parameters and node.output[0] not in joined:
                names = self.names(node, parameters)
                name = next((n for n in names if n not in taken), None) or unique(names[-1], taken)
                taken.add(name)
                known = dict.fromkeys([*names, *self.nicknames(node, adds.get(node.output[0]))])
                yield Entry(name, node.op_type, tuple(n for n in known if n != name), parameters)

    def names(self, node: onnx.NodeProto, parameters: dict[str, Parameter]) -> list[str]:
        """What a layer may be called: by its node, by its tensors, and last by its op and output."""
        tensors = [p.tensor for p in parameters.values()]
        stems = [SUFFIX.sub("", t) for t in tensors if SUFFIX.search(t) and not COUNTED.match(t)]
        own = [t for t in tensors[:1] if t in self.weights and not SUFFIX.search(t) and not COUNTED.match(t)]
        return [n for n in [node.name, *stems, *own] if n] + [f"{node.op_type}_{node.output[0]}"]

    def nicknames(self, node: onnx.NodeProto, add: onnx.NodeProto | None) -> list[str]:
        """What else finds a layer: the node it was before `surgery convert`, its output, its bias's Add."""
        before = node.name.removesuffix(f"/{node.op_type.lower()}")
        outputs = [o for o in [node.output[0], *(add.output if add else ())] if not COUNTED.match(o)]
        return [n for n in [before, *outputs, add.name if add else ""] if n]

    def parameters(self, node: onnx.NodeProto) -> dict[str, Parameter]:
        """The parameters of a node by role."""
        found = {}
        for slot, name in enumerate(node.input):
            role = self.role(node, slot) if name in self.constant else ""
            if role:
                found[role] = self.parameter(node, slot, role)
        return found

    def role(self, node: onnx.NodeProto, slot: int) -> str:
        """What a constant input is to its node; empty where it is a setting and no parameter."""
        op = node.op_type if node.domain in STANDARD else ""
        if op in ROLES:
            return ROLES[op].get(1 if op in EITHER_SIDE and slot == 0 else slot, "")
        tensor = self.stored.get(holder(self.makers, node.input[slot]))
        if tensor is None or tensor.data_type not in FLOATS or not tensor.dims or op in SETTINGS:
            return ""
        return ARITHMETIC.get(op) or self.formal(node, slot)

    def formal(self, node: onnx.NodeProto, slot: int) -> str:
        """The name that the op's own definition gives an input."""
        try:
            inputs = onnx.defs.get_schema(node.op_type, domain=node.domain).inputs
        except onnx.defs.SchemaError:
            return f"input{slot}"
        return str(inputs[slot].name).lower() if slot < len(inputs) else f"input{slot}"

    def parameter(self, node: onnx.NodeProto, slot: int, role: str) -> Parameter:
        """A parameter, with what its node says about how to read it."""
        tensor = holder(self.makers, node.input[slot])
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if role != "weight" or node.op_type not in ("Gemm", "MatMul"):
            beta = float(settings.get("beta", 1.0)) if node.op_type == "Gemm" else 1.0
            return Parameter(role, node.op_type, tensor, factor=beta)
        columns = not settings.get("transB", 0) if slot == 1 else bool(settings.get("transA", 0))
        alpha = float(settings.get("alpha", 1.0))
        return Parameter(role, node.op_type, tensor, columns, alpha, self.reordering(node.input[1 - slot]))

    def reordering(self, tensor: str) -> str:
        """The Transpose whose order the features of a fully connected layer have, if there is one."""
        while tensor in self.makers:
            node = self.makers[tensor]
            if node.op_type == "Transpose":
                return node.name or node.output[0]
            if node.op_type not in (*RESHAPES, "Identity", "Dropout", "Relu"):
                return ""
            tensor = node.input[0]
        return ""

    def bias_after(self, node: onnx.NodeProto, parameters: dict[str, Parameter]) -> onnx.NodeProto | None:
        """The Add that gives a node without a bias its bias, one value for each output."""
        weight = parameters.get("weight")
        if weight is None or "bias" in parameters or node.op_type not in BIASED_BY_ADD:
            return None
        if self.uses[node.output[0]] != 1 or node.output[0] not in self.readers:
            return None
        add = self.readers[node.output[0]]
        bias = self.parameters(add).get("bias") if add.op_type == "Add" else None
        if bias is None or weight.tensor not in self.stored or bias.tensor not in self.stored:
            return None
        dims = list(self.stored[bias.tensor].dims)
        wanted = self.bias_dims(node, weight)
        while len(dims) > len(wanted) and dims[0] == 1:
            dims.pop(0)
        return add if dims == wanted else None

    def bias_dims(self, node: onnx.NodeProto, weight: Parameter) -> list[int]:
        """The dims with which a constant adds one value to each output, or output channel."""
        dims = self.stored[weight.tensor].dims
        if node.op_type == "MatMul":
            return [dims[-1 if weight.columns else 0]]
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        channels = dims[1] * group if node.op_type == "ConvTranspose" else dims[0]
        return [channels, *[1] * (len(dims) - 2)]


def unique(name: str, taken: set[str]) -> str:
    """The name with the first number that makes it another than those taken."""
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


class Names:
    """Finds a layer by any of its names."""

    def __init__(self, layers: list[Entry]) -> None:
        own = {layer.name: [layer.name] for layer in layers}
        others: dict[str, list[str]] = {}
        for layer in layers:
            for alias in layer.aliases:
                others.setdefault(alias, []).append(layer.name)
        self._found = {**own, **{alias: names for alias, names in others.items() if alias not in own}}

    def find(self, name: str) -> list[str]:
        """The layers of this name: one, several where an alias does not tell them apart, or none."""
        return self._found.get(name, [])

    def __iter__(self) -> Iterator[str]:
        """Every name and alias."""
        return iter(self._found)
