"""What may be put behind the score map: cut it to full windows, or average it over positions."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.dynamic import BATCH
from surgery.errors import Refused
from surgery.graph import Builder
from surgery.head import Geometry

REDUCTIONS = {
    "mean": ("GlobalAveragePool", "ReduceMean"),
    "max": ("GlobalMaxPool", "ReduceMax"),
    "softmax-mean": ("GlobalAveragePool", "ReduceMean"),
}


def trim(
    graph: gs.Graph, opset: int, geometry: Geometry, image: str, axes: tuple[int, ...], names: list[str]
) -> None:
    """Cut the named maps, in place, to the positions whose window lies in the image.

    Along each axis these are `(pixels - window) // stride + 1`. Raises Refused before opset 9, which has no
    op that cuts at a place it computes.
    """
    if opset < 9:
        why = f"opset {opset} has no op that cuts a map at a computed place"
        raise Refused(
            f"cannot cut the map to the windows that lie in the image: {why}. Raise the model's opset first "
            "(onnx.version_converter.convert_version), or convert without --trim, --reduce and fragments.",
            why=why,
        )
    build = Builder(graph, opset, space=len(axes))
    build.prefix = "trim"
    tensor = next(t for t in graph.inputs if t.name == image)
    sides = build.shape_of(tensor, axes[0], axes[-1] + 1)
    room = build.emit("Sub", [sides, build.ints("window", geometry.window)])
    steps = build.emit("Div", [room, build.ints("stride", geometry.stride)])
    grid = build.emit("Add", [steps, build.ints("one", [1] * len(axes))])
    zeros = build.ints("zeros", [0] * len(axes))
    for name in names:
        rank = len(_output(graph, name).shape)
        if opset < 10:
            cut = _dynamic_slice_9(build, _output(graph, name), grid, rank)
        else:
            last = build.ints("axes", range(rank - len(axes), rank))
            cut = build.emit("Slice", [_output(graph, name), zeros, grid, last])
        _replace_output(graph, build, name, cut, _output(graph, name).shape)


def _dynamic_slice_9(build: Builder, tensor: Any, grid: Any, rank: int) -> Any:
    """Slice by computed ends before opset 10, where Slice took constants: gather a range of places."""
    for k in range(build.space):
        count = build.slice(grid, [k], [k + 1], [0])
        ones = build.emit("ConstantOfShape", [count], {"value": gs.Constant("one", np.ones(1, np.float32))})
        places = build.with_axes("Squeeze", build.emit("NonZero", [ones]), [0])
        tensor = build.emit("Gather", [tensor, places], {"axis": rank - build.space + k})
    return tensor


def reduce(
    graph: gs.Graph, opset: int, kind: str, names: list[str], space: int, soft: Container[str]
) -> list[str]:
    """Average (or take the largest of) the named maps over their positions, in place.

    `softmax-mean` averages probabilities: outputs that are none already (`soft` names those that are) are
    put through a softmax first. Returns a line for each output that says what was pooled.

    Raises Refused where an output holds integers, or nothing that a softmax could be taken of.
    """
    build = Builder(graph, opset, space)
    pool, reduction = REDUCTIONS[kind]
    notes = []
    for name in names:
        build.prefix = f"reduce/{name}"
        old = tensor = _output(graph, name)
        rank = len(tensor.shape)
        made_soft = kind == "softmax-mean" and name not in soft
        check_scores(kind, name, tensor, tensor.shape[1 : rank - space] if made_soft else [])
        if made_soft:
            tensor = soft_over_features(build, tensor, rank)
        what = "probabilities" if name in soft or kind == "softmax-mean" else "scores as the net gives them"
        notes.append(f"output {name!r}: the {kind.removeprefix('softmax-')} over positions of its {what}")
        axes = list(range(rank - space, rank))
        if rank == space + 2:
            out = build.with_axes("Squeeze", build.emit(pool, [tensor]), axes)
        else:
            out = build.reduce(reduction, tensor, axes, keepdims=0)
        _replace_output(graph, build, name, out, old.shape[:-space])
    return notes


def check_scores(kind: str, name: str, tensor: Any, classes: Sequence[int]) -> None:
    """Raise Refused where an output holds no scores, or no one dim of `classes` to take a softmax over."""
    dtype = np.dtype(tensor.dtype)
    if dtype.kind != "f":
        why = f"it holds {dtype} numbers, which are places and no scores"
    elif len(classes) > 1:
        why = f"it has features {list(classes)}, and which of these dims are the classes is not known"
    elif list(classes) == [1]:
        why = "it has a single score, whose softmax is always 1"
    else:
        return
    raise Refused(
        f"--reduce {kind}: the output {name!r} cannot be pooled: {why}. Take it off the model "
        "(onnx.utils.extract_model), choose another --reduce, or convert without.",
        node=name,
        why=why,
    )


def soft_over_features(build: Builder, tensor: Any, rank: int) -> Any:
    """Softmax over the features; before opset 13 it works on the last dim only."""
    if build.opset >= 13:
        return build.emit("Softmax", [tensor], {"axis": 1})
    perm = [0, *range(2, rank), 1]
    back = [perm.index(d) for d in range(rank)]
    return build.transpose(build.emit("Softmax", [build.transpose(tensor, perm)], {"axis": rank - 1}), back)


def _output(graph: gs.Graph, name: str) -> Any:
    return next(t for t in graph.outputs if t.name == name)


def _replace_output(graph: gs.Graph, build: Builder, name: str, tensor: Any, shape: Any) -> None:
    old = _output(graph, name)
    old.name, dtype = build.fresh(f"{name}/map"), old.dtype
    tensor.name, tensor.dtype, tensor.shape = name, dtype, [BATCH, *shape[1:]]
    graph.outputs[:] = [tensor if o is old else o for o in graph.outputs]
    old.shape = None
