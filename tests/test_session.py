"""The door to onnxruntime: what is handed over apart from the graph changes no number and no model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper, numpy_helper

from surgery.session import LARGE, Session, without_weights


def product(kind: Any, size: int, *, weight: Any = None) -> onnx.ModelProto:
    """y = Cast(x) * w over `size` values, in the type of the weight."""
    values = np.random.default_rng(0).integers(-9, 9, size).astype(kind) if weight is None else weight
    tensor = numpy_helper.from_array(np.asarray(values), "w")
    nodes = [
        helper.make_node("Cast", ["x"], ["as"], to=tensor.data_type),
        helper.make_node("Add", ["as", "w"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [size]) for n in "xy"]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("size", [8, LARGE])
def test_the_same_numbers_as_from_one_file(kind: str, size: int) -> None:
    model = product(kind, size)
    before = model.SerializeToString(deterministic=True)
    x = np.random.default_rng(1).integers(0, 9, size).astype(np.float32)
    whole = ort.InferenceSession(before, providers=["CPUExecutionProvider"])
    (expected,) = whole.run(None, {"x": x})
    np.testing.assert_array_equal(Session(model).run({"x": x})["y"], expected)
    assert model.SerializeToString(deterministic=True) == before


def test_only_what_is_large_is_handed_over() -> None:
    light, weights = without_weights(product(np.float32, LARGE))
    assert set(weights) == {"w"}
    assert light.ByteSize() < 1000
    light, weights = without_weights(product(np.float32, 8))
    assert not weights
    assert light.graph.initializer[0].raw_data


@pytest.mark.deep
def test_beyond_the_limit_of_protobuf() -> None:
    count = 2**28 + 2**20  # floats of each of two weights: more than 2 GiB together
    ends = [
        helper.make_tensor_value_info("x", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]),
    ]
    nodes = [helper.make_node("Gather", [w, "x"], [f"{w}_at_x"]) for w in "ab"]
    nodes.append(helper.make_node("Add", ["a_at_x", "b_at_x"], ["y"]))
    model = helper.make_model(
        helper.make_graph(nodes, "far", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    for name in "ab":
        weight = model.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=[count])
        weight.raw_data = np.full(count, 1.5, np.float32).tobytes()
    with pytest.raises(EncodeError):
        model.SerializeToString()
    assert Session(model).run({"x": np.array([count - 1])})["y"].tolist() == [3.0]
