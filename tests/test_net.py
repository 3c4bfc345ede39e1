"""Net: parameters by all their names, and which constants are parameters."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from law import run
from net_models import CONV, HEAD, initializer, named, noise
from nets import load, parse
from onnx import helper, numpy_helper

import surgery

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
