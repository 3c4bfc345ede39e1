"""convert: every fixture obeys the law, and what a user put into a model is still there afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import law
import nets
import numpy as np
import onnx
import pytest
from done import convert
from onnx import numpy_helper

import surgery

RAISES_GLOBAL = [name for name in nets.NAMES if nets.facts_of(name).verdict == "global"]
CONVERTIBLE = [name for name in nets.NAMES if name not in RAISES_GLOBAL]
EXACT = [name for name in CONVERTIBLE if nets.facts_of(name).verdict == "exact"]
WITH_MAPS = [name for name in CONVERTIBLE if nets.facts_of(name).maps]


def sizes_of(g: surgery.Geometry) -> list[tuple[int, ...]]:
    """The window, and two larger sizes, each with one side that the stride does not divide."""
    larger = []
    for odd, strides in enumerate([(2, 1, 1), (1, 2, 0)]):
        rest = [s - t if k == odd else 0 for k, (s, t) in enumerate(zip(g.stride, g.step, strict=True))]
        more = [m * s + r for m, s, r in zip(strides, g.stride, rest, strict=False)]
        larger.append(tuple(w + m for w, m in zip(g.window, more, strict=True)))
    return [g.window, *larger]


def lifted_outputs(model: onnx.ModelProto) -> list[str]:
    """The outputs that are not maps of the trunk."""
    return [o.name for o in model.graph.output if o.name != "map"]


# ------------------------------------------------ the law


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_facts_are_found(name: str) -> None:
    facts = nets.facts_of(name)
    done = convert(nets.load(name))
    assert (done.result.verdict, done.geometry.stride) == (facts.verdict, facts.stride)
    assert done.proof.passed
    assert (done.geometry.touched == 0) == (facts.verdict == "exact") == (not done.result.reasons)


@pytest.mark.parametrize("name", EXACT)
def test_exact_map_equals_every_crop(name: str) -> None:
    done = convert(nets.load(name))
    outputs = lifted_outputs(done.model)
    for size in sizes_of(done.geometry):
        count = law.assert_equals_crops(done.model, done.proto, size, done.geometry.stride, outputs)
        assert count == np.prod(done.geometry.grid(size))


@pytest.mark.parametrize("name", WITH_MAPS)
def test_map_equals_original_head_on_windows_of_original_trunk(name: str) -> None:
    done = convert(nets.load(name))
    outputs, maps = lifted_outputs(done.model), nets.facts_of(name).maps
    for size in sizes_of(done.geometry):
        count = law.assert_equals_windows(done.model, done.proto, size, maps, outputs)
        assert count >= np.prod(done.geometry.grid(size))


@pytest.mark.parametrize("name", [n for n in WITH_MAPS if nets.facts_of(n).verdict == "padded"])
def test_padded_verdict_is_no_false_alarm(name: str) -> None:
    done = convert(nets.load(name))
    size = sizes_of(done.geometry)[1]
    with pytest.raises(AssertionError, match="off by"):
        law.assert_equals_crops(done.model, done.proto, size, done.geometry.stride)


def test_auto_pad_means_the_pads_of_the_window() -> None:
    text = (nets.FIXTURES / "same_pads.txt").read_text()
    spelled = text.replace('auto_pad = "SAME_UPPER"', "pads = [0, 2, 1, 2]")
    spelled = spelled.replace('auto_pad = "SAME_LOWER"', "pads = [1, 1, 0, 0]")
    automatic, written = nets.parse(text), nets.parse(spelled)
    native = law.random_image(automatic, law.window_of(automatic))
    law.assert_close(law.run(automatic, native)["scores"], law.run(written, native)["scores"], "twins")
    done = convert(automatic)
    for size in sizes_of(done.geometry):
        law.assert_equals_windows(written, done.proto, size, {"map": 1})


@pytest.mark.parametrize("name", RAISES_GLOBAL)
def test_global_is_refused_and_converted_when_allowed(name: str) -> None:
    model = nets.load(name)
    with pytest.raises(surgery.Refused, match=r"GlobalAveragePool 'g': .* returns to the map at Mul 'map'"):
        surgery.convert(model)
    done = convert(model, allow_global=True)
    assert done.result.verdict == "global"
    size = sizes_of(done.geometry)[1]
    law.assert_equals_windows(model, done.proto, size, {"map": 1})
    with pytest.raises(AssertionError, match="off by"):
        law.assert_equals_crops(model, done.proto, size, done.geometry.stride)


def test_output_before_the_head_is_the_trunk_at_the_larger_size() -> None:
    done = convert(nets.load("map_output"))
    image = law.random_image(done.model, (26, 33))
    want = law.run(law.trunk_of(done.model, ["map"]), image)["map"]
    law.assert_close(law.run(done.proto, image)["map"], want, "map", 1e-6)


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_batch_of_images_is_taken(name: str) -> None:
    done = convert(nets.load(name))
    size = sizes_of(done.geometry)[1]
    images = np.concatenate([law.random_image(done.model, size, seed=s) for s in range(3)])
    together = law.run(done.proto, images)
    for i in range(3):
        for output, value in law.run(done.proto, images[i : i + 1]).items():
            law.assert_close(together[output][i : i + 1], value, f"{output} of image {i}")


# ------------------------------------------------ what is carried over


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


# ------------------------------------------------ reduce and trim

POOLS: dict[str, Callable[..., law.Array]] = {"mean": np.mean, "max": np.max}


@pytest.mark.parametrize("how", list(POOLS))
@pytest.mark.parametrize("name", ["plain", "leftover", "two_outputs", "signal", "volume"])
def test_reduce_pools_the_answers_of_the_crops(name: str, how: str) -> None:
    done = convert(nets.load(name), reduce=how)
    for size in sizes_of(done.geometry):
        image = law.random_image(done.model, size)
        got = law.run(done.proto, image)
        crops = [answers for _, answers in law.crops_of(done.model, image, done.geometry.stride)]
        for output in done.model.graph.output:
            want = POOLS[how]([c[output.name] for c in crops], axis=0)
            law.assert_close(got[output.name], want, f"{how} of {output.name}")


def test_reduced_output_is_one_vector_per_image() -> None:
    done = convert(nets.load("plain"), reduce="mean")
    assert done.result.outputs == ({"name": "scores", "shape": ["N", 6]},)
    batch = np.concatenate([law.random_image(done.model, (30, 31), seed=s) for s in range(3)])
    together = law.run(done.proto, batch)["scores"]
    alone = np.concatenate([law.run(done.proto, batch[i : i + 1])["scores"] for i in range(3)])
    law.assert_close(together, alone, "batch")


@pytest.mark.parametrize("name", ["leftover", "whole_ceil", "padded", "counted_pads", "clip", "volume"])
def test_trimmed_map_has_full_windows_only(name: str) -> None:
    plain, trimmed = convert(nets.load(name)), convert(nets.load(name), trim=True)
    geometry = trimmed.geometry
    for more in range(max(geometry.stride) + 1):
        size = tuple(w + more + k for k, w in enumerate(geometry.window))
        image = law.random_image(plain.model, size)
        whole, cut = (law.run(done.proto, image)["scores"] for done in (plain, trimmed))
        assert cut.shape[2:] == geometry.grid(size)
        law.assert_close(
            cut, law.part(whole, range(2, whole.ndim), [0] * len(size), cut.shape[2:]), str(size)
        )


# ------------------------------------------------ refusals


def body(
    lines: str, weights: str, image: str = "float[1,2,9,9] image", out: str = "float[1,6] scores"
) -> str:
    header = '<ir_version: 8, opset_import: ["": 13, "com.example": 1]>'
    return f"{header} net ({image}) => ({out}) <{weights}> {{ {lines} }}"


REFUSALS = {
    "a map already": (
        body("scores = Conv (image, w)", "float[6,2,3,3] w", out="float[1,6,7,7] scores"),
        r"nothing to convert: every tensor .* still a map, so .* already fully convolutional",
    ),
    "Dropout in training": (
        body(
            "a = Flatten (image) d = Dropout (a, r, t) scores = Gemm <transB = 1> (d, w)",
            "float[6,162] w, float r = {0.5}, bool t = {1}",
        ),
        r"cannot lift Dropout 'd' -> 'd': it is left in training mode .* export the model in eval mode",
    ),
    "random numbers": (
        body(
            "a = Flatten (image) n = RandomNormalLike (a) d = Add (a, n) scores = Gemm <transB = 1> (d, w)",
            "float[6,162] w",
        ),
        r"RandomNormalLike .* draws random numbers, so no two answers can be compared",
    ),
    "features of the batch": (
        body("a = Flatten (image) t = Transpose (a) m = MatMul (a, t) scores = Mul (m, w)", "float[1,6] w"),
        r"cannot lift Transpose 't' -> 't': it moves the batch dim",
    ),
    "a mean image before a Conv": (
        body(
            "s = Sub (image, mean) c = Conv (s, w1) a = Flatten (c) scores = Gemm <transB = 1> (a, w)",
            "float[6,147] w, float[3,2,3,3] w1, float[2,9,9] mean",
        ),
        r"cannot lift Conv 'c' -> 'c': .*ended at Sub 's': a constant .* use its mean per channel",
    ),
    "softmax over the batch": (
        body(
            "a = Flatten (image) g = Gemm <transB = 1> (a, w) scores = Softmax <axis = 0> (g)",
            "float[6,162] w",
        ),
        r"cannot lift Softmax 'scores' -> 'scores': it normalises over the batch",
    ),
    "a Gemm that transposes the image": (
        body(
            "a = Flatten (image) scores = Gemm <transA = 1> (a, w)", "float[1,6] w", out="float[162,6] scores"
        ),
        r"cannot lift Gemm 'scores' -> 'scores': transA makes features of the batch",
    ),
    "no image": (
        body("scores = Gemm <transB = 1> (image, w)", "float[6,18] w", image="float[1,18] image"),
        r"no image input \(its inputs: 'image' \[1, 18\]\): an image is an input of rank 3, 4 or 5",
    ),
    "two images": (
        body(
            "s = Add (image, other) a = Flatten (s) scores = Gemm <transB = 1> (a, w)",
            "float[6,162] w",
            image="float[1,2,9,9] image, float[1,2,9,9] other",
        ),
        r"has 2 image inputs .* Export the model with exactly one",
    ),
}


@pytest.mark.parametrize(("text", "says"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusal_says_where_and_why(text: str, says: str, tmp_path: Path) -> None:
    model = nets.parse(text)
    with pytest.raises(surgery.Refused, match=says) as caught:
        surgery.convert(model, tmp_path / "out.onnx")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert caught.value.why
    assert not list(tmp_path.iterdir())
    assert surgery.inspect(model).verdict == "refused"


BAD_REQUESTS = {
    "reduce": ({"reduce": "median"}, r"reduce 'median' is not known; there are mean, max"),
    "size too small": ({"sizes": [(16, 30)]}, r"16x30 is smaller than the window of 17x23"),
    "size of one side": ({"sizes": [(30,)]}, r"the size \[30\] has 1 sides, the window 2"),
    "window other than the model's": ({"window": (20, 23)}, r"fixes its window at 17, not 20"),
    "window of three sides": ({"window": (17, 23, 3)}, r"has 3 sides, the image 2"),
}


@pytest.mark.parametrize(("request_", "says"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_bad_request_is_told(request_: dict[str, Any], says: str) -> None:
    with pytest.raises(surgery.BadInput, match=says) as caught:
        surgery.convert(nets.load("plain"), **request_)
    assert caught.value.exit_code == 2


def test_open_size_needs_a_window() -> None:
    model = nets.load("gap")
    for dim, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[dim].dim_param = name
    with pytest.raises(surgery.BadInput, match=r"leaves its size open, .* Give it with --window HxW"):
        surgery.convert(model)
    done = convert(model, window=(17, 23))
    assert law.assert_equals_crops(nets.load("gap"), done.proto, (26, 33), (4, 4)) == 9


def test_sizes_that_branches_do_not_meet_at_are_told() -> None:
    done = convert(nets.load("uneven"))
    assert done.geometry.step == (2, 2)
    with pytest.raises(
        surgery.BadInput, match=r"branches of its trunk would not meet. It takes 13x17 and every 2x2"
    ):
        surgery.validate(done.model, done.proto, sizes=[(14, 18)])


# ------------------------------------------------ the fixtures themselves


def test_listing_of_the_fixtures_is_current() -> None:
    page = (nets.FIXTURES / "README.md").read_text()
    assert page == nets.with_listing(page), "run scripts/make_fixtures"


@pytest.mark.parametrize("name", nets.NAMES)
def test_every_weight_matters(name: str) -> None:
    """A fixture whose answer does not depend on a weight proves nothing about it."""
    model = nets.load(name)
    image = law.random_image(model, law.window_of(model))
    before = law.run(model, image)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if name == "arg_max" or values.dtype.kind != "f" or tensor.name in ("ratio", "high"):
            continue
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        target = next(t for t in changed.graph.initializer if t.name == tensor.name)
        target.CopyFrom(numpy_helper.from_array((values * 1.5 + 0.5).astype(values.dtype), tensor.name))
        after = law.run(changed, image)
        assert any(not np.allclose(after[o], before[o], atol=1e-6) for o in before), tensor.name
