"""Compile every kernel into the cache on disk, so that no later start waits: ``python -m flows``."""

import importlib
import pkgutil
import sys
import time

import kernels
from kernels.compile import registered, warm_up


def main() -> None:
    """Compile what is not in the cache yet, and show the progress."""
    for module in pkgutil.iter_modules(kernels.__path__, "kernels."):
        importlib.import_module(module.name)
    found = registered()
    began = time.monotonic()
    for number, kernel in enumerate(found, 1):
        print(f"\rcompiling kernels, once: {number}/{len(found)}", end="", file=sys.stderr, flush=True)
        warm_up(kernel)
    print(f" in {time.monotonic() - began:.1f} s", file=sys.stderr)


main()
