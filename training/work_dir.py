"""DIR.work, beside the model directory DIR while it is being made: the checkpoints, the journal of a search, and
what they were made from. Tables that take long have one too.

It is there while a run goes on, and stays when one is interrupted after a checkpoint. A lock keeps two runs from one
place; it ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stream_classifier.errors import ConfigError
from training.callbacks import DivergedError
from training.checkpoints import last_checkpoint
from training.data import Table
from training.interrupts import Interrupted

__all__ = ["JOURNAL_NAME", "MADE_NAME", "SEARCH_NAME", "check_space", "fingerprint", "work_dir", "work_path"]

logger = logging.getLogger(__name__)

SEARCH_NAME = "search"
JOURNAL_NAME = "trials.log"
MADE_NAME = "made.jsonl"
_FINGERPRINT = "fit.json"
_LOCK = "lock"
_CHANGE_NOTHING = {"checkpoint_steps", "golden_texts", "report_to"}


def work_path(out: Path) -> Path:
    """DIR.work of a model directory; absolute, as checkpoints name each other by it."""
    out = out.absolute()
    return out.with_name(f"{out.name}.work")


def fingerprint(settings: Any, tables: Mapping[str, Table], *, num_processes: int) -> dict[str, Any]:
    """What decides the course of a work: a checkpoint can only be gone on from with the same.

    Args:
        settings: a dataclass, as `FitSettings`.
        tables: what is trained on, by the name of its part.
        num_processes: see `Processes`.
    """
    content: dict[str, Any] = {name: value for name, value in asdict(settings).items() if name not in _CHANGE_NOTHING}
    for name, table in tables.items():
        rows = hashlib.sha256()
        for text, label_set in zip(table.texts, table.label_sets, strict=True):
            rows.update(json.dumps([text, label_set]).encode())
        content[f"{name} rows"] = rows.hexdigest()
    content["processes"] = num_processes
    parsed: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return parsed


@contextmanager
def work_dir(out: Path, made_from: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """DIR.work, locked: with the checkpoints to go on from when `resume`, else empty. It goes away when the block ends,
    unless what ends it can be gone on from.

    Args:
        out: DIR.
        made_from: see `fingerprint`.
        resume: go on from the last whole checkpoint; from the beginning where there is none.
        overwrite: without `resume`, throw checkpoints away that are there.

    Raises:
        ConfigError: checkpoints are there and neither was said, they were made from something else, another run is
            at work there, or nothing can be written there.
        Interrupted: as it came out of the block, saying how to go on.
    """
    path = work_path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / _LOCK).open("a+")
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}; give a place that can be written to") from error
    with lock:
        _take(lock, path)
        _prepare(path, out, made_from, resume=resume, overwrite=overwrite)
        try:
            yield path
        except Interrupted as error:
            if _checkpoint(path) is None:
                shutil.rmtree(path)
                raise Interrupted("interrupted: nothing was written", error.signum) from error
            message = f"{error}; the same command with --resume goes on from the checkpoint in {path.name}/"
            raise Interrupted(message, error.signum) from error
        except BaseException as error:
            # A diverged fit would diverge again; anything else, as a full disk, may be mended and gone on from.
            if isinstance(error, DivergedError) or _checkpoint(path) is None:
                shutil.rmtree(path)
            raise
        shutil.rmtree(path)


def check_space(place: Path, *, num_parameters: int, num_trained: int, num_copies: int = 1) -> None:
    """Refuses a disk that cannot hold the checkpoints and the model, before hours are spent on them.

    Held at once, in float32: the best checkpoint, the last and the next, each with AdamW's two means of what is
    trained; and the model. What lies in `place` already is a part of that.

    Args:
        num_copies: of the weights in a checkpoint.

    Raises:
        ConfigError: with what is needed and what is free.
    """
    needed = 3 * (4 * num_copies * num_parameters + 8 * num_trained) + 4 * num_parameters
    there = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    free = shutil.disk_usage(place).free + there
    if free < needed:
        raise ConfigError(
            f"{place}: checkpoints and model need up to {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; "
            "free some space, or give a directory on another disk"
        )


def _checkpoint(path: Path) -> Path | None:
    """What can be gone on from: the last whole checkpoint, the journal of a search, texts that were made, or folds that
    were begun."""
    kept = (path / SEARCH_NAME / JOURNAL_NAME, path / MADE_NAME, *path.glob("fold-*/*"))
    return last_checkpoint(path) or next((file for file in kept if file.exists()), None)


def _take(lock: Any, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip()
        raise ConfigError(f"{path}: another run is at work there (process {holder}); give another --out") from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def _prepare(path: Path, out: Path, made_from: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
    checkpoint = _checkpoint(path)
    if checkpoint is not None and resume:
        _check_same(path, made_from)
        logger.info("resuming from %s", checkpoint)
        return
    if checkpoint is not None and not overwrite:
        raise ConfigError(
            f"--out {out}: an interrupted run is in {path.name}/; --resume goes on with it, --overwrite starts anew"
        )
    files = [old.name for old in path.iterdir() if old.name != _LOCK]
    if files and _FINGERPRINT not in files:
        place = f"{path.name}/ is where its checkpoints go"
        raise ConfigError(f"--out {out}: {place}, and {files[0]} is there, which is none; move it away")
    if resume:
        logger.info("there is no checkpoint in %s: starting from the beginning", path)
    for old in path.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
        elif old.name != _LOCK:
            old.unlink()
    (path / _FINGERPRINT).write_text(json.dumps(made_from, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _check_same(path: Path, made_from: Mapping[str, Any]) -> None:
    try:
        before: dict[str, Any] = json.loads((path / _FINGERPRINT).read_text("utf-8"))
    except (OSError, ValueError) as error:
        fix = "give --overwrite without --resume to start anew"
        raise ConfigError(f"{path / _FINGERPRINT}: it cannot be read ({error!r}); {fix}") from error
    for name in [*before, *made_from]:
        if before.get(name) != made_from.get(name):
            is_rows = name.endswith(" rows")
            seen = "other rows" if is_rows else f"{before.get(name)!r}, not {made_from.get(name)!r}"
            raise ConfigError(
                f"--resume: the interrupted run had as {name} {seen}; give the same, "
                "or --overwrite without --resume to start anew"
            )
