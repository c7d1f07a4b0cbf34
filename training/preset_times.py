"""How long a fit of a table takes by preset, told before anything is trained."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from stream_classifier.model.backends.torch import pick_device, pick_dtype
from training.encoder import Encoder, load_encoder, quiet_transformers
from training.estimate import Speed, Work, measured_speed, training_seconds
from training.findings import Tables
from training.inspection import Inspection
from training.layers import depths_of
from training.presets import PRESETS, preset
from training.rows import Rows, pad_tokens
from training.settings import FitSettings
from training.tail import has_tail

__all__ = ["preset_seconds"]


def preset_seconds(base: str, inspection: Inspection) -> dict[str, float]:
    """What a fit on such a table takes on this machine by preset, those left out that the table cannot have. Blocks:
    the base is loaded, and a step of it measured.

    Args:
        base: a directory or a Hub name.
        inspection: of the tables, with the lengths of their texts in its tokens.

    Raises:
        ConfigError: the base does not load.
        RuntimeError: a step of it does not fit into the memory.
    """
    with quiet_transformers():
        encoder = load_encoder(base, ("a", "b"))
    tables = inspection.tables
    tokens_N = np.minimum(inspection.lengths.tokens_N, min(inspection.max_length, encoder.max_length))
    speed = _speed(encoder, tokens_N)
    num_train, num_validation = _num_rows(tables)
    work = Work(
        num_texts=num_train,
        num_tokens=round(num_train * float(tokens_N.mean())),
        num_validation_tokens=round(num_validation * float(tokens_N.mean())),
        num_layers=depths_of(encoder.model).num_layers,
        has_tail=has_tail(encoder.model),
    )
    seconds = {}
    for name in PRESETS:
        settings = preset(name).for_rows(num_train)
        if not (settings.contrastive_steps and tables.train.multi_label):
            seconds[name] = training_seconds(speed, work, settings)
    return seconds


def _speed(encoder: Encoder, tokens_N: NDArray[np.integer]) -> Speed:
    """Of texts so long; what they say does not matter."""
    config = encoder.model.config
    pad_id = int(config.pad_token_id or 0)
    word = (pad_id + 1) % config.vocab_size
    rows: Rows = [{"input_ids": np.full(length, word, dtype=np.int32), "label": np.intp(0)} for length in tokens_N]
    device = pick_device("auto")
    return measured_speed(
        encoder.model.to(device),
        rows,
        collate=functools.partial(pad_tokens, pad_id=pad_id),
        batch_size=FitSettings().batch_size,
        dtype=pick_dtype("auto", device),
    )


def _num_rows(tables: Tables) -> tuple[int, int]:
    """Rows to train and to validate on, the latter a share of the table where there is no table of them."""
    num_train = len(tables.train)
    if tables.validation is not None:
        return num_train, len(tables.validation)
    num_validation = round(FitSettings().validation_share * num_train)
    return num_train - num_validation, num_validation
