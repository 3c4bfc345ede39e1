"""The report of a reverse conversion: each matrix, how empty it is, and the proof."""

from __future__ import annotations

from typing import Any

from surgery.report.layout import by, printed, table

COLUMNS = ("node", "op", "matrix", "not zero", "share", "values", "size")


def render_fc(data: dict[str, Any]) -> str:
    """The report as text, from the data of `FullyConnected.to_dict`."""
    rows = [_cells(row) for row in data["nodes"]]
    title = f"{data['model']}, at {by(data['size'])}: each op below is now one Gemm"
    return printed([title, table(COLUMNS, rows, COLUMNS[2:]), _total(data["total"]), _proven(data)])


def _cells(row: dict[str, Any]) -> list[str]:
    rows, columns = row["shape"]
    return [
        row["node"],
        row["op"],
        f"{rows} x {columns}",
        f"{row['nonzeros']:,}",
        share(row["density"]),
        f"{row['distinct']:,}",
        short_size(row["bytes"]),
    ]


def _total(total: dict[str, Any]) -> str:
    return (
        f"Together {size_text(total['bytes'])}: {total['entries']:,} entries, of which "
        f"{total['nonzeros']:,} ({share(total['density'])}) are not zero."
    )


def _proven(data: dict[str, Any]) -> str:
    (check,) = data["proof"]["checks"]
    place = f"Written to {data['output']}." if data["output"] else "Nothing was written."
    return (
        f"Proven: {len(check['compared'])} tensors equal the original's on {check['positions']} images "
        f"(max|difference| / max|reference| {check['max_error']:.2g}, up to {data['proof']['tolerance']:.3g} "
        f"allowed). {place}"
    )


def short_size(count: int) -> str:
    """Bytes in the largest binary unit that leaves a whole number.

    >>> short_size(1000), short_size(2**30), short_size(3 * 2**19)
    ('1000 B', '1.0 GiB', '1.5 MiB')
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(count.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count / 1024**power:.1f} {units[power]}" if power else f"{count} B"


def size_text(count: int) -> str:
    """Bytes exactly, and as people say them.

    >>> size_text(2**30)
    '1,073,741,824 bytes (1.0 GiB)'
    """
    return f"{count:,} bytes ({short_size(count)})"


def share(part: float) -> str:
    """A share in percent with three digits: what is not zero in a block matrix is often very little.

    >>> share(0.25), share(0.00021517)
    ('25 %', '0.0215 %')
    """
    return f"{100 * part:.3g} %"
