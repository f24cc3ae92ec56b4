"""Run every benchmark and print its tables: ``python -m benchmarks``."""

import importlib
import pkgutil
import sys

import benchmarks


def main() -> None:
    """Run them one after another; each measures against its peers in its own run."""
    sys.argv[1:] = []
    for module in pkgutil.iter_modules(benchmarks.__path__, "benchmarks."):
        if ".bench_" in module.name:
            print(f"running {module.name}", file=sys.stderr, flush=True)
            importlib.import_module(module.name).main()


main()
