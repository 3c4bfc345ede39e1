"""Cells brought into another order, with borders set, against numpy's own indexing."""

from __future__ import annotations

from typing import Any

import law
import numpy as np
import onnx_graphsurgeon as gs
import pytest

from surgery import places
from surgery.field import Axis
from surgery.graph import Builder
from surgery.places import Border, Places
from surgery.rules import Map

WAYS = (np.array([3, 0, 0, 4, 2, 1]), np.array([1, 1, 5, 0, 2, 3, 4]))
MASKS = (np.arange(6) % 4 == 1, np.arange(7) == 5)
LENGTHS = (5, 6)


def stored(axes: tuple[int, ...], dtype: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Two images of what is stored, 3 channels, with the axes of space where they are asked for."""
    values = np.arange(1, 2 * 3 * 5 * 6 + 1).reshape(2, 3, *LENGTHS)[..., : LENGTHS[-1]]
    return np.moveaxis(values, (2, 3), axes).astype(dtype)


def taken(
    opset: int, axes: tuple[int, ...], dtype: Any, ways: Any, border: Border | None
) -> np.ndarray[Any, np.dtype[Any]]:
    """What the graph that takes the places gives."""
    value = stored(axes, dtype)
    x = gs.Variable("x", dtype, ["N", *value.shape[1:]])
    graph = gs.Graph([], [x], [], opset=opset)
    pixel = Axis.image(4, 1, 1)
    m = Map((1, *value.shape[1:]), axes, (pixel, pixel))
    made = Places(Builder(graph, opset, 2)).take(x, m, LENGTHS, ways, border)
    made.dtype = np.dtype(dtype)
    graph.outputs = [made]
    model = gs.export_onnx(graph.cleanup().toposort())
    model.ir_version = 8
    return law.run(model, value)[made.name]


@pytest.mark.parametrize("small", [0, 2**14])
@pytest.mark.parametrize("axes", [(2, 3), (1, 2)])
@pytest.mark.parametrize(
    ("opset", "dtype"), [(9, np.float32), (10, np.uint8), (13, np.float32), (17, np.uint8)]
)
@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True), (False, False)])
def test_places_are_taken_and_borders_set(
    opset: int,
    dtype: Any,
    axes: tuple[int, ...],
    which: tuple[bool, bool],
    small: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "SMALL", small)
    ways = tuple(w if on else None for w, on in zip(WAYS, which, strict=True))
    index = [np.arange(n) if w is None else w for w, n in zip(ways, LENGTHS, strict=True)]
    masks = [np.resize(mask, len(i)) for mask, i in zip(MASKS, index, strict=True)]
    want = np.take(np.take(stored(axes, dtype), index[0], axes[0]), index[1], axes[1])
    if any(which):
        np.testing.assert_array_equal(taken(opset, axes, dtype, ways, None), want)
    bordered = np.moveaxis(want.copy(), axes, (0, 1))
    bordered[masks[0]] = 7
    bordered[:, masks[1]] = 7
    border = Border(np.array(7, dtype), (masks[0], masks[1]))
    np.testing.assert_array_equal(
        taken(opset, axes, dtype, ways, border), np.moveaxis(bordered, (0, 1), axes)
    )


def test_what_lies_well_is_left_alone() -> None:
    graph = gs.Graph([], [], [])
    x = gs.Variable("x")
    pixel = Axis.image(4, 1, 1)
    m = Map((1, 3, 5, 6), (2, 3), (pixel, pixel))
    assert Places(Builder(graph, 13, 2)).take(x, m, LENGTHS, (None, None)) is x
    assert not graph.nodes
