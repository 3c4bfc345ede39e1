"""One pass against crop by crop, timed on this machine: what a conversion is worth."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from statistics import median
from time import perf_counter, sleep
from typing import Any, TypeVar

from surgery.crops import Cropper, Way, plan, with_others
from surgery.errors import BadInput
from surgery.head import Geometry
from surgery.model import Model, ModelLike, dims_of, dtype_of, metadata_of, read
from surgery.proof import Progress, silent
from surgery.report.layout import by
from surgery.report.speed import render_bench
from surgery.session import Session, noise
from surgery.shapes import image_axes
from surgery.workload import workload

RUNS = 5
STRIDES_MORE = 5  # the default image has 6 windows along each axis, as 384 pixels have for 224 and 32
PAUSE = 0.1  # seconds before a run; onnxruntime's threads were seen to spin for more than 0.02
ONE_PASS = "one pass"

Key = TypeVar("Key")


@dataclass(frozen=True)
class Machine:
    """What it was timed on: the cores this process may use; `threads` of 0 were chosen by onnxruntime."""

    cores: int
    threads: int
    onnxruntime: str

    @classmethod
    def here(cls, threads: int) -> Machine:
        """This machine."""
        import onnxruntime

        known = hasattr(os, "sched_getaffinity")  # Linux tells what the process may use, others what there is
        cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
        return cls(cores, threads, str(onnxruntime.__version__))


@dataclass(frozen=True)
class Timing:
    """How long the original took for all crops, so many of them in a batch.

    `seconds` is the median over the runs; `ratio` the median of what each run took over what the one pass
    took beside it. Both are None where `skipped` says why this way cannot be taken.
    """

    name: str
    batch: int
    seconds: float | None
    ratio: float | None
    skipped: str = ""


@dataclass(frozen=True)
class Bench:
    """How long one pass of a converted model takes, and its original crop by crop. Prints as a report.

    `size`, `window` and `stride` are pixels per axis, `grid` windows per axis. `seconds` is the median time
    of one pass; `timed` crops were run one by one and in batches, and the time of more reckoned from these.
    Multiply-adds are those of Conv, Gemm and MatMul.
    """

    original: str
    converted: str
    engine: str
    size: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    grid: tuple[int, ...]
    runs: int
    machine: Machine
    seconds: float
    multiply_adds: int
    timed: int
    crops: tuple[Timing, ...]
    crop_multiply_adds: int

    @property
    def positions(self) -> int:
        """How many windows the image has."""
        return prod(self.grid)

    @property
    def ideal(self) -> float | None:
        """The multiply-adds of all crops over those of the one pass; None where it has none."""
        return self.crop_multiply_adds / self.multiply_adds if self.multiply_adds else None

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            **{k: getattr(self, k) for k in ("original", "converted", "engine")},
            **{k: list(getattr(self, k)) for k in ("size", "window", "stride", "grid")},
            "positions": self.positions,
            "runs": self.runs,
            "machine": asdict(self.machine),
            "one_pass": {"seconds": self.seconds, "multiply_adds": self.multiply_adds},
            "crops": [asdict(timing) for timing in self.crops],
            "crops_timed": self.timed,
            "crops_multiply_adds": self.crop_multiply_adds,
            "ideal": self.ideal,
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        return render_bench(self.to_dict())


def bench(
    original: ModelLike,
    converted: ModelLike,
    *,
    size: Sequence[int] | None = None,
    runs: int = RUNS,
    threads: int = 0,
    progress: Progress = silent,
) -> Bench:
    """Time one pass of a converted model over an image, and the original on every crop of that image.

    The original runs crop by crop, by 8, and on all crops in one batch where that is possible; it takes a
    crop out of the image when its turn comes, which is part of its time. `size` is the image's in pixels
    per axis: by default 5 strides larger than the window, and an exact model's own. All take turns, `runs`
    times after a warm-up, so that a busy machine is unfair to none. `threads` is how many onnxruntime may
    use; it chooses at 0. `progress` is called with a line before each run.

    Raises BadInput where a model cannot be read or run, where the converted one was not made by `convert`
    from a model of such images, or where the size does not fit it.
    """
    if runs < 1 or threads < 0:
        raise BadInput(f"{runs} runs on {threads} threads: give at least 1 run, and 0 threads or more.")
    source, other = read(original, finite=False), read(converted, finite=False)
    engine, geometry = card(other)
    axes = check_pair(source, other, geometry)
    sides = size_of(other, engine, geometry, axes, size)
    progress("loading the models")
    image = noise(image_shape(source, axes, sides), dtype_of(source.image), seed=1)
    cropper, feeds = Cropper(source, geometry, axes, image, threads), with_others(other, image)
    session = Session(other.proto, threads=threads)
    positions, own = prod(cropper.grid), cropper.own
    single = workload(source.proto, next(cropper.batches(1, own)))
    ways = plan(positions, own, single.peak // own, cropper.baked())
    works = {ONE_PASS: lambda: session.run(feeds), **crop_works(cropper, ways)}
    taken = in_turns(works, runs, progress=progress)
    return Bench(
        source.name,
        other.name,
        engine,
        sides,
        geometry.window,
        geometry.stride,
        cropper.grid,
        runs,
        Machine.here(threads),
        median(taken[ONE_PASS]),
        workload(other.proto, feeds).multiply_adds,
        ways[0].crops,
        tuple(timing(way, taken, positions) for way in ways),
        positions * single.multiply_adds // own,
    )


# ------------------------------------------------------------------ what is timed


def card(model: Model) -> tuple[str, Geometry]:
    """The engine and the geometry that a converted model names in its metadata."""
    facts = metadata_of(model.proto)
    try:
        return facts["surgery.engine"], Geometry.from_json(json.loads(facts["surgery.geometry"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{model.name} is not a converted model: its metadata lacks surgery's own record of the windows. "
            "Give the original first and what `surgery convert` made of it second."
        ) from error


def check_pair(original: Model, converted: Model, geometry: Geometry) -> tuple[int, ...]:
    """The dims of the image that are space.

    Raises BadInput where a model cannot come from the other: their images differ, or the window does.
    """
    a, b = original.image, converted.image
    dims = dims_of(a)
    axes: tuple[int, ...] = ()
    same = (a.name, dtype_of(a), len(dims)) == (b.name, dtype_of(b), len(dims_of(b)))
    if same:
        axes = image_axes(original, geometry.window)
        fixed = [dims[axis] for axis in axes]
        same = len(axes) == len(geometry.window) and all(
            not isinstance(d, int) or d in (0, w) for d, w in zip(fixed, geometry.window, strict=True)
        )
    if not same:
        raise BadInput(
            f"{converted.name} was not made from {original.name}: it answers for windows of "
            f"{by(geometry.window)} of {b.name!r} {list(dims_of(b))}, and the original takes {a.name!r} "
            f"{list(dims)}. Give the model that it was converted from."
        )
    return axes


def size_of(
    converted: Model, engine: str, geometry: Geometry, axes: Sequence[int], asked: Sequence[int] | None
) -> tuple[int, ...]:
    """The image size in pixels per axis: the one asked for if the model takes it, or a fitting one."""
    window, stride, step = geometry.window, geometry.stride, geometry.step
    dims = dims_of(converted.image)
    own = [int(dims[axis]) for axis in axes] if engine == "exact" else None
    if asked is None:
        larger = [w + STRIDES_MORE * s for w, s in zip(window, stride, strict=True)]
        return tuple(own or larger)
    size = tuple(asked)
    if own is not None and size != tuple(own):
        raise BadInput(
            f"{converted.name} takes images of {by(own)} only; make a model for {by(size)} with "
            f"`surgery convert ORIGINAL -o OUT --exact --size {by(size)}`."
        )
    if len(size) != len(window) or any(n < w for n, w in zip(size, window, strict=False)):
        raise BadInput(f"an image of {by(size)} holds no window of {by(window)}; give a larger size.")
    if own is None and any((n - w) % s for n, w, s in zip(size, window, step, strict=True)):
        raise BadInput(
            f"{converted.name} takes no image of {by(size)}: it takes {by(window)} and every {by(step)} "
            "pixels more."
        )
    return size


def image_shape(model: Model, axes: Sequence[int], size: Sequence[int]) -> list[int]:
    """The shape of one image of this size, along these dims, as the model takes it."""
    dims = dims_of(model.image)
    shape = [d if isinstance(d, int) and d > 0 else 1 for d in dims]
    for axis, side in zip(axes, size, strict=True):
        shape[axis] = side
    return [1, *shape[1:]]


def crop_works(cropper: Cropper, ways: Sequence[Way]) -> dict[str, Callable[[], object]]:
    """What to call for each way that can be taken: it cuts the crops, as the one pass cuts its own."""

    def work(way: Way) -> Callable[[], object]:
        return lambda: [cropper.session.run(batch) for batch in cropper.batches(way.crops, way.batch)]

    return {way.name: work(way) for way in ways if not way.skipped}


# ------------------------------------------------------------------ and how


def in_turns(
    works: Mapping[Key, Callable[[], object]],
    runs: int,
    *,
    clock: Callable[[], float] = perf_counter,
    rest: Callable[[], None] = lambda: sleep(PAUSE),
    progress: Progress = silent,
) -> dict[Key, list[float]]:
    """The seconds of every run of every work by its key: first a warm-up of each, then all in turns.

    Before each run there is a rest: the threads of an onnxruntime session go on spinning for a while after
    it, and take the cores of another session that runs then.
    """
    taken: dict[Key, list[float]] = {name: [] for name in works}
    for name, work in works.items():
        progress(f"warm-up: {name}")
        work()
    for run in range(1, runs + 1):
        for name, work in works.items():
            progress(f"run {run} of {runs}: {name}")
            rest()
            start = clock()
            work()
            taken[name].append(clock() - start)
    return taken


def timing(way: Way, taken: Mapping[str, Sequence[float]], positions: int) -> Timing:
    """The medians of one way, for all positions."""
    if way.skipped:
        return Timing(way.name, way.batch, None, None, way.skipped)
    share = positions / way.crops
    ratios = [share * a / b for a, b in zip(taken[way.name], taken[ONE_PASS], strict=True)]
    return Timing(way.name, way.batch, share * median(taken[way.name]), median(ratios))
