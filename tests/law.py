"""The oracles: what a conversion must be equal to, measured with onnxruntime alone, without surgery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]
Place = tuple[int, ...]

TOLERANCE = 1e-4

# ------------------------------------------------ running a model


def session(model: onnx.ModelProto) -> Any:
    """The model in onnxruntime, on one thread and without a word."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | Any, image: Array, **more: Array) -> dict[str, Array]:
    """The outputs of a model, or of a session, by name; the image goes to its first input."""
    opened = session(model) if isinstance(model, onnx.ModelProto) else model
    names = [o.name for o in opened.get_outputs()]
    return dict(zip(names, opened.run(None, {opened.get_inputs()[0].name: image, **more}), strict=True))


def image_dims(model: onnx.ModelProto) -> tuple[int, ...]:
    """The dims of the first input, which is the image; 0 where they are symbolic."""
    return tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)


def space_of(model: onnx.ModelProto) -> tuple[int, ...]:
    """Which dims of the image are space: the last, or those before a last dim of 1 or 3 channels."""
    dims = image_dims(model)
    last = len(dims) > 3 and dims[-1] in (1, 3) and dims[1] not in (1, 3)
    return tuple(range(1, len(dims) - 1)) if last else tuple(range(2, len(dims)))


def window_of(model: onnx.ModelProto) -> tuple[int, ...]:
    """The original's input size in pixels, per spatial axis."""
    dims = image_dims(model)
    return tuple(dims[a] for a in space_of(model))


def random_image(model: onnx.ModelProto, size: Sequence[int], seed: int = 7) -> Array:
    """A seeded image of this size in pixels, as the original takes it but for its size."""
    rng = np.random.default_rng(seed)
    dims = list(image_dims(model))
    dims[0] = 1
    for axis, side in zip(space_of(model), size, strict=True):
        dims[axis] = side
    kind = model.graph.input[0].type.tensor_type.elem_type
    if kind == onnx.TensorProto.UINT8:
        return rng.integers(0, 256, dims, dtype=np.uint8)
    return rng.standard_normal(dims).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))


def part(x: Array, axes: Sequence[int], start: Sequence[int], size: Sequence[int]) -> Array:
    """The box of `x` that begins at `start` along these axes."""
    index = [slice(None)] * x.ndim
    for axis, a, n in zip(axes, start, size, strict=True):
        index[axis] = slice(a, a + n)
    return x[tuple(index)]


# ------------------------------------------------ law: map[i, j] == original(crop i, j)


