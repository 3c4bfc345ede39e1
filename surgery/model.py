"""Models as they come in: read with every complaint made plain, keep what graphsurgeon drops."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import external_data_helper, inliner, numpy_helper

from surgery.errors import BadInput, Refused
from surgery.plain import constants_of, take_apart, take_branches

ModelLike = str | os.PathLike[str] | onnx.ModelProto

OLDEST_IR = 4  # before it, initializers had to be listed among the inputs
IMAGE_RANKS = (3, 4, 5)  # [N, C, length], [N, C, height, width], [N, C, depth, height, width]
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "PRelu")


@dataclass(frozen=True, eq=False)
class Model:
    """A model as read: a private copy, initializers apart from inputs, local functions inlined.

    `external` says that the weights were read from a file beside the model.
    """

    proto: onnx.ModelProto
    name: str
    sha256: str
    external: bool = False
    path: Path | None = None

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return opset_of(self.proto)

    @property
    def image(self) -> onnx.ValueInfoProto:
        """The one input that is an image. Raises Refused where there is none, or more than one."""
        inputs = list(self.proto.graph.input)
        images = [v for v in inputs if len(v.type.tensor_type.shape.dim) in IMAGE_RANKS]
        if len(images) == 1:
            image: onnx.ValueInfoProto = images[0]
            return image
        seen = ", ".join(f"{v.name!r} {list(dims_of(v))}" for v in inputs) or "none at all"
        what = "no image input" if not images else f"{len(images)} image inputs"
        raise Refused(
            f"{self.name} has {what} (its inputs: {seen}): an image is an input of rank 3, 4 or 5, "
            "as [N, C, height, width]. Export the model with exactly one such input.",
            why=what,
        )


def opset_of(proto: onnx.ModelProto) -> int:
    """The version of the standard operators that a model asks for."""
    versions = [int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    return versions[0] if versions else 1


def read(model: ModelLike | Model, *, finite: bool = True) -> Model:
    """Read a model from a path, or copy a ModelProto.

    Raises BadInput where the file is no model, is cut short, or its external data is missing or lies
    outside the model's own folder; and, unless `finite` is off, where a weight is NaN or infinite.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
        digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
        return Model(prepare(proto, "the model", finite), "the model", digest)
    path = Path(model)
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}.") from error
    proto = parse(blob, path)
    external = any(t.data_location == onnx.TensorProto.EXTERNAL for t in initializers(proto.graph))
    load_external(proto, path)
    proto = prepare(proto, str(path), finite)
    return Model(proto, str(path), hashlib.sha256(blob).hexdigest(), external, path)


def parse(blob: bytes, path: Path) -> onnx.ModelProto:
    """The bytes of a file as a model with at least one node."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(blob)
    except DecodeError as error:
        raise BadInput(
            f"{path} is not an ONNX model, or is cut short ({len(blob)} bytes): its protobuf cannot be "
            "decoded. Export the model again, or copy the file again."
        ) from error
    if not proto.graph.node:
        raise BadInput(f"{path} is not an ONNX model: it holds no graph with nodes.")
    if not proto.opset_import:  # it comes behind the graph, so a file can end between the two
        raise BadInput(f"{path} is no whole ONNX model: it names no opset. Copy the file again.")
    return proto


def load_external(proto: onnx.ModelProto, path: Path) -> None:
    """Read the external data beside the model; a location outside its folder is an error."""
    try:
        external_data_helper.load_external_data_for_model(proto, str(path.parent.resolve()))
    except Exception as error:  # onnx raises its C++ checker's errors here, of no common base
        raise BadInput(
            f"the external data of {path} cannot be read: {error} The data must lie in the model's own "
            "folder under the name the model gives; copy it there, or save the model as one file."
        ) from error


def initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The initializers of a graph."""
    yield from graph.initializer


def prepare(proto: onnx.ModelProto, name: str, finite: bool = True) -> onnx.ModelProto:
    """Give every model one form: IR 4 or later, initializers no inputs, no local functions or fused ops."""
    weights = {t.name for t in proto.graph.initializer}
    inputs = [v for v in proto.graph.input if v.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, OLDEST_IR)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    take_branches(proto.graph, constants_of(proto.graph))
    take_apart(proto.graph, opset_of(proto))
    if finite:
        check_finite(proto, name)
    return proto


def check_finite(proto: onnx.ModelProto, name: str) -> None:
    """Raise BadInput where a weight of a linear op is NaN or infinite: no proof could pass or fail on it."""
    used = {i: n for n in proto.graph.node if n.op_type in WEIGHTED for i in n.input[1:]}
    for tensor in proto.graph.initializer:
        if tensor.name not in used or tensor.data_type not in FLOATS:
            continue
        values = numpy_helper.to_array(tensor)
        bad = int(np.size(values) - np.count_nonzero(np.isfinite(values)))
        if bad:
            node = used[tensor.name]
            raise BadInput(
                f"{name}: the weight {tensor.name!r} of {node.op_type} {node.name or node.output[0]!r} holds "
                f"{bad} NaN or infinite values of {np.size(values)}. No answer of such a net can be "
                "compared; mend the weights first."
            )


FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
)


def dims_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """The dims of an input or output: ints where fixed, names (or "?") where not."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)


def dtype_of(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    """The numpy dtype of an input or output."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def to_graph(proto: onnx.ModelProto) -> gs.Graph:
    """The graph of a model, for graphsurgeon, whose warnings would go to stdout."""
    gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR
    return gs.import_onnx(proto)


def from_graph(graph: gs.Graph, original: onnx.ModelProto) -> onnx.ModelProto:
    """A model of the graph, with what graphsurgeon drops carried over from the original by name."""
    proto: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    proto.ir_version = original.ir_version
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(proto, field, getattr(original, field))
    del proto.metadata_props[:]
    proto.metadata_props.extend(original.metadata_props)
    proto.graph.doc_string = original.graph.doc_string
    carry_docs(proto.graph, original.graph)
    return proto


def carry_docs(graph: onnx.GraphProto, original: onnx.GraphProto) -> None:
    """Copy doc strings and metadata of nodes, inputs, outputs and initializers that kept their name."""
    nodes = {out: node for node in original.node for out in node.output if out}
    for node in graph.node:
        old = next((nodes[out] for out in node.output if out in nodes), None)
        if old is not None and old.op_type == node.op_type:
            _copy_notes(node, old)
    for kind in ("input", "output", "initializer"):
        olds = {value.name: value for value in getattr(original, kind)}
        for value in getattr(graph, kind):
            if value.name in olds:
                _copy_notes(value, olds[value.name])
    graph.metadata_props.extend(original.metadata_props)


def _copy_notes(new: Any, old: Any) -> None:
    if old.doc_string:
        new.doc_string = old.doc_string
    del new.metadata_props[:]
    new.metadata_props.extend(old.metadata_props)


def set_metadata(proto: onnx.ModelProto, entries: dict[str, str]) -> None:
    """Write metadata entries, in the place of those of the same key."""
    kept = [p for p in proto.metadata_props if p.key not in entries]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value)


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    """The metadata of a model by key."""
    return {p.key: p.value for p in proto.metadata_props}
