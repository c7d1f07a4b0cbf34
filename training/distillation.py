"""A teacher to a smaller student: its answers to the training texts, a fit on them, and the gate before it is written.

The training is fine_tuning.py's and the directory fitting.py's, as for every fit; what the teacher adds is lesson.py's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import set_seed

from stream_classifier.errors import ConfigError
from stream_classifier.model.backends.pretrained import load_pretrained
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.directory import ModelDirectory, read
from stream_classifier.model.manifest import MANIFEST_NAME, Thresholds, read_json_object
from stream_classifier.model.packing import pack
from stream_classifier.model.publish import write_manifest
from stream_classifier.model.weights import weight_files
from training.data import check_known_labels
from training.dropout import set_head_dropout
from training.encoder import Encoder, find_base, load_encoder, quiet_transformers
from training.fine_tuning import fine_tune
from training.fitting import FitResult, publish_fit
from training.interrupts import Interrupts
from training.lesson import Lesson, LessonSettings
from training.manifest_updates import COMPUTED
from training.model_files import check_target
from training.normalisation import normalised
from training.parity import Parity, measure_parity, require
from training.parity_limits import DISTILL_LIMITS, ParityLimits
from training.parts import Parts, read_parts
from training.presets import STUDENT
from training.processes import Processes
from training.progress import bar
from training.rejection import known_out_of_scope_label, set_apart
from training.reporters import prepare_reporters
from training.settings import FitSettings
from training.student import kept_layers, reorder_labels, with_layers
from training.work_dir import fingerprint, work_dir

__all__ = ["DistillResult", "distill"]

logger = logging.getLogger(__name__)

_CHUNK = 512


@dataclass(frozen=True, slots=True)
class DistillResult:
    """What distilling made.

    Attributes:
        fit: the student's directory, figures and history.
        parity: what the gate saw: the teacher before, the student after.
    """

    fit: FitResult
    parity: Parity

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.fit.path),
            "digest": self.fit.digest,
            "measured_on": self.fit.measured_on,
            "accuracy_kept": self.parity.after.accuracy / max(self.parity.before.accuracy, 1e-9),
            "parity": self.parity.as_dict(),
        }


def distill(
    teacher: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    layers: int | None = None,
    settings: FitSettings | None = None,
    lesson: LessonSettings | None = None,
    unlabelled: Sequence[str] = (),
    validation: str | Path | None = None,
    test: str | Path | None = None,
    limits: ParityLimits | None = None,
    force: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    show_progress: bool = False,
) -> DistillResult:
    """Trains a student on labelled texts and its teacher's answers, and writes it if it is good enough. Blocks.

    Interrupted, or refused by the gate, it leaves its checkpoints in `out`.work: `resume` goes on, and with `force`
    writes what was refused.

    Args:
        teacher: a model directory or a Hub name.
        data, validation, test: as for `training.fit`; the gate runs on the test rows, else on the validation rows.
        out: the model directory to make.
        layers: of the teacher that the student starts from, evenly spaced; None: half of them, or with
            `settings.base` a student that starts from that.
        settings: of the training; None: those of `presets.STUDENT`. Task, positive and out-of-scope label and
            normalisation are the teacher's unless set; there is no linear probe, whatever they say.
        lesson: what the teacher counts for.
        unlabelled: more texts, which the teacher answers too.
        limits: of the gate; None: `DISTILL_LIMITS`.
        force: write it whatever the gate says.
        overwrite, resume, show_progress: as for `training.fit`.

    Raises:
        ConfigError: what cannot be used, before anything is trained.
        ParityError: the gate refuses the student; it is not written.
        TrainingError, Interrupted: as for `training.fit`.
    """
    out = Path(out)
    if Processes.started().count > 1:
        raise ConfigError("distill trains in one process; start it without torchrun")
    check_target(out, overwrite=overwrite, source=teacher)
    lesson = lesson or LessonSettings()
    settings = _check(settings or FitSettings(**STUDENT), lesson, layers)
    settings.check_processes(1)
    prepare_reporters(settings.report_to, run_name=out.name)
    checked = read(teacher)
    settings = _as_the_teacher(settings, checked)
    master = Classifier.load(teacher, dtype="float32")
    # The same tokenizer counts what is long; the default base need not be there.
    parts = read_parts(
        data, settings=replace(settings, base=settings.base or str(checked.path)), validation=validation, test=test
    )
    check_known_labels(parts.train, master.labels, known_from=f"the teacher {checked.name}")
    if set(parts.labels) != set(master.labels):
        missing = sorted(set(master.labels) - set(parts.labels))
        raise ConfigError(f"{data}: no row has the teacher's label {missing[0]!r}; give rows of all its labels")
    made_from = {
        **fingerprint(settings.resolved(), {"training": parts.train, "validation": parts.validation}, num_processes=1),
        "teacher": str(master.digest or checked.name),
        "student": [layers, lesson.temperature, lesson.hard_weight, lesson.hidden_weight],
        "unlabelled texts": hashlib.sha256(json.dumps(list(unlabelled)).encode()).hexdigest(),
    }
    with (
        Interrupts().handled() as interrupts,
        work_dir(out, made_from, resume=resume, overwrite=overwrite) as work,
        quiet_transformers(),
    ):
        set_seed(settings.seed)
        encoder, kept = _student(checked, parts, settings, layers)
        taught = _lesson(master, checked, parts, lesson, tuple(unlabelled), kept, encoder, show_progress=show_progress)
        history = fine_tune(
            encoder,
            parts,
            settings,
            work_dir=work,
            interrupts=interrupts,
            run_name=out.name,
            show_progress=show_progress,
            lesson=taught,
        )
        parities: list[Parity] = []

        def gate(aside: Path) -> None:
            logger.info("comparing with the teacher")
            rows = parts.validation if parts.test is None else parts.test
            if settings.out_of_scope_label is not None:
                rows, _ = set_apart(rows, settings.out_of_scope_label)
            student = _deciding_as(checked, aside, name=out.name)
            serving = Classifier.load(teacher)
            sizes = tuple(sum(file.stat().st_size for file in weight_files(path)) for path in (checked.path, aside))
            parities.append(
                measure_parity(
                    master, student, rows, limits=limits or DISTILL_LIMITS, sizes=(sizes[0], sizes[1]), serving=serving
                )
            )
            require(parities[0], force=force)

        told = {"teacher": checked.name, **asdict(lesson), "num_unlabelled": len(unlabelled)}
        result = publish_fit(encoder, parts, settings, history, work / "model", out, taught=told, before_replacing=gate)
    if checked.manifest is not None and checked.manifest.thresholds != Thresholds():
        fix = f"stream-training thresholds {out} DATA gives it its own"
        logger.warning("the student has no thresholds, for the teacher's are for other probabilities; %s", fix)
    return DistillResult(result, parities[0])


def _deciding_as(teacher: ModelDirectory, student: Path, *, name: str) -> Classifier:
    """The student, with the teacher's thresholds and operating point for as long as it takes to load it.

    A rejection rule stays the teacher's: it is in units of what one model says of texts out of scope.
    """
    content = read_json_object(student / MANIFEST_NAME)
    own = {key: value for key, value in content.items() if key not in COMPUTED}
    given = {} if teacher.manifest is None else teacher.manifest.thresholds.model_dump(exclude={"rejection"})
    write_manifest(student, {**own, "thresholds": given})
    try:
        return Classifier.load(student, name=name)
    finally:
        write_manifest(student, own)


def _check(settings: FitSettings, lesson: LessonSettings, layers: int | None) -> FitSettings:
    if layers is not None and settings.base is not None:
        raise ConfigError("--layers are the teacher's and --base is another model; give one of them")
    if settings.freeze_encoder:
        raise ConfigError("--freeze-encoder would keep the student's layers from learning; leave it out")
    if settings.refit_all:
        raise ConfigError("--refit-all leaves no rows to compare student and teacher on; leave it out")
    if settings.balanced_sampling:
        raise ConfigError("--balanced-sampling goes by labels, which unlabelled texts do not have; leave it out")
    if lesson.hidden_weight and settings.base is not None:
        raise ConfigError("--hidden-weight needs layers that were the teacher's; leave --base or --hidden-weight out")
    return replace(settings, linear_probe=False)  # it fits the head to labels, and a student learns from its teacher


def _as_the_teacher(settings: FitSettings, checked: ModelDirectory) -> FitSettings:
    """Task, labels with a meaning of their own and what the teacher reads of a text, where nothing else is set."""
    manifest, default = checked.manifest, FitSettings()
    taken: dict[str, Any] = {"max_length": min(settings.max_length, checked.max_length)}
    if manifest is not None:
        if settings.task == default.task:
            taken["task"] = manifest.task
        if settings.positive_label is None:
            taken["positive_label"] = manifest.positive_label
        if settings.out_of_scope_label is None:
            taken["out_of_scope_label"] = known_out_of_scope_label(checked.path)
        if not settings.normalisation:
            taken["normalisation"] = tuple(manifest.normalisation or ())
    return replace(settings, **taken)


def _student(
    checked: ModelDirectory, parts: Parts, settings: FitSettings, layers: int | None
) -> tuple[Encoder, tuple[int, ...]]:
    """The student before its training, and the teacher's layers it has; none when it starts from another base."""
    options: dict[str, Any] = {
        "problem_type": parts.problem_type,
        "dropout": settings.dropout,
        "classifier_dropout": settings.classifier_dropout,
    }
    if settings.base is not None:
        encoder = load_encoder(find_base(settings.base), parts.labels, **options)
        return replace(encoder, tokenizer=normalised(encoder.tokenizer, settings.normalisation)), ()
    # Its tokenizer normalises already.
    encoder = load_encoder(str(checked.path), parts.labels, **options)
    num_layers = int(encoder.model.config.num_hidden_layers)
    kept = kept_layers(num_layers, max(1, num_layers // 2) if layers is None else layers)
    reorder_labels(encoder.model, [checked.labels.index(label) for label in parts.labels])
    logger.info("the student has the layers %s of the teacher's %d", ", ".join(map(str, kept)), num_layers)
    name = f"{len(kept)} of {num_layers} layers of {checked.name}"
    student = with_layers(encoder.model, kept)
    set_head_dropout(student, settings.classifier_dropout)
    return replace(encoder, name=name, model=student), kept


def _lesson(
    master: Classifier,
    checked: ModelDirectory,
    parts: Parts,
    settings: LessonSettings,
    unlabelled: tuple[str, ...],
    kept: tuple[int, ...],
    encoder: Encoder,
    *,
    show_progress: bool,
) -> Lesson:
    texts = [*parts.train.texts, *unlabelled]
    order = [master.labels.index(label) for label in parts.labels]
    logger.info("the teacher answers %d texts, once", len(texts))
    answers = []
    with bar(len(texts), "teacher", unit="text", shown=show_progress) as progress:
        for start in range(0, len(texts), _CHUNK):
            answers.append(master.logits(texts[start : start + _CHUNK]))
            progress.update(len(answers[-1]))
    first_NKE = _first_tokens(checked, master, texts, kept) if settings.hidden_weight else None
    layers = tuple(range(1, len(kept) + 1))
    return Lesson(settings, unlabelled, np.concatenate(answers)[:, order], first_NKE, layers)


def _first_tokens(
    checked: ModelDirectory, master: Classifier, texts: Sequence[str], layers: Sequence[int]
) -> NDArray[np.float32]:
    """The first token's hidden states after these layers of the teacher, float32 `[N, K, E]`."""
    model = load_pretrained(checked, torch.float32)
    tokens = master.encode(texts)
    pad_id = int(getattr(model.config, "pad_token_id", None) or 0)
    first_NKE = np.empty((len(texts), len(layers), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for indices in pack(tokens.lengths_N, max_tokens=master.batch_tokens, max_records=256):
            ids_NS, real_NS = tokens.take(indices).padded(pad_id)
            output = model(
                input_ids=torch.from_numpy(ids_NS),
                attention_mask=torch.from_numpy(real_NS.astype(np.int64)),
                output_hidden_states=True,
            )
            first = [output.hidden_states[layer][:, 0] for layer in layers]
            first_NKE[indices] = torch.stack(first, dim=1).numpy()
    return first_NKE
