"""Generated networks: what the verdict promises holds, whatever the trunk and the head."""

from __future__ import annotations

import law
import nets
import numpy as np
from done import Done, convert
from hypothesis import assume, event, given
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
