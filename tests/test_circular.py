"""Circular padding, as a Pad and spelled with Slices and a Concat."""

from __future__ import annotations

import law
import numpy as np
import onnx
import pytest
from done import convert
from exactly import assert_every_cut
from trunks import FLAT, GAP, ints, net, pad

import surgery

DOWN = "c = Conv <strides = [2, 2]> (image, w1) "  # [1, 4, 8, 11]
WEIGHTS = "float[4,2,3,3] w1"


def around(out: str, x: str, axis: int, before: int, after: int, cells: int | None = None) -> str:
    """Lines that lay the last cells before all and the first behind; with `cells` counted from the start."""
    first = -before if cells is None else cells - before
    lines = ints(f"{out}_x", axis) + ints(f"{out}_z", 0)
    names = [x]
    if before:
        lines += ints(f"{out}_a", first) + ints(f"{out}_b", 2**62 if cells is None else cells)
        lines += f"{out}_l = Slice ({x}, {out}_a, {out}_b, {out}_x) "
        names.insert(0, f"{out}_l")
    if after:
        lines += ints(f"{out}_n", after) + f"{out}_r = Slice ({x}, {out}_z, {out}_n, {out}_x) "
        names.append(f"{out}_r")
    return f"{lines}{out} = Concat <axis = {axis}> ({', '.join(names)}) "


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("sides", [(1, 1, 1, 1), (2, 0, 1, 3), (0, 1, 0, 2)])
def test_spelled_out_it_is_a_margin(sides: tuple[int, int, int, int], opset: int) -> None:
    top, bottom, left, right = sides
    lines = around("p", "c", 2, top, bottom) + around("q", "p", -1, left, right) + "map = Relu (q)"
    model = net(DOWN + lines, WEIGHTS, 4, opset=opset)
    done = convert(model)
    assert done.result.verdict == "padded"
    assert done.geometry.margin == ((top, bottom), (left, right))
    assert {r.op for r in done.result.reasons} == {"Concat"}
    assert law.assert_equals_windows(model, done.proto, (22, 27), {"map": 1}) >= 9


@pytest.mark.parametrize("head", [GAP, FLAT])
def test_spelled_out_it_is_what_pad_does(head: str) -> None:
    features = 4 if head == GAP else 4 * 10 * 13
    said = around("p", "c", 2, 1, 1) + around("map", "p", 3, 1, 1)
    spelled = net(DOWN + said, WEIGHTS, features, opset=19, head=head)
    told = net(
        DOWN + pad("map", "c", [0, 0, 1, 1, 0, 0, 1, 1], "wrap"), WEIGHTS, features, opset=19, head=head
    )
    one, other = convert(spelled), convert(told)
    assert one.geometry == other.geometry
    for size in ((17, 23), (22, 29)):
        image = law.random_image(spelled, size)
        law.assert_close(law.run(one.proto, image)["scores"], law.run(other.proto, image)["scores"], "twins")


def test_cells_counted_from_the_start_are_those_of_the_images_end() -> None:
    lines = around("p", "c", 2, 1, 2, cells=8) + around("map", "p", 3, 2, 1, cells=11)
    fixed = net(DOWN + lines, WEIGHTS, 4)
    free = net(DOWN + around("p", "c", 2, 1, 2) + around("map", "p", 3, 2, 1), WEIGHTS, 4)
    image = law.random_image(fixed, (21, 30))
    one, other = (law.run(convert(m).proto, image)["scores"] for m in (fixed, free))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("spelled", [True, False])
def test_closer_windows_would_see_other_cells(spelled: bool) -> None:
    lines = around("map", "c", 3, 1, 1) if spelled else pad("map", "c", [0, 0, 0, 1, 0, 0, 0, 1], "wrap")
    model = net(DOWN + lines, WEIGHTS, 4, opset=19)
    with pytest.raises(surgery.Refused, match=r"come from the window's other end.*circular padding"):
        surgery.convert(model, stride=1)
    assert convert(model, stride=4).result.verdict == "padded"
    done = convert(model, exact=True, sizes=[(19, 26)], stride=1)
    law.assert_equals_crops(model, done.proto, (19, 26), (1, 1))


def test_a_signal_of_one_wrapped_cell() -> None:
    lines = f"c = Conv <strides = [2]> (image, w) {around('p', 'c', 2, 1, 1)} map = Conv (p, v)"
    model = net(lines, "float[4,2,3] w, float[4,4,3] v", 4, image="float[1,2,23] image")
    done = convert(model)
    assert (done.result.verdict, done.geometry.margin) == ("padded", ((1, 1),))
    law.assert_equals_windows(model, done.proto, (34,), {"map": 1})
    assert_every_cut(model, (30,), (3,))


def not_circular(lines: str) -> onnx.ModelProto:
    return net(f"{DOWN}{lines}", f"{WEIGHTS}, float[4,4,3,3] w3", 4)


ENDS = around("p", "c", 2, 1, 1)


@pytest.mark.parametrize("parts", ["(p_r, c, p_l)", "(p_l, c, c, p_r)"])
def test_what_is_not_quite_circular_joins_positions(parts: str) -> None:
    model = not_circular(ENDS.replace("(p_l, c, p_r)", parts) + "map = Conv (p, w3)")
    with pytest.raises(surgery.Refused, match="joins positions"):
        surgery.convert(model)
    assert_every_cut(model, (21, 26), (3, 2), count=1)


def test_an_end_that_serves_something_else_is_the_windows() -> None:
    model = not_circular(ENDS + "s = Mul (p, p_l) map = Conv (s, w3)")
    done = convert(model)
    assert done.result.verdict == "exact"  # its cells are features, and no longer a map
    law.assert_equals_crops(model, done.proto, (21, 27), (2, 2))
    assert_every_cut(model, (21, 26), (3, 2), count=1)
