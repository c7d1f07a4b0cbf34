"""Fuzz one harness: `python -m tests.fuzz codecs -max_total_time=60`; the options are libFuzzer's.

Inputs that reach new code go to .fuzz/NAME, beside the committed corpus. A finding is a file crash-… in the current
directory, which `python -m tests.fuzz codecs crash-…` runs again.
"""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

from tests.fuzz import CORPUS, HARNESSES
from tests.fuzz.mutations import mutate

_INSTRUMENTED = ["stream_classifier", "tomllib", "json.decoder"]


def main() -> int:
    """Run it; the exit code is libFuzzer's: 0 when nothing was found."""
    name, *options = sys.argv[1:] or [""]
    if name not in HARNESSES:
        print(f"give the name of a harness, one of {', '.join(HARNESSES)}; then options of libFuzzer", file=sys.stderr)
        return 2
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install 'stream-classifier[fuzz]'", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=_INSTRUMENTED):
        harness = importlib.import_module(f"tests.fuzz.{name}")

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return mutate(data, chance, harness.STRUCTURE)[:max_size]

    if not any(not option.startswith("-") for option in options):
        found = Path(".fuzz") / name
        found.mkdir(parents=True, exist_ok=True)
        options += [str(found), str(CORPUS / name)]
    atheris.Setup([sys.argv[0], *options], harness.fuzz, custom_mutator=mutator)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
