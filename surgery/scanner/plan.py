"""What a scan will run: the converted model's own facts, and one view of the image per scale."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from surgery.dynamic import GRID_NAMES
from surgery.errors import BadInput
from surgery.head import Geometry
from surgery.model import Model, dims_of, metadata_of
from surgery.probes import SHAPE_ONLY, softmax_inputs
from surgery.report.layout import by
from surgery.scanner.images import MOST_PIXELS

Scale = float | str
Size = tuple[int, int]


@dataclass(frozen=True)
class Card:
    """What a converted model says of itself in its metadata.

    `reduce` names the pooling over positions behind its maps, "" where there is none.
    """

    model: str
    geometry: Geometry
    verdict: str
    engine: str
    reduce: str

    @classmethod
    def of(cls, model: Model) -> Card:
        """Read the card. Raises BadInput where the model was not made by `surgery convert`."""
        facts = metadata_of(model.proto)
        try:
            geometry = Geometry.from_json(json.loads(facts["surgery.geometry"]))
            verdict, engine = facts["surgery.verdict"], facts["surgery.engine"]
        except (KeyError, TypeError, ValueError) as error:
            path = model.path or "MODEL"
            raise BadInput(
                f"{model.name} is not a converted model: its metadata lacks surgery's own record of the "
                f"windows. Make one with: surgery convert {path} -o OUT.onnx"
            ) from error
        if len(geometry.window) != 2:
            raise BadInput(f"{model.name} has windows of {len(geometry.window)} axes: it takes no pictures.")
        return cls(model.name, geometry, verdict, engine, facts.get("surgery.reduce", ""))


def choose_output(model: Model, card: Card, asked: str | None) -> tuple[str, str]:
    """The output that holds the scores, and what they are: `softmax`, `sigmoid` or `raw`.

    Without a name it is the first map whose values end in a softmax or a sigmoid, else the first map.
    """
    graph = model.proto.graph
    names = [o.name for o in graph.output]
    if asked is not None and asked not in names:
        raise BadInput(f"{model.name} has no output {asked!r}; it has {', '.join(map(repr, names))}.")
    kinds = dict.fromkeys(softmax_inputs(graph), "softmax")
    kinds |= dict.fromkeys(sigmoids(graph), "sigmoid")
    if asked is not None:
        return asked, kinds.get(asked, "raw")
    maps = [o.name for o in graph.output if dims_of(o)[-2:] == GRID_NAMES[2]]
    among = names if card.reduce or not maps else maps
    name = next((n for n in among if n in kinds), among[0])
    return name, kinds.get(name, "raw")


def sigmoids(graph: Any) -> list[str]:
    """The outputs that are a sigmoid, possibly reshaped."""
    makers = {o: node for node in graph.node for o in node.output}
    found = []
    for output in graph.output:
        node = makers.get(output.name)
        while node is not None and node.op_type in SHAPE_ONLY:
            node = makers.get(node.input[0])
        if node is not None and node.op_type == "Sigmoid":
            found.append(output.name)
    return found


@dataclass(frozen=True)
class View:
    """One pass over an image: `scale` as it was asked for, `image` and `size` in pixels (height, width)
    before and after resizing."""

    scale: str
    image: Size
    size: Size
    geometry: Geometry

    @property
    def grid(self) -> tuple[int, ...]:
        """Full windows per axis."""
        return self.geometry.grid(self.size)

    @property
    def fed(self) -> Size:
        """The part of the resized image, from its top left, that the net can take.

        It cuts less than a stride and no full window: the sizes a net takes go in steps that divide its
        stride.
        """
        g = self.geometry
        sides = zip(self.size, g.window, g.step, strict=True)
        height, width = (w + (n - w) // s * s for n, w, s in sides)
        return height, width

    @property
    def ratio(self) -> tuple[float, float]:
        """Pixels of the image per pixel of the resized one, per axis."""
        return self.image[0] / self.size[0], self.image[1] / self.size[1]

    def box(self, row: int, col: int) -> tuple[int, int, int, int]:
        """The window at a cell in pixels of the image: the smallest (top, left, bottom, right) of whole
        pixels that holds it, end excluded."""
        top, left, bottom, right = self.geometry.box(row, col)
        (height, width), (h, w) = self.image, self.size
        return top * height // h, left * width // w, -(-bottom * height // h), -(-right * width // w)


def scale_name(scale: Scale) -> str:
    """A scale in its one spelling: a factor as "0.25", a shorter side as "128px". Raises BadInput.

    >>> scale_name(0.250), scale_name("0.250"), scale_name("128 px")
    ('0.25', '0.25', '128px')
    """
    text = str(scale).strip()
    try:
        if text.endswith("px"):
            side = int(text.removesuffix("px"))
            if side > 0:
                return f"{side}px"
        elif 0 < float(text) < float("inf"):
            return f"{float(text):.10g}"
    except ValueError:
        pass
    raise BadInput(
        f"the scale {text!r} is neither a factor above 0, as 0.25, nor a shorter side in pixels, as 128px."
    )


def resized(scale: str, image: Size) -> Size:
    """The size of an image at a scale of this name."""
    factor = int(scale.removesuffix("px")) / min(image) if scale.endswith("px") else float(scale)
    height, width = (max(1, round(side * factor)) for side in image)
    return height, width


def views(scales: Sequence[Scale], image: Size, name: str, card: Card, only: Size | None) -> list[View]:
    """The passes over an image, one per scale; `only` is the one size the model takes, if so.

    Raises BadInput where a scale is no scale or given twice, or the image at it does not fit the model.
    """
    names = [scale_name(scale) for scale in scales]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice or not names:
        raise BadInput(f"the scale {twice} is given twice." if twice else "no scale is given.")
    plans = [View(n, image, resized(n, image), card.geometry) for n in names]
    for view in plans:
        check_fit(view, name, card, only)
    return plans


def at_least_window(image: Size, geometry: Geometry) -> str:
    """The scale that leaves an image as it is, or enlarges it until one window fits."""
    return scale_name(max(1.0, *(w / n for w, n in zip(geometry.window, image, strict=True))))


def check_fit(view: View, name: str, card: Card, only: Size | None) -> None:
    """Raise BadInput where the image at this scale holds no window, or is no size the model takes."""
    at = f"{name} at scale {view.scale} is {by(view.size)} pixels"
    if view.size[0] * view.size[1] > MOST_PIXELS:
        raise BadInput(f"{at}, more than the {MOST_PIXELS:,} that one pass takes; give a smaller scale.")
    if not all(view.grid):
        least = max(w / n for w, n in zip(card.geometry.window, view.image, strict=True))
        raise BadInput(
            f"{at}, smaller than the window of {by(card.geometry.window)} that {card.model} answers for; "
            f"give a scale of {ceil(least * 1000) / 1000:g} or more, or a larger image."
        )
    if only is not None and view.size != only:
        raise BadInput(
            f"{at}, and {card.model} (engine {card.engine}) takes images of {by(only)} only. Make one for "
            f"this size with: surgery convert ORIGINAL -o OUT.onnx --exact --size {by(view.size)} --stride "
            f"{by(card.geometry.stride)}"
        )
