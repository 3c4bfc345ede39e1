"""Net: parameters by name that write through, blobs, forward, reshape, save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from law import run
from nets import NAMES, load, parse
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import surgery

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


# ------------------------------------------------ names


@pytest.mark.parametrize(
    ("node", "weight", "listed", "also"),
    [
        ("conv1", "w", "conv1", ["w", "Conv_conv"]),
        ("", "conv1.weight", "conv1", ["Conv_conv", "conv"]),
        ("", "fc6_w_0", "fc6", []),
        ("", "conv2d/kernel:0", "conv2d", []),
        ("", "block/conv/Conv2D/ReadVariableOp:0", "block/conv/Conv2D/ReadVariableOp:0", []),
        ("", "block/kernel/ReadVariableOp:0", "block", []),
        ("", "linear_0.w_0", "linear_0", []),
        ("", "stem.filter", "stem", []),
        ("", "onnx::Conv_45", "Conv_conv", ["conv"]),
        ("", "123", "Conv_conv", []),
        ("/conv1/Conv", "conv1.weight", "/conv1/Conv", ["conv1", "Conv_conv"]),
        ("fc6/conv", "fc6/weight", "fc6/conv", ["fc6"]),
    ],
)
def test_a_layer_is_found_by_all_its_names(node: str, weight: str, listed: str, also: list[str]) -> None:
    model = parse(CONV)
    model.graph.node[0].name = node
    model.graph.node[0].input[1] = weight
    next(t for t in model.graph.initializer if t.name == "weight_name").name = weight
    net = surgery.Net(model)
    assert list(net.params) == [listed]
    for name in (listed, *also):
        assert net.params[name].weight is net.params[listed].weight
        assert name in net.params


def test_nodes_of_one_name_are_told_apart() -> None:
    text = f"""{HEAD} net (float[1,2,6,7] image) => (float[1,2,2,3] c)
    <float[2,2,3,3] w> {{ b = Conv (image, w) c = Conv (b, w) }}"""
    net = surgery.Net(named(text, b="same", c="same"))
    assert list(net.params) == ["same", "w"]
    assert net.params["w"].weight is net.params["same"].weight  # one tensor, seen from both
    unnamed = surgery.Net(named(text))
    assert list(unnamed.params) == ["w", "Conv_c"]
    assert unnamed.params["c"].weight is unnamed.params["w"].weight


def test_an_alias_of_two_layers_is_refused_with_both() -> None:
    text = f"""{HEAD} net (float[1,2,6,7] image) => (float[1,2,2,3] c)
    <float[2,2,3,3] k> {{ b = Conv (image, k) c = Conv (b, k) }}"""
    net = surgery.Net(named(text, b="one", c="two"))
    assert "k" not in net.params
    with pytest.raises(surgery.BadInput, match="'k' could be any of 'one', 'two'"):
        net.params["k"]


def test_unknown_names_are_answered_with_the_nearest() -> None:
    net = surgery.Net("fixtures/rnet24.onnx")
    with pytest.raises(surgery.BadInput, match=r"no parameter 'tt.l.0'; the nearest names are 't.l.0'"):
        net.params["tt.l.0"]
    with pytest.raises(surgery.BadInput, match=r"nearest names are '/h/l/l.0/Gemm'"):
        net.params["gemm"]
    with pytest.raises(KeyError):  # as of any mapping
        net.params["zzz"]
    assert net.params.get("zzz") is None
    with pytest.raises(AttributeError, match="has no 'wieght'; it has weight, bias"):
        net.params["t.l.0"].wieght  # noqa: B018
    with pytest.raises(surgery.BadInput, match="has no 'wieght'; it has weight, bias"):
        net.params["t.l.0"].wieght = 1


# ------------------------------------------------ which constants are parameters


def roles(model: onnx.ModelProto) -> dict[str, list[str]]:
    return {name: list(layer) for name, layer in surgery.Net(model).params.items()}


@pytest.mark.parametrize(
    ("ops", "weights", "expected"),
    [
        ("s = MatMul (x, w) y = Add (s, b)", "float[6,4] w, float[4] b", ["weight", "bias"]),
        ("s = MatMul (x, w) y = Add (b, s)", "float[6,4] w, float[1,4] b", ["weight", "bias"]),
        ("y = Gemm (x, w, b)", "float[6,4] w, float[4] b", ["weight", "bias"]),
        ("y = PRelu (x, w)", "float[6] w", ["slope"]),
        ("y = Mul (x, w)", "float[6] w", ["scale"]),
        ("y = Sub (w, x)", "float[6] w", ["value"]),
        ("y = LayerNormalization (x, w, b)", "float[6] w, float[6] b", ["scale", "bias"]),
    ],
)
def test_what_a_constant_is_called(ops: str, weights: str, expected: list[str]) -> None:
    model = parse(f"{HEAD} net (float[1,6] x) => (float y) <{weights}> {{ {ops} }}")
    assert list(roles(model).values()) == [expected]


def test_the_bias_of_a_convolution_may_be_an_add_over_channels_only() -> None:
    def layers(shape: str) -> list[list[str]]:
        text = f"{HEAD} net (float[1,2,6,6] x) => (float y) <float[4,2,3,3] w, float{shape} b>"
        return [*roles(parse(f"{text} {{ s = Conv (x, w) y = Add (s, b) }}")).values()]

    assert layers("[4,1,1]") == layers("[1,4,1,1]") == [["weight", "bias"]]
    assert layers("[4]") == layers("[4,4]") == [["weight"], ["bias"]]  # adds along the columns


def test_a_product_that_others_read_keeps_its_add_apart() -> None:
    text = f"{HEAD} net (float[1,6] x) => (float y) <float[6,4] w, float[4] b>"
    model = parse(f"{text} {{ s = MatMul (x, w) t = Add (s, b) y = Sum (s, t) }}")
    assert list(roles(model).values()) == [["weight"], ["bias"]]


def test_batch_normalization_and_recurrent_layers() -> None:
    assert roles(load("batch_norms"))["s2"] == ["scale", "bias", "mean", "var"]
    text = f"""{HEAD} net (float[5,1,3] x) => (float y) <float[1,8,3] w, float[1,8,2] r, float[1,16] b>
    {{ y, h, c = LSTM <hidden_size = 2> (x, w, r, b) }}"""
    assert list(roles(parse(text)).values()) == [["w", "r", "b"]]


def test_settings_are_no_parameters() -> None:
    text = f"""{HEAD} net (float[1,2,6,6] x) => (float y)
    <float[4] scales = {{1.0, 1.0, 2.0, 2.0}}, float six = {{6.0}}, int64[2] shape = {{1, -1}}>
    {{ r = Resize (x, , scales) c = Clip (r, , six) h = Div (c, six) y = Reshape (h, shape) }}"""
    net = surgery.Net(parse(text))
    assert list(net.params) == []
    with pytest.raises(surgery.BadInput, match="the model has none at all"):
        net.params["x"]


def test_weights_of_nodes_are_found_and_edited() -> None:
    model = load("made_weights")  # a Gemm whose weight is transposed, and whose bias is an Identity
    original = onnx.ModelProto()
    original.CopyFrom(model)
    net = surgery.Net(model)
    gemm = net.params["h"]
    np.testing.assert_array_equal(gemm.weight, initializer(model, "w3").T)
    np.testing.assert_array_equal(gemm.bias, initializer(model, "b3"))
    np.testing.assert_array_equal(net.params["scores"].bias, np.float32([0.5, -1, 2, 0.25, 0, 1.5]))

    gemm.weight[:] *= 3
    gemm.bias[:] = 2
    net.params["scores"].bias[:] = -7
    edited = net.proto
    held = {t.name: t for t in original.graph.initializer}
    held["w3"].CopyFrom(numpy_helper.from_array(3 * initializer(model, "w3"), "w3"))
    held["b3"].CopyFrom(numpy_helper.from_array(np.full(6, 2, np.float32), "b3"))
    constant = next(n for n in original.graph.node if n.output[0] == "k")
    constant.attribute[0].t.CopyFrom(numpy_helper.from_array(np.full(6, -7, np.float32)))
    image = noise(model)
    np.testing.assert_allclose(run(edited, image)["scores"], run(original, image)["scores"], rtol=1e-5)
    assert [n.op_type for n in edited.graph.node].count("Transpose") == 0  # what only fed the old value
    assert "w3" not in {t.name for t in edited.graph.initializer}
    assert [n.op_type for n in edited.graph.node].count("Identity") == 1


def test_quantized_weights_show_their_real_values() -> None:
    text = f"""{HEAD} net (float[1,2,6,6] x) => (float y)
    <int8[3,2,3,3] q, float[3] s = {{0.5, 0.25, 2.0}}, int8[3] z = {{0, 0, 0}}>
    {{ w = DequantizeLinear <axis = 0> (q, s, z) y = Conv (x, w) }}"""
    model = parse(text)
    whole = np.random.default_rng(0).integers(-9, 9, (3, 2, 3, 3), np.int8)
    next(t for t in model.graph.initializer if t.name == "q").CopyFrom(numpy_helper.from_array(whole, "q"))
    net = surgery.Net(model)
    np.testing.assert_array_equal(
        net.params["y"].weight, whole * np.float32([0.5, 0.25, 2]).reshape(3, 1, 1, 1)
    )
    assert net.proto == model  # looking changes nothing
    net.params["y"].weight[1] = 0
    edited = net.proto
    assert [n.op_type for n in edited.graph.node] == ["Conv"]
    image = noise(model)
    assert not run(edited, image)["y"][0, 1].any()
    np.testing.assert_allclose(run(edited, image)["y"][0, 2], run(model, image)["y"][0, 2], rtol=1e-4)


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


# ------------------------------------------------ blobs and forward


@pytest.mark.parametrize("name", NAMES)
def test_every_blob_is_what_onnxruntime_gives_for_it(name: str) -> None:
    model = load(name)
    image = noise(model)
    net = surgery.Net(model)
    inferred = {blob: net.blobs[blob].shape for blob in net.blobs}
    wanted = [b for b in net.blobs if b not in net.inputs]
    got = net.forward(image, blobs=wanted)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=blob) for blob in wanted)
    for blob, value in run(probe, image).items():
        np.testing.assert_allclose(got[blob], value, rtol=1e-5, atol=1e-6, err_msg=blob)
        assert net.blobs[blob].shape == value.shape
        pairs = zip(inferred[blob] or value.shape, value.shape, strict=True)
        assert all(isinstance(dim, str) or dim == size for dim, size in pairs)
    np.testing.assert_array_equal(net.blobs[net.inputs[0]].data, image)


def test_a_blob_is_of_the_last_forward() -> None:
    model = load("plain")
    net = surgery.Net(model)
    with pytest.raises(surgery.BadInput, match="'map' has no value yet: call forward first"):
        net.blobs["map"].data  # noqa: B018
    image = noise(model)
    out = net.forward(image)
    np.testing.assert_array_equal(net.blobs["scores"].data, out["scores"])
    first = net.blobs["map"].data
    net.params["w1"].bias[:] += 1
    assert net.blobs["map"].data is first  # still the one of that forward
    with pytest.raises(surgery.BadInput, match="'a' belongs to a forward with other parameters"):
        net.blobs["a"].data  # noqa: B018
    assert net.blobs["a"].shape == (1, 4, 8, 10)
    net.forward(image)
    assert not np.array_equal(net.blobs["map"].data, first)
    with pytest.raises(surgery.BadInput, match="there is no blob 'mapp'; the nearest names are 'map'"):
        net.forward(image, blobs=["mapp"])


def test_the_image_may_lack_its_batch_and_be_of_whole_numbers() -> None:
    model = load("plain")
    net = surgery.Net(model)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 17, 23), np.uint8)
    expected = run(model, pixels[np.newaxis].astype(np.float32))["scores"]
    np.testing.assert_allclose(net.forward(pixels)["scores"], expected, rtol=1e-5)
    np.testing.assert_allclose(net.forward(pixels.astype(np.float64))["scores"], expected, rtol=1e-5)
    np.testing.assert_allclose(net.forward(image=pixels)["scores"], expected, rtol=1e-5)
    np.testing.assert_allclose(net.forward(pixels.tolist())["scores"], expected, rtol=1e-5)


def test_an_input_that_does_not_fit_is_refused() -> None:
    net = surgery.Net(load("plain"))
    with pytest.raises(surgery.BadInput, match=r"shape \[1, 2, 17, 23\], the array given \[2, 18, 23\]"):
        net.forward(np.zeros((2, 18, 23), np.float32))
    with pytest.raises(surgery.BadInput, match=r"takes the inputs \['image'\]; given were \[\]"):
        net.forward()
    with pytest.raises(surgery.BadInput, match=r"given were \['image', 'mask'\]"):
        net.forward(np.zeros((2, 17, 23)), mask=1)
    with pytest.raises(surgery.BadInput, match="is float32, the array given complex128"):
        net.forward(np.zeros((2, 17, 23), complex))
    with pytest.raises(surgery.BadInput, match="is uint8, the array given float64"):
        surgery.Net(load("bytes")).forward(np.zeros((1, 2, 17, 23)))


def test_several_inputs_go_by_name() -> None:
    text = f"""{HEAD} net (float[1,2,4,5] image, float[1,2] more) => (float y)
    <float[2] b>
    {{ p = ReduceMean <axes = [2, 3], keepdims = 0> (image) s = Mul (p, more) y = Add (s, b) }}"""
    net = surgery.Net(parse(text))
    image, more = np.ones((1, 2, 4, 5), np.float32), np.float32([[2, 3]])
    by_name = net.forward(image=image, more=more)["y"]
    np.testing.assert_array_equal(net.forward(image, more=more)["y"], by_name)
    np.testing.assert_allclose(by_name, more + net.params["y"].bias)
    net.reshape(7, 9)
    assert net.blobs["image"].shape == (1, 2, 7, 9)
    assert net.blobs["more"].shape == (1, 2)


# ------------------------------------------------ reshape


def test_a_convolution_takes_another_size_and_the_file_too(tmp_path: Path) -> None:
    model = parse(CONV)
    net = surgery.Net(model)
    net.reshape(9, 30)
    assert net.blobs["conv"].shape == (1, 3, 7, 28)
    image = np.random.default_rng(0).random((1, 2, 9, 30), np.float32)
    dynamic = onnx.ModelProto()
    dynamic.CopyFrom(model)
    for dim in dynamic.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "?"
    dynamic.graph.output[0].type.tensor_type.ClearField("shape")
    np.testing.assert_allclose(net.forward(image)["conv"], run(dynamic, image)["conv"], rtol=1e-5)
    net.save(tmp_path / "large.onnx")
    saved = onnx.load(tmp_path / "large.onnx")
    onnx.checker.check_model(saved, full_check=True)
    dims = [
        [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (saved.graph.input[0], saved.graph.output[0])
    ]
    assert dims == [[1, 2, 9, 30], [1, 3, 7, 28]]
    net.reshape(6, 7)
    np.testing.assert_array_equal(
        net.forward(image[:, :, :6, :7])["conv"], run(model, image[:, :, :6, :7])["conv"]
    )


def test_a_net_of_open_size_stays_open() -> None:
    net = surgery.Net(surgery.convert(load("plain")).proto)
    assert net.blobs["scores"].shape == ("N", 6, "?", "?")
    net.reshape(25, 27)
    assert net.blobs["image"].shape == ("N", 2, 25, 27)
    assert net.blobs["scores"].shape[1:] == (6, 3, 2)
    assert net.forward(np.zeros((2, 2, 17, 31), np.float32))["scores"].shape == (2, 6, 1, 3)
    assert net.blobs["scores"].shape == (2, 6, 1, 3)
    dims = net.proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims] == ["N", "", "height", "width"]


@pytest.mark.parametrize(
    ("reshape", "words"),
    [
        ("f = Flatten (map)", "Gemm 'scores' takes a fixed number of features"),
        ("f = Reshape (map, fixed)", "Reshape 'f' makes a shape that is fixed"),
        ("f = Reshape (map, batch)", "Reshape 'f' makes a batch of 2 of its positions"),
    ],
)
def test_a_size_baked_into_a_node_is_named_and_nothing_changes(reshape: str, words: str) -> None:
    text = f"""{HEAD} net (float[1,2,6,7] image) => (float[1,5] scores)
    <float[3,2,3,3] w, float[5,60] v, int64[2] fixed = {{1, 60}}, int64[2] batch = {{-1, 60}}>
    {{ map = Conv (image, w) {reshape} scores = Gemm <transB = 1> (f, v) }}"""
    model = parse(text)
    net = surgery.Net(model)
    before, image = net.proto, noise(model)
    with pytest.raises(surgery.BadInput, match=f"{words}. It was made for 6x7; `surgery convert`"):
        net.reshape(10, 7)
    assert net.proto == before
    np.testing.assert_allclose(net.forward(image)["scores"], run(model, image)["scores"], rtol=1e-5)


def test_other_kinds_of_images_take_other_sizes() -> None:
    signal = f"{HEAD} net (float[1,2,9] x) => (float y) <float[3,2,3] w> {{ y = Conv (x, w) }}"
    net = surgery.Net(parse(signal))
    net.reshape(50)
    assert net.blobs["y"].shape == (1, 3, 48)
    with pytest.raises(surgery.BadInput, match="has 1 sides of 1 pixel or more"):
        net.reshape(5, 5)
    with pytest.raises(surgery.BadInput, match="Conv 'y' cannot take what reaches it"):
        net.reshape(2)
    last = f"""{HEAD} net (float[1,8,9,3] x) => (float y) <float[3,3,3,3] w>
    {{ t = Transpose <perm = [0, 3, 1, 2]> (x) y = Conv (t, w) }}"""
    net = surgery.Net(parse(last))
    net.reshape(11, 13)
    assert net.blobs["x"].shape == (1, 11, 13, 3)
    assert net.blobs["y"].shape == (1, 3, 9, 11)


# ------------------------------------------------ files


def test_saving_keeps_metadata_and_docs(tmp_path: Path) -> None:
    model = named(CONV, conv="conv")
    model.doc_string, model.producer_name, model.model_version, model.domain = "about", "someone", 7, "org.x"
    model.metadata_props.add(key="labels", value="cat,dog")
    model.graph.doc_string = "graph"
    model.graph.node[0].doc_string = "node"
    model.graph.initializer[0].doc_string = "tensor"
    model.graph.initializer[0].metadata_props.add(key="unit", value="none")
    onnx.save(model, tmp_path / "a.onnx")
    net = surgery.Net(tmp_path / "a.onnx")
    net.params["conv"].weight[...] = 1
    net.params["conv"].bias[...] = 2
    net.save(tmp_path / "b.onnx")
    saved = onnx.load(tmp_path / "b.onnx")
    assert (initializer(saved, "weight_name") == 1).all()
    for name in ("weight_name", "bias_name"):
        for one in (saved, model):
            next(t for t in one.graph.initializer if t.name == name).ClearField("raw_data")
    assert saved == model
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_no_file_is_replaced_without_force(tmp_path: Path) -> None:
    onnx.save(parse(CONV), tmp_path / "a.onnx")
    onnx.save(parse(CONV), tmp_path / "b.onnx")
    net = surgery.Net(tmp_path / "a.onnx")
    net.params["conv"].bias = 3
    before = (tmp_path / "a.onnx").read_bytes()
    with pytest.raises(surgery.BadInput, match="is the input itself"):
        net.save(tmp_path / "a.onnx")
    with pytest.raises(surgery.BadInput, match="exists already"):
        net.save(tmp_path / "b.onnx")
    with pytest.raises(surgery.BadInput, match="there is no folder"):
        net.save(tmp_path / "none" / "c.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() == before
    net.save(tmp_path / "b.onnx", force=True)
    net.save(tmp_path / "a.onnx", force=True)
    for name in ("a.onnx", "b.onnx"):
        assert (surgery.Net(tmp_path / name).params["conv"].bias == 3).all()


def external(path: Path, data: str) -> None:
    model = parse(CONV.replace("[3", "[40").replace("1,3,4", "1,40,4"))
    onnx.save(model, path, save_as_external_data=True, location=data, size_threshold=0)


def test_external_weights_stay_external(tmp_path: Path) -> None:
    external(tmp_path / "a.onnx", "a.weights")
    kept = (tmp_path / "a.weights").read_bytes()
    net = surgery.Net(tmp_path / "a.onnx")
    big = onnx.load(tmp_path / "a.onnx")
    net.params["conv"].weight[...] += 1
    net.save(tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx.data").exists()
    saved = onnx.load(tmp_path / "b.onnx")
    np.testing.assert_array_equal(initializer(saved, "weight_name"), initializer(big, "weight_name") + 1)
    assert (tmp_path / "a.weights").read_bytes() == kept


def test_external_weights_of_others_are_not_overwritten(tmp_path: Path) -> None:
    external(tmp_path / "a.onnx", "b.onnx.data")  # its own weights, under a name that b's would have
    kept = (tmp_path / "b.onnx.data").read_bytes()
    net = surgery.Net(tmp_path / "a.onnx")
    with pytest.raises(surgery.BadInput, match=r"b\.onnx\.data exists already"):
        net.save(tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx.data").read_bytes() == kept


def test_a_model_without_its_external_weights_is_refused(tmp_path: Path) -> None:
    external(tmp_path / "a.onnx", "a.weights")
    bare = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    with pytest.raises(surgery.BadInput, match="lies in a file of its own that was not loaded"):
        surgery.Net(bare)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(surgery.BadInput, match="cannot read"):
        surgery.Net(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(surgery.BadInput, match="is not an ONNX model"):
        surgery.Net(tmp_path / "text.onnx")


def test_it_says_what_it_is() -> None:
    net = surgery.Net("fixtures/rnet24.onnx")
    assert repr(net) == "Net('fixtures/rnet24.onnx': 10 layers with parameters, 16 blobs)"
    assert repr(net.params["h.l.0"]) == "Gemm '/h/l/l.0/Gemm': weight [128, 576] float32, bias [128] float32"
    assert repr(net.blobs["42"]) == "42: [1, 4]"
    assert net.inputs == ["input"]
    assert net.outputs == ["42", "44"]


# ------------------------------------------------ where weights may hide


def test_weights_of_local_functions_are_found() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "my": 1]>
        net (float[1,2,6,7] image) => (float[1,3,6,7] y) { y = my.Block (image) }
        <domain: "my", opset_import: ["": 17]>
        Block (x) => (y) {
          w = Constant <value = float[3,2,1,1] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> ()
          y = Conv (x, w)
        }"""
    )
    net = surgery.Net(model)
    (conv,) = net.params.values()
    np.testing.assert_array_equal(conv.weight.ravel(), [1, 2, 3, 4, 5, 6])
    conv.weight[2] = 0
    got = net.forward(np.ones((1, 2, 6, 7), np.float32))["y"]
    np.testing.assert_array_equal(got[0, :, 0, 0], [3, 7, 0])


