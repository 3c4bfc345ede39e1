"""Trunks as exporters write them, at every opset and under two heads; what no dense model can follow."""

from __future__ import annotations

from math import prod

import heads
import law
import numpy as np
import onnx
import pytest
from done import Done, convert
from trunk_table import BESIDE, DECLARED, DOWN, LAYOUTS, REFUSED, TRUNKS, trunk
from trunks import FLAT, IMAGE, OPSETS, named, net

import surgery
from surgery.field import Stretch
from surgery.ops import resample

SIZES = ((21, 28), (22, 25))


def checked(model: onnx.ModelProto, verdict: str) -> Done:
    """Converted with this verdict; exact maps equal every crop, and a batch of two each alone."""
    done = convert(model)
    assert done.result.verdict == verdict
    assert all(c.passed for c in done.proof.checks if c.required)
    if verdict == "exact":
        count = law.assert_equals_crops(model, done.proto, SIZES[0], done.geometry.stride)
        assert count == prod(done.geometry.grid(SIZES[0]))
    images = [law.random_image(model, SIZES[1], seed=s) for s in (1, 2)]
    both = law.run(done.proto, np.concatenate(images))["scores"]
    for i, image in enumerate(images):
        law.assert_close(both[i : i + 1], law.run(done.proto, image)["scores"], f"image {i} of a batch")
    return done


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", TRUNKS)
def test_a_trunk_at_every_opset(name: str, opset: int) -> None:
    checked(trunk(name, opset), TRUNKS[name][-1])


@pytest.mark.parametrize("name", TRUNKS)
def test_a_trunk_under_a_flat_head(name: str) -> None:
    checked(trunk(name, 13, flat=True), TRUNKS[name][-1])


