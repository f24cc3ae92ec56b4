"""Decode trades: raw frames of the exchange to typed values, beside general parsers.

Tried, and left out:

* One mask of digits for id, price and quantity together instead of one each: 1 ns less of 32, for more code.
"""

import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import orjson

from benchmarks.report import Row, interleaved, report
from connectors.binance.decoder import TradeDecoder
from kernels.records import TRADE, Block

COMMAND = "python -m benchmarks.bench_decode"
PACKAGES = ["numpy", "numba", "orjson", "msgspec"]
SYMBOLS = ["BTCUSDT", "ETHUSDT"]
RECORDED = Path(__file__).parents[2] / "shared" / "data" / "recorded"
BLOCK = 1_000
"""Frames handed over at once, about what a busy feed brings in a second."""

Values = tuple[int, int, float, float, int, bool]
"""What a peer makes of a frame: id, time (us), price, quantity, symbol, buyer is maker."""

Decoder = Callable[[], Iterator[Any]]
"""Decodes all frames, block after block; each result is dropped before the next, as a stream would."""


def trade_frames() -> tuple[str, list[bytes]]:
    """Load all recorded trades; where there is no recording, make some that look the same."""
    frames = []
    for file in sorted(RECORDED.glob("*/*.gz")):
        with gzip.open(file) as lines:
            frames += [line[20:-1] for line in lines if b'@trade"' in line[:60]]
    if frames:
        return "recorded spot and USD-M trades", frames
    source = random.Random(1)
    for i in range(70_000):
        time, maker = 1723161255342 + i, source.choice(["true", "false"])
        price, quantity = source.randrange(6_000_000, 6_500_000) / 100, source.randrange(1, 10**8) / 1e8
        start = f'"e":"trade","E":{time + 1},"s":"BTCUSDT","t":{3735683259 + i}'
        end = f'"p":"{price:.8f}","q":"{quantity:.8f}","T":{time},"m":{maker},"M":true'
        frames.append(f'{{"stream":"btcusdt@trade","data":{{{start},{end}}}}}'.encode())
    return "made-up spot trades (no recording here)", frames


def _values(message: Any) -> Values:
    data = message["data"]
    price, quantity = float(data["p"]), float(data["q"])
    return data["t"], data["T"] * 1_000, price, quantity, SYMBOLS.index(data["s"]), data["m"]


def _ours(blocks: list[list[bytes]], size: int = BLOCK) -> Decoder:
    decoder = TradeDecoder(SYMBOLS)
    lengths = np.array([len(frame) for block in blocks for frame in block], np.int64)
    buffer = b"\n".join(frame for block in blocks for frame in block)
    ends = np.cumsum(lengths + 1) - 1
    starts = ends - lengths
    parts = [slice(i, i + size) for i in range(0, len(starts), size)]
    return lambda: (decoder.decode(buffer, starts[part], ends[part]) for part in parts)


def _orjson_joined(blocks: list[list[bytes]]) -> Decoder:
    return lambda: (
        [_values(message) for message in orjson.loads(b"[" + b",".join(block) + b"]")] for block in blocks
    )


def _msgspec(blocks: list[list[bytes]]) -> Decoder:
    msgspec = import_module("msgspec")
    fields = [("t", int), ("T", int), ("p", float), ("q", float), ("s", str), ("m", bool)]
    envelope = msgspec.defstruct("envelope", [("data", msgspec.defstruct("trade", fields))])
    decode = msgspec.json.Decoder(envelope, strict=False).decode  # not strict: floats stand in strings
    return lambda: ([decode(frame) for frame in block] for block in blocks)


def decoders(blocks: list[list[bytes]]) -> dict[tuple[str, str], Decoder]:
    """Name all decoders, and what each makes of a block."""
    found: dict[tuple[str, str], Decoder] = {
        ("pairflow", "TRADE block"): _ours(blocks),
        ("json", "tuples"): lambda: ([_values(json.loads(frame)) for frame in block] for block in blocks),
        ("orjson", "tuples"): lambda: ([_values(orjson.loads(frame)) for frame in block] for block in blocks),
        ("orjson, block joined to an array", "tuples"): _orjson_joined(blocks),
    }
    if find_spec("msgspec"):
        found["msgspec, Struct with float fields", "Structs"] = _msgspec(blocks)
    return found


