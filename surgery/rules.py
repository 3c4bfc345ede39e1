"""The vocabulary of the rules, and the tables they are entered in; it knows no machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from surgery.field import Axis, Slide

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Map:
    """A trunk tensor: its shape at the window, batch included, and the dims that are space.

    `axes[k]` is the dim that holds spatial axis k (y before x), `geometry[k]` what is known of it.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    geometry: tuple[Axis, ...]

    @property
    def cells(self) -> tuple[int, ...]:
        """Cells per spatial axis in the window."""
        return tuple(axis.cells for axis in self.geometry)

    @property
    def stride(self) -> tuple[Any, ...]:
        """Pixels between neighbouring cells, per spatial axis."""
        return tuple(axis.field.stride for axis in self.geometry)

    @property
    def spacing(self) -> tuple[int, ...]:
        """Cells of the tensor from one cell of a window to the next, per spatial axis."""
        return tuple(axis.spacing for axis in self.geometry)

    @property
    def channel_dims(self) -> tuple[int, ...]:
        """The dims that are neither batch nor space, in their order."""
        return tuple(d for d in range(1, len(self.shape)) if d not in self.axes)

    def with_shape(self, shape: tuple[int, ...]) -> Map:
        """The same geometry in a tensor of another shape, with the spatial dims where they were."""
        return replace(self, shape=tuple(shape))

    def slid(self, slides: Mapping[int, Slide]) -> Map:
        """The map after an op that reads along these dims as windowed ops do; its shape is as it was."""
        sides = zip(self.axes, self.geometry, strict=True)
        moved = (axis.slide(slides[d]) if d in slides else axis for d, axis in sides)
        return replace(self, geometry=tuple(moved))

    def soil(self) -> Map:
        """The same map with no clean cell left."""
        return replace(self, geometry=tuple(axis.soil() for axis in self.geometry))


@dataclass(frozen=True, eq=False)
class Source:
    """A trunk map that a head reads windows of: tensor `[N, channels, *space]`.

    A window has `cells` cells that lie `spacing` apart in the tensor, and neighbouring windows lie
    `stride` apart, in cells of the tensor.
    """

    tensor: Any
    channels: int
    cells: tuple[int, ...]
    stride: tuple[int, ...]
    spacing: tuple[int, ...]

    @classmethod
    def single(cls, tensor: Any, channels: int, space: int) -> Source:
        """A tensor of features at every position, as windows of one cell."""
        ones = (1,) * space
        return cls(tensor, channels, ones, ones, ones)

    @property
    def size(self) -> int:
        """Values in one window."""
        return self.channels * int(np.prod(self.cells))


@dataclass(frozen=True, eq=False)
class Folded:
    """A window folded into features and not yet eaten by a kernel.

    `index` has the shape the original tensor has at one position, without its batch dim; each entry is
    the place of that feature in the windows of `sources`, flattened `[channels, *cells]` one after
    another. The feature's value is `value * scale + shift`.
    """

    sources: tuple[Source, ...]
    index: NDArray[np.int64]
    scale: Array | None = None
    shift: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape at one position, without the batch dim."""
        return self.index.shape

    @property
    def plain(self) -> bool:
        """Whether the features are values of the maps as they are."""
        return self.scale is None and self.shift is None

    def rearrange(self, change: Callable[[Array], Array]) -> Folded:
        """Apply a change of order or shape to every per-feature array."""
        scale = None if self.scale is None else change(self.scale)
        shift = None if self.shift is None else change(self.shift)
        return replace(self, index=change(self.index), scale=scale, shift=shift)


@dataclass(frozen=True, eq=False)
class Lifted:
    """A head tensor with its meaning at every position: `tensor` is `[N, *dims, rows, cols]`.

    `shape` is what the original has at one position, without the batch dim. `dims` are the feature dims
    the tensor really has: row-major the same values, so that reshapes cost nothing until an op cares.
    """

    tensor: Any
    shape: tuple[int, ...]
    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """A head tensor whose positions lie in the batch: `tensor` is `[N * positions, *shape]`.

    `shape` is what the original has at one position, without the batch dim; `like` is a tensor
    `[N, ..., rows, cols]` of the same positions.
    """

    tensor: Any
    shape: tuple[int, ...]
    like: Any


class NoRule(Exception):
    """Raised by a rule: the op has no meaning here, for this reason (the walker adds the place)."""


class EndsTrunk(NoRule):
    """Raised by a geometry rule: behind this op a cell is no longer a position."""


class Mixes(NoRule):
    """Raised by a geometry rule: the op mixes the whole image into every cell.

    `result` is what the op gives all the same: a Map, or what is packed on its way to one.
    """

    def __init__(self, why: str, result: Any) -> None:
        super().__init__(why)
        self.result = result


@dataclass(frozen=True)
class Window:
    """What a windowed op states once, per spatial dim of the tensor; geometry and engines read this."""

    slides: tuple[Slide, ...]


@dataclass(frozen=True)
class Refusal:
    """An entry that says why an op has no rule."""

    why: str


Entry = TypeVar("Entry", bound=Callable[..., Any])
Key = tuple[str, str]

STANDARD = ("", "ai.onnx")


def key_of(domain: str, op: str) -> Key:
    """The key of an op, with the two spellings of the standard domain made one."""
    return ("" if domain in STANDARD else domain, op)


class Table(Generic[Entry]):
    """Rules by (domain, op); entering an op twice raises."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[Key, Entry | Refusal] = {}

    def rule(self, *ops: str, domain: str = "") -> Callable[[Entry], Entry]:
        """Enter the decorated function as the rule of these ops."""

        def enter(function: Entry) -> Entry:
            for op in ops:
                self._enter(key_of(domain, op), function)
            return function

        return enter

    def refuse(self, *ops: str, why: str, domain: str = "") -> None:
        """Enter the reason why these ops have no rule."""
        for op in ops:
            self._enter(key_of(domain, op), Refusal(why))

    def look_up(self, domain: str, op: str) -> Entry:
        """The rule of an op; raises NoRule with the reason where there is none."""
        entry = self.entries.get(key_of(domain, op))
        if entry is None:
            where = f" of domain {domain!r}" if domain not in STANDARD else ""
            raise NoRule(f"the op{where} is not known to surgery")
        if isinstance(entry, Refusal):
            raise NoRule(entry.why)
        return entry

    def __iter__(self) -> Iterator[Key]:
        return iter(self.entries)

    def _enter(self, key: Key, entry: Entry | Refusal) -> None:
        if key in self.entries:
            raise ValueError(f"{key[1]} is entered twice in the table {self.name!r}")
        self.entries[key] = entry


geometry: Table[Callable[..., Any]] = Table("geometry")
lift: Table[Callable[..., Any]] = Table("lift")
fold: Table[Callable[..., Any]] = Table("fold")
