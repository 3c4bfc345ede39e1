"""Geometry against the literature, and against what onnxruntime shows of pixels, borders and sizes."""

from __future__ import annotations

from collections.abc import Callable

import law
import nets
import numpy as np
import onnx
import onnxruntime as ort
import published
import pytest
import reach
from done import convert
from hypothesis import assume, given
from random_nets import Trunk, trunks

from surgery import Geometry
from surgery.analysis import Analysis, analyse
from surgery.field import Axis

# ------------------------------------------------ published numbers

PUBLISHED: dict[str, tuple[Callable[[], published.Writer], int, int, int, tuple[int, int]]] = {
    # net: window, field of a cell of the map, field of a score, clean cells of all
    "CaffeNet": (published.caffenet, 227, 195, 355, (4, 36)),
    "VGG-16": (published.vgg16, 224, 212, 404, (1, 49)),
    "ResNet-50": (published.resnet50, 224, 427, 619, (0, 49)),
    "ResNet-50, strides in 1x1": (lambda: published.resnet50(early=True), 224, 483, 675, (0, 49)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name: str) -> None:
    write, window, field, output, (clean, cells) = PUBLISHED[name]
    analysis, _, _ = analyse(write().model())
    g = analysis.head.geometry
    assert (g.window, g.stride) == ((window,) * 2, (32, 32))
    assert [axis.field.size for axis in axes_of(analysis)] == [field] * 2
    assert g.field_size == (output, output)
    assert g.touched == pytest.approx(1 - clean / cells)
    assert analysis.head.verdict == "padded"


def axes_of(analysis: Analysis) -> tuple[Axis, ...]:
    return analysis.trunk.maps["map"].geometry


# ------------------------------------------------ laws over random trunks


def with_head(trunk: Trunk, *, positive: bool = True) -> tuple[onnx.ModelProto, Analysis]:
    """The trunk's model with the smallest head, and what the walk finds in it."""
    assume("image" in "".join(trunk.lines[:-1]))
    trunk.lines.append("scores = Flatten (map)")
    model = nets.parse(trunk.text("scores"), positive=positive)
    analysis, _, _ = analyse(model)
    return model, analysis


@given(trunks())
def test_field_is_what_a_poke_reaches(trunk: Trunk) -> None:
    model, analysis = with_head(trunk)
    fields_of = [whole(axis) for axis in axes_of(analysis)]
    size = [w + s * (2 + 2 * n // s) for w, (_, n, s) in zip(trunk.window, fields_of, strict=True)]
    for k, (start, field, stride) in enumerate(fields_of):
        lit = reach.poked(model, "map", size, k)
        fields = [(start + u * stride, start + u * stride + field) for u in range(lit.shape[1])]
        seen = [np.flatnonzero(lit[:, u]) for u in range(lit.shape[1])]
        inside = [u for u, (a, b) in enumerate(fields) if a >= 0 and b <= size[k]]
        assert inside
        assert [(seen[u][0], seen[u][-1] + 1) for u in inside] == [fields[u] for u in inside]
        assert all(a <= pixel < b for (a, b), pixels in zip(fields, seen, strict=True) for pixel in pixels)


def whole(axis: Axis) -> tuple[int, int, int]:
    """The field's start, size and stride, which are whole in a net without upsampling."""
    return int(axis.field.start), int(axis.field.size), int(axis.field.stride)


@given(trunks())
def test_margin_is_what_the_border_reaches(trunk: Trunk) -> None:
    model, analysis = with_head(trunk)
    axes = axes_of(analysis)
    strides, wide = [whole(axis)[2] for axis in axes], max(axis.field.span(axis.cells).size for axis in axes)
    for k, axis in enumerate(axes):
        (a, b), soiled = axis.margin, reach.soiled(model, "map", strides, k, int(wide))
        assert soiled.tolist() == [u < a or u >= axis.cells - b for u in range(axis.cells)]


@given(trunks())
def test_lengths_are_what_onnxruntime_gives(trunk: Trunk) -> None:
    model, analysis = with_head(trunk)
    free = law.session(law.trunk_of(model, ["map"]))
    for k, axis in enumerate(axes_of(analysis)):
        for more in (0, 1, 2, 3, 5, 8):
            size = [w + (more if i == k else 0) for i, w in enumerate(trunk.window)]
            assert length_at(free, size, k) == axis.lengths[more]


def length_at(free: ort.InferenceSession, size: list[int], axis: int) -> int:
    """The map's length in onnxruntime, or -1 where its branches do not meet."""
    try:
        return int(law.run(free, np.zeros((1, 2, *size), np.float32))["map"].shape[2 + axis])
    except ort.capi.onnxruntime_pybind11_state.Fail:
        return -1


# ------------------------------------------------ Geometry's own laws

CONVERTED = [n for n in nets.NAMES if nets.facts_of(n).verdict != "global"]


@pytest.mark.parametrize("name", CONVERTED)
def test_grid_and_extra_are_the_map_at_every_residue(name: str) -> None:
    done = convert(nets.load(name))
    g, opened = done.geometry, law.session(done.proto)
    lifted = next(o for o in done.proto.graph.output if o.name != "map").name
    surplus: list[tuple[int, ...]] = []
    for more in range(2 * max(g.stride)):
        size = tuple(w + more - more % t for w, t in zip(g.window, g.step, strict=True))
        score = law.run(opened, law.random_image(done.model, size))[lifted]
        rows = score.shape[-len(size) :]
        surplus.append(tuple(r - n for r, n in zip(rows, g.grid(size), strict=True)))
    assert np.min(surplus) >= 0
    assert tuple(np.max(surplus, axis=0)) == g.extra


def test_sizes_between_the_steps_do_not_run() -> None:
    done = convert(nets.load("uneven"))
    opened = law.session(done.proto)
    assert done.geometry.step == (2, 2)
    with pytest.raises(Exception, match="mismatched dimensions"):
        law.run(opened, law.random_image(done.model, (14, 17)))
    law.run(opened, law.random_image(done.model, (15, 19)))


@pytest.mark.parametrize("name", ["plain", "leftover", "branches", "padded", "volume"])
def test_box_holds_the_pixels_a_score_depends_on(name: str) -> None:
    """A pixel changes only the scores whose box it lies in; padded, those whose field it lies in."""
    done = convert(nets.load(name))
    g = done.geometry
    size = tuple(w + 3 * s for w, s in zip(g.window, g.stride, strict=True))
    image = law.random_image(done.model, size)
    before = law.run(done.proto, image)["scores"]
    rng = np.random.default_rng(0)
    for _ in range(12):
        pixel = tuple(int(rng.integers(n)) for n in size)
        poked = image.copy()
        law.part(poked, range(2, poked.ndim), pixel, [1] * len(size))[:] += 5
        changed = np.any(law.run(done.proto, poked)["scores"] != before, axis=(0, 1))
        for cell in np.ndindex(changed.shape):
            box = g.box(*cell)
            start, end = box[: len(size)], box[len(size) :]
            assert end == tuple(a + w for a, w in zip(start, g.window, strict=True))
            if done.result.verdict == "padded":
                start = tuple(i * s + f for i, s, f in zip(cell, g.stride, g.field_start, strict=True))
                end = tuple(a + n for a, n in zip(start, g.field_size, strict=True))
            inside = all(a <= p < b for a, p, b in zip(start, pixel, end, strict=True))
            assert inside or not changed[cell]


def test_geometry_survives_its_json() -> None:
    for name in ("padded", "volume", "signal", "uneven"):
        g = convert(nets.load(name)).geometry
        assert Geometry.from_json(g.to_json()) == g


def test_grid_of_an_image_too_small_is_empty() -> None:
    g = convert(nets.load("plain")).geometry
    assert g.grid((16, 40)) == (0, 5)
    assert g.grid((17, 23)) == (1, 1)
