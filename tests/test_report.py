"""The text report says everything the data say, in plain words, whatever a node is called."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery
from surgery.report.layout import WIDTH, by, percent
from surgery.report.text import FEW, render, render_proof

FIXTURES = Path(__file__).parent.parent / "fixtures"


def squeezed(text: str) -> str:
    """The text without the line breaks that the layout put in."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def padded() -> surgery.Result:
    return surgery.convert(FIXTURES / "rnet24.onnx")


@pytest.fixture(scope="module")
def exact() -> surgery.Result:
    return surgery.convert(FIXTURES / "rnet25.onnx")


def check(name: str, *, error: float | None = 1e-7, required: bool = True, note: str = "") -> dict[str, Any]:
    passed = error is not None and error <= 1e-4
    data = {"name": name, "positions": 9, "max_error": error, "argmax_agreement": 1.0, "size": [32, 36]}
    data |= {"required": required, "compared": ["scores"], "passed": passed}
    return data | ({"note": note} if note else {})


def proof_of(*checks: dict[str, Any]) -> dict[str, Any]:
    passed = all(c["passed"] for c in checks if c["required"])
    return {"passed": passed, "tolerance": 1e-4, "checks": list(checks)}


def report(**changes: Any) -> dict[str, Any]:
    data = {
        "model": "net.onnx",
        "input": {"name": "image", "shape": ["N", 3, "height", "width"]},
        "outputs": [{"name": "scores", "shape": ["N", 10, "rows", "cols"]}],
        "verdict": "exact",
        "reasons": [],
        "geometry": {
            "window": [24, 20],
            "stride": [4, 2],
            "field": {"start": [-3, 0], "size": [30, 20]},
            "margin": [[1, 2], [0, 0]],
            "touched": 0.25,
            "extra": [1, 0],
            "sizes": {"min": [24, 20], "step": [1, 1]},
        },
        "head": [{"node": "fc", "op": "Gemm", "becomes": "Conv"}],
        "engine": "dense",
        "output": "out.onnx",
        "proof": proof_of(check("native"), check("crops"), check("windows")),
        "notes": [],
    }
    return data | changes


# ------------------------------------------------------------------ real conversions


def test_the_padded_report_states_what_is_proven_and_what_is_not(padded: surgery.Result) -> None:
    text = squeezed(str(padded))
    assert padded.proof is not None
    windows = max(c.max_error or 0 for c in padded.proof.checks if c.name == "windows")
    crops = max(c.max_error or 0 for c in padded.proof.checks if c.name == "crops")
    assert "verdict padded: the window's own border reaches the head" in text
    assert f"every score equals the original head on the map's window ({windows:.2g} at most" in text
    assert f"Not proven: crops differ by up to {crops:.2g} (measured" in text
    assert "a crop is padded, or cut short, at its own border" in text
    assert text.endswith("Nothing was written.")


def test_the_exact_report_claims_the_crops(exact: surgery.Result) -> None:
    text = squeezed(str(exact))
    assert "Proven: every score equals the original on that crop of the image" in text
    assert "Not proven" not in text


def test_every_fact_of_the_data_is_in_the_text(padded: surgery.Result) -> None:
    text = squeezed(str(padded))
    g = padded.geometry
    assert g is not None
    facts = [
        f"window {by(g.window)}, one every {by(g.stride)}",
        f"field {by(g.field_size)} seen by one score, from (0, 0) on",
        "margin y 0 + 1, x 0 + 1",
        f"touched {percent(g.touched)} of the head's input cells",
        "extra up to 1x1 positions",
        "sizes 24x24 and any larger size",
        *(f"{o['name']} [N, {o['shape'][1]}, rows, cols]" for o in padded.outputs),
        *(str(reason) for reason in padded.reasons),
        *(f"{row.node} {row.op} {row.becomes}" for row in padded.head),
    ]
    assert [f for f in facts if f not in text] == []


def test_an_inspection_says_that_nothing_was_done() -> None:
    text = squeezed(str(surgery.inspect(FIXTURES / "rnet25.onnx")))
    assert text.endswith(
        "Nothing was converted, proven or written: this is what `surgery convert` would do. It measures "
        "every claim with onnxruntime before it writes."
    )


def test_a_refused_model_is_reported_with_its_reason() -> None:
    text = squeezed(str(surgery.inspect(FIXTURES / "pnet12.onnx")))
    assert "verdict refused: this model has no right conversion it is already fully convolutional" in text
    assert "Nothing was converted, and nothing written. Nothing to convert: " in text
    assert "the model is already fully convolutional" in text


def test_a_pooled_map_is_not_called_a_score_per_crop() -> None:
    text = squeezed(str(surgery.convert(FIXTURES / "rnet25.onnx", reduce="mean")))
    assert "every pooled score equals the original's on all crops of the image, pooled alike" in text
    text = squeezed(str(surgery.convert(FIXTURES / "rnet24.onnx", reduce="max")))
    assert "every pooled score equals the original head's on all windows of the map, pooled alike" in text


