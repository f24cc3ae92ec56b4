"""A bounded memory of what was found out about queries, so that it is not found out again."""

from typing import TypeVar

_MOST_ENTRIES = 2_000

LONGEST_REMEMBERED = 10_000
"""A longer query, in characters, is not remembered."""

_K = TypeVar("_K")
_V = TypeVar("_V")


def remember(memory: dict[_K, _V], key: _K, value: _V) -> None:
    """Keep a value; forget all others first when the memory is full.

    :arg memory: Where.
    :arg key: Of the query.
    :arg value: What was found out about it.
    """
    if len(memory) >= _MOST_ENTRIES:
        memory.clear()
    memory[key] = value
