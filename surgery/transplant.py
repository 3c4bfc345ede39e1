"""Parameters of one net copied into another, and the account of what became of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from surgery.errors import BadInput
from surgery.layers import Parameter
from surgery.parameters import Array, Layer, Params, show

ACTIONS = ("copied", "coerced", "dropped", "kept")
LINEAR = ("Gemm", "MatMul", "Conv")


@dataclass(frozen=True)
class Row:
    """What became of one parameter.

    `action` is copied, coerced (reshaped on the way), dropped (of the other net, without a place in this
    one) or kept (of this net, without a value in the other). `source` and `target` are names as in
    `params`, with their shapes; empty where there is none.
    """

    action: str
    source: str
    target: str
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    why: str = ""

    def __str__(self) -> str:
        ends = [(self.source, self.source_shape), (self.target, self.target_shape)]
        if self.source == self.target and self.source_shape == self.target_shape:
            ends = ends[:1]
        way = " -> ".join(f"{name} {show(shape)}" for name, shape in ends if name)
        return f"{self.action:<8} {way}{f': {self.why}' if self.why else ''}"


@dataclass(frozen=True)
class Transplant:
    """The account of a transplant, a row for each parameter; prints as lines."""

    rows: tuple[Row, ...]

    def only(self, action: str) -> tuple[Row, ...]:
        """The rows of one action."""
        return tuple(row for row in self.rows if row.action == action)

    @property
    def copied(self) -> tuple[Row, ...]:
        """The parameters taken over as they were."""
        return self.only("copied")

    @property
    def coerced(self) -> tuple[Row, ...]:
        """The parameters taken over in another shape."""
        return self.only("coerced")

    @property
    def dropped(self) -> tuple[Row, ...]:
        """The parameters of the other net that were not taken over, and why."""
        return self.only("dropped")

    @property
    def kept(self) -> tuple[Row, ...]:
        """The parameters of this net that nothing was copied to."""
        return self.only("kept")

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the rows, and how many there are of each action."""
        rows = [
            {**asdict(r), "source_shape": [*r.source_shape], "target_shape": [*r.target_shape]}
            for r in self.rows
        ]
        return {"rows": rows, **{action: len(self.only(action)) for action in ACTIONS}}

    def to_json(self) -> str:
        """The account as one JSON object."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        counts = ", ".join(f"{len(self.only(action))} {action}" for action in ACTIONS)
        return "\n".join([*map(str, self.rows), counts])


@dataclass(frozen=True, eq=False)
class Place:
    """One parameter of a net: its layer and role."""

    layer: Layer
    role: str

    @property
    def name(self) -> str:
        """The name it is listed under."""
        return f"{self.layer.name}.{self.role}"

    @property
    def facts(self) -> Parameter:
        """What the graph says of it."""
        return self.layer.facts[self.role]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its array."""
        return self.layer.dims(self.role)[0]

    @property
    def rows_first(self) -> tuple[int, ...]:
        """Its shape with the outputs of a matrix along the first dim."""
        return self.shape[::-1] if self.transposed else self.shape

    @property
    def transposed(self) -> bool:
        """Whether it is a matrix with its outputs along the last dim."""
        return self.facts.columns and len(self.shape) == 2


def transplant(
    target: Params,
    source: Params,
    mapping: Mapping[str, str] | None = None,
    *,
    coerce: bool = False,
    cast: bool = False,
) -> Transplant:
    """Copy parameters from `source` into `target`, by name, or as `mapping` (target: source) says.

    The manner is that of the transplant in shelhamer/fcn.berkeleyvision.org, surgery.py, with the reason
    beside every parameter that is left behind. Raises BadInput where `mapping` holds an unknown name.
    """
    pairs = list(by_name(target, source) if mapping is None else by_mapping(target, source, mapping))
    rows, filled = [], dict[str, str]()
    for to, place in pairs:
        if to is None:
            why = "no layer of that name takes it"
            rows.append(Row("dropped", place.name, "", place.shape, (), why))
            continue
        action, why = copy(to, place, filled, coerce=coerce, cast=cast)
        rows.append(Row(action, place.name, to.name, place.shape, to.shape, why))
    if mapping is None:
        met = {to.name for to, _ in pairs if to is not None}
        every = (Place(layer, role) for layer in target.values() for role in layer)
        why = "the other net has nothing of that name"
        rows += [Row("kept", "", p.name, (), p.shape, why) for p in every if p.name not in met]
    return Transplant(tuple(rows))


