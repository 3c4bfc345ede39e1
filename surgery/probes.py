"""The original made to say more: with other outputs, at other sizes, or some of it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from surgery.field import Slide
from surgery.shapes import SHAPE_OPS, Facts

SHAPE_ONLY = (
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Dropout",
    "Cast",
)
WINDOWED = ("Conv", "AveragePool", "MaxPool", "LpPool")
SOFT = ("Softmax", "LogSoftmax")
PROBABILITIES = ("Softmax", "Sigmoid")
HIDING = (*SOFT, "Hardmax", "Sigmoid", "HardSigmoid", "ArgMax", "ArgMin")  # they saturate, or round


def softmax_inputs(
    graph: onnx.GraphProto, ops: Sequence[str] = SOFT, through: Sequence[str] = ()
) -> dict[str, str]:
    """For each output that is a softmax (or another of `ops`), possibly reshaped, what goes into it.

    Ops named in `through` that lie before it are looked through.
    """
    makers = {o: node for node in graph.node for o in node.output}
    found = {}
    for output in graph.output:
        node = makers.get(output.name)
        while node is not None and node.op_type in SHAPE_ONLY and node.input:
            node = makers.get(node.input[0])
        if node is not None and node.op_type in ops:
            name = node.input[0]
            while name in makers and makers[name].op_type in through:
                name = makers[name].input[0]
            found[output.name] = name
    return found


def with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives these tensors as well."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    have = {o.name for o in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in dict.fromkeys(names) if n not in have)
    return copy


def relaxed(proto: onnx.ModelProto, space: dict[str, Sequence[int]] | None = None) -> onnx.ModelProto:
    """A copy whose batch, and the dims named in `space` per input, are symbolic; no inner shapes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        for d in [0, *(space or {}).get(value.name, ())]:
            if d < len(dims):
                dims[d].Clear()
                dims[d].dim_param = f"{value.name}_{d}"
    for value in copy.graph.output:
        if value.HasField("type"):
            value.type.tensor_type.ClearField("shape")
    return copy


def fix_at_window(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Make a windowed op mean at every size what it means at these shapes, in place.

    auto_pad would stand for other pads at a larger size; the pads it stands for here follow from the
    lengths before and behind the op (ONNX Conv). The stride over a single cell becomes the least one.
    """
    if node.op_type not in WINDOWED:
        return
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    cells, out = shapes[node.input[0]][2:], shapes[node.output[0]][2:]
    rank = len(cells)
    kernel = attrs.get("kernel_shape") or shapes[node.input[1]][2:]
    strides, dilations = (attrs.get(name, [1] * rank) for name in ("strides", "dilations"))
    pads = list(attrs.get("pads", [0] * 2 * rank))
    mode = attrs.get("auto_pad", b"NOTSET").decode()
    if mode.startswith("SAME"):
        sides = zip(cells, out, kernel, strides, dilations, strict=True)
        total = [max((o - 1) * s + (k - 1) * d + 1 - n, 0) for n, o, k, s, d in sides]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = small + large if mode == "SAME_UPPER" else large + small
    ceil = bool(attrs.get("ceil_mode"))
    stated = zip(kernel, strides, dilations, pads[:rank], pads[rank:], strict=True)
    slides = [Slide(*side, ceil).tightened(n) for side, n in zip(stated, cells, strict=True)]
    kept = [a for a in node.attribute if a.name not in ("auto_pad", "pads", "strides")]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.append(onnx.helper.make_attribute("pads", pads))
    node.attribute.append(onnx.helper.make_attribute("strides", [s.stride for s in slides]))


def from_shapes(graph: onnx.GraphProto, facts: Facts) -> set[str]:
    """The tensors that are computed from shapes and no pixel."""
    found: set[str] = set()
    for node in graph.node:
        if node.op_type in SHAPE_OPS or (found & set(node.input) and node.output[0] in facts.values):
            found |= set(node.output)
    return found


def counts_in_window(node: onnx.NodeProto, facts: Facts, sized: set[str]) -> bool:
    """Whether an op is given places, sizes or numbers of the window, and would mean others elsewhere."""
    if sized & set(node.input) and node.output[0] not in sized and node.op_type not in ("Reshape", "Expand"):
        return True
    if node.op_type == "Resize":
        return len(node.input) > 3 and bool(node.input[3])
    if node.op_type == "Slice":
        axes = facts.values.get(node.input[3]) if len(node.input) > 3 else None
        named = (
            [list(a.ints) for a in node.attribute if a.name == "axes"] if axes is None else [axes.tolist()]
        )
        return named != [[1]]
    settings = {a.name for a in node.attribute} & {"output_shape", "auto_pad"}
    return node.op_type == "ConvTranspose" and bool(settings)


def cut(proto: onnx.ModelProto, inputs: Mapping[str, int], outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of a model between tensors: `inputs` by name with their element type."""
    makers = {o: node for node in proto.graph.node for o in node.output if o}
    wanted, kept = list(outputs), set()
    while wanted:
        name = wanted.pop()
        if name in inputs or name not in makers or id(makers[name]) in kept:
            continue
        kept.add(id(makers[name]))
        wanted += makers[name].input
    part = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    part.graph.name = proto.graph.name
    part.graph.node.extend(n for n in proto.graph.node if id(n) in kept)
    used = {i for n in part.graph.node for i in n.input} | set(outputs)
    part.graph.initializer.extend(t for t in proto.graph.initializer if t.name in used)
    part.graph.input.extend(v for v in proto.graph.input if v.name in used and v.name not in inputs)
    for name, kind in inputs.items():
        part.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
    part.graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs)
    return part
