"""Parameters by name: layers whose arrays write through, and what may be written to them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery.errors import BadInput
from surgery.layers import Entry, Names, Parameter, find_layers
from surgery.store import Store

Array = NDArray[Any]


class UnknownName(BadInput, KeyError):
    """A layer or parameter that the model does not have; a KeyError too, as of any mapping."""

    def __str__(self) -> str:
        return str(self.args[0])


def nearest(name: str, known: Sequence[str]) -> str:
    """The names most like one that is not known, in words; the first few where none is like it."""
    known = list(dict.fromkeys(known))
    near = [k for k in known if name and name.lower() in k.lower()][:3]
    near = near or difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    few = ", ".join(map(repr, near or known[:5]))
    return f"the nearest names are {few}" if near else f"there are {few}{', ...' * (len(known) > 5)}"


def fit(value: Any, like: Array, what: str, *, cast: bool = False) -> Array:
    """A value in the shape and dtype of a parameter, or BadInput in plain words.

    A number fills the whole shape, an array must have it. Numbers and lists have no dtype of their own; an
    array of another dtype is taken only with `cast`, and never where it does not fit (an overflow).
    """
    given = np.asarray(value)
    if given.dtype.kind not in "biuf" and given.dtype != like.dtype:
        raise BadInput(f"{what} takes numbers, not {given.dtype}.")
    if given.ndim and given.shape != like.shape:
        raise BadInput(
            f"{what} has shape {show(like.shape)}, the value {show(given.shape)}. They must be equal; only a "
            "single number fills every shape."
        )
    weak = given.ndim == 0 or not isinstance(value, np.ndarray)
    if given.dtype != like.dtype and not weak and not cast:
        raise BadInput(
            f"{what} is {like.dtype}, the value {given.dtype}. Convert it with .astype(), or ask for the "
            "change with cast=True (--cast)."
        )
    return np.broadcast_to(converted(given, like.dtype, what, cast), like.shape)


def converted(given: Array, dtype: np.dtype[Any], what: str, cast: bool) -> Array:
    """The values in another dtype; raises BadInput where they do not fit it, or would lose fractions."""
    if given.dtype == dtype:
        return given
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        wide = given.astype(np.float64)
        whole = np.rint(wide)
        if not ((whole >= limits.min) & (whole <= limits.max)).all():
            raise BadInput(f"{what} is {dtype}: it holds no value outside {limits.min} to {limits.max}.")
        if (whole != wide).any() and not cast:
            raise BadInput(
                f"{what} is {dtype}: the value would be rounded. Ask for it with cast=True (--cast)."
            )
        return whole.astype(dtype)
    with np.errstate(over="ignore"):
        result: Array = given.astype(dtype)
    if (np.isfinite(given.astype(np.float64)) & ~np.isfinite(result.astype(np.float64))).any():
        raise BadInput(f"{what} is {dtype}: the value is too large for it.")
    return result


def show(shape: tuple[int, ...]) -> str:
    """A shape as text."""
    return str(list(shape))


class Layer(Mapping[str, Array]):
    """The parameters of one layer by role: `layer.weight`, `layer["bias"]`, writable arrays.

    Roles are weight and bias (Conv, Gemm, MatMul); scale, bias, mean and var (BatchNormalization); slope
    (PRelu); and otherwise the input's name in the op's definition. Assignment copies into the array:
    `layer.bias = 0` fills it. Raises BadInput where the value does not fit.
    """

    __slots__ = ("_entry", "_store")
    _entry: Entry
    _store: Store

    def __init__(self, entry: Entry, store: Store) -> None:
        object.__setattr__(self, "_entry", entry)
        object.__setattr__(self, "_store", store)

    @property
    def name(self) -> str:
        """The name it is listed under."""
        return self._entry.name

    @property
    def op(self) -> str:
        """The op type of its node."""
        return self._entry.op

    @property
    def aliases(self) -> tuple[str, ...]:
        """The other names it is found by."""
        return self._entry.aliases

    @property
    def facts(self) -> dict[str, Parameter]:
        """What the graph says of each parameter, by role."""
        return self._entry.parameters

    def dims(self, role: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The shape and dtype of a parameter."""
        return self._store.dims(self.facts[role].tensor)

    def peek(self, role: str) -> Array:
        """The values of a parameter, to look at and not to write to: large ones are not copied."""
        return self._store.value(self.facts[role].tensor)

    def assign(self, role: str, value: Any, *, cast: bool = False) -> None:
        """Copy a value into a parameter; `cast` allows another dtype. Raises BadInput."""
        array = self[role]
        array[...] = fit(value, array, f"{self.name}.{role}", cast=cast)

    def check(self, role: str) -> None:
        """Raise BadInput where the layer has no such parameter."""
        if role not in self.facts:
            raise UnknownName(f"{self.op} {self.name!r} has no {role!r}; it has {', '.join(self.facts)}.")

    def __getitem__(self, role: str) -> Array:
        self.check(role)
        return self._store.array(self.facts[role].tensor)

    def __setitem__(self, role: str, value: Any) -> None:
        self.assign(role, value)

    def __getattr__(self, role: str) -> Array:
        if role.startswith("_"):
            raise AttributeError(role)
        try:
            return self[role]
        except UnknownName as error:
            raise AttributeError(str(error)) from None

    def __setattr__(self, role: str, value: Any) -> None:
        self.assign(role, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self.facts)

    def __len__(self) -> int:
        return len(self.facts)

    def __repr__(self) -> str:
        parts = (f"{role} {show(self.dims(role)[0])} {self.dims(role)[1]}" for role in self)
        return f"{self.op} {self.name!r}: {', '.join(parts)}"