def test_one_tensor_behind_two_identities_is_one_array() -> None:
    model = onnx.parser.parse_model(
        f"""{HEAD} net (float[1,3] x) => (float y) <float[3] w = {{1.0, 2.0, 3.0}}> {{
          c = Constant <value_floats = [1.0, 2.0, 3.0]> ()
          a = Identity (w)
          b = Identity (w)
          p = PRelu (x, c)
          q = Mul (p, a)
          y = Add (q, b)
        }}"""
    )
    net = surgery.Net(model)
    net.params["p"].slope[:] = 0
    net.params["q"].scale[0] = 5
    np.testing.assert_array_equal(net.params["y"].bias, [5, 2, 3])
    np.testing.assert_array_equal(net.forward(np.float32([[-1, 1, 1]]))["y"], [[5, 4, 6]])


def test_weights_read_by_a_branch_are_edited_for_it_too() -> None:
    x, cond = (helper.make_tensor_value_info(n, k, s) for n, k, s in [("x", 1, [1, 3]), ("cond", 9, [])])
    then = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", 1, [1, 3])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", 1, [1, 3])],
    )
    nodes = [
        helper.make_node("If", ["cond"], ["z"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["z", "w"], ["y"]),
    ]
    weight = numpy_helper.from_array(np.float32([1, 2, 3]), "w")
    graph = helper.make_graph(
        nodes, "g", [x, cond], [helper.make_tensor_value_info("y", 1, [1, 3])], [weight]
    )
    net = surgery.Net(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    net.params["w"].bias = 2
    ones = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(net.forward(x=ones, cond=True)["y"], [[4, 4, 4]])
    np.testing.assert_array_equal(net.forward(x=ones, cond=False)["y"], [[3, 3, 3]])


def test_a_matrix_that_is_an_input_is_no_parameter() -> None:
    text = f"{HEAD} net (float[1,3] x, float[3,4] w) => (float y) {{ y = MatMul (x, w) }}"
    net = surgery.Net(onnx.parser.parse_model(text))
    assert not net.params
    with pytest.raises(surgery.Refused, match="no image input"):
        net.reshape(3, 3)
