"""The commands on weights: to-fc."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.frame import (
    force_option,
    json_option,
    model_argument,
    output_option,
    progress,
    show,
    sides,
    tolerance_option,
)


@click.command("to-fc")
@model_argument
@output_option
@click.option(
    "--nodes",
    multiple=True,
    metavar="NAME[,NAME]",
    help="The ops to turn, by node name; may be repeated. By default every Conv and AveragePool.",
)
@click.option(
    "--size", type=sides, metavar="HxW", help="The image size, where the model leaves its input size open."
)
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    default=2**30,
    show_default=True,
    help="The most that the matrices may need together.",
)
@tolerance_option
@force_option
@json_option
def to_fc(
    model: Path,
    output: Path,
    nodes: tuple[str, ...],
    size: tuple[int, ...] | None,
    max_bytes: int,
    tolerance: float,
    force: bool,
    as_json: bool,
) -> None:
    """Write convolutions as fully connected layers.

    Each becomes one Gemm whose matrix is mostly zero, made for one image size.
    """
    import surgery

    names = [name for text in nodes for name in text.split(",")]
    with progress() as step:
        result = surgery.to_fc(
            model,
            output,
            nodes=names or None,
            size=size,
            max_bytes=max_bytes,
            tolerance=tolerance,
            force=force,
            progress=step,
        )
    show(result, as_json)


COMMANDS = (to_fc,)
