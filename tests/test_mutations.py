"""The proof tested by mutation: every wrong conversion is caught, no right one is refused."""

from __future__ import annotations

from functools import cache

import mutations_of_kernels  # noqa: F401  (these three enter their kinds)
import mutations_of_nodes  # noqa: F401
import mutations_of_windows  # noqa: F401
import nets
import numpy as np
import onnx
import pytest
from done import Done, convert
from mutations import KINDS, behind, nodes_of, with_op, with_value, without

import surgery

# nets that together give every kind a place, most kinds many
SOME = (
    "arg_max", "asymmetric_pads", "batch_norms", "clip", "counted_pads", "dense_branches", "feature_norm",
    "gap", "gemm_options", "lrn", "nhwc", "padded", "plain", "prelu", "same_pads", "shuffle",
    "softmax_13_groups", "truncated", "twins", "two_maps", "volume",
)  # fmt: skip


@cache
def right(name: str) -> Done:
    return convert(nets.load(name), allow_global=True)


def wrong(kind: str, name: str) -> list[onnx.ModelProto]:
    """The wrong conversions of a kind; a change that leaves every byte as it was is none."""
    done = right(name)
    before = done.proto.SerializeToString(deterministic=True)
    made = KINDS[kind](done.model, done.proto)
    return [m for m in made if m.SerializeToString(deterministic=True) != before]


def escapes(name: str, model: onnx.ModelProto) -> bool:
    """Whether the proof finds a wrong conversion right."""
    try:
        return surgery.validate(right(name).model, model).passed
    except surgery.SurgeryError:
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_conversion_is_caught(kind: str) -> None:
    places = {name: wrong(kind, name)[:1] for name in SOME}
    assert any(places.values()), "no net has a place for it"
    escaped = [name for name, models in places.items() for m in models if escapes(name, m)]
    assert not escaped


@pytest.mark.deep
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_conversion_is_caught_at_every_place_of_every_net(kind: str) -> None:
    for name in nets.NAMES:
        for place, model in enumerate(wrong(kind, name)):
            assert not escapes(name, model), f"{name}, place {place}"


def test_kinds_have_places_in_many_nets() -> None:
    nets_of = {kind: sum(1 for name in SOME if wrong(kind, name)) for kind in KINDS}
    assert sum(1 for count in nets_of.values() if count >= 5) >= 25, nets_of


@pytest.mark.parametrize("name", nets.NAMES)
def test_right_conversion_passes(name: str) -> None:
    assert surgery.validate(right(name).model, right(name).proto).passed


# ------------------------------------------------ what is put behind the map


@pytest.mark.parametrize("how", ["mean", "max"])
def test_wrong_reduction_is_caught(how: str) -> None:
    done = convert(nets.load("plain"), reduce=how)
    pool = {"mean": "GlobalAveragePool", "max": "GlobalMaxPool"}
    ((place, _),) = nodes_of(done.proto, *pool.values())
    other = pool["max" if how == "mean" else "mean"]
    assert surgery.validate(done.model, done.proto).passed
    assert not surgery.validate(done.model, with_op(done.proto, place, other)).passed


def test_reduction_over_positions_beyond_the_image_is_caught() -> None:
    done = convert(nets.load("leftover"), reduce="mean")
    cut = [place for place, node in nodes_of(done.proto, "Slice") if node.name.startswith("trim")]
    untrimmed = without(done.proto, cut[-1])
    assert surgery.validate(done.model, done.proto).passed
    assert not surgery.validate(done.model, untrimmed).passed


def test_trimming_too_much_is_caught() -> None:
    done = convert(nets.load("leftover"), trim=True)
    ((place, node),) = nodes_of(done.proto, "Add")
    assert surgery.validate(done.model, done.proto).passed
    assert not surgery.validate(done.model, with_value(done.proto, place, 1, np.array([1, 0]))).passed
    assert node.input[1].startswith("trim")


# ------------------------------------------------ what the proof compares, and how finely


@pytest.mark.parametrize("last", ["Softmax <axis = 1>", "LogSoftmax <axis = 1>", "Sigmoid", "Hardmax"])
def test_saturated_outputs_hide_nothing(last: str) -> None:
    """A score of 60 makes a softmax 1 whatever happens to it, so what goes in is compared."""
    text = (nets.FIXTURES / "log_softmax.txt").read_text()
    text = text.replace(
        "  scores = LogSoftmax <axis = 1> (logits)",
        f"  large = Mul (logits, hundred)\n  scores = {last} (large)",
    )
    model = nets.parse(text.replace("float[6] b3>", "float[6] b3, float hundred = {100.0}>"))
    done = convert(model)
    bent = behind(done.proto, "large", "y = Mul (was, factor)", factor=np.array(1.01, np.float32))
    assert not surgery.validate(model, bent).passed


def test_models_of_other_axes_are_told() -> None:
    with pytest.raises(surgery.BadInput, match=r"the stride \[4\] has 1 sides, the image 2"):
        surgery.validate(right("plain").model, right("signal").proto)


def test_another_input_name_is_told() -> None:
    done = right("plain")
    renamed = onnx.ModelProto()
    renamed.CopyFrom(done.proto)
    renamed.graph.input[0].name = "pixels"
    renamed.graph.node[0].input[0] = "pixels"
    proof = surgery.validate(done.model, renamed)
    assert not proof.passed
    assert "has no input 'image'" in proof.checks[0].note


def test_missing_output_is_caught() -> None:
    done = right("two_outputs")
    fewer = onnx.ModelProto()
    fewer.CopyFrom(done.proto)
    del fewer.graph.output[0]
    assert not surgery.validate(done.model, fewer).passed


def test_tolerance_is_what_the_error_is_held_against() -> None:
    done = right("plain")
    off, *_ = wrong("kernel off by a thousandth", "plain")
    assert not surgery.validate(done.model, off).passed
    assert surgery.validate(done.model, off, tolerance=0.01).passed
    assert not surgery.validate(done.model, done.proto, tolerance=1e-9).passed
