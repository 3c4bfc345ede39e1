"""The ways to read a model: what is refused in one of them may have a right conversion in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx

from surgery import dense
from surgery.analysis import ONE_IMAGE, WHOLE_WINDOWS, Analysis, Options, analyse, plain_first
from surgery.errors import Refused
from surgery.graph import Op
from surgery.lift import Row
from surgery.model import Model, dims_of
from surgery.result import refuse_global
from surgery.summary import only_summed_up

Rewritten = tuple[Analysis, onnx.ModelProto, list[Row], list[str]]


def rewrite(
    source: Model, window: Sequence[int] | None, options: Options, *, allow_global: bool
) -> tuple[Options, Rewritten]:
    """The converted model, unproven, by the first reading that can be, and the options with that reading.

    Raises Refused for what the plain reading is refused for; a net that mixes the whole image is one of
    these unless `allow_global`.
    """

    def attempt(reading: Options) -> tuple[Options, Rewritten]:
        analysis, graph, ops = analyse(source, window, reading)
        if analysis.trunk.mixing and only_summed_up(analysis.trunk, ops, analysis.facts.outputs):
            try:
                whole = replace(reading, reading=(*reading.reading, WHOLE_WINDOWS))
                return made(whole, *analyse(source, window, whole))
            except Refused:  # what mixes has no meaning in a head
                return made(reading, analysis, graph, ops)
        return made(reading, analysis, graph, ops)

    def made(
        reading: Options, analysis: Analysis, graph: Any, ops: Sequence[Op]
    ) -> tuple[Options, Rewritten]:
        analysis, proto, rows, notes = dense.rewrite(analysis, graph, list(ops), reading)
        if analysis.head.verdict == "global" and not allow_global:  # behind what --allow-global cannot help
            raise refuse_global(analysis.head)
        return reading, (analysis, proto, rows, [*_told(source, analysis, reading), *notes])

    return plain_first(attempt, options)


def _told(source: Model, analysis: Analysis, used: Options) -> list[str]:
    """A line for what a reading means for who uses the model."""
    told = []
    if ONE_IMAGE in used.reading:
        now = {o.name: len(dims_of(o)) for o in analysis.model.proto.graph.output}
        told = [
            f"output {o.name!r} {list(dims_of(o))} had no batch: it has one in front"
            for o in source.proto.graph.output
            if now[o.name] > len(dims_of(o))
        ]
    if WHOLE_WINDOWS in used.reading:
        first = analysis.trunk.head[0]
        told.append(
            f"from {first.kind} {first.name!r} on each window is taken apart: all of its cells are features"
        )
    return told
