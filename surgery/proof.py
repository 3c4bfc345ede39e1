"""The law and its proof: map[i, j] == original(crop i, j), measured with onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery.compare import Check, Converted, Gap, compare
from surgery.errors import BadInput
from surgery.head import Geometry, Head
from surgery.oracle import Arrays, Original, grid_places
from surgery.report.text import render_proof

TOLERANCE = 1e-4
SECOND = 1000  # the seed of the second image of a batch
HALF_TOLERANCE = 5e-3  # in float16, whose numbers lie 1e-3 of themselves apart
Progress = Callable[[str], None]


def silent(step: str) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Proof:
    """All checks; it passed where every required one did."""

    tolerance: float
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every required check passed."""
        return all(c.passed for c in self.checks if c.required)

    def to_dict(self) -> dict[str, Any]:
        """The keys of the reports."""
        checks = [c.to_dict() for c in self.checks]
        return {"passed": self.passed, "tolerance": self.tolerance, "checks": checks}

    def to_json(self) -> str:
        """The proof as one JSON object."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        return render_proof(self.to_dict())


def tolerance_for(proto: onnx.ModelProto, wanted: float | None) -> float:
    """The tolerance that was asked for, or else what the model's own number format allows."""
    if wanted is not None:
        return wanted
    half = onnx.TensorProto.FLOAT16
    casts = (n for n in proto.graph.node if n.op_type == "Cast")
    makes = any(a.name == "to" and a.i == half for n in casts for a in n.attribute)
    held = any(t.data_type == half for t in proto.graph.initializer)
    taken = any(v.type.tensor_type.elem_type == half for v in proto.graph.input)
    return HALF_TOLERANCE if makes or held or taken else TOLERANCE


def default_sizes(head: Head) -> list[tuple[int, ...]]:
    """The window's own size, one a few strides larger, and one larger by a number no stride divides.

    Where windows lie closer than the net's own stride, only one axis grows by as much as that stride:
    enough to meet the net's own grid a second time, without a crop for every pixel of two axes.
    """
    g = head.geometry
    whole, odd = [], []
    for k, (s, own, step) in enumerate(zip(g.stride, head.own_stride, g.step, strict=True)):
        rest = s - step if s > step else 0
        if s < own:
            whole.append(own if k % 2 else 2 * s)
            odd.append((2 * s if k % 2 else own) + rest)
        else:
            whole.append((2 + k % 2) * s)
            odd.append((2 - k % 2) * s + rest)
    return [g.window, *(larger(g, sides) for sides in (whole, odd))]


