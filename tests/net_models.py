"""What tests of a Net share: models from text, the image they take, and a weight by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
from nets import parse
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
CONV = f"""{HEAD}
net (float[1,2,6,7] image) => (float[1,3,4,5] conv)
<float[3,2,3,3] weight_name, float[3] bias_name>
{{ conv = Conv (image, weight_name, bias_name) }}"""


def noise(model: onnx.ModelProto, seed: int = 0) -> NDArray[Any]:
    kind = model.graph.input[0].type.tensor_type
    shape = [d.dim_value or 1 for d in kind.shape.dim]
    values = np.random.default_rng(seed).uniform(0, 1, shape)
    if kind.elem_type == TensorProto.UINT8:
        return (255 * values).astype(np.uint8)
    return values.astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))


def named(text: str, **nodes: str) -> onnx.ModelProto:
    """A model from text whose nodes are given names, by their output."""
    model = parse(text)
    for node in model.graph.node:
        node.name = nodes.get(node.output[0], "")
    return model


def initializer(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))
