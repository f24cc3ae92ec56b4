"""Signals of one series of z-scores, by the section of that name of docs/statistics.md."""

from collections.abc import Iterable, Iterator

FLAT, SHORT, LONG = 0, -1, 1


def signals(z_scores: Iterable[float | None], entry: float, leave: float) -> Iterator[str | None]:
    """Follow a position from row to row.

    :arg z_scores: The z-score of each row; None or NaN where it has none or the window is not full.
    :arg entry: PAIRFLOW_Z_ENTRY.
    :arg leave: PAIRFLOW_Z_EXIT.
    :returns: The signal at each row: short, long, exit or None.
    """
    position = FLAT
    for z in z_scores:
        signal = None
        if z is not None and z == z:
            if z > entry and position != SHORT:
                position, signal = SHORT, "short"
            elif z < -entry and position != LONG:
                position, signal = LONG, "long"
            elif (position == SHORT and z < leave) or (position == LONG and z > -leave):
                position, signal = FLAT, "exit"
        yield signal
