"""The arrays behind a model's constants: read when first asked for, written back when they changed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from surgery.layers import makers_of, stored
from surgery.probes import cut
from surgery.session import Session
from surgery.shapes import captured

Array = NDArray[Any]


class Store:
    """Writable arrays for the constants of a model, by tensor name."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto = proto
        self._held = stored(proto.graph)
        self._arrays: dict[str, Array] = {}
        self._digests: dict[str, bytes] = {}

    def array(self, tensor: str) -> Array:
        """The array of a constant, the same at every call; what is written to it reaches the model."""
        if tensor not in self._arrays:
            self._arrays[tensor] = np.array(self.value(tensor))
            self._digests[tensor] = digest(self._arrays[tensor])
        return self._arrays[tensor]

    def value(self, tensor: str) -> Array:
        """The values of a constant, to look at and not to write to."""
        if tensor in self._arrays:
            return self._arrays[tensor]
        held = self._held.get(tensor)
        return self._computed(tensor) if held is None else numpy_helper.to_array(held)

    def dims(self, tensor: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The shape and dtype of a constant, without reading its values where the graph states them."""
        held = self._held.get(tensor)
        if held is None:
            array = self.array(tensor)
            return array.shape, array.dtype
        return tuple(held.dims), np.dtype(onnx.helper.tensor_dtype_to_np_dtype(held.data_type))

    def flush(self) -> bool:
        """Write the arrays that changed into the model; returns whether there was any."""
        changed = {n: d for n, a in self._arrays.items() if (d := digest(a)) != self._digests[n]}
        for name in changed:
            self._write(name, numpy_helper.from_array(self._arrays[name], name))
        self._digests.update(changed)
        return bool(changed)

    def _write(self, name: str, fresh: onnx.TensorProto) -> None:
        held = self._held.get(name)
        if held is None:
            replace_computed(self._proto.graph, name, fresh)
            self._held = stored(self._proto.graph)
            return
        for field in ("name", "doc_string"):
            if held.HasField(field):
                setattr(fresh, field, getattr(held, field))
        fresh.metadata_props.extend(held.metadata_props)
        held.CopyFrom(fresh)

    def _computed(self, tensor: str) -> Array:
        """The value of a constant that other nodes compute (Cast, Transpose, DequantizeLinear...)."""
        return Session(cut(self._proto, {}, [tensor]), optimize=False).run({})[tensor]


def digest(array: Array) -> bytes:
    """A digest of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()


def replace_computed(graph: onnx.GraphProto, name: str, tensor: onnx.TensorProto) -> None:
    """Let an initializer stand in the place of a constant that nodes computed; drop what only it used."""
    maker = makers_of(graph)[name]
    maker.output[list(maker.output).index(name)] = f"{name}/computed"
    graph.initializer.append(tensor)
    drop_unused(graph, [f"{name}/computed"])


def drop_unused(graph: onnx.GraphProto, names: list[str]) -> None:
    """Remove the makers of these tensors, and theirs in turn, as far as nothing reads them."""
    while names:
        name, makers = names.pop(), makers_of(graph)
        used = {i for node in graph.node for i in {*node.input, *captured(node)}}
        used.update(o.name for o in graph.output)
        if name in used:
            continue
        if name in makers and not used & {*makers[name].output}:
            names += [i for i in makers[name].input if i]
            graph.node.remove(makers[name])
        for tensor in [t for t in graph.initializer if t.name == name]:
            graph.initializer.remove(tensor)
