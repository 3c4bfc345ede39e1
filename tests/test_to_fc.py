"""to_fc: the Gemm model answers as the original, and converting it back gives the Conv model."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import law
import nets
import numpy as np
import onnx
import pytest
from done import convert
from fc import R_NET, arrays, assert_same_answers, kinds, one_op, to_fc, weights

import surgery

PAGE = Path(__file__).parents[1] / "docs" / "to_fc.md"


# ------------------------------------------------ the Gemm model answers as the original

OPS: dict[str, tuple[Any, ...]] = {
    "plain": ("Conv(x, w, b)", "3,9,8", "float[4,3,3,2] w, float[4] b"),
    "no bias": ("Conv(x, w)", "3,9,8", "float[4,3,3,2] w"),
    "asymmetric pads": ("Conv<pads=[2,0,1,3]>(x, w, b)", "3,9,8", "float[4,3,3,2] w, float[4] b"),
    "stride, dilation": ("Conv<strides=[2,3],dilations=[2,1]>(x, w)", "3,9,8", "float[4,3,3,2] w"),
    "groups": ("Conv<group=3>(x, w, b)", "6,7,5", "float[9,2,3,2] w, float[9] b"),
    "depthwise": ("Conv<group=4, pads=[1,1,1,1]>(x, w)", "4,7,5", "float[4,1,3,3] w"),
    "same upper": ('Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', "2,9,8", "float[3,2,4,3] w"),
    "same lower": ('Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)', "2,9,8", "float[3,2,4,3] w"),
    "valid": ('Conv<auto_pad="VALID", strides=[2,2]>(x, w)', "2,9,8", "float[3,2,4,3] w"),
    "one axis": ("Conv<pads=[2,1]>(x, w, b)", "3,11", "float[4,3,4] w, float[4] b"),
    "three axes": ("Conv<strides=[1,2,1]>(x, w, b)", "2,5,6,4", "float[3,2,2,3,2] w, float[3] b"),
    "one cell": ("Conv(x, w, b)", "3,4,5", "float[6,3,4,5] w, float[6] b"),
    "pool": ("AveragePool<kernel_shape=[2,3], strides=[2,2]>(x)", "3,9,8"),
    "pool, pads": ("AveragePool<kernel_shape=[3,3], pads=[1,2,0,1]>(x)", "3,9,8"),
    "pool, counted": ("AveragePool<kernel_shape=[3,3], pads=[1,2,0,1], count_include_pad=1>(x)", "3,9,8"),
    "pool, ceil": ("AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)", "3,8,8"),
    "pool, ceil, counted": (
        "AveragePool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1],ceil_mode=1,count_include_pad=1>(x)",
        "3,8,8",
    ),
    "pool, same": ('AveragePool<kernel_shape=[2,3], strides=[2,2], auto_pad="SAME_UPPER">(x)', "3,9,8"),
    "pool, dilated": ("AveragePool<kernel_shape=[2,2], dilations=[2,3]>(x)", "3,9,8"),
}


@pytest.mark.parametrize("name", OPS)
def test_one_op_becomes_one_gemm(name: str) -> None:
    model = one_op(*OPS[name])
    result, proto = to_fc(model)
    assert kinds(proto) == ["Flatten", "Gemm", "Reshape"]
    (block,), matrix = result.nodes, arrays(proto)["y/matrix"]
    assert block.shape == matrix.shape
    assert block.bytes == matrix.nbytes
    assert block.nonzeros == np.count_nonzero(matrix)
    assert block.distinct == np.unique(matrix[matrix != 0]).size
    shape = [3, *law.image_dims(model)[1:]]  # a batch, which stays free
    assert_same_answers(model, proto, np.random.default_rng(5).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("name", nets.NAMES)
def test_every_fixture(name: str) -> None:
    model = nets.load(name)
    result, proto = to_fc(model)
    assert not {"Conv", "AveragePool"} & {*kinds(proto)}
    assert {b.node for b in result.nodes} == {
        n.name or n.output[0] for n in model.graph.node if n.op_type in ("Conv", "AveragePool")
    }
    assert [v.name for v in proto.graph.output] == [v.name for v in model.graph.output]
    assert_same_answers(model, proto, law.random_image(model, law.window_of(model)))


@pytest.mark.parametrize("opset", [8, 10, 11, 13])
def test_old_opsets(opset: int) -> None:
    model = one_op("Conv(x, w)", "3,6,5", "float[4,3,3,2] w", opset=opset)
    _, proto = to_fc(model)
    onnx.checker.check_model(proto, full_check=True)
    assert_same_answers(model, proto, law.random_image(model, (6, 5)))


def test_the_matrix_is_the_one_of_the_api() -> None:
    model = one_op("Conv<pads=[1,0,1,2], strides=[2,1]>(x, w)", "3,9,8", "float[4,3,3,2] w")
    _, proto = to_fc(model)
    want = surgery.toeplitz(arrays(model)["w"], (3, 9, 8), strides=[2, 1], pads=[1, 0, 1, 2])
    np.testing.assert_array_equal(arrays(proto)["y/matrix"], want.toarray())


def test_only_the_named_nodes_change() -> None:
    model = nets.load("plain")
    _, proto = to_fc(model, nodes=["d"])
    assert kinds(proto).count("Conv") == 1
    assert arrays(proto).keys() - arrays(model).keys() == {"d/matrix", "d/bias", "d/dims"}
    assert arrays(model).keys() - arrays(proto).keys() == {"w2", "b2"}


def test_two_convs_may_share_a_weight() -> None:
    text = """<ir_version: 8, opset_import: ["": 13]> g (float[1,2,6,6] x) => (float[1,2,2,2] y)
        <float[2,2,3,3] w> { m = Conv(x, w) y = Conv(m, w) }"""
    model = nets.parse(text)
    for nodes in ("m", ["y"], ["m", "y"]):
        _, proto = to_fc(model, nodes=nodes)
        assert_same_answers(model, proto, law.random_image(model, (6, 6)))
        assert ("w" in arrays(proto)) == (len(nodes) == 1)


def test_half_floats_keep_their_type() -> None:
    text = """<ir_version: 8, opset_import: ["": 13]> g (float16[1,2,6,6] x) => (float16[1,2,4,4] y)
        <float16[2,2,3,3] w, float16[2] b> { y = Conv(x, w, b) }"""
    model = nets.parse(text)
    _, proto = to_fc(model, tolerance=4e-3)
    assert arrays(proto)["y/matrix"].dtype == np.float16


# ------------------------------------------------ sizes


def test_an_open_size_is_fixed_and_the_batch_stays_free() -> None:
    dense = convert(nets.load("plain"))
    result, proto = to_fc(dense.proto, size=dense.geometry.window)
    dims = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["N", 2, 17, 23]
    dims = [d.dim_param or d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim]
    assert dims == ["N", 6, 1, 1]
    assert result.size == (17, 23)
    image = np.random.default_rng(0).standard_normal((5, 2, 17, 23), dtype=np.float32)
    assert_same_answers(dense.proto, proto, image)
    onnx.checker.check_model(proto, full_check=True)


def test_what_an_earlier_conversion_wrote_is_no_longer_said() -> None:
    dense = convert(nets.load("plain"))
    dense.proto.metadata_props.add(key="owner", value="me")
    _, proto = to_fc(dense.proto, size=(17, 23))
    told = {p.key for p in proto.metadata_props}
    assert told == {"owner", "surgery.version", "surgery.source_sha256"}


# ------------------------------------------------ the round trip


@pytest.mark.parametrize("name", ["plain", "padded", "two_outputs", "signal", "volume", "softmax_21", "nhwc"])
def test_the_head_comes_back_to_the_byte(name: str) -> None:
    """FC -> Conv -> FC -> Conv: what `convert` made, `to_fc` unmakes, and `convert` makes it again."""
    dense = convert(nets.load(name))
    first, window = dense.proto, dense.geometry.window
    lifted = [n.name for n in first.graph.node if n.op_type == "Conv" and n.name.endswith("/conv")]
    _, fc = to_fc(first, nodes=lifted, size=window)
    assert_same_answers(first, fc, law.random_image(dense.model, window))

    second = convert(fc).proto
    assert kinds(second) == kinds(first)
    assert weights(second) == weights(first)
    image = law.random_image(dense.model, [w + 9 for w in window])
    for key, value in law.run(first, image).items():
        np.testing.assert_array_equal(law.run(second, image)[key], value)


def test_a_trained_head_comes_back_to_the_byte() -> None:
    first = convert(onnx.load(R_NET)).proto
    lifted = [n.name for n in first.graph.node if "Gemm" in n.name and n.op_type == "Conv"]
    _, fc = to_fc(first, nodes=lifted, size=(24, 24))
    second = convert(fc).proto
    assert weights(second) == weights(first)


def test_a_trunk_of_matrices_alone_converts_to_every_window_at_stride_one() -> None:
    """Its padding is inside the matrices, so it belongs to each window: the padded net becomes exact."""
    model = nets.load("residual")
    assert convert(model).result.verdict == "padded"
    _, fc = to_fc(model)
    back = convert(fc)
    assert (back.result.verdict, back.geometry.stride) == ("exact", (1, 1))
    law.assert_equals_crops(model, back.proto, [w + 2 for w in law.window_of(model)], (1, 1))


def test_a_matrix_in_the_trunk_makes_head_of_what_follows() -> None:
    """A pool behind it would slide over features: it runs on windows as a batch, or not at all."""
    _, fc = to_fc(nets.load("plain"), nodes=["a"])
    pool = next(row for row in surgery.convert(fc).head if row.op == "MaxPool")
    assert pool.becomes.startswith("folded into the batch")
    with pytest.raises(surgery.Refused, match=r"cannot lift MaxPool 'c'.*a map made of features"):
        surgery.convert(fc, pure_conv=True)


def test_the_last_conv_as_a_matrix_gives_the_same_dense_answers() -> None:
    model = nets.load("plain")
    _, fc = to_fc(model, nodes=["d"])
    image = law.random_image(model, (33, 40))
    want, got = law.run(convert(model).proto, image), law.run(convert(fc).proto, image)
    np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-5)


# ------------------------------------------------ the report


def test_the_report_says_the_same_in_three_forms() -> None:
    result, _ = to_fc(R_NET)
    data = json.loads(result.to_json())
    assert data == result.to_dict()
    first = data["nodes"][0]
    assert first["shape"] == [28 * 22 * 22, 3 * 24 * 24]
    assert first["nonzeros"] == 28 * 22 * 22 * 27
    assert first["density"] == first["nonzeros"] / np.prod(first["shape"])
    assert first["distinct"] == 28 * 27
    assert data["total"]["bytes"] == sum(b["bytes"] for b in data["nodes"]) == 148_131_072
    assert (data["size"], data["output"], data["proof"]["passed"]) == ([24, 24], None, True)
    shown = str(result)
    for words in (
        "13552 x 1728",
        "365,904",
        "1.56 %",
        "756",
        "148,131,072 bytes (141.3 MiB)",
        "Nothing was written",
    ):
        assert words in shown


def test_the_model_given_is_not_changed() -> None:
    model = nets.load("plain")
    before = model.SerializeToString(deterministic=True)
    to_fc(model)
    assert model.SerializeToString(deterministic=True) == before


def test_the_file_holds_the_model(tmp_path: Path) -> None:
    model, path = nets.load("plain"), tmp_path / "fc.onnx"
    result, proto = to_fc(model, output=path)
    assert result.output == str(path)
    assert f"Written to {path}" in " ".join(str(result).split())
    assert onnx.load(path) == proto
    assert list(tmp_path.iterdir()) == [path]


def test_weights_beside_the_model_stay_beside_it(tmp_path: Path) -> None:
    source, path = tmp_path / "net.onnx", tmp_path / "fc.onnx"
    onnx.save(nets.load("plain"), source, save_as_external_data=True, location="net.data", size_threshold=0)
    _, proto = to_fc(source, output=path)
    assert path.stat().st_size < (tmp_path / "fc.onnx.data").stat().st_size
    assert_same_answers(onnx.load(path), proto, law.random_image(proto, (17, 23)))


# ------------------------------------------------ the page


def test_the_page_prints_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fixtures").symlink_to(nets.FIXTURES)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == PAGE.read_text().count("```python") > 3
    names: dict[str, Any] = {}
    for code, shown in blocks:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(PAGE), "exec"), names)
        assert steady(out.getvalue()) == steady(shown)


def steady(text: str) -> list[str]:
    """The words of a text, with the errors that onnxruntime's kernels decide on each machine left out."""
    return ["(error)" if re.fullmatch(r"[\d.]+e-\d+,", word) else word for word in text.split()]
