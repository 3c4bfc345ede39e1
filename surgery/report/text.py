"""A result as the text a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from surgery.report.layout import by, facts, percent, printed, table

if TYPE_CHECKING:
    from rich.console import RenderableType

FEW = 4  # reasons and notes printed in full before the rest are counted
MEANING = {
    "exact": "no padding reaches the head, so every score is the original's on that crop",
    "padded": "the window's own border reaches the head, so scores can differ from the crops'",
    "global": "an op mixes the whole image into every cell, so scores differ from the crops'",
    "refused": "this model has no right conversion",
}
AS_WINDOWS = "every window is computed as one, border and padding too, so every score is the original's there"
WHY_CROPS_DIFFER = {
    "padded": "a crop is padded, or cut short, at its own border where the map sees its neighbours",
    "global": "an op of the trunk sees the whole image in the place of the window",
}
POOLED_ON_CROPS = "every pooled score equals the original's on all crops of the image, pooled alike"
POOLED_ON_WINDOWS = "every pooled score equals the original head's on all windows of the map, pooled alike"
AXES = {1: ("along",), 2: ("y", "x"), 3: ("z", "y", "x")}


def render(data: dict[str, Any]) -> str:
    """The report of a conversion or an inspection, from the data of `Result.to_dict`."""
    parts: list[RenderableType] = [facts(list(_overview(data)))]
    exact = data["engine"] == "exact"
    if data["geometry"]:
        lines = list(_geometry(data["geometry"], exact=exact))
        parts += ["", "Geometry (pixels unless said otherwise)", facts(lines)]
    if data["head"] and not exact:
        rows = [(r["node"], r["op"], r["becomes"]) for r in data["head"]]
        parts += ["", "Head", table(("node", "op", "becomes"), rows)]
    if data["notes"] and data["verdict"] != "refused":
        told = [facts([_named(line) for line in data["notes"]])] if exact else _indented(data["notes"])
        parts += ["", "Mosaic" if exact else "Trunk", *told]
    if data["proof"]:
        parts += ["", *_proof_parts(data["proof"])]
    return printed([*parts, "", conclusion(data)])


def render_proof(proof: dict[str, Any]) -> str:
    """The report of a proof, from the data of `Proof.to_dict`."""
    return printed([*_proof_parts(proof), "", proven(proof)])


# ------------------------------------------------------------------ what is known


def _overview(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", data["model"]
    if data["output"]:
        yield "written to", data["output"]
    if data["input"]["name"]:
        yield "input", _tensor(data["input"])
    for i, output in enumerate(data["outputs"]):
        yield "" if i else "outputs" if len(data["outputs"]) > 1 else "output", _tensor(output)
    yield "engine", data["engine"]
    windows = data["engine"] == "exact" and data["verdict"] == "exact"
    yield "verdict", f"{data['verdict']}: {AS_WINDOWS if windows else MEANING[data['verdict']]}"
    for line in _first([_reason(r) for r in data["reasons"]]):
        yield "", line


def _tensor(tensor: dict[str, Any]) -> str:
    return f"{tensor['name']} [{', '.join(map(str, tensor['shape']))}]"


def _reason(reason: dict[str, str]) -> str:
    place = f"{reason['op']} {reason['node']!r}: " if reason["op"] else ""
    return f"{place}{reason['why']}"


def _geometry(g: dict[str, Any], *, exact: bool) -> Iterator[tuple[str, str]]:
    yield "window", f"{by(g['window'])}, one every {by(g['stride'])}"
    yield "field", f"{by(g['field']['size'])} seen by one score, from {_corner(g['field']['start'])} on"
    names = AXES[len(g["window"])]
    ends = ", ".join(f"{n} {a} + {b}" for n, (a, b) in zip(names, g["margin"], strict=True))
    yield "margin", f"{ends}: the cells at start + end of the head's input that the window's border reaches"
    differs = ": there a dense pass would differ from the crops" if exact and g["touched"] else ""
    yield "touched", f"{percent(g['touched'])} of the head's input cells{differs}"
    if exact:
        return
    if any(g["extra"]):
        yield "extra", f"up to {by(g['extra'])} positions beyond the last full window (--trim cuts them)"
    sizes = g["sizes"]
    more = "any larger size" if set(sizes["step"]) == {1} else f"every {by(sizes['step'])} more"
    yield "sizes", f"{by(sizes['min'])} and {more}"


def _corner(start: Sequence[int]) -> str:
    return f"({', '.join(map(str, start))})"


# ------------------------------------------------------------------ what was proven


def _proof_parts(proof: dict[str, Any]) -> list[RenderableType]:
    rows = [
        (
            c["name"],
            by(c["size"]),
            str(c["positions"]),
            _error(c),
            percent(c["argmax_agreement"]),
            "yes" if c["required"] else "no",
            _outcome(c),
        )
        for c in proof["checks"]
    ]
    title = f"Proof by onnxruntime (max|difference| / max|reference| up to {proof['tolerance']:.3g})"
    columns = ("check", "size", "positions", "max error", "same argmax", "required", "outcome")
    notes = [f"  {c['name']} {by(c['size'])}: {c['note']}" for c in proof["checks"] if c.get("note")]
    return [title, table(columns, rows), *notes]


def _error(check: dict[str, Any]) -> str:
    return "none" if check["max_error"] is None else f"{check['max_error']:.2g}"


def _outcome(check: dict[str, Any]) -> str:
    if check["passed"]:
        return "passed"
    return "FAILED" if check["required"] else "measured"


def conclusion(data: dict[str, Any]) -> str:
    """The last line of a report: what was proven and what was not, in plain words."""
    if data["verdict"] == "refused":
        return " ".join(["Nothing was converted, and nothing written.", *map(_capitalized, data["notes"])])
    proof, exact = data["proof"], data["engine"] == "exact"
    if not proof:
        would = f"this is what `surgery convert{' --exact' if exact else ''}` would do"
        would += ", if given --allow-global" if data["verdict"] == "global" else ""
        return (
            f"Nothing was converted, proven or written: {would}. It measures every claim with onnxruntime "
            "before it writes."
        )
    pooled = not exact and not any("cols" in o["shape"] for o in data["outputs"])
    of = prod(data["outputs"][0]["shape"][-len(data["geometry"]["window"]) :]) if exact else None
    words = proven(proof, WHY_CROPS_DIFFER.get(data["verdict"], ""), pooled=pooled, of=of)
    return words if data["output"] or not proof["passed"] else f"{words} Nothing was written."


def _capitalized(words: str) -> str:
    return words[:1].upper() + words[1:]


def proven(proof: dict[str, Any], why: str = "", *, pooled: bool = False, of: int | None = None) -> str:
    """What a proof shows, in plain words.

    `why` says why crops may differ where that is known, `pooled` that the scores are pooled over the
    positions on both sides, `of` how many positions there are where that is known.
    """
    failed = [c for c in proof["checks"] if c["required"] and not c["passed"]]
    if failed:
        first = failed[0]
        seen = first.get("note") or f"an error of {_error(first)} against {proof['tolerance']:.3g}"
        return f"NOT proven: the check {first['name']!r} at {by(first['size'])} found {seen}."
    crops = [c for c in proof["checks"] if c["name"] == "crops"]
    windows = [c for c in proof["checks"] if c["name"] == "windows"]
    if crops and all(c["required"] for c in crops):
        equal = POOLED_ON_CROPS if pooled else "every score equals the original on that crop of the image"
        if of is not None and crops[0]["positions"] < of:
            equal = f"a random choice of the {of:,} scores, each equal to the original on its crop"
        return f"Proven: {equal} ({_measured(crops)})."
    if not windows:
        return (
            "Proven at the window's own size only, where there is one position: larger images were not "
            "tried, so give a larger size."
        )
    equal = POOLED_ON_WINDOWS if pooled else "every score equals the original head on the map's window"
    head = f"Proven: {equal} ({_measured(windows)})."
    return f"{head} {_crops_differ(crops, proof['tolerance'], why)}"


def _crops_differ(crops: Sequence[dict[str, Any]], tolerance: float, why: str) -> str:
    gaps = [c["max_error"] for c in crops if c["max_error"] is not None]
    if not gaps:
        return "Not proven: crops were not compared."
    because = f": {why}" if why else ""
    if max(gaps) <= tolerance:
        return f"Not proven: crops agree here (up to {max(gaps):.2g}), and need not on other images{because}."
    same = percent(min(c["argmax_agreement"] for c in crops))
    return f"Not proven: crops differ by up to {max(gaps):.2g} (measured, {same} same argmax){because}."


def _measured(checks: Sequence[dict[str, Any]]) -> str:
    """The worst error of several checks, and where they were made."""
    worst = max(c["max_error"] for c in checks)
    count = sum(c["positions"] for c in checks)
    sizes = ", ".join(by(c["size"]) for c in checks)
    return f"{worst:.2g} at most over {count} positions, at {sizes}"


def _indented(lines: Sequence[str]) -> list[str]:
    return ["  " + line for line in _first(lines)]


def _named(line: str) -> tuple[str, str]:
    """A line that names what it is about, apart."""
    name, _, said = line.partition(": ")
    return name, said


def _first(lines: Sequence[str]) -> list[str]:
    """The first few lines, and how many more there are."""
    few = list(lines[:FEW])
    return few if len(lines) <= FEW else [*few, f"and {len(lines) - FEW} more"]
