"""Words replaced by what a masked-language model expects in their place (after Kobayashi 2018, without the label).

B texts, S tokens, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from stream_classifier.errors import ConfigError
from stream_classifier.model.backends.torch import pick_device
from training.encoder import base_errors, quiet_transformers

__all__ = ["MaskedModel", "word_span"]

_NUM_CANDIDATES = 10
_WORD_STARTS = ("Ġ", "▁")  # of byte-level BPE and of SentencePiece; WordPiece marks what is no start, with ##


class MaskedModel:
    """A model with a masked-language head, loaded. Not thread-safe.

    Args:
        path: a directory with safetensors weights and a fast tokenizer, as `stream-training adapt` writes.

    Raises:
        ConfigError: it does not load, or has no such head.
    """

    def __init__(self, path: Path) -> None:
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        if not (path / "config.json").is_file():
            raise ConfigError(f"--masked-model {path}: there is no config.json; give a directory that adapt wrote")
        fix = "give a directory with safetensors weights and a tokenizer"
        with quiet_transformers(), base_errors(path, option="--masked-model", fix=fix):
            self._tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model, loading = AutoModelForMaskedLM.from_pretrained(
                path, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        if loading["missing_keys"] or not self._tokenizer.is_fast or self._tokenizer.mask_token_id is None:
            problem = "it has no masked-language head, or no fast tokenizer with a mask"
            raise ConfigError(f"--masked-model {path}: {problem}; train one with stream-training adapt")
        self._device = pick_device("auto")
        self._model = model.to(self._device).eval()
        positions = getattr(model.config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        self._max_length = int(min(positions - 2, self._tokenizer.model_max_length))
        self._tokenizer.backend_tokenizer.no_padding()
        tokens = {i: token for token, i in self._tokenizer.get_vocab().items()}
        self._words = {i: word for i, token in tokens.items() if (word := self._word(token)) is not None}
        self._starts = {i for i, token in tokens.items() if token.startswith(_WORD_STARTS)}

    def substitute(self, texts: Sequence[str], rate: float, draw: random.Random) -> list[str]:
        """The texts with a share `rate` of their words, one at least, replaced; those without a plain word as they are.

        A word that is a token of its own is masked, and one of the ten likeliest other words drawn by its probability.
        What stands beyond the length that the model reads stays as it is. Blocks; the texts make one batch.
        """
        texts = list(texts)
        inputs = self._tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self._max_length,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets_BS = inputs.pop("offset_mapping").tolist()
        spans_BS = [[word_span(text, *span) for span in row] for text, row in zip(texts, offsets_BS, strict=True)]
        ids_BS = inputs["input_ids"]
        chosen: list[list[int]] = []
        for b in range(len(texts)):
            words = [s for s, span in enumerate(spans_BS[b]) if span is not None]
            number = min(len(words), max(1, round(len(words) * rate)))
            chosen.append(sorted(draw.sample(words, number), reverse=True))  # from the end: spans before stay valid
        originals_BS = ids_BS.clone()
        for b, positions in enumerate(chosen):
            ids_BS[b, positions] = self._tokenizer.mask_token_id
        with torch.inference_mode():
            logits_BSV = self._model(**{name: tensor.to(self._device) for name, tensor in inputs.items()}).logits
        for b, positions in enumerate(chosen):
            for s in positions:
                start, end = spans_BS[b][s] or (0, 0)
                word = self._draw_word(logits_BSV[b, s], int(originals_BS[b, s]), texts[b][start:end], draw)
                texts[b] = texts[b][:start] + word + texts[b][end:]
        return texts

    def _draw_word(self, logits_V: torch.Tensor, original: int, word: str, draw: random.Random) -> str:
        """One of the likeliest words in place of `word`, written as it is; `word` where there is none."""
        best = logits_V.float().topk(min(len(logits_V), 5 * _NUM_CANDIDATES))
        candidates: list[str] = []
        weights: list[float] = []
        for p, i in zip(best.values.softmax(dim=0).tolist(), best.indices.tolist(), strict=True):
            found = self._words.get(i) if (i in self._starts) == (original in self._starts) else None
            if found and found.casefold() != word.casefold() and len(candidates) < _NUM_CANDIDATES:
                candidates.append(found)
                weights.append(p)
        if not candidates:
            return word
        found = draw.choices(candidates, weights)[0]
        return found.upper() if word.isupper() and len(word) > 1 else found.capitalize() if word[0].isupper() else found

    def _word(self, token: str) -> str | None:
        """The word of letters that a token is; None for a piece of a word, a sign, a special token."""
        if token.startswith("##") or token in self._tokenizer.all_special_tokens:
            return None
        word: str = self._tokenizer.convert_tokens_to_string([token]).strip()
        return word if word.isalpha() else None


def word_span(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span of a token without the space before it, as SentencePiece has it; None for no whole word.

    >>> word_span("one, two", 4, 8), word_span("one, two", 1, 3)
    ((5, 8), None)
    """
    start += len(text[start:end]) - len(text[start:end].lstrip())
    before, after = text[:start][-1:], text[end:][:1]
    return (start, end) if text[start:end].isalpha() and not (before.isalnum() or after.isalnum()) else None
