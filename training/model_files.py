"""A trained model to a model directory that `stream_classifier` loads and plain `from_pretrained` too.

Files of Hugging Face first, then what stream_classifier.model.publish adds to them; the reader never sees half of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from stream_classifier.errors import ConfigError, TrainingError
from stream_classifier.model.directory import CONFIG_NAME
from stream_classifier.model.publish import finish_directory, replace_directory
from training.encoder import Encoder

__all__ = ["NUM_GOLDEN", "check_target", "finish", "pick_golden", "save_files", "written_aside"]

NUM_GOLDEN = 24


def check_target(out: Path, *, overwrite: bool, source: str | Path | None = None) -> None:
    """Refuses a place where a model directory cannot be put, before hours are spent on making it.

    Args:
        overwrite: whether a model directory at `out` is replaced.
        source: the directory that it is made of, where there is one; it may be a Hub name.

    Raises:
        ConfigError: with the fix.
    """
    if source is not None and Path(source).resolve() in out.resolve().parents:
        raise ConfigError(f"--out {out} is within {source}, which it is made of; give a directory beside that")
    if out.is_dir():
        if not any(out.iterdir()):
            return
        if not overwrite:
            raise ConfigError(f"--out {out} is there already; give another one, or --overwrite")
        if not (out / CONFIG_NAME).is_file():
            raise ConfigError(f"--out {out} is no model directory, so --overwrite leaves it alone; give another one")
    elif out.exists():
        raise ConfigError(f"--out {out} is a file; give a directory")


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """An empty directory beside `out` that takes its place when the block ends, and goes away when it fails.

    Raises:
        ConfigError: nothing can be written there.
        TrainingError: a copy or weights could not be written, as on a full disk; other OSErrors pass through.
    """
    aside = out.parent / f".{out.name}.{os.getpid()}.new"
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{out}: nothing can be written beside it ({error.strerror}); give another --out") from error
    try:
        yield aside
        replace_directory(aside, out)
    except (shutil.Error, SafetensorError) as error:
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # of all its files the first
        fix = "free some space if the disk is full, and give the same command again"
        raise TrainingError(f"{out}: it cannot be written ({reason}); {fix}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def save_files(encoder: Encoder, directory: Path) -> None:
    """Writes config.json, the tokenizer's files and model.safetensors.

    Raises:
        TrainingError: the disk is full.
        OSError: anything else that keeps files from being written.
    """
    try:
        encoder.model.save_pretrained(directory)
        encoder.tokenizer.save_pretrained(directory)
    except SafetensorError as error:  # what a full disk is to safetensors; OSError passes through
        raise TrainingError(f"the model cannot be saved ({error}); free some space and try again") from error


def finish(directory: Path, content: Mapping[str, Any], *, golden_texts: Sequence[str], card: str) -> str:
    """Writes golden.jsonl, classifier.json and README.md beside the files of `save_files`; returns the digest."""
    (directory / "README.md").write_text(card, "utf-8")
    return finish_directory(directory, content, golden_texts=golden_texts)


def pick_golden(texts: Sequence[str], p_NL: NDArray[np.float64]) -> list[str]:
    """At most 24 of the texts, for golden.jsonl: all labels in turn, the surest of each first.

    A golden case shall tell a model that answers otherwise from one that rounds otherwise, as every reduced precision
    does. Near a border between labels rounding alone moves a probability by more than the tolerance.
    """
    predicted_N = p_NL.argmax(axis=1)
    surest_first = np.argsort(-p_NL.max(axis=1), kind="stable")
    turn_of = {int(i): turn for label in np.unique(predicted_N)
               for turn, i in enumerate(surest_first[predicted_N[surest_first] == label])}  # fmt: skip
    order = sorted(range(len(texts)), key=lambda i: (turn_of[i], predicted_N[i]))
    picked = dict.fromkeys(texts[i] for i in order)
    return list(picked)[:NUM_GOLDEN]
