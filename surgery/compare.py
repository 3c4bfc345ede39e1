"""The distance between a converted model's maps and the original's answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from surgery.errors import BadInput
from surgery.model import dtype_of, metadata_of
from surgery.oracle import Arrays, Original, window_at
from surgery.probes import HIDING, SOFT, softmax_inputs, with_outputs
from surgery.rules import Map
from surgery.session import Session, beside
from surgery.shapes import RANDOM_OPS
from surgery.stride import interleaved

REDUCE: dict[str, Callable[..., Any]] = {"mean": np.mean, "max": np.max, "softmax-mean": np.mean}


@dataclass(frozen=True)
class Check:
    """One comparison: `max_error` is max|difference| / max|reference|, the worst of the tensors compared.

    It is None where the two could not be compared at all; `note` then says why.
    """

    name: str
    size: tuple[int, ...]
    positions: int
    compared: tuple[str, ...]
    max_error: float | None
    argmax_agreement: float
    required: bool
    passed: bool
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The keys of the reports."""
        data = {
            k: getattr(self, k) for k in ("name", "positions", "max_error", "argmax_agreement", "required")
        }
        data |= {"size": list(self.size), "compared": list(self.compared), "passed": self.passed}
        return data | ({"note": self.note} if self.note else {})


@dataclass
class Gap:
    """The distance between two sets of tensors, gathered one tensor at a time."""

    compared: list[str] = field(default_factory=list)
    error: float = 0.0
    agreed: list[float] = field(default_factory=list)
    note: str = ""

    def add(self, name: str, got: NDArray[Any], want: NDArray[Any]) -> None:
        """Compare one tensor, features in dim 1."""
        self.compared.append(name)
        if got.shape != want.shape:
            self._fail(f"{name!r} has shape {list(got.shape)}, not {list(want.shape)}")
            return
        a, b = got.astype(np.float64), want.astype(np.float64)
        finite = np.isfinite(b)
        if not np.array_equal(np.where(np.isfinite(a), 0, a), np.where(finite, 0, b), equal_nan=True):
            self._fail(f"{name!r} holds NaN or infinite values")
            return
        a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        scale = float(np.abs(b).max(initial=0.0))
        gap = float(np.abs(a - b).max(initial=0.0))
        self.error = max(self.error, gap / scale if scale else (0.0 if gap == 0 else np.inf))
        if want.size and want.dtype.kind == "f" and want.ndim > 1 and want.shape[1] > 1:
            self.agreed.append(float(np.mean(a.argmax(1) == b.argmax(1))))

    def _fail(self, why: str) -> None:
        self.error, self.note = np.inf, self.note or why

    def check(
        self, name: str, size: Sequence[int], positions: int, tolerance: float, required: bool
    ) -> Check:
        """The finished check."""
        finite = bool(np.isfinite(self.error))
        return Check(
            name,
            tuple(size),
            positions,
            tuple(self.compared),
            self.error if finite else None,
            float(np.mean(self.agreed)) if self.agreed else float(finite),
            required,
            finite and self.error <= tolerance and bool(self.compared),
            self.note,
        )


class Converted:
    """A converted model under proof.

    `reduce` names the pooling over positions behind its map, if any; `fragments` how many fragments per
    axis its batch holds before its end, where it was made of fragments.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        facts = metadata_of(proto)
        self.reduce = facts.get("surgery.reduce", "")
        self.fragments = tuple(json.loads(facts.get("surgery.fragments", "[]")))
        softs = softmax_inputs(proto.graph, HIDING, through=("Transpose",))  # which moves features last
        soft = {o for node in proto.graph.node if node.op_type in SOFT for o in node.output}
        # what one softmax hands to the next is laid out as the two like, and hides nothing more
        self._softs = {o: t for o, t in softs.items() if t not in soft}
        self._session: Session | None = None
        self._probe = proto

    @property
    def batch_is_free(self) -> bool:
        """Whether it declares that it takes any number of images."""
        dims = self.proto.graph.input[0].type.tensor_type.shape.dim
        return len(dims) > 0 and not dims[0].HasField("dim_value")

    def run(self, image: NDArray[Any], input_name: str, extra: Sequence[str] = ()) -> Arrays:
        """Its outputs, the tensors named in `extra` that it has, and the inputs of its softmaxes.

        The last go by the name `softmax input of <output>`. Raises BadInput where it cannot run, or draws
        random numbers.
        """
        if self._session is None:
            check_repeatable(self.proto.graph)
            made = {o for node in self.proto.graph.node for o in node.output}
            names = [*self._softs.values(), *(n for n in extra if n in made)]
            self._probe = with_outputs(self.proto, names)
            self._session = Session(self._probe, for_proof=True)
        if input_name not in self._session.inputs:
            raise BadInput(f"the converted model has no input {input_name!r}, but {self._session.inputs}")
        feeds = {input_name: image}
        for value in self.proto.graph.input:
            if value.name != input_name:
                dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
                feeds[value.name] = beside(dims, dtype_of(value), len(image))
        values = self._run(self._session, feeds)
        softs = {soft_key(o): values[t] for o, t in self._softs.items()}
        if self.fragments:
            softs = {o: interleaved(v, self.fragments) for o, v in softs.items()}
        for output in self._softs:
            grid = values[output].shape[2 - image.ndim :]
            folded = softs[soft_key(output)]
            less = folded.ndim < max(image.ndim, values[output].ndim)
            if len(folded) > 1 or (less and folded.shape[2 - image.ndim :] != grid):
                # its windows lie in the batch
                del softs[soft_key(output)]
                if len(folded) == prod(grid):  # else they were trimmed behind it
                    softs[soft_key(output)] = on_grid(folded, grid)
        return values | softs

    def _run(self, session: Session, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """The outputs, with the inner tensors asked for.

        onnxruntime's optimizer moves the Transposes of its integer ops past each other, and goes wrong where
        an inner tensor is an output as well: then that is taken from the ops as written, and the answers
        from the model as it is. Raises BadInput where that cannot run either.
        """
        try:
            return session.run(feeds)
        except BadInput:
            answers = Session(self.proto, for_proof=True).run(feeds)
            self._session = Session(self._probe, optimize=False)
            return self._session.run(feeds) | answers


def check_repeatable(graph: onnx.GraphProto) -> None:
    """Raise BadInput where a node draws random numbers.

    onnxruntime's optimizer takes a Dropout in training mode away, so running the model would not show it.
    """
    settings = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        training = node.op_type == "Dropout" and len(node.input) > 2 and settings.get(node.input[2], True)
        if training or node.op_type in RANDOM_OPS:
            raise BadInput(f"{node.op_type} {node.name or node.output[0]!r} draws random numbers")


def on_grid(value: NDArray[Any], grid: Sequence[int]) -> NDArray[Any]:
    """Features of windows, `[windows, ...]`, as a map of one image, `[1, ..., rows, cols]`."""
    moved: NDArray[Any] = np.moveaxis(value, 0, -1).reshape(1, *value.shape[1:], *grid)
    return moved


def soft_key(output: str) -> str:
    """The name under which the input of an output's softmax (or of what else hides it) is compared."""
    return f"softmax input of {output}"


