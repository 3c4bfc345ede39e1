"""--reduce: one vector for an image, which is what numpy makes of the answers for all its crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import law
import nets
import numpy as np
import onnx
import pytest
from done import Done, convert
from law import Array
from strides import HEAD, STEM, crops_as_maps, images_of, larger, net

import surgery

KINDS = ("mean", "max", "softmax-mean")
SOFTMAX_AT_END = ["signal", "volume", "softmax_9", "softmax_21", "softmax_13_groups"]
LIKELY = {"two_outputs": ["faces"]} | {name: ["scores"] for name in SOFTMAX_AT_END}
EVERY_WAY: list[dict[str, Any]] = [
    {},
    {"trim": True},
    {"stride": 2},
    {"stride": 3},
    {"stride": 2, "stride_form": "fragments"},
]


def softmax(x: Array) -> Array:
    """Over dim 1, in double precision."""
    powers = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def pooled(kind: str, crops: Array, space: int, likely: bool) -> Array:
    """What the reduction of the crops' answers is, by numpy."""
    scores = softmax(crops) if kind == "softmax-mean" and not likely else crops.astype(np.float64)
    axes = tuple(range(crops.ndim - space, crops.ndim))
    return np.asarray(scores.max(axis=axes) if kind == "max" else scores.mean(axis=axes))


def assert_pools_crops(
    model: onnx.ModelProto, done: Done, kind: str, likely: Sequence[str], more: Sequence[int]
) -> None:
    images = images_of(model, larger(done.geometry, more))
    got = law.run(done.proto, images)
    for name, crops in crops_as_maps(model, images, done.geometry.stride).items():
        space = len(done.geometry.window)
        want = pooled(kind, crops, space, name in likely)
        law.assert_close(got[name].reshape(want.shape), want, f"{kind} of {name}", 1e-5)


# ------------------------------------------------ the law


@pytest.mark.parametrize("options", EVERY_WAY, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["two_outputs", "softmax_21"])
def test_every_kind_pools_the_crops(name: str, kind: str, options: dict[str, Any]) -> None:
    model = nets.load(name)
    done = convert(model, reduce=kind, sizes=[law.window_of(model)], **options)
    for more in ((0, 0), (5, 9)):
        assert_pools_crops(model, done, kind, LIKELY[name], more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "log_softmax",
        "softmax_13_groups",
        "two_maps",
        "leftover",
        "nhwc_input",
        "signal",
        "volume",
        "gap_conv",
    ],
)
def test_every_layout_pools_the_crops(name: str, kind: str) -> None:
    model = nets.load(name)
    done = convert(model, reduce=kind)
    assert done.proof.passed
    assert_pools_crops(model, done, kind, LIKELY.get(name, []), (5, 9, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21])
def test_every_opset_pools_the_crops(opset: int, kind: str) -> None:
    model = net(
        f"{STEM} map = AveragePool <kernel_shape = [4, 4], strides = [2, 2]> (b) {HEAD}",
        opset=opset,
        w9="5,64",
    )
    for options in ({}, {"stride": 2, "stride_form": "fragments"}):
        done = convert(model, reduce=kind, sizes=[law.window_of(model)], **options)
        assert_pools_crops(model, done, kind, [], (7, 5))


# ------------------------------------------------ outputs of every kind


def groups(opset: int, last: str) -> onnx.ModelProto:
    """A net whose output is a row of 3 scores for each of 2 groups, or what else `last` makes of them."""
    return nets.parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        "groups (float[1,2,13,15] image) => (float[1,2,3] scores) <float[4,2,3,3] w1, float[4] b1, "
        "float[6,168] w9, float[6] b9, int64[3] dims = {-1, 2, 3}> "
        f"{{ {STEM} f = Flatten (b) l = Gemm <transB = 1> (f, w9, b9) g = Reshape (l, dims) {last} }}"
    )


@pytest.mark.parametrize("opset", [9, 13, 18])
@pytest.mark.parametrize("kind", ["mean", "max"])
def test_features_of_several_dims_are_pooled_one_by_one(kind: str, opset: int) -> None:
    model = groups(opset, "scores = Relu (g)")
    done = convert(model, reduce=kind)
    assert list(done.result.outputs[0]["shape"]) == ["N", 2, 3]
    assert_pools_crops(model, done, kind, [], (4, 5))


