"""Every tensor's shape, and the value of every tensor the image does not reach, at the window's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from surgery.circular import Wrap, wraps_of
from surgery.errors import BadInput, Refused
from surgery.kernels import refuse_unknown
from surgery.model import Model, dims_of, dtype_of
from surgery.packed import BATCH, CONTEXT, Packed, Part, regroup
from surgery.session import Session, beside, noise

SHAPE_OPS = ("Shape", "Size")
RENAMING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
WINDOWED = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "LpPool")
COUNTING = ("NonZero", "Unique", "Compress", "NonMaxSuppression")  # their size depends on the data
RANDOM_OPS = (
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)


@dataclass(frozen=True, eq=False)
class Facts:
    """What one run of the original at the window's size has shown.

    `shapes` holds every tensor's shape, batch included; `values` the tensors that depend on weights and
    shapes alone. `batch` is the batch the run was made with, `axes` the image's spatial dims, `outputs`
    the names of the model's outputs.
    """

    image: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    batch: int
    axes: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    values: dict[str, NDArray[Any]]
    outputs: tuple[str, ...]
    proto: onnx.ModelProto = field(repr=False)

    def doubled(self, name: str) -> NDArray[Any]:
        """The value that a tensor computed from shapes would have if every shape were twice as large."""
        return doubled(self.proto, name, self.values)

    @cached_property
    def wraps(self) -> dict[str, Wrap]:
        """The Concats that pad circularly, and the Slices they read, by the names of their outputs."""
        return wraps_of(self.proto.graph, self.shapes, self.values)

    @property
    def window(self) -> tuple[int, ...]:
        """The window in pixels, per spatial axis."""
        return tuple(self.shape[a] for a in self.axes)


def observe(model: Model, window: tuple[int, ...] | None = None) -> Facts:
    """Run the original once with every tensor as an output, and note what it shows.

    A run knows the shapes that inference loses (Shape chains, ops of other domains, old IR versions).
    `window` is needed where the model leaves its size open, in pixels per spatial axis.
    Raises BadInput where the size is open and not given, Refused where the model draws random numbers.
    """
    image = model.image
    shape, axes = window_shape(model, image, window)
    random = next((n for n in model.proto.graph.node if n.op_type in RANDOM_OPS), None)
    if random is not None:
        why = "it draws random numbers, so no two answers can be compared"
        node, op = random.name, random.op_type
        raise Refused(f"{op} {node!r}: {why}.", node=node, op=op, why=why)
    static = static_tensors(model.proto.graph, image.name)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, np.dtype[Any]] = {}
    values: dict[str, NDArray[Any]] = {}
    for name, value in run_all(model.proto, feeds_for(model, image, shape)).items():
        if not isinstance(value, np.ndarray):
            continue  # a sequence or an optional: no op that surgery knows makes one
        shapes[name], dtypes[name] = value.shape, value.dtype
        if name in static:
            values[name] = value
    for tensor in model.proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        shapes[tensor.name], dtypes[tensor.name], values[tensor.name] = array.shape, array.dtype, array
    proto = model.proto
    check_cells(model, shapes, shape)
    axes = axes_by_use(proto.graph, image.name, shapes, axes)
    outputs = tuple(o.name for o in proto.graph.output)
    return Facts(image.name, dtype_of(image), shape, shape[0], axes, shapes, dtypes, values, outputs, proto)


def check_cells(model: Model, shapes: Mapping[str, tuple[int, ...]], window: tuple[int, ...]) -> None:
    """Raise BadInput where an op's kernel is larger than what it slides over, so that it makes nothing."""
    for node in model.proto.graph.node:
        made = shapes.get(node.output[0], ())
        if node.op_type in WINDOWED and 0 in made:
            seen = list(shapes[node.input[0]])
            raise BadInput(
                f"{model.name}: {node.op_type} {node.name or node.output[0]!r} makes nothing of {seen}, "
                f"{list(made)}: its kernel is larger than that at an image of {list(window)}. Give a larger "
                "window with --window, where the model leaves its size open, or export it for a larger image."
            )


