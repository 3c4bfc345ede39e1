"""The report of a benchmark: the machine, one pass and the crops side by side, and what work allows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from surgery.report.layout import by, facts, printed, table

COLUMNS = ("way", "seconds", "times the one pass")
NAMES = {"sequential": "crop by crop", "batched": "crops by {batch}", "all": "all {batch} crops in one batch"}


def render_bench(data: dict[str, Any]) -> str:
    """The report as text, from the data of `Bench.to_dict`."""
    rows = [("one pass", seconds(data["one_pass"]["seconds"]), "1")]
    rows += [_row(way) for way in data["crops"]]
    return printed(
        [
            facts(list(_overview(data))),
            "",
            table(COLUMNS, rows, COLUMNS[1:]),
            *_skipped(data),
            *_closing(data),
        ]
    )


def name(way: dict[str, Any]) -> str:
    """A way to run the crops in words."""
    return NAMES[way["name"]].format(batch=way["batch"])


def seconds(value: float) -> str:
    """Seconds with three digits.

    >>> seconds(0.00012345), seconds(0.5), seconds(123.45)
    ('0.000123', '0.500', '123')
    """
    digits = 2 if value <= 0 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"


def times(ratio: float) -> str:
    """A ratio with two digits, or all that stand before the point.

    >>> times(0.123), times(1.26), times(12.34), times(1234.5)
    ('0.12x', '1.3x', '12x', '1234x')
    """
    digits = max(0, 1 - math.floor(math.log10(ratio))) if ratio > 0 else 0
    return f"{ratio:.{digits}f}x"


def _row(way: dict[str, Any]) -> tuple[str, str, str]:
    if way["skipped"]:
        return name(way), "-", "-"
    return name(way), seconds(way["seconds"]), times(way["ratio"])


def _overview(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    machine = data["machine"]
    threads = f"{machine['threads']} threads" if machine["threads"] else "threads as onnxruntime chose"
    yield "original", data["original"]
    yield "converted", f"{data['converted']} ({data['engine']} engine)"
    grid = f"{data['positions']:,} windows of {by(data['window'])}, one every {by(data['stride'])}"
    yield "image", f"{by(data['size'])}: {grid}"
    yield "machine", f"{machine['cores']} cores, {threads}, onnxruntime {machine['onnxruntime']}"


def _skipped(data: dict[str, Any]) -> Iterator[str]:
    for why in dict.fromkeys(way["skipped"] for way in data["crops"] if way["skipped"]):
        yield f"Skipped {', '.join(name(way) for way in data['crops'] if way['skipped'] == why)}: {why}."


def _closing(data: dict[str, Any]) -> Iterator[str]:
    if data["ideal"] is not None:
        crops, one = data["crops_multiply_adds"] / 1e6, data["one_pass"]["multiply_adds"] / 1e6
        yield (
            f"Multiply-adds: {crops:,.1f} million for the crops, {one:,.1f} million for the one pass: "
            f"{times(data['ideal'])}."
        )
    yield f"Medians of {data['runs']} runs in turns after a warm-up; ratios were taken run by run."
    if data["crops_timed"] < data["positions"]:
        yield (
            f"{data['crops_timed']:,} crops were timed one by one and in batches; the time of all "
            f"{data['positions']:,} was reckoned from these."
        )
