"""The commands on images: scan, classify."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from surgery.cli.frame import (
    FILE,
    force_option,
    json_option,
    listed,
    model_argument,
    progress,
    show_all,
)

Command = TypeVar("Command", bound=Callable[..., Any])

images_argument = click.argument("images", type=FILE, nargs=-1, required=True, metavar="IMAGE...")
FEED = (
    click.option(
        "--mean", type=listed(float), metavar="M[,M,M]", help="Subtracted per channel; 0 by default."
    ),
    click.option(
        "--std", type=listed(float), metavar="S[,S,S]", help="Divided by per channel; 1 by default."
    ),
    click.option(
        "--input-range",
        type=listed(float),
        metavar="LOW,HIGH",
        help="What black and white become before mean and std; 0,1 by default.",
    ),
    click.option(
        "--layout", type=click.Choice(["NCHW", "NHWC"]), help="Read off the input's dims by default."
    ),
    click.option(
        "--channels", type=click.Choice(["RGB", "BGR", "L"]), help="RGB, or L for one channel, by default."
    ),
    click.option("--output", help="The output that holds the scores, by name."),
)


def feed_options(command: Command) -> Command:
    """The options that say how pixels become the model's input, and which output is read."""
    for option in reversed(FEED):
        command = option(command)
    return command


@click.command()
@model_argument
@images_argument
@click.option("-o", "--directory", type=FILE, required=True, help="The folder to write to.")
@click.option(
    "--scale",
    "scales",
    multiple=True,
    default=["1"],
    metavar="F|Npx",
    help="A factor as 0.25, or a shorter side as 128px; may be repeated.",
)
@feed_options
@click.option("--class", "label", type=int, help="The class to show; the highest score's by default.")
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, help="Best positions.")
@click.option(
    "--overlap", type=float, default=0.3, show_default=True, help="Windows that share more are one."
)
@force_option
@json_option
def scan(
    model: Path,
    images: tuple[Path, ...],
    directory: Path,
    scales: tuple[str, ...],
    label: int | None,
    top: int,
    overlap: float,
    force: bool,
    as_json: bool,
    **feed: Any,
) -> None:
    """Score every window of images of any size.

    MODEL is a converted one. Writes score maps (.npy), a heat map (.png) and the best positions (.json).
    """
    import surgery

    results = []
    with progress() as step:
        scanner = surgery.Scanner(model, **feed)
        for image in images:
            step(f"scanning {image}")
            found = scanner.scan(image, scales=scales, label=label, top=top, overlap=overlap)
            results.append((found, found.save(directory, force=force)))
    show_all(results, as_json)


@click.command()
@model_argument
@images_argument
@click.option(
    "--scales", type=listed(int), metavar="N,N,...", help="Shorter sides in pixels to average over."
)
@click.option("--flip", is_flag=True, help="Average over the mirror image as well.")
@click.option("--topk", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to print.")
@click.option("--labels", type=FILE, help="A file with the name of a class on each line.")
@feed_options
@json_option
def classify(
    model: Path,
    images: tuple[Path, ...],
    scales: tuple[int, ...] | None,
    flip: bool,
    topk: int,
    labels: Path | None,
    as_json: bool,
    **feed: Any,
) -> None:
    """Average scores over positions, flips and scales."""
    import surgery
    from surgery.scanner.average import evaluate_with

    results = []
    with progress() as step:
        scanner = surgery.Scanner(model, **feed)
        for image in images:
            step(f"classifying {image}")
            results.append(evaluate_with(scanner, image, scales=scales, flip=flip, topk=topk, labels=labels))
    show_all([(result, ()) for result in results], as_json)


COMMANDS = (scan, classify)
