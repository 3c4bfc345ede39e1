"""validate: it understands a model of any stride in both forms, and catches one that was spoilt."""

from __future__ import annotations

from typing import Any

import law
import nets
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from strides import FORMS, at_stride, made

import surgery


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["two_outputs", "padded", "two_maps", "signal", "volume", "nhwc_input"])
def test_validate_understands_any_stride(name: str, form: str) -> None:
    model = nets.load(name)
    done = at_stride(model, 1, form)
    shown = surgery.validate(model, done.proto, crops=30)
    assert shown.passed
    sizes = [w + 2 for w in law.window_of(model)]
    crops = next(c for c in surgery.validate(model, done.proto, sizes=[sizes]).checks if c.name == "crops")
    assert crops.positions == 3 ** len(sizes)


def swap_phases(model: onnx.ModelProto) -> None:
    """Put two fragments into the batch in the wrong order."""
    join = next(n for n in model.graph.node if n.op_type == "Concat" and len(n.input) == 4)
    join.input[1], join.input[2] = join.input[2], join.input[1]


def swap_axes(model: onnx.ModelProto) -> None:
    """Interleave the phases of the rows among the columns."""
    mix = [n for n in model.graph.node if n.op_type == "Transpose"][-1]
    perm = mix.attribute[0].ints
    perm[3], perm[5] = perm[5], perm[3]


def swap_kept(model: onnx.ModelProto) -> None:
    """Take the fragments of the second split in the order in which they were made."""
    kept = next(t for t in model.graph.initializer if t.name.endswith("/phases"))
    kept.CopyFrom(numpy_helper.from_array(np.sort(numpy_helper.to_array(kept)), kept.name))


def less_dilated(model: onnx.ModelProto) -> None:
    """Dilate the widest kernel by one cell less, and cut as much from its map."""
    spread = [a for n in model.graph.node for a in n.attribute if a.name == "dilations"]
    for k in (0, 1):
        spread[-1].ints[k] -= 1


def offset_by_one(model: onnx.ModelProto) -> None:
    """Shift a fragment by one cell too few."""
    start = next(t for t in model.graph.initializer if t.name.endswith("starts_1"))
    start.CopyFrom(numpy_helper.from_array(np.zeros(2, np.int64), start.name))


@pytest.mark.parametrize(
    ("form", "spoil"),
    [
        *[("fragments", spoil) for spoil in (swap_phases, swap_axes, swap_kept, offset_by_one)],
        ("dilated", less_dilated),
    ],
)
def test_validate_catches_a_spoilt_stride(form: str, spoil: Any) -> None:
    model = made("average_pools")
    done = at_stride(model, 1, form)
    assert surgery.validate(model, done.proto).passed
    spoil(done.proto)
    assert not surgery.validate(model, done.proto).passed