def grid_of(size: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> Place:
    """How many full windows an image of this size has, per axis."""
    return tuple((n - w) // s + 1 for n, w, s in zip(size, window, stride, strict=True))


def crops_of(
    original: onnx.ModelProto, image: Array, stride: Sequence[int]
) -> Iterator[tuple[Place, dict[str, Array]]]:
    """The original's outputs for every crop with its grid place; crops are run one by one."""
    axes, window = space_of(original), window_of(original)
    opened = session(original)
    for place in np.ndindex(grid_of([image.shape[a] for a in axes], window, stride)):
        origin = [i * s for i, s in zip(place, stride, strict=True)]
        yield place, run(opened, np.ascontiguousarray(part(image, axes, origin, window)))


def at(score_map: Array, place: tuple[int, ...]) -> Array:
    """A score map's answer at a grid place, as `[1, features]`."""
    index: tuple[Any, ...] = (0, Ellipsis, *place)
    return np.asarray(score_map[index]).reshape(1, -1)


def assert_close(got: Array, want: Array, where: str, tolerance: float = TOLERANCE) -> None:
    """Equal up to a share of the largest value wanted."""
    assert got.shape == want.shape, f"{where}: shape {got.shape}, not {want.shape}"
    a, b = got.astype(np.float64), want.astype(np.float64)
    scale = max(float(np.abs(b).max(initial=0.0)), 1e-30)
    error = float(np.abs(a - b).max(initial=0.0)) / scale
    assert error <= tolerance, f"{where}: off by {error:.3g} of the largest value"


def assert_equals_crops(
    original: onnx.ModelProto,
    converted: onnx.ModelProto,
    image: Sequence[int] | Array,
    stride: Sequence[int],
    outputs: Sequence[str] | None = None,
) -> int:
    """Every answer of the converted map equals the original on that crop; returns how many were compared.

    `image` is one to use, or the size in pixels of a random one.
    """
    image = image if isinstance(image, np.ndarray) else random_image(original, image)
    got = run(converted, image)
    names = list(outputs) if outputs is not None else [o.name for o in original.graph.output]
    count = 0
    for place, answers in crops_of(original, image, stride):
        for name in names:
            assert_close(at(got[name], place), answers[name].reshape(1, -1), f"{name} at {place}")
        count += 1
    return count


# ------------------------------------------------ law: the original head on the trunk's windows


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives exactly these tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    return copy


def free(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that takes images of any size and batch, with no inner shape left to contradict it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    dims = copy.graph.input[0].type.tensor_type.shape.dim
    for axis in (0, *space_of(model)):
        dims[axis].dim_param = f"d{axis}"
    return copy


def outputs(cells: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], ceil: bool) -> int:
    """How many outputs a windowed op gives (ONNX MaxPool: none begins in the padding at the end)."""
    room = cells + sum(pads) - (kernel - 1) * dilation - 1
    if not ceil:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out - ((out - 1) * stride >= cells + pads[0])


def with_free_strides(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose strides over a single cell are the least that leave it single.

    In the window they mean nothing; beyond it they say how close windows may lie.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = [*inferred.value_info, *inferred.input, *inferred.output]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in known}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if (
            not {"kernel_shape", "strides"} <= attrs.keys()
            or "auto_pad" in attrs
            or node.input[0] not in shapes
        ):
            continue
        cells = shapes[node.input[0]][2:]
        rank, strides = len(cells), []
        pads = attrs.get("pads", [0] * 2 * rank)
        for k, n in enumerate(cells):
            rest = (
                attrs.get("dilations", [1] * rank)[k],
                (pads[k], pads[rank + k]),
                bool(attrs.get("ceil_mode")),
            )
            tries = range(1, attrs["strides"][k] + 1)
            alone = [s for s in tries if outputs(n, attrs["kernel_shape"][k], s, *rest) == 1]
            strides.append(alone[0] if attrs["strides"][k] in alone else attrs["strides"][k])
        at = next(a for a in node.attribute if a.name == "strides")
        at.CopyFrom(onnx.helper.make_attribute("strides", strides))
    return copy


def trunk_of(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The part of a model that makes these tensors, for images of any size."""
    copy = free(with_outputs(model, tensors))
    wanted, kept = set(tensors), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(reversed(kept))
    return copy


def head_of(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The part of a model that reads these tensors, which become its inputs."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {v.name: v for v in [*inferred.value_info, *inferred.output]}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(model.ir_version, 4)  # before it, initializers would have to stay inputs
    del copy.graph.value_info[:]
    reached = set(tensors)
    outputs = [o for o in model.graph.output if o.name not in reached]
    wanted = {o.name for o in outputs}
    kept = []
    for node in reversed(model.graph.node):
        if (wanted & set(node.output)) and not (reached & set(node.output)):
            wanted |= set(node.input)
            kept.append(node)
    del copy.graph.node[:], copy.graph.input[:], copy.graph.output[:]
    copy.graph.node.extend(reversed(kept))
    copy.graph.input.extend(shapes[t] for t in tensors)
    copy.graph.output.extend(outputs)
    return copy


def assert_equals_windows(
    original: onnx.ModelProto,
    converted: onnx.ModelProto,
    image: Sequence[int] | Array,
    steps: Mapping[str, int],
    outputs: Sequence[str] | None = None,
) -> int:
    """Every answer equals the original's head on that window of the original's trunk run on the whole image.

    `steps` names the maps the head reads, channels first, and the cells of each between neighbouring
    windows; `image` is one to use, or the size in pixels of a random one. Returns how many positions were
    compared.
    """
    image = image if isinstance(image, np.ndarray) else random_image(original, image)
    names = list(outputs) if outputs is not None else [o.name for o in original.graph.output]
    maps = run(trunk_of(with_free_strides(original), list(steps)), image)
    head = head_of(original, list(steps))
    cells = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][2:] for v in head.graph.input}
    grids = [grid_of(maps[t].shape[2:], cells[t], [s] * len(cells[t])) for t, s in steps.items()]
    opened, got = session(head), run(converted, image)
    wanted = [o.name for o in head.graph.output]
    places = list(np.ndindex(tuple(np.min(grids, axis=0))))
    for place in places:
        feeds = {t: _window(maps[t], place, cells[t], s) for t, s in steps.items()}
        answers = dict(zip(wanted, opened.run(None, feeds), strict=True))
        for name in names:
            assert_close(at(got[name], place), answers[name].reshape(1, -1), f"{name} at window {place}")
    return len(places)


def _window(x: Array, place: Place, cells: Sequence[int], step: int) -> Array:
    start = [i * step for i in place]
    return np.ascontiguousarray(part(x, range(2, x.ndim), start, cells))
