"""What the commands share: the group, the options, how results, progress and errors are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click

from surgery.errors import SurgeryError
from surgery.version import VERSION


class Group(click.Group):
    """Commands whose own errors become one paragraph on stderr and an exit code.

    Only SurgeryError is caught: a bug keeps its traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except SurgeryError as error:
            click.echo(f"surgery: {paragraph(error)}", err=True)
            ctx.exit(error.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order they were entered, the daily ones first."""
        return list(self.commands)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 2 bad usage or unreadable input, 3 refused, 4 the proof failed.",
)
@click.version_option(VERSION, prog_name="surgery")
def main() -> None:
    """Make an ONNX classifier of one window answer for every window of an image, and prove it."""


def paragraph(error: Exception) -> str:
    """An error's words as one paragraph, whatever line breaks a library put into them."""
    return " ".join(str(error).split())


# ------------------------------------------------------------------ arguments and options


def sides(text: str) -> tuple[int, ...]:
    """An image size in pixels from its text: HxW, one number for signals, DxHxW for volumes."""
    parts = text.lower().split("x")
    if len(parts) > 3 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise click.BadParameter(
            f"{text!r} is no size; write HxW in pixels, as 384x512 (4000 for a signal, DxHxW for a volume)."
        )
    return tuple(int(p) for p in parts)


def listed(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """A reader of values of one kind with commas between them."""

    def values(text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no list of numbers with commas between them.") from error

    return values


FILE = click.Path(path_type=Path)
model_argument = click.argument("model", type=FILE)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
force_option = click.option("--force", is_flag=True, help="Replace the output file if it exists.")
output_option = click.option("-o", "--output", type=FILE, required=True, help="The file to write.")
window_option = click.option(
    "--window",
    type=sides,
    metavar="HxW",
    help="The window in pixels, where the model leaves its input size open.",
)
tolerance_option = click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="The largest max|difference| / max|reference| to accept.  [default: 1e-4, in float16 5e-3]",
)


# ------------------------------------------------------------------ what is shown


class Printable(Protocol):
    """A result of the API: prints as its report, and turns into JSON."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        ...

    def to_json(self) -> str:
        """The result as one JSON object."""
        ...


def show(result: Printable, as_json: bool) -> None:
    """Print a result on stdout."""
    click.echo(result.to_json() if as_json else str(result))


def show_all(results: Sequence[tuple[Printable, Sequence[Path]]], as_json: bool) -> None:
    """Print the results of several images on stdout, each with the files written for it."""
    if as_json:
        images = [result.to_dict() | {"files": [str(f) for f in files]} for result, files in results]
        click.echo(json.dumps({"images": images}))
        return
    for i, (result, files) in enumerate(results):
        click.echo("\n" * bool(i) + str(result))
        if files:
            click.echo(f"\nWritten: {', '.join(map(str, files))}")


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function to call with each step's name; shown on stderr while it lasts, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True)
    with Progress(SpinnerColumn(), text, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda step: bar.update(task, description=step)
