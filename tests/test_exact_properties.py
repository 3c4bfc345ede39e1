"""The law of the exact engine on nets nobody thought of: equal to all crops, at any stride, size and cut."""

from __future__ import annotations

import law
import onnx
import pytest
from exactly import assert_every_cut
from hypothesis import event, given, settings
from hypothesis import strategies as st
from padded_nets import networks

import surgery


@st.composite
def places(draw: st.DrawFn) -> tuple[int, int, int]:
    """Along an axis: the stride, how many windows, and the pixels left over behind the last."""
    stride = draw(st.integers(1, 9))
    return stride, draw(st.integers(1, 5)), draw(st.integers(0, stride - 1))


def check(model: onnx.ModelProto, rows: tuple[int, int, int], cols: tuple[int, int, int]) -> None:
    """The law at a grid of windows, for every cut of the mosaic, on a batch of two images."""
    stride = (rows[0], cols[0])
    size = [w + (n - 1) * s + r for w, (s, n, r) in zip(law.window_of(model), (rows, cols), strict=True)]
    if (rows[1], cols[1]) == (1, 1) and max(rows[2], cols[2]) > 0:
        with pytest.raises(surgery.BadInput, match="leaves no second window"):
            surgery.convert(model, exact=True, sizes=[size], stride=stride)
        return
    event(f"{assert_every_cut(model, size, stride)} cuts")


@settings(max_examples=60)
@given(networks(), places(), places())
def test_every_cut_equals_all_crops(
    model: onnx.ModelProto, rows: tuple[int, int, int], cols: tuple[int, int, int]
) -> None:
    check(model, rows, cols)


@pytest.mark.deep
@settings(max_examples=2000)
@given(networks(), places(), places())
def test_every_cut_equals_all_crops_at_length(
    model: onnx.ModelProto, rows: tuple[int, int, int], cols: tuple[int, int, int]
) -> None:
    check(model, rows, cols)
