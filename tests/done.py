"""A conversion for tests to look at: the original beside what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

import surgery


@dataclass(frozen=True)
class Done:
    """A finished conversion, with nothing left optional."""

    model: onnx.ModelProto
    proto: onnx.ModelProto
    geometry: surgery.Geometry
    proof: surgery.Proof
    result: surgery.Result


def convert(model: onnx.ModelProto, **options: Any) -> Done:
    """`surgery.convert`, whose result must hold a model, its geometry and its proof."""
    result = surgery.convert(model, **options)
    assert result.proto is not None
    assert result.geometry is not None
    assert result.proof is not None
    return Done(model, result.proto, result.geometry, result.proof, result)
