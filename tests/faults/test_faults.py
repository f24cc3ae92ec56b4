"""A sample of the seeded fault schedules; ``python -m tests.faults.schedules --seeds 1000`` runs the rest."""

from tests.faults.schedules import run_all

FAILED_ONCE = (1, 7, 14, 60, 505, 573, 774, 941)
"""Seeds that found a fault: 7 and 60 of the bars, 941 of their order, the others of the checks themselves."""


def test_whatever_breaks_each_trade_comes_once_in_order_and_each_hole_is_a_gap_row() -> None:
    outcomes = list(run_all(sorted({*range(4), *FAILED_ONCE}), at_once=11))
    assert [problem for outcome in outcomes for problem in outcome.problems] == []
    # A sample in which nothing broke would prove nothing.
    assert sum(outcome.gaps for outcome in outcomes) > 5
    assert sum(outcome.restored for outcome in outcomes) > 100
    assert sum(outcome.reconnections for outcome in outcomes) > 3
    assert sum(outcome.restarts for outcome in outcomes) > 0
    assert sum(outcome.bars for outcome in outcomes) > 100