def by_name(target: Params, source: Params) -> Iterator[tuple[Place | None, Place]]:
    """Each parameter of the source with the one of the same name: of the layer, or one of its aliases."""
    for layer in source.values():
        found = next((target[name] for name in (layer.name, *layer.aliases) if name in target), None)
        for role in layer:
            yield Place(found, role) if found is not None and role in found else None, Place(layer, role)


def by_mapping(
    target: Params, source: Params, mapping: Mapping[str, str]
) -> Iterator[tuple[Place | None, Place]]:
    """The parameters that a mapping names: of two layers by role, of two parameters as they are."""
    for to, name in mapping.items():
        ends, starts = target.find(to), source.find(name)
        if len(ends) == len(starts) == 1:
            yield Place(*ends[0]), Place(*starts[0])
            continue
        roles = {role: layer for layer, role in ends}
        for layer, role in starts:
            yield Place(roles[role], role) if role in roles else None, Place(layer, role)


def copy(to: Place, place: Place, filled: dict[str, str], *, coerce: bool, cast: bool) -> tuple[str, str]:
    """Copy one parameter; returns the action and, where it was dropped, why."""
    why = obstacle(to, place, coerce=coerce)
    other = filled.get(to.facts.tensor, place.facts.tensor)
    if other != place.facts.tensor:
        why = why or f"its place is shared, and already filled from {other}"
    if why:
        return "dropped", why
    same = to.shape == place.shape and to.transposed == place.transposed
    try:
        to.layer.assign(to.role, arranged(place.layer[place.role], to, place), cast=cast)
    except BadInput as error:
        return "dropped", str(error)
    filled[to.facts.tensor] = place.facts.tensor
    return ("copied" if same else "coerced"), ""


def arranged(value: Array, to: Place, place: Place) -> Array:
    """The values in the order and shape of their place."""
    rows = value.T if place.transposed else value
    laid: Array = rows.reshape(to.rows_first)
    return laid.T if to.transposed else laid


def obstacle(to: Place, place: Place, *, coerce: bool) -> str:
    """Why a parameter cannot be copied into a place; empty where it can."""
    if place.facts.factor != to.facts.factor:
        factors = (
            f"{place.facts.op} multiplies it by {place.facts.factor:g}, {to.facts.op} by {to.facts.factor:g}"
        )
        return f"{factors}: the same values would mean something else"
    shapes = f"{show(place.shape)} and {show(to.shape)}"
    if prod(place.shape) != prod(to.shape):
        return f"the shapes {shapes} hold different numbers of values"
    if place.rows_first == to.rows_first and place.transposed == to.transposed:
        return ""
    if not coerce:
        return f"the shapes {shapes} differ; coerce reshapes what has as many values"
    if to.role == "weight" and {place.facts.op, to.facts.op} <= {*LINEAR}:
        return misread(to, place)
    return ""


def misread(to: Place, place: Place) -> str:
    """Why a weight laid out anew would not mean the same; empty where it would."""
    if place.rows_first[:1] != to.rows_first[:1]:
        return f"{show(place.shape)} has {place.rows_first[0]} outputs, {show(to.shape)} {to.rows_first[0]}"
    spread = prod(to.shape[2:]) > 1 or prod(place.shape[2:]) > 1
    reordered = place.facts.reordered or to.facts.reordered
    if spread and reordered:
        return (
            f"Transpose {reordered!r} orders the features of the fully connected layer in another way than "
            "channels, rows, columns; `surgery convert` follows it"
        )
    return ""
