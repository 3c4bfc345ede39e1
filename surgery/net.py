"""A net in the manner of Caffe: parameters by name, blobs, forward, reshape, transplant, save."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from surgery.blobs import Array, Blobs, infer
from surgery.errors import BadInput
from surgery.model import ModelLike, dims_of, dtype_of, read
from surgery.ops.shape import RESHAPES
from surgery.parameters import Params, UnknownName, nearest
from surgery.saving import check_target, save
from surgery.session import Session
from surgery.shapes import feeds_for, image_axes
from surgery.transplant import Transplant, transplant


class Net:
    """A model whose parameters can be read, edited and saved by name.

    `params["conv1"].weight` is a numpy array; what is written to it counts in the next forward and in the
    file that `save` writes. `blobs` holds every tensor between input and output. The model given, a path or
    a ModelProto, is never changed.

    Raises BadInput where it cannot be read.
    """

    def __init__(self, model: ModelLike) -> None:
        self._source = read(model, finite=False)
        self._proto = self._source.proto
        away = next((t for t in self._proto.graph.initializer if t.data_location == t.EXTERNAL), None)
        if away is not None:
            raise BadInput(
                f"the weight {away.name!r} of the model lies in a file of its own that was not loaded: give "
                "the path of the model instead, or load it with its external data."
            )
        self.params = Params(self._proto)
        self.blobs = Blobs(self._proto, self.params.store)
        self.inputs = [v.name for v in self._proto.graph.input]
        self.outputs = list(self.blobs.outputs)

    @property
    def name(self) -> str:
        """The path it was read from, as messages call it."""
        return self._source.name

    @property
    def path(self) -> Path | None:
        """The path it was read from, or None."""
        return self._source.path

    @property
    def proto(self) -> onnx.ModelProto:
        """A copy of the model as it is now, edits included."""
        self.blobs.sync()
        copy = onnx.ModelProto()
        copy.CopyFrom(self._proto)
        return copy

    def forward(self, image: Any = None, /, *, blobs: Sequence[str] = (), **inputs: Any) -> dict[str, Array]:
        """Run once; returns the outputs by name, and the tensors asked for in `blobs`.

        `image` has the shape of the model's image input (`[N, C, height, width]` mostly) or lacks its batch
        dim; other inputs go by name. Whole numbers are taken where the model wants floats.
        Raises BadInput where shape or dtype do not fit, or a name is not known.
        """
        for name in blobs:
            if name not in self.blobs:
                raise UnknownName(f"there is no blob {name!r}; {nearest(name, list(self.blobs))}.")
        given = dict(inputs)
        if image is not None:
            open_inputs = [n for n in self.inputs if n not in given]
            given[open_inputs[0] if len(open_inputs) == 1 else self._source.image.name] = image
        if set(given) != set(self.inputs):
            raise BadInput(f"{self.name} takes the inputs {self.inputs}; given were {sorted(given)}.")
        feeds = {v.name: self._feed(v, given[v.name]) for v in self._proto.graph.input}
        return self.blobs.run(feeds, blobs)

    def _feed(self, value: onnx.ValueInfoProto, given: Any) -> Array:
        """An input as onnxruntime takes it: batch dim and dtype as the model states them."""
        dims, dtype, array = dims_of(value), dtype_of(value), np.asarray(given)
        if array.ndim == len(dims) - 1:
            array = array[np.newaxis]
        fits = array.ndim == len(dims) and all(
            not isinstance(d, int) or d in (0, n) for d, n in zip(dims, array.shape, strict=True)
        )
        if not fits:
            raise BadInput(
                f"the input {value.name!r} has shape {list(dims)}, the array given {list(np.shape(given))}. "
                "`reshape` gives the net another height and width."
            )
        if array.dtype != dtype:
            widens = array.dtype.kind in "biu" and dtype.kind == "f"
            if not widens and not np.can_cast(array.dtype, dtype, "same_kind"):
                raise BadInput(f"the input {value.name!r} is {dtype}, the array given {array.dtype}.")
            array = array.astype(dtype)
        return array

    def reshape(self, *size: int) -> None:
        """Give the image another height and width, in pixels; a run at that size proves that it works.

        A fixed size changes in the model, and in what `save` writes; one the model leaves open stays open.
        Raises BadInput, and changes nothing, where a node holds the old size.
        """
        image = self._source.image
        dims = dims_of(image)
        axes = image_axes(self._source, size)
        if len(size) != len(axes) or min(size) < 1:
            raise BadInput(f"the image {image.name!r} has {len(axes)} sides of 1 pixel or more, not {size}.")
        sides = dict(zip(axes, size, strict=True))
        shape = tuple(sides.get(i, d if isinstance(d, int) and d else 1) for i, d in enumerate(dims))
        trial = self.proto
        set_dims(trial, image.name, {a: n for a, n in sides.items() if isinstance(dims[a], int)})
        feeds = feeds_for(self._source, image, shape)
        try:
            values = Session(trial).run(feeds)
            why = scattered(trial, self._proto, shape[0], values)
        except BadInput as error:
            why = culprit(trial, feeds, error)
        if why:
            old, new = ("x".join(str(n) for n in sides) for sides in ([dims[a] for a in axes], size))
            raise BadInput(
                f"cannot give {self.name} the size {new}: {why}. It was made for {old}; "
                "`surgery convert` rewrites a classifier for images of any size."
            )
        self._proto.graph.ClearField("value_info")
        self._proto.graph.input[self.inputs.index(image.name)].CopyFrom(
            trial.graph.input[self.inputs.index(image.name)]
        )
        for output in self._proto.graph.output:
            refresh_dims(output, np.shape(values[output.name]))
        self.blobs.forget({image.name: tuple(sides.get(i, d) for i, d in enumerate(dims))})

    def transplant(
        self,
        other: Net | ModelLike,
        mapping: Mapping[str, str] | None = None,
        coerce: bool = False,
        cast: bool = False,
    ) -> Transplant:
        """Copy the parameters of another net into this one; returns, and prints as, what became of each.

        Layers meet by name, or as `mapping` says: this net's layer or parameter to the other's. Arrays of
        equal size and another shape are reshaped only with `coerce`, in the order in which Flatten lays
        features; another dtype is taken only with `cast`. Raises BadInput where `mapping` holds a name that
        a net does not have.
        """
        source = other if isinstance(other, Net) else Net(other)
        return transplant(self.params, source.params, mapping, coerce=coerce, cast=cast)

    def save(self, path: str | os.PathLike[str], force: bool = False) -> None:
        """Write the model with its edits; the file appears whole or not at all.

        Metadata and docs are kept; weights that came from a file beside the model go to `<path>.data`. An
        existing file, and the net's own source, are replaced only with `force`. Raises BadInput.
        """
        target = Path(path)
        check_target(target, None if force else self.path, force=force)
        data = target.with_name(f"{target.name}.data")
        if self._source.external and data.exists() and not force:
            raise BadInput(f"{data} exists already, and would hold the weights; give another path, or force.")
        self.blobs.sync()
        save(self._proto, target, external=self._source.external)

    def __repr__(self) -> str:
        return f"Net({self.name!r}: {len(self.params)} layers with parameters, {len(self.blobs)} blobs)"


def set_dims(proto: onnx.ModelProto, name: str, sides: Mapping[int, int]) -> None:
    """Write dims of an input, and forget every shape that followed from the old ones."""
    value = next(v for v in proto.graph.input if v.name == name)
    for axis, side in sides.items():
        value.type.tensor_type.shape.dim[axis].dim_value = side
    proto.graph.ClearField("value_info")
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")


def refresh_dims(output: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Write the shape seen into an output, and leave open what was open."""
    dims = output.type.tensor_type.shape.dim
    if len(dims) != len(shape):
        output.type.tensor_type.ClearField("shape")
    for dim, size in zip(dims, shape, strict=False):
        if dim.HasField("dim_value"):
            dim.dim_value = size


