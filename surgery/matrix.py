"""The matrix of ops: what the trunk and the head make of each, read from the tables of rules."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import surgery.ops  # noqa: F401  (enters the rules)
from surgery.rules import Key, Refusal, Table, fold, geometry, lift

YES, FOLD, REFUSED, MISSING = "yes", "fold", "refused", "missing"


@dataclass(frozen=True, order=True)
class Cell:
    """What one table says of an op: `state` is "yes", "fold", "refused" or "missing".

    "fold" is an op of the head without a convolutional form, for which positions go into the batch.
    `says` is the rule's own first sentence, or the reason of the refusal.
    """

    state: str
    says: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.says}" if self.says else self.state


@dataclass(frozen=True)
class Row:
    """One op: its meaning in the trunk (`geometry`), and in the head (`lift`)."""

    domain: str
    op: str
    geometry: Cell
    lift: Cell

    @property
    def name(self) -> str:
        """The op, with its domain where that is not the standard one."""
        return f"{self.domain}.{self.op}" if self.domain else self.op


def rows() -> list[Row]:
    """Every op known to any table, in alphabetical order; rules a user entered are among them."""
    known = sorted(set(geometry) | set(lift) | set(fold))
    return [Row(*key, cell(geometry, key), head_cell(key)) for key in known]


def head_cell(key: Key) -> Cell:
    """What the head makes of an op: its rule, or the one that folds positions into the batch for it."""
    entry, folded = cell(lift, key), cell(fold, key)
    return Cell(FOLD, folded.says) if entry.state != YES and folded.state == YES else entry


def cell(table: Table[Any], key: Key) -> Cell:
    """What a table says of an op."""
    entry = table.entries.get(key)
    if entry is None:
        return Cell(MISSING)
    if isinstance(entry, Refusal):
        return Cell(REFUSED, entry.why)
    return Cell(YES, (inspect.getdoc(entry) or "").partition("\n")[0].rstrip("."))


def to_dict(matrix: Iterable[Row]) -> dict[str, Any]:
    """The matrix as plain data."""
    return {"ops": [asdict(row) for row in matrix]}


def families(matrix: Sequence[Row]) -> list[tuple[list[str], Cell, Cell]]:
    """The ops that share both entries, together, in the order of the first of each."""
    order = sorted(matrix, key=lambda r: (r.geometry, r.lift))
    groups = [list(group) for _, group in groupby(order, key=lambda r: (r.geometry, r.lift))]
    groups.sort(key=lambda group: matrix.index(group[0]))
    return [([r.name for r in group], group[0].geometry, group[0].lift) for group in groups]


def to_markdown(matrix: Sequence[Row]) -> str:
    """The matrix as a table for the README: a row for each family of ops."""
    lines = ["| op | in the trunk | in the head |", "|---|---|---|"]
    for ops, trunk, head in families(matrix):
        names = ", ".join(f"`{op}`" for op in ops)
        lines.append(f"| {names} | {_escaped(trunk)} | {_escaped(head)} |")
    return "\n".join(lines)


def _escaped(entry: Cell) -> str:
    return str(entry).replace("|", "\\|")


def to_text(matrix: Sequence[Row]) -> str:
    """The matrix as a table for a terminal: a row for each op, reasons for refusals only."""
    width = max(len(row.name) for row in matrix)
    head = f"{'op':{width}}  {'in the trunk':14}  in the head"
    lines = [f"{row.name:{width}}  {_brief(row.geometry):14}  {_brief(row.lift)}" for row in matrix]
    return "\n".join([head, *lines])


def _brief(entry: Cell) -> str:
    return str(entry) if entry.state == REFUSED else entry.state
