"""What torch's exporters write where a user wrote something simple, as ONNX text; torch is not needed."""

from __future__ import annotations

import law
import onnx
import pytest
from done import convert
from heads import IMAGE, SIZES, assert_lifted, net

import surgery

# ------------------------------------------------ as_strided: a global pool of a channels-last map

POOL = "g = GlobalAveragePool (map) m = [-1] row = Reshape (g, m)"
REST = "v = Gather (row, p) f = Flatten (v) scores = Gemm <transB = 1> (f, w, b)"
BAKED = "p = Constant <value = int64[1,3,1,1] {0, 1, 2}> ()"
COUNTED = """s = Shape (map) first = 0 n = Gather (s, first) each = 1 channels = 3 r = Range (first, n, each)
 starts = Mul (r, channels) u = Unsqueeze[1, 2, 3] (starts)
 own = Constant <value = int64[1,3,1,1] {0, 1, 2}> () p = Add (u, own)"""
VIEWS = {"baked": (BAKED, IMAGE), "counted": (COUNTED.replace("\n", ""), IMAGE.replace("[1", "[N"))}


def view(places: str, image: str = IMAGE) -> onnx.ModelProto:
    return net(f"{POOL} {places} {REST}", "float[5,3] w, float[5] b", opset=18, image=image)


@pytest.mark.parametrize(("places", "image"), VIEWS.values(), ids=VIEWS)
def test_a_view_of_all_values_is_no_gather(places: str, image: str) -> None:
    done = assert_lifted(view(places, image))
    assert not {"Gather", "Range"} & {n.op_type for n in done.proto.graph.node}


@pytest.mark.parametrize(("places", "image"), VIEWS.values(), ids=VIEWS)
def test_a_view_lets_windows_be_a_batch(places: str, image: str) -> None:
    model, size = view(places, image), SIZES[0]
    done = convert(model, exact=True, sizes=[size])
    law.assert_equals_crops(model, done.proto, size, done.geometry.stride)


def test_a_gather_in_another_order_is_no_view() -> None:
    done = assert_lifted(view(BAKED.replace("{0, 1, 2}", "{2, 1, 0}")))
    assert "Gather" in {n.op_type for n in done.proto.graph.node}


# ------------------------------------------------ layer scale: a constant before the map


def test_a_constant_may_come_first_in_a_product_of_the_mosaic() -> None:
    model = net(
        "c0 = Conv <pads = [1, 1, 1, 1]> (image, trunk_w, trunk_b) k = 0.5 c1 = Mul (k, c0) "
        "map = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (c1, w2) f = Flatten (map) "
        "scores = Gemm <transB = 1> (f, w, b)",
        "float[3,3,3,3] w2, float[5,60] w, float[5] b",
        trunk="",
    )
    done = convert(model, exact=True, sizes=[(15, 13)], stride=1)
    law.assert_equals_crops(model, done.proto, (15, 13), (1, 1))


# ------------------------------------------------ CastLike: constants in the type of the image

ALIKE = "zero = 0.0 six = 6.0 low = CastLike (zero, image) high = CastLike (six, image)"
CLIPPED = "clipped = Clip (map, low, high) f = Flatten (clipped) scores = Gemm <transB = 1> (f, w, b)"


@pytest.mark.parametrize("saturate", ["", "<saturate = 1>"], ids=["plain", "saturate"])
def test_a_constant_of_the_images_type_is_a_constant(saturate: str) -> None:
    lines = f"{ALIKE.replace('CastLike', f'CastLike {saturate}')} {CLIPPED}"
    assert_lifted(net(lines, "float[5,72] w, float[5] b", opset=19))


def test_a_map_may_take_the_type_of_another() -> None:
    lines = "l = CastLike (map, one) f = Flatten (l) h = Gemm <transB = 1> (f, w, b) scores = CastLike (h, v)"
    assert_lifted(net(lines, "float[5,72] w, float[5] b, float[1] one, float[1] v", opset=15))


# ------------------------------------------------ normalize over channels: an Expand to the map's own shape


def test_an_expand_to_the_windows_shape_is_one_to_the_mosaics() -> None:
    model = net(
        "size = ReduceL2 <axes = [1], keepdims = 1> (map) e = 0.5 least = Max (size, e) wide = [1, 3, 4, 6] "
        "sizes = Expand (least, wide) unit = Div (map, sizes) f = Flatten (unit) "
        "scores = Gemm <transB = 1> (f, w, b)",
        "float[5,72] w, float[5] b",
    )
    done = convert(model, exact=True, sizes=[SIZES[0]], stride=1)
    law.assert_equals_crops(model, done.proto, SIZES[0], (1, 1))


