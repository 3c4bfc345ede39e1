"""The light_* models inside the onnx package, with weights that differ where theirs are all equal."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
NAMES = tuple(sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx")))
PASSED_ON = ("Unsqueeze", "Reshape", "Identity")


def load(name: str, *, seed: int = 0) -> onnx.ModelProto:
    """A light model whose constant weights are drawn from a seed, so that a wrong conversion shows.

    As shipped, all its weights are 0.02 (made by ConstantOfShape, or initializers): any permutation of
    them would pass a numeric test.
    """
    model = onnx.load(str(FOLDER / f"light_{name}.onnx"))
    graph = model.graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    uses = uses_of(graph)
    made = {n.output[0]: values[n.input[0]] for n in graph.node if n.op_type == "ConstantOfShape"}
    shapes = {name: tuple(int(d) for d in shape) for name, shape in made.items()}
    shapes |= {n: v.shape for n, v in values.items() if v.dtype == np.float32 and np.ptp(v) == 0}
    kept = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    del graph.node[:]
    graph.node.extend(kept)
    others = [t for t in graph.initializer if t.name not in shapes]
    del graph.initializer[:]
    graph.initializer.extend(others)
    listed = {v.name for v in graph.input}
    for place, (weight, shape) in enumerate(shapes.items()):
        array = draw(np.random.default_rng([seed, place]), shape, *uses.get(weight, ("", 0)))
        graph.initializer.append(numpy_helper.from_array(array, weight))
        if weight not in listed:  # at this IR version every initializer is an input too
            graph.input.append(onnx.helper.make_tensor_value_info(weight, onnx.TensorProto.FLOAT, shape))
    return model


def uses_of(graph: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """The op and the place where each tensor is used, seen through ops that only reshape it."""
    uses: dict[str, tuple[str, int]] = {}
    for node in reversed(graph.node):
        for place, name in enumerate(node.input):
            passed_on = node.op_type in PASSED_ON and place == 0
            uses[name] = uses.get(node.output[0], ("", 0)) if passed_on else (node.op_type, place)
    return uses


def draw(rng: np.random.Generator, shape: tuple[int, ...], op: str, place: int) -> NDArray[np.float32]:
    """A weight that keeps the size of what flows through a deep net."""
    if op == "Mul":
        return rng.uniform(0.5, 1.0, shape).astype(np.float32)
    if len(shape) < 2 and op != "BatchNormalization":
        return rng.normal(scale=0.1, size=shape).astype(np.float32)
    return nets.draw(rng, shape, op, place).astype(np.float32)
