"""Net: what is written into a parameter is in the model, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from law import run
from net_models import CONV, HEAD, named, noise
from nets import NAMES, load, parse
from onnx import TensorProto, helper, numpy_helper

import surgery

# ------------------------------------------------ writing through


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_is_what_an_edit_of_the_file_would_be(name: str) -> None:
    model = load(name)
    net = surgery.Net(model)
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    held = {t.name: t for t in edited.graph.initializer}
    for layer in net.params.values():
        for role in layer:
            tensor = layer.facts[role].tensor
            if tensor in held:
                values = numpy_helper.to_array(held[tensor]) * np.float32(0.75)
                held[tensor].CopyFrom(numpy_helper.from_array(values, tensor))
                layer[role][...] = values
    image = noise(model)
    expected = run(edited, image)
    for output, value in net.forward(image).items():
        np.testing.assert_allclose(value, expected[output], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_net_only_looked_at_is_the_model_as_it_was(name: str) -> None:
    model = load(name)
    before = model.SerializeToString(deterministic=True)
    net = surgery.Net(model)
    assert repr(net.params)
    assert all(layer[role].size for layer in net.params.values() for role in layer)
    net.forward(noise(model))
    same = surgery.Net(net.proto).proto
    assert same == net.proto
    assert [n.name for n in same.graph.node] == [n.name for n in model.graph.node]
    first = next(iter(net.params.values()))
    first[next(iter(first))][...] = 0
    net.forward(noise(model))
    assert model.SerializeToString(deterministic=True) == before


def test_assignment_copies_and_a_number_fills() -> None:
    net = surgery.Net(parse(CONV))
    conv = net.params["conv"]
    array = conv.bias
    given = np.float32([1, 2, 3])
    conv.bias = given
    given[:] = 9
    assert array is conv.bias
    np.testing.assert_array_equal(array, [1, 2, 3])
    conv["bias"] = 4
    np.testing.assert_array_equal(array, [4, 4, 4])
    conv.bias = [5, 6.5, 7]
    np.testing.assert_array_equal(array, [5, 6.5, 7])
    conv.bias = np.float64(8)
    np.testing.assert_array_equal(array, [8, 8, 8])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((1, 3), np.float32), r"conv.bias has shape \[3\], the value \[1, 3\]"),
        (np.zeros(3), "conv.bias is float32, the value float64"),
        (np.zeros(3, np.int32), "conv.bias is float32, the value int32"),
        (np.zeros(3, bool), "conv.bias is float32, the value bool"),
        (1e39, "conv.bias is float32: the value is too large"),
        ("one", "conv.bias takes numbers, not"),
        (None, "conv.bias takes numbers, not object"),
        (1j, "conv.bias takes numbers, not complex128"),
        ([], r"conv.bias has shape \[3\], the value \[0\]"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_array_alone(value: Any, words: str) -> None:
    layer = surgery.Net(named(CONV, conv="conv")).params["conv"]
    before = layer.bias.copy()
    with pytest.raises(surgery.BadInput, match=words):
        layer.bias = value
    np.testing.assert_array_equal(layer.bias, before)


def test_a_change_of_dtype_is_made_on_request_if_the_values_fit() -> None:
    layer = surgery.Net(named(CONV, conv="conv")).params["conv"]
    layer.assign("bias", np.array([1.5, 2, 3]), cast=True)
    np.testing.assert_array_equal(layer.bias, np.float32([1.5, 2, 3]))
    with pytest.raises(surgery.BadInput, match="too large"):
        layer.assign("bias", np.array([1e300, 0, 0]), cast=True)
    layer.assign("bias", np.array([np.inf, np.nan, 0]), cast=True)  # no overflow: it was so
    assert np.isinf(layer.bias[0])


def test_whole_numbers_are_not_rounded_unasked() -> None:
    text = f"""{HEAD} net (uint8[1,2,6,6] x) => (float y)
    <int8[3,2,3,3] w, uint8 xz = {{0}}, int8 wz = {{0}}> {{ y = ConvInteger (x, w, xz, wz) }}"""
    layer = surgery.Net(parse(text)).params["y"]
    layer.weight = 5
    assert (layer.weight == 5).all()
    with pytest.raises(surgery.BadInput, match="the value would be rounded"):
        layer.weight = 0.5
    with pytest.raises(surgery.BadInput, match="no value outside -128 to 127"):
        layer.weight = 128
    with pytest.raises(surgery.BadInput, match="no value outside -128 to 127"):
        layer.assign("weight", np.full((3, 2, 3, 3), np.nan), cast=True)
    layer.assign("weight", np.full((3, 2, 3, 3), 1.6), cast=True)
    assert (layer.weight == 2).all()


def test_half_precision_stays_half_precision() -> None:
    model = parse(CONV.replace("float", "float16"))
    net = surgery.Net(model)
    net.params["conv"].weight[...] *= 2
    with pytest.raises(surgery.BadInput, match="float16: the value is too large"):
        net.params["conv"].bias = 70000
    assert {t.data_type for t in net.proto.graph.initializer} == {TensorProto.FLOAT16}


def test_bfloat16_keeps_its_type() -> None:
    model = parse(CONV)
    tensor = next(t for t in model.graph.initializer if t.name == "bias_name")
    tensor.CopyFrom(helper.make_tensor("bias_name", TensorProto.BFLOAT16, [3], [1.0, 2.0, 3.0]))
    net = surgery.Net(model)
    net.params["conv"].bias = 0.5
    edited = next(t for t in net.proto.graph.initializer if t.name == "bias_name")
    assert edited.data_type == TensorProto.BFLOAT16
    np.testing.assert_array_equal(numpy_helper.to_array(edited).astype(np.float32), [0.5] * 3)


def test_weights_that_are_not_finite_can_be_mended() -> None:
    model = parse(CONV)
    bad = np.full(3, np.nan, np.float32)
    next(t for t in model.graph.initializer if t.name == "bias_name").CopyFrom(
        numpy_helper.from_array(bad, "bias_name")
    )
    net = surgery.Net(model)
    net.params["conv"].bias = 0
    assert np.isfinite(net.forward(noise(model))["conv"]).all()
