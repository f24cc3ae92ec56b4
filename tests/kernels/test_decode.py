"""The table of symbols and the compiled pass alone; `test_decoder.py` judges what is decoded."""

import random

import numpy as np

from kernels import decode
from kernels.compile import warm_up
from kernels.records import TRADE

warm_up(decode.decode, decode.fill_name_table)

FRAME = '{"e":"trade","E":1,"s":"%s","t":7,"p":"1.5","q":"2","T":3,"m":true,"M":true}'
COMBINED = '{"stream":"%s@trade","data":{"e":"trade","E":1,"s":"%s","t":7,"p":"1.5","q":"2","T":3,"m":true}}'


def found(names: list[str], frames: list[str]) -> tuple[list[int], list[int]]:
    """Return the symbol of each decoded frame, and how many frames had each outcome."""
    spellings = [spelling.encode() for name in names for spelling in (name.lower(), name)]
    lengths = np.array([len(spelling) for spelling in spellings], np.int64)
    ends = 8 + np.cumsum(lengths)
    table, slots = decode.new_name_table(len(names))
    text = np.frombuffer(bytes(8) + b"".join(spellings), np.uint8)
    decode.fill_name_table(text, (ends - lengths).reshape(-1, 2), ends.reshape(-1, 2), table, slots)
    buffer = "".join(frames).encode()
    lengths = np.array([len(frame) for frame in frames], np.int64)
    ends = np.cumsum(lengths)
    rows, outcomes = np.zeros(len(frames), TRADE), np.zeros(4, np.int64)
    slow = np.empty((2, len(frames)), np.int64)
    scratch = np.zeros(decode.REACH, np.uint8)
    used = decode.decode(
        np.frombuffer(buffer, np.uint8), ends - lengths, ends, table, slots, scratch, rows, slow, outcomes
    )
    return rows["symbol"][:used].tolist(), outcomes.tolist()


def test_each_symbol_of_a_large_table_is_found_in_both_cases_and_no_other() -> None:
    draw = random.Random(1)
    letters = "ABCXYZ019"
    every = list(
        {"".join(draw.choices(letters, k=draw.choice([1, 3, 7, 8, 9, 16, 17, 48]))) for _ in range(9_000)}
    )
    names, others = every[:3_000], every[3_000:6_000]
    expected = list(range(len(names)))
    assert found(names, [FRAME % name for name in names])[0] == expected
    assert found(names, [COMBINED % (name.lower(), name) for name in names])[0] == expected
    _, outcomes = found(names, [FRAME % name for name in others])
    assert outcomes[decode.UNKNOWN_SYMBOL] == len(others)


def test_a_symbol_whose_name_is_too_long_is_left_to_a_general_parser() -> None:
    names = ["A" * (decode.LONGEST_NAME + 1), "B" * decode.LONGEST_NAME]
    _, outcomes = found(names, [FRAME % name for name in names])
    assert (outcomes[decode.SLOW], outcomes[decode.DECODED]) == (1, 1)
