"""The law and its proof: map[i, j] == original(crop i, j), measured with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery.errors import BadInput
from surgery.head import Head
from surgery.oracle import Arrays, Original, grid_places, softmax_inputs, window_at, with_outputs
from surgery.rules import Map
from surgery.session import Session

TOLERANCE = 1e-4
REDUCE: dict[str, Callable[..., Any]] = {"mean": np.mean, "max": np.max}


@dataclass(frozen=True)
class Check:
    """One comparison: `max_error` is max|difference| / max|reference|, the worst of the tensors compared.

    It is None where the two could not be compared at all; `note` then says why.
    """

    name: str
    size: tuple[int, ...]
    positions: int
    compared: tuple[str, ...]
    max_error: float | None
    argmax_agreement: float
    required: bool
    passed: bool
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The keys of the reports."""
        data = {
            k: getattr(self, k) for k in ("name", "positions", "max_error", "argmax_agreement", "required")
        }
        data |= {"size": list(self.size), "compared": list(self.compared), "passed": self.passed}
        return data | ({"note": self.note} if self.note else {})


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


@dataclass
class Gap:
    """The distance between two sets of tensors, gathered one tensor at a time."""

    compared: list[str] = field(default_factory=list)
    error: float = 0.0
    agreed: list[float] = field(default_factory=list)
    note: str = ""

    def add(self, name: str, got: NDArray[Any], want: NDArray[Any]) -> None:
        """Compare one tensor, features in dim 1."""
        self.compared.append(name)
        if got.shape != want.shape:
            self._fail(f"{name!r} has shape {list(got.shape)}, not {list(want.shape)}")
            return
        a, b = got.astype(np.float64), want.astype(np.float64)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            if np.array_equal(a, b, equal_nan=True):
                return
            self._fail(f"{name!r} holds NaN or infinite values")
            return
        scale = float(np.abs(b).max(initial=0.0))
        gap = float(np.abs(a - b).max(initial=0.0))
        self.error = max(self.error, gap / scale if scale else (0.0 if gap == 0 else np.inf))
        if want.dtype.kind == "f" and want.ndim > 1 and want.shape[1] > 1:
            self.agreed.append(float(np.mean(a.argmax(1) == b.argmax(1))))

    def _fail(self, why: str) -> None:
        self.error, self.note = np.inf, self.note or why

    def check(
        self, name: str, size: Sequence[int], positions: int, tolerance: float, required: bool
    ) -> Check:
        """The finished check."""
        finite = bool(np.isfinite(self.error))
        return Check(
            name,
            tuple(size),
            positions,
            tuple(self.compared),
            self.error if finite else None,
            float(np.mean(self.agreed)) if self.agreed else float(finite),
            required,
            finite and self.error <= tolerance and bool(self.compared),
            self.note,
        )


@dataclass(frozen=True, eq=False)
class Converted:
    """A converted model under proof; `reduce` names the pooling over positions behind its map, if any."""

    proto: onnx.ModelProto
    reduce: str = ""

    def run(self, image: NDArray[Any], input_name: str, extra: Sequence[str] = ()) -> Arrays:
        """Its outputs, and the inputs of its softmaxes under the key `softmax input of <output>`."""
        softs = softmax_inputs(self.proto.graph)
        session = Session(with_outputs(self.proto, [*softs.values(), *extra]))
        if input_name not in session.inputs:
            raise BadInput(f"the converted model has no input {input_name!r}, but {session.inputs}")
        feeds = {input_name: image}
        for value in self.proto.graph.input:
            if value.name != input_name:
                dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
                kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                feeds[value.name] = np.ones(dims, kind)
        values = session.run(feeds)
        return values | {soft_key(o): values[t] for o, t in softs.items()}


def soft_key(output: str) -> str:
    """The name under which the input of an output's softmax is compared."""
    return f"softmax input of {output}"


