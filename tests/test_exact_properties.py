"""The law of the exact engine on nets nobody thought of: equal to all crops, at any stride, size and cut."""

from __future__ import annotations

import law
import onnx
import pytest
from exactly import assert_every_cut, forced
from hypothesis import event, given, settings
from hypothesis import strategies as st
from padded_nets import networks

import surgery

Places = tuple[int, int, int]


@st.composite
def places(draw: st.DrawFn) -> Places:
    """Along an axis: the stride, how many windows, and the pixels left over behind the last."""
    stride = draw(st.integers(1, 9))
    return stride, draw(st.integers(1, 5)), draw(st.integers(0, stride - 1))


choices = st.fixed_dictionaries(
    {
        "groups": st.integers(0, 4),
        "loop": st.booleans(),
        "gathers": st.booleans(),
        "room": st.sampled_from([None, True, False]),
    }
)


def check(model: onnx.ModelProto, rows: Places, cols: Places, choice: dict[str, bool | None]) -> None:
    """The law at a grid of windows, for every cut of the mosaic, on a batch of two images."""
    stride = (rows[0], cols[0])
    size = [w + (n - 1) * s + r for w, (s, n, r) in zip(law.window_of(model), (rows, cols), strict=True)]
    if (rows[1], cols[1]) == (1, 1) and max(rows[2], cols[2]) > 0:
        with pytest.raises(surgery.BadInput, match="leaves no second window"):
            surgery.convert(model, exact=True, sizes=[size], stride=stride)
        return
    with forced(**choice):  # type: ignore[arg-type]
        event(f"{assert_every_cut(model, size, stride)} cuts")


@settings(max_examples=60)
@given(networks(), places(), places(), choices)
def test_every_cut_equals_all_crops(
    model: onnx.ModelProto, rows: Places, cols: Places, choice: dict[str, bool | None]
) -> None:
    check(model, rows, cols, choice)


@pytest.mark.deep
@settings(max_examples=2000)
@given(networks(), places(), places(), choices)
def test_every_cut_equals_all_crops_at_length(
    model: onnx.ModelProto, rows: Places, cols: Places, choice: dict[str, bool | None]
) -> None:
    check(model, rows, cols, choice)
