"""What tests of strides share: nets without padding, random ones too, and crops laid out as score maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import law
import nets
import numpy as np
import onnx
from done import Done, convert
from hypothesis import strategies as st
from law import Array

import surgery

FORMS = ("dilated", "fragments")
POOLS = ("AveragePool", "MaxPool", "LpPool")
KINDS = ("Conv", "MaxPool", "AveragePool")
Pair = tuple[int, int]


def net(body: str, *, image: str = "1,2,21,21", opset: int = 13, **weights: str) -> onnx.ModelProto:
    """A net of one output `scores` of 5 classes; `weights` are the shapes of the names that the body uses."""
    shapes = {"w1": "4,2,3,3", "b1": "4", "b9": "5"} | weights
    used = ", ".join(f"float[{s}] {w}" for w, s in shapes.items() if f" {w}," in body or f" {w})" in body)
    return nets.parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"net (float[{image}] image) => (float[1,5] scores) <{used}> {{ {body} }}"
    )


STEM = "a = Conv <strides = [2, 2]> (image, w1, b1) b = Relu (a) "
HEAD = " f = Flatten (map) scores = Gemm <transB = 1> (f, w9, b9)"
GAP = " g = GlobalAveragePool (map) f = Flatten (g) scores = Gemm <transB = 1> (f, w9, b9)"
HALF = "<kernel_shape = [2, 2], strides = [2, 2]>"
THREE = "<kernel_shape = [3, 3], strides = [2, 2]>"

NETS: dict[str, dict[str, Any]] = {
    "average_pools": {
        "body": f"{STEM} c = AveragePool {HALF} (b) d = Conv (c, w2) "
        f"map = AveragePool <kernel_shape = [2, 2]> (d) {HEAD}",
        "w2": "4,4,2,2",
        "w9": "5,36",
    },
    "kernel_above_stride": {
        "body": f"{STEM} c = MaxPool {THREE} (b) map = Conv (c, w2) {GAP}",
        "w2": "4,4,2,2",
        "w9": "5,4",
    },
    "concat": {
        "body": f"{STEM} p = Conv <strides = [2, 2]> (b, wp) q = MaxPool {THREE} (b) "
        f"r = AveragePool {THREE} (b) map = Concat <axis = 1> (p, q, r) {HEAD}",
        "wp": "3,4,3,3",
        "w9": "5,176",
    },
    "shortcut": {
        "body": f"{STEM} p = Conv <strides = [2, 2]> (b, wp) q = AveragePool <kernel_shape = [3, 3]> (b) "
        f"r = Conv <strides = [2, 2]> (q, wr) s = Add (p, r) map = Relu (s) {GAP}",
        "wp": "4,4,3,3",
        "wr": "4,4,1,1",
        "w9": "5,4",
    },
    "four_at_once": {
        "body": f"{STEM} p = Conv <strides = [2, 2]> (b, wp) q = Conv <strides = [4, 4]> (image, wq) "
        f"map = Concat <axis = 1> (q, p) {HEAD}",
        "wp": "3,4,3,3",
        "wq": "3,2,7,7",
        "w9": "5,96",
    },
    "eight": {
        "body": f"{STEM} c = Conv <strides = [2, 2]> (b, w2) map = MaxPool {HALF} (c) {HEAD}",
        "w2": "4,4,2,2",
        "w9": "5,16",
    },
    "two_then_three": {
        "body": f"{STEM} map = Conv <strides = [3, 3]> (b, w2) {HEAD}",
        "w2": "4,4,3,3",
        "w9": "5,36",
    },
    "whole_ceil": {
        "body": f"{STEM} c = AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (b) "
        f"map = MaxPool <kernel_shape = [3, 3], ceil_mode = 1> (c) {HEAD}",
        "w9": "5,36",
    },
    "oblong": {
        "image": "1,2,22,24",
        "body": "a = Conv <strides = [2, 1]> (image, w1, b1) "
        "b = MaxPool <kernel_shape = [3, 2], strides = [2, 3]> (a) "
        f"map = AveragePool <kernel_shape = [2, 3], strides = [1, 2]> (b) {HEAD}",
        "w9": "5,36",
    },
    "lp_pool": {
        "opset": 18,
        "body": f"{STEM} c = LpPool {THREE} (b) map = LpPool <kernel_shape = [2, 2]> (c) {HEAD}",
        "w9": "5,36",
    },
    "signal": {
        "image": "1,2,24",
        "body": "a = Conv <strides = [2]> (image, w1, b1) "
        "c = MaxPool <kernel_shape = [3], strides = [2]> (a) "
        f"map = AveragePool <kernel_shape = [2]> (c) {HEAD}",
        "w1": "4,2,4",
        "w9": "5,16",
    },
    "volume": {
        "image": "1,1,8,10,8",
        "body": "a = Conv <strides = [2, 2, 2]> (image, w1, b1) "
        f"map = AveragePool <kernel_shape = [2, 2, 2]> (a) {HEAD}",
        "w1": "4,1,2,2,2",
        "w9": "5,144",
    },
}


def made(name: str, **changes: Any) -> onnx.ModelProto:
    """A net of the table, with some of what is said of it changed."""
    return net(**(NETS[name] | changes))


# ------------------------------------------------ the law over a batch


def at_stride(model: onnx.ModelProto, stride: int | Sequence[int], form: str, **more: Any) -> Done:
    """A conversion that proves itself at the window's size only, since the tests do the rest.

    No form dilates an AveragePool, and fragments dilate no pool at all.
    """
    done = convert(model, stride=stride, stride_form=form, sizes=[law.window_of(model)], **more)
    pools = dilated_pools(done.proto)
    assert "AveragePool" not in pools
    assert form == "dilated" or pools == dilated_pools(model)
    return done


def dilated_pools(model: onnx.ModelProto) -> list[str]:
    """The pools of a model that have dilations, sorted by kind."""
    pools = [node for node in model.graph.node if node.op_type in POOLS]
    return sorted(
        n.op_type for n in pools for a in n.attribute if a.name == "dilations" and set(a.ints) != {1}
    )


def images_of(model: onnx.ModelProto, size: Sequence[int], count: int = 2) -> Array:
    """A batch of unlike images."""
    return np.concatenate([law.random_image(model, size, seed=s) for s in range(count)])


def crops_as_maps(model: onnx.ModelProto, images: Array, stride: Sequence[int]) -> dict[str, Array]:
    """The original's answers for every crop of every image, as `[N, *features, *grid]`."""
    window = law.window_of(model)
    grid = law.grid_of([images.shape[a] for a in law.space_of(model)], window, stride)
    maps: dict[str, Array] = {}
    for n in range(len(images)):
        for place, answers in law.crops_of(model, images[n : n + 1], stride):
            for name, value in answers.items():
                one = value[0].reshape([d for d in value.shape[1:] if d != 1] or [1])
                whole = maps.setdefault(name, np.zeros((len(images), *one.shape, *grid), value.dtype))
                whole[(n, Ellipsis, *place)] = one
    return maps


