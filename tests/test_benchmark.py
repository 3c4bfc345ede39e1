"""The benchmark: what is timed, in which order, and what is counted. No test looks at how long it took."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import run
from hypothesis import given
from hypothesis import strategies as st
from nets import FIXTURES, load, parse

import surgery
from surgery import benchmark, crops
from surgery.benchmark import ONE_PASS, in_turns, timing
from surgery.crops import MAX_MEMORY, Cropper, Way, plan
from surgery.model import read
from surgery.session import noise

RNET = FIXTURES / "rnet24.onnx"
ROOT = Path(__file__).parents[1]

BY_HAND = """
<ir_version: 8, opset_import: ["" : 17]>
by_hand (float[N, 3, 12, 12] image) => (float[N, 7] scores)
<float[4, 3, 3, 3] k, float[7, 100] w, float[7] b> {
  a = Conv <strides = [2, 2]> (image, k)
  r = Relu (a)
  f = Flatten (r)
  scores = Gemm <transB = 1> (f, w, b)
}
"""
CROP = 4 * 5 * 5 * 27 + 7 * 100  # 5x5 cells of 4 channels from 3x3x3, and 7 scores of 100 features
MAP = 4 * 10 * 10 * 27 + 36 * 7 * 100  # on 22x22 pixels: 10x10 cells, and 36 windows of 100 features

MIXED = """
<ir_version: 8, opset_import: ["" : 17]>
mixed (float[1, 3, 12, 12] image) => (float[1, 7] scores)
<float[4, 3, 3, 3] k, float[7, 100] w> {
  a = Conv <strides = [2, 2]> (image, k)
  f = Flatten (a)
  each = Gemm <transB = 1> (f, w)
  scores = ReduceMean <axes = [0]> (each)
}
"""


def pair(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A model and what was made of it."""
    proto = surgery.convert(model, **options).proto
    assert proto is not None
    return model, proto


def by_hand(batch: int | str = "N") -> onnx.ModelProto:
    """The net whose multiply-adds are counted above, its batch fixed or free."""
    return parse(BY_HAND.replace("[N, ", f"[{batch}, "))


def cropper(model: onnx.ModelProto, size: tuple[int, int] = (22, 22)) -> Cropper:
    """The original of a net of 12x12 windows, 2 pixels apart, beside a noise image."""
    geometry = surgery.inspect(by_hand()).geometry
    assert geometry is not None
    return Cropper(read(model), geometry, (2, 3), noise((1, 3, *size), np.float32, seed=3))


# ------------------------------------------------------------------ what comes out


def test_the_work_is_what_a_hand_counts() -> None:
    done = surgery.bench(*pair(by_hand()), runs=1)
    assert (done.size, done.grid, done.positions) == ((22, 22), (6, 6), 36)
    assert done.multiply_adds == MAP
    assert done.crop_multiply_adds == 36 * CROP
    assert done.ideal == pytest.approx(36 * CROP / MAP)


def test_the_data_has_these_keys_and_prints_as_json() -> None:
    done = surgery.bench(*pair(by_hand()), size=(15, 30), runs=2, threads=1)
    data = done.to_dict()
    assert json.loads(done.to_json()) == data
    fixed = {
        "original": "the model",
        "converted": "the model",
        "engine": "dense",
        "size": [15, 30],
        "window": [12, 12],
        "stride": [2, 2],
        "grid": [2, 10],
        "positions": 20,
        "runs": 2,
        "crops_timed": 20,
        "crops_multiply_adds": 20 * CROP,
    }
    assert {key: data[key] for key in fixed} == fixed
    assert set(data) == {*fixed, "machine", "one_pass", "crops", "ideal"}
    assert set(data["machine"]) == {"cores", "threads", "onnxruntime"}
    assert data["machine"]["threads"] == 1
    assert set(data["one_pass"]) == {"seconds", "multiply_adds"}
    assert [(w["name"], w["batch"], w["skipped"]) for w in data["crops"]] == [
        ("sequential", 1, ""),
        ("batched", 8, ""),
        ("all", 20, ""),
    ]
    assert all(w["seconds"] > 0 and w["ratio"] > 0 for w in data["crops"])


