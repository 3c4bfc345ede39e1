"""What cannot be scanned is refused in one paragraph that says what to do."""

from __future__ import annotations

from typing import Any

import nets
import onnx
import pytest
from pictures import converted, noise, original

import surgery

RNET = nets.FIXTURES / "rnet24.onnx"
ASTRONAUT = nets.FIXTURES / "astronaut.png"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label": 6}, "there is no class 6.* has 6, counted from 0"),
        ({"label": -1}, "there is no class -1"),
        ({"scales": (0.2,)}, r"at scale 0.2 is 8x10 pixels, smaller than the window of 17x23.*0.46 or more"),
        ({"scales": ("0",)}, "scale '0' is neither a factor above 0"),
        ({"scales": ("-3px",)}, "'-3px' is neither"),
        ({"scales": ("nan",)}, "'nan' is neither"),
        ({"scales": ("big",)}, "'big' is neither"),
        ({"scales": (0.5, "0.50")}, "scale 0.5 is given twice"),
        ({"scales": ()}, "no scale is given"),
        ({"scales": (1e6,)}, "more than the 268,435,456 that one pass takes"),
        ({"output": "logits"}, "has no output 'logits'; it has 'scores'"),
        ({"layout": "CHWN"}, "layout 'CHWN' is not known; there are NCHW, NHWC"),
        ({"channels": "rgb"}, "channels 'rgb' are not known; there are L, RGB, BGR"),
        ({"channels": "L"}, "takes 3 channels, and L has 1"),
        ({"mean": (1, 2)}, "mean has 2 numbers; give one, or one for each of 3"),
        ({"mean": float("nan")}, "mean .* is not finite"),
        ({"std": 0}, "a std of 0"),
        ({"std": (1, 1, 1e-39)}, "beyond what float32 holds"),
        ({"input_range": (1, 1)}, "not two different numbers"),
        ({"input_range": (1, 2, 3)}, "not two different numbers"),
        ({"top": -1}, "number of best positions is -1"),
        ({"overlap": 2}, "overlap 2 is not a share"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(surgery.BadInput, match=words):
        surgery.scan(converted("plain"), noise(40, 50), **options)


def test_a_model_that_was_not_converted() -> None:
    with pytest.raises(surgery.BadInput, match=r"rnet24.onnx is not a converted model.*surgery convert .*-o"):
        surgery.scan(RNET, ASTRONAUT)
    spoiled = onnx.ModelProto()
    spoiled.CopyFrom(converted("plain"))
    for entry in spoiled.metadata_props:
        entry.value = "{}"
    with pytest.raises(surgery.BadInput, match="is not a converted model"):
        surgery.scan(spoiled, ASTRONAUT)


def test_a_model_that_pools_has_no_map() -> None:
    pooled = surgery.convert(original("plain"), reduce="mean").proto
    assert pooled is not None
    with pytest.raises(surgery.BadInput, match=r"--reduce mean\), so it has no map"):
        surgery.scan(pooled, noise(40, 50))


def test_an_output_that_is_no_score_map() -> None:
    with pytest.raises(surgery.BadInput, match=r"'map' .* is no score map: its shape .* 3x3 windows"):
        surgery.scan(converted("map_output"), noise(25, 31), output="map")


@pytest.mark.parametrize("net", ["signal", "volume"])
def test_a_model_that_takes_no_pictures(net: str) -> None:
    proto = surgery.convert(nets.load(net)).proto
    assert proto is not None
    with pytest.raises(surgery.BadInput, match="takes no pictures"):
        surgery.scan(proto, noise(40, 50))


def test_a_model_of_two_channels() -> None:
    proto = surgery.convert(nets.load("plain")).proto
    assert proto is not None
    with pytest.raises(surgery.BadInput, match=r"has no dim of 1 or 3 channels; give layout"):
        surgery.scan(proto, noise(40, 50))
    with pytest.raises(surgery.BadInput, match="takes 2 channels, and RGB has 3"):
        surgery.scan(proto, noise(40, 50), layout="NCHW")


def test_an_input_of_bytes_is_not_normalised() -> None:
    with pytest.raises(surgery.BadInput, match="takes the pixels as they are"):
        surgery.scan(converted("bytes"), noise(40, 50), mean=0.5)


def test_scores_that_are_no_numbers() -> None:
    with pytest.raises(surgery.BadInput, match="holds NaN for this image; look at the input's normalisation"):
        surgery.scan(converted("plain"), noise(40, 50), input_range=(-3e38, 3e38))
