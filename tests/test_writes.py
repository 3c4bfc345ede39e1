"""`x[:, 1] = y` as exporters write it, in the image, in a map and in a head; torch is not needed."""

from __future__ import annotations

import law
import onnx
import pytest
from done import convert
from heads import IMAGE, SIZES, assert_lifted, net

import surgery

DYNAMIC = IMAGE.replace("[1", "[N")
READ = "zero = [0] one = [1] y0 = Slice ({x}, zero, one, one) y = Tanh (y0)"
PLACES = "p = Constant <value = int64[1,1,2] {0, 1}> ()"
WRITES = {
    "by its elements": "n = Shape (y) o = 1 p = Expand (o, n) k = ScatterElements <axis = 1> ({x}, p, y)",
    "from the end": "n = Shape (y) o = -1 p = Expand (o, n) k = ScatterElements <axis = -3> ({x}, p, y)",
    "by places": f"{PLACES} k = ScatterND ({{x}}, p, y)",
    "by places of every image": (
        "s = Shape ({x}) z = 0 e = 1 t = Gather (s, z) r = Range (z, t, e) i = Unsqueeze[1, 2] (r) "
        "u = Shape (i) v = Constant <value = int64[1,1,1] {1}> () q = Expand (v, u) "
        "p = Concat <axis = 2> (i, q) k = ScatterND ({x}, p, y)"
    ),
    "channels first": (
        "p = Constant <value = int64[1,1] {1}> () a = Transpose <perm = [1, 0, 2, 3]> ({x}) "
        "e = Transpose <perm = [1, 0, 2, 3]> (y) j = ScatterND (a, p, e) "
        "k = Transpose <perm = [1, 0, 2, 3]> (j)"
    ),
}
IN_IMAGE = "c = Conv <strides = [2, 1]> (k, trunk_w, trunk_b) f = Flatten (c)"
IN_MAP = "c = Conv (k, w3) f = Flatten (c)"
IN_HEAD = "f = Flatten (k)"
SCORES = "scores = Gemm <transB = 1> (f, w, b)"
WHERE = {  # what is written into, what follows, features, whether a trunk comes before
    "image": ("image", IN_IMAGE, 72),
    "map": ("map", IN_MAP, 24),
    "head": ("map", IN_HEAD, 72),
}


def model_of(write: str, where: str, *, image: str = IMAGE, read: str = READ) -> onnx.ModelProto:
    x, then, features = WHERE[where]
    opset = 16 if "reduction" in write else 13
    weights = f"float[5,{features}] w, float[5] b" + (", float[3,3,3,3] w3" if where == "map" else "")
    lines = f"{read} {write}".replace("{x}", x)
    trunk = {"trunk": ""} if where == "image" else {}
    return net(f"{lines} {then} {SCORES}", weights, image=image, opset=opset, **trunk)


@pytest.mark.parametrize("image", [IMAGE, DYNAMIC], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_into_channels_is_a_concat(write: str, where: str, image: str) -> None:
    model = model_of(write, where, image=image)
    done = assert_lifted(model)
    assert done.result.verdict == "exact"
    assert not {"ScatterND", "ScatterElements"} & {n.op_type for n in done.proto.graph.node}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_into_channels_lets_windows_be_a_batch(write: str) -> None:
    model = model_of(write, "map")
    done = convert(model, exact=True, sizes=[SIZES[0]], stride=1)
    law.assert_equals_crops(model, done.proto, SIZES[0], (1, 1))


@pytest.mark.parametrize("rows", ["{0, 2}", "{3, 1}", "{1, 1}"])
def test_writes_of_several_slabs_in_any_order(rows: str) -> None:
    """The last of two writes to one row stays; rows of the window's own map are the head's."""
    read = "one = [0] three = [2] two = [2] y0 = Slice (map, one, three, two) y = Neg (y0)"
    write = f"n = Shape (y) o = Constant <value = int64[1,1,2,1] {rows}> () p = Expand (o, n) "
    assert_lifted(model_of(f"{write} k = ScatterElements <axis = 2> (map, p, y)", "head", read=read))


@pytest.mark.parametrize("where", WHERE)
def test_a_write_of_everything_is_what_is_written(where: str) -> None:
    lines = "p = Constant <value = int64[1,1] {0}> () k = ScatterND ({x}, p, y)"
    done = assert_lifted(model_of(lines, where, read="y = Sin ({x})"))
    assert done.result.verdict == "exact"


REFUSED = {
    "rows of the image": (
        "image",
        "n = Shape (y) o = 2 p = Expand (o, n) k = ScatterElements <axis = 2> (image, p, y)",
        "zero = [0] one = [1] two = [2] y = Slice (image, zero, one, two)",
        "trunk had already ended at Concat 'k': it joins positions",
    ),
    "some cells": (
        "map",
        "p = Constant <value = int64[2,4] {0, 0, 1, 1, 0, 2, 3, 5}> () k = ScatterND (map, p, y)",
        "y = Constant <value = float[2] {1, 2}> ()",
        "ScatterND 'k' .* it reads or writes places counted through the whole tensor",
    ),
    "a part of a channel": (
        "map",
        "n = Shape (y) o = 1 p = Expand (o, n) k = ScatterElements <axis = 1> (map, p, y)",
        "zero = [0, 0] one = [1, 2] dims = [1, 3] y = Slice (map, zero, one, dims)",
        "ScatterElements 'k' .* it reads or writes places counted through the whole tensor",
    ),
    "a sum": (
        "map",
        f'{PLACES} k = ScatterND <reduction = "add"> (map, p, y)',
        READ,
        "ScatterND 'k' .* it reads or writes places counted through the whole tensor",
    ),
    "places of the image's own": (
        "map",
        "h = ArgMax <axis = 1> (map) k = ScatterElements <axis = 1> (map, h, y)",
        READ,
        "ScatterElements 'k' .* it reads or writes places counted through the whole tensor",
    ),
}


@pytest.mark.parametrize(("where", "write", "read", "says"), REFUSED.values(), ids=REFUSED)
def test_other_writes_are_refused(where: str, write: str, read: str, says: str) -> None:
    model = model_of(write, where, read=read)
    with pytest.raises(surgery.Refused, match=says):
        surgery.convert(model)
