"""Small nets for tests of heads: a pad-free trunk, and a head of a few lines that any opset can spell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import law
import nets
import numpy as np
import onnx
import pytest
from done import Done, convert

IMAGE = "float[1,2,9,8] image"
TRUNK = "c0 = Conv <strides = [2, 1]> (image, trunk_w, trunk_b) map = Relu (c0)"  # map: [1, 3, 4, 6]
TRUNK_WEIGHTS = "float[3,2,3,3] trunk_w, float[3] trunk_b"
SIZES = ((14, 10), (10, 11))  # with one side that the stride does not divide
OPSETS = (9, 11, 13, 18, 26)  # each brought another spelling of ops of a head

NUMBERS = re.compile(r"(\w+) = (?:\[([-\d, ]*)\]|(-?\d+\.\d*)|(-?\d+))(?= |$)")
AS_INPUT = {"Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13}  # axes became an input at these opsets
AXES = re.compile(r"(\w+) = (\w+)\[([-\d, ]*)\]( <[^>]*>)? \((\w+)\)")


def at_opsets(table: Mapping[str, Any], least: int = OPSETS[0]) -> list[Any]:
    """Each name of a table with three opsets: the oldest it has, 13 and the newest.

    Where an entry is a tuple it begins with the opset that its ops are known from.
    """
    params = []
    for name, entry in table.items():
        since = max(entry[0] if isinstance(entry, tuple) and isinstance(entry[0], int) else least, least)
        for opset in sorted({since, max(since, 13), OPSETS[-1]}):
            params.append(pytest.param(name, opset, id=f"{name}-{opset}"))
    return params


def spelled(lines: str, opset: int) -> str:
    """Lines in the words of an opset.

    `y = Squeeze[2, 3] (x)` has its axes as an attribute, or as an input; `s = [0, -1]` is a Constant of
    int64, `k = 3` one of no dims, `k = 0.5` a float32 of no dims.
    """

    def number(match: re.Match[str]) -> str:
        out, listed, real, whole = match.groups()
        if listed is not None:
            return f"{out} = Constant <value = int64[{listed.count(',') + 1}] {{{listed}}}> ()"
        kind = f"float {{{real}}}" if real else f"int64 {{{whole}}}"
        return f"{out} = Constant <value = {kind}> ()"

    def line(match: re.Match[str]) -> str:
        out, op, axes, attrs, x = match.groups()
        attrs = attrs or ""
        if opset < AS_INPUT.get(op, 18):
            listed = f"axes = [{axes}]"
            return f"{out} = {op} <{listed}{attrs.replace(' <', ', ') or '>'} ({x})"
        return f"{out}_axes = [{axes}] {out} = {op}{attrs} ({x}, {out}_axes)"

    return NUMBERS.sub(number, AXES.sub(line, lines))


def net(
    lines: str,
    weights: str = "",
    *,
    opset: int = 13,
    out: str = "float[1,5] scores",
    image: str = IMAGE,
    trunk: str = TRUNK,
    trunk_weights: str = TRUNK_WEIGHTS,
    functions: str = "",
    domains: str = "",
) -> onnx.ModelProto:
    """A model of the trunk and these lines of ONNX text; weights declared without a value are seeded."""
    declared = ", ".join(w for w in (trunk_weights, weights) if w)
    ir = 8 if opset < 21 else 10
    return nets.parse(
        f'<ir_version: {ir}, opset_import: ["": {opset}{domains}]> net ({image}) => ({out}) '
        f"<{declared}> {{ {trunk} {spelled(lines, opset)} }} {functions}"
    )


def assert_lifted(model: onnx.ModelProto, sizes: Sequence[Sequence[int]] = SIZES, **options: object) -> Done:
    """Convert; every answer equals the crop's at two sizes, and a batch of two equals each alone."""
    done = convert(model, **options)
    for size in sizes:
        count = law.assert_equals_crops(model, done.proto, size, done.geometry.stride)
        assert count == prod(done.geometry.grid(size))
    images = [law.random_image(model, sizes[0], seed=s) for s in (1, 2)]
    both = law.run(done.proto, np.concatenate(images))
    for i, image in enumerate(images):
        for name, value in law.run(done.proto, image).items():
            law.assert_close(both[name][i : i + 1], value, f"{name} of image {i} of a batch")
    return done