@pytest.mark.parametrize(("lines", "image", "axes"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_an_image_in_any_layout(lines: str, image: str, axes: tuple[int, ...]) -> None:
    model = net(lines, named(lines, DECLARED), 4, image=image, opset=13)
    done = convert(model)
    dims = list(law.image_dims(model))
    window = tuple(dims[axis] for axis in axes)
    assert (done.result.verdict, done.geometry.window) == ("exact", window)
    size = [side + 5 - k for k, side in enumerate(window)]
    for axis, side in zip(axes, size, strict=True):
        dims[axis] = side
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    pixels = np.random.default_rng(3).uniform(0, 255, dims).astype(kind)
    scores, opened = law.run(done.proto, pixels)["scores"], law.session(model)
    for place in np.ndindex(done.geometry.grid(size)):
        start = [i * s for i, s in zip(place, done.geometry.stride, strict=True)]
        want = law.run(opened, np.ascontiguousarray(law.part(pixels, axes, start, window)))["scores"]
        law.assert_close(law.at(scores, place), want, f"scores at {place}")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_stride_for_all_axes_in_any_layout(name: str) -> None:
    lines, image, axes = LAYOUTS[name]
    done = convert(net(lines, named(lines, DECLARED), 4, image=image, opset=13), stride=4)
    assert done.geometry.stride == (4,) * len(axes)


def test_a_signal_in_groups() -> None:
    lines = """c = Conv <strides = [2]> (image, w) r = Reshape (c, apart)
               u = Transpose <perm = [0, 2, 1, 3]> (r) s = Reshape (u, again) map = Conv (s, v)"""
    weights = "float[4,2,3] w, float[4,4,3] v, int64[4] apart = {1, 2, 2, -1}, int64[3] again = {1, 4, 11}"
    model = net(lines, weights, 4, image="float[1,2,23] image")
    done = convert(model)
    assert (done.result.verdict, done.geometry.stride) == ("exact", (2,))
    law.assert_equals_crops(model, done.proto, (32,), (2,))


@pytest.mark.parametrize("line", ["map = Mul (c, pair)", "map = Expand (c, twice)"])
def test_a_batch_of_two_written_out_alike_for_both(line: str) -> None:
    weights = "float[4,2,3,3] w1, float[2,1,1,1] pair = {0.5, 0.5}, int64[4] twice = {2, 1, 1, 1}"
    lines, two = f"{DOWN} {line}", "float[2,2,17,23] image"
    model = net(lines, named(lines, weights), 4, image=two)
    done = convert(model)
    assert done.result.verdict == "exact"
    alone = net(
        lines,
        named(
            lines,
            weights.replace("[2,1,1,1]", "[1,1,1,1]").replace("0.5, 0.5", "0.5").replace("{2, ", "{1, "),
        ),
        4,
    )
    law.assert_equals_crops(alone, done.proto, SIZES[0], done.geometry.stride)


# ------------------------------------------------ inputs beside the image


@pytest.mark.parametrize(("lines", "head"), BESIDE.values(), ids=BESIDE.keys())
def test_a_second_input_is_the_same_at_every_position(lines: str, head: str) -> None:
    image = f"{IMAGE}, float[1,3] vector"
    model = net(lines, named(lines, DECLARED), 4, image=image, head=head)
    done = convert(model)
    assert done.result.verdict == "exact"
    images = np.concatenate([law.random_image(model, (22, 27), seed=s) for s in (7, 8)])
    vectors = np.random.default_rng(5).standard_normal((2, 3)).astype(np.float32)
    scores, opened = law.run(done.proto, images, vector=vectors)["scores"], law.session(model)
    for n, *place in np.ndindex(2, 3, 3):
        crop = law.part(images[n : n + 1], (2, 3), [2 * i for i in place], (17, 23))
        want = law.run(opened, np.ascontiguousarray(crop), vector=vectors[n : n + 1])["scores"]
        law.assert_close(scores[n : n + 1, :, place[0], place[1]], want, f"scores of {n} at {place}")


def test_a_second_input_of_the_windows_size_is_refused() -> None:
    lines = f"{DOWN} s = Reshape (vector, plane) x = Mul (c, s) map = Conv (x, w3)"
    model = net(lines, named(lines, DECLARED), 4, image=f"{IMAGE}, float[1,88] vector")
    with pytest.raises(surgery.Refused, match=r"cannot lift Conv 'map'"):
        surgery.convert(model, pure_conv=True)


@pytest.mark.parametrize(("side", "dims"), [("float[4] level", (4,)), ("float level", ())])
def test_a_second_input_without_a_batch(side: str, dims: tuple[int, ...]) -> None:
    lines = f"""{DOWN} g = GlobalAveragePool (c) f = Flatten (g) k = Tanh (level) x = Mul (f, k)
                scores = Gemm <transB = 1> (x, w5, b5)"""
    model = net(lines, named(lines, DECLARED), 0, image=f"{IMAGE}, {side}", head="")
    done = convert(model)
    image = law.random_image(model, (21, 25))
    level = np.asarray(np.random.default_rng(5).standard_normal(dims), np.float32)
    scores = law.run(done.proto, image, level=level)["scores"]
    opened = law.session(model)
    for place in np.ndindex(3, 2):
        crop = np.ascontiguousarray(law.part(image, (2, 3), [2 * i for i in place], (17, 23)))
        law.assert_close(law.at(scores, place), law.run(opened, crop, level=level)["scores"], f"at {place}")


# ------------------------------------------------ what is refused


@pytest.mark.parametrize(("lines", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_node_and_reason(lines: str, says: str) -> None:
    model = net(lines, named(lines, DECLARED), 4)
    with pytest.raises(surgery.Refused, match=says) as caught:
        surgery.convert(model, allow_global=True)
    assert "\n" not in str(caught.value)
    assert caught.value.node
    assert caught.value.exit_code == 3
    assert surgery.inspect(model).verdict == "refused"


def test_a_rule_whose_cells_onnxruntime_did_not_make_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "spreading", lambda n: Stretch(1, 1, ((0, 0),)))
    lines = f"{DOWN} d = DepthToSpace <blocksize = 2> (c) map = Conv (d, w411)"
    model = net(lines, "float[4,2,3,3] w1, float[4,1,1,1] w411", 4)
    says = r"by its attributes it makes \[8, 11\] cells, and onnxruntime made"
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model)


@pytest.mark.parametrize("squeezed", ["Squeeze[2] (c)", "Squeeze (c)"])
def test_a_row_of_positions_is_squeezed(squeezed: str) -> None:
    """A map of one row: in a taller image it has more, so that row is the head's."""
    trunk_lines = "c0 = Conv (image, w0, b0) c = MaxPool <kernel_shape = [7, 1]> (c0)"  # [1, 3, 1, 6]
    alone = squeezed == "Squeeze (c)"
    lines = f"q = {squeezed} y = ReduceMean[{1 if alone else 2}] <keepdims = 0> (q) "
    lines += "z = Unsqueeze[0] (y) " if alone else ""
    lines += f"scores = Gemm <transB = 1> ({'z' if alone else 'y'}, w)"
    model = heads.net(
        lines, "float[5,3] w", trunk=trunk_lines, trunk_weights="float[3,2,3,3] w0, float[3] b0"
    )
    heads.assert_lifted(model)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_constant_of_the_windows_size_for_every_image_of_a_batch(batch: int) -> None:
    lines = f"""{DOWN} sh = Shape (c) k = ConstantOfShape <value = float[1] {{0.7}}> (sh)
                z = Concat <axis = 1> (c, k) map = Conv (z, w48)"""
    model = net(lines, named(lines, DECLARED), 4, image=f"float[{batch},2,17,23] image")
    done = convert(model)
    assert done.result.verdict == "exact"
    image = np.concatenate([law.random_image(model, (21, 25), seed=s) for s in range(3)])
    alone = np.concatenate([law.run(done.proto, image[n : n + 1])["scores"] for n in range(3)])
    law.assert_close(law.run(done.proto, image)["scores"], alone, "a batch of three")


def test_what_is_counted_from_the_data_is_no_constant() -> None:
    lines = f"""{DOWN} n = NonZero (c) sh = Shape (n) k = Gather (sh, second) f = Cast <to = 1> (k)
                x = Mul (c, f) map = Conv (x, w44)"""
    model = net(lines, named(lines, DECLARED), 4)
    with pytest.raises(surgery.Refused, match=r"NonZero 'n'.*the size of what it gives depends on the data"):
        surgery.convert(model)


@pytest.mark.parametrize("exact", [False, True])
def test_a_kernel_larger_than_its_map_makes_nothing(exact: bool) -> None:
    lines = f"{DOWN} map = MaxPool <kernel_shape = [4, 2], dilations = [1, 11]> (c)"
    model = net(lines, named(lines, DECLARED), 0, head=FLAT)
    words = r"MaxPool 'map' makes nothing of \[1, 4, 8, 11\], \[1, 4, 5, 0\]: its kernel is larger"
    with pytest.raises(surgery.BadInput, match=words):
        surgery.convert(model, exact=exact, sizes=[(30, 40)] if exact else None)


@pytest.mark.parametrize("axis", ["", "<axis = -1>"])
def test_an_op_newer_than_the_opset_as_onnxruntime_fuses_it(axis: str) -> None:
    """A graph that it has optimized holds a LayerNormalization at any opset."""
    lines = f"""{DOWN} t = Transpose <perm = [0, 2, 3, 1]> (c) n = LayerNormalization {axis} (t, per1)
                u = Transpose <perm = [0, 3, 1, 2]> (n) map = Conv (u, w44)"""
    model = net(lines, named(lines, DECLARED), 4)
    model.opset_import[0].version = 13
    done = convert(model)
    assert done.result.verdict == "exact"
    law.assert_equals_crops(model, done.proto, (21, 26), (2, 2))
    exact = convert(model, exact=True, sizes=[(21, 26)], stride=3)
    law.assert_equals_crops(model, exact.proto, (21, 26), (3, 3))
