"""Texts translated into another language and back: the same said with other words (Sennrich et al. 2016; Edunov et al.
2018 for drawing instead of searching).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stream_classifier.errors import ConfigError
from stream_classifier.model.backends.torch import pick_device
from training.encoder import base_errors, quiet_transformers

__all__ = ["BackTranslator"]

_TOP_P = 0.9
_MAX_GROWTH = 3  # a translation this many times longer or shorter than its text has gone astray


class BackTranslator:
    """Two translation models, loaded: there and back. Not thread-safe.

    Args:
        there, back: directories with safetensors weights of Marian models, or of others that take a text as it is.

    Raises:
        ConfigError: one of them does not load.
    """

    def __init__(self, there: Path, back: Path) -> None:
        self._there = _Translator(there, "--translate-with")
        self._back = _Translator(back, "--translate-back-with")

    def translate(self, texts: Sequence[str], draw: random.Random) -> list[str]:
        """The texts there and back again, drawn from the likeliest words; equal states of `draw` give equal texts.

        A text that is too long for a model, or comes back empty or of quite another length, stays as it is. Blocks; the
        texts make one batch.
        """
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(draw.getrandbits(63))
            foreign = self._there.translate(texts)
            again = self._back.translate([text or "" for text in foreign])
        return [
            new if new and 1 / _MAX_GROWTH <= len(new) / len(old) <= _MAX_GROWTH else old
            for old, new in zip(texts, again, strict=True)
        ]


class _Translator:
    def __init__(self, path: Path, option: str) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        if not (path / "config.json").is_file():
            raise ConfigError(f"{option} {path}: there is no config.json; give the directory of a Marian model")
        fix = "give a Marian model with safetensors weights; its tokenizer needs pip install sentencepiece"
        with quiet_transformers(), base_errors(path, option=option, fix=fix):
            self._tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model = AutoModelForSeq2SeqLM.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
        self._device = pick_device("auto")
        self._model: Any = model.to(self._device).eval()
        self._max_length = int(getattr(model.config, "max_position_embeddings", 512))

    def translate(self, texts: Sequence[str]) -> list[str | None]:
        """The translations; None for a text that is empty or too long."""
        lengths = [len(ids) for ids in self._tokenizer(list(texts))["input_ids"]]
        fitting = [i for i, length in enumerate(lengths) if texts[i] and length <= self._max_length]
        results: list[str | None] = [None] * len(texts)
        if not fitting:
            return results
        inputs = self._tokenizer([texts[i] for i in fitting], padding=True, return_tensors="pt").to(self._device)
        longest = int(inputs["attention_mask"].sum(dim=1).max())
        with torch.inference_mode():
            tokens_BS = self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                top_p=_TOP_P,
                top_k=0,
                num_beams=1,
                max_new_tokens=min(2 * longest + 10, self._max_length - 1),
            )
        for i, text in zip(fitting, self._tokenizer.batch_decode(tokens_BS, skip_special_tokens=True), strict=True):
            results[i] = text.strip()
        return results
