"""Run the whole pipeline on a simulated exchange: ``python -m flows.demo``.

The simulated exchange begins anew each time, so the store of an earlier demo is deleted first: exactly the
folder ``data-demo`` below the current one, only if a demo made it (it holds `MARK`), and never while another
process uses it. With `PAIRFLOW_CLICKHOUSE` set, the demo writes there and deletes nothing.
"""

import fcntl
import os
import shutil
import sys
from pathlib import Path

from connectors.clickhouse.store import is_in_use

FOLDER = Path("data-demo")
MARK = ".made-by-pairflow-demo"
"""File that tells a demo's own folder from any other; a running demo holds a lock on it."""

_SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT,BNBUSDT"


class DemoError(Exception):
    """Why the demo cannot begin, in one line that says what to do."""


def new_folder(folder: Path) -> int:
    """Make an empty folder for a demo, in the place of the one that an earlier demo made.

    :arg folder: its path.
    :returns: descriptor of the locked mark; the lock is held until the process ends.
    :raises DemoError: when the folder was not made by a demo, is in use, or cannot be written.
    """
    mark, path = folder / MARK, folder.absolute()
    try:
        if folder.is_symlink() or (folder.exists() and not mark.is_file()):
            msg = f"{path} was not made by a demo and is left alone: move it away, or run elsewhere"
            raise DemoError(msg)
        folder.mkdir(exist_ok=True)
        lock = _lock(mark)
        if is_in_use(path):
            os.close(lock)
            raise _in_use(folder)
        for entry in folder.iterdir():
            if entry.name == MARK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    except OSError as error:
        reason = error.strerror or error
        msg = f"cannot prepare {path}: {reason}; start the demo where it may write"
        raise DemoError(msg) from None
    return lock


def _lock(mark: Path) -> int:
    """Lock the mark for as long as this process, and the flow that takes its place, runs."""
    lock = os.open(mark, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise _in_use(mark.parent) from None
    os.set_inheritable(lock, True)
    return lock


def _in_use(folder: Path) -> DemoError:
    return DemoError(f"a demo runs already and uses {folder.absolute()}: stop it first, or ask that one")


def main() -> None:
    """Begin with an empty store, and become the flow."""
    os.environ["PAIRFLOW_SOURCE"] = "simulator"
    os.environ.setdefault("PAIRFLOW_SYMBOLS", _SYMBOLS)
    if not os.environ.get("PAIRFLOW_CLICKHOUSE"):
        try:
            new_folder(FOLDER)
        except DemoError as error:
            sys.exit(f"pairflow: {error}")
        os.environ["PAIRFLOW_CLICKHOUSE"] = f"chdb://{FOLDER.absolute()}"
    os.execv(sys.executable, [sys.executable, "-m", "bytewax.run", "flows.pairs", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