def larger(g: Geometry, more: Sequence[int]) -> tuple[int, ...]:
    """The size that is larger than the window by so many pixels, or by the least more that the net takes."""
    return tuple(w + -(-n // step) * step for w, n, step in zip(g.window, more, g.step, strict=True))


def prove(
    original: Original,
    head: Head,
    converted: Converted,
    sizes: Sequence[Sequence[int]] | None = None,
    *,
    engine: str = "dense",
    tolerance: float = TOLERANCE,
    crops: int | None = None,
    image: NDArray[Any] | None = None,
    progress: Progress = silent,
) -> Proof:
    """Compare the converted model with the original at several image sizes (pixels per axis).

    At the first size a second image in the batch must give what it gives alone, where the batch is free.
    `native` is the window's own size; `windows` the original head on every window of the trunk's map
    (dense engine); `crops` the original on every crop, or on `crops` of them taken at random. With
    `image` that image is used in the place of noise, at its own size. `progress` is called with a line
    at each size.
    """
    checks = []
    for n, size in enumerate(default_sizes(head) if sizes is None else sizes):
        check_size(head, size)
        progress(f"proof: crops and windows of {_by(size)}")
        pixels = original.image(size, seed=n + 1)
        checks += _prove_at(original, head, converted, pixels, tuple(size), engine, tolerance, crops)
        if n == 0 and converted.batch_is_free:
            checks[0] = _with_second_image(checks[0], original, head, converted, pixels, tolerance)
    if image is not None:
        size = tuple(image.shape[a] for a in original.facts.axes)
        check_size(head, size)
        progress(f"proof: crops and windows of the image, {_by(size)}")
        checks += _prove_at(original, head, converted, image, size, engine, tolerance, crops)
    return Proof(tolerance, tuple(checks))


def check_size(head: Head, size: Sequence[int]) -> None:
    """Raise BadInput where an image of this size holds no window, or the net cannot take it."""
    g = head.geometry
    if len(size) != len(g.window):
        raise BadInput(f"the size {list(size)} has {len(size)} sides, the window {len(g.window)}.")
    if any(n < w for n, w in zip(size, g.window, strict=True)):
        raise BadInput(
            f"an image of {_by(size)} is smaller than the window of {_by(g.window)}; give a larger one."
        )
    if any((n - w) % s for n, w, s in zip(size, g.window, g.step, strict=True)):
        raise BadInput(
            f"an image of {_by(size)} does not fit the net: branches of its trunk would not meet. It takes "
            f"{_by(g.window)} and every {_by(g.step)} pixels more."
        )


def _by(size: Sequence[int]) -> str:
    return "x".join(str(n) for n in size)


def _prove_at(
    original: Original,
    head: Head,
    converted: Converted,
    image: NDArray[Any],
    size: tuple[int, ...],
    engine: str,
    tolerance: float,
    crops: int | None,
) -> list[Check]:
    g = head.geometry
    grid = g.grid(size)
    native = size == g.window
    dense = engine == "dense"
    sources = list(head.sources) if dense else []
    try:
        got = converted.run(image, original.facts.image, sources)
    except BadInput as error:
        return [unable("native" if native else "windows", size, tolerance, str(error))]
    checks = []
    exact = head.verdict == "exact" or not dense
    if native or not dense or crops != 0:
        places = grid_places(grid)
        if crops is not None and len(places) > crops and not converted.reduce:
            rng = np.random.default_rng(0)
            places = [places[i] for i in sorted(rng.choice(len(places), crops, replace=False))]
        want = original.crops(image, places, g.stride)
        gap = compare(original, converted, got, want, places, grid)
        checks.append(
            gap.check("native" if native else "crops", size, len(places), tolerance, native or exact)
        )
    if dense and not native and not (converted.reduce and g.stride != head.own_stride):
        checks.append(_windows(original, head, converted, image, got, size, tolerance))
    return checks


def _windows(
    original: Original,
    head: Head,
    converted: Converted,
    image: NDArray[Any],
    got: Arrays,
    size: tuple[int, ...],
    tolerance: float,
) -> Check:
    """The original head on every window of the original trunk's map.

    Where the windows of the converted lie on another grid than the net's own, on those of both.
    """
    steps = [lcm(a, b) for a, b in zip(head.geometry.stride, head.own_stride, strict=True)]
    maps = original.maps(image, list(head.sources))
    if maps is None or not _as_followed(head, maps, size):
        maps = own_phase(head, {**got, original.facts.image: image})
    if len(maps) < len(head.sources):
        missing = next(n for n in head.sources if n not in maps)
        why = f"the original's trunk cannot run at this size, and the converted has no tensor {missing!r}"
        return unable("windows", size, tolerance, why)
    cells = {n: [int(s / j) for s, j in zip(steps, m.stride, strict=True)] for n, m in head.sources.items()}
    least = head.geometry.refined(steps).grid(size)
    grid = least if converted.reduce else _map_grid(head, maps, cells)
    places = grid_places(grid)
    want = original.head(maps, head.sources, places, cells)
    if not converted.reduce:
        got = {n: thinned(v, steps, head.geometry.stride) for n, v in got.items()}
    gap = compare(original, converted, got, want, places, grid, least=least)
    return gap.check("windows", size, len(places), tolerance, True)


def _as_followed(head: Head, maps: Arrays, size: Sequence[int]) -> bool:
    """Whether maps have the lengths that the geometry foresees.

    A Reshape to [0, 6, -1, 5] takes other sizes without complaint, and makes nonsense of them.
    """
    for name, m in head.sources.items():
        for a, axis, n, w in zip(m.axes, m.geometry, size, head.geometry.window, strict=True):
            known = axis.spacing == 1 and n - w < len(axis.lengths)
            if known and maps[name].shape[a] != axis.lengths[n - w]:
                return False
    return True


def thinned(value: NDArray[Any], steps: Sequence[int], stride: Sequence[int]) -> NDArray[Any]:
    """The positions of a map that lie `steps` pixels apart, of those `stride` pixels apart."""
    if value.ndim <= len(steps):
        return value
    index: Any = (Ellipsis, *(slice(None, None, a // b) for a, b in zip(steps, stride, strict=True)))
    thin: NDArray[Any] = value[index]
    return thin


def own_phase(head: Head, got: Arrays) -> Arrays:
    """The maps of the converted model itself, thinned out to the cells that the net's own stride has."""
    maps = {}
    for name, m in head.sources.items():
        if name in got:
            index = [slice(1), *[slice(None)] * (got[name].ndim - 1)]
            for axis, spacing in zip(m.axes, m.spacing, strict=True):
                index[axis] = slice(None, None, spacing)
            maps[name] = got[name][tuple(index)]
    return maps


def second_image(original: Original, head: Head, converted: Converted, image: NDArray[Any]) -> Gap:
    """What a second image of a batch gives, against what it gives alone; a baked batch mixes both."""
    size = [image.shape[a] for a in original.facts.axes]
    other = original.image(size, seed=SECOND)
    name = original.facts.image
    gap = Gap()
    try:
        both = converted.run(np.concatenate([image, other]), name, list(head.sources))
        alone = converted.run(other, name, list(head.sources))
    except BadInput as error:
        return Gap(error=np.inf, note=f"it cannot take a batch of two images: {error}")
    for output in original.outputs:
        if output in both and both[output].shape[:1] == (2,):
            gap.add(output, both[output][1:], alone[output])
        else:
            gap.add(output, np.zeros(1), np.zeros(2))
    return gap


def takes_batches(original: Original, head: Head, converted: Converted, tolerance: float) -> bool:
    """Whether two images at the window's size give what each gives alone."""
    gap = second_image(original, head, converted, original.image(original.facts.window))
    return bool(gap.error <= tolerance)


def _with_second_image(
    check: Check,
    original: Original,
    head: Head,
    converted: Converted,
    image: NDArray[Any],
    tolerance: float,
) -> Check:
    """The check, failed where a second image in the batch fails."""
    gap = second_image(original, head, converted, image)
    if gap.error <= tolerance:
        return check
    why = gap.note or "a second image in the batch gives something else than alone"
    return replace(check, passed=False, max_error=None, note=why)


def unable(name: str, size: tuple[int, ...], tolerance: float, why: str) -> Check:
    """A check that could not be made, and so failed."""
    gap = Gap(error=np.inf, note=why)
    return gap.check(name, size, 0, tolerance, True)


def _map_grid(head: Head, maps: Arrays, steps: dict[str, list[int]]) -> tuple[int, ...]:
    """How many windows the maps hold, beyond the image's own full windows too."""
    grids = []
    for name, m in head.sources.items():
        cells = [maps[name].shape[a] for a in m.axes]
        grids.append([(n - c) // s + 1 for n, c, s in zip(cells, m.cells, steps[name], strict=True)])
    return tuple(min(g[k] for g in grids) for k in range(len(grids[0])))
