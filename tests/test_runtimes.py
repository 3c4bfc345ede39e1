"""Other runtimes give a converted model the answers that onnxruntime gives it, at three sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import law
import nets
import onnx
import pytest
from done import Done, convert
from exactly import forced
from runtimes import RUNTIMES, Run

TOLERANCE = 2e-5  # float32 sums in another order


@dataclass(frozen=True)
class Case:
    """A fixture, and what its conversion is asked for."""

    net: str
    options: dict[str, Any] = field(default_factory=dict)
    forcing: dict[str, Any] = field(default_factory=dict)


CASES = {name: Case(name) for name in nets.NAMES} | {
    "rnet24": Case("rnet24"),
    "rnet25": Case("rnet25"),
    "exact plain": Case("plain", {"exact": True, "sizes": [(26, 41)]}),
    "exact padded": Case("padded", {"exact": True, "sizes": [(27, 41)]}),
    "exact truncated": Case("truncated", {"exact": True, "sizes": [(27, 41)], "stride": 2}),
    "exact gate": Case("gate", {"exact": True, "sizes": [(27, 41)]}),
    "exact groups": Case("gate", {"exact": True, "sizes": [(27, 41)]}, {"groups": 3}),
    "exact loop": Case("gate", {"exact": True, "sizes": [(27, 41)]}, {"groups": 3, "loop": True}),
    "dilated plain": Case("plain", {"stride": 2}),
    "dilated padded": Case("padded", {"stride": (1, 2)}),
    "dilated average": Case("counted_pads", {"stride": 2}),
    "fragments plain": Case("plain", {"stride": 2, "stride_form": "fragments"}),
    "fragments padded": Case("padded", {"stride": (1, 2), "stride_form": "fragments"}),
    "trimmed": Case("leftover", {"trim": True}),
    "pooled": Case("leftover", {"reduce": "softmax-mean"}),
    "largest": Case("two_outputs", {"reduce": "max"}),
}

FAULTS = {
    (
        "onnx.reference",
        "batch_norms",
    ): "before opset 14 its BatchNormalization normalises by the batch",
    ("onnx.reference", "lrn"): "its LRN leaves out every channel whose number exceeds the batch",
    ("openvino", "exact loop"): "it wants what the body of a Scan reads around it among the Scan's inputs",
    ("tract", "exact loop"): "it wants the number of windows of a turn to be known",
    ("tract with open sizes", "exact loop"): "it wants the number of windows of a turn to be known",
    ("tract with open sizes", "uneven"): "it wants branches that meet at every size; these meet at some",
    ("tract with open sizes", "fragments plain"): "it divides no batch of fragments by an open size",
    ("tract with open sizes", "fragments padded"): "it divides no batch of fragments by an open size",
}


@cache
def model_of(name: str) -> onnx.ModelProto:
    """A fixture, whether kept as text or trained."""
    return nets.load(name) if name in nets.NAMES else onnx.load(str(nets.FIXTURES / f"{name}.onnx"))


@cache
def converted(name: str) -> Done:
    case = CASES[name]
    globally = case.net in nets.NAMES and nets.facts_of(case.net).verdict == "global"
    allowed = {"allow_global": True} if globally else {}
    with forced(**case.forcing):
        return convert(model_of(case.net), **allowed, **case.options)


def sizes_of(name: str) -> list[tuple[int, ...]]:
    """The window, some strides more, and a size that no stride divides; an exact model has one size."""
    if "exact" in CASES[name].options:
        return [tuple(s) for s in CASES[name].options["sizes"]]
    g = converted(name).geometry
    whole = tuple(w + (1 + k % 2) * s for k, (w, s) in enumerate(zip(g.window, g.stride, strict=True)))
    odd = tuple(w + 2 * s - t for w, s, t in zip(g.window, g.stride, g.step, strict=True))
    return [g.window, whole, odd]


def assert_agrees(run: Run, model: onnx.ModelProto, size: tuple[int, ...]) -> None:
    """A runtime's outputs for a random image are those of onnxruntime."""
    image = law.random_image(model, size)
    want = law.run(model, image)
    for (name, value), got in zip(want.items(), run(image), strict=True):
        law.assert_close(got, value, f"{name} at {size}", TOLERANCE)


def runs() -> list[Any]:
    """Every runtime with every case; those that need an extra are deep."""
    return [
        pytest.param(runtime, name, marks=[] if runtime == "onnx.reference" else pytest.mark.deep)
        for runtime in RUNTIMES
        for name in CASES
        if (runtime, name) not in FAULTS
    ]


@pytest.mark.parametrize(("runtime", "name"), runs())
def test_runtime_agrees_with_onnxruntime(runtime: str, name: str) -> None:
    run = RUNTIMES[runtime](converted(name).proto)
    for size in sizes_of(name):
        assert_agrees(run, converted(name).proto, size)


@pytest.mark.parametrize("runtime", [pytest.param(r, marks=pytest.mark.deep) for r in RUNTIMES])
def test_runtime_takes_a_batch(runtime: str) -> None:
    proto = converted("two_outputs").proto
    run = RUNTIMES[runtime](proto)
    image = law.random_image(proto, (26, 33)).repeat(3, axis=0)
    image[1:] *= [[[[0.5]]], [[[2.0]]]]
    for (name, value), got in zip(law.run(proto, image).items(), run(image), strict=True):
        law.assert_close(got, value, name, TOLERANCE)


@pytest.mark.deep
@pytest.mark.parametrize(("runtime", "name"), FAULTS)
def test_fault_is_the_runtimes_own(runtime: str, name: str) -> None:
    """What is left out above: the day the runtime is mended this fails, and its line in FAULTS can go."""
    build = RUNTIMES[runtime]
    if runtime == "onnx.reference":  # it is wrong about the original too
        original = model_of(name)
        with pytest.raises(AssertionError, match="off by"):
            assert_agrees(build(original), original, law.window_of(original))
    else:
        proto = converted(name).proto
        with pytest.raises(Exception, match=r"Impossible to unify|Can't divide|Scan"):
            build(proto)(law.random_image(proto, sizes_of(name)[0]))
