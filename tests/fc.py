"""Models of one op, and how to look at what `to_fc` makes of a model."""

from __future__ import annotations

from typing import Any

import law
import nets
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

import surgery
from surgery.conv_to_fc import FullyConnected

R_NET = nets.FIXTURES / "rnet24.onnx"


def to_fc(model: Any, **options: Any) -> tuple[FullyConnected, onnx.ModelProto]:
    """`surgery.to_fc` and its model."""
    result = surgery.to_fc(model, **options)
    assert result.proto is not None
    return result, result.proto


def one_op(op: str, shape: str, weights: str = "", *, opset: int = 22) -> onnx.ModelProto:
    """A model of one op on an image `[N, *shape]` in ONNX text."""
    dims = ",".join(["N", *"abcd"[: shape.count(",") + 1]])
    return nets.parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N,{shape}] x) => (float[{dims}] y) '
        f"{'<' + weights + '>' if weights else ''} {{ y = {op} }}"
    )


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def arrays(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def weights(model: onnx.ModelProto) -> list[tuple[tuple[int, ...], bytes]]:
    """The shapes and bytes of all floats."""
    return sorted((a.shape, a.tobytes()) for a in arrays(model).values() if a.dtype == np.float32)


def assert_same_answers(model: onnx.ModelProto, other: onnx.ModelProto, image: NDArray[Any]) -> None:
    want, got = law.run(model, image), law.run(other, image)
    assert list(got) == list(want)
    for name, value in want.items():
        assert got[name].shape == value.shape
        assert np.abs(got[name] - value).max() <= law.TOLERANCE * np.abs(value).max()
