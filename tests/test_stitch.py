"""Shifted passes: interleaved they are the crops of a finer grid, whatever the layout, size and stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import law
import nets
import numpy as np
import pytest
from done import convert
from strides import FORMS, at_stride, crops_as_maps, images_of, made

import surgery


def test_stitching_takes_images_laid_out_in_any_way() -> None:
    model = nets.load("nhwc_input")
    images = images_of(model, [w + 5 for w in law.window_of(model)])
    want = crops_as_maps(model, images, (2, 2))
    law.assert_close(
        surgery.shift_and_stitch(convert(model).proto, images, 2)["scores"], want["scores"], "nhwc"
    )


def test_stitching_leaves_out_what_is_no_score_map() -> None:
    model = nets.load("map_output")
    images = images_of(model, [w + 5 for w in law.window_of(model)])
    stitched = surgery.shift_and_stitch(convert(model).proto, images, 4)
    assert stitched.keys() == {"scores"}
    law.assert_close(stitched["scores"], crops_as_maps(model, images, (1, 1))["scores"], "scores")


def test_stitching_a_net_that_does_not_take_every_size() -> None:
    model = nets.load("uneven")
    done = convert(model)
    assert done.geometry.step == (2, 2)
    images = images_of(model, [w + 7 for w in law.window_of(model)])
    law.assert_close(
        surgery.shift_and_stitch(done.proto, images, 2)["scores"],
        crops_as_maps(model, images, (1, 1))["scores"],
        "uneven",
    )


def test_stitching_finer_than_a_finer_stride() -> None:
    model = made("average_pools")
    images = images_of(model, (26, 24))
    want = crops_as_maps(model, images, (1, 1))["scores"]
    for form in FORMS:
        half = at_stride(model, 2, form)
        law.assert_close(surgery.shift_and_stitch(half.proto, images, 2)["scores"], want, form)


def refused_stitch(options: dict[str, Any] | None, size: Sequence[int], factor: int) -> str:
    """The words with which a stitch is refused."""
    model = made("average_pools")
    given_model = model if options is None else convert(model, **options).proto
    with pytest.raises(surgery.BadInput) as refused:
        surgery.shift_and_stitch(given_model, np.zeros(size, np.float32), factor)
    return str(refused.value)


def test_stitching_says_what_it_cannot_take() -> None:
    size = (1, 2, 25, 25)
    assert "carries no surgery.geometry" in refused_stitch(None, size, 2)
    assert "factor 3 does not divide the model's stride [4, 4]" in refused_stitch({}, size, 3)
    assert "factor 0 does not divide" in refused_stitch({}, size, 0)
    assert "was converted with --reduce mean" in refused_stitch({"reduce": "mean"}, size, 2)
    assert "the image [1, 2, 20, 25] is none" in refused_stitch({}, (1, 2, 20, 25), 2)
    assert "the image [2, 25, 25] is none" in refused_stitch({}, (2, 25, 25), 2)


def test_two_passes_along_the_diagonal_give_half_of_the_finer_grid() -> None:
    model = made("average_pools")
    done = convert(model)
    image = images_of(model, (33, 33), count=1)
    fine = crops_as_maps(model, image, (2, 2))["scores"]
    for a in (0, 1):
        shifted = law.run(done.proto, np.ascontiguousarray(image[..., 2 * a :, 2 * a :]))["scores"]
        places = fine[..., a::2, a::2]
        law.assert_close(shifted[..., : places.shape[-2], : places.shape[-1]], places, f"pass {a}")
