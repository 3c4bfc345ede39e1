"""What a user put into a model is still there after the conversion: names, notes, trunk, bytes."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import onnx
import pytest
from done import convert
from onnx import numpy_helper

import surgery

CONVERTIBLE = [name for name in nets.NAMES if nets.facts_of(name).verdict != "global"]


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_model_stays_valid_and_named_and_the_input_unchanged(name: str) -> None:
    model = nets.load(name)
    before = model.SerializeToString(deterministic=True)
    done = convert(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(done.proto, full_check=True)
    graph, space = done.proto.graph, len(done.geometry.window)
    assert [o.name for o in graph.output] == [o.name for o in model.graph.output]
    assert [v.name for v in graph.input] == ["image"]
    assert done.proto.opset_import == model.opset_import
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        assert dims[0].dim_param == "N"
        assert all(d.dim_value for d in dims[1:-space])
        assert all(d.dim_param for d in dims[-space:])


@pytest.mark.parametrize("name", ["plain", "padded", "two_outputs", "batch_norms"])
def test_trunk_nodes_are_untouched(name: str) -> None:
    done = convert(nets.load(name))
    after = {n.output[0]: n for n in done.proto.graph.node}
    nodes = list(done.model.graph.node)
    flatten = next(i for i, n in enumerate(nodes) if n.op_type == "Flatten")
    for node in nodes[:flatten]:
        kept = after[node.output[0]]
        assert (kept.name, kept.op_type, kept.input, kept.output) == (
            node.name,
            node.op_type,
            node.input,
            node.output,
        )
        assert kept.attribute == node.attribute


def annotated() -> onnx.ModelProto:
    model = nets.load("plain")
    model.producer_name, model.producer_version, model.domain = "trainer", "4.2", "org.example"
    model.model_version, model.doc_string, model.graph.doc_string = 17, "a model", "a graph"
    model.metadata_props.add(key="classes", value="cat,dog")
    model.metadata_props.add(key="surgery.version", value="of an earlier life")
    model.graph.input[0].doc_string, model.graph.output[0].doc_string = "RGB, 0 to 1", "probabilities"
    for node in model.graph.node:
        node.name, node.doc_string = f"layer/{node.output[0]}", f"made by line {node.output[0]}"
        node.metadata_props.add(key="source", value=f"net.py:{node.output[0]}")
    return model


def test_notes_of_the_model_are_carried_over() -> None:
    done = convert(annotated())
    fields = ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version")
    for field in fields:
        assert getattr(done.proto, field) == getattr(done.model, field), field
    assert done.proto.graph.name == done.model.graph.name
    assert done.proto.graph.doc_string == "a graph"
    assert done.proto.graph.input[0].doc_string == "RGB, 0 to 1"
    assert done.proto.graph.output[0].doc_string == "probabilities"
    entries = {p.key: p.value for p in done.proto.metadata_props}
    assert entries["classes"] == "cat,dog"
    assert entries["surgery.version"] == surgery.__version__
    assert len(entries) == len(done.proto.metadata_props)


def test_notes_of_the_nodes_are_carried_over() -> None:
    done = convert(annotated())
    after = {n.name: n for n in done.proto.graph.node}
    for node in done.model.graph.node:
        if node.output[0] in ("a", "b", "c", "d", "map"):
            assert after[node.name].doc_string == node.doc_string
            assert after[node.name].metadata_props == node.metadata_props


def test_new_nodes_are_named_after_what_they_were() -> None:
    done = convert(annotated())
    names = [n.name for n in done.proto.graph.node]
    assert len(set(names)) == len(names)
    for node in done.model.graph.node:
        if node.op_type == "Gemm":
            assert any(name.startswith(f"{node.name}/") for name in names)


def test_model_says_what_it_is() -> None:
    done = convert(nets.load("padded"))
    entries = {p.key: p.value for p in done.proto.metadata_props}
    assert entries["surgery.engine"] == "dense"
    assert entries["surgery.verdict"] == "padded"
    assert json.loads(entries["surgery.geometry"]) == done.geometry.to_json()
    assert len(entries["surgery.source_sha256"]) == 64


def test_path_and_proto_give_the_same_model(tmp_path: Path) -> None:
    model = nets.load("two_outputs")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    from_path, from_proto = surgery.convert(path).proto, convert(model).proto
    assert from_path is not None
    assert from_path.SerializeToString(deterministic=True) == from_proto.SerializeToString(deterministic=True)


def test_written_file_is_the_result(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    result = surgery.convert(nets.load("plain"), path)
    assert result.output == str(path)
    assert onnx.load(str(path)) == result.proto
    assert list(tmp_path.iterdir()) == [path]


def test_gemm_bytes_are_only_reshaped() -> None:
    done = convert(nets.load("plain"))
    weights = {t.name: numpy_helper.to_array(t) for t in done.model.graph.initializer}
    (conv,) = [n for n in done.proto.graph.node if n.output[0] == "h"]
    kernel = next(t for t in done.proto.graph.initializer if t.name == conv.input[1])
    assert list(kernel.dims) == [7, 5, 3, 4]
    assert numpy_helper.to_array(kernel).tobytes() == weights["w3"].tobytes()
