"""More runtimes, each as a function from a model to a function from an image to its outputs.

They share no code with onnxruntime. openvino and tract come with the extra `runtimes`; onnx.reference with
onnx itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import law
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

FACTS = {"float32": "f32", "uint8": "u8"}  # how tract writes dtypes
Run = Callable[[law.Array], Sequence[law.Array]]


def reference(model: onnx.ModelProto) -> Run:
    """The evaluator of the onnx package: numpy, written from the text of the standard."""
    evaluator = ReferenceEvaluator(model)
    image = model.graph.input[0].name
    return lambda x: list(evaluator.run(None, {image: x}))


def openvino(model: onnx.ModelProto) -> Run:
    """OpenVINO on the CPU in float32, compiled once for every size."""
    ov = pytest.importorskip("openvino", reason="openvino is not installed: pip install '.[runtimes]'")
    core = ov.Core()
    exactly = {"INFERENCE_PRECISION_HINT": "f32"}  # it would take bfloat16 where the CPU has it
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", exactly)

    def run(x: law.Array) -> list[law.Array]:
        results = compiled(x)
        return [results[output] for output in compiled.outputs]

    return run


def tract_open(model: onnx.ModelProto) -> Run:
    """tract, typed and optimised once with the sizes as symbols."""
    runnable = _loaded(model).into_model().into_runnable()
    return lambda x: [tensor.to_numpy() for tensor in runnable.run([x])]


def tract(model: onnx.ModelProto) -> Run:
    """tract, typed and optimised for the size of each image."""

    def run(x: law.Array) -> list[law.Array]:
        inferred = _loaded(model)
        inferred.set_input_fact(0, ",".join([*map(str, x.shape), FACTS[x.dtype.name]]))
        for k in range(inferred.output_count()):
            inferred.set_output_fact(k, None)
        return [tensor.to_numpy() for tensor in inferred.into_model().into_runnable().run([x])]

    return run


def _loaded(model: onnx.ModelProto) -> Any:
    tract = pytest.importorskip("tract", reason="tract is not installed: pip install '.[runtimes]'")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, str(path))
        return tract.onnx().load(path)


RUNTIMES: dict[str, Callable[[onnx.ModelProto], Run]] = {
    "onnx.reference": reference,
    "openvino": openvino,
    "tract": tract,
    "tract with open sizes": tract_open,
}
