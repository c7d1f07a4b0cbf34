"""Labelled rows to a model directory: read, split, train, calibrate, measure, write. Readable from top to bottom; every
step is a module of its own.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream_classifier.errors import ConfigError
from stream_classifier.model.backends.torch import pick_device
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.publish import file_aside, replace_directory, write_manifest
from training.answers import answer_table
from training.baseline import has_words
from training.card import model_card
from training.checkpoints import last_checkpoint
from training.data import TEXT_JOIN, Table
from training.documents import write_documents
from training.encoder import Encoder, quiet_transformers, starting_encoder
from training.evaluation import Evaluation, evaluate_table
from training.fine_tuning import fine_tune
from training.history import TrainingHistory
from training.interrupts import Interrupts
from training.lengths import token_counter
from training.measured import DataSummary, Measured
from training.model_files import check_target, finish, pick_golden, save_files
from training.parts import Parts, read_parts
from training.processes import Processes
from training.recalibration import first_calibration
from training.recipe import RECIPE_NAME, read_recipe, write_recipe
from training.reference import reference_of
from training.rejection import first_rejection, joined, set_apart
from training.report.opinion import Remark
from training.reporters import prepare_reporters
from training.search import check_search, search
from training.settings import FitSettings
from training.work_dir import SEARCH_NAME, fingerprint, work_dir, work_path

__all__ = ["FitResult", "fit", "publish_fit"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit made.

    Attributes:
        path: the model directory.
        digest: of the model, "sha256:…".
        evaluation: its figures, measured through `Classifier`.
        measured_on: the rows of the figures: "test", or "validation" where there are none.
        history: how the training went.
        remarks: what the report's second opinion says of all this, warnings first.
    """

    path: Path
    digest: str
    evaluation: Evaluation
    measured_on: str
    history: TrainingHistory
    remarks: tuple[Remark, ...]


def fit(
    data: str | Path,
    out: str | Path,
    *,
    settings: FitSettings | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    num_trials: int = 0,
    max_search_minutes: float | None = None,
    show_progress: bool = False,
) -> FitResult:
    """Fine-tunes a model on labelled texts and writes its directory. Blocks for minutes or hours.

    The seeds of Python, numpy and torch are set. Called on the main thread it handles SIGINT and SIGTERM while it runs:
    the step is finished and a checkpoint saved in `out`.work; killed, it leaves the last one, of the last epoch or of
    five minutes ago. The same call with `resume` gives the model that an uninterrupted one would have given.

    Under torchrun every process calls it and gets the same result; the first one writes.

    Args:
        data: a file (CSV, TSV, JSON lines, Parquet), or a folder with train, validation and test files.
        out: the model directory to make; complete or not there.
        settings: how; None: the defaults.
        validation, test: files of their own; before those of a folder. Without one for validation a part of the rows is
            kept for it; without one for test the figures are those of the validation rows.
        overwrite: whether a model directory at `out` is replaced, and checkpoints of an interrupted fit thrown away.
        resume: go on from the last checkpoint in `out`.work; from the beginning where there is none.
        num_trials: recipes to try first, on the validation rows alone (see search.py); the best one makes the model.
            0: `settings` as they are.
        max_search_minutes: no trial begins after so long.
        show_progress: whether bars are shown on standard error when it is a terminal.

    Raises:
        ConfigError: data, settings, base or place that cannot be used, before anything is trained.
        TrainingError: the loss is not a number any more, or a checkpoint cannot be saved.
        Interrupted: a signal came; a KeyboardInterrupt whose message says how to go on.
    """
    out = Path(out)
    processes = Processes.started()
    check_target(out, overwrite=overwrite)
    settings = settings or FitSettings()
    settings.check_processes(processes.count)
    check_search(num_trials, max_minutes=max_search_minutes)
    if num_trials and processes.count > 1:
        raise ConfigError("--search works in one process; search first, then fit with --config run.toml")
    prepare_reporters(settings.report_to, run_name=out.name)
    parts = read_parts(data, settings=settings, validation=validation, test=test)
    settings = settings.for_rows(len(parts.train), num_processes=processes.count)
    if parts.test is None:
        logger.info("there is no test file: the figures are those of the validation rows, which also choose the epoch")
    tables = {"training": parts.train, "validation": parts.validation}
    made_from = {**fingerprint(settings.resolved(), tables, num_processes=processes.count), "search": num_trials > 0}
    processes.connect(on_cpu=pick_device(settings.device).type == "cpu", divides=settings.fsdp)
    with (
        Interrupts().handled() as interrupts,
        work_dir(out, made_from, resume=resume, overwrite=overwrite)
        if processes.is_main
        else nullcontext(work_path(out)) as work,
        quiet_transformers(),
    ):
        processes.wait()  # until the work directory is made
        if num_trials and last_checkpoint(work) is None and not (work / RECIPE_NAME).is_file():
            settings = search(
                parts,
                settings,
                num_trials=num_trials,
                max_minutes=max_search_minutes,
                work_dir=work / SEARCH_NAME,
                interrupts=interrupts,
                show_progress=show_progress,
            ).settings
            with file_aside(work / RECIPE_NAME) as aside:
                write_recipe(settings, aside)
        elif num_trials:
            settings = FitSettings(**read_recipe(work / RECIPE_NAME))
        tune = functools.partial(
            fine_tune, settings=settings, interrupts=interrupts, run_name=out.name, show_progress=show_progress
        )
        if settings.refit_all:
            logger.info("two trainings: the first chooses the epoch, the second has the validation rows too")
        encoder = starting_encoder(settings, parts.labels, parts.problem_type)
        history = tune(encoder, parts, work_dir=work)
        judge = None
        if settings.refit_all:
            if processes.is_main:
                judge = publish_fit(encoder, parts, settings, history, work / "aside", work / "judge").path
            logger.info("training again, on the validation rows too: %d epochs", history.best_epoch)
            encoder = starting_encoder(settings, parts.labels, parts.problem_type)
            (work / "refit").mkdir(exist_ok=True)
            tune(encoder, _with_validation(parts), work_dir=work / "refit", last_epoch=history.best_epoch)
        result = None
        if processes.is_main:
            logger.info("measuring")
            result = publish_fit(encoder, parts, settings, history, work / "model", out, judge=judge)
        return processes.from_main(result)