def default_sizes(head: Head) -> list[tuple[int, ...]]:
    """The window's own size, one a few strides larger, and one larger by a number no stride divides."""
    g = head.geometry
    whole = tuple(w + (2 + k % 2) * s for k, (w, s) in enumerate(zip(g.window, g.stride, strict=True)))
    odd = tuple(
        w + (2 - k % 2) * s + (s - step if s > step else 0)
        for k, (w, s, step) in enumerate(zip(g.window, g.stride, g.step, strict=True))
    )
    return [g.window, whole, odd]


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
) -> Proof:
    """Compare the converted model with the original at several image sizes (pixels per axis).

    `native` is the window's own size; `windows` the original head on every window of the trunk's map
    (dense engine); `crops` the original on every crop, or on `crops` of them taken at random. With
    `image` that image is used in the place of noise, at its own size.
    """
    checks = []
    for n, size in enumerate(sizes or default_sizes(head)):
        check_size(head, size)
        pixels = original.image(size, seed=n + 1)
        checks += _prove_at(original, head, converted, pixels, tuple(size), engine, tolerance, crops)
    if image is not None:
        size = tuple(image.shape[a] for a in original.facts.axes)
        check_size(head, size)
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
    fail = Gap()
    sources = list(head.sources) if dense else []
    try:
        got = converted.run(image, original.facts.image)
        maps = _maps(original, converted, image, sources) if sources else {}
    except BadInput as error:
        fail.add("output", np.zeros(0), np.zeros(1))
        fail.note = str(error)
        return [fail.check("native" if native else "windows", size, 0, tolerance, True)]
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
    if dense and not native:
        places = grid_places(_map_grid(head, maps) if not converted.reduce else grid)
        steps = {n: head.stride_in_cells(m) for n, m in head.sources.items()}
        want = original.head(maps, head.sources, places, steps)
        top = tuple(max(p[k] for p in places) + 1 for k in range(len(grid)))
        gap = compare(original, converted, got, want, places, top, least=grid)
        checks.append(gap.check("windows", size, len(places), tolerance, True))
    return checks


def _maps(original: Original, converted: Converted, image: NDArray[Any], sources: list[str]) -> Arrays:
    """The maps the head reads: from the original's own trunk where it runs at this size."""
    trunk = original.trunk(sources)
    if trunk is not None:
        try:
            feeds = {n: v for n, v in original._feeds(image).items() if n in trunk.inputs}
            return trunk.run(feeds, sources)
        except BadInput:
            pass  # its body is baked to the window
    return converted.run(image, original.facts.image, sources)


def _map_grid(head: Head, maps: Arrays) -> tuple[int, ...]:
    """How many windows the maps hold, beyond the image's own full windows too."""
    grids = []
    for name, m in head.sources.items():
        cells = [maps[name].shape[a] for a in m.axes]
        steps = head.stride_in_cells(m)
        grids.append([(n - c) // s + 1 for n, c, s in zip(cells, m.cells, steps, strict=True)])
    return tuple(min(g[k] for g in grids) for k in range(len(grids[0])))


def compare(
    original: Original,
    converted: Converted,
    got: Arrays,
    want: Arrays,
    places: Sequence[tuple[int, ...]],
    grid: tuple[int, ...],
    least: tuple[int, ...] | None = None,
) -> Gap:
    """Compare the converted's maps with the original's answers at these places of the grid.

    The converted may have more positions than `grid` (they are left out), and, where `least` is given,
    fewer, down to it (a map that was trimmed).
    """
    gap = Gap()
    pairs = [(o, o) for o in original.outputs]
    if least is None:
        for name, m in original.taken.items():
            _compare_taken(gap, name, m, got, want, places, original.steps[name])
    if not converted.reduce:
        pairs += [(soft_key(o), t) for o, t in original.softs.items() if soft_key(o) in got]
    for key, name in pairs:
        if key not in got:
            gap.add(key, np.zeros(0), np.zeros(1))
            continue
        if converted.reduce:
            gap.add(key, got[key], REDUCE[converted.reduce](want[name], axis=0, keepdims=True).reshape(1, -1))
            continue
        _compare_map(gap, key, got[key], want[name], places, grid, least)
    return gap


def _compare_taken(gap: Gap, name: str, m: Map, got: Arrays, want: Arrays, places: Any, steps: Any) -> None:
    """Compare an output that is a map of the trunk itself, window by window."""
    if name not in got or got[name].ndim != len(m.shape):
        gap.add(name, np.zeros(0), np.zeros(1))
        return
    windows = [window_at(got[name], m.axes, m.cells, p, steps) for p in places]
    if any(w.shape[1:] != want[name].shape[1:] for w in windows):
        gap.add(name, np.zeros(0), np.zeros(1))
        return
    gap.add(name, np.concatenate(windows), want[name])


def _compare_map(
    gap: Gap, key: str, got: NDArray[Any], want: NDArray[Any], places: Any, grid: Any, least: Any
) -> None:
    space = len(grid)
    have = got.shape[-space:]
    floor = least or grid
    if got.ndim <= space or any(h < f for h, f in zip(have, floor, strict=True)):
        gap.add(key, np.zeros(have), np.zeros(tuple(grid)))
        return
    inside = [i for i, p in enumerate(places) if all(a < h for a, h in zip(p, have, strict=True))]
    where = (Ellipsis, *np.array([places[i] for i in inside]).T)
    stacked = np.moveaxis(got[0][where], -1, 0)
    gap.add(key, stacked.reshape(len(inside), -1), want[inside].reshape(len(inside), -1))
