"""`cross-validate`: what a recipe is worth on a table, by k models that each answer the fold they never saw.

Training them is for folds.py, the figures for evaluation.py, suspicious labels for label_review.py, the tables that are
written for fold_tables.py.

    N texts, L labels.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL, Calibration
from stream_classifier.model.publish import file_aside
from training.answers import Answers, one_hot, truth
from training.data import LABEL_SEPARATOR, Table, labels_of
from training.evaluation import Evaluation, evaluate_answers
from training.findings import Tables
from training.fold_tables import TABLE_NAMES, write_tables
from training.interrupts import Interrupts
from training.label_review import suspicions_of
from training.reading import find_part, read_original_rows
from training.rejection import set_apart
from training.reporters import prepare_reporters
from training.settings import FitSettings

if TYPE_CHECKING:
    from training.baseline import Baseline
    from training.folds import FoldModels

__all__ = ["CrossValidation", "FoldFigures", "SharePoint", "Spread", "cross_validate"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoldFigures:
    """One fold, answered by the model of the others."""

    n: int
    accuracy: float
    macro_f1: float
    nll: float


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the folds: its mean, and how much it moves from fold to fold."""

    mean: float
    standard_deviation: float


@dataclass(frozen=True, slots=True)
class SharePoint:
    """A point of the learning curve: what a share of the rows to train on gives."""

    share: float
    num_train: int
    accuracy: Spread
    macro_f1: Spread


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """What k models say of the rows that each of them never saw.

    Attributes:
        n: rows.
        folds: one by one.
        accuracy, macro_f1, nll: over the folds.
        evaluation: of all rows together, beside a tf-idf model out of the same folds; the probabilities are raw, as no
            rows were left to calibrate on.
        learning_curve: by rising share, the last point with all rows; empty when none was asked for.
        num_suspicious: texts whose labels look wrong.
        out: the folder with predictions.csv, review.csv and cross-validation.json; None: not written.
    """

    n: int
    folds: tuple[FoldFigures, ...] = field(repr=False)
    accuracy: Spread
    macro_f1: Spread
    nll: Spread
    evaluation: Evaluation = field(repr=False)
    learning_curve: tuple[SharePoint, ...]
    num_suspicious: int
    out: Path | None

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        figures = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            **figures,
            "folds": [asdict(fold) for fold in self.folds],
            **{name: asdict(figures[name]) for name in ("accuracy", "macro_f1", "nll")},
            "evaluation": self.evaluation.as_dict(),
            "learning_curve": [asdict(point) for point in self.learning_curve],
            "out": None if self.out is None else str(self.out),
        }


