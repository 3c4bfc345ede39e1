"""Generated networks: what the verdict promises holds, whatever the trunk and the head."""

from __future__ import annotations

import law
import nets
import numpy as np
from done import Done, convert
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from random_heads import networks
from random_nets import Trunk


def converted(net: Trunk) -> Done:
    """The conversion of a generated net, which must succeed, its own proof with it."""
    assume(max(net.cells) > 1)
    done = convert(nets.parse(net.text("scores")))
    event(f"verdict {done.result.verdict}")
    return done


def size_for(done: Done, more: tuple[int, int]) -> tuple[int, ...]:
    """A size the net takes: the window, up to two strides more, and a rest."""
    g = done.geometry
    rests = [min(m, 2 * s) // t * t for m, s, t in zip(more, g.stride, g.step, strict=True)]
    return tuple(w + r for w, r in zip(g.window, rests, strict=True))


more = st.tuples(st.integers(0, 60), st.integers(0, 60))
half = settings(max_examples=settings().max_examples // 2)  # of what the profile asks for


@given(networks(pads=False), more)
def test_exact_equals_every_crop(net: Trunk, more: tuple[int, int]) -> None:
    done = converted(net)
    assume(done.result.verdict == "exact")
    size = size_for(done, more)
    assert law.assert_equals_crops(done.model, done.proto, size, done.geometry.stride) == np.prod(
        done.geometry.grid(size)
    )


@given(networks(), more)
def test_map_equals_the_head_on_the_windows_of_the_trunk(net: Trunk, more: tuple[int, int]) -> None:
    done = converted(net)
    size = size_for(done, more)
    if done.result.verdict == "exact":
        law.assert_equals_crops(done.model, done.proto, size, done.geometry.stride)
    if "map" not in {row.node for row in done.result.head}:  # the trunk ends behind it
        count = law.assert_equals_windows(done.model, done.proto, size, {"map": 1})
        assert count >= np.prod(done.geometry.grid(size))


@half
@given(networks(pads=False), more, st.sampled_from(["mean", "max"]))
def test_reduced_is_pooled_over_the_crops(net: Trunk, more: tuple[int, int], how: str) -> None:
    """What is pooled are the full windows alone, however many positions the map has beyond them."""
    assume(max(net.cells) > 1)
    done = convert(nets.parse(net.text("scores")), reduce=how)
    assume(done.result.verdict == "exact")
    image = law.random_image(done.model, size_for(done, more))
    crops = [answers["scores"] for _, answers in law.crops_of(done.model, image, done.geometry.stride)]
    pooled = np.mean(crops, axis=0) if how == "mean" else np.max(crops, axis=0)
    law.assert_close(law.run(done.proto, image)["scores"], pooled, how)


@half
@given(networks(), more)
def test_trimmed_map_has_the_full_windows(net: Trunk, more: tuple[int, int]) -> None:
    """Trimmed, a map is the untrimmed one without what lies beyond the last full window."""
    done = converted(net)
    image = law.random_image(done.model, size_for(done, more))
    whole = law.run(done.proto, image)["scores"]
    cut = law.run(convert(done.model, trim=True).proto, image)["scores"]
    assert cut.shape[2:] == done.geometry.grid(image.shape[2:])
    law.assert_close(cut, law.part(whole, (2, 3), (0, 0), cut.shape[2:]), "trimmed", 1e-5)
