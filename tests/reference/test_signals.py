"""Signals of the reference, by hand."""

from math import nan

import pytest

from tests.reference.signals import signals

S, L, X = "short", "long", "exit"


@pytest.mark.parametrize(
    ("z_scores", "expected"),
    [
        ([0.0, 2.0, 2.1, 3.0, 1.0, 0.5, 0.4, 0.0], [None, None, S, None, None, None, X, None]),
        ([-2.0, -2.1, -1.0, -0.5, -0.4, -3.0], [None, L, None, None, X, L]),
        ([3.0, -1.0], [S, X]),  # across the band is out as well
        ([-3.0, 1.9], [L, X]),
        ([3.0, -3.0, -3.0, 3.0, 0.0], [S, L, None, S, X]),  # the side entered, which implies the exit
        ([3.0, nan, None, 3.0, 0.0, nan], [S, None, None, None, X, None]),
    ],
)
def test_a_position_follows_the_z_score(z_scores: list[float | None], expected: list[str | None]) -> None:
    assert list(signals(z_scores, 2.0, 0.5)) == expected
