"""Dropout by one name, whatever a model family calls its own: hidden_dropout_prob, attn_pdrop, seq_classif_dropout …"""

from __future__ import annotations

from typing import Any

from stream_classifier.errors import ConfigError

__all__ = ["set_dropout"]

# Of the head: before the last layer, and of a pooler that belongs to the classification model and not to the encoder.
_OF_HEAD = {
    "classif_dropout", "classifier_dropout", "classifier_dropout_prob", "cls_dropout", "pooler_dropout",
    "seq_classif_dropout", "summary_last_dropout",
}  # fmt: skip
_OTHERS = {"layerdrop", "encoder_layerdrop", "decoder_layerdrop", "qa_dropout"}  # whole layers; another task's head
_UNLISTED = {"deberta": "cls_dropout", "deberta-v2": "cls_dropout"}  # read from the config, but not one of its defaults


def set_dropout(config: Any, dropout: float | None, classifier_dropout: float | None) -> None:
    """Sets the dropouts of a model's configuration, before the model is made of it.

    Args:
        config: a PretrainedConfig.
        dropout: of all of them; None: as they are.
        classifier_dropout: of those of the head; None: as `dropout`.

    Raises:
        ConfigError: the family has no such setting.
    """
    names = {name for name in config.to_dict() if "drop" in name} - _OTHERS
    names |= {name for family, name in _UNLISTED.items() if family == config.model_type}
    head = names & _OF_HEAD
    for option, value, wanted in (
        ("--dropout", dropout, names),
        ("--classifier-dropout", classifier_dropout, head),
    ):
        if value is None:
            continue
        if not wanted:
            raise ConfigError(f"{option}: a {config.model_type} model has no such dropout; leave it out")
        for name in wanted:
            setattr(config, name, value)
