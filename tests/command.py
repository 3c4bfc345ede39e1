"""Run the command line as a user would, and see what it printed and what it left on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from surgery.cli import main


@dataclass(frozen=True)
class Run:
    """What a command gave back."""

    code: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *args: object) -> Run:
    """Run `surgery ARGS` in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in args], prog_name="surgery")
    out, err = capsys.readouterr()
    return Run(int(end.value.code or 0), out, err)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, and every folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}
