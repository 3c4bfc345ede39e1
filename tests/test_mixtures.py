"""Random mixtures of convolutions, pools, pads, cuts and upsamplings obey the laws of geometry."""

from __future__ import annotations

from fractions import Fraction

import law
import nets
import numpy as np
import onnx
import onnxruntime as ort
from done import convert
from hypothesis import assume, given
from numpy.typing import NDArray
from reach import BRIGHT, poked
from trunks import Trunk, mixtures

from surgery.analysis import Analysis, analyse
from surgery.field import Axis

LARGEST = 24  # pixels between windows up to which a net is looked at


def built(trunk: Trunk, *, positive: bool) -> tuple[onnx.ModelProto, Analysis, tuple[Axis, ...]]:
    """The trunk with the smallest head, what the walk finds in it, and the axes of its map."""
    assume("image" in "".join(trunk.lines[:-1]))
    trunk.lines.append("scores = Flatten (map)")
    model = nets.parse(trunk.text("scores").replace('"": 13', '"": 17'), positive=positive)
    analysis, _, _ = analyse(model)
    assume(max(analysis.head.geometry.stride) <= LARGEST)
    return model, analysis, analysis.trunk.maps["map"].geometry


def map_of(model: onnx.ModelProto, size: list[int]) -> NDArray[np.float32] | None:
    """The map of a random image; None where the net does not run at its size."""
    opened, silent = law.session(law.trunk_of(model, ["map"])), ort.RunOptions()
    silent.log_severity_level = 4
    try:
        return np.asarray(opened.run(["map"], {"image": law.random_image(model, size)}, silent)[0])
    except Exception:  # onnxruntime's exceptions share no base class of their own
        return None


@given(mixtures())
def test_field_is_what_a_poke_reaches(trunk: Trunk) -> None:
    """Cell by cell, behind upsamplings too; cells of the margin see their padding's cells as well."""
    model, _, axes = built(trunk, positive=True)
    fields = [axis.field for axis in axes]
    sides = zip(trunk.window, fields, strict=True)
    size = [w + f.period * (2 + 2 * int(f.size) // f.period) for w, f in sides]
    assume(max(size) <= 300)
    for k, axis in enumerate(axes):
        lit = poked(model, "map", size, k)
        a, b = axis.margin
        assume(a + b < axis.cells)
        for u in range(a, lit.shape[1] - b):
            first, end = axis.field.at(u)
            seen = np.flatnonzero(lit[:, u])
            assert all(first <= pixel < end for pixel in seen)
            if first >= 0 and end <= size[k]:
                assert (seen[0], seen[-1] + 1) == (first, end)


@given(mixtures())
def test_margin_is_what_the_border_reaches(trunk: Trunk) -> None:
    """Bright pixels around the window change the margin's cells, and no other.

    Padding by the edge can be what lies beyond it, so there the margin may be larger than what changes; and
    where the cell beyond repeats its neighbour, as one upsampled does, a MaxPool's padding changes nothing.
    """
    model, _, axes = built(trunk, positive=True)
    text = "".join(trunk.lines)
    edges = '"edge"' in text or ("Resize" in text and "MaxPool" in text)
    for k, axis in enumerate(axes):
        dirty = soiled(model, trunk, axes, k)
        a, b = axis.margin
        if a + b < axis.cells:
            assert not dirty[a : axis.cells - b].any()
            assert edges or not a or dirty[a - 1]
            assert edges or not b or dirty[axis.cells - b]


def soiled(model: onnx.ModelProto, trunk: Trunk, axes: tuple[Axis, ...], k: int) -> NDArray[np.bool_]:
    """Which cells of a window along axis k differ when bright pixels lie before and behind it.

    Along the other axis the image is larger than the window, so that not all is margin there.
    """
    steps = [axis.field.period for axis in axes]
    wide = -(-(2 * int(axes[k].field.size) + 8) // steps[k]) * steps[k]
    more = [0 if i == k else -(-60 // step) * step for i, step in enumerate(steps)]
    alone = np.abs(law.random_image(model, [w + m for w, m in zip(trunk.window, more, strict=True)])) + 0.5
    around = [(wide, wide) if d == 2 + k else (0, 0) for d in range(4)]
    opened = law.session(law.trunk_of(model, ["map"]))
    images = (alone, np.pad(alone, around, constant_values=BRIGHT))
    want, among = (np.moveaxis(law.run(opened, image)["map"], 2 + k, 0) for image in images)
    start = int(wide / Fraction(axes[k].field.stride))
    differs = ~np.isclose(among[start : start + len(want)], want, rtol=1e-4, atol=1e-6)
    return np.asarray(differs.reshape(len(want), -1).any(axis=1))


@given(mixtures())
def test_lengths_are_those_of_every_size(trunk: Trunk) -> None:
    """The map's length, and whether the net runs, for every size of a period and more."""
    model, analysis, axes = built(trunk, positive=False)
    for k, axis in enumerate(axes):
        alive = np.all([m.geometry[k].lengths > 0 for m in analysis.trunk.maps.values()], axis=0)
        for more in range(min(2 * axis.field.period, len(axis.lengths), 20)):
            sides = [w + (more if i == k else 0) for i, w in enumerate(trunk.window)]
            made = map_of(model, sides)
            assert (made is not None) == bool(alive[more])
            assert made is None or made.shape[2 + k] == axis.lengths[more]


@given(mixtures())
def test_extra_and_step_are_what_onnxruntime_shows(trunk: Trunk) -> None:
    """extra is the most that the map is longer than full windows; step divides every size that runs."""
    model, analysis, axes = built(trunk, positive=False)
    g = analysis.head.geometry
    for k, axis in enumerate(axes):
        cells = Fraction(g.stride[k]) / Fraction(axis.field.stride)
        rows = []
        for more in range(g.stride[k]):
            made = map_of(model, [w + (more if i == k else 0) for i, w in enumerate(trunk.window)])
            rows.append(None if made is None else (made.shape[2 + k] - axis.cells) // int(cells) + 1)
        assert g.extra[k] == max(n - 1 for n in rows if n is not None)
        assert all(n is not None for n in rows[:: g.step[k]])
        smaller = [d for d in range(1, g.step[k]) if g.stride[k] % d == 0]
        assert all(None in rows[::d] for d in smaller)


@given(mixtures())
def test_a_mixture_obeys_the_law(trunk: Trunk) -> None:
    """Exact: every crop. Padded: the original's head on every window. Trimmed: full windows only."""
    model, analysis, _ = built(trunk, positive=False)
    g = analysis.head.geometry
    assume(np.prod(analysis.head.sources["map"].shape) <= 3000)
    done = convert(model, trim=True)
    assert done.result.verdict == ("exact" if g.touched == 0 else "padded")
    size = tuple(w + (2 - k) * s for k, (w, s) in enumerate(zip(g.window, g.step, strict=True)))
    image = law.random_image(model, size)
    assert law.run(done.proto, image)["scores"].shape[-2:] == g.grid(size)
    if done.result.verdict == "exact":
        law.assert_equals_crops(model, done.proto, size, g.stride)


@given(mixtures(pads=False))
def test_what_reads_no_border_is_exact(trunk: Trunk) -> None:
    model, analysis, _ = built(trunk, positive=False)
    assert analysis.head.verdict == "exact"
    assert analysis.head.geometry.touched == 0
    assert model.graph.node
