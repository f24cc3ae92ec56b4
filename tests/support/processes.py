"""Start processes, wait for them and end them: the flow as users run it, the server of a store, programs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.served import Served

Process = subprocess.Popen[str]


def free_port() -> int:
    """Return a port of 127.0.0.1 that no process uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of this process with these settings of pairflow and no others.

    :arg settings: by their names without PAIRFLOW_.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PAIRFLOW_")}
    return kept | {f"PAIRFLOW_{name}": value for name, value in settings.items()}


@contextmanager
def running(
    *command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, piped: bool = False
) -> Iterator[Process]:
    """Run a command; kill what still runs of it and of its own processes when the block ends.

    The command leads a group of processes, as it does in a terminal.

    :arg env: its environment, by default that of this process.
    :arg piped: whether its stdin and stdout are pipes too; its stderr always is one.
    """
    pipe = subprocess.PIPE if piped else None
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


def wait_for_line(process: Process, text: str = "") -> str:
    """Wait for a line that contains a text, on stdout if that is a pipe, else on stderr.

    :arg text: by default any line will do.
    :returns: all lines that were read, up to that one.
    :raises AssertionError: with all that the process wrote, if it ends before.
    """
    assert process.stderr
    stream = process.stdout or process.stderr
    lines = ""
    while line := stream.readline():
        lines += line
        if text in line:
            return lines
    msg = f"the process ended without {text!r}: {lines}{process.stderr.read()}"
    raise AssertionError(msg)


def finish(process: Process, code: int = 0) -> str:
    """Close the stdin of a process, if that is a pipe, and wait for its end.

    :arg code: the exit code that is expected.
    :returns: the rest of its output: of its stdout, if that is a pipe, and of its stderr.
    :raises AssertionError: with that text, if the exit code is another one or there is a traceback.
    """
    out, err = process.communicate()
    text = (out or "") + err
    assert process.returncode == code, text
    assert "Traceback" not in text, text
    return text


# ---------------------------------------------------------------------------------------------------- flow


@contextmanager
def running_flow(store: Path, *arguments: str, **settings: str) -> Iterator[Process]:
    """Run the flow on an embedded store while the block runs; see `running`.

    :arg store: folder, which the flow makes.
    :arg arguments: of the engine.
    :arg settings: by their names without PAIRFLOW_. By default the flow serves nothing.
    """
    defaults = {"CLICKHOUSE": f"chdb://{store}", "HTTP_PORT": "0", "METRICS_PORT": "0"}
    command = (sys.executable, "-m", "bytewax.run", "flows.pairs", *arguments)
    with running(*command, env=environment(**defaults | settings)) as process:
        yield process


def run_flow(store: Path, *arguments: str, **settings: str) -> None:
    """Run the flow until it ends by itself; the arguments are those of `running_flow`."""
    with running_flow(store, *arguments, **settings) as process:
        finish(process)


def run_flow_until(store: Path, query: str, **settings: str) -> None:
    """Run the flow until a query of its store has an answer, then terminate it.

    :arg query: SQL of one value; it is repeated until the value is not 0.
    :arg settings: as for `running_flow`.
    """
    port = free_port()
    with running_flow(store, HTTP_PORT=str(port), STATUS_INTERVAL="0", **settings) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError):  # no server yet
                if Served(port).ask(query).rows[0][0]:
                    process.terminate()
                    break
            time.sleep(0.5)
        finish(process)


# --------------------------------------------------------------------------------------------------- store


@contextmanager
def served(store: Path) -> Iterator[Served]:
    """Serve an embedded store that no flow has open while the block runs.

    :arg store: its folder.
    """
    port = free_port()
    command = (sys.executable, "-m", "connectors.clickhouse", "serve", str(store), "--port", str(port))
    with running(*command, env=environment()) as process:
        wait_for_line(process, "serving")
        yield Served(port)
        process.terminate()
        finish(process)


def store_statements(store: Path, *statements: str) -> None:
    """Run SQL statements on an embedded store that no process has open.

    They run in a process of their own, because a process can open only one store.

    :arg store: its folder.
    """
    program = (
        "import sys\nfrom connectors.clickhouse.store import Store\n"
        "with Store.open('chdb://' + sys.argv[1]) as store:\n"
        "    for sql in sys.argv[2:]:\n        store.client.command(sql)\n"
    )
    with running(sys.executable, "-c", program, str(store), *statements) as process:
        finish(process)
