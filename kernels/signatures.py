"""Types of numba that the signatures of several kernels name: arrays that lie in memory without gaps."""

from numba import from_dtype, types

from kernels.records import TRADE

BYTES = types.Array(types.uint8, 1, "C", readonly=True)
"""Text, which may belong to a ``bytes`` object: read only."""

INTEGERS = types.Array(types.int64, 1, "C")
READ_ONLY_INTEGERS = types.Array(types.int64, 1, "C", readonly=True)

TRADES = types.Array(from_dtype(TRADE), 1, "C")
"""A TRADE block to write to."""