def doubled(proto: onnx.ModelProto, name: str, values: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The value of a tensor that the image does not reach, if every Shape before it were twice as large."""
    makers = {o: node for node in proto.graph.node for o in node.output if o}
    wanted, kept = [name], set()
    while wanted:
        node = makers.get(wanted.pop())
        if node is not None and node.op_type not in SHAPE_OPS and id(node) not in kept:
            kept.add(id(node))
            wanted += [i for i in node.input if i]
    nodes = [n for n in proto.graph.node if id(n) in kept]
    made = {o for n in nodes for o in n.output}
    known = {i for n in nodes for i in n.input if i} | {name}
    feeds = {
        i: values[i] * (2 if i in makers and makers[i].op_type in SHAPE_OPS else 1) for i in known - made
    }
    if name in feeds:
        return feeds[name]
    part = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    part.graph.name = "settings"
    part.graph.node.extend(nodes)
    for i, value in feeds.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        part.graph.input.append(onnx.helper.make_tensor_value_info(i, kind, None))
    part.graph.output.append(onnx.ValueInfoProto(name=name))
    return Session(part, optimize=False).run(feeds)[name]


def window_shape(
    model: Model, image: onnx.ValueInfoProto, window: tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The image's shape at the window with its batch, and which of its dims are space."""
    dims = dims_of(image)
    axes = likely_axes(dims, window)
    shape = [d if isinstance(d, int) and d > 0 else 0 for d in dims]
    shape[0] = shape[0] or 1
    if window is not None:
        if len(window) != len(axes):
            raise BadInput(f"the window {window} has {len(window)} sides, the image {len(axes)}.")
        for axis, side in zip(axes, window, strict=True):
            if shape[axis] not in (0, side):
                raise BadInput(f"the model fixes its window at {shape[axis]}, not {side}.")
            shape[axis] = side
    if 0 in shape:
        raise BadInput(
            f"{model.name}: the input {image.name!r} {list(dims)} leaves its size open, so the window the "
            "classifier was made for is not known. Give it with --window HxW."
        )
    return tuple(shape), axes


def image_axes(model: Model, window: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Which dims of the image are space, by what the model does with it where its dims leave that open.

    A model that leaves its size open can be asked at a `window`, in pixels per spatial axis.
    """
    dims = dims_of(model.image)
    window = window if open_dims(dims) else None
    axes = likely_axes(dims, window)
    closed = not (set(open_dims(dims)) - set(axes if window else ()))
    unclear = len(dims) == 3 or any(dims[a] == 1 for a in axes) or dims[1] != min(dims[1:], key=_size)
    return observe(model, window).axes if closed and unclear else axes


def likely_axes(dims: Sequence[int | str], window: Sequence[int] | None = None) -> tuple[int, ...]:
    """Which dims of an image are space, by its dims alone: those left open, if a window has as many sides."""
    left_open = open_dims(dims)
    return left_open if window and len(window) == len(left_open) else space_axes(tuple(dims))


def open_dims(dims: Sequence[int | str]) -> tuple[int, ...]:
    """The dims but the batch that a model gives no size."""
    return tuple(a for a, d in enumerate(dims) if a and (not isinstance(d, int) or d < 1))


def _size(dim: int | str) -> int:
    return dim if isinstance(dim, int) else 0


def space_axes(dims: tuple[int | str, ...]) -> tuple[int, ...]:
    """Which dims of an image are space: the last ones, or those before a last dim of 1, 3 or 4 channels."""
    rank = len(dims)
    if dims[-1] in (1, 3, 4) and dims[1] not in (1, 3, 4):
        return tuple(range(1, rank - 1))
    return tuple(range(2, rank))


def axes_by_use(
    graph: onnx.GraphProto, image: str, shapes: Mapping[str, tuple[int, ...]], default: tuple[int, ...]
) -> tuple[int, ...]:
    """Which dims of the image the first windowed op slides over, wherever they were moved before it.

    The default stands where that op slides over fewer, unless those it leaves are of one pixel.
    """
    dims = [(Part(n, CONTEXT if d else BATCH, d),) for d, n in enumerate(shapes[image])]
    seen = {image: Packed(tuple(dims), ())}
    for node in graph.node:
        x = next((seen[i] for i in node.input if i in seen), None)
        shape = shapes.get(node.output[0])
        if x is None or shape is None:
            continue
        if node.op_type in WINDOWED:
            last = any(a.name == "channels_last" and a.i for a in node.attribute)
            slid = [
                p
                for dim in (x.dims[1:-1] if last else x.dims[2:])
                for p in dim
                if p.size > 1 or len(dim) == 1
            ]
            whole = len(slid) == len(shape) - 2 and all(p.kind == CONTEXT for p in slid)
            found = tuple(sorted(p.axis for p in slid))
            left = [d for d in default if d not in found and shapes[image][d] > 1]
            return default if not whole or (left and len(found) < len(default)) else found
        moved = _moved(node, x, shape)
        if moved is not None:
            seen[node.output[0]] = moved
    return default


def _moved(node: onnx.NodeProto, x: Packed, shape: tuple[int, ...]) -> Packed | None:
    """Where the dims of a tensor went in a node that renames or keeps them."""
    if node.op_type == "Transpose":
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(len(shape)))[::-1])
        return Packed(tuple(x.dims[p] for p in perm), ())
    if node.op_type in RENAMING:
        return regroup(x, shape)
    if len(shape) != len(x.dims) or any(len(dim) != 1 for dim in x.dims):
        return x if shape == x.shape else None
    sized = ((replace(dim[0], size=n),) for dim, n in zip(x.dims, shape, strict=True))
    return Packed(tuple(sized), ())


def static_tensors(graph: onnx.GraphProto, image: str) -> set[str]:
    """The tensors that depend on weights and on shapes, and on no pixel."""
    moving = {v.name for v in graph.input} | {image}
    static = {t.name for t in graph.initializer}
    counted: set[str] = set()  # what has as many values as the pixels say, and all that is made of it
    for node in graph.node:
        reads = set(node.input) | captured(node)
        if reads & counted or (node.op_type in COUNTING and reads & moving):
            counted.update(node.output)
        still = (node.op_type in SHAPE_OPS and not reads & counted) or not (reads & moving)
        (static if still else moving).update(o for o in node.output if o)
    return static


def captured(node: onnx.NodeProto) -> set[str]:
    """The names that the subgraphs of a node read from outside."""
    names: set[str] = set()
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                names |= set(inner.input) | captured(inner)
    return names


def feeds_for(model: Model, image: onnx.ValueInfoProto, shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Noise for the image, and what is fed to every other input."""
    feeds = {image.name: noise(shape, dtype_of(image), seed=0)}
    for value in model.proto.graph.input:
        if value.name != image.name:
            dims = [d if isinstance(d, int) else shape[0] for d in dims_of(value)]
            feeds[value.name] = beside(dims, dtype_of(value), dims[0] if dims else 1)
    return feeds


def run_all(proto: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every tensor of the graph, by name."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    names = [o for node in proto.graph.node for o in node.output if o]
    del probe.graph.output[:]
    del probe.graph.value_info[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        return {**feeds, **Session(probe, optimize=False).run(feeds)}
    except BadInput as error:
        refuse_unknown(proto, error)
        raise
