"""Windows at any stride: by dilation, by fragments, by shifted passes, and crop by crop, to one result."""

from __future__ import annotations

from typing import Any

import law
import nets
import onnx
import pytest
from done import convert
from hypothesis import given, settings
from hypothesis import strategies as st
from strides import (
    FORMS,
    GAP,
    HEAD,
    NETS,
    STEM,
    assert_equals_crops,
    assert_one_result,
    at_stride,
    crops_as_maps,
    images_of,
    larger,
    made,
    net,
    trunks,
)

import surgery

GLOBAL_MAX = f"{STEM} map = Conv (b, w2) {GAP}".replace("Average", "Max")
FLAT = [n for n in NETS if n not in ("signal", "volume", "oblong")]
EXACT = [n for n in nets.NAMES if nets.facts_of(n).verdict == "exact" and n not in ("map_output", "old_ir")]


# ------------------------------------------------ four roads


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        *[(name, stride) for name in FLAT for stride in (1, 2)],
        *[("eight", 4), ("two_then_three", 3), ("signal", 1), ("signal", 2), ("volume", 1)],
        *[("oblong", (2, 3)), ("oblong", (4, 2)), ("oblong", (1, 6))],
    ],
)
def test_four_roads_lead_to_one_map(name: str, stride: int | tuple[int, ...]) -> None:
    model = made(name)
    plain, dilated, fragments = convert(model), *(at_stride(model, stride, form) for form in FORMS)
    assert {d.result.verdict for d in (plain, dilated, fragments)} == {"exact"}
    images = images_of(model, larger(plain.geometry, (7, 5, 3)))
    want = crops_as_maps(model, images, dilated.geometry.stride)
    assert_one_result(model, dilated, images, want)
    assert_one_result(model, fragments, images, want)
    factors = {s // f for s, f in zip(plain.geometry.stride, dilated.geometry.stride, strict=True)}
    if len(factors) == 1:
        stitched = surgery.shift_and_stitch(plain.proto, images, factors.pop())
        for output, value in want.items():
            law.assert_close(stitched[output], value, f"stitched {output}")


@pytest.mark.parametrize(("name", "form"), [(n, f) for n in EXACT for f in FORMS])
def test_every_fixture_at_half_its_stride(name: str, form: str) -> None:
    model = nets.load(name)
    own = nets.facts_of(name).stride
    old_pool = form == "dilated" and name == "old_ir"
    if name == "old_ir" and not old_pool:
        with pytest.raises(
            surgery.Refused, match=r"opset 8 has no op that cuts a map .* Raise the model's opset"
        ):
            convert(model, stride=own[0] // 2, stride_form=form)
        return
    done = at_stride(model, [s // 2 for s in own], form)
    assert done.result.verdict == "exact"
    assert_equals_crops(model, done, [own[0] + 1, own[0] // 2, 1])


# ------------------------------------------------ any stride, any size


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6, 8, 12, (2, 4), (3, 8), (5, 1)])
def test_dilation_gives_any_stride(stride: int | tuple[int, int]) -> None:
    model = made("average_pools")
    done = at_stride(model, stride, "dilated")
    for more in ((0, 0), (9, 0), (0, 13), (13, 14)):  # the window alone, a column, a row, no multiple
        assert_equals_crops(model, done, more, count=1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stride", [(1, 4), (4, 2), (2, 1)])
def test_axes_have_strides_of_their_own(form: str, stride: tuple[int, int]) -> None:
    model = made("kernel_above_stride")
    done = at_stride(model, stride, form)
    assert done.geometry.stride == stride
    for more in ((0, 0), (0, 6), (5, 0), (6, 7)):
        assert_equals_crops(model, done, more)


def test_own_stride_is_the_plain_conversion() -> None:
    model = made("average_pools")
    plain = convert(model).proto
    for form in FORMS:
        assert convert(model, stride=4, stride_form=form).proto == plain
    assert convert(model, stride=(4, 4)).proto == plain


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21])
def test_every_opset(opset: int, form: str) -> None:
    model = made("average_pools", opset=opset)
    assert_equals_crops(model, at_stride(model, 1, form), (3, 5))


@pytest.mark.parametrize(
    ("name", "changes", "op", "since"),
    [
        ("kernel_above_stride", {"opset": 9}, "MaxPool", 10),
        ("lp_pool", {"opset": 11}, "LpPool", 18),
        ("eight", {"opset": 9, "body": GLOBAL_MAX, "w9": "5,4"}, "MaxPool", 10),
    ],
)
def test_a_pool_that_its_opset_cannot_dilate_is_left_to_fragments(
    name: str, changes: dict[str, Any], op: str, since: int
) -> None:
    model = made(name, **changes)
    words = rf"{op}.*: {op} has no dilations before opset {since}[.;] [Uu]se --stride-form fragments"
    with pytest.raises(surgery.Refused, match=words):
        convert(model, stride=1)
    assert_equals_crops(model, at_stride(model, 1, "fragments"), (3, 5))


@settings(max_examples=30)
@given(trunks(uneven=False), st.data())
def test_random_trunks_at_random_strides(model: onnx.ModelProto, data: st.DataObject) -> None:
    own = convert(model, sizes=[law.window_of(model)]).geometry.stride
    divisors = st.tuples(*(st.sampled_from([d for d in range(1, s + 1) if s % d == 0]) for s in own))
    divided = data.draw(st.booleans())
    stride = data.draw(divisors if divided else st.tuples(st.integers(1, 9), st.integers(1, 9)))
    more = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 7)))
    for form in FORMS if divided else FORMS[:1]:
        assert_equals_crops(model, at_stride(model, stride, form), more)