def compare(
    original: Original,
    converted: Converted,
    got: Arrays,
    want: Arrays,
    places: Sequence[tuple[int, ...]],
    grid: tuple[int, ...],
    least: tuple[int, ...] | None = None,
) -> Gap:
    """Compare the converted's maps with the original's answers at these places of the grid.

    The converted may have more positions than `grid` (they are left out), and, where `least` is given,
    fewer, down to it (a map that was trimmed).
    """
    gap = Gap()
    pairs = [(o, o) for o in original.outputs]
    if least is None:
        for name, m in original.taken.items():
            _compare_taken(gap, name, m, got, want, places, original.steps[name])
    if not converted.reduce:
        pairs += [
            (soft_key(o), t)
            for o, t in original.hidden.items()
            if soft_key(o) in got and o in original.outputs
        ]
    for key, name in pairs:
        if key not in got:
            gap.add(key, np.zeros(0), np.zeros(1))
            continue
        if converted.reduce:
            scores = want[name]
            if converted.reduce == "softmax-mean" and name not in original.softs:
                scores = softmax(scores)
            pooled = REDUCE[converted.reduce](scores, axis=0, keepdims=True)
            gap.add(key, got[key].reshape(1, -1), pooled.reshape(1, -1))
            continue
        _compare_map(gap, key, got[key], want[name], places, grid, least, hidden=key != name)
    return gap


def softmax(scores: NDArray[Any]) -> NDArray[Any]:
    """Softmax over dim 1."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    soft: NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return soft


def _compare_taken(gap: Gap, name: str, m: Map, got: Arrays, want: Arrays, places: Any, steps: Any) -> None:
    """Compare an output that is a map of the trunk itself, window by window."""
    if name not in got or got[name].ndim != len(m.shape):
        gap.add(name, np.zeros(0), np.zeros(1))
        return
    extent = [axis.extent for axis in m.geometry]
    thin: list[slice] = [slice(None)] * got[name].ndim
    for axis, spacing in zip(m.axes, m.spacing, strict=True):
        thin[axis] = slice(None, None, spacing)
    windows = [window_at(got[name], m.axes, extent, p, steps)[tuple(thin)] for p in places]
    if any(w.shape[1:] != want[name].shape[1:] for w in windows):
        gap.add(name, np.zeros(0), np.zeros(1))
        return
    gap.add(name, np.concatenate(windows), want[name])


def _compare_map(
    gap: Gap,
    key: str,
    got: NDArray[Any],
    want: NDArray[Any],
    places: Any,
    grid: Any,
    least: Any,
    *,
    hidden: bool = False,
) -> None:
    """Compare answers at places of the grid; what goes into a last op may have features in another order."""
    space = len(grid)
    have = got.shape[-space:]
    floor = least or grid
    if got.ndim <= space or any(h < f for h, f in zip(have, floor, strict=True)):
        gap.add(key, np.zeros(have), np.zeros(tuple(grid)))
        return
    inside = [i for i, p in enumerate(places) if all(a < h for a, h in zip(p, have, strict=True))]
    where = (Ellipsis, *np.array([places[i] for i in inside]).T)
    stacked = np.moveaxis(got[0][where], -1, 0)
    a, b = stacked.reshape(len(inside), -1), want[inside].reshape(len(inside), -1)
    gap.add(key, *((np.sort(a), np.sort(b)) if hidden else (a, b)))