def _with_validation(parts: Parts) -> Parts:
    """With the validation rows among those to train on. They are still looked at each epoch, and decide nothing."""
    together = joined([parts.train, parts.validation])
    assert together is not None  # there are two
    return replace(parts, train=together)


def publish_fit(
    encoder: Encoder,
    parts: Parts,
    settings: FitSettings,
    history: TrainingHistory,
    aside: Path,
    out: Path,
    *,
    judge: Path | None = None,
    taught: Mapping[str, Any] | None = None,
    before_replacing: Callable[[Path], None] | None = None,
) -> FitResult:
    """Writes the model directory at `aside`, with what it is worth, and puts it at `out`.

    Args:
        judge: a model directory like it that has not seen the validation rows, to be asked about them in its place.
        taught: of a student: its `teacher`'s name, and what else is to stand in the summary; None: of a fit.
        before_replacing: gets `aside` when it is complete; what it raises keeps it from `out`.
    """
    shutil.rmtree(aside, ignore_errors=True)  # from a fit that was killed here
    aside.mkdir()
    save_files(encoder, aside)
    history.write(aside)
    write_recipe(settings, aside / RECIPE_NAME, teacher=None if taught is None else taught["teacher"])
    training = {**_summary(parts, settings, encoder.name, history), **(taught or {})}
    content: dict[str, Any] = {
        "task": settings.task,
        "positive_label": parts.positive_label,
        "max_length": min(settings.max_length, encoder.max_length),
        "normalisation": list(settings.normalisation) or None,
        "text_join": TEXT_JOIN if len(settings.columns.text) > 1 else None,
        "training": training,
    }
    write_manifest(aside, content)
    judge = judge or aside
    calibration, p_NL = first_calibration(Classifier.load(judge), parts.validation)
    content["calibration"] = calibration
    write_manifest(aside, content)
    if settings.out_of_scope_label is not None:
        rejection = first_rejection(
            Classifier.load(judge),
            parts.validation,
            parts.outside,
            label=settings.out_of_scope_label,
            keep=settings.keep_in_scope,
        )
        content["thresholds"] = {"rejection": rejection}
        write_manifest(aside, content)
    measured_on, rows = ("validation", parts.validation) if parts.test is None else ("test", parts.test)
    judging = Classifier.load(judge, name=out.name)
    evaluation = evaluate_table(
        judging if parts.test is None or judge == aside else Classifier.load(aside, name=out.name),
        rows,
        baseline=parts.train if settings.baseline and has_words(parts.train) else None,
        out_of_scope_label=settings.out_of_scope_label,
    )
    content["training"] = {**training, "measured_on": measured_on, "figures": _figures(evaluation)}
    content["reference"] = reference_of(
        evaluation.answers if parts.test is None else answer_table(judging, parts.validation),
        judging.encode(parts.validation.texts),
        unknown_id=token_counter(str(judge)).unknown_id,
        rows="validation",
    )
    golden = settings.golden_texts
    golden_texts = pick_golden(parts.validation.texts, p_NL) if golden is None else golden
    digest = finish(
        aside, content, golden_texts=golden_texts, card=model_card(out.name, labels=parts.labels, content=content)
    )
    Measured(
        answers=evaluation.answers,
        measured_on=measured_on,
        data=DataSummary.of(parts),
        baseline=evaluation.baseline,
        outside=evaluation.outside,
    ).write(aside)
    source = write_documents(aside, name=out.name, texts=_shown_texts(rows, settings))
    if before_replacing is not None:
        before_replacing(aside)
    replace_directory(aside, out)
    return FitResult(out, digest, evaluation, measured_on, history, source.remarks)


def _summary(parts: Parts, settings: FitSettings, base: str, history: TrainingHistory) -> dict[str, Any]:
    """No times and no paths in it: the same fit gives the same digest."""
    return {
        "base": base,
        "freeze_encoder": settings.freeze_encoder,
        "contrastive_steps": settings.contrastive_steps,
        "linear_probe": settings.probes,
        "refit_all": settings.refit_all,
        "num_train": len(parts.train),
        "num_validation": len(parts.validation),
        "num_test": 0 if parts.test is None else len(parts.test),
        "epochs": history.num_epochs,
        "best_epoch": history.best_epoch,
        "learning_rate": settings.top_learning_rate,
        "batch_size": settings.batch_size,
        "max_length": settings.max_length,
        "weight_decay": settings.weight_decay,
        "ema_decay": settings.average_decay,
        "warmup_share": settings.warmup_share,
        "seed": settings.seed,
    }


def _shown_texts(rows: Table, settings: FitSettings) -> list[str] | None:
    if not settings.show_texts:
        return None
    outside = settings.out_of_scope_label
    return (rows if outside is None else set_apart(rows, outside)[0]).texts


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    names = ("n", "accuracy", "macro_f1", "weighted_f1", "nll", "brier", "ece", "ece_noise_floor")
    figures = evaluation.as_dict()
    return {name: figures[name] for name in names}