# ------------------------------------------------ what is refused


def test_what_has_no_fragments_is_refused_in_words() -> None:
    plain = made("average_pools")
    words = r"the net's own stride \[4, 4\] is no multiple of \[3, 3\]\. Choose a stride that divides it, or"
    with pytest.raises(surgery.Refused, match=words):
        convert(plain, stride=3, stride_form="fragments")
    words = (
        r"the output 'map' is taken before the head: .* would lie in the batch\. Use --stride-form dilated"
    )
    with pytest.raises(surgery.Refused, match=words):
        convert(nets.load("map_output"), stride=2, stride_form="fragments")
    with pytest.raises(
        surgery.Refused, match=r"opset 8 has no op that cuts a map .* Raise the model's opset"
    ):
        convert(nets.load("old_ir"), stride=2, stride_form="fragments")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stride": 0}, r"the stride \[0, 0\] must be at least one pixel"),
        ({"stride": (2, 2, 2)}, r"the stride \[2, 2, 2\] has 3 sides, the image 2"),
        (
            {"stride": 2, "stride_form": "woven"},
            r"stride form 'woven' is not known; there are dilated, fragments",
        ),
    ],
)
def test_bad_strides(options: dict[str, Any], words: str) -> None:
    with pytest.raises(surgery.BadInput, match=words):
        convert(made("average_pools"), **options)


# ------------------------------------------------ nets with padding


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["padded", "residual", "asymmetric_pads", "counted_pads", "same_pads"])
def test_padded_stays_padded_and_says_what_was_measured(name: str, form: str) -> None:
    model = nets.load(name)
    done = convert(model, stride=[s // 2 for s in nets.facts_of(name).stride], stride_form=form)
    assert done.result.verdict == "padded"
    assert done.result.reasons == convert(model).result.reasons
    checks = {(c.name, c.required) for c in done.proof.checks}
    assert checks == {("native", True), ("windows", True), ("crops", False)}
    assert all(c.max_error is not None and c.max_error > 1e-3 for c in done.proof.checks if c.name == "crops")


@pytest.mark.parametrize("name", ["padded", "residual", "asymmetric_pads", "counted_pads"])
def test_both_forms_of_a_padded_net_agree_with_the_plain_map(name: str) -> None:
    model = nets.load(name)
    plain = convert(model)
    images = images_of(model, larger(plain.geometry, (13, 10)))
    grid = plain.geometry.grid(images.shape[2:])
    want = law.run(plain.proto, images)["scores"][..., : grid[0], : grid[1]]
    factor = plain.geometry.stride[0]
    for form in FORMS:
        fine = law.run(at_stride(model, 1, form).proto, images)["scores"]
        law.assert_close(fine[..., ::factor, ::factor][..., : grid[0], : grid[1]], want, form)


@pytest.mark.parametrize(("kind", "opset"), [("MaxPool", 10), ("MaxPool", 18), ("LpPool", 18)])
def test_pads_wider_than_the_kernel_stand_before_the_pool(kind: str, opset: int) -> None:
    body = f"{STEM} c = Conv <strides = [2, 2]> (b, w2) "
    body += f"map = {kind} <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c) {HEAD}"
    model = net(body, opset=opset, w2="4,4,3,3", w9="5,64")
    done = convert(model, stride=1)
    assert (done.result.verdict, done.proof.passed) == ("padded", True)
    assert any(n.op_type == "Pad" for n in done.proto.graph.node)
    assert surgery.validate(model, done.proto).passed