def cross_validate(
    data: str | Path,
    *,
    settings: FitSettings | None = None,
    num_folds: int = 5,
    shares: Sequence[float] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    show_progress: bool = False,
) -> CrossValidation:
    """Trains as `fit` would, `num_folds` times, each time without a fold, and asks each model about that fold. Blocks.

    With `freeze_encoder` the texts are encoded once for all folds. Rows with the settings' out-of-scope label are left
    out. Called on the main thread with `out` it handles SIGINT and SIGTERM as `training.fit` does: the folds that are
    done, and a checkpoint of the one under way, are in `out`.work.

    Args:
        data: a file, or a folder with a train file.
        settings: as for `fit`; of the rows to train on, `validation_share` chooses the epoch.
        num_folds: at least 2.
        shares: of the rows to train on, for a learning curve: every fold is trained once more for each.
        out: a folder for the tables.
        overwrite: whether the tables of an earlier call are replaced, and the folds of an interrupted one thrown away.
        resume: go on with the folds in `out`.work; from the beginning where there are none.
        show_progress: whether bars are shown on standard error when it is a terminal.

    Raises:
        ConfigError: data, settings or a place that cannot be used, before anything is trained.
        Interrupted: a signal came; a KeyboardInterrupt whose message says how to go on.
    """
    settings = settings or FitSettings()
    settings.check_processes(1)
    prepare_reporters(settings.report_to, run_name=Path(data).stem if out is None else Path(out).name)
    if resume and out is None:
        raise ConfigError("--resume goes on with what an interrupted call left beside its tables; give --out as it had")
    if num_folds < 2:
        raise ConfigError(f"--folds {num_folds}: give at least 2")
    for share in shares:
        if not 0 < share < 1:
            raise ConfigError(f"--learning-curve {share:g}: give shares above 0 and below 1, such as 0.1,0.25,0.5")
    folder = None if out is None else _checked(Path(out), overwrite=overwrite)
    table = read_original_rows(find_part(Path(data), "train"), settings.columns)
    if settings.out_of_scope_label is not None:
        table, _ = set_apart(table, settings.out_of_scope_label)
    labels = labels_of(table)

    from training.folds import FittedFolds, FrozenFolds, assign_folds
    from training.parts import inspected
    from training.work_dir import fingerprint

    inspection = inspected(Tables(table, None, None), settings)
    fold_N = assign_folds(table, num_folds, seed=settings.seed)
    empty = num_folds - len(np.unique(fold_N))
    if empty:
        raise ConfigError(f"{table.source}: its {len(table)} rows leave {empty} of {num_folds} folds empty; give fewer")
    made_from = {**fingerprint(settings.resolved(), {"training": table}, num_processes=1), "folds": num_folds}
    with Interrupts().handled() as interrupts, _kept(folder, made_from, resume=resume, overwrite=overwrite) as work:
        models: FoldModels
        if FrozenFolds.can(settings):
            models = FrozenFolds(table, labels, settings, interrupts=interrupts, show_progress=show_progress)
        else:
            models = FittedFolds(
                table, labels, settings, inspection, interrupts=interrupts, show_progress=show_progress
            )
        run = _Run(table, labels, settings, models, fold_N, work)
        curve = [run.point(share) for share in sorted(shares)]
        answers = run.answers(run.out_of_fold(1.0))
        result = run.result(answers, curve, out=folder)
        if folder is not None:
            write_tables(folder, table, answers, fold_N, figures=result.as_dict())
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    table: Table
    labels: tuple[str, ...]
    settings: FitSettings
    models: FoldModels
    fold_N: NDArray[np.intp]
    work: Path

    def train_rows(self, fold: int, share: float) -> NDArray[np.intp]:
        """The rows of the other folds, or a share of each label's."""
        rows = np.flatnonzero(self.fold_N != fold)
        if share == 1:
            return rows
        by_label: dict[str, list[int]] = {}
        for i in np.random.default_rng([self.settings.seed, fold]).permutation(rows).tolist():
            by_label.setdefault(LABEL_SEPARATOR.join(self.table.label_sets[i]), []).append(i)
        kept = [i for own in by_label.values() for i in own[: max(1, round(share * len(own)))]]
        return np.sort(np.array(kept, dtype=np.intp))

    def num_train(self, share: float) -> int:
        """Rows to train on, the mean over the folds."""
        folds = range(int(self.fold_N.max()) + 1)
        return round(float(np.mean([len(self.train_rows(fold, share)) for fold in folds])))

    def out_of_fold(self, share: float) -> NDArray[np.float32]:
        """Raw logits `[N, L]`, each row's by the model of the other folds."""
        logits_NL = np.empty((len(self.table), len(self.labels)), dtype=np.float32)
        num_folds = int(self.fold_N.max()) + 1
        for fold in range(num_folds):
            held_out = np.flatnonzero(self.fold_N == fold)
            train_rows = self.train_rows(fold, share)
            logger.info("fold %d of %d: %d rows to train on", fold + 1, num_folds, len(train_rows))
            place = self.work / f"fold-{fold}-share-{share:g}"
            logits_NL[held_out] = self._answered(place, train_rows, held_out, seed=self.settings.seed + fold)
        return logits_NL

    def _answered(
        self, place: Path, train_rows: NDArray[np.intp], held_out: NDArray[np.intp], *, seed: int
    ) -> NDArray[np.float32]:
        """What the model of one fold says, kept in `place` once it is known."""
        done = place / "logits.npy"
        if not done.exists():
            place.mkdir(exist_ok=True)
            logits = self.models.logits(train_rows, held_out, seed=seed, work_dir=place)
            with file_aside(done) as aside, aside.open("wb") as file:
                np.save(file, logits)
            for checkpoint in place.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        answered: NDArray[np.float32] = np.load(done, allow_pickle=False)
        return answered

    def answers(self, logits_NL: NDArray[np.float32]) -> Answers:
        problem_type = MULTI_LABEL if self.table.multi_label else SINGLE_LABEL
        p_NL = Calibration(problem_type).probabilities(logits_NL)
        predicted_NL = p_NL >= 0.5 if self.table.multi_label else one_hot(p_NL.argmax(axis=1), len(self.labels))
        num_texts = len(self.table)
        return Answers(
            labels=self.labels,
            problem_type=problem_type,
            logits_NL=logits_NL,
            p_NL=p_NL,
            true_NL=truth(self.table, self.labels),
            predicted_NL=predicted_NL,
            scores_N=p_NL.max(axis=1),
            accepted_N=np.any(predicted_NL, axis=1, keepdims=False),
            lengths_N=np.array([len(text) for text in self.table.texts], dtype=np.intp),
            length_unit="characters",
            truncated_N=np.zeros(num_texts, np.bool_),
        )

    def folds(self, answers: Answers) -> tuple[FoldFigures, ...]:
        found = []
        for fold in range(int(self.fold_N.max()) + 1):
            e = evaluate_answers(answers.take(self.fold_N == fold), task=self.settings.task)
            found.append(FoldFigures(e.n, e.accuracy, e.macro_f1, e.nll))
        return tuple(found)

    def baseline(self, answers: Answers) -> Baseline | None:
        """A tf-idf model out of the same folds, unless there is no word to learn from or nobody wants it."""
        from training.baseline import cross_validate_baseline, has_words

        if not (self.settings.baseline and has_words(self.table)):
            return None
        try:
            return cross_validate_baseline(self.table, self.fold_N, answers)
        except ConfigError as error:  # what the models of hours have said is kept
            logger.warning("no tf-idf baseline: %s", error)
            return None

    def result(self, answers: Answers, curve: Sequence[SharePoint], *, out: Path | None) -> CrossValidation:
        """What the answers of all folds come to; `curve` is of smaller shares of the rows."""
        folds = self.folds(answers)
        accuracy, macro_f1, nll = (_spread([getattr(fold, name) for fold in folds]) for name in
                                   ("accuracy", "macro_f1", "nll"))  # fmt: skip
        whole = [SharePoint(1.0, self.num_train(1.0), accuracy, macro_f1)] if curve else []
        return CrossValidation(
            n=len(self.table),
            folds=folds,
            accuracy=accuracy,
            macro_f1=macro_f1,
            nll=nll,
            evaluation=replace(evaluate_answers(answers, task=self.settings.task), baseline=self.baseline(answers)),
            learning_curve=(*curve, *whole),
            num_suspicious=int(suspicions_of(answers).flagged_N.sum()),
            out=out,
        )

    def point(self, share: float) -> SharePoint:
        folds = self.folds(self.answers(self.out_of_fold(share)))
        return SharePoint(share, self.num_train(share), _spread([fold.accuracy for fold in folds]),
                          _spread([fold.macro_f1 for fold in folds]))  # fmt: skip


@contextmanager
def _kept(folder: Path | None, made_from: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Where folds that are done are kept: beside the tables, or nowhere for long."""
    if folder is not None:
        from training.work_dir import work_dir

        with work_dir(folder, made_from, resume=resume, overwrite=overwrite) as work:
            yield work
        return
    with tempfile.TemporaryDirectory() as work_name:
        yield Path(work_name)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)))


def _checked(out: Path, *, overwrite: bool) -> Path:
    there = [name for name in TABLE_NAMES if (out / name).exists()]
    if there and not overwrite:
        raise ConfigError(f"--out {out}: {there[0]} is there already; give another folder, or --overwrite")
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ConfigError(f"--out {out}: {place} is no folder that can be written to; give a folder that can be made")
    return out