# ------------------------------------------------ interpolate to a size: it names the batch as well


def test_sizes_of_a_resize_hold_no_batch_of_one() -> None:
    model = net(
        'fixed = [1, 3, 7, 5] grown = Resize <mode = "nearest"> (map, , , fixed) f = Flatten (grown) '
        "scores = Gemm <transB = 1> (f, w, b)",
        "float[5,105] w, float[5] b",
    )
    done = convert(model, exact=True, sizes=[SIZES[0]], stride=1)
    law.assert_equals_crops(model, done.proto, SIZES[0], (1, 1))


# ------------------------------------------------ x[:, [2, 1, 0]]: a dim moved to the front, and back

ORDER = "p = Constant <value = int64[2,1] {1, 0}> ()"
SWAP = (
    "i = Transpose <perm = [1, 0, 2, 3]> (image) j = GatherND (i, p) k = Transpose <perm = [1, 0, 2, 3]> (j)"
)
AFTER = "c0 = Conv <strides = [2, 1]> (k, trunk_w, trunk_b) map = Relu (c0) f = Flatten (map)"


def test_a_selection_of_channels_is_a_gather() -> None:
    head = f"{AFTER} scores = Gemm <transB = 1> (f, w, b)"
    model = net(f"{ORDER} {SWAP} {head}", "float[5,72] w, float[5] b", trunk="")
    done = assert_lifted(model)
    kinds = [n.op_type for n in done.proto.graph.node]
    assert "Gather" in kinds
    assert "GatherND" not in kinds


def test_a_selection_of_features_is_a_gather() -> None:
    """The dim that moves to the front need not be the one that comes back first."""
    lines = (
        "f = Flatten (map) h = Gemm <transB = 1> (f, w, b) u = Unsqueeze[1] (h) "
        "p = Constant <value = int64[3,1] {4, 0, 4}> () i = Transpose <perm = [2, 0, 1]> (u) "
        "j = GatherND (i, p) k = Transpose <perm = [1, 0, 2]> (j) scores = Flatten (k)"
    )
    assert_lifted(net(lines, "float[5,72] w, float[5] b", out="float[1,3] scores"))


OVERLAPPING = (
    "p = Constant <value = int64[2,2,3,2,2] {0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 1, 0, 1, 1, 1, 2, "
    "1, 3, 1, 4, 1, 5, 2, 0, 2, 1, 2, 2, 2, 3, 2, 4, -2, 5, 3, 0, 3, 1, 3, -4, 3, 3, 3, 4, 3, 5}> () "
)


def test_an_adaptive_pool_spelled_by_places_is_lifted() -> None:
    """Both dims of space move to the front, each output's cells are selected, and their mean is taken."""
    lines = (
        f"{OVERLAPPING} i = Transpose <perm = [2, 3, 0, 1]> (map) j = GatherND (i, p) "
        "k = Transpose <perm = [4, 5, 0, 1, 2, 3]> (j) m = ReduceMean <axes = [3, 5], keepdims = 0> (k) "
        "f = Flatten (m) scores = Gemm <transB = 1> (f, w, b)"
    )
    assert_lifted(net(lines, "float[5,18] w, float[5] b"))


def test_a_selection_from_space_that_something_else_reads_too() -> None:
    lines = (
        f"{OVERLAPPING} i = Transpose <perm = [2, 3, 0, 1]> (map) j = GatherND (i, p) "
        "k = Transpose <perm = [4, 5, 0, 1, 2, 3]> (j) "
        "m = ReduceMean <axes = [2, 3, 4, 5], keepdims = 0> (k) "
        "n = ReduceMean <axes = [0, 1], keepdims = 0> (i) o = Add (m, n) scores = Gemm <transB = 1> (o, w, b)"
    )
    assert_lifted(net(lines, "float[5,3] w, float[5] b"))


def test_adaptive_pools_of_a_pyramid_share_what_they_select_from() -> None:
    lines = (
        f"{OVERLAPPING} r = Constant <value = int64[2,1,2,2] {{0, 1, 2, 3, 1, 5, 3, 0}}> () "
        "i = Transpose <perm = [2, 3, 0, 1]> (map) j = GatherND (i, p) l = GatherND (i, r) "
        "k = Transpose <perm = [4, 5, 0, 1, 2, 3]> (j) m = ReduceMean <axes = [3, 5], keepdims = 0> (k) "
        "n = Transpose <perm = [3, 4, 0, 1, 2]> (l) f = Flatten (m) g = Flatten (n) "
        "h = Concat <axis = 1> (f, g) scores = Gemm <transB = 1> (h, w, b)"
    )
    assert_lifted(net(lines, "float[5,30] w, float[5] b"))


