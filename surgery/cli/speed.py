"""The command on speed: bench."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.frame import FILE, json_option, progress, show, sides


@click.command()
@click.argument("original", type=FILE)
@click.argument("converted", type=FILE)
@click.option(
    "--size",
    type=sides,
    metavar="HxW",
    help="The image size; 5 strides larger than the window by default.",
)
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each.")
@click.option(
    "--threads",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Threads for onnxruntime; it chooses at 0.",
)
@json_option
def bench(
    original: Path, converted: Path, size: tuple[int, ...] | None, runs: int, threads: int, as_json: bool
) -> None:
    """Time one pass against crop by crop, on this machine."""
    import surgery

    with progress() as step:
        result = surgery.bench(original, converted, size=size, runs=runs, threads=threads, progress=step)
    show(result, as_json)


COMMANDS = (bench,)
