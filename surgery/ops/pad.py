"""Pad: cells added at the borders, or cut off."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from surgery.field import Slide
from surgery.graph import Builder, Op
from surgery.ops.cut import moved
from surgery.ops.join import concat_folded, constant_part
from surgery.positions import view
from surgery.rules import Array, Folded, Lifted, Map, NoRule, geometry, lift

# ------------------------------------------------------------------ geometry


def pads_of(op: Op) -> list[tuple[int, int]]:
    """What a Pad adds before and after every dim; less than nothing is cut (ONNX Pad)."""
    rank = len(op.in_shape())
    pads = op.setting("pads", 1, 11)
    axes = op.value(3) if op.opset >= 18 else None
    if pads is None:
        raise NoRule("its pads depend on the image")
    named = range(rank) if axes is None else [int(a) % rank for a in axes.tolist()]
    found = [(0, 0)] * rank
    for d, before, after in zip(named, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True):
        found[d] = (int(before), int(after))
    return found


@geometry.rule("Pad")
def pad(op: Op, inputs: list[Any]) -> Map:
    """Padded cells are the window's own border; in a larger image only its border has them."""
    x: Map = inputs[0]
    pads = pads_of(op)
    if any(pads[0]):
        raise NoRule("it pads the batch")
    slides = {d: Slide(1, before=pads[d][0], after=pads[d][1]) for d in x.axes}
    return moved(x, slides, op.out_shape(), "it leaves one cell of the window")


# ------------------------------------------------------------------ freed


def free_pad(op: Op, m: Map, build: Builder) -> list[str]:
    """A Pad counts its cells in those of the tensor, which lie closer where windows do."""
    pads = pads_of(op)
    spaced = dict(zip(m.axes, m.spacing, strict=True))
    apart = [(before * spaced.get(d, 1), after * spaced.get(d, 1)) for d, (before, after) in enumerate(pads)]
    if apart == pads:
        return []
    flat = [before for before, _ in apart] + [after for _, after in apart]
    if build.opset < 11:
        op.node.attrs["pads"] = flat
    else:
        x, _, *value = op.node.inputs[:3]  # all axes are named now
        op.node.inputs = [x, build.ints("pads", flat), *value]
    return [f"Pad {op.name!r}: pads {flat}, as the cells of a window lie apart"]


# ------------------------------------------------------------------ lifted


@lift.rule("Pad")
def pad_features(build: Builder, op: Op, inputs: list[Any]) -> Any:
    """The same pads along feature dims, at every position."""
    x, pads = inputs[0], pads_of(op)
    if any(pads[0]):
        raise NoRule("it pads the batch")
    if not isinstance(x, (Folded, Lifted)) or any(isinstance(i, (Folded, Lifted)) for i in inputs[1:]):
        raise NoRule("what it pads with depends on the image")
    mode = op.attr("mode") or "constant"
    if isinstance(x, Lifted):
        flat = [p[end] for end in (0, 1) for p in (*pads, *[(0, 0)] * build.space)]
        return Lifted(_emit(build, op, view(build, x, x.shape), flat), op.out_shape()[1:], op.out_shape()[1:])
    for d, (before, after) in enumerate(pads[1:]):
        if mode == "constant":
            x = _with_constants(op, x, d, max(before, 0), max(after, 0))
            places = np.arange(x.shape[d])[max(-before, 0) : x.shape[d] - max(-after, 0)]
        else:
            places = _places(mode, x.shape[d], before, after)
        x = x.rearrange(partial(np.take, indices=places, axis=d))
    return x


def _places(mode: str, cells: int, before: int, after: int) -> Array:
    """The cells that stand along a padded dim."""
    places = np.pad(np.arange(cells), (max(before, 0), max(after, 0)), mode=mode)  # type: ignore[call-overload]
    cut: Array = places[max(-before, 0) : len(places) - max(-after, 0)]
    return cut


def _with_constants(op: Op, x: Folded, d: int, before: int, after: int) -> Folded:
    shapes = [(*x.shape[:d], n, *x.shape[d + 1 :]) for n in (before, after)]
    value = np.asarray(pad_value(op), op.facts.dtypes[op.inputs[0]]).reshape(())
    first, last = (constant_part(np.full(shape, value)) for shape in shapes)
    return concat_folded([p for p, n in ((first, before), (x, 1), (last, after)) if n], d)


def pad_value(op: Op) -> Any:
    """What a Pad in mode constant pads with: an attribute, from opset 11 on an input, 0 if left out."""
    if op.opset < 11:
        return op.attr("value") or 0
    value = op.value(2)
    return 0 if value is None else value


def _emit(build: Builder, op: Op, tensor: Any, pads: list[int]) -> Any:
    mode = {"mode": op.attr("mode") or "constant"}
    if build.opset < 11:
        return build.emit("Pad", [tensor], {**mode, "pads": pads, "value": float(pad_value(op))})
    value = build.constant("value", np.asarray(pad_value(op), op.facts.dtypes[op.inputs[0]]).reshape(()))
    return build.emit("Pad", [tensor, build.ints("pads", pads), value], mode)