def test_a_softmax_needs_to_know_its_classes() -> None:
    words = r"the output 'scores' cannot be pooled: it has features \[2, 3\], and which"
    with pytest.raises(surgery.Refused, match=words):
        convert(groups(13, "scores = Relu (g)"), reduce="softmax-mean")
    done = convert(groups(13, "scores = Softmax <axis = 2> (g)"), reduce="softmax-mean")
    assert_pools_crops(done.model, done, "softmax-mean", ["scores"], (4, 5))
    one = net(f"{STEM} map = MaxPool <kernel_shape = [2, 2]> (b) {HEAD}", w9="1,324", b9="1")
    one.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    with pytest.raises(
        surgery.Refused, match=r"it has a single score, whose softmax is always 1.* another --reduce"
    ):
        convert(one, reduce="softmax-mean")
    assert_pools_crops(one, convert(one, reduce="mean"), "mean", [], (2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_places_are_no_scores(kind: str) -> None:
    words = (
        rf"--reduce {kind}: the output 'scores' cannot be pooled: it holds int64 numbers, which are places"
    )
    with pytest.raises(surgery.Refused, match=words):
        convert(nets.load("arg_max"), reduce=kind)


def test_an_output_before_the_head_stays_a_map() -> None:
    done = convert(nets.load("map_output"), reduce="mean")
    image = law.random_image(done.model, (21, 31))
    got = law.run(done.proto, image)
    law.assert_close(got["map"], law.run(law.trunk_of(done.model, ["map"]), image)["map"], "map")
    assert got["scores"].shape == (1, 6)


# ------------------------------------------------ what is said, and what is left out


@pytest.mark.parametrize(
    ("kind", "boxes", "faces"),
    [
        (
            "mean",
            "the mean over positions of its scores as the net gives them",
            "the mean over positions of its pr",
        ),
        (
            "max",
            "the max over positions of its scores as the net gives them",
            "the max over positions of its pr",
        ),
        (
            "softmax-mean",
            "the mean over positions of its probabilities",
            "the mean over positions of its probabilit",
        ),
    ],
)
def test_the_notes_say_what_was_pooled(kind: str, boxes: str, faces: str) -> None:
    done = convert(nets.load("two_outputs"), reduce=kind)
    notes = "\n".join(done.result.notes)
    assert f"output 'boxes': {boxes}" in notes
    assert f"output 'faces': {faces}" in notes
    assert [list(o["shape"]) for o in done.result.outputs] == [["N", 4], ["N", 2]]


def test_what_a_sigmoid_gives_is_averaged_as_it_is() -> None:
    body = f"{STEM} map = MaxPool <kernel_shape = [4, 4], strides = [2, 2]> (b) f = Flatten (map) "
    model = net(body + "l = Gemm <transB = 1> (f, w9, b9) scores = Sigmoid (l)", w9="5,64")
    done = convert(model, reduce="softmax-mean")
    assert any("the mean over positions of its probabilities" in note for note in done.result.notes)
    assert_pools_crops(model, done, "softmax-mean", ["scores"], (7, 5))


def test_log_probabilities_are_scores() -> None:
    model = nets.load("log_softmax")
    mean, soft = (convert(model, reduce=kind) for kind in ("mean", "softmax-mean"))
    assert any("its scores as the net gives them" in note for note in mean.result.notes)
    image = law.random_image(model, (25, 31))
    law.assert_close(law.run(soft.proto, image)["scores"].sum(axis=1), np.ones(1, np.float32), "sum")


@pytest.mark.parametrize(
    "options", [{}, {"stride": 1}, {"stride": 2}, {"stride": 2, "stride_form": "fragments"}], ids=str
)
def test_positions_beyond_the_last_window_are_not_averaged_in(options: dict[str, Any]) -> None:
    model = nets.load("leftover")
    plain, done = convert(model, **options), convert(model, reduce="mean", **options)
    size = [w + 6 for w in law.window_of(model)]
    images = images_of(model, size)
    have, full = law.run(plain.proto, images)["scores"], plain.geometry.grid(size)
    more = [h > f for h, f in zip(have.shape[2:], full, strict=True)]
    assert any(more) == (options.get("stride_form") != "fragments")
    want = have[..., : full[0], : full[1]].mean(axis=(2, 3), dtype=np.float64)
    law.assert_close(law.run(done.proto, images)["scores"], want, "full windows")


def test_the_mean_of_a_padded_net_is_that_of_its_windows() -> None:
    model = nets.load("padded")
    done = convert(model, reduce="mean")
    assert done.result.verdict == "padded"
    assert {(c.name, c.required) for c in done.proof.checks} == {
        ("native", True), ("windows", True), ("crops", False),
    }  # fmt: skip
    plain = convert(model, trim=True)
    images = images_of(model, larger(done.geometry, (6, 11)))
    maps = law.run(plain.proto, images)["scores"]
    law.assert_close(law.run(done.proto, images)["scores"], maps.mean(axis=(2, 3)), "mean of windows")


def test_opset_8_pools_what_needs_no_cut() -> None:
    model = nets.load("old_ir")
    done = convert(model, reduce="mean")
    assert_pools_crops(model, done, "mean", [], (4, 8))
    for options in ({"trim": True}, {"stride": 2, "stride_form": "fragments", "reduce": "mean"}):
        with pytest.raises(surgery.Refused, match=r"opset 8 has no op that cuts a map at a computed place"):
            convert(model, **options)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"stride": 2, "stride_form": "fragments"}], ids=str)
def test_validate_knows_what_was_pooled(options: dict[str, Any]) -> None:
    model = nets.load("two_outputs")
    done = convert(model, reduce="mean", sizes=[law.window_of(model)], **options)
    assert surgery.validate(model, done.proto).passed
    for node in done.proto.graph.node:
        if node.op_type == "GlobalAveragePool":
            node.op_type = "GlobalMaxPool"
    assert not surgery.validate(model, done.proto).passed


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(
        surgery.BadInput, match=r"reduce 'median' is not known; there are mean, max, softmax-mean"
    ):
        convert(nets.load("plain"), reduce="median")
