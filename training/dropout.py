"""Dropout by one name, whatever a model family calls its own: hidden_dropout_prob, attn_pdrop, seq_classif_dropout …"""

from __future__ import annotations

from typing import Any

from torch import nn

from stream_classifier.errors import ConfigError

__all__ = ["set_dropout", "set_head_dropout"]

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
        classifier_dropout: of those of the head, where the family has a name for them; None: as `dropout`.

    Raises:
        ConfigError: the family has no dropout.
    """
    names = _names(config)
    if dropout is not None:
        if not names:
            raise ConfigError(f"--dropout: a {config.model_type} model has no such dropout; leave it out")
        for name in names:
            setattr(config, name, dropout)
    if classifier_dropout is not None:
        for name in names & _OF_HEAD:
            setattr(config, name, classifier_dropout)


def set_head_dropout(model: Any, classifier_dropout: float | None) -> None:
    """Sets the dropouts of the head of a family whose configuration has no name for them (MPNet, Longformer): in the
    modules, so that it holds for this training and is not saved with the model. Any other family is left as it is.

    Args:
        model: a PreTrainedModel for sequence classification.
        classifier_dropout: None: as they are.

    Raises:
        ConfigError: its head has no dropout.
    """
    if classifier_dropout is None or _names(model.config) & _OF_HEAD:
        return
    below = set(model.base_model.modules())
    head = [module for module in model.modules() if isinstance(module, nn.Dropout) and module not in below]
    if not head:
        raise ConfigError(
            f"--classifier-dropout: the head of a {model.config.model_type} model has no dropout; leave it out"
        )
    for module in head:
        module.p = classifier_dropout


def _names(config: Any) -> set[str]:
    names = {name for name in config.to_dict() if "drop" in name} - _OTHERS
    return names | {name for family, name in _UNLISTED.items() if family == config.model_type}
