"""Models in and out: every form a file may have is read alike, and what is written is whole."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import law
import nets
import numpy as np
import onnx
import pytest
from done import convert
from onnx import numpy_helper

import surgery
from surgery import saving
from surgery.model import metadata_of, read, set_metadata
from surgery.saving import save


def with_external_data(model: onnx.ModelProto, path: Path) -> Path:
    """The model as a file whose weights of any size lie in `<name>.data` beside it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    return path


def locations(path: Path) -> set[str]:
    """Where the weights of a file lie: in it (an empty string), or in a file beside it."""
    proto = onnx.load(str(path), load_external_data=False)
    return {
        next((e.value for e in t.external_data if e.key == "location"), "") for t in proto.graph.initializer
    }


# ------------------------------------------------ reading


def test_reading_leaves_a_model_as_it_is() -> None:
    proto = nets.load("old_ir")
    before = proto.SerializeToString(deterministic=True)
    model = read(proto)
    assert model.proto is not proto
    assert proto.SerializeToString(deterministic=True) == before
    assert read(model) is model


def test_a_file_is_named_and_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(nets.load("plain"), str(path))
    model = read(path)
    assert (model.name, model.path, model.external) == (str(path), path, False)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    done = convert(nets.load("plain"))
    by_path = surgery.convert(path)
    assert by_path.proto is not None
    assert metadata_of(by_path.proto)["surgery.source_sha256"] == model.sha256
    assert len(metadata_of(done.proto)["surgery.source_sha256"]) == 64


def test_weights_are_no_inputs_at_any_ir_version() -> None:
    old, new = nets.load("old_ir"), nets.load("plain")
    new.graph.input.append(onnx.helper.make_tensor_value_info("w3", onnx.TensorProto.FLOAT, [7, 60]))
    assert len(old.graph.input) == 1 + len(old.graph.initializer)
    for proto in (old, new):
        model = read(proto)
        assert [v.name for v in model.proto.graph.input] == ["image"]
        assert model.proto.ir_version >= 4
        onnx.checker.check_model(model.proto)
        done = convert(proto)
        assert [v.name for v in done.proto.graph.input] == ["image"]
        law.assert_equals_crops(proto, done.proto, (21, 31), done.geometry.stride)


LOCAL = """
<ir_version: 8, opset_import: ["": 13, "local": 1]>
net (float[1,2,9,11] image) => (float[1,4] scores)
<float[3,2,3,3] w1, float[3] b1, float[4,189] w2, float[4] b2>
{
  a = local.block <wide = 2> (image, w1, b1)
  scores = local.classifier (a, w2, b2)
}
<domain: "local", opset_import: ["": 13]>
block <wide: int = 1> (x, w, b) => (y)
{
  c = Conv (x, w, b)
  y = Relu (c)
}
<domain: "local", opset_import: ["": 13, "local": 1]>
classifier (x, w, b) => (y)
{
  f = Flatten (x)
  h = Gemm <transB = 1> (f, w, b)
  y = local.soft (h)
}
<domain: "local", opset_import: ["": 13]>
soft (x) => (y)
{
  y = Softmax <axis = 1> (x)
}
"""


def test_local_functions_are_taken_apart() -> None:
    proto = nets.parse(LOCAL)
    assert len(proto.functions) == 3
    done = convert(proto)
    assert not done.proto.functions
    assert {n.domain for n in done.proto.graph.node} == {""}
    assert law.assert_equals_crops(proto, done.proto, (12, 15), (1, 1)) == 4 * 5


# ------------------------------------------------ weights beside the model


def test_external_weights_stay_external(tmp_path: Path) -> None:
    source = with_external_data(nets.load("plain"), tmp_path / "net.onnx")
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    out = tmp_path / "elsewhere" / "out.onnx"
    out.parent.mkdir()
    assert read(source).external
    surgery.convert(source, out)
    assert {file.name for file in out.parent.iterdir()} == {"out.onnx", "out.onnx.data"}
    assert "out.onnx.data" in locations(out)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == files
    law.assert_equals_crops(nets.load("plain"), onnx.load(str(out)), (21, 31), (4, 4))


def test_external_and_inline_weights_give_the_same_model(tmp_path: Path) -> None:
    beside = surgery.convert(with_external_data(nets.load("plain"), tmp_path / "net.onnx")).proto
    inline = convert(nets.load("plain")).proto
    assert beside is not None
    assert list(beside.graph.node) == list(inline.graph.node)
    for one, other in zip(beside.graph.initializer, inline.graph.initializer, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))


def test_a_model_too_large_for_protobuf_is_written_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "serialized", lambda proto: None)
    proto = nets.parse(
        '<ir_version: 8, opset_import: ["": 13]> net (float[1,400] x) => (float[1,9] y) '
        "<float[400,9] w> { y = MatMul (x, w) }"
    )
    save(proto, tmp_path / "out.onnx")
    assert locations(tmp_path / "out.onnx") == {"out.onnx.data"}
    (weight,) = onnx.load(str(tmp_path / "out.onnx")).graph.initializer
    np.testing.assert_array_equal(
        numpy_helper.to_array(weight), numpy_helper.to_array(proto.graph.initializer[0])
    )
    assert not proto.graph.initializer[0].external_data


# ------------------------------------------------ writing


def test_saved_model_is_the_model_and_nothing_else(tmp_path: Path) -> None:
    proto = nets.load("padded")
    save(proto, tmp_path / "out.onnx")
    assert onnx.load(str(tmp_path / "out.onnx")) == proto
    assert os.listdir(tmp_path) == ["out.onnx"]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, external: bool
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "out.onnx"
    path.write_bytes(b"an older model")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(surgery.BadInput, match=r"No space left on device\. Nothing was left"):
        save(nets.load("plain"), path, external=external)
    assert os.listdir(tmp_path) == ["out.onnx"]
    assert path.read_bytes() == b"an older model"


def test_a_failed_proof_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        surgery.Mismatch, match=r"the proof failed: check 'native' at 17x23, .* Nothing was written"
    ):
        surgery.convert(nets.load("plain"), tmp_path / "out.onnx", tolerance=1e-12)
    assert not os.listdir(tmp_path)


# ------------------------------------------------ metadata


def test_metadata_are_replaced_by_key() -> None:
    proto = onnx.ModelProto()
    set_metadata(proto, {"a": "1", "b": "2"})
    set_metadata(proto, {"b": "3", "c": ""})
    assert metadata_of(proto) == {"a": "1", "b": "3", "c": ""}
    assert len(proto.metadata_props) == 3


def test_metadata_survive_a_second_conversion(tmp_path: Path) -> None:
    """What was converted once is a map already: it is told so, and stays as it is."""
    path = tmp_path / "out.onnx"
    surgery.convert(nets.load("plain"), path)
    before = path.read_bytes()
    with pytest.raises(surgery.SurgeryError, match=r"leaves its size open|already fully convolutional"):
        surgery.convert(path, tmp_path / "twice.onnx")
    assert path.read_bytes() == before
    with pytest.raises(surgery.Refused, match="already fully convolutional"):
        surgery.convert(path, tmp_path / "twice.onnx", window=(17, 23))
    assert os.listdir(tmp_path) == ["out.onnx"]


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_weights_beside_a_model_are_as_readable_as_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save(nets.load("plain"), tmp_path / "out.onnx", external=True)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["out.onnx", "out.onnx.data"], 0o666 & ~umask)
