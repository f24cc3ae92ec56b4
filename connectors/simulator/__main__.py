"""Run the simulated exchange: ``python -m connectors.simulator --help``."""

import argparse
import asyncio
import os
import signal
import sys
import threading

from connectors.simulator.server import Config, Simulator


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m connectors.simulator", description="A Binance-compatible exchange."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--symbols", default="BTCUSDT,ETHUSDT")
    parser.add_argument("--market", choices=("spot", "usdm"), default="spot")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exit-with-parent", action="store_true")
    options = parser.parse_args(arguments)
    try:
        simulator = Simulator(
            Config(
                symbols=tuple(options.symbols.split(",")),
                market=options.market,
                rate=options.rate,
                seed=options.seed,
                host=options.host,
                port=options.port,
            )
        )
    except ValueError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    asyncio.run(_serve(simulator, options.exit_with_parent))
    return 0


async def _serve(simulator: Simulator, exit_with_parent: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if exit_with_parent:

        def wait() -> None:
            while os.read(0, 4096):
                pass
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=wait, daemon=True).start()
    async with simulator:
        print(f"listening on {simulator.url}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
