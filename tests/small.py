"""What tests of quantized models share: their integers, and onnxruntime as a model says it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

STEPS = "q = QuantizeLinear (map, s, z) d = DequantizeLinear (q, s, z) f = Flatten (d)"
SCALES = "float s = {0.05}, uint8 z = {0}"


def session(model: onnx.ModelProto) -> Any:
    """The model in onnxruntime, kept from making integer ops, which round otherwise, of QDQ pairs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def weights_of(model: onnx.ModelProto, op: str, place: int = 1) -> list[NDArray[Any]]:
    """The constants that ops of a kind read at an input, through a DequantizeLinear where there is one."""
    makers = {node.output[0]: node for node in model.graph.node}
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == op:
            name = node.input[place]
            maker = makers.get(name)
            found.append(held[maker.input[0] if maker is not None else name])
    return found


def filled(model: onnx.ModelProto, **values: Any) -> onnx.ModelProto:
    """The model with other values in some initializers, of the same type."""
    for tensor in model.graph.initializer:
        if tensor.name in values:
            old = numpy_helper.to_array(tensor)
            new = np.broadcast_to(np.asarray(values[tensor.name]), old.shape).astype(old.dtype)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new), tensor.name))
    return model


def integers(shape: Any, low: int = -60, high: int = 60) -> NDArray[Any]:
    return np.random.default_rng(3).integers(low, high, shape)
