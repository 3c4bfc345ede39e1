"""What the exact engine does not take: one clear paragraph, and nothing written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import run, tree
from exact_nets import DEEPER, HEAD, STEM, padded
from PIL import Image

import surgery
from surgery.analysis import Options
from surgery.model import read
from surgery.windows import Assembler


def refusal(kind: type[surgery.SurgeryError], folder: Path, model: onnx.ModelProto, **options: Any) -> str:
    """The words of a refused conversion, which must write nothing."""
    before = tree(folder)
    with pytest.raises(kind) as caught:
        surgery.convert(model, folder / "out.onnx", exact=True, **options)
    assert tree(folder) == before
    words = str(caught.value)
    assert "\n" not in words
    return words


# ------------------------------------------------ sizes and strides


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": [(20, 40)]}, "--size 20x40 is smaller than the window 21x22: no window fits."),
        ({"sizes": [(40, 21)]}, "--size 40x21 is smaller than the window 21x22: no window fits."),
        ({"sizes": [(40,)]}, "--size 40 has 1 sides, the window 21x22 2."),
        ({"sizes": [(40, 40)], "stride": 0}, "the stride [0, 0] must be at least one pixel."),
        ({"sizes": [(40, 40)], "stride": (2, -1)}, "the stride [2, -1] must be at least one pixel."),
        ({"sizes": [(40, 40)], "stride": (2, 2, 2)}, "the stride [2, 2, 2] has 3 sides, the image 2."),
        ({"sizes": [(40, 41)], "stride": 20}, "--stride 20x20 leaves no second window of 21x22 in 40x41."),
        ({}, "--exact makes a model for one image size; give it with one --size HxW."),
        ({"sizes": []}, "give it with one --size HxW."),
        ({"sizes": [(40, 40), (50, 50)]}, "give it with one --size HxW."),
        (
            {"sizes": [(40, 40)], "reduce": "mean"},
            "--reduce, --trim and --stride-form are for the dense engine.",
        ),
        ({"sizes": [(40, 40)], "trim": True}, "--exact gives a map of full windows;"),
        ({"sizes": [(40, 40)], "stride": 2, "stride_form": "fragments"}, "are for the dense engine."),
    ],
)
def test_requests_that_cannot_be(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(surgery.BadInput, tmp_path, padded(), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exact": True}, "give it with one --size HxW"),
        ({"exact": True, "size": (20, 40)}, "no window fits"),
        ({"exact": True, "size": (40, 40), "stride": 0}, "the stride [0, 0] must be at least one pixel"),
        ({"size": (40, 40)}, "give --exact as well"),
        ({"stride": 2}, "give --exact as well"),
    ],
)
def test_inspections_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(surgery.BadInput, match=re.escape(words)):
        surgery.inspect(padded(), **options)


def test_the_window_alone_is_a_size_at_any_stride(tmp_path: Path) -> None:
    result = surgery.convert(padded(), exact=True, sizes=[(21, 22)], stride=3)
    assert result.outputs[0]["shape"] == ["N", 5, 1, 1]


# ------------------------------------------------ memory


@pytest.mark.parametrize("stride", [None, (2, 3)])
def test_a_plan_beyond_the_memory_names_the_largest_size_that_fits(
    stride: Sequence[int] | None, tmp_path: Path
) -> None:
    model = padded()
    limit = 300_000
    words = refusal(surgery.Refused, tmp_path, model, sizes=[(90, 130)], stride=stride, max_memory=limit)
    found = re.search(r"the largest size of this shape that fits is (\d+)x(\d+)\.", words)
    assert found
    assert re.match(
        r"--exact at 90x130: its activations would take about [\d.]+ MiB, the limit is 0.29 MiB;", words
    )
    size = int(found[1]), int(found[2])
    surgery.convert(model, exact=True, sizes=[size], stride=stride, max_memory=limit)
    assembler = Assembler(read(model), None, Options(stride=None if stride is None else tuple(stride)))
    steps = assembler.geometry.stride
    assert assembler.memory(size) <= limit
    assert assembler.memory((size[0] + 2 * steps[0], size[1] + 2 * steps[1])) > limit


def test_not_even_one_window_may_fit(tmp_path: Path) -> None:
    words = refusal(surgery.Refused, tmp_path, padded(), sizes=[(40, 40)], max_memory=1000)
    assert "; not even one window fits. Make a model for that size and tile" not in words
    assert "; not even one window fits. Raise --max-memory." in words


# ------------------------------------------------ models


def any_batch(**parts: Any) -> onnx.ModelProto:
    """A net that takes any number of images."""
    model = padded(**parts)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return model


MODELS = {
    "a second input": (
        padded(
            body=STEM + "s = Add (b, state) " + DEEPER.replace("(b)", "(s)") + HEAD,
            more=", float[1] state",
        ),
        "it has a second input 'state': a state, or what belongs to one window, cannot be shared. Export the "
        "model with the image as its only input.",
    ),
    "random numbers": (
        padded(body=STEM + "r = RandomNormalLike (b) n = Add (b, r) " + DEEPER.replace("(b)", "(n)") + HEAD),
        "draws random numbers",
    ),
    "dropout in training": (
        padded(
            body=STEM
            + DEEPER
            + "e = Dropout (map, half, on) folded = Flatten (e) scores = MatMul (folded, w9)",
            half="float = 0.5",
            on="bool = 1",
        ),
        "draws random numbers, so no two answers can be compared. Export the model in eval mode.",
    ),
    "a mean over the batch": (
        any_batch(body=f"{STEM}{DEEPER}m = ReduceMean (map) n = Sub (map, m) {HEAD.replace('(map)', '(n)')}"),
        "ReduceMean 'm': it reduces over the batch, so windows cannot be a batch: its batch is baked in",
    ),
    "places of maxima": (
        padded(
            body=STEM + DEEPER.replace("c = MaxPool", "c, places = MaxPool") + HEAD,
            outputs="float[1,5] scores, int64[1,4,10,11] places",
        ),
        "it counts the places of its maxima through the whole batch, so windows cannot be a batch",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_whose_windows_cannot_be_a_batch(name: str, tmp_path: Path) -> None:
    model, words = MODELS[name]
    assert words in refusal(surgery.Refused, tmp_path, model, sizes=[(40, 40)])


@pytest.mark.parametrize("name", ["a second input", "random numbers", "a mean over the batch"])
def test_inspect_says_so_and_gives_a_result(name: str) -> None:
    model, words = MODELS[name]
    result = surgery.inspect(model, exact=True, size=(40, 40))
    assert result.verdict == "refused"
    assert words.rstrip(".") in " ".join(str(result).split())


# ------------------------------------------------ the command line


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(padded(image="float[1,3,21,22]", w1="4,3,3,3"), path)
    return path


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--exact"], 2, "give it with one --size HxW"),
        (["--exact", "--size", "40x40", "--size", "50x50"], 2, "give it with one --size HxW"),
        (["--exact", "--size", "9x9"], 2, "no window fits"),
        (["--exact", "--size", "40x40", "--stride", "0"], 2, "'0' is no stride; write pixels from 1 on"),
        (["--exact", "--size", "40x40", "--stride", "30"], 2, "leaves no second window"),
        (["--exact", "--size", "40x40", "--max-memory", "12"], 2, "write it as 512MiB or 4GiB"),
        (["--exact", "--size", "40x40", "--max-memory", "0GiB"], 2, "write it as 512MiB or 4GiB"),
        (["--exact", "--size", "90x90", "--max-memory", "300KiB"], 3, "the largest size of this shape"),
    ],
)
def test_commands_that_cannot_be(
    options: list[str], code: int, words: str, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(source.parent)
    done = run(capsys, "convert", source, "-o", source.parent / "out.onnx", *options)
    assert (done.code, done.out) == (code, "")
    assert words in " ".join(done.err.split())
    assert tree(source.parent) == before


def test_scan_names_the_command_for_another_size(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, picture = source.parent / "exact.onnx", source.parent / "picture.png"
    run(capsys, "convert", source, "-o", made, "--exact", "--size", "40x45", "--stride", "5x4")
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(picture)
    done = run(capsys, "scan", made, picture, "-o", source.parent / "maps")
    assert done.code == 2
    command = re.search(r"surgery convert ORIGINAL -o OUT\.onnx (.*)$", " ".join(done.err.split()))
    assert command
    run(capsys, "convert", source, "-o", made, "--force", *command[1].split())
    assert run(capsys, "scan", made, picture, "-o", source.parent / "maps").code == 0


def test_validate_names_the_command_for_another_size() -> None:
    result = surgery.convert(padded(), exact=True, sizes=[(40, 45)], stride=(5, 4))
    with pytest.raises(surgery.BadInput, match=r"of 40x45 only; .* --exact --size 50x50 --stride 5x4`"):
        surgery.validate(padded(), result.proto, sizes=[(50, 50)])
