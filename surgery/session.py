"""The one door to onnxruntime: make a session, run it, and turn its complaints into ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from surgery.errors import BadInput

QUIET = 4  # onnxruntime severity: its errors reach us as exceptions, so nothing need be printed

# By default onnxruntime makes integer ops of what lies between DequantizeLinear and QuantizeLinear, where it
# finds the pattern: they round otherwise, so that two forms of one model would differ by a step of 8 bits.
KEEP_QDQ = ("session.disable_quant_qdq", "1")

LARGE = 2**16  # bytes from which a weight is handed over to onnxruntime apart from the graph
HANDED_OVER = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT8,
    TensorProto.UINT8,
)


class Session:
    """A model loaded by onnxruntime on the CPU.

    `threads` of 0 lets onnxruntime choose. `optimize` off keeps every node as it was written; `for_proof`
    lets it fuse what gives the same numbers only.
    """

    def __init__(
        self, model: onnx.ModelProto, *, threads: int = 0, optimize: bool = True, for_proof: bool = False
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = QUIET
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False  # it holds a whole run's block beside what the first run took
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        if for_proof:
            options.add_session_config_entry(*KEEP_QDQ)
        self._options = ort.RunOptions()
        self._options.log_severity_level = QUIET
        try:
            self._session = self._open(ort, model, options)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise BadInput(f"onnxruntime cannot load the model: {first_line(error)}") from error
        self.inputs: list[str] = [value.name for value in self._session.get_inputs()]
        self.outputs: list[str] = [value.name for value in self._session.get_outputs()]

    @staticmethod
    def _open(ort: Any, model: onnx.ModelProto, options: Any) -> Any:
        light, weights = without_weights(model)
        values = [ort.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
        options.add_external_initializers(list(weights), values)
        return ort.InferenceSession(light.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run once; returns the outputs by name. Raises BadInput with onnxruntime's own words."""
        names = list(outputs) if outputs is not None else self.outputs
        try:
            values = self._session.run(names, dict(feeds), self._options)
        except Exception as error:
            raise BadInput(f"onnxruntime cannot run the model: {first_line(error)}") from error
        return dict(zip(names, values, strict=True))


def without_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """A copy whose large initializers are told to lie elsewhere, and their values by name.

    A model of half a gigabyte is opened many times in one proof: this way its weights are not written out
    and parsed again each time, and protobuf's limit of 2 GiB does not matter.
    """
    light = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    whole, graph = model.graph, light.graph
    graph.name = whole.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer", "quantization_annotation"):
        getattr(graph, field).extend(getattr(whole, field))
    weights = {}
    for tensor in whole.initializer:
        if tensor.data_type not in HANDED_OVER or len(tensor.raw_data) < LARGE:
            graph.initializer.append(tensor)
            continue
        weights[tensor.name] = numpy_helper.to_array(tensor)
        told = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        told.data_location = TensorProto.EXTERNAL
        told.external_data.add(key="location", value="handed over")
    return light, weights


def serialized(model: onnx.ModelProto) -> bytes | None:
    """The model as bytes, or None beyond protobuf's 2 GiB."""
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError):
        return None


def first_line(error: Exception) -> str:
    """The first line of an error's text; onnxruntime appends pages of its own state."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def beside(shape: Sequence[int], dtype: Any, count: int = 1) -> NDArray[Any]:
    """What is fed to an input beside the image: seeded noise for floats, and ones.

    Of two dims or more the first is the batch, of so many images, which are fed the same; a vector or a
    single value has none.
    """
    kind = np.dtype(dtype)
    batched = len(shape) > 1
    one = (1, *shape[1:]) if batched else tuple(shape)
    value = noise(one, kind, seed=0) if kind.kind == "f" and shape else np.ones(one, kind)
    return np.repeat(value, count, axis=0) if batched else value


def noise(shape: Sequence[int], dtype: Any, seed: int) -> NDArray[Any]:
    """A seeded random image: normal for floats, the full range for unsigned bytes, small for other ints."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind.kind in "iu":
        return rng.integers(0, 100, shape).astype(kind)
    return rng.standard_normal(shape, dtype=np.float32).astype(kind)
