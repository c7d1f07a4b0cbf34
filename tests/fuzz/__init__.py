"""Coverage-guided fuzzing of what reads bytes from outside; README.md says how to run it.

A harness is a module with `fuzz(data)`, which takes any bytes and raises for nothing but a finding: the documented
errors are caught in it, and what must hold of whatever was read is asserted.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CORPUS", "HARNESSES"]

HARNESSES = ("codecs", "configuration", "model_directory")
CORPUS = Path(__file__).parent / "corpus"
"""For each harness a folder of small inputs: those it began with, and those that reached code no other reached."""