def assert_one_result(model: onnx.ModelProto, done: Done, images: Array, want: dict[str, Array]) -> None:
    """The converted maps, without what they hold beyond the last full window, equal those of the crops."""
    grid = done.geometry.grid([images.shape[a] for a in law.space_of(model)])
    got = law.run(done.proto, images)
    assert got.keys() == want.keys()
    for name, value in want.items():
        full = got[name][(Ellipsis, *(slice(g) for g in grid))]
        law.assert_close(full.reshape(value.shape), value, name)


def assert_equals_crops(model: onnx.ModelProto, done: Done, more: Sequence[int], count: int = 2) -> None:
    """The law, on images at least so many pixels above the window."""
    images = images_of(model, larger(done.geometry, more), count)
    assert_one_result(model, done, images, crops_as_maps(model, images, done.geometry.stride))


def larger(g: surgery.Geometry, more: Sequence[int]) -> list[int]:
    """A size at least so many pixels above the window that the net takes."""
    return [w + -(-m // step) * step for w, m, step in zip(g.window, more, g.step, strict=False)]


# ------------------------------------------------ nets nobody thought of


@st.composite
def trunks(draw: st.DrawFn, *, uneven: bool) -> onnx.ModelProto:
    """A net without padding, whose layers may have two branches.

    With `uneven` the branches have kernels of unequal extents that give equally many cells of the window,
    and the strides are powers of one number: dilated, such branches always meet.
    """
    cells = (
        draw(st.integers(1, 3)),
        draw(st.integers(2, 3)),
    )  # a trunk whose map is one cell has ended before
    steps = draw(st.sampled_from([(1, 2), (1, 3)])) if uneven else (1, 2, 3)
    layers = draw(st.lists(layer(steps, uneven), min_size=1, max_size=3))
    body: list[str] = []
    weights: list[str] = []
    last, channels = "image", 1
    for i, (strides, branches) in enumerate(layers):
        made = []
        for j, (kind, kernel, dilations) in enumerate(branches):
            said = f"kernel_shape = {list(kernel)}, strides = {list(strides)}"
            said += "" if kind == "AveragePool" else f", dilations = {list(dilations)}"
            weight = f"w{i}{j}"
            if kind == "Conv":
                weights.append(f"float[2,{channels},{kernel[0]},{kernel[1]}] {weight}")
            body.append(f"x{i}{j} = {kind} <{said}> ({f'{last}, {weight}' if kind == 'Conv' else last})")
            made.append(2 if kind == "Conv" else channels)
        body.append(f"y{i} = Concat <axis = 1> ({', '.join(f'x{i}{j}' for j in range(len(branches)))})")
        body.append(f"x{i} = LeakyRelu (y{i})")
        last, channels = f"x{i}", sum(made)
    window = window_of(cells, layers)
    weights.append(f"float[3,{channels * cells[0] * cells[1]}] w9")
    return nets.parse(
        f'<ir_version: 8, opset_import: ["": 13]> net (float[1,1,{window[0]},{window[1]}] image) => '
        f"(float[1,3] scores) <{', '.join(weights)}> {{ {' '.join(body)} f = Flatten ({last}) "
        "scores = Gemm <transB = 1> (f, w9) }"
    )


@st.composite
def layer(draw: st.DrawFn, steps: Sequence[int], uneven: bool) -> tuple[Pair, list[tuple[str, Pair, Pair]]]:
    """The strides of a layer, and the kind, kernel and dilations of each of its one or two branches."""
    strides = draw(st.tuples(st.sampled_from(steps), st.sampled_from(steps)))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=2))
    plain = "AveragePool" in kinds or draw(st.booleans())
    dilations = (1, 1) if plain else draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    branches = [(kind, kernel, dilations) for kind in kinds]
    if uneven and len(kinds) == 2:
        less = [st.integers(0, min(s, e) - 1) for s, e in zip(strides, extent_of(branches[0]), strict=True)]
        smaller = [e - draw(n) for e, n in zip(extent_of(branches[0]), less, strict=True)]
        branches[1] = (kinds[1], (smaller[0], smaller[1]), (1, 1))
    return strides, branches


def extent_of(branch: tuple[str, Pair, Pair]) -> Pair:
    """Cells from the first tap to the last, per axis."""
    _, kernel, dilations = branch
    return (kernel[0] - 1) * dilations[0] + 1, (kernel[1] - 1) * dilations[1] + 1


def window_of(cells: Pair, layers: Sequence[tuple[Pair, list[tuple[str, Pair, Pair]]]]) -> list[int]:
    """The pixels that give so many cells behind these layers, with nothing left over."""
    window = list(cells)
    for strides, branches in reversed(layers):
        extents = extent_of(branches[0])
        window = [(n - 1) * s + e for n, s, e in zip(window, strides, extents, strict=True)]
    return window