def test_validate_prints_and_keeps_its_proof(padded: surgery.Result) -> None:
    proof = surgery.validate(FIXTURES / "rnet24.onnx", padded.proto, sizes=[(30, 33)], crops=3)
    assert json.loads(proof.to_json()) == proof.to_dict()
    text = squeezed(str(proof))
    assert "crops 30x33 3" in text
    assert "windows 30x33" in text
    assert "Proven: every score equals the original head on the map's window" in text


def test_a_report_of_plain_names_is_plain_ascii(padded: surgery.Result) -> None:
    assert str(padded).isascii()
    assert str(padded.proof).isascii()


def test_the_json_has_the_keys_of_the_design(exact: surgery.Result) -> None:
    data = json.loads(exact.to_json())
    assert list(data)[:10] == [
        *("model", "input", "outputs", "verdict", "reasons", "geometry", "head", "engine", "output", "proof")
    ]
    assert set(data["geometry"]) == {
        *("window", "stride", "field", "margin", "touched", "extra", "sizes"),
    }
    assert set(data["proof"]) == {"passed", "tolerance", "checks"}
    assert set(data["proof"]["checks"][0]) == {
        *("name", "size", "positions", "compared", "max_error", "argmax_agreement", "required", "passed"),
    }


# ------------------------------------------------------------------ wordings


def test_few_reasons_are_printed_and_the_rest_counted() -> None:
    reasons = [{"node": f"conv{i}", "op": "Conv", "why": "it is padded"} for i in range(FEW + 3)]
    text = render(report(verdict="padded", reasons=reasons))
    assert f"Conv 'conv{FEW - 1}'" in text
    assert f"conv{FEW}'" not in text
    assert "and 3 more" in text


def test_a_global_net_says_why_crops_differ() -> None:
    proof = proof_of(check("crops", error=0.5, required=False), check("windows"))
    text = squeezed(render(report(verdict="global", proof=proof)))
    assert "crops differ by up to 0.5" in text
    assert "sees the whole image in the place of the window" in text
    inspected = squeezed(render(report(verdict="global", proof=None)))
    assert "this is what `surgery convert` would do, if given --allow-global." in inspected


def test_luck_is_not_called_a_proof() -> None:
    proof = proof_of(check("crops", required=False), check("windows"))
    assert "crops agree here (up to 1e-07), and need not on other images" in squeezed(render_proof(proof))


def test_crops_that_cannot_be_compared_are_not_called_equal() -> None:
    proof = proof_of(check("crops", error=None, required=False, note="'y' holds NaN"), check("windows"))
    text = squeezed(render_proof(proof))
    assert "crops 32x36: 'y' holds NaN" in text
    assert "Not proven: crops were not compared." in text


def test_the_windows_own_size_alone_proves_little() -> None:
    text = squeezed(render_proof(proof_of(check("native"))))
    assert "Proven at the window's own size only" in text


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (check("windows", error=0.3), "the check 'windows' at 32x36 found an error of 0.3 against 0.0001"),
        (check("windows", error=None, note="'y' has shape [1]"), "at 32x36 found 'y' has shape [1]"),
    ],
)
def test_a_failed_proof_is_shouted(bad: dict[str, Any], words: str) -> None:
    text = squeezed(render_proof(proof_of(check("native"), bad)))
    assert "FAILED" in text
    assert "NOT proven" in text
    assert words in text
    assert "Proven:" not in text


@pytest.mark.parametrize(("sides", "names"), [([9], "along 0 + 0"), ([9, 9, 9], "z 0 + 0, y 0 + 0, x 0 + 0")])
def test_signals_and_volumes_have_their_own_axes(sides: list[int], names: str) -> None:
    ones, zeros = [1] * len(sides), [0] * len(sides)
    geometry = {
        "window": sides,
        "stride": ones,
        "field": {"start": zeros, "size": sides},
        "margin": [[0, 0] for _ in sides],
        "touched": 0.0,
        "extra": zeros,
        "sizes": {"min": sides, "step": [2] * len(sides)},
    }
    text = squeezed(render(report(geometry=geometry)))
    assert f"margin {names}:" in text
    assert f"sizes {by(sides)} and every {by([2] * len(sides))} more" in text
    assert "extra" not in text


names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=150)


@given(nodes=st.lists(names, min_size=1, max_size=4), verdict=st.sampled_from(["exact", "padded", "global"]))
def test_any_name_is_printed_whole_within_the_width(nodes: list[str], verdict: str) -> None:
    reasons = [{"node": n, "op": "Conv", "why": "it is padded"} for n in nodes]
    head = [{"node": n, "op": "", "becomes": ""} for n in nodes]
    for text in (render(report(verdict=verdict, reasons=reasons)), render(report(head=head))):
        bare = re.sub(r"\s", "", text)
        assert [n for n in nodes if n not in bare and repr(n)[1:-1] not in bare] == []
        assert "\x1b" not in text
        assert max(len(line) for line in text.splitlines()) <= WIDTH


@given(st.floats(0, 1))
def test_a_share_never_rounds_to_nothing_or_to_everything(share: float) -> None:
    number = percent(share).removesuffix(" %")
    shown = float(number.strip("<>"))
    assert shown == pytest.approx(100 * share, abs=0.11)
    assert (number == "0") == (share == 0)
    assert (number == "100") == (share == 1)
