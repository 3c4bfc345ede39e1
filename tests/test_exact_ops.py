"""The exact engine, op by op: pools that count, types, ranks, opsets, outputs, batches written out."""

from __future__ import annotations

import law
import numpy as np
import pytest
import strides
from done import convert
from exact_nets import DEEPER, HEAD, NETS, PADS, STEM, THREE, attending, net, padded
from exactly import WAYS, assert_every_cut, forced


@pytest.mark.parametrize("opset", [8, 9, 10, 11, 12, 13, 15, 17, 18, 19, 21])
def test_every_opset(opset: int) -> None:
    last = f"AveragePool <{THREE}, {PADS}>"
    body = (
        STEM
        + f"c = MaxPool <{THREE}, {PADS}> (b) d = {last} (c) r = Reshape (d, to) "
        + ("map = LRN <size = 3> (r) " + HEAD)
    )
    model = net(body, opset=opset, w1="4,2,3,3", w9="144,5", to="int64[4] = 1, 4, 6, 6")
    assert_every_cut(model, (28, 27), (3, 2))


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]])
def test_average_pools_divide_as_the_original_does(pads: list[int], ceil: int, counted: int) -> None:
    said = f"{THREE}, pads = {pads}, ceil_mode = {ceil}, count_include_pad = {counted}"
    cells = [law.outputs(n, 3, 2, 1, (pads[k], pads[k + 2]), bool(ceil)) for k, n in enumerate((20, 21))]
    model = net(
        f"{STEM} map = AveragePool <{said}> (b) {HEAD}",
        image="float[1,2,20,21]",
        w1="4,2,3,3",
        w9=f"{4 * cells[0] * cells[1]},5",
    )
    for stride in ((1, 1), (2, 2), (3, 5)):
        assert_every_cut(model, (29, 31), stride, count=1)


@pytest.mark.parametrize("name", NETS)
def test_ops_and_ranks(name: str) -> None:
    model = NETS[name]
    window = law.window_of(model)
    for stride in ((2,) * len(window), (5, 3, 3)[: len(window)]):
        size = [w + n * s + 1 for w, n, s in zip(window, (2, 1, 1), stride, strict=False)]
        assert_every_cut(model, size, stride, count=2)


# ------------------------------------------------ outputs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("early", [True, False])
def test_several_outputs_and_maps_among_them(early: bool, way: str) -> None:
    branch = "g = GlobalAveragePool (b) e = Flatten (g) first = Gemm <transB = 1> (e, w8) f = Conv (g, w7) "
    model = padded(
        body=f"{STEM} {branch if early else ''} {DEEPER} {HEAD} {branch if not early else ''} "
        "best = ArgMax <axis = 1, keepdims = 0> (scores)",
        outputs="float[1,5] scores, float[1,6] first, int64[1] best, float[1,3,10,11] map, "
        "float[1,4,21,22] a, float[1,2,1,1] f",
        w8="6,4",
        w7="2,4,1,1",
    )
    with forced(**WAYS[way]):
        assert assert_every_cut(model, (33, 30), (5, 4)) == (3 if early else 6)


# ------------------------------------------------ batches


def test_heads_in_the_batch() -> None:
    assert_every_cut(attending(1), (25, 30), (4, 3))


@pytest.mark.parametrize("way", WAYS)
def test_a_model_of_a_fixed_batch_takes_any(way: str) -> None:
    for model in (
        attending(3),
        padded(
            image="float[4,2,21,22]",
            outputs="float[4,5] scores",
            body=STEM + DEEPER + "folded = Reshape (map, to) scores = Gemm <transB = 1> (folded, w9)",
            w9="5,330",
            to="int64[2] = 4, 330",
        ),
    ):
        size = [w + 9 for w in law.window_of(model)]
        with forced(**WAYS[way]):
            done = convert(model, exact=True, sizes=[size], stride=4)
        batch = strides.images_of(model, size, law.image_dims(model)[0])
        many = law.run(done.proto, batch)["scores"]
        for n in range(len(batch)):
            law.assert_close(many[n : n + 1], law.run(done.proto, batch[n : n + 1])["scores"], f"image {n}")
        window = law.window_of(model)
        for place in np.ndindex(many.shape[2:]):
            start = [4 * i for i in place]
            crops = np.ascontiguousarray(law.part(batch, (2, 3), start, window))
            law.assert_close(many[(..., *place)], law.run(model, crops)["scores"], str(place))
