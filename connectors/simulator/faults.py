"""Faults the simulated exchange can show."""

from typing import NamedTuple


class Fault(NamedTuple):
    """One fault."""

    kind: str
    at: float = 0.0
