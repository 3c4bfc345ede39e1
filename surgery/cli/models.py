"""The commands on models: inspect, convert, validate, ops."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from surgery.cli.frame import (
    FILE,
    force_option,
    json_option,
    model_argument,
    output_option,
    progress,
    show,
    sides,
    tolerance_option,
    window_option,
)
from surgery.errors import Mismatch, Refused

Sides = tuple[int, ...]

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def memory(text: str) -> int:
    """An amount of memory in bytes, from its text: a number with KiB, MiB or GiB behind it."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]iB)", text)
    if found is None or not (count := int(float(found[1]) * UNITS[found[2]])):
        raise click.BadParameter(f"{text!r} is no amount of memory; write it as 512MiB or 4GiB.")
    return count


def apart(text: str) -> tuple[int, ...]:
    """The pixels between neighbouring windows, from their text: one number for all axes, or one for each."""
    try:
        return sides(text)
    except click.BadParameter as error:
        raise click.BadParameter(
            f"{text!r} is no stride; write pixels from 1 on, as 16, or as 16x8 for rows and columns."
        ) from error


exact_option = click.option(
    "--exact", is_flag=True, help="Keep the answers of the crops for any net, for one image --size."
)
stride_option = click.option(
    "--stride",
    type=apart,
    metavar="S|HxW",
    help="Pixels between windows, where they are not to be the net's own.",
)
sizes_option = click.option(
    "--size",
    "sizes",
    type=sides,
    metavar="HxW",
    multiple=True,
    help="An image size to prove at; may be repeated. By default the window and two larger sizes. With "
    "--exact, the one size to convert for.",
)


def one_or_each(stride: Sides | None) -> int | Sides | None:
    """A stride given once stands for all axes."""
    return stride[0] if stride and len(stride) == 1 else stride


def crops_of(text: str) -> int | None:
    """How many crops to compare: a number, or None for all."""
    if text == "all":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise click.BadParameter(f"{text!r} is neither 'all' nor a number from 1 on.")
    return int(text)


@click.command()
@model_argument
@exact_option
@click.option("--size", type=sides, metavar="HxW", help="The image size, with --exact.")
@stride_option
@window_option
@json_option
@click.pass_context
def inspect(
    ctx: click.Context,
    model: Path,
    exact: bool,
    size: Sides | None,
    stride: Sides | None,
    window: Sides | None,
    as_json: bool,
) -> None:
    """Say what convert would do; write nothing.

    With --exact: where its windows would part, the expected gain and the peak of memory.
    """
    import surgery

    with progress() as step:
        result = surgery.inspect(
            model, exact=exact, size=size, stride=one_or_each(stride), window=window, progress=step
        )
    show(result, as_json)
    if result.verdict == "refused":
        ctx.exit(Refused.exit_code)


@click.command()
@model_argument
@output_option
@click.option(
    "--reduce",
    type=click.Choice(["mean", "max", "softmax-mean"]),
    help="One score vector per image: pool the map over positions.",
)
@click.option("--trim", is_flag=True, help="Cut positions beyond the last full window.")
@stride_option
@click.option(
    "--stride-form",
    type=click.Choice(["dilated", "fragments"]),
    default="dilated",
    show_default=True,
    help="How the stride is had: dilated ops, or phases in the batch.",
)
@click.option("--allow-global", is_flag=True, help="Convert even if an op mixes the whole image.")
@click.option("--pure-conv", is_flag=True, help="Refuse a head that would fold positions into the batch.")
@exact_option
@click.option(
    "--max-memory",
    type=memory,
    default="4GiB",
    show_default=True,
    metavar="AMOUNT",
    help="With --exact: the most that activations may take.",
)
@window_option
@sizes_option
@tolerance_option
@force_option
@json_option
def convert(
    model: Path,
    output: Path,
    reduce: str | None,
    trim: bool,
    stride: Sides | None,
    stride_form: str,
    allow_global: bool,
    pure_conv: bool,
    exact: bool,
    max_memory: int,
    window: Sides | None,
    sizes: tuple[Sides, ...],
    tolerance: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert a model, prove it, then write it.

    The output answers for every window of an image; it is written only if the proof passes.
    """
    import surgery

    with progress() as step:
        result = surgery.convert(
            model,
            output,
            reduce=reduce,
            trim=trim,
            stride=one_or_each(stride),
            stride_form=stride_form,
            allow_global=allow_global,
            pure_conv=pure_conv,
            exact=exact,
            max_memory=max_memory,
            window=window,
            sizes=sizes or None,
            tolerance=tolerance,
            force=force,
            progress=step,
        )
    show(result, as_json)


@click.command()
@click.argument("original", type=FILE)
@click.argument("converted", type=FILE)
@sizes_option
@click.option("--image", type=FILE, help="Compare on this image as well, its pixels scaled to 0..1.")
@click.option(
    "--crops", type=crops_of, metavar="all|N", default="all", show_default=True, help="Crops to compare."
)
@window_option
@tolerance_option
@json_option
@click.pass_context
def validate(
    ctx: click.Context,
    original: Path,
    converted: Path,
    sizes: tuple[Sides, ...],
    image: Path | None,
    crops: int | None,
    window: Sides | None,
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Compare a converted model with its original."""
    import surgery

    with progress() as step:
        proof = surgery.validate(
            original,
            converted,
            sizes=sizes or None,
            image=None if image is None else pixels_of(image, original),
            crops=crops,
            window=window,
            tolerance=tolerance,
            progress=step,
        )
    show(proof, as_json)
    if not proof.passed:
        ctx.exit(Mismatch.exit_code)


def pixels_of(image: Path, model: Path) -> Any:
    """An image file as a batch of one, as the model takes it."""
    from surgery.model import read
    from surgery.scanner.feed import plan_feed
    from surgery.scanner.images import load

    feed = plan_feed(read(model))
    picture = load(image)
    return feed.tensor(picture.resized(picture.size, feed.mode))


@click.command()
@click.option("--markdown", is_flag=True, help="Print the table of the README.")
@json_option
def ops(markdown: bool, as_json: bool) -> None:
    """Print which ops are supported, and where."""
    import json

    from surgery import matrix

    rows = matrix.rows()
    if as_json:
        click.echo(json.dumps(matrix.to_dict(rows)))
    else:
        click.echo(matrix.to_markdown(rows) if markdown else matrix.to_text(rows))


COMMANDS = (inspect, convert, validate)
