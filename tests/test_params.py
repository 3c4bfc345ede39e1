"""The functions behind `surgery params`: list, get, set, scale, copy; and that refusals write nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import load, parse
from onnx import numpy_helper

import surgery
from surgery.params import copy_params, get_params, list_params, scale_params, set_params

RNET = Path("fixtures/rnet24.onnx")
HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def tensor(model: Any, name: str) -> Any:
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    return numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == name))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    onnx.save(load("plain"), tmp_path / "plain.onnx")
    return tmp_path / "plain.onnx"


# ------------------------------------------------ list


def test_the_list_has_a_row_for_each_parameter_with_its_numbers() -> None:
    listing = list_params(RNET)
    data = json.loads(listing.to_json())
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(RNET).graph.initializer}
    assert {row["tensor"] for row in data["parameters"]} == set(weights)
    assert data["total"] == sum(w.size for w in weights.values())
    for row in data["parameters"]:
        values = weights[row["tensor"]]
        assert row["shape"] == list(values.shape)
        assert row["dtype"] == "float32"
        np.testing.assert_allclose(
            [row["min"], row["max"], row["mean"]], [values.min(), values.max(), values.mean()], atol=1e-12
        )
    assert set(data["parameters"][0]) == {
        "name", "op", "parameter", "shape", "dtype", "min", "max", "mean", "tensor", "shared_with",
    }  # fmt: skip


def test_the_table_reads_as_one() -> None:
    lines = str(list_params(RNET)).splitlines()
    assert lines[0].split() == ["name", "op", "parameter", "shape", "dtype", "min", "max", "mean", "tensor"]
    assert "/h/l/l.0/Gemm" in lines[10]
    assert "[128, 576]" in lines[10]
    assert lines[-1] == "100,178 values in 16 parameters"
    assert len({line.index("float32") for line in lines[1:-1]}) == 1  # columns stand in line
    assert not any(line.endswith(" ") for line in lines)


def test_shared_tensors_are_said_to_be_shared_and_counted_once() -> None:
    listing = list_params(load("shared_weight"))
    assert [row.shared_with for row in listing.rows[-2:]] == [("w3.weight",), ("w3.bias",)]
    assert "w3.weight is the same tensor as Gemm_k.weight" in str(listing)
    assert listing.total == sum({row.tensor: np.prod(row.shape) for row in listing.rows}.values())


def test_numbers_that_are_none_are_null() -> None:
    model = load("plain")
    held = {t.name: t for t in model.graph.initializer}
    held["b1"].CopyFrom(numpy_helper.from_array(np.float32([1, np.nan, np.inf, 2]), "b1"))
    listing = list_params(model)
    data = json.loads(listing.to_json(), parse_constant=pytest.fail)
    assert [data["parameters"][1][key] for key in ("min", "max", "mean")] == [None, None, None]
    assert str(listing).splitlines()[2].split()[-4:-1] == ["-", "-", "-"]
    empty = parse(f"{HEAD} net (float[1,4] x) => (float y) {{ y = Relu (x) }}")
    assert str(list_params(empty)).splitlines()[-1] == "0 values in 0 parameters"


# ------------------------------------------------ get


def test_values_are_printed_and_given_as_json() -> None:
    values = get_params(RNET, ["b.l.0"])
    assert list(values.arrays) == ["/b/l/l.0/Gemm.weight", "/b/l/l.0/Gemm.bias"]
    assert "/b/l/l.0/Gemm.bias [4] float32" in str(values)
    data = json.loads(values.to_json())
    assert data["output"] is None
    bias = data["parameters"][1]
    assert bias["name"] == "/b/l/l.0/Gemm.bias"
    np.testing.assert_array_equal(np.float32(bias["values"]), tensor(RNET, "b.l.0.bias"))


@pytest.mark.parametrize("name", ["b.l.0.bias", "/b/l/l.0/Gemm.bias"])
def test_one_array_goes_to_a_npy(name: str, tmp_path: Path) -> None:
    values = get_params(RNET, [name], tmp_path / "bias.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "bias.npy"), tensor(RNET, "b.l.0.bias"))
    assert str(values) == f"wrote /b/l/l.0/Gemm.bias [4] float32 to {tmp_path / 'bias.npy'}"
    assert "values" not in values.to_dict()["parameters"][0]


def test_several_arrays_go_to_a_npz_and_come_back(tmp_path: Path) -> None:
    get_params(RNET, ["t.l.0", "b.l.0.bias"], tmp_path / "some.npz")
    with np.load(tmp_path / "some.npz") as arrays:
        assert sorted(arrays) == ["/b/l/l.0/Gemm.bias", "/t/l/l.0/Conv.bias", "/t/l/l.0/Conv.weight"]
    names = ["b.l.0.bias", "/t/l/l.0/Conv.weight"]
    zero = tmp_path / "zero.onnx"
    set_params(RNET, dict.fromkeys(names, 0), zero)
    set_params(zero, dict.fromkeys(names, tmp_path / "some.npz"), tmp_path / "back.onnx")
    for name in ("b.l.0.bias", "t.l.0.weight"):
        assert not tensor(zero, name).any()
        np.testing.assert_array_equal(tensor(tmp_path / "back.onnx", name), tensor(RNET, name))


@pytest.mark.parametrize("node", ["", "conv", "w1"])
@pytest.mark.parametrize("weight", ["w1", "conv.weight", "conv_w_0"])
def test_a_parameter_is_found_by_its_tensor_too(node: str, weight: str) -> None:
    model = parse(
        f"{HEAD} net (float[1,2,6,6] x) => (float y) <float[3,2,3,3] w, float[3] b> {{ y = Conv (x, w, b) }}"
    )
    model.graph.node[0].name = node
    model.graph.node[0].input[1] = model.graph.initializer[0].name = weight
    found = list(get_params(model, [weight]).arrays.values())
    assert [a.shape for a in found][:1] == [(3, 2, 3, 3)]
    whole_layer = weight == "w1" == next(iter(surgery.Net(model).params))
    assert len(found) == (2 if whole_layer else 1)


# ------------------------------------------------ set, scale


def test_only_what_is_named_changes(plain: Path, tmp_path: Path) -> None:
    before = plain.read_bytes()
    np.save(tmp_path / "w3.npy", np.full((7, 60), 0.5, np.float32))
    edit = set_params(plain, {"w1.bias": "1.5", "w3.weight": str(tmp_path / "w3.npy")}, tmp_path / "out.onnx")
    assert plain.read_bytes() == before
    out = onnx.load(tmp_path / "out.onnx")
    for t in onnx.load(plain).graph.initializer:
        expected = {"b1": 1.5, "w3": 0.5}.get(t.name, numpy_helper.to_array(t))
        np.testing.assert_array_equal(tensor(out, t.name), np.broadcast_to(expected, tuple(t.dims)))
    data = json.loads(edit.to_json())
    assert [row["name"] for row in data["changed"]] == ["w1", "w3"]
    assert data["changed"][0]["after"] == {"min": 1.5, "max": 1.5, "mean": 1.5}
    assert data["changed"][0]["min"] == float(tensor(plain, "b1").min())
    assert str(edit).splitlines()[-1] == f"wrote {tmp_path / 'out.onnx'}"


@given(factor=st.floats(-1e3, 1e3, width=32))
def test_scaling_multiplies(factor: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    model = load("plain")
    scale_params(model, ["w2.weight"], factor, folder / "scaled.onnx", force=True)
    expected = (tensor(model, "w2").astype(np.float64) * factor).astype(np.float32)
    np.testing.assert_array_equal(tensor(folder / "scaled.onnx", "w2"), expected)


def test_whole_numbers_are_scaled_on_request(tmp_path: Path) -> None:
    model = parse(
        f"""{HEAD} net (uint8[1,2,6,6] x) => (int32 y)
        <int8[1,2,1,1] w = {{5, -7}}, uint8 p = {{0}}, int8 q = {{0}}> {{ y = ConvInteger (x, w, p, q) }}"""
    )
    with pytest.raises(surgery.BadInput, match="is int8, the value float64"):
        scale_params(model, ["w"], 1.5, tmp_path / "out.onnx")
    scale_params(model, ["w"], 1.5, tmp_path / "out.onnx", cast=True)
    np.testing.assert_array_equal(tensor(tmp_path / "out.onnx", "w").ravel(), [8, -10])  # rounded to even
    with pytest.raises(surgery.BadInput, match="no value outside -128 to 127"):
        scale_params(model, ["w"], 30, tmp_path / "more.onnx", cast=True)


def test_an_edit_of_a_shared_tensor_says_so(tmp_path: Path) -> None:
    edit = set_params(load("shared_weight"), {"w3.bias": 0}, tmp_path / "out.onnx")
    assert "w3.bias is the same tensor as Gemm_k.bias" in str(edit)
    assert edit.to_dict()["changed"][0]["shared_with"] == ["Gemm_k.bias"]


# ------------------------------------------------ copy


def test_parameters_are_copied_from_another_file(plain: Path, tmp_path: Path) -> None:
    onnx.save(load("plain", seed=4), tmp_path / "other.onnx")
    done = copy_params(plain, tmp_path / "other.onnx", tmp_path / "out.onnx")
    for t in onnx.load(tmp_path / "other.onnx").graph.initializer:
        np.testing.assert_array_equal(tensor(tmp_path / "out.onnx", t.name), numpy_helper.to_array(t))
    assert done.to_dict()["copied"] == 8
    assert str(done).splitlines()[-2:] == [
        "8 copied, 0 coerced, 0 dropped, 0 kept",
        f"wrote {tmp_path / 'out.onnx'}",
    ]


def test_a_fully_connected_layer_is_copied_into_a_convolution(plain: Path, tmp_path: Path) -> None:
    surgery.convert(load("plain", seed=4), tmp_path / "dense.onnx")
    dense, out = tmp_path / "dense.onnx", tmp_path / "out.onnx"
    copy_params(dense, plain, out, mapping={"h": "w3", "logits": "w4"}, coerce=True)
    net = surgery.Net(out)
    np.testing.assert_array_equal(net.params["h"].weight.reshape(7, 60), tensor(plain, "w3"))
    np.testing.assert_array_equal(net.params["w1"].weight, tensor(load("plain", seed=4), "w1"))


# ------------------------------------------------ refusals


Edit = Callable[[Path, Path], Any]
REFUSED: dict[str, tuple[Edit, str]] = {
    "unknown name": (lambda m, o: set_params(m, {"w9.bias": 1}, o), r"nearest names are '\w+\.bias'"),
    "unknown role": (lambda m, o: set_params(m, {"w1.mean": 1}, o), "has no 'mean'; it has weight, bias"),
    "a whole layer": (lambda m, o: set_params(m, {"w1": 1}, o), "give one of w1.weight, w1.bias"),
    "shape": (
        lambda m, o: set_params(m, {"w1.bias": np.zeros(5, np.float32)}, o),
        r"w1.bias has shape \[4\], the value \[5\]",
    ),
    "dtype": (
        lambda m, o: set_params(m, {"w1.bias": np.zeros(4)}, o),
        "is float32, the value float64.*--cast",
    ),
    "second of two": (lambda m, o: set_params(m, {"w1.bias": 1, "w2.bias": 1e60}, o), "w2.bias .* too large"),
    "no file": (lambda m, o: set_params(m, {"w1.bias": "none.npy"}, o), "none.npy is neither a number nor"),
    "no array": (lambda m, o: set_params(m, {"w1.bias": m}, o), "is neither a number nor a readable"),
    "overflow": (lambda m, o: scale_params(m, ["w1.bias"], 1e60, o), "w1.bias is float32: the value is too"),
    "factor": (lambda m, o: scale_params(m, ["w1.bias"], float("nan"), o), "nan is no finite number"),
    "scale unknown": (lambda m, o: scale_params(m, ["conv"], 2, o), "there is no parameter 'conv'"),
    "nothing to copy": (lambda m, o: copy_params(m, RNET, o), "cannot copy from .*: no layer of that name"),
    "copy does not fit": (
        lambda m, o: copy_params(m, RNET, o, mapping={"w1": "t.l.0"}),
        r"the shapes \[28, 3, 3, 3\] and \[4, 2, 3, 5\] hold different",
    ),
    "copy unknown": (lambda m, o: copy_params(m, RNET, o, mapping={"w1": "t.l"}), "no parameter 't.l'"),
    "get unknown": (lambda m, o: get_params(m, ["bias"], o.with_suffix(".npy")), "no parameter 'bias'"),
    "two in one npy": (lambda m, o: get_params(m, ["w1"], o.with_suffix(".npy")), "a .npy holds exactly one"),
    "get as text": (lambda m, o: get_params(m, ["w1"], o.with_suffix(".txt")), "cannot write 2 arrays to"),
    "onto itself": (lambda m, o: set_params(m, {"w1.bias": 1}, m, force=True), "is the input itself"),
    "onto the source": (lambda m, o: copy_params(RNET, m, m, force=True), "is the input itself"),
    "no folder": (lambda m, o: set_params(m, {"w1.bias": 1}, o / "x.onnx"), "there is no folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_paragraph_and_writes_nothing(case: str, plain: Path, tmp_path: Path) -> None:
    call, words = REFUSED[case]
    before = plain.read_bytes()
    with pytest.raises(surgery.BadInput, match=words) as caught:
        call(plain, tmp_path / "out.onnx")
    assert "\n" not in str(caught.value)
    assert plain.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["plain.onnx"]


def test_an_existing_file_is_replaced_only_with_force(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"mine")
    for call in (
        lambda force: set_params(plain, {"w1.bias": 1}, out, force=force),
        lambda force: scale_params(plain, ["w1.bias"], 2, out, force=force),
        lambda force: copy_params(plain, load("plain"), out, force=force),
    ):
        out.write_bytes(b"mine")
        with pytest.raises(surgery.BadInput, match="exists already"):
            call(False)
        assert out.read_bytes() == b"mine"
        call(True)
        onnx.checker.check_model(onnx.load(out))


def test_an_archive_without_the_name_is_refused(plain: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros(4, np.float32), b=np.zeros(4, np.float32))
    np.savez(tmp_path / "one.npz", a=np.full(4, 3, np.float32))
    with pytest.raises(surgery.BadInput, match=r"holds 'a', 'b', but none called 'w1.bias'"):
        set_params(plain, {"w1.bias": tmp_path / "two.npz"}, tmp_path / "out.onnx")
    set_params(plain, {"w1.bias": tmp_path / "one.npz"}, tmp_path / "out.onnx")
    assert (tensor(tmp_path / "out.onnx", "b1") == 3).all()


def test_pickled_arrays_are_not_run(plain: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([print], object), allow_pickle=True)
    with pytest.raises(surgery.BadInput, match=r"objects.npy is neither a number nor a readable"):
        set_params(plain, {"w1.bias": tmp_path / "objects.npy"}, tmp_path / "out.onnx")
