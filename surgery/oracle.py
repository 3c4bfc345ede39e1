"""What the original says: of every crop of an image, and of every window of its own trunk's map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery.errors import BadInput
from surgery.model import Model
from surgery.probes import (
    HIDING,
    PROBABILITIES,
    counts_in_window,
    cut,
    fix_at_window,
    from_shapes,
    relaxed,
    softmax_inputs,
    with_outputs,
)
from surgery.rules import Map
from surgery.session import Session, beside, noise
from surgery.shapes import Facts

CROPS_AT_ONCE = 8
BYTES_AT_ONCE = 2**28

Arrays = dict[str, NDArray[Any]]


class Runner:
    """Runs a fixed-window model over any number of samples: as a batch where its batch is free."""

    def __init__(self, proto: onnx.ModelProto, batch: int) -> None:
        self._batch = batch
        self._session = Session(relaxed(proto) if batch == 1 else proto, for_proof=True)
        self._free: bool | None = None if batch == 1 else False
        self.inputs = self._session.inputs

    def run(self, feeds: Arrays) -> Arrays:
        """Outputs for all samples, stacked along their first dim."""
        count = max(len(v) for v in feeds.values() if v.ndim > 1)
        if self._free is None and count > 1:
            self._free = self._batches(feeds)
        step = CROPS_AT_ONCE if self._free else self._batch
        parts = []
        for start in range(0, count, step):
            part = _samples(feeds, start, start + step)
            size = min(step, count - start)
            if not self._free and size < step:  # a baked batch takes no less
                part = {n: np.resize(v, (step, *v.shape[1:])) if v.ndim > 1 else v for n, v in part.items()}
            parts.append({n: v[:size] for n, v in self._session.run(part).items()})
        return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    def _batches(self, feeds: Arrays) -> bool:
        """Whether two samples together give what each gives alone; a batch baked into the body does not."""
        two = _samples(feeds, 0, 2)
        alone = [self._session.run(_samples(feeds, i, i + 1)) for i in range(2)]
        try:
            both = self._session.run(two)
        except BadInput:
            return False
        for name, value in both.items():
            single = [a[name] for a in alone]
            if any(s.shape[:1] != (1,) or value.shape != (2, *s.shape[1:]) for s in single):
                return False
            if not np.allclose(value, np.concatenate(single), rtol=1e-3, atol=1e-4, equal_nan=True):
                return False
        return True


def _samples(feeds: Arrays, first: int, end: int) -> Arrays:
    """Some samples of a batch; vectors and single values belong to every sample."""
    return {n: v[first:end] if v.ndim > 1 else v for n, v in feeds.items()}


class Original:
    """The original, asked about windows of larger images.

    `taken` are the outputs that are maps of the trunk itself, `steps` the cells of each between
    neighbouring windows; `outputs` all the others.
    """

    def __init__(
        self, model: Model, facts: Facts, taken: dict[str, Map], steps: dict[str, tuple[int, ...]]
    ) -> None:
        self.model = model
        self.facts = facts
        self.taken = taken
        self.steps = steps
        self.softs = softmax_inputs(model.proto.graph, PROBABILITIES)
        self.hidden = softmax_inputs(model.proto.graph, HIDING)
        self.outputs = [
            n for o in model.proto.graph.output if (n := o.name) not in taken and n not in facts.values
        ]
        self.tensors = list(dict.fromkeys([*self.outputs, *self.hidden.values()]))
        self._whole = Runner(with_outputs(model.proto, self.tensors), facts.batch)
        self._head: Runner | None = None
        self._trunk: Session | str | None = None

    def image(self, size: Sequence[int], seed: int = 1) -> NDArray[Any]:
        """A seeded noise image of this size, with a batch of 1."""
        shape = list(self.facts.shape)
        shape[0] = 1
        for axis, side in zip(self.facts.axes, size, strict=True):
            shape[axis] = side
        return noise(shape, self.facts.dtype, seed)

    def crops(self, image: NDArray[Any], places: Sequence[tuple[int, ...]], origin: Sequence[int]) -> Arrays:
        """Outputs for the windows that begin at these grid places, `origin` pixels apart."""
        parts = []
        for some in _chunks(places, self.facts.shape):
            crops = [window_at(image, self.facts.axes, self.facts.window, p, origin) for p in some]
            parts.append(self._whole.run(self._feeds(np.concatenate(crops))))
        return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    def _feeds(self, images: NDArray[Any]) -> Arrays:
        feeds = {self.facts.image: images}
        for value in self.model.proto.graph.input:
            if value.name != self.facts.image:
                shape = self.facts.shapes[value.name]
                feeds[value.name] = beside(shape, self.facts.dtypes[value.name], len(images))
        return feeds

    def maps(self, image: NDArray[Any], sources: Sequence[str]) -> Arrays | None:
        """These maps of a larger image from the original's own trunk, with height and width set free.

        None where its body is baked to the window.
        """
        if self._trunk is None:
            self._trunk = self._free_trunk(sources)
        if isinstance(self._trunk, Session):
            images = np.repeat(image, self.facts.batch, axis=0)  # a constant may have a row for each
            feeds = {n: v for n, v in self._feeds(images).items() if n in self._trunk.inputs}
            try:
                return {n: v[: len(image)] for n, v in self._trunk.run(feeds, sources).items()}
            except BadInput:
                self._trunk = "baked"
        return None

    def _free_trunk(self, sources: Sequence[str]) -> Session | str:
        part = cut(self.model.proto, {}, list(sources))
        sized = from_shapes(part.graph, self.facts)
        if any(counts_in_window(node, self.facts, sized) for node in part.graph.node):
            return "baked"
        for node in part.graph.node:
            fix_at_window(node, self.facts.shapes)
        try:
            return Session(relaxed(part, {self.facts.image: self.facts.axes}), for_proof=True)
        except BadInput:
            return "baked"

    def head(
        self, maps: Arrays, sources: dict[str, Map], places: Sequence[tuple[int, ...]], steps: Any
    ) -> Arrays:
        """The original head's outputs on the windows of its maps at these grid places.

        `steps[name]` is how many cells of that map lie between neighbouring windows.
        """
        if self._head is None:
            kinds = {n: onnx.helper.np_dtype_to_tensor_dtype(self.facts.dtypes[n]) for n in sources}
            self._head = Runner(cut(self.model.proto, kinds, self.tensors), self.facts.batch)
        runner = self._head
        parts = []
        for some in _chunks(places, max((m.shape for m in sources.values()), key=np.prod)):
            feeds = {
                n: np.concatenate([window_at(maps[n], m.axes, m.cells, p, steps[n]) for p in some])
                for n, m in sources.items()
            }
            parts.append(runner.run({**self._others(runner, len(some), set(sources)), **feeds}))
        return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    def _others(self, runner: Runner, count: int, known: set[str]) -> Arrays:
        """Feeds for the inputs a cut head still has: the image is asked for its shape only."""
        names = [n for n in runner.inputs if n not in known]
        blank = np.zeros((count, *self.facts.shape[1:]), self.facts.dtype)
        return {n: self._feeds(blank)[n] for n in names}


def grid_places(grid: Sequence[int]) -> list[tuple[int, ...]]:
    """All places of a grid, row by row."""
    return list(product(*(range(n) for n in grid)))


def window_at(
    x: NDArray[Any], axes: Any, cells: Any, place: tuple[int, ...], step: Sequence[int]
) -> NDArray[Any]:
    """The cells of a map that belong to the window at a place of the grid."""
    index: list[slice] = [slice(None)] * x.ndim
    for axis, size, i, s in zip(axes, cells, place, step, strict=True):
        index[axis] = slice(i * s, i * s + size)
    return x[tuple(index)]


def _chunks(places: Sequence[tuple[int, ...]], shape: Sequence[int]) -> Iterator[Sequence[tuple[int, ...]]]:
    """The places in parts whose windows fit in memory together."""
    size = max(CROPS_AT_ONCE, BYTES_AT_ONCE // (4 * int(np.prod(shape[1:]))))
    for start in range(0, len(places), size):
        yield places[start : start + size]