def test_the_report_says_what_was_timed() -> None:
    text = str(surgery.bench(*pair(by_hand()), runs=2))
    assert "22x22: 36 windows of 12x12, one every 2x2" in text
    for way in ("one pass", "crop by crop", "crops by 8", "all 36 crops in one batch"):
        assert f"\n {way} " in text
    assert "Multiply-adds: 0.1 million for the crops, 0.0 million for the one pass: 3.4x." in text
    assert "Medians of 2 runs in turns after a warm-up" in text
    assert text.isascii()


@pytest.mark.parametrize("name", ["plain", "padded", "nhwc_input", "signal", "volume", "bytes", "two_maps"])
def test_every_kind_of_input_can_be_timed(name: str) -> None:
    done = surgery.bench(*pair(load(name)), runs=1)
    assert set(done.grid) == {6}
    assert done.crops[0].seconds is not None


@pytest.mark.parametrize(
    ("options", "engine", "grid"),
    [
        ({"reduce": "mean"}, "dense", (6, 6)),
        ({"stride": 1}, "dense", (6, 6)),
        ({"stride": 1, "stride_form": "fragments"}, "dense", (6, 6)),
        ({"exact": True, "sizes": [(17, 24)]}, "exact", (3, 7)),
        ({"exact": True, "sizes": [(17, 24)], "stride": 5}, "exact", (2, 3)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_every_kind_of_conversion_can_be_timed(
    options: dict[str, Any], engine: str, grid: tuple[int, int]
) -> None:
    done = surgery.bench(*pair(by_hand(), **options), runs=1)
    assert (done.engine, done.grid) == (engine, grid)
    assert [t.skipped for t in done.crops] == ["", "", ""]


def test_a_graph_without_products_has_no_ideal() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 6, 6] x) => (float[N, 3, 1, 1] y) '
    model = onnx.parser.parse_model(text + "{ y = GlobalAveragePool (x) }")
    done = surgery.bench(*pair(model), runs=1)
    assert (done.multiply_adds, done.ideal, done.to_dict()["ideal"]) == (0, None, None)
    assert "Multiply-adds" not in str(done)


# ------------------------------------------------------------------ in which order


def test_all_take_turns_after_a_warm_up() -> None:
    now, log = 0.0, []

    def work(name: str, seconds: float) -> Callable[[], None]:
        def taking() -> None:
            nonlocal now
            now += seconds
            log.append(name)

        return taking

    steps: list[str] = []
    works = {"a": work("a", 1.0), "b": work("b", 10.0), "c": work("c", 100.0)}
    rest = work("rest", 1000.0)
    taken = in_turns(works, 3, clock=lambda: now, rest=rest, progress=steps.append)
    assert log == ["a", "b", "c", *["rest", "a", "rest", "b", "rest", "c"] * 3]
    assert taken == {"a": [1.0] * 3, "b": [10.0] * 3, "c": [100.0] * 3}
    assert len(steps) == 4 * len(works)
    assert steps[-1] == "run 3 of 3: c"


def test_ratios_are_of_one_run_and_times_of_all_windows() -> None:
    taken = {ONE_PASS: [1.0, 100.0, 2.0], "sequential": [10.0, 1200.0, 22.0]}
    done = timing(Way("sequential", 1, 36), taken, 36)
    assert (done.seconds, done.ratio) == (22.0, 11.0)  # the medians of the times would give 11 / 1
    done = timing(Way("sequential", 1, 12), taken, 36)
    assert (done.seconds, done.ratio) == (66.0, 33.0)


def test_a_bench_runs_the_converted_once_and_every_crop_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[tuple[int, ...]] = []

    class Fake:
        def __init__(self, model: onnx.ModelProto, *, threads: int = 0) -> None:
            assert threads == 2

        def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
            (image,) = feeds.values()
            fed.append(image.shape)
            return {"scores": np.zeros((len(image), 7), np.float32)}

    models = pair(by_hand())
    monkeypatch.setattr(benchmark, "Session", Fake)
    monkeypatch.setattr(crops, "Session", Fake)
    surgery.bench(*models, size=(16, 18), runs=2, threads=2)
    window = (3, 12, 12)
    each = [(1, 3, 16, 18), *[(1, *window)] * 12, (8, *window), (4, *window), (12, *window)]
    asked_whether_it_batches = [(1, *window), (1, *window), (2, *window)]
    assert fed == [*asked_whether_it_batches, *each * 3]


# ------------------------------------------------------------------ which crops


@given(count=st.integers(1, 36), batch=st.integers(1, 40))
def test_batches_hold_every_crop_once(count: int, batch: int) -> None:
    some = SHARED.crops(0, count)
    parts = [feeds["image"] for feeds in SHARED.batches(count, batch)]
    assert [len(p) for p in parts[:-1]] == [batch] * (len(parts) - 1)
    np.testing.assert_array_equal(np.concatenate(parts), some)


def test_crops_are_cut_as_they_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting is part of the time: the one pass cuts its windows too."""
    shared = cropper(by_hand())
    log: list[str] = []
    cut, run = shared.crops, shared.session.run
    monkeypatch.setattr(shared, "crops", lambda a, b: (log.append(f"cut {a} to {b}"), cut(a, b))[1])
    monkeypatch.setattr(shared.session, "run", lambda feeds: (log.append("run"), run(feeds))[1])
    benchmark.crop_works(shared, [crops.Way("batched", 5, 12)])["batched"]()
    assert log == ["cut 0 to 5", "run", "cut 5 to 10", "run", "cut 10 to 12", "run"]


def test_crops_are_the_windows_of_the_geometry() -> None:
    for place, crop in zip(np.ndindex(SHARED.grid), SHARED.crops(0, 36), strict=True):
        top, left, bottom, right = SHARED.geometry.box(*place)
        np.testing.assert_array_equal(crop, SHARED.image[0, :, top:bottom, left:right])


SHARED = cropper(by_hand())


def test_a_fixed_batch_is_run_as_it_is() -> None:
    done = surgery.bench(*pair(by_hand(batch=5)), size=(16, 18), runs=1)
    assert done.crop_multiply_adds == 12 * CROP
    sequential, batched, everything = done.crops
    assert sequential.skipped == everything.skipped == "its batch is fixed at 5"
    assert (batched.batch, batched.skipped) == (5, "")
    assert "Skipped crop by crop, all 12 crops in one batch: its batch is fixed at 5." in str(done)
    fixed = cropper(by_hand(batch=5))
    parts = [feeds["image"] for feeds in fixed.batches(12, 5)]
    assert [p.shape[0] for p in parts] == [5, 5, 5]
    np.testing.assert_array_equal(np.concatenate(parts)[:12], fixed.crops(0, 12))


def test_a_baked_batch_is_not_batched() -> None:
    done = surgery.bench(RNET, pair(onnx.load(RNET))[1], runs=1)
    assert done.crops[0].skipped == ""
    for way in done.crops[1:]:
        assert way.skipped.startswith("its batch is baked in: onnxruntime cannot run the model:")
        assert (way.seconds, way.ratio) == (None, None)
    assert str(done).count("baked in") == 1


def test_a_batch_whose_samples_mix_is_not_batched() -> None:
    assert (
        cropper(parse(MIXED)).baked() == "its batch is baked in: 'scores' of two crops is not what each gives"
    )
    assert SHARED.baked() == ""
    assert cropper(by_hand(batch=1), size=(12, 12)).baked() == "", "one window is enough to find out"


def test_what_would_take_too_much_memory_is_skipped() -> None:
    fits = plan(64, 1, MAX_MEMORY // 64, "")
    assert [way.skipped for way in fits] == ["", "", ""]
    *rest, everything = plan(64, 1, MAX_MEMORY // 64 + 1, "")
    assert [way.skipped for way in rest] == ["", ""]
    assert everything.skipped == "its activations would take about 2.0 GiB"


def test_of_very_many_crops_some_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "TIMED", 10)
    done = surgery.bench(*pair(by_hand()), runs=1)
    assert (done.timed, done.positions, done.crop_multiply_adds) == (10, 36, 36 * CROP)
    assert "10 crops were timed one by one and in batches; the time of all 36 was reckoned from" in str(done)


# ------------------------------------------------------------------ what cannot be timed


def test_a_model_that_was_not_converted_is_refused() -> None:
    with pytest.raises(surgery.BadInput, match=r"is not a converted model.*Give the original first"):
        surgery.bench(RNET, RNET)


def test_models_that_do_not_belong_together_are_refused() -> None:
    _, other = pair(by_hand())
    words = r"the model was not made from the model: it answers for windows of 12x12 of 'image'"
    renamed = parse(BY_HAND.replace("image", "picture"))
    larger = parse(BY_HAND.replace("12, 12", "13, 13").replace("7, 100", "7, 144"))
    for original in (renamed, larger, load("signal"), load("volume")):
        with pytest.raises(surgery.BadInput, match=words):
            surgery.bench(original, other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (11, 30)}, "an image of 11x30 holds no window of 12x12"),
        ({"size": (30,)}, "an image of 30 holds no window of 12x12"),
        ({"runs": 0}, "0 runs on 0 threads: give at least 1 run"),
        ({"threads": -1}, "5 runs on -1 threads"),
    ],
)
def test_what_cannot_be_asked_for(options: dict[str, Any], words: str) -> None:
    with pytest.raises(surgery.BadInput, match=words):
        surgery.bench(*pair(by_hand()), **options)


def test_an_exact_model_takes_its_own_size_only() -> None:
    models = pair(by_hand(), exact=True, sizes=[(16, 18)])
    assert surgery.bench(*models, size=(16, 18), runs=1).size == (16, 18)
    with pytest.raises(surgery.BadInput, match=r"takes images of 16x18 only.*--exact --size 22x22"):
        surgery.bench(*models, size=(22, 22))


def test_a_size_that_the_net_cannot_take_is_refused() -> None:
    words = "takes no image of 14x17: it takes 13x17 and every 2x2 pixels more"
    with pytest.raises(surgery.BadInput, match=words):
        surgery.bench(*pair(load("uneven")), size=(14, 17))


# ------------------------------------------------------------------ from the command line


def test_the_command_prints_what_the_api_returns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    surgery.convert(RNET, tmp_path / "face.onnx")
    done = run(capsys, "bench", RNET, tmp_path / "face.onnx", "--runs", 1, "--size", "32x40", "--threads", 1)
    assert (done.code, done.err) == (0, "")
    assert "32x40: 15 windows of 24x24, one every 4x4" in done.out
    done = run(capsys, "bench", RNET, tmp_path / "face.onnx", "--runs", 1, "--json")
    data = json.loads(done.out)
    assert (data["positions"], data["original"], data["runs"]) == (36, str(RNET), 1)
    done = run(capsys, "bench", tmp_path / "face.onnx", RNET)
    assert (done.code, done.out) == (2, "")
    assert "is not a converted model" in done.err


# ------------------------------------------------------------------ the page


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What scripts/bench defines; it looks for its neighbours by itself."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    return runpy.run_path(str(ROOT / "scripts" / "bench"), run_name="bench")


def test_the_page_has_a_row_for_every_case_of_the_script(script: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (dense|exact) \| (\d+)x\d+ \| \d+ every (\d+) \|", page, re.MULTILINE)
    cases = [(c.net, c.engine, str(c.side), str(c.stride or 32)) for c in script["CASES"]]
    assert rows == cases


def test_the_script_prints_a_table_and_puts_it_between_its_marks(script: dict[str, Any]) -> None:
    case = script["Case"]("by_hand", "dense", 22)
    text = script["table"]([(case, surgery.bench(*pair(by_hand(batch=5)), runs=1))])
    head, line, row, empty, note = text.splitlines()
    assert len({head.count("|"), line.count("|"), row.count("|")}) == 1
    assert row.startswith("| by_hand | dense | 22x22 | 36 every 2 | ")
    assert row.count("skipped") == 2
    assert row.endswith(" | 3.4x |")
    assert (empty, note[:11]) == ("", "Measured on")
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    made = script["filled"](page, text)
    assert made.split(text) == [
        page.split("<!-- speed")[0] + SPEED_MARK,
        page[page.index("\n<!-- end of speed") :],
    ]
    assert script["filled"](made, text) == made
    with pytest.raises(SystemExit, match="has 0 places for the table"):
        script["filled"]("a page without marks", text)


SPEED_MARK = "<!-- speed: scripts/bench --write -->\n"
