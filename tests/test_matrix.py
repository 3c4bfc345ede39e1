"""No op is known to one table and missing in the other; the README holds the current matrix."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from surgery import matrix
from surgery.rules import NoRule, Refusal, Table, geometry, lift

README = Path(__file__).parent.parent / "README.md"


def test_no_op_is_known_to_one_table_and_missing_in_the_other() -> None:
    gaps = [row.name for row in matrix.rows() if "missing" in (row.geometry.state, row.lift.state)]
    assert gaps == [], "enter a rule, or a refusal with its reason, on the op's page in surgery/ops"


def test_every_entry_says_what_it_does() -> None:
    silent = [r.name for r in matrix.rows() if not (r.geometry.says and r.lift.says)]
    assert silent == [], "the first line of a rule's docstring is its entry in the matrix"


def test_every_standard_op_of_the_matrix_exists_in_onnx() -> None:
    unknown = [r.op for r in matrix.rows() if not r.domain and not onnx.defs.has(r.op)]
    assert unknown == []


def test_the_readme_holds_the_generated_matrix() -> None:
    _, _, rest = README.read_text(encoding="utf-8").partition("<!-- ops: surgery ops --markdown -->\n")
    block, end, _ = rest.partition("\n<!-- end of ops -->")
    assert end, "the README has no block for the matrix"
    assert block == matrix.to_markdown(matrix.rows()), "write it anew: surgery ops --markdown"


def test_a_family_shares_both_entries_and_none_is_lost() -> None:
    rows = matrix.rows()
    groups = matrix.families(rows)
    assert sorted(name for names, _, _ in groups for name in names) == sorted(r.name for r in rows)
    assert len({(trunk, head) for _, trunk, head in groups}) == len(groups)


@pytest.fixture
def table() -> Table[matrix.Any]:
    made: Table[matrix.Any] = Table("made")

    @made.rule("Yes")
    def rule() -> None:
        """Does a | b.

        More words.
        """

    made.refuse("No", why="it depends on the data")
    made.rule("Other", domain="my.ops")(rule)
    return made


def test_the_three_states(table: Table[matrix.Any]) -> None:
    assert matrix.cell(table, ("", "Yes")) == matrix.Cell("yes", "Does a | b")
    assert matrix.cell(table, ("", "No")) == matrix.Cell("refused", "it depends on the data")
    assert matrix.cell(table, ("", "Never")) == matrix.Cell("missing")


def test_a_bar_in_a_sentence_does_not_break_the_table(table: Table[matrix.Any]) -> None:
    row = matrix.Row("", "Yes", matrix.cell(table, ("", "Yes")), matrix.cell(table, ("", "No")))
    line = matrix.to_markdown([row]).splitlines()[-1]
    assert line == "| `Yes` | yes: Does a \\| b | refused: it depends on the data |"


def test_the_terminal_table_gives_reasons_for_refusals_only(table: Table[matrix.Any]) -> None:
    key = ("my.ops", "Other")
    row = matrix.Row(*key, matrix.cell(table, key), matrix.cell(table, ("", "No")))
    assert matrix.to_text([row]).splitlines()[1].split(maxsplit=2) == [
        *("my.ops.Other", "yes", "refused: it depends on the data"),
    ]


def test_a_rule_of_a_user_appears(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (geometry, lift):
        monkeypatch.setattr(known, "entries", dict(known.entries))
    geometry.refuse("Fancy", why="it is mine", domain="my.ops")
    assert isinstance(geometry.entries["my.ops", "Fancy"], Refusal)
    row = next(r for r in matrix.rows() if r.name == "my.ops.Fancy")
    assert (row.geometry.state, row.lift.state) == ("refused", "missing")
    with pytest.raises(NoRule, match="it is mine"):
        geometry.look_up("my.ops", "Fancy")
