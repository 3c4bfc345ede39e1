"""The tensors that flow through a net: their shapes, and their values after a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery.errors import BadInput
from surgery.layers import constant_names
from surgery.model import dims_of
from surgery.probes import with_outputs
from surgery.session import Session
from surgery.store import Store

Array = NDArray[Any]
Shape = tuple[int | str, ...]

SMALL = 1024  # values; a larger constant is never a shape, and shape inference is spared its bytes


class Blob:
    """One tensor of a net, by name."""

    def __init__(self, name: str, blobs: Blobs) -> None:
        self.name = name
        self._blobs = blobs

    @property
    def shape(self) -> Shape | None:
        """Its shape at the last run; before one as inferred, with the names of open dims, or None."""
        return self._blobs.shape(self.name)

    @property
    def data(self) -> Array:
        """Its value at the last forward. Raises BadInput where there was none with these parameters."""
        return self._blobs.fetch(self.name)

    def __repr__(self) -> str:
        return f"{self.name}: {'unknown' if self.shape is None else list(self.shape)}"


class Blobs(Mapping[str, Blob]):
    """The tensors that depend on the inputs, by name, in the order of the graph.

    Every tensor can be had after a run: the one session gives the outputs alone and is as fast as the
    model, a second one, opened when an inner tensor is first asked for, can give them all.
    """

    def __init__(self, proto: onnx.ModelProto, store: Store) -> None:
        self._proto = proto
        self._store = store
        self.outputs = [o.name for o in proto.graph.output]
        constant = constant_names(proto.graph)
        made = [o for node in proto.graph.node for o in node.output if o and o not in constant]
        self._blobs = {n: Blob(n, self) for n in [*(v.name for v in proto.graph.input), *made]}
        self.forget()

    def forget(self, shapes: Mapping[str, Shape] | None = None) -> None:
        """Drop sessions, shapes and values: the model was changed, and takes inputs of these shapes."""
        self._shapes = dict(shapes or {})
        self._stale = False
        self._session: Session | None = None
        self._probe: Session | None = None
        self._inferred: dict[str, Shape] | None = None
        self._feeds: dict[str, Array] | None = None
        self._values: dict[str, Array] = {}

    def sync(self) -> bool:
        """Bring edited parameters into the model; returns whether the last run was made with them."""
        if self._store.flush():
            self._session = self._probe = None
            self._stale = True
        return not self._stale

    def run(self, feeds: dict[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        """Run on the inputs; returns the outputs and the wanted tensors by name."""
        names = [*dict.fromkeys([*self.outputs, *wanted])]
        self.sync()
        values = self._with(names).run(feeds, names)
        self._inferred, self._feeds, self._stale = None, feeds, False
        self._shapes = {name: value.shape for name, value in feeds.items()}
        self._values = {**feeds, **values}
        return values

    def fetch(self, name: str) -> Array:
        """The value of a tensor at the last run."""
        if self._feeds is None:
            raise BadInput(f"the blob {name!r} has no value yet: call forward first.")
        if name not in self._values and not self.sync():
            raise BadInput(
                f"the blob {name!r} belongs to a forward with other parameters: call forward again."
            )
        if name not in self._values:
            self._values.update(self._with([name]).run(self._feeds, [name]))
        return self._values[name]

    def shape(self, name: str) -> Shape | None:
        """The shape of a tensor, as exactly as it is known."""
        if name in self._values:
            return self._values[name].shape
        if self._inferred is None:
            self._inferred = infer(self._proto, self._shapes)
        dims = self._inferred.get(name)
        known = dims is not None and all(isinstance(d, int) for d in dims)
        return self.fetch(name).shape if not known and self._feeds and self.sync() else dims

    def _with(self, names: Sequence[str]) -> Session:
        """A session that can give these tensors."""
        if set(names) <= {*self.outputs}:
            self._session = self._session or Session(self._proto)
            return self._session
        self._probe = self._probe or Session(with_outputs(self._proto, list(self._blobs)))
        return self._probe

    def __getitem__(self, name: str) -> Blob:
        return self._blobs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._blobs.values()))


def infer(proto: onnx.ModelProto, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of all tensors by shape inference, with the inputs at these shapes."""
    light = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    graph = light.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, ()), strict=False):
            if isinstance(size, int):
                dim.dim_value = size
    for tensor in proto.graph.initializer:
        if np.prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph.output.extend(onnx.ValueInfoProto(name=o.name) for o in proto.graph.output)
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    known = [
        v for v in [*graph.input, *graph.value_info, *graph.output] if v.type.tensor_type.HasField("shape")
    ]
    return {v.name: tuple(unnamed(d) for d in dims_of(v)) for v in known}


def unnamed(dim: int | str) -> int | str:
    """A dim, with "?" for the names that shape inference makes up."""
    return "?" if isinstance(dim, str) and dim.startswith("unk__") else dim
