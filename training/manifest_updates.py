"""Changes classifier.json of a finished model directory, in place or in a copy, and renews its card.

Whoever reads the directory finds the old model or the new one. classifier.json alone is replaced atomically; where
other files change too, the whole directory is replaced by a copy, and nothing is there for the moment between two
renames. The weights are never touched.
"""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_classifier.errors import ConfigError
from stream_classifier.model import directory
from stream_classifier.model.manifest import MANIFEST_NAME, read_json_object
from stream_classifier.model.publish import write_manifest
from training.card import write_card
from training.documents import write_documents
from training.interrupts import Interrupted
from training.model_files import check_target, written_aside
from training.rejection import keep_label, out_of_scope_label_in

__all__ = [
    "COMPUTED",
    "STALE",
    "STALE_WITH_LABELS",
    "check_place",
    "renew_documents",
    "update_manifest",
    "without_figures",
    "without_thresholds",
]

logger = logging.getLogger(__name__)

STALE = ("nll", "brier", "ece", "ece_noise_floor")
"""Figures that other probabilities change."""
STALE_WITH_LABELS = ("accuracy", "macro_f1", "weighted_f1")
"""Figures that other labels change, whatever decides them."""

COMPUTED = ("schema", "files")
"""Keys of classifier.json that are filled in when it is written."""


def check_place(model: str | Path, out: str | Path | None, *, overwrite: bool = False) -> Path:
    """The directory that holds `model`, once it is known that what is made of it can be written.

    Raises:
        ConfigError: `model` is a Hub name and there is no `out`, or `out` is there already, or within `model`.
        ModelDirectoryError: `model` does not load.
    """
    if out is not None:
        check_target(Path(out), overwrite=overwrite, source=model)
    elif not Path(model).is_dir():
        raise ConfigError(f"{model} is no directory, so it cannot be changed; give --out for a directory of its own")
    return directory.read(model).path


def update_manifest(
    path: Path,
    change: Callable[[dict[str, Any]], Mapping[str, Any]],
    *,
    out: str | Path | None = None,
    rewrite: Callable[[Path], None] | None = None,
) -> str:
    """Replaces classifier.json of the directory at `path`, or writes a copy of it to `out`; returns the new digest.

    Args:
        path: a model directory; without a classifier.json it gets one.
        change: makes the new content of the old; neither has `schema` and `files`, which are filled in.
        out: None: in place.
        rewrite: is given a copy of the directory, to change other files that loading reads; `path` is then replaced by
            it as a whole.
    """
    if out is None and rewrite is None:
        content, digest = _write(path, change)
        try:
            renew_documents(path, content, name=path.resolve().name)
        except KeyboardInterrupt as error:
            done = f"{MANIFEST_NAME} is written, card and report are not: stream-training report {path} renews them"
            raise Interrupted(f"interrupted: {done}", getattr(error, "signum", signal.SIGINT)) from error
        return digest
    target = path.resolve() if out is None else Path(out)
    with written_aside(target) as aside:
        shutil.copytree(path, aside, dirs_exist_ok=True)
        if rewrite is not None:
            rewrite(aside)
        content, digest = _write(aside, change)
        renew_documents(aside, content, name=target.name)
    return digest


def renew_documents(path: Path, content: Mapping[str, Any], *, name: str) -> None:
    """Writes what tells people of a model anew from what classifier.json says now: the card, the report."""
    write_card(path, content, name=name)
    write_documents(path, name=name)


def without_thresholds(content: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The content less the thresholds that another calibration invalidates, and whether there were any.

    A rejection rule by energy stays: it reads the raw logits. Of another one the label stays.
    """
    old = {name: value for name, value in content.get("thresholds", {}).items() if value not in (None, {})}
    kept = {"rejection": old["rejection"]} if old.get("rejection", {}).get("score") == "energy" else {}
    gone = old.keys() - kept.keys() - {"tuned_for"}
    if not gone:
        return dict(content), False
    new = {**content, "thresholds": kept}
    if "rejection" not in gone:
        return new, True
    fix = "stream-training thresholds MODEL ROWS --keep-in-scope 0.95 fits another"
    logger.warning("the rejection rule by %s was fitted to other probabilities and is removed: %s",
                   old["rejection"].get("score"), fix)  # fmt: skip
    return keep_label(new, out_of_scope_label_in(content)), True


def without_figures(content: Mapping[str, Any], stale: Sequence[str]) -> dict[str, Any]:
    """The content with these figures of the fit set to None: they are not those of this model any more."""
    training = content.get("training")
    if not isinstance(training, dict) or not isinstance(training.get("figures"), dict):
        return dict(content)
    figures = {name: None if name in stale else value for name, value in training["figures"].items()}
    return {**content, "training": {**training, "figures": figures}}


def _warn_when_refit(content: Mapping[str, Any]) -> None:
    if (content.get("training") or {}).get("refit_all"):
        logger.warning(
            "the model was trained on its validation rows too (refit_all): what is found on those flatters it; "
            "give rows that it has not seen"
        )


def _write(path: Path, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> tuple[Mapping[str, Any], str]:
    """The new content, and its digest."""
    old = read_json_object(path / MANIFEST_NAME) if (path / MANIFEST_NAME).is_file() else {}
    _warn_when_refit(old)
    content = change({key: value for key, value in old.items() if key not in COMPUTED})
    return content, write_manifest(path, content)
