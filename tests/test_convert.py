"""convert: every fixture obeys the law, and what a user put into a model is still there afterwards."""

from __future__ import annotations

from collections.abc import Callable

import law
import nets
import numpy as np
import onnx
import pytest
from done import convert

import surgery

RAISES_GLOBAL = [name for name in nets.NAMES if nets.facts_of(name).verdict == "global"]
CONVERTIBLE = [name for name in nets.NAMES if name not in RAISES_GLOBAL]
EXACT = [name for name in CONVERTIBLE if nets.facts_of(name).verdict == "exact"]
WITH_MAPS = [name for name in CONVERTIBLE if nets.facts_of(name).maps]


def sizes_of(g: surgery.Geometry) -> list[tuple[int, ...]]:
    """The window, and two larger sizes, each with one side that the stride does not divide."""
    larger = []
    for odd, strides in enumerate([(2, 1, 1), (1, 2, 0)]):
        rest = [s - t if k == odd else 0 for k, (s, t) in enumerate(zip(g.stride, g.step, strict=True))]
        more = [m * s + r for m, s, r in zip(strides, g.stride, rest, strict=False)]
        larger.append(tuple(w + m for w, m in zip(g.window, more, strict=True)))
    return [g.window, *larger]


def lifted_outputs(model: onnx.ModelProto) -> list[str]:
    """The outputs that are not maps of the trunk."""
    return [o.name for o in model.graph.output if o.name != "map"]


# ------------------------------------------------ the law


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_facts_are_found(name: str) -> None:
    facts = nets.facts_of(name)
    done = convert(nets.load(name))
    assert (done.result.verdict, done.geometry.stride) == (facts.verdict, facts.stride)
    assert done.proof.passed
    assert (done.geometry.touched == 0) == (facts.verdict == "exact") == (not done.result.reasons)


@pytest.mark.parametrize("name", EXACT)
def test_exact_map_equals_every_crop(name: str) -> None:
    done = convert(nets.load(name))
    outputs = lifted_outputs(done.model)
    for size in sizes_of(done.geometry):
        count = law.assert_equals_crops(done.model, done.proto, size, done.geometry.stride, outputs)
        assert count == np.prod(done.geometry.grid(size))


@pytest.mark.parametrize("name", WITH_MAPS)
def test_map_equals_original_head_on_windows_of_original_trunk(name: str) -> None:
    done = convert(nets.load(name))
    outputs, maps = lifted_outputs(done.model), nets.facts_of(name).maps
    for size in sizes_of(done.geometry):
        count = law.assert_equals_windows(done.model, done.proto, size, maps, outputs)
        assert count >= np.prod(done.geometry.grid(size))


@pytest.mark.parametrize("name", [n for n in WITH_MAPS if nets.facts_of(n).verdict == "padded"])
def test_padded_verdict_is_no_false_alarm(name: str) -> None:
    done = convert(nets.load(name))
    size = sizes_of(done.geometry)[1]
    with pytest.raises(AssertionError, match="off by"):
        law.assert_equals_crops(done.model, done.proto, size, done.geometry.stride)


def test_auto_pad_means_the_pads_of_the_window() -> None:
    text = (nets.FIXTURES / "same_pads.txt").read_text()
    spelled = text.replace('auto_pad = "SAME_UPPER"', "pads = [0, 2, 1, 2]")
    spelled = spelled.replace('auto_pad = "SAME_LOWER"', "pads = [1, 1, 0, 0]")
    automatic, written = nets.parse(text), nets.parse(spelled)
    native = law.random_image(automatic, law.window_of(automatic))
    law.assert_close(law.run(automatic, native)["scores"], law.run(written, native)["scores"], "twins")
    done = convert(automatic)
    for size in sizes_of(done.geometry):
        law.assert_equals_windows(written, done.proto, size, {"map": 1})


@pytest.mark.parametrize("name", RAISES_GLOBAL)
def test_global_is_refused_and_converted_when_allowed(name: str) -> None:
    model = nets.load(name)
    with pytest.raises(surgery.Refused, match=r"GlobalAveragePool 'g': .* returns to the map at Mul 'map'"):
        surgery.convert(model)
    done = convert(model, allow_global=True)
    assert done.result.verdict == "global"
    size = sizes_of(done.geometry)[1]
    law.assert_equals_windows(model, done.proto, size, {"map": 1})
    with pytest.raises(AssertionError, match="off by"):
        law.assert_equals_crops(model, done.proto, size, done.geometry.stride)


def test_output_before_the_head_is_the_trunk_at_the_larger_size() -> None:
    done = convert(nets.load("map_output"))
    image = law.random_image(done.model, (26, 33))
    want = law.run(law.trunk_of(done.model, ["map"]), image)["map"]
    law.assert_close(law.run(done.proto, image)["map"], want, "map", 1e-6)


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_batch_of_images_is_taken(name: str) -> None:
    done = convert(nets.load(name))
    size = sizes_of(done.geometry)[1]
    images = np.concatenate([law.random_image(done.model, size, seed=s) for s in range(3)])
    together = law.run(done.proto, images)
    for i in range(3):
        for output, value in law.run(done.proto, images[i : i + 1]).items():
            law.assert_close(together[output][i : i + 1], value, f"{output} of image {i}")


# ------------------------------------------------ reduce and trim

POOLS: dict[str, Callable[..., law.Array]] = {"mean": np.mean, "max": np.max}


@pytest.mark.parametrize("how", list(POOLS))
@pytest.mark.parametrize("name", ["plain", "leftover", "two_outputs", "signal", "volume"])
def test_reduce_pools_the_answers_of_the_crops(name: str, how: str) -> None:
    done = convert(nets.load(name), reduce=how)
    for size in sizes_of(done.geometry):
        image = law.random_image(done.model, size)
        got = law.run(done.proto, image)
        crops = [answers for _, answers in law.crops_of(done.model, image, done.geometry.stride)]
        for output in done.model.graph.output:
            want = POOLS[how]([c[output.name] for c in crops], axis=0)
            law.assert_close(got[output.name], want, f"{how} of {output.name}")


def test_reduced_output_is_one_vector_per_image() -> None:
    done = convert(nets.load("plain"), reduce="mean")
    assert done.result.outputs == ({"name": "scores", "shape": ["N", 6]},)
    batch = np.concatenate([law.random_image(done.model, (30, 31), seed=s) for s in range(3)])
    together = law.run(done.proto, batch)["scores"]
    alone = np.concatenate([law.run(done.proto, batch[i : i + 1])["scores"] for i in range(3)])
    law.assert_close(together, alone, "batch")


@pytest.mark.parametrize("name", ["leftover", "whole_ceil", "padded", "counted_pads", "clip", "volume"])
def test_trimmed_map_has_full_windows_only(name: str) -> None:
    plain, trimmed = convert(nets.load(name)), convert(nets.load(name), trim=True)
    geometry = trimmed.geometry
    for more in range(max(geometry.stride) + 1):
        size = tuple(w + more + k for k, w in enumerate(geometry.window))
        image = law.random_image(plain.model, size)
        whole, cut = (law.run(done.proto, image)["scores"] for done in (plain, trimmed))
        assert cut.shape[2:] == geometry.grid(size)
        law.assert_close(
            cut, law.part(whole, range(2, whole.ndim), [0] * len(size), cut.shape[2:]), str(size)
        )
