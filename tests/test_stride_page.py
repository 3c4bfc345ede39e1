"""The page on strides: its code prints what it shows, its table is one that the script writes."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from strides import made

from surgery.benchmark import in_turns

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "stride.md"
TEXT = PAGE.read_text(encoding="utf-8")

script: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "stride_cost"))


def test_the_page_prints_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fixtures").symlink_to(nets.FIXTURES)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == TEXT.count("```python") == 4
    names: dict[str, Any] = {}
    for code, shown in blocks:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(PAGE), "exec"), names)
        assert out.getvalue().split() == shown.split()


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_script_measures_every_road_and_writes_such_a_table() -> None:
    own, side, window = 4, 33, 21
    found = script["roads"](made("average_pools"), own, [2, 1])
    assert [*found] == [
        (4, "plain"),
        *[(s, road) for s in (2, 1) for road in ("dilated", "fragments", "shifted")],
    ]
    image = np.zeros((1, 2, side, side), np.float32)
    spent = in_turns({key: partial(road, image) for key, road in found.items()}, 2, rest=lambda: None)
    assert {len(seconds) for seconds in spent.values()} == {2}
    table = script["table"]([*script["rows"]("A net", spent, side, window)], side, 2)
    plain, half, whole = (cells(line) for line in table.splitlines()[-3:])
    assert plain[:3] == ["A net", "4, its own", "4x4"]
    assert half[1:3] == ["2", "7x7"]
    assert re.fullmatch(r"\d+\.\d \(4 passes\)", half[-1])
    assert whole[1:3] == ["1", "13x13"]
    assert whole[-1].endswith("(16 passes)")


def test_the_page_holds_a_measured_table() -> None:
    ((_, table),) = re.findall(
        r"(<!-- cost: scripts/stride_cost -->)\n(.*?)<!-- end of cost -->", TEXT, re.DOTALL
    )
    said, _, lines = table.partition("\n\n")
    assert re.search(r"\d+ cores, onnxruntime [\d.]+; medians of \d+ runs, interleaved", said)
    rows = [cells(line) for line in lines.strip().splitlines()]
    assert [row[0] for row in rows[2:] if row[0]] == [*script["NETS"]]
    assert all(
        row[1:3] in (["32, its own", "6x6"], ["16", "11x11"], ["8", "21x21"], ["4", "41x41"])
        for row in rows[2:]
    )
    assert script["filled"](TEXT, table.strip()) == TEXT
