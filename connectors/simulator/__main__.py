"""Run the simulated exchange: ``python -m connectors.simulator --help``."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from typing import NoReturn

import orjson
import structlog
from typing_extensions import override

from connectors.simulator.faults import KINDS, fault_of
from connectors.simulator.server import Config, Simulator
from kernels.records import SECOND


class _Parser(argparse.ArgumentParser):
    """Say what is wrong in one line."""

    @override
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"simulator: {message} (see --help)\n")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.replace(" ", "").split(",") if name)


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days <= 3_650:
        msg = f"{text}: expected days, 0 to 3650"
        raise argparse.ArgumentTypeError(msg)
    return days


def _time(text: str) -> int:
    try:
        if text.isdecimal():
            return int(text) * 1_000
        time = datetime.fromisoformat(text)
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()) * SECOND
    except ValueError:
        msg = f"{text!r}: expected ms since the epoch, or a time (UTC) such as 2024-08-08T23:55:00"
        raise argparse.ArgumentTypeError(msg) from None


def _parser() -> argparse.ArgumentParser:
    kinds = "\n".join(f"  {kind:<10} {text}" for kind, text in KINDS.items())
    parser = _Parser(
        prog="python -m connectors.simulator",
        description="A Binance-compatible exchange on this machine: market data by streams and REST.",
        epilog='Faults on command: POST a JSON object such as {"kind": "abort"} to /simulator/faults.\n'
        + kinds,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Config()
    add = parser.add_argument
    add("--host", default=default.host, help="address to listen on (default %(default)s)")
    add("--port", type=int, default=default.port, help="0: any free port (default)")
    add("--symbols", type=_names, default=default.symbols, help="such as BTCUSDT,ETHUSDT (default)")
    add("--quiet", type=_names, default=(), help="those of the symbols that trade about twice a minute only")
    add("--market", choices=("spot", "usdm"), default=default.market, help="(default %(default)s)")
    add(
        "--rate",
        type=float,
        default=default.rate,
        help="trades per second in all, mean (default %(default)s)",
    )
    add("--seed", type=int, default=default.seed, help="same seed, same market (default %(default)s)")
    add("--start", type=_time, default=None, help="exchange time of the opening (default: now)")
    add(
        "--speed", type=float, default=default.speed, help="exchange seconds per second (default %(default)s)"
    )
    add("--history", type=_days, default=7.0, help="days of past to be asked for (default %(default)s)")
    add("--recording", nargs="+", default=(), metavar="PATH", help="play these files instead of the model")
    add("--keep-times", action="store_true", help="play a recording at its own times, not shifted to now")
    add("--clock-offset", type=float, default=0.0, help="seconds that the exchange's clock is ahead")
    add("--faults", type=int, default=None, metavar="SEED", help="show faults by a seeded schedule")
    add(
        "--fault",
        action="append",
        default=[],
        metavar="JSON",
        help='such as {"kind": "abort", "at": 30}; repeatable',
    )
    add(
        "--life",
        type=float,
        default=default.life,
        help="seconds that a connection lives (default %(default)s)",
    )
    add("--rest-latency", type=float, default=0.0, help="seconds that REST takes to answer (default 0)")
    add("--exit-with-parent", action="store_true", help="end when standard input closes")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    options = _parser().parse_args(arguments)
    # Standard output carries one line, for whoever started this; warnings go elsewhere.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        config = Config(
            symbols=options.symbols,
            market=options.market,
            rate=options.rate,
            seed=options.seed,
            host=options.host,
            port=options.port,
            start=options.start,
            speed=options.speed,
            quiet=options.quiet,
            history=int(options.history * 86_400),
            recording=tuple(options.recording),
            keep_times=options.keep_times,
            clock_offset=options.clock_offset,
            faults=tuple(fault_of(orjson.loads(text)) for text in options.fault),
            fault_seed=options.faults,
            life=options.life,
            rest_latency=options.rest_latency,
        )
        asyncio.run(_serve(Simulator(config), options.exit_with_parent))
    except (ValueError, OverflowError) as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(simulator: Simulator, exit_with_parent: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if exit_with_parent:

        def wait() -> None:
            # The parent's end of the pipe closes however the parent dies.
            while os.read(0, 4096):
                pass
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=wait, daemon=True).start()
    async with simulator:
        print(f"listening on {simulator.url}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