class Params(Mapping[str, Layer]):
    """The layers of a model that hold parameters, by name, in the order of the graph.

    A layer is found by its node's name, by its weight's name without the suffix ("conv1.weight": conv1),
    and by the name it is listed under. Raises BadInput, with the nearest names, for any other.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.store = Store(proto)
        entries = find_layers(proto.graph)
        self._layers = {entry.name: Layer(entry, self.store) for entry in entries}
        self._names = Names(entries)
        self._tensors: dict[str, tuple[str, str]] = {}
        for entry in entries:
            for role, parameter in entry.parameters.items():
                self._tensors.setdefault(parameter.tensor, (entry.name, role))

    def __getitem__(self, name: str) -> Layer:
        found = self._names.find(name)
        if len(found) == 1:
            return self._layers[found[0]]
        if found:
            raise UnknownName(f"{name!r} could be any of {', '.join(map(repr, found))}; give one of these.")
        raise self._unknown(name, [*self._names])

    def find(self, name: str) -> list[tuple[Layer, str]]:
        """The layer and role that `conv1.weight`, or a tensor's own name, stands for; for a layer, all."""
        before, _, role = name.rpartition(".")
        if name not in self._layers and before in self and role in self[before]:
            return [(self[before], role)]
        if name not in self._layers and name in self._tensors:
            found, role = self._tensors[name]
            return [(self._layers[found], role)]
        if self._names.find(name):
            return [(self[name], role) for role in self[name]]
        if self._names.find(before):
            self[before].check(role)
        every = [f"{layer}.{role}" for layer in self for role in self._layers[layer]]
        raise self._unknown(name, [*every, *self._names, *self._tensors])

    def one(self, name: str) -> tuple[Layer, str]:
        """The layer and role of one parameter. Raises BadInput where a name stands for several."""
        found = self.find(name)
        if len(found) > 1:
            each = ", ".join(f"{layer.name}.{role}" for layer, role in found)
            raise BadInput(f"{name!r} has several parameters; give one of {each}.")
        return found[0]

    def sharing(self, layer: Layer, role: str) -> list[str]:
        """The other parameters that are the same tensor, and change with this one."""
        tensor = layer.facts[role].tensor
        every = ((other, r) for other in self._layers.values() for r in other)
        same = (f"{o.name}.{r}" for o, r in every if o.facts[r].tensor == tensor)
        return [name for name in same if name != f"{layer.name}.{role}"]

    def _unknown(self, name: str, known: list[str]) -> UnknownName:
        if not self._layers:
            return UnknownName(f"there is no parameter {name!r}: the model has none at all.")
        return UnknownName(f"there is no parameter {name!r}; {nearest(name, known)}.")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and len(self._names.find(name)) == 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._layers.values()))
