"""A conversion as lines: load -> shapes -> geometry -> head -> lift -> dynamic -> prove -> save."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery import dense, proof, readings
from surgery.analysis import Options, analyse, describe, per_axis, plain_first
from surgery.compare import Converted
from surgery.errors import BadInput, Mismatch, Reason, Refused
from surgery.model import Model, ModelLike, dims_of, metadata_of, read
from surgery.proof import Progress, Proof, silent, tolerance_for
from surgery.result import Result, failure, label
from surgery.saving import check_target, save
from surgery.windows import MAX_MEMORY, convert_exactly, inspect_exactly, validate_exactly

Sizes = Sequence[Sequence[int]]


def convert(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    reduce: str | None = None,
    trim: bool = False,
    stride: int | Sequence[int] | None = None,
    stride_form: str = "dilated",
    allow_global: bool = False,
    pure_conv: bool = False,
    exact: bool = False,
    max_memory: int = MAX_MEMORY,
    window: Sequence[int] | None = None,
    sizes: Sizes | None = None,
    tolerance: float | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Result:
    """Rewrite a classifier of one fixed window to answer for every window of an image, and prove it.

    The input becomes `[N, C, height, width]`, each output `[N, K, rows, cols]`; with `reduce` ("mean",
    "max" or "softmax-mean") an output is `[N, K]`, pooled over positions. `trim` cuts positions whose
    window would leave the image. `stride` is the pixels between windows, per axis or for all, where it is
    not the net's own; `stride_form` "dilated" turns strides into dilations, "fragments" puts phases into
    the batch. `pure_conv` refuses a head whose positions would have to be folded into the batch. With
    `exact` the model is made for one image size, `sizes[0]`, and its map equals the crops' answers for any
    net; its activations may take `max_memory` bytes. `window` gives the window in pixels where the model
    leaves it open, `sizes` the image sizes to prove at, `tolerance` the largest max|difference| /
    max|reference| to accept (1e-4, or 5e-3 where the model computes in float16). Without `output` nothing
    is written; with it the file appears only after the proof.
    `progress` is called with a line at each step.

    Raises BadInput, Refused (with node, op and reason) or Mismatch (the proof failed).
    """
    target = None if output is None else Path(output)
    source = read(model)
    if target is not None:
        check_target(target, source.path, force=force, external=source.external)
    progress("shapes, geometry and head of the original")
    options = Options(reduce, trim, per_axis(stride, source, window), stride_form, pure_conv)
    tolerance = tolerance_for(source.proto, tolerance)
    if exact:
        size = exact_size(sizes)
        result, shown = plain_first(
            lambda o: convert_exactly(source, o, size, window, max_memory, tolerance, progress), options
        )
        return finish_off(result, shown, target, source, progress)
    options, (analysis, proto, rows, notes) = readings.rewrite(
        source, window, options, allow_global=allow_global
    )
    result = describe(analysis, proto, rows, notes)
    label(proto, result, source.sha256, reduce, dense.fragments(analysis.head, options), options.reading)
    original, converted = analysis.original(), Converted(proto)
    if not proof.takes_batches(original, analysis.head, converted, tolerance):
        dense.fix_batch(proto, analysis.facts.batch)
        result = describe(analysis, proto, rows, [*notes, dense.ONE_IMAGE])
    shown = proof.prove(original, analysis.head, converted, sizes, tolerance=tolerance, progress=progress)
    return finish_off(result, shown, target, source, progress)


def finish_off(
    result: Result, shown: Proof, target: Path | None, source: Model, progress: Progress
) -> Result:
    """Write a converted model whose proof passed; raises Mismatch where it did not."""
    if not shown.passed:
        raise Mismatch(failure(shown))
    result = replace(result, proof=shown)
    if target is not None:
        assert result.proto is not None
        progress(f"writing {target}")
        save(result.proto, target, external=source.external)
        result = replace(result, output=str(target))
    return result


def exact_size(sizes: Sizes | None) -> tuple[int, ...]:
    """The one image size an exact model is made for."""
    if not sizes or len(sizes) != 1:
        raise BadInput("--exact makes a model for one image size; give it with one --size HxW.")
    return tuple(sizes[0])


def inspect(
    model: ModelLike,
    *,
    exact: bool = False,
    size: Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    window: Sequence[int] | None = None,
    progress: Progress = silent,
) -> Result:
    """What `convert` would do with a model: verdict, geometry, head. Nothing is written.

    With `exact`, what the exact engine would do at an image `size`, with windows `stride` pixels apart:
    where its windows part, the expected gain and the peak of memory.

    A model that would be refused gives a result with the verdict `refused`; one that cannot be read, or a
    size that holds no window, raises BadInput.
    """
    source = read(model)
    progress("shapes, geometry and head")
    analysis = None
    if not exact and (size is not None or stride is not None):
        raise BadInput("--size and --stride say what the exact engine is to do; give --exact as well.")
    one = exact_size(None if size is None else [size]) if exact else None
    apart = per_axis(stride, source, window)
    try:
        if one is not None:
            return plain_first(lambda o: inspect_exactly(source, o, one, window), Options(stride=apart))
        analysis, _, _ = analyse(source, window)
        allow_global = analysis.head.verdict == "global"
        try:
            _, made = readings.rewrite(source, window, Options(), allow_global=False)
        except Refused:
            if not allow_global:
                raise
            _, made = readings.rewrite(source, window, Options(), allow_global=True)
        analysis, proto, rows, notes = made
        return replace(describe(analysis, proto, rows, notes), proto=None)
    except Refused as refused:
        reason = Reason(refused.node, refused.op, refused.why)
        if analysis is not None:
            known = describe(analysis, None, [], [str(refused)])
            return replace(known, verdict="refused", reasons=(reason,))
        inputs = [{"name": v.name, "shape": list(dims_of(v))} for v in source.proto.graph.input]
        outputs = tuple({"name": o.name, "shape": list(dims_of(o))} for o in source.proto.graph.output)
        image = inputs[0] if inputs else {"name": "", "shape": []}
        words, engine = (str(refused),), "exact" if exact else "dense"
        return Result(source.name, image, outputs, "refused", (reason,), None, (), engine, notes=words)


def validate(
    original: ModelLike,
    converted: ModelLike,
    *,
    sizes: Sizes | None = None,
    image: NDArray[Any] | None = None,
    crops: int | None = None,
    window: Sequence[int] | None = None,
    tolerance: float | None = None,
    progress: Progress = silent,
) -> Proof:
    """Compare a converted model with its original, crop by crop and window by window.

    `sizes` are image sizes in pixels per axis, `image` a batch of one image `[1, C, H, W]` as the model
    takes it, `crops` how many crops to take at random (all of them by default). `tolerance` is as with
    `convert`.
    Raises BadInput where a model cannot be read, Refused where the original is none that can be converted.
    """
    progress("shapes, geometry and head of the original")
    other = read(converted)
    facts = metadata_of(other.proto)
    options = Options(reading=tuple(json.loads(facts.get("surgery.reading", "[]"))))
    analysis, _, _ = analyse(original, window, options)
    tolerance = tolerance_for(analysis.model.proto, tolerance)
    entry = facts.get("surgery.geometry")
    if facts.get("surgery.engine") == "exact" and entry is not None:
        return validate_exactly(analysis, other, entry, sizes, image, crops, tolerance, progress)
    found, model = analysis.head, Converted(other.proto)
    wanted = found.own_stride if entry is None else tuple(json.loads(entry)["stride"])
    if model.fragments:
        analysis = replace(analysis, head=replace(found, geometry=found.geometry.refined(wanted)))
    elif wanted != found.own_stride:
        analysis, _, _ = analyse(original, window, replace(options, stride=wanted))
    return proof.prove(
        analysis.original(),
        analysis.head,
        model,
        sizes,
        tolerance=tolerance,
        crops=crops,
        image=None if image is None else np.asarray(image),
        progress=progress,
    )
