"""Compile kernels once for all processes: declared signatures, a cache on disk, warm-up before first use.

    @kernel("void(float64[::1], float64[::1])")
    def doubled(values, out):
        for i in range(len(values)):
            out[i] = 2.0 * values[i]

    warm_up(doubled)

A kernel may call `inlined` functions of its own file only, and the kernels it names in ``calls``: numba
stamps a cache entry with the contents of one file, and would go on using machine code in which something of
another file has changed since.
"""

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])

_signatures: dict[Any, tuple[Any, ...]] = {}
_calls: dict[Any, tuple[Callable[..., Any], ...]] = {}
_warm: set[Any] = set()
_thread_turn = threading.RLock()
_told: list[bool] = []


def kernel(
    *signatures: Any, allocates: bool = True, calls: Sequence[Callable[..., Any]] = ()
) -> Callable[[F], F]:
    """Declare a function that `warm_up` compiles: no GIL, cached on disk, division by zero as in numpy.

    :arg signatures: numba signatures, as text or types. After `warm_up` a call with other types is a
        `TypeError`: better than a stream that silently waits seconds for a compiler.
    :arg allocates: False leaves out numba's reference counts, 18 of 40 ns an update in `rolling_ols`, where
        arrays that meet a call are counted in and out. Such a kernel cannot make arrays, nor can its helpers.
    :arg calls: Kernels of other files that this one calls.
    """
    options: Any = {"nogil": True, "error_model": "numpy", "_nrt": allocates}

    def declare(function: F) -> F:
        try:
            compiled = njit(cache=True, **options)(function)
        except RuntimeError:  # neither this folder nor the user's cache folder can be written
            compiled = njit(**options)(function)
        _signatures[compiled] = signatures
        _calls[compiled] = tuple(calls)
        entry = getattr(compiled._cache, "_cache_file", None)
        if calls and entry is not None:
            others = [getattr(callee, "_cache")._cache_file for callee in calls]  # noqa: B009
            entry._source_stamp = (entry._source_stamp, *(other._source_stamp for other in others))
        return cast(F, compiled)

    return declare


def inlined(function: F) -> F:
    """Declare a helper that becomes a part of each kernel of its file that calls it."""
    return cast(F, njit(nogil=True, error_model="numpy", forceinline=True)(function))


def registered() -> list[Callable[..., Any]]:
    """Return every kernel of the modules imported so far."""
    return list(_signatures)


def warm_up(*kernels: Callable[..., Any]) -> None:
    """Load kernels from the cache, or compile them, for all declared signatures; free when already done.

    Processes that start together take turns, so that one compiles and the others load: numba writes index and
    code in two steps, between which another process would pair the new index with old code.

    :arg kernels: Functions made by `kernel`.
    """
    for compiled in kernels:
        dispatcher: Any = compiled
        if dispatcher in _warm:
            continue
        warm_up(*_calls[dispatcher])
        # Threads too: one would find the kernel closed to compilation that the other has just loaded.
        with _thread_turn, _turn(dispatcher.stats.cache_path):
            if dispatcher in _warm:
                continue
            _announce(dispatcher)
            for signature in _signatures[dispatcher]:
                dispatcher.compile(signature)
            dispatcher.disable_compile()
            _warm.add(dispatcher)


def _announce(dispatcher: Any) -> None:
    """Say once that something is going to take long."""
    entry = getattr(dispatcher._cache, "_cache_file", None)
    if not _told and entry is not None and not entry._load_index():
        _told.append(True)
        print("compiling kernels, once: about half a minute", file=sys.stderr, flush=True)


@contextmanager
def _turn(folder: str | None) -> Iterator[None]:
    """Hold the lock of a cache folder; without a folder, or on a file system without locks, go ahead."""
    if folder is None:
        yield
        return
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "kernels.lock"), "ab") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
