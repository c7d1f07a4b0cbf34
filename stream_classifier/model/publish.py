"""The write side of the model directory: from files that save_pretrained wrote to a directory that loads verified.

Used by `training` and by tests. Everything is written in a directory aside, then renamed over the target, so that a
reader finds the old model or the new one, never half of one.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import Calibration
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.directory import CONFIG_NAME, ModelDirectory, file_sha256, files_read, read
from stream_classifier.model.golden import GOLDEN_NAME, GoldenCase, unsteady, write_golden
from stream_classifier.model.manifest import MANIFEST_NAME, SCHEMA, manifest_digest, parse_manifest
from stream_classifier.model.opening import open_model
from stream_classifier.model.tokenization import without_surrogates

__all__ = ["file_aside", "finish_directory", "replace_directory", "steady_golden", "write_manifest"]

logger = logging.getLogger(__name__)

_BACKENDS = ("torch", "auto")
_PACKAGES = ("stream-classifier", "torch", "transformers", "tokenizers")


def finish_directory(
    directory: Path,
    content: Mapping[str, Any],
    *,
    golden_texts: Sequence[str] = (),
    backends: Sequence[str] = _BACKENDS,
) -> str:
    """Completes a directory that holds the model and its fast tokenizer: golden.jsonl, classifier.json.

    Blocks: it loads the model once to answer the golden texts on the CPU, and once more to check all.

    Args:
        directory: not in use by a reader; see `replace_directory`.
        content: classifier.json without `schema` and `files`, which are filled in; `versions` gets the libraries'.
        golden_texts: a few dozen texts, of which those near a tie are left out with a warning (see golden.unsteady);
            none: no golden.jsonl, and one that is there stays as it is.
        backends: whose rounding to bfloat16 a golden text must bear; "auto" is OpenVINO where it is installed.

    Returns:
        The digest, "sha256:…".

    Raises:
        ModelDirectoryError: the directory does not load, with the file and the fix.
    """
    digest = write_manifest(directory, content)
    if golden_texts:
        texts = [without_surrogates(text) for text in golden_texts]
        (directory / GOLDEN_NAME).unlink(missing_ok=True)
        write_manifest(directory, content)
        _write_golden(directory, texts, backends)
        digest = write_manifest(directory, content)
    Classifier.load(directory, device="cpu", dtype="float32", backend="torch")
    return digest


def steady_golden(checked: ModelDirectory, calibration: Calibration) -> tuple[GoldenCase, ...]:
    """The golden cases of a finished directory that are still golden with another calibration (see golden.unsteady).

    Blocks: it loads the model to answer them in bfloat16.
    """
    cases = checked.golden
    if not cases:
        return ()
    logits_NL = np.array([case.logits for case in cases])
    texts = [case.text for case in cases]
    unsteady_N = _unsteady(checked.path, texts, logits_NL, calibration=calibration, backends=_BACKENDS)
    return tuple(case for case, is_unsteady in zip(cases, unsteady_N, strict=True) if not is_unsteady)


def write_manifest(directory: Path, content: Mapping[str, Any]) -> str:
    """Writes classifier.json with the SHA-256 of the files as they are now, and returns the digest.

    `content` as for `finish_directory`. Other steps that change a directory (thresholds, calibration) call this alone.

    Raises:
        ModelDirectoryError: a content that could not be read back.
    """
    path = directory / MANIFEST_NAME
    own = {package: version(package) for package in _PACKAGES}
    filled = {
        **content,
        "schema": SCHEMA,
        "versions": {**content.get("versions", {}), **own},
        "files": {name: file_sha256(directory / name) for name in files_read(directory)},
    }
    parse_manifest(filled, path)
    with file_aside(path) as aside:
        aside.write_text(json.dumps(filled, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    return manifest_digest(filled)


@contextmanager
def file_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, renamed over it when the block ends: a reader finds the old or the new file.

    What stops the block, a full disk or a signal, leaves the old file and nothing else.
    """
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def replace_directory(aside: Path, target: Path) -> None:
    """Puts a finished directory where a model directory was, or nothing. `aside` must be on the same file system.

    All files are on the disk before the first rename, readable by whoever may read config.json. Between the two renames
    that replace an old model nothing is at `target`; should the process be killed there, that model is beside it, as
    ".NAME.PID.old".

    Raises:
        ConfigError: the target is something else than a model directory: it is not touched.
    """
    if target.exists() and not (target / CONFIG_NAME).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is there and is no model directory; give another one, or move it away")
    readers = stat.S_IMODE((aside / CONFIG_NAME).stat().st_mode)  # safetensors lets nobody else read, umask or not
    for path in [*aside.rglob("*"), aside]:
        if path.is_file():
            path.chmod(readers)
        _sync(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        if target.exists():
            target.rename(old)
        aside.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    _sync(target.parent)
    _remove(old)


def _write_golden(directory: Path, texts: list[str], backends: Sequence[str]) -> None:
    calibration = read(directory).calibration
    logits_NL = _reference(directory).logits(texts)
    kept = np.flatnonzero(~_unsteady(directory, texts, logits_NL, calibration=calibration, backends=backends))
    if len(kept) < len(texts):
        logger.warning("%d of %d golden texts lie too near a tie to be golden", len(texts) - len(kept), len(texts))
    p_NL = calibration.probabilities(logits_NL[kept])
    write_golden(directory / GOLDEN_NAME, [texts[i] for i in kept], logits_NL[kept], p_NL)


def _unsteady(
    directory: Path,
    texts: Sequence[str],
    logits_NL: NDArray[Any],
    *,
    calibration: Calibration,
    backends: Sequence[str],
) -> NDArray[np.bool_]:
    """Bool `[N]`: which texts rounding moves too far on a backend. Each is asked once; "auto" may be torch."""
    unsteady_N, asked = np.zeros(len(texts), np.bool_), set()
    for backend in backends:
        classifier = _reference(directory, dtype="bfloat16", backend=backend)
        if classifier.backend not in asked:
            asked.add(classifier.backend)
            unsteady_N |= unsteady(logits_NL, classifier.logits(texts), probabilities=calibration.probabilities)
    return unsteady_N


def _reference(directory: Path, *, dtype: str = "float32", backend: str = "torch") -> Classifier:
    """By default what golden cases are made with, and every other backend, device and dtype is held against.

    Not held against those that are there.
    """
    return Classifier(open_model(directory, device="cpu", dtype=dtype, backend=backend))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
