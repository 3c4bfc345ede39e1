"""Which cut of a plan is taken: one that spares too little for an estimate to be trusted never is."""

from __future__ import annotations

import pytest

from surgery.cut import Cut, cheapest

PLAIN = Cut(2, 98)


@pytest.mark.parametrize(
    ("others", "taken"),
    [
        ([], 0),
        ([Cut(30, 64)], 1),  # 6 % of the net
        ([Cut(30, 66)], 0),  # 4 % of the net, 12 % of the part
        ([Cut(1.5, 97)], 1),  # 1.5 % of the net, half of the part
        ([Cut(2.5, 97)], 0),  # 17 % of the part
        ([Cut(3, 98)], 0),  # dearer
        ([Cut(1.5, 97), Cut(40, 58), Cut(30, 62)], 3),  # the best of those that are sure
        ([Cut(1.5, 97), Cut(30, 66)], 1),  # the one that is sure, though the other seems better
    ],
)
def test_the_cheapest_cut_that_is_sure(others: list[Cut], taken: int) -> None:
    assert cheapest([PLAIN, *others]) == taken
