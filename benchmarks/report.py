"""What every benchmark shares: fair timing, and a table that says where, on what, and how to repeat it.

times = interleaved({"ours": lambda: ours(x), "numpy": lambda: theirs(x)})
print(report("Sum of a block", "python -m benchmarks.bench_sum", rows, packages=["numpy"]))
"""

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter

Row = Mapping[str, object]
"""One line of a table: column heading -> value. All rows of a table have the same columns."""


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """Time candidates in turns, so that a noisy neighbour or a clock change hits all of them alike.

    :arg candidates: Name -> what to run; each runs once more, untimed, before the first round.
    :arg rounds: Timed runs of each.
    :returns: Name -> best time of a run, s. The best: noise only ever adds.
    """
    for run in candidates.values():
        run()
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, run in candidates.items():
            start = perf_counter()
            run()
            best[name] = min(best[name], perf_counter() - start)
    return best


def machine() -> str:
    """Name processor, usable cores, operating system and load."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.release()}"
    return f"{_processor()}, {cores} cores, {system}, load {os.getloadavg()[0]:.1f}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> str:
    """Name the interpreter and the installed versions of packages."""
    found = [f"{platform.python_implementation()} {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def markdown(rows: Sequence[Row]) -> str:
    """Lay rows out as a markdown table, numbers to the right."""
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(text) for text in texts) for texts in zip(columns, *cells)]
    right = [all(isinstance(row[column], int | float) for row in rows) for column in columns]

    def line(texts: Sequence[str]) -> str:
        padded = (t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right))
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right))
    return "\n".join([line(columns), f"|{rule}|", *map(line, cells)])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def report(title: str, command: str, rows: Sequence[Row], packages: Iterable[str], note: str = "") -> str:
    """Write a benchmark's section: table, machine, versions, and the command to repeat it.

    :arg title: Heading, with the unit of the figures.
    :arg command: How to run this benchmark again.
    :arg rows: Lines of the table.
    :arg packages: Distributions whose versions matter.
    :arg note: What was measured, and how to read it.
    :returns: Markdown.
    """
    about = f"{datetime.now(UTC):%Y-%m-%d}. {machine()}. {versions(packages)}."
    parts = [f"## {title}", *([note] if note else []), markdown(rows), about, f"Repeat: `{command}`"]
    return "\n\n".join(parts) + "\n"
