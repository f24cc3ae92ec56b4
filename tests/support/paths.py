"""Where the checkout is, and the folder of recorded data beside it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""

SHARED = ROOT.parent / "shared"
"""Recorded data and small inputs that went wrong; absent in most places, and what needs it skips then."""

DATA = SHARED / "data"
RECORDED = DATA / "recorded"
CASES = SHARED / "cases"
