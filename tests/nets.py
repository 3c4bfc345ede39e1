"""Test nets as ONNX text: a tensor declared without a value or a producer is a weight, filled from a seed."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = tuple(sorted(path.stem for path in FIXTURES.glob("*.txt")))


@dataclass(frozen=True)
class Facts:
    """What a fixture's first two lines say: what it proves, and what surgery must find.

    `maps` names the tensors its head reads, with the cells of each between neighbouring windows; it is
    empty where the original's own trunk cannot run at another size.
    """

    proves: str
    verdict: str
    stride: tuple[int, ...]
    maps: dict[str, int]


def facts_of(name: str) -> Facts:
    """Read the head of a fixture: `# sentence` and `# verdict, stride 4x4, map other/2`."""
    first, second = (FIXTURES / f"{name}.txt").read_text().splitlines()[:2]
    verdict, stride, *maps = (part.strip() for part in second.removeprefix("#").split(","))
    steps = [m.partition("/") for m in " ".join(maps).split()]
    sides = tuple(int(s) for s in stride.removeprefix("stride ").split("x"))
    return Facts(first.removeprefix("# "), verdict, sides, {m: int(s or 1) for m, _, s in steps})


def load(name: str, *, seed: int = 0) -> onnx.ModelProto:
    """A fixture with its weights filled in."""
    return parse((FIXTURES / f"{name}.txt").read_text(), seed=seed)


def parse(text: str, *, seed: int = 0, positive: bool = False) -> onnx.ModelProto:
    """A model from ONNX text, with a seeded weight for every declared tensor that nothing makes.

    With `positive` every weight is between 0.5 and 1.5, so that nothing hides or cancels what a cell sees.
    """
    model = onnx.parser.parse_model(text)
    return fill(model, seed=seed, positive=positive)


def fill(model: onnx.ModelProto, *, seed: int = 0, positive: bool = False) -> onnx.ModelProto:
    """Turn the value infos of a model that no node makes into seeded initializers, in place."""
    graph = model.graph
    made = {o for node in graph.node for o in node.output}
    weights = [v for v in graph.value_info if v.name not in made]
    kept = [v for v in graph.value_info if v.name in made]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    uses = {i: (node.op_type, k) for node in graph.node for k, i in enumerate(node.input)}
    for value in weights:
        kind = value.type.tensor_type
        shape = tuple(d.dim_value for d in kind.shape.dim)
        rng = np.random.default_rng([seed, zlib.crc32(value.name.encode())])
        array = rng.uniform(0.5, 1.5, shape) if positive else draw(rng, shape, *uses.get(value.name, ("", 0)))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        graph.initializer.append(numpy_helper.from_array(array.astype(dtype), value.name))
    if model.ir_version < 4:  # where every initializer is an input too
        known = {v.name: v for v in weights}
        for tensor in graph.initializer:
            made_here = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(known.get(tensor.name, made_here))
    onnx.checker.check_model(model)
    return model


def draw(rng: np.random.Generator, shape: tuple[int, ...], op: str, place: int) -> NDArray[np.float64]:
    """A weight for an input of an op, scaled to keep the size of what flows (He et al. 2015)."""
    if op == "BatchNormalization" and place in (1, 4):
        return rng.uniform(0.5, 1.5, shape)
    if op == "PRelu":
        return rng.uniform(0.1, 0.5, shape)
    if len(shape) < 2:
        return rng.standard_normal(shape) * 0.3
    if op == "Conv":
        return rng.normal(scale=(2 / np.prod(shape[1:])) ** 0.5, size=shape)
    return rng.normal(scale=max(shape) ** -0.5, size=shape)  # small scores: no softmax saturates


def listing() -> str:
    """The table of fixtures for fixtures/README.md."""
    rows = [f"| `{name}.txt` | {facts_of(name).proves} |" for name in NAMES]
    return "\n".join(["| net | proves |", "|---|---|", *rows])


def with_listing(page: str) -> str:
    """A page with the table between its markers written anew."""
    marked = re.compile(r"(<!-- nets -->\n).*?(<!-- /nets -->)", re.DOTALL)
    return marked.sub(lambda m: m[1] + listing() + "\n" + m[2], page)
