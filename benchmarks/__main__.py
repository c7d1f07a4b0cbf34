"""All benchmarks that run on a CPU, one after the other: `python -m benchmarks [--only NAME]`."""

from __future__ import annotations

import argparse
import importlib
import sys

from stream_classifier.errors import StreamClassifierError

NAMES = ("startup", "stream", "guarantees", "engine", "backends")


def main() -> int:
    """Run them with their defaults; each writes benchmarks/results/NAME.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=NAMES, help="one of them")
    only = parser.parse_args().only
    for name in NAMES if only is None else (only,):
        try:
            code = importlib.import_module(f"benchmarks.{name}").main([])
        except StreamClassifierError as error:
            print(f"benchmarks: {name}: {error}", file=sys.stderr)
            return 2
        if code:
            return int(code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
