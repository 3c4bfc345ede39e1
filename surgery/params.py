"""Parameters of a model file by name: list, get, set, scale, copy; each edit goes to a new file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surgery.errors import BadInput
from surgery.model import ModelLike
from surgery.net import Net
from surgery.param_report import Copied, Edit, Listing, Row, Values
from surgery.parameters import Array, Layer
from surgery.saving import check_target, move_into, staged

PathLike = str | os.PathLike[str]


def list_params(model: ModelLike) -> Listing:
    """Every parameter of a model with its shape, dtype, least, greatest and mean value."""
    net = Net(model)
    rows = (Row.of(net.params, layer, role) for layer in net.params.values() for role in layer)
    return Listing(net.name, tuple(rows))


def get_params(
    model: ModelLike, names: Sequence[str], output: PathLike | None = None, *, force: bool = False
) -> Values:
    """The values of parameters; a layer's name stands for all of its own.

    With `output` they are written there: one array to a .npy, any number to a .npz, under their full names.
    Raises BadInput for an unknown name, and where the file may not be written.
    """
    net = Net(model)
    places = [place for name in names for place in net.params.find(name)]
    arrays = {f"{layer.name}.{role}": layer.peek(role) for layer, role in places}
    if output is not None:
        check_target(Path(output), net.path, force=force)
        write_arrays(arrays, Path(output))
    return Values(net.name, arrays, None if output is None else str(output))


def set_params(
    model: ModelLike, values: Mapping[str, Any], output: PathLike, *, cast: bool = False, force: bool = False
) -> Edit:
    """Give parameters new values and write the model to `output`.

    A value is a number, which fills the whole array, or an array of the parameter's shape and dtype, or as
    text either a number or the path of a .npy or .npz; another dtype is taken only with `cast`. Raises
    BadInput, and writes nothing, where one does not fit.
    """

    def fill(layer: Layer, role: str, name: str) -> None:
        layer.assign(role, read_value(values[name], name, f"{layer.name}.{role}"), cast=cast)

    return edit(model, list(values), output, fill, force)


def scale_params(
    model: ModelLike,
    names: Sequence[str],
    factor: float,
    output: PathLike,
    *,
    cast: bool = False,
    force: bool = False,
) -> Edit:
    """Multiply parameters by a factor and write the model to `output`.

    Whole-numbered parameters would be rounded, which is done only with `cast`. Raises BadInput, and writes
    nothing, where a value would not fit the dtype.
    """
    if not np.isfinite(factor):
        raise BadInput(f"the factor {factor} is no finite number.")

    def multiply(layer: Layer, role: str, name: str) -> None:
        array = layer[role]
        layer.assign(role, array.astype(np.float64) * factor, cast=cast or array.dtype.kind not in "iu")

    return edit(model, names, output, multiply, force)


def copy_params(
    model: ModelLike,
    source: ModelLike,
    output: PathLike,
    *,
    mapping: Mapping[str, str] | None = None,
    coerce: bool = False,
    cast: bool = False,
    force: bool = False,
) -> Copied:
    """Copy parameters from `source` into `model` by name, or by `mapping` (model's: source's), to `output`.

    Raises BadInput, and writes nothing, where a pair of `mapping` cannot be copied, or nothing at all was.
    """
    net, other = Net(model), Net(source)
    check_target(Path(output), net.path, other.path, force=force)
    done = net.transplant(other, mapping, coerce=coerce, cast=cast)
    if (not done.copied and not done.coerced) or (mapping is not None and done.dropped):
        reasons = "; ".join(f"{row.source}: {row.why}" for row in done.dropped[:3])
        raise BadInput(f"cannot copy from {other.name} into {net.name}: {reasons or 'it has no parameters'}.")
    net.save(output, force=force)
    return Copied(net.name, other.name, str(output), done)


def edit(
    model: ModelLike,
    names: Sequence[str],
    output: PathLike,
    change: Callable[[Layer, str, str], None],
    force: bool,
) -> Edit:
    """Change each named parameter of a model and write it to another file."""
    net = Net(model)
    check_target(Path(output), net.path, force=force)
    places = [(*net.params.one(name), name) for name in names]
    before = tuple(Row.of(net.params, layer, role) for layer, role, _ in places)
    for layer, role, name in places:
        change(layer, role, name)
    net.save(output, force=force)
    after = tuple(Row.of(net.params, layer, role) for layer, role, _ in places)
    return Edit(net.name, str(output), before, after)


def read_value(value: Any, *names: str) -> Any:
    """A value given as text: a number, or a file of arrays, of several the one of these names."""
    if not isinstance(value, str | os.PathLike):
        return value
    try:
        return float(os.fspath(value))
    except ValueError:
        arrays = read_arrays(Path(value))
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    found = [n for n in names if n in arrays]
    if not found:
        raise BadInput(
            f"{value} holds {', '.join(map(repr, arrays)) or 'no array'}, but none called {names[0]!r}."
        )
    return arrays[found[0]]


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a .npz by name; the one of a .npy under the name of the file. Raises BadInput."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} is neither a number nor a readable .npy or .npz file: {error}") from error


def write_arrays(arrays: Mapping[str, Array], path: Path) -> None:
    """Write arrays to a .npy (a single one) or a .npz (by name); the file appears whole or not at all."""
    if path.suffix not in (".npy", ".npz") or (path.suffix == ".npy" and len(arrays) != 1):
        raise BadInput(
            f"cannot write {len(arrays)} arrays to {path}: a .npy holds exactly one, a .npz any number."
        )
    portable: dict[str, Any] = {
        n: a.astype(np.float32) if a.dtype.kind == "V" else a for n, a in arrays.items()
    }
    with staged(path.parent) as stage:
        with (stage / path.name).open("wb") as handle:
            if path.suffix == ".npy":
                np.save(handle, next(iter(portable.values())))
            else:
                np.savez(handle, **portable)
        move_into(stage, path.parent)
