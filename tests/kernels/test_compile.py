"""Kernels compiled by real processes with a cache folder of their own."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes import finish, running

PROGRAM = """
import json
import numpy as np
from kernels.compile import inlined, kernel, warm_up

@inlined
def twice(value):
    return {factor} * value

@kernel("void(float64[::1], float64[::1])", "void(float32[::1], float32[::1])")
def double(values, out):
    for i in range(len(values)):
        out[i] = twice(values[i])

warm_up(double)
out = np.empty(3)
double(np.arange(3.0), out)
warm_up(double)
refused = False
try:
    double(np.arange(3), out)
except TypeError:
    refused = True
stats = double.stats
print(json.dumps([sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), out.tolist(), refused]))
"""


COMPILED = "[0, 2, [0.0, 2.0, 4.0], true]"
LOADED = "[2, 0, [0.0, 2.0, 4.0], true]"


def outputs(program: Path, cache: Path, processes: int = 1, **settings: str) -> list[str]:
    """Run a program in processes that start together; return the first line of each, in sorted order."""
    env = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)} | settings
    with ExitStack() as stack:
        started = [
            stack.enter_context(running(sys.executable, str(program), env=env, piped=True))
            for _ in range(processes)
        ]
        return sorted(
            finish(process).splitlines()[0] for process in started
        )  # a message may follow on stderr


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(factor=2.0))
    return path


def test_of_processes_that_start_together_one_compiles_and_the_others_load(program: Path) -> None:
    cache = program.parent / "cache"
    assert outputs(program, cache, processes=3) == [COMPILED, LOADED, LOADED]


def test_a_changed_helper_is_compiled_anew(program: Path) -> None:
    cache = program.parent / "cache"
    assert outputs(program, cache) == [COMPILED]
    program.write_text(PROGRAM.format(factor=3.0))
    assert outputs(program, cache) == ["[0, 2, [0.0, 3.0, 6.0], true]"]


def test_without_a_folder_to_write_to_kernels_work_uncached(program: Path) -> None:
    # As in a read-only installation without a home: the only kind of place allowed is one that is not there.
    cache = program.parent / "cache"
    for _ in range(2):
        assert outputs(program, cache, NUMBA_CACHE_LOCATOR_CLASSES="ZipCacheLocator") == [COMPILED]
    assert not cache.exists()
