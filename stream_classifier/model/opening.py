"""Whatever `model=` names, opened: a directory or Hub name, "null", an entry point, an object.

The outcome is one value with the same fields for all of them, so that Classifier does not ask where a model came from.
Deciding on its answers, and replaying golden cases, are classifier.py's work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model import directory
from stream_classifier.model.backends.null import NullModel
from stream_classifier.model.calibration import Calibration
from stream_classifier.model.golden import GoldenCase, tolerance
from stream_classifier.model.labels import check_labels
from stream_classifier.model.manifest import Thresholds
from stream_classifier.model.protocols import ProbabilityModel, TextModel, TokenBatch, TokenModel

__all__ = ["ENTRY_POINT_GROUP", "OpenedModel", "open_model"]

ENTRY_POINT_GROUP = "stream_classifier.models"
_DEFAULT_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A model ready to answer.

    Attributes:
        encode, forward: the two halves of a model that is tokenized; both None for any other.
        answer, logits: texts to scores `[N, labels]`; both None for a model that is tokenized.
        gives_probabilities: whether `answer` gives probabilities rather than logits.
        tokenizer_fingerprint: equal for tokenizers that give equal ids; None when there is none.
        golden_tolerance: the largest |Δp| that the golden cases may show on this backend and dtype.
        path: of the model directory; None when there is none.
    """

    name: str
    labels: tuple[str, ...]
    calibration: Calibration
    backend: str
    device: str = "cpu"
    dtype: str = "float64"
    batch_tokens: int = _DEFAULT_BATCH_TOKENS
    encode: Callable[[Sequence[str]], TokenBatch] | None = None
    forward: Callable[[TokenBatch], NDArray[Any]] | None = None
    answer: Callable[[Sequence[str]], NDArray[Any]] | None = None
    logits: Callable[[Sequence[str]], NDArray[Any]] | None = None
    gives_probabilities: bool = False
    tokenizer_fingerprint: str | None = None
    task: str = "free"
    positive_label: str | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    text_join: str | None = None
    golden: tuple[GoldenCase, ...] = ()
    golden_tolerance: float = 0.0
    digest: str | None = None
    path: Path | None = None


def open_model(
    model: str | Path | TextModel,
    *,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    labels: Sequence[str] | None = None,
) -> OpenedModel:
    """Opens a model: reads and checks it, loads its weights onto the device. Blocks for seconds.

    A name is looked for as "null", as an entry point of the group `stream_classifier.models` (an object, or a class or
    function that makes one when it is called with nothing), as a directory, and on the Hub, in that order.

    Raises:
        ConfigError: settings that the model cannot follow, or an object that is no model.
        ModelDirectoryError: a directory or Hub name that cannot be used.
    """
    placement = {"device": device, "dtype": dtype, "backend": backend}
    if labels is not None and model != "null":
        raise ConfigError(f'labels are given with model = {_shown(model)}; only "null" takes them: remove labels')
    if model == "null":
        _refuse_placement(placement, backend="null", dtypes=("auto", "float64"))
        return _from_object(NullModel() if labels is None else NullModel(labels), name="null", backend="null")
    if isinstance(model, str) and (found := entry_points(group=ENTRY_POINT_GROUP, name=model)):
        _refuse_placement(placement, backend="python")
        return _from_object(_made(next(iter(found)).load()), name=model, backend="python")
    if not isinstance(model, (str, Path)):
        _refuse_placement(placement, backend="python")
        return _from_object(model, name=type(model).__name__, backend="python")
    return _from_directory(model, **placement)


def _from_directory(model: str | Path, *, device: str, dtype: str, backend: str) -> OpenedModel:
    checked = directory.read(model)
    # Here, so that null models and objects need no torch.
    from stream_classifier.model.backends.choice import open_backend
    from stream_classifier.model.tokenization import TextTokenizer

    tokenizer = TextTokenizer(checked.tokenizer_path, max_length=checked.max_length, vocab_size=checked.vocab_size)
    runner = open_backend(checked, device=device, dtype=dtype, backend=backend)
    manifest = checked.manifest
    form = checked.form(f"{runner.name}-{runner.dtype}")
    return OpenedModel(
        name=checked.name,
        labels=checked.labels,
        calibration=checked.calibration,
        backend=runner.name,
        device=runner.device,
        dtype=runner.dtype,
        batch_tokens=runner.batch_tokens,
        encode=tokenizer.encode,
        forward=runner.forward,
        tokenizer_fingerprint=tokenizer.fingerprint,
        task=manifest.task if manifest else "free",
        positive_label=manifest.positive_label if manifest else None,
        thresholds=manifest.thresholds if manifest else Thresholds(),
        text_join=manifest.text_join if manifest else None,
        golden=checked.golden,
        golden_tolerance=tolerance(runner.dtype) if form is None else form.tolerance,
        digest=checked.digest,
        path=checked.path,
    )


def _from_object(model: TextModel, *, name: str, backend: str) -> OpenedModel:
    if not isinstance(model, TextModel):
        raise ConfigError(
            f"model is an object of {type(model).__name__}, which is no TextModel: it needs labels, problem_type and "
            "logits(texts); or give the path of a model directory"
        )
    labels = check_labels(model.labels)
    calibration = Calibration(model.problem_type)
    if isinstance(model, TokenModel):
        # Its tokens are known to be the same only for the same object.
        fingerprint = f"{type(model).__qualname__}-{id(model):x}"
        return OpenedModel(
            name=name,
            labels=labels,
            calibration=calibration,
            backend=backend,
            encode=model.encode,
            forward=model.forward,
            tokenizer_fingerprint=fingerprint,
        )
    probable = isinstance(model, ProbabilityModel)
    answer = model.probabilities if isinstance(model, ProbabilityModel) else model.logits
    return OpenedModel(
        name=name,
        labels=labels,
        calibration=calibration,
        backend=backend,
        answer=answer,
        logits=model.logits,
        gives_probabilities=probable,
    )


def _made(found: Any) -> TextModel:
    """An entry point names a model, or what makes one."""
    is_model = isinstance(found, TextModel) and not isinstance(found, type)
    made: TextModel = found if is_model else found()
    return made


def _refuse_placement(placement: dict[str, str], *, backend: str, dtypes: tuple[str, ...] = ("auto",)) -> None:
    allowed = {"device": ("auto", "cpu"), "dtype": dtypes, "backend": ("auto", backend)}
    for key, value in placement.items():
        if value not in allowed[key]:
            raise ConfigError(f'{key} is {value!r}, which a {backend} model does not follow; leave it at "auto"')


def _shown(model: object) -> str:
    return repr(str(model)) if isinstance(model, (str, Path)) else f"an object of {type(model).__name__}"