def culprit(proto: onnx.ModelProto, feeds: dict[str, Array], error: BadInput) -> str:
    """The node at which a model cannot run on these inputs, and why, in words."""
    marked = onnx.ModelProto()
    marked.CopyFrom(proto)
    for index, node in enumerate(marked.graph.node):
        node.name = f"node{index}."
    try:
        Session(marked, optimize=False).run(feeds)
    except BadInput as again:
        error = again
    found = re.search(r"node(\d+)\.", str(error))
    if found is None:
        return str(error).removesuffix(".")
    node = proto.graph.node[int(found[1])]
    what = {
        "Reshape": "makes a shape that is fixed",
        "Gemm": "takes a fixed number of features",
        "MatMul": "takes a fixed number of features",
    }.get(node.op_type, "cannot take what reaches it at that size")
    return f"{node.op_type} {node.name or node.output[0]!r} {what}"


def scattered(
    trial: onnx.ModelProto, original: onnx.ModelProto, batch: int, outputs: Mapping[str, Array]
) -> str:
    """The node that makes positions of the larger image into images of a batch, in words; or nothing.

    A Reshape to [-1, features] does so, and no runtime complains.
    """
    declared = {o.name: [*dims_of(o), None][0] for o in original.graph.output}
    if all(not v.ndim or v.shape[0] in (batch, declared[n]) for n, v in outputs.items()):
        return ""
    shapes = infer(trial, {})
    for node in trial.graph.node:
        before, after = (shapes.get(n) for n in (node.input[0] if node.input else "", node.output[0]))
        if node.op_type in RESHAPES and before and after and before[0] == batch != after[0]:
            return (
                f"{node.op_type} {node.name or node.output[0]!r} makes a batch of {after[0]} of its positions"
            )
    return "positions become images of a batch"
