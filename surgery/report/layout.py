"""What all text reports share: sizes and shares as words, facts and tables as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

WIDTH = 100
LINE_UNDER_HEAD = "    \n    \n -- \n" + "    \n" * 5  # rich's SIMPLE_HEAD in ASCII, for any terminal and log


def by(size: Sequence[int]) -> str:
    """A size as people write it.

    >>> by([384, 512])
    '384x512'
    """
    return "x".join(map(str, size))


def percent(share: float) -> str:
    """A share in percent, where only nothing prints as 0 and only everything as 100.

    >>> percent(0.0), percent(0.9996), percent(1.0)
    ('0 %', '>99.9 %', '100 %')
    """
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %" if share % 1 else f"{100 * share:.0f} %"


def facts(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and what is said of them, in two columns without lines."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(min_width=12)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(f"  {name}"), Text(value))
    return grid


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> Table:
    """A table with a line under its head; the columns in `numbers` are set flush right."""
    from rich.box import Box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=Box(LINE_UNDER_HEAD, ascii=True), show_edge=False)
    for name in columns:
        made.add_column(name, overflow="fold", justify="right" if name in numbers else "left")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def printed(parts: Sequence[RenderableType]) -> str:
    """Strings and tables one below the other, as plain text of WIDTH columns."""
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    plain: dict[str, Any] = {"color_system": None, "markup": False, "highlight": False, "emoji": False}
    console = Console(file=out, width=WIDTH, **plain)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