def test_a_selection_that_is_also_an_output_stays_as_it_is() -> None:
    head = f"{AFTER} scores = Gemm <transB = 1> (f, w, b)"
    model = net(f"{ORDER} {SWAP} {head}", "float[5,72] w, float[5] b", trunk="")
    model.graph.output.append(onnx.helper.make_tensor_value_info("j", onnx.TensorProto.FLOAT, [2, 1, 9, 8]))
    with pytest.raises(surgery.Refused, match="GatherND"):
        surgery.convert(model)


# ------------------------------------------------ x[:, :4]: a slice of the batch that takes all of it

WHOLE = "first = [0] far = [9223372036854775807] every = [1] whole = Slice (map, first, far, first, every)"


def test_a_slice_of_the_whole_batch_is_nothing() -> None:
    part = "k = [1] end = [3] t = Slice (whole, k, end, k, every) f = Flatten (t)"
    lines = f"{WHOLE} {part} scores = Gemm <transB = 1> (f, w, b)"
    done = assert_lifted(net(lines, "float[5,48] w, float[5] b"))
    assert not done.result.reasons


@pytest.mark.parametrize("images", ["1", "N"])
def test_a_slice_of_the_first_image_is_refused_where_there_may_be_more(images: str) -> None:
    lines = f"{WHOLE.replace('9223372036854775807', '1')} f = Flatten (whole)"
    model = net(
        f"{lines} scores = Gemm <transB = 1> (f, w, b)",
        "float[5,72] w, float[5] b",
        image=f"float[{images},2,9,8] image",
    )
    if images == "1":
        assert_lifted(model)
        return
    with pytest.raises(surgery.Refused, match="part of the batch"):
        surgery.convert(model)


# ------------------------------------------------ x[:, 1:-1, :, ::2]: every dim named, those taken whole too

INNER = "f = Flatten (inner) scores = Gemm <transB = 1> (f, w, b)"
ALL_DIMS = "s = [0, 0, 1, 0] e = [1000000000, 2147483647, -1, 9223372036854775807]"
EVERY_DIM = {
    "tf2onnx": (13, f"{ALL_DIMS} t = [1, 1, 1, 2] a = [0, 1, 2, 3] inner = Slice (map, s, e, a, t)", 18),
    "out of order": (
        13,
        """s = [0, 1, 0, 0] e = [2147483647, -1, -2, 2147483647] a = [0, -2, 3, 1]
           inner = Slice (map, s, e, a)""",
        24,
    ),
    "no axes": (13, f"{ALL_DIMS} inner = Slice (map, s, e)", 36),
    "attributes": (
        9,
        "inner = Slice <starts = [0, 0, 1], ends = [2147483647, 2147483647, -1]> (map)",
        36,
    ),
}


@pytest.mark.parametrize(("opset", "lines", "values"), EVERY_DIM.values(), ids=EVERY_DIM)
def test_a_slice_that_names_the_whole_batch_too_cuts_the_rest(opset: int, lines: str, values: int) -> None:
    lines = f"{lines} {INNER}".replace("\n", "")
    model = net(lines, f"float[5,{values}] w, float[5] b", opset=opset)
    done = assert_lifted(model)
    assert not done.result.reasons
    exact = convert(model, exact=True, sizes=[SIZES[0]], stride=1)
    law.assert_equals_crops(model, exact.proto, SIZES[0], (1, 1))


def test_channels_may_be_turned_around_behind_a_whole_batch() -> None:
    """`image[..., ::-1]` of TensorFlow: its masks say 1e9 where a dim is taken to its end."""
    lines = (
        "s = [0, 1000000000] e = [1000000000, -1000000000] a = [0, 1] t = [1, -1] "
        f"k = Slice (image, s, e, a, t) {AFTER} scores = Gemm <transB = 1> (f, w, b)"
    )
    assert_lifted(net(lines, "float[5,72] w, float[5] b", trunk=""))


def test_a_row_of_the_map_does_not_take_the_place_of_the_batch() -> None:
    """tf2onnx's TimeDistributed: rows sliced out, and the batch of one squeezed away before each product."""
    lines = (
        "s = [1] e = [2] d = [2] a = Slice (map, s, e, d) t = Transpose <perm = [0, 2, 3, 1]> (a) "
        "q = Squeeze[0] (t) m = MatMul (q, k) r = Relu (m) f = Flatten (r) "
        "scores = Gemm <transB = 1> (f, w, b)"
    )
    assert_lifted(net(lines, "float[3,3] k, float[5,18] w, float[5] b"))
