"""`thresholds --keep-in-scope`: a rejection rule for a model that is finished, fitted on labelled rows and stored.

Fitting it is for rejection.py, and for a model in the making too.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stream_classifier.model.classifier import Classifier
from training.answers import answer_table
from training.data import Columns
from training.manifest_updates import check_place, update_manifest
from training.reading import find_part, read_original_rows
from training.rejection import FittedRejection, fit_rejection, known_out_of_scope_label, set_apart

__all__ = ["RejectionResult", "reject"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectionResult:
    """What `reject` did: the rule, and the model directory written."""

    path: Path
    digest: str
    label: str
    rule: FittedRejection

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        return {"path": str(self.path), "digest": self.digest, "out_of_scope_label": self.label, **asdict(self.rule)}


def reject(
    model: str | Path,
    data: str | Path,
    *,
    label: str | None = None,
    keep: float = 0.95,
    score: str = "auto",
    columns: Columns | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    dtype: str = "auto",
) -> RejectionResult:
    """Fits a rejection rule to a finished model and writes it to classifier.json; other thresholds stay. Blocks.

    Args:
        model: a model directory; with `out` a Hub name too.
        data: a file, or a folder with a validation file: texts in scope, and best some out of scope.
        label: what marks those; None: as the rule that is there says, else "oos".
        keep, score: as for `fit_rejection`.
        columns, out, overwrite, device, dtype: as for `calibrate`.

    Raises:
        ConfigError: data or a place that cannot be used; nothing is written.
        ModelDirectoryError: the model does not load.
    """
    path = check_place(model, out, overwrite=overwrite)
    label = label or known_out_of_scope_label(path) or "oos"
    inside, outside = set_apart(read_original_rows(find_part(Path(data), "validation"), columns), label)
    if outside is None:
        logger.warning("no row has the label %r: the score is not chosen, and its recall not known", label)
    classifier = Classifier.load(model, device=device, dtype=dtype)
    rule = fit_rejection(
        answer_table(classifier, inside),
        None if outside is None else answer_table(classifier, outside, out_of_scope_label=label),
        keep=keep,
        score=score,
    )

    def change(content: dict[str, Any]) -> dict[str, Any]:
        return {**content, "thresholds": {**(content.get("thresholds") or {}), "rejection": rule.stored(label)}}

    digest = update_manifest(path, change, out=out)
    return RejectionResult(path=Path(path if out is None else out), digest=digest, label=label, rule=rule)
