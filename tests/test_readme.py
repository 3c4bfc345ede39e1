"""What the README says to run, runs, and prints what the README says it prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command import run

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
RUNNABLE = re.findall(r"^<!-- run -->\n```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHOWN = re.findall(r"^```sh\n(.*)\n```\n\n<!-- output -->\n```text\n([^`]*)^```$", PAGE, re.MULTILINE)
ROUNDING = re.compile(r"\d(\.\d+)?e-\d\d")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the repository, as far as the README's commands look."""
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_runs_and_prints_what_is_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = {}
    for command in [line for kind, block in RUNNABLE if kind == "sh" for line in block.splitlines()]:
        name, *args = shlex.split(command, comments=True)
        done = run(capsys, *args)
        assert (name, done.code, done.err) == ("surgery", 0, ""), command
        printed[command] = done.out
    ((command, shown),) = SHOWN
    assert ROUNDING.sub("~", shown).split() == ROUNDING.sub("~", printed[command]).split()


def test_the_python_runs(folder: Path) -> None:
    (code,) = (block for kind, block in RUNNABLE if kind == "python")
    command = [sys.executable, "-W", "error", "-c", code]
    env = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "padded (4, 4) (12, 20, 36, 44)" in done.stdout


def test_the_generated_parts_are_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "make_docs", "--check"], check=False)
    assert done.returncode == 0


def test_links_lead_somewhere() -> None:
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *ROOT.glob("docs/*.md"),
    ]:
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page


def test_troubleshooting_uses_the_words_that_users_search_for() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    searched = [
        "cannot reshape tensor to the requested shape",
        "MatMul 51200 vs 25088",
        "input size must be 224",
        "Got invalid dimensions for input",
    ]
    assert [words for words in searched if words not in page] == []


def test_troubleshooting_quotes_refusals_as_they_are() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "surgery").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # strings that go on in the next line
    _, _, refusals = page.partition("## Refusals of surgery")
    quoted = re.findall(r"`([^`]+)`", "".join(re.findall(r"^### .*$", refusals, re.MULTILINE)))
    parts = [part.strip(" :") for words in quoted for part in words.split("...")]
    assert len(parts) > 10
    assert [part for part in parts if part not in source] == []


def test_bullets_stay_few() -> None:
    first_screen = PAGE.partition("\n## ")[0]
    assert 1 <= len(re.findall(r"^- ", first_screen, re.MULTILINE)) <= 10