def _as_block(result: Any) -> Block:
    if isinstance(result, np.ndarray):
        return result
    if not isinstance(result[0], tuple):
        data = (message.data for message in result)
        result = [(d.t, d.T * 1_000, d.p, d.q, SYMBOLS.index(d.s), d.m) for d in data]
    return np.array([(i, i, i, t, p, q, s, m, True) for i, t, p, q, s, m in result], TRADE)


def _differing(decoder: Decoder, expected: Block) -> int:
    """Count trades that are not bit-equal to what ``json`` and ``float`` make of their frames."""
    trades = np.concatenate([_as_block(result) for result in decoder()])
    names = ("id", "time", "price", "quantity", "symbol", "buyer_is_maker")
    return int(np.count_nonzero(np.any([trades[name] != expected[name] for name in names], axis=0)))


def _blocks(frames: list[bytes], size: int) -> list[list[bytes]]:
    return [frames[i : i + size] for i in range(0, len(frames), size)]


def _timed(candidates: dict[Any, Decoder]) -> dict[Any, float]:
    return interleaved({name: partial(_run, run) for name, run in candidates.items()}, rounds=5)


def _run(decoder: Decoder) -> None:
    for _ in decoder():
        pass


def rows() -> list[Row]:
    """Time all decoders over the same frames, ns a frame."""
    _, frames = trade_frames()
    expected = _as_block([_values(json.loads(frame)) for frame in frames])
    candidates = decoders(_blocks(frames, BLOCK))
    differing = {name: _differing(run, expected) for name, run in candidates.items()}
    times = _timed(candidates)
    ours = next(iter(times.values()))
    return [
        {
            "decoder": name,
            "makes": made,
            "ns a frame": times[name, made] / len(frames) * 1e9,
            "times ours": times[name, made] / ours,
            "differing": differing[name, made],
        }
        for name, made in candidates
    ]


def size_rows() -> list[Row]:
    """Time blocks of several sizes: what a call costs besides its frames."""
    _, frames = trade_frames()
    sizes = (1, 10, 100, 1_000, 10_000)
    times = _timed({size: _ours([frames[:20_000]], size) for size in sizes})
    return [{"frames a call": size, "ns a frame": times[size] / 20_000 * 1e9} for size in sizes]


def start_rows() -> list[Row]:
    """Time the construction of a decoder in a new process, without and with the cache on disk."""
    program = (
        "from time import perf_counter; from connectors.binance.decoder import TradeDecoder;"
        "start = perf_counter(); TradeDecoder(['BTCUSDT']); print(perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory() as cache:

        def start() -> float:
            environment = os.environ | {"NUMBA_CACHE_DIR": cache}
            run = subprocess.run(
                [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True
            )
            return float(run.stdout)

        return [
            {"start": "first ever: compiles", "s": start()},
            {"start": "from the cache", "s": min(start() for _ in range(3))},
        ]


def main() -> None:
    """Print all tables."""
    started = perf_counter()
    what, frames = trade_frames()
    size = sum(map(len, frames)) / len(frames)
    note = (
        f"{len(frames):,} {what} of combined streams, {size:.0f} bytes on average, in blocks of {BLOCK:,}."
        " They lie in one buffer for pairflow, as the feed and a recording hand them over."
        " Differing: results that are not bit-equal to those of `json` and `float`."
    )
    print(report("Decode a trade", COMMAND, rows(), PACKAGES, note))
    print(report("Decode small and large blocks", COMMAND, size_rows(), PACKAGES))
    print(report("Make a decoder in a new process", COMMAND, start_rows(), PACKAGES))
    print(f"Took {perf_counter() - started:.0f} s.", file=sys.stderr)


if __name__ == "__main__":
    main()
