"""`calibrate`: probabilities made honest on labelled rows, written to the model directory, and what that was worth.

Fitting is for calibration.py.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL, Calibration
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.directory import ModelDirectory, read
from stream_classifier.model.golden import GOLDEN_NAME, write_golden
from stream_classifier.model.publish import steady_golden
from training.answers import Answers, answer_table, one_hot
from training.calibration import (
    METHODS,
    MIN_ERRORS,
    MIN_ROWS,
    NUM_FOLDS,
    FittedCalibration,
    Trial,
    enough_rows,
    fit_calibration,
    fit_temperature,
    prior_shift,
)
from training.data import Columns, Table
from training.evaluation import Evaluation, evaluate_answers
from training.lengths import token_counter
from training.manifest_updates import (
    STALE,
    STALE_WITH_LABELS,
    check_place,
    update_manifest,
    without_figures,
    without_thresholds,
)
from training.reading import find_part, read_original_rows
from training.reference import reference_of
from training.rejection import in_scope

__all__ = ["CalibrationFigures", "CalibrationResult", "calibrate", "first_calibration"]

logger = logging.getLogger(__name__)

_AUTO = "auto"
_NONE = "none"


@dataclass(frozen=True, slots=True)
class CalibrationFigures:
    """What probabilities are worth on the rows; the figures of `Evaluation`."""

    accuracy: float
    nll: float
    brier: float
    ece: float
    ece_noise_floor: float
    ece_noise_95: float

    @classmethod
    def of(cls, evaluation: Evaluation) -> CalibrationFigures:
        return cls(**{f.name: getattr(evaluation, f.name) for f in dataclasses.fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """What `calibrate` did.

    Attributes:
        path, digest: of the model directory written.
        n: rows.
        method: "temperature", "bias" (a temperature, and a bias a label), "vector" (scale and bias a label) or "none".
        scale, bias: p = softmax or sigmoid of scale·z + bias; a number, or one for each label.
        trials: the methods tried.
        before: with the calibration that was there.
        after: cross-fitted: each row by a calibration fitted on other rows.
        num_changed: rows whose label differs from that of the raw logits; plain Hugging Face would say another one.
        priors: the shares of labels it is for, where they were given.
        thresholds_removed: whether there were thresholds, which were tuned for the probabilities before.
    """

    path: Path
    digest: str
    n: int
    method: str
    scale: float | list[float] = field(repr=False)
    bias: float | list[float] = field(repr=False)
    trials: tuple[Trial, ...] = field(repr=False)
    before: CalibrationFigures
    after: CalibrationFigures
    num_changed: int
    priors: dict[str, float] | None
    thresholds_removed: bool

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        trials = [{**asdict(trial), "helps": trial.helps} for trial in self.trials]
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "path": str(self.path),
                "trials": trials, "before": asdict(self.before), "after": asdict(self.after)}  # fmt: skip


def calibrate(
    model: str | Path,
    data: str | Path,
    *,
    method: str = _AUTO,
    priors: Mapping[str, float] | None = None,
    columns: Columns | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    dtype: str = "auto",
) -> CalibrationResult:
    """Fits a calibration on labelled rows and writes it to classifier.json. Blocks.

    The rows must not be those the model was trained on, and their labels be distributed as on the stream, or else be
    corrected with `priors`. Thresholds that were stored go: they were tuned for other probabilities. `reference`
    becomes one of these rows as the model answers them then: scores and maybe labels of other rows are not known.
    Golden cases that the new probabilities bring too near a tie go.

    Args:
        model: a model directory; with `out` a Hub name too.
        data: a file, or a folder with a validation file.
        method: "temperature", "bias", "vector"; "auto": the simplest that no other beats in cross-validation by more
            than its standard error; "none": the raw logits, to which only `priors` are applied.
        priors: shares of labels on the stream, 0-1; those not named divide what is left as in the rows.
        columns: where texts and labels are.
        out: a directory to write; None: `model` itself, atomically unless golden cases go: see manifest_updates.py.
        overwrite: whether a model directory at `out` is replaced.
        device, dtype: as for `Classifier.load`: calibrate with what will serve.

    Raises:
        ConfigError: fewer than 200 rows or 5 wrong ones, priors that cannot be, a place that cannot be written.
        ModelDirectoryError: the model does not load.
    """
    if method not in (_AUTO, _NONE, *METHODS):
        raise ConfigError(f"--method {method}: give auto, none, {', '.join(METHODS)}")
    path = check_place(model, out, overwrite=overwrite)
    table = in_scope(read_original_rows(find_part(Path(data), "validation"), columns), path)
    classifier = Classifier.load(model, device=device, dtype=dtype)
    answers = answer_table(classifier, table)
    fitted = _fitted(answers, table, method)
    bias_L, shares = np.zeros(len(answers.labels)), None
    if priors:
        shares_L = answers.true_NL.mean(axis=0)
        bias_L, target_L = prior_shift(priors, shares_L, answers.labels, problem_type=answers.problem_type)
        shares = dict(zip(answers.labels, target_L.tolist(), strict=True))
    calibration = _shifted(fitted.calibration, bias_L)

    before, after = (
        evaluate_answers(_decided(answers, answers.p_NL), task=""),
        evaluate_answers(_decided(answers, fitted.p_NL), task=""),
    )
    decided = _decided(answers, calibration.probabilities(answers.logits_NL))
    raw = _decided(answers, Calibration(answers.problem_type).probabilities(answers.logits_NL))
    num_changed = int((decided.predicted_NL != raw.predicted_NL).any(axis=1).sum())
    fitted_on = {
        "rows": Path(table.source).name,
        "n": len(table),
        "folds": NUM_FOLDS,
        "nll_before": before.nll,
        "nll_after": after.nll,
        "ece_before": before.ece,
        "ece_after": after.ece,
        "priors": shares,
    }
    reference = reference_of(
        decided,
        classifier.encode(table.texts),
        unknown_id=token_counter(str(path)).unknown_id,
        rows=Path(table.source).name,
    )
    removed = False

    def change(content: dict[str, Any]) -> dict[str, Any]:
        nonlocal removed
        written = {
            "method": calibration.method,
            "scale": calibration.scale,
            "bias": calibration.bias,
            "fitted_on": fitted_on,
            "dtype": classifier.dtype,
        }
        content, removed = without_thresholds(content)
        stale = STALE if num_changed == 0 else (*STALE, *STALE_WITH_LABELS)
        return {**without_figures(content, stale), "calibration": written, "reference": reference}

    checked, target = read(path), Path(path if out is None else out)
    digest = update_manifest(path, change, out=out, rewrite=_new_golden(checked, calibration))
    _warn_of_forms(() if checked.manifest is None else checked.manifest.backends, target)
    return CalibrationResult(
        path=target,
        digest=digest,
        n=len(table),
        method=calibration.method,
        scale=_plain(calibration.scale),
        bias=_plain(calibration.bias),
        trials=fitted.trials,
        before=CalibrationFigures.of(before),
        after=CalibrationFigures.of(after),
        num_changed=num_changed,
        priors=shares,
        thresholds_removed=removed,
    )


def first_calibration(classifier: Classifier, table: Table) -> tuple[dict[str, Any] | None, NDArray[np.float64]]:
    """What a fit writes as `calibration`, a temperature or None where the rows are too few; and the rows' raw
    probabilities `[N, L]`.
    """
    answers = answer_table(classifier, table)
    scale = fit_temperature(answers.logits_NL, answers.true_NL, problem_type=answers.problem_type)
    if scale is None:
        logger.info("no calibration: it needs at least %d validation rows, %d of them wrong", MIN_ROWS, MIN_ERRORS)
        return None, answers.p_NL
    fitted_on = {"rows": "validation", "n": len(table)}
    written = {"method": "temperature", "scale": scale, "fitted_on": fitted_on, "dtype": classifier.dtype}
    return written, answers.p_NL


def _fitted(answers: Answers, table: Table, method: str) -> FittedCalibration:
    if method == _NONE:
        raw = Calibration(answers.problem_type)
        return FittedCalibration(raw, (), raw.probabilities(answers.logits_NL))
    if not enough_rows(answers.logits_NL, answers.true_NL, problem_type=answers.problem_type):
        problem = f"{len(table)} rows cannot tell a temperature: it takes {MIN_ROWS}, of which {MIN_ERRORS} are wrong"
        raise ConfigError(f"{table.source}: {problem}; give more rows, or leave the model as it is")
    methods = METHODS if method == _AUTO else (method,)
    return fit_calibration(answers.logits_NL, answers.true_NL, problem_type=answers.problem_type, methods=methods)


def _shifted(calibration: Calibration, bias_L: NDArray[np.float64]) -> Calibration:
    if not bias_L.any():
        return calibration
    bias = (np.asarray(calibration.bias) + bias_L).tolist()
    method = "prior shift" if calibration.method == _NONE else f"{calibration.method} and prior shift"
    return dataclasses.replace(calibration, method=method, bias=bias)


def _decided(answers: Answers, p_NL: NDArray[np.float64]) -> Answers:
    """The same answers with other probabilities, decided without thresholds of the model."""
    if answers.problem_type == MULTI_LABEL:
        predicted_NL = p_NL >= 0.5
    else:
        predicted_NL = one_hot(p_NL.argmax(axis=1), p_NL.shape[1])
    return dataclasses.replace(answers, p_NL=p_NL, predicted_NL=predicted_NL, scores_N=p_NL.max(axis=1))


def _new_golden(checked: ModelDirectory, calibration: Calibration) -> Callable[[Path], None] | None:
    """What writes golden.jsonl of a copy without the cases that this calibration brings too near a tie; None: all stay.

    With them the model would be refused wherever it is served in bfloat16.
    """
    cases, steady = checked.golden, steady_golden(checked, calibration)
    if len(steady) == len(cases):
        return None
    num_gone = len(cases) - len(steady)
    logger.warning("%d of %d golden texts lie too near a tie now and are golden no more", num_gone, len(cases))
    logits_NL = np.array([case.logits for case in steady], np.float32).reshape(len(steady), len(cases[0].logits))
    p_NL = calibration.probabilities(logits_NL)
    return lambda copy: write_golden(copy / GOLDEN_NAME, [case.text for case in steady], logits_NL, p_NL)


def _warn_of_forms(forms: Iterable[str], target: Path) -> None:
    for form in forms:
        option = " --backend torchao" if form == "torch-int8" else ""
        logger.warning(
            "%s was measured with the calibration before: stream-training quantize %s DATA%s measures it again",
            form, target, option,
        )  # fmt: skip


def _plain(values: Any) -> float | list[float]:
    plain: float | list[float] = np.asarray(values).tolist()
    return plain
