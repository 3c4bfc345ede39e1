"""The commands on weights: params, to-fc."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.frame import (
    FILE,
    Group,
    force_option,
    json_option,
    model_argument,
    output_option,
    progress,
    show,
    sides,
    tolerance_option,
)

names_argument = click.argument("names", nargs=-1, required=True, metavar="NAME...")
cast_option = click.option("--cast", is_flag=True, help="Allow another dtype, and rounding.")


def pair(text: str) -> tuple[str, str]:
    """What stands left and right of the first equals sign."""
    left, sign, right = text.partition("=")
    if not (left and sign and right):
        raise click.BadParameter(f"{text!r} is no pair; write NAME=VALUE.")
    return left, right


@click.group(cls=Group)
def params() -> None:
    """List, get, set, scale or copy parameters.

    A parameter goes by its layer and role, as conv1.weight, or by its own name in the file.
    """


@params.command("list")
@model_argument
@json_option
def list_params(model: Path, as_json: bool) -> None:
    """Print every parameter with its shape and range."""
    from surgery.params import list_params

    show(list_params(model), as_json)


@params.command("get")
@model_argument
@names_argument
@click.option("-o", "--output", type=FILE, help="A .npy or .npz to write the values to.")
@force_option
@json_option
def get_params(model: Path, names: tuple[str, ...], output: Path | None, force: bool, as_json: bool) -> None:
    """Print values, or write them to a file of arrays."""
    from surgery.params import get_params

    show(get_params(model, names, output, force=force), as_json)


@params.command("set")
@model_argument
@click.argument("values", type=pair, nargs=-1, required=True, metavar="NAME=VALUE...")
@output_option
@cast_option
@force_option
@json_option
def set_params(
    model: Path, values: tuple[tuple[str, str], ...], output: Path, cast: bool, force: bool, as_json: bool
) -> None:
    """Give parameters new values, in a new model.

    VALUE is a number, which fills the whole array, or a .npy or .npz file.
    """
    from surgery.params import set_params

    show(set_params(model, dict(values), output, cast=cast, force=force), as_json)


@params.command("scale")
@model_argument
@names_argument
@click.option("--factor", type=float, required=True, help="What to multiply the values by.")
@output_option
@cast_option
@force_option
@json_option
def scale_params(
    model: Path,
    names: tuple[str, ...],
    factor: float,
    output: Path,
    cast: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Multiply parameters by a factor, in a new model."""
    from surgery.params import scale_params

    show(scale_params(model, names, factor, output, cast=cast, force=force), as_json)


@params.command("copy")
@model_argument
@click.argument("source", type=FILE)
@output_option
@click.option(
    "--map",
    "pairs",
    type=pair,
    multiple=True,
    metavar="TO=FROM",
    help="A layer or parameter of MODEL and the one of SOURCE to copy; may be repeated. By name without it.",
)
@click.option("--coerce", is_flag=True, help="Reshape parameters of equal size, as FC to Conv.")
@cast_option
@force_option
@json_option
def copy_params(
    model: Path,
    source: Path,
    output: Path,
    pairs: tuple[tuple[str, str], ...],
    coerce: bool,
    cast: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Copy parameters from another model, into a new one."""
    from surgery.params import copy_params

    mapping = dict(pairs) or None
    done = copy_params(model, source, output, mapping=mapping, coerce=coerce, cast=cast, force=force)
    show(done, as_json)


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
    tolerance: float | None,
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


COMMANDS = (params, to_fc)
