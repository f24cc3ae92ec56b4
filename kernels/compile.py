"""Compile kernels once for all processes: declared signatures, a cache on disk, warm-up before first use.

    @kernel("void(float64[::1], float64[::1])")
    def doubled(values, out):
        for i in range(len(values)):
            out[i] = 2.0 * values[i]

    warm_up(doubled)

A kernel may call `inlined` functions of its own file only: numba stamps a cache entry with the contents of
that one file, and would go on using machine code whose helper, in another file, has changed since.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])

_signatures: dict[Any, tuple[Any, ...]] = {}
_warm: set[Any] = set()


def kernel(*signatures: Any, allocates: bool = True) -> Callable[[F], F]:
    """Declare a function that `warm_up` compiles: no GIL, cached on disk, division by zero as in numpy.

    :arg signatures: numba signatures, as text or types. After `warm_up` a call with other types is a
        `TypeError`: better than a stream that silently waits seconds for a compiler.
    :arg allocates: False leaves out numba's reference counts, 18 of 40 ns an update in `comoments`, where
        arrays that meet a call are counted in and out. Such a kernel cannot make arrays, nor can its helpers.
    """
    options: Any = {"nogil": True, "error_model": "numpy", "_nrt": allocates}

    def declare(function: F) -> F:
        try:
            compiled = njit(cache=True, **options)(function)
        except RuntimeError:  # neither this folder nor the user's cache folder can be written
            compiled = njit(**options)(function)
        _signatures[compiled] = signatures
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
        with _turn(dispatcher.stats.cache_path):
            for signature in _signatures[dispatcher]:
                dispatcher.compile(signature)
        dispatcher.disable_compile()
        _warm.add(dispatcher)


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
