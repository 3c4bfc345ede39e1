"""The exact engine: its map equals the original on every crop, for any net, size and stride."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import law
import nets
import numpy as np
import onnx
import pytest
import small_shapes
import strides
from command import run
from done import convert
from exact_nets import padded
from exactly import WAYS, assert_every_cut, assert_maps, cuts, forced

import surgery
from surgery import mosaic

OWN = {
    "alexnet": 32, "vgg": 32, "onet": 8, "same_pads": 16, "resnet18": 16, "resnet50": 16, "densenet": 8,
    "inception": 8, "mobilenet_se": 8, "shufflenet": 8, "convnext": 8, "group_norm": 4, "instance_norm": 4,
    "vit": 8, "vit_free_batch": 8, "rnet": 4,
}  # fmt: skip
STRIDES = {
    "1": lambda own: 1,
    "2": lambda own: 2,
    "3": lambda own: 3,
    "half": lambda own: own // 2,
    "own": lambda own: own,
    "1.5 times": lambda own: own * 3 // 2,
    "twice": lambda own: own * 2,
}


def size_for(model: onnx.ModelProto, stride: int) -> list[int]:
    """Two windows below each other and three beside, with pixels left over at both ends."""
    rest = (stride - 1, stride // 3)
    return [w + n * stride + r for w, n, r in zip(law.window_of(model), (1, 2), rest, strict=True)]


# ------------------------------------------------ the shapes of well-known nets


@pytest.mark.parametrize("name", small_shapes.SHAPES)
def test_shapes_at_several_cuts(name: str) -> None:
    model = small_shapes.SHAPES[name]()
    made = surgery.inspect(model, exact=True, size=law.window_of(model))
    assert made.geometry is not None
    assert made.geometry.stride == (OWN[name],) * 2
    assert_every_cut(model, size_for(model, OWN[name]), only=(0, 1, -2, -1))


@pytest.mark.parametrize("times", STRIDES)
@pytest.mark.parametrize("name", small_shapes.SHAPES)
def test_shapes_at_several_strides(name: str, times: str) -> None:
    model = small_shapes.SHAPES[name]()
    stride = STRIDES[times](OWN[name])
    assert_every_cut(model, size_for(model, stride), (stride, stride), count=1, only=(-1,))


@pytest.mark.deep
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", small_shapes.SHAPES)
def test_shapes_at_every_cut_and_stride(name: str, way: str) -> None:
    model = small_shapes.SHAPES[name]()
    with forced(**WAYS[way]):
        for times in STRIDES.values():
            stride = times(OWN[name])
            assert_every_cut(model, size_for(model, stride), (stride, stride), count=1)


@pytest.mark.parametrize("name", nets.NAMES)
def test_fixtures_at_their_own_stride_and_one_more(name: str) -> None:
    model, own = nets.load(name), nets.facts_of(name).stride
    for stride in (own, tuple(s + 1 for s in own)):
        size = [w + n * s + 1 for w, n, s in zip(law.window_of(model), (2, 1, 1), stride, strict=False)]
        assert_every_cut(model, size, stride, count=1, only=(-1,))


# ------------------------------------------------ grids


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (5, 1), (2, 3), (7, 6)])
def test_any_grid(grid: tuple[int, int], way: str) -> None:
    model = padded()
    size = [w + (n - 1) * s for w, n, s in zip(law.window_of(model), grid, (3, 4), strict=True)]
    with forced(**WAYS[way]):
        assert assert_every_cut(model, size, (3, 4)) > 5


def test_windows_that_share_nothing() -> None:
    assert_every_cut(padded(), (80, 90), (30, 31))


def test_axes_have_strides_of_their_own() -> None:
    for stride in ((1, 7), (6, 1), (5, 40)):
        assert_every_cut(padded(), (33, 64), stride, only=(-1,))


def test_the_batch_stays_free_and_the_grid_is_written_out() -> None:
    done = convert(padded(), exact=True, sizes=[(33, 30)])
    shapes = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*done.proto.graph.input, *done.proto.graph.output)
    ]
    assert shapes == [["N", 2, 33, 30], ["N", 5, 7, 5]]
    assert done.result.engine == "exact"
    assert done.result.verdict == "exact"


# ------------------------------------------------ what windows do not share stays apart


def test_what_is_not_finite_in_one_window_touches_no_other() -> None:
    model = padded()
    for spoilt in (np.nan, np.inf):
        image = law.random_image(model, (49, 50))
        image[0, :, 24, 24] = spoilt
        for cut in cuts(model, (49, 50), (7, 7)):
            got = law.run(cut.proto, image)["scores"]
            for place, answers in law.crops_of(model, image, (7, 7)):
                origin = [7 * i for i in place]
                if all(o <= 24 < o + w for o, w in zip(origin, law.window_of(model), strict=True)):
                    continue
                law.assert_close(law.at(got, place), answers["scores"], f"{place}, {cut}")


# ------------------------------------------------ the same map as the dense engine


@pytest.mark.parametrize("name", [n for n in strides.NETS if n not in ("signal", "volume", "oblong")])
def test_pad_free_nets_give_the_map_of_every_other_road(name: str) -> None:
    model = strides.made(name)
    own = convert(model)
    size = strides.larger(own.geometry, (11, 7))
    images = strides.images_of(model, size)
    for stride in (1, own.geometry.stride[0]):
        wanted = {
            f"{form} at {stride}": law.run(strides.at_stride(model, stride, form).proto, images)
            for form in strides.FORMS
        }
        if len({s // stride for s in own.geometry.stride}) == 1:
            factor = own.geometry.stride[0] // stride
            wanted["stitched"] = surgery.shift_and_stitch(own.proto, images, factor)
        for cut in cuts(model, size, (stride,) * 2, only=(0, -1)):
            grid = cut.layout.plan.grid
            for road, maps in wanted.items():
                want = {n: v[(..., *(slice(g) for g in grid))] for n, v in maps.items()}
                assert_maps(cut.proto, images, want, f"{road}, {cut}")


# ------------------------------------------------ the proof


def test_the_proof_compares_crops_and_finds_a_spoilt_weight() -> None:
    model = padded()
    done = convert(model, exact=True, sizes=[(40, 37)], stride=5)
    checks = {c.name: c for c in done.proof.checks}
    assert checks["crops"].positions == 4 * 4
    assert checks["crops"].required
    assert surgery.validate(model, done.proto).passed
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(done.proto)
    weight = next(t for t in spoilt.graph.initializer if t.name == "w2")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    assert not surgery.validate(model, spoilt).passed


def test_many_windows_are_proven_on_some() -> None:
    done = convert(padded(), exact=True, sizes=[(52, 52)], stride=1)
    assert done.proof.checks[0].positions == 256
    assert "a random choice of the 992 scores" in " ".join(str(done.result).split())


# ------------------------------------------------ the report


def test_the_report_says_what_was_planned_and_proven() -> None:
    done = convert(padded(), exact=True, sizes=[(40, 37)], stride=5)
    words = " ".join(str(done.result).split())
    assert "every window is computed as one, border and padding too" in words
    assert "windows 4x4 in an image of 40x37, one every 5x5 pixels" in words
    assert "times as fast as all 16 windows in one batch (expected)" in words
    assert "of activations at once (estimated)" in words
    assert "Proven: every score equals the original on that crop of the image" in words
    assert "pooled" not in words
    assert "any larger size" not in words


def test_inspect_says_the_same_and_writes_nothing() -> None:
    made = convert(padded(), exact=True, sizes=[(40, 37)], stride=5).result
    said = surgery.inspect(padded(), exact=True, size=(40, 37), stride=5)
    assert said.notes == made.notes
    assert said.geometry == made.geometry
    assert said.proto is None
    assert "this is what `surgery convert --exact` would do" in " ".join(str(said).split())


def test_the_command_line_does_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "model.onnx", tmp_path / "exact.onnx"
    onnx.save(padded(), source)
    exact = ["--exact", "--size", "40x37", "--stride", "5", "--json"]
    said = json.loads(run(capsys, "inspect", source, *exact).out)
    made = json.loads(run(capsys, "convert", source, "-o", target, *exact).out)
    assert (made["engine"], made["verdict"], made["proof"]["passed"]) == ("exact", "exact", True)
    assert said["notes"] == made["notes"]
    assert run(capsys, "validate", source, target).code == 0
    assert onnx.load(target) == convert(padded(), exact=True, sizes=[(40, 37)], stride=5).proto


# ------------------------------------------------ work


def blocks(count: int) -> onnx.ModelProto:
    """So many residual blocks behind a stem, on windows of 64."""
    made = small_shapes.Net()
    x = made.conv("image", 2, 3, 2)
    for _ in range(count):
        x = made.op("Add", x, made.conv(made.conv(x, 2, 3), 2, 3, act=""))
    return made.pooled(x)


@pytest.mark.parametrize("name", ["slide", "join"])
def test_layers_that_lie_alike_are_planned_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done, counts = getattr(mosaic, name), []
    for count in (20, 60):
        calls: list[Any] = []
        monkeypatch.setattr(mosaic, name, lambda *a, calls=calls: (calls.append(a), done(*a))[1])
        cut = next(cuts(blocks(count), (200, 200), (8, 8), only=[-1]))
        assert cut.layout.candidates > 4 * count
        counts.append(len(calls))
    assert 0 < counts[1] <= counts[0] + 4
