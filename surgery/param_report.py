"""What `surgery params` answers: results as frozen values that print as tables and turn into JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from surgery.parameters import Array, Layer, Params, show
from surgery.transplant import Transplant


@dataclass(frozen=True)
class Stats:
    """The least, greatest and mean value of an array; None where it is empty or holds a NaN or infinity."""

    min: float | None
    max: float | None
    mean: float | None

    @classmethod
    def of(cls, array: Array) -> Stats:
        """The numbers of an array; the mean in float64."""
        if not array.size:
            return cls(None, None, None)
        values = array if array.dtype.kind in "biuf" else array.astype(np.float64)
        with np.errstate(invalid="ignore"):
            numbers = (values.min(), values.max(), values.mean(dtype=np.float64))
        return cls(*(float(n) if np.isfinite(n) else None for n in numbers))

    def __iter__(self) -> Iterator[float | None]:
        return iter((self.min, self.max, self.mean))


@dataclass(frozen=True)
class Row:
    """One parameter: the layer's name and op, its role, the tensor that holds it, and its numbers.

    `shared_with` names the parameters that are the same tensor.
    """

    name: str
    op: str
    parameter: str
    shape: tuple[int, ...]
    dtype: str
    stats: Stats
    tensor: str
    shared_with: tuple[str, ...]

    @classmethod
    def of(cls, params: Params, layer: Layer, role: str) -> Row:
        """The row of one parameter of a net."""
        shape, dtype = layer.dims(role)
        stats, shared = Stats.of(layer.peek(role)), tuple(params.sharing(layer, role))
        return cls(layer.name, layer.op, role, shape, str(dtype), stats, layer.facts[role].tensor, shared)

    @property
    def full_name(self) -> str:
        """The name by which get, set and scale find it."""
        return f"{self.name}.{self.parameter}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the numbers as keys of their own."""
        data = {**asdict(self), **asdict(self.stats)}
        del data["stats"]
        return {**data, "shape": list(self.shape), "shared_with": list(self.shared_with)}


class Report:
    """What the results of this page have in common: plain data as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        raise NotImplementedError

    def to_json(self) -> str:
        """The result as one JSON object."""
        return json.dumps(self.to_dict())


@dataclass(frozen=True)
class Listing(Report):
    """Every parameter of a model, in the order of its graph; prints as a table."""

    model: str
    rows: tuple[Row, ...]

    @property
    def total(self) -> int:
        """How many values there are, shared tensors counted once."""
        return sum({row.tensor: int(np.prod(row.shape)) for row in self.rows}.values())

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        rows = [row.to_dict() for row in self.rows]
        return {"model": self.model, "parameters": rows, "total": self.total}

    def __str__(self) -> str:
        header = ("name", "op", "parameter", "shape", "dtype", "min", "max", "mean", "tensor")
        rows = [
            (r.name, r.op, r.parameter, show(r.shape), r.dtype, *map(number, r.stats), r.tensor)
            for r in self.rows
        ]
        total = f"{self.total:,} values in {len(self.rows)} parameters"
        return "\n".join([table(header, rows), *notes(self.rows), total])


@dataclass(frozen=True, eq=False)
class Values(Report):
    """The values asked for, by full name; `output` is the file they were written to, or None."""

    model: str
    arrays: dict[str, Array]
    output: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data; the values themselves only where they were not written to a file."""
        rows = []
        for name, array in self.arrays.items():
            row = {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
            rows.append(row if self.output else {**row, "values": finite_or_none(array.tolist())})
        return {"model": self.model, "parameters": rows, "output": self.output}

    def __str__(self) -> str:
        heads = {name: f"{name} {show(a.shape)} {a.dtype}" for name, a in self.arrays.items()}
        if self.output:
            return f"wrote {', '.join(heads.values())} to {self.output}"
        return "\n".join(f"{heads[name]}\n{array}" for name, array in self.arrays.items())


@dataclass(frozen=True)
class Edit(Report):
    """The parameters that were changed, before and after, and the file the model was written to."""

    model: str
    output: str
    before: tuple[Row, ...]
    after: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        pairs = zip(self.before, self.after, strict=True)
        changed = [{**b.to_dict(), "after": asdict(a.stats)} for b, a in pairs]
        return {"model": self.model, "output": self.output, "changed": changed}

    def __str__(self) -> str:
        header = ("parameter", "shape", "min", "max", "mean", "->", "min", "max", "mean")
        rows = [
            (b.full_name, show(b.shape), *map(number, b.stats), "->", *map(number, a.stats))
            for b, a in zip(self.before, self.after, strict=True)
        ]
        return "\n".join([table(header, rows), *notes(self.after), f"wrote {self.output}"])


@dataclass(frozen=True)
class Copied(Report):
    """What was copied from another model, and the file the result was written to."""

    model: str
    source: str
    output: str
    transplant: Transplant = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        names = {"model": self.model, "source": self.source, "output": self.output}
        return {**names, **self.transplant.to_dict()}

    def __str__(self) -> str:
        return f"{self.transplant}\nwrote {self.output}"


def notes(rows: Sequence[Row]) -> list[str]:
    """A line for each parameter that is another one too."""
    return [f"{r.full_name} is the same tensor as {', '.join(r.shared_with)}" for r in rows if r.shared_with]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns of text, without a frame."""
    drawn = Table(box=None, pad_edge=False, header_style="")
    for title in header:
        drawn.add_column(title, no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=10_000, markup=False, highlight=False, color_system=None).print(drawn)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def number(value: float | None) -> str:
    """A number of a table; a dash where there is none."""
    return "-" if value is None else f"{value:.4g}"


def finite_or_none(values: Any) -> Any:
    """Nested lists with None in the place of what JSON cannot say."""
    if isinstance(values, list):
        return [finite_or_none(v) for v in values]
    return values if np.isfinite(values) else None
