"""Positions beyond the last full window, and sizes at which the branches of a net do not meet."""

from __future__ import annotations

import law
import numpy as np
import onnx
import pytest
from done import convert
from trunks import net

import surgery

WEIGHTS = "float[4,2,3,3] w1"
POOL = "MaxPool <kernel_shape = [2, 2], strides = [2, 2]"
LEFT_OVER = net(
    f"c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (image, w1) map = {POOL}, ceil_mode = 1> (c)",
    WEIGHTS,
    4,
)
SMALL_FIELD = net("map = Conv <strides = [4, 4]> (image, w1)", WEIGHTS, 4)
UPSAMPLED = net("c = Conv <strides = [3, 3]> (image, w1) map = Up[2, 2] (c)", WEIGHTS, 4)
FORKED = net(
    f"a = Conv <strides = [2, 2]> (image, w1) b = {POOL}> (image) map = Concat <axis = 1> (a, b)", WEIGHTS, 6
)
NETS = {"cut short": LEFT_OVER, "remainder": SMALL_FIELD, "upsampled": UPSAMPLED}


@pytest.mark.parametrize("model", NETS.values(), ids=NETS.keys())
def test_extra_is_the_most_that_any_size_shows(model: onnx.ModelProto) -> None:
    done = convert(model)
    assert max(done.geometry.extra) >= 1
    more = np.zeros(2, int)
    for rest in range(2 * max(done.geometry.stride)):
        size = tuple(w + rest for w in done.geometry.window)
        shape = law.run(done.proto, law.random_image(model, size))["scores"].shape[2:]
        beyond = np.subtract(shape, done.geometry.grid(size))
        assert (beyond >= 0).all()
        more = np.maximum(more, beyond)
    assert tuple(more) == done.geometry.extra


@pytest.mark.parametrize("model", NETS.values(), ids=NETS.keys())
def test_trim_cuts_to_full_windows(model: onnx.ModelProto) -> None:
    plain, trimmed = convert(model), convert(model, trim=True)
    for rest in range(max(plain.geometry.stride) + 2):
        size = (plain.geometry.window[0] + rest, plain.geometry.window[1] + 2 * rest)
        image = law.random_image(model, size)
        whole, cut = (law.run(d.proto, image)["scores"] for d in (plain, trimmed))
        rows, cols = plain.geometry.grid(size)
        assert cut.shape[2:] == (rows, cols)
        law.assert_close(cut, whole[:, :, :rows, :cols], str(size), 1e-6)


def test_extra_positions_are_not_compared_with_crops() -> None:
    """There is no crop for them; the head of the original on the map answers for them too."""
    done = convert(SMALL_FIELD, sizes=[(20, 26)])
    assert [(c.name, c.positions) for c in done.proof.checks] == [("crops", 1), ("windows", 2)]


def test_sizes_that_do_not_fit_are_told() -> None:
    done = convert(FORKED)
    assert done.geometry.step == (2, 2)
    says = r"branches of its trunk would not meet\. It takes 17x23 and every 2x2"
    with pytest.raises(surgery.BadInput, match=says):
        surgery.validate(FORKED, done.proto, sizes=[(18, 23)])
    with pytest.raises(Exception, match="mismatched dimensions"):
        law.run(done.proto, law.random_image(FORKED, (18, 23)))
