"""Scans and evaluations as the text a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from surgery.report.layout import by, facts, printed, table

KINDS = {
    "softmax": "probabilities (softmax)",
    "sigmoid": "probabilities (sigmoid)",
    "raw": "raw scores, no softmax or sigmoid behind them",
}


def render_scan(data: dict[str, Any]) -> str:
    """The report of a scan, from the data of `Scan.to_dict`."""
    rows = [(f"{p['score']:.4f}", p["scale"], f"{p['row']}, {p['col']}", *_box(p)) for p in data["best"]]
    columns = ("score", "scale", "row, col", "top, left", "bottom, right")
    title = f"Best positions of class {data['class']} (boxes in pixels of the image; neighbours left out)"
    return printed([facts(list(_scanned(data))), "", title, table(columns, rows)])


def _box(peak: dict[str, Any]) -> tuple[str, str]:
    top, left, bottom, right = peak["box"]
    return f"{top}, {left}", f"{bottom}, {right}"


def _scanned(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "image", f"{data['image']}, {by(data['size'])} pixels"
    yield "model", _model(data)
    yield "output", f"{data['output']}: {KINDS[data['kind']]}"
    chosen = "as asked" if data["class_chosen"] == "asked" else "the class with the highest score anywhere"
    yield "class", f"{data['class']} ({chosen})"
    for i, scale in enumerate(data["scales"]):
        words = f"{scale['scale']}: {by(scale['size'])} pixels, {by(scale['grid'])} windows"
        yield "" if i else "scales" if len(data["scales"]) > 1 else "scale", words


def _model(data: dict[str, Any]) -> str:
    window = data["geometry"]["window"], data["geometry"]["stride"]
    where = f"window {by(window[0])}, one every {by(window[1])} pixels"
    return f"{data['model']} (engine {data['engine']}, verdict {data['verdict']}; {where})"


def render_evaluation(data: dict[str, Any]) -> str:
    """The report of an evaluation, from the data of `Evaluation.to_dict`."""
    rows = [
        (str(i + 1), str(t["class"]), t["label"] or "", f"{t['score']:.4f}")
        for i, t in enumerate(data["top"])
    ]
    known = [
        ("image", f"{data['image']}, {by(data['size'])} pixels"),
        ("model", _model(data)),
        ("output", f"{data['output']}: {KINDS[data['kind']]}"),
        ("pooled", _pooled(data)),
    ]
    return printed([facts(known), "", table(("", "class", "label", "score"), rows)])


def _pooled(data: dict[str, Any]) -> str:
    counts = [prod(s["grid"]) for s in data["scales"]]
    over = f"{sum(counts):,} positions"
    if len(counts) > 1:
        over += f" of {len(counts)} scales (each counts once)"
    how = f"{data['reduce']} (inside the model)" if data["reduce"] else "average"
    return f"{how} over {over}{', and their mirror images' if data['flip'] else ''}"
