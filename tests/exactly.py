"""What tests of the exact engine share: the model at every cut of its mosaic, and the law over all crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import law
import onnx
import pytest
import strides
from law import Array

from surgery import groups as groups_of
from surgery import loop as loops
from surgery import parting, windows
from surgery.analysis import analyse
from surgery.cost import Costs
from surgery.geometry import ops_of
from surgery.layout import Layout, lay_out
from surgery.model import to_graph

WAYS: dict[str, dict[str, Any]] = {
    "slices": {},
    "groups": {"groups": 2},
    "gathers": {"gathers": True},
    "room": {"room": True, "groups": 3, "gathers": True},
    "tight": {"room": False},
    "loop": {"groups": 2, "loop": True},
    "loop of gathers": {"groups": 4, "loop": True, "gathers": True},
}


@dataclass(frozen=True)
class Cut:
    """An exact model whose first ops, and no more, run over the mosaic."""

    layout: Layout
    proto: onnx.ModelProto

    def __str__(self) -> str:
        return self.layout.parting


@contextmanager
def forced(
    *, groups: int = 0, loop: bool = False, gathers: bool = False, room: bool | None = None
) -> Iterator[None]:
    """Make the engine choose what only sizes far beyond a test's would make it choose.

    `groups` lets so many windows part at a time, in a `loop` or in copies of the body; `gathers` takes them
    by Gathers in place of Slices, `room` leaves room for all ops to come (True) or for none (False).
    """
    with pytest.MonkeyPatch.context() as patch:
        if groups:
            patch.setattr(groups_of, "CACHE", 1)
            patch.setattr(groups_of, "TURN", 1)
            patch.setattr(groups_of, "FEW", groups)
        if loop:
            patch.setattr(groups_of, "PLAIN", 0)
        if gathers:
            patch.setattr(parting, "SLICES", 0)
            patch.setattr(loops, "SLICES", 0)
        if room is not None:
            patch.setattr(Costs, "stage_compute", lambda self, op, behind: 0.0 if room else 1.0)
            patch.setattr(Costs, "stage_gathers", lambda self, ops: 1.0 if room else 0.0)
        yield


def cuts(
    model: onnx.ModelProto,
    size: Sequence[int],
    stride: Sequence[int] | None = None,
    only: Sequence[int] | None = None,
) -> Iterator[Cut]:
    """The exact models of an image size, unproven, one for every cut (`only` those; -1 is the last)."""
    analysis, _, ops = analyse(model)
    source, facts, trunk, head = analysis.model, analysis.facts, analysis.trunk, analysis.head
    every = range(lay_out(ops, trunk, facts, head, size, stride).candidates + 1)
    for cut in every if only is None else dict.fromkeys(every[k] for k in only):
        graph = to_graph(source.proto)
        own = ops_of(graph, source.opset, facts)
        layout = lay_out(own, trunk, facts, head, size, stride, cut)
        proto, _ = windows.rewrite(graph, analysis, own, layout)
        yield Cut(layout, proto)


def assert_maps(converted: onnx.ModelProto, images: Array, want: dict[str, Array], where: str) -> None:
    """The maps of an exact model equal those of the crops, in value and in the class that wins."""
    got = law.run(converted, images)
    assert got.keys() == want.keys(), where
    for name, value in want.items():
        seen = got[name]
        assert seen.shape[0] == len(images), f"{where}: {name} has shape {seen.shape}"
        law.assert_close(seen.reshape(value.shape), value, f"{name}, {where}")
        if value.dtype.kind == "f" and value.shape[1] > 1:
            assert (seen.reshape(value.shape).argmax(1) == value.argmax(1)).all(), f"{name}, {where}"


def assert_every_cut(
    model: onnx.ModelProto,
    size: Sequence[int],
    stride: Sequence[int] | None = None,
    *,
    count: int = 2,
    only: Sequence[int] | None = None,
) -> int:
    """The law on `count` unlike images, for every cut of the mosaic; returns how many there were."""
    images = strides.images_of(model, size, count)
    want: dict[str, Array] = {}
    made = 0
    for cut in cuts(model, size, stride, only):
        want = want or strides.crops_as_maps(model, images, cut.layout.geometry.stride)
        assert_maps(cut.proto, images, want, str(cut))
        made += 1
    return made
