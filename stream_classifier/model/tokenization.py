"""Text to ragged token ids, with the directory's own fast tokenizer and no padding.

tokenizer.json is used directly: no Python per token, no work per text beyond copying its ids. Normalizer, pre-tokenizer
and post-processor (the special tokens) are those of the file, the same that training used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from stream_classifier.errors import ModelDirectoryError
from stream_classifier.model.protocols import TokenBatch

__all__ = ["TextTokenizer", "without_surrogates"]

_HEAD_CHARS_PER_TOKEN = 32
"""A text with more characters than this for each token kept is not tokenized as a whole, if its head will do."""

_SETTLED_WORDS = 64
"""So many words behind what is kept, the end of a head cannot change it: not a word cut in two, nor a longer token."""

_UNKNOWN = "\ue000 \ue000\U0010ffff"
"""Of private use: in nobody's vocabulary."""


class TextTokenizer:
    """Tokenizes texts for one model.

    Thread-safe: nothing is changed after construction. Whether one call uses several cores is tokenizers' own setting
    (TOKENIZERS_PARALLELISM), left to the user.

    Args:
        path: a tokenizer.json.
        max_length: tokens kept of a text, special tokens included; the rest is cut off.
        vocab_size: rows of the model's embedding; None: unknown, not checked.

    Raises:
        ModelDirectoryError: no fast tokenizer, one that fails, one with more tokens than the model has embeddings, or a
            `max_length` that its special tokens fill.
    """

    def __init__(self, path: Path, *, max_length: int, vocab_size: int | None = None) -> None:
        try:
            with _panics_are_errors():
                self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises no narrower one, whatever is wrong with the file
            raise ModelDirectoryError(path, f"it is no tokenizer ({error})", "save a fast tokenizer there") from error
        # A file saved after training holds the padding and truncation of the last call: neither may act here.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Two files that differ only in those are the same tokenizer.
        content = json.loads(self._tokenizer.to_str())
        self.fingerprint = hashlib.sha256(json.dumps([content, max_length], sort_keys=True).encode()).hexdigest()
        num_special = self._tokenizer.num_special_tokens_to_add(False)
        if num_special >= max_length:
            problem = f"it adds {num_special} special tokens to a text, the model reads {max_length} tokens in all"
            raise ModelDirectoryError(path, problem, "give the model's own max_length or max_position_embeddings")
        self._tokenizer.enable_truncation(max_length)
        self.max_length = max_length
        self._head_chars = max_length * _HEAD_CHARS_PER_TOKEN
        largest_id = max(
            [*self._tokenizer.get_vocab(with_added_tokens=True).values(), *self._probed_ids(path)], default=-1
        )
        if vocab_size is not None and largest_id >= vocab_size:
            problem = f"it makes token ids up to {largest_id}, the model has {vocab_size} embeddings"
            raise ModelDirectoryError(path, problem, "save the tokenizer that the model was trained with")

    def _probed_ids(self, path: Path) -> list[int]:
        """The ids of a text without known characters.

        A file names its special tokens and the unknown one apart from the vocabulary. One that names them wrong would
        fail at the first text only.
        """
        try:
            with _panics_are_errors():
                ids: list[int] = self._tokenizer.encode_batch_fast([_UNKNOWN])[0].ids
        except Exception as error:  # as above
            problem = f"it fails on a text of unknown characters ({error})"
            raise ModelDirectoryError(path, problem, "save the tokenizer that the model was trained with") from error
        return ids

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        """The token ids of `texts`; an empty text is its special tokens.

        Lone surrogates, which a Python string can hold and UTF-8 cannot, become U+FFFD. Of a text much longer than
        `max_length` only the head is read where that gives the same ids: ten megabytes take seconds and a gigabyte.
        """
        heads = {i: self._head(text) for i, text in enumerate(texts) if len(text) > self._head_chars}
        whole = iter(self._encodings([text for i, text in enumerate(texts) if heads.get(i) is None]))
        encodings = [next(whole) if (head := heads.get(i)) is None else head for i in range(len(texts))]
        ids = [encoding.ids for encoding in encodings]
        offsets = np.zeros(len(ids) + 1, dtype=np.int32)
        lengths = np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))
        np.cumsum(lengths, out=offsets[1:])
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(offsets[-1]))
        truncated = lengths >= self.max_length
        for i in np.flatnonzero(truncated):  # a text of just max_length tokens is whole
            truncated[i] = bool(encodings[i].overflowing)
        return TokenBatch(flat, offsets, truncated)

    def _head(self, text: str) -> Encoding | None:
        """The encoding of the text, of its head alone; None if what is kept could depend on the rest."""
        (encoding,) = self._encodings([text[: self._head_chars]], with_words=True)
        if not encoding.overflowing:
            return None
        kept, seen = _last_word(encoding), _last_word(encoding.overflowing[-1])
        return encoding if seen - kept >= _SETTLED_WORDS else None

    def _encodings(self, texts: list[str], *, with_words: bool = False) -> list[Encoding]:
        encode = self._tokenizer.encode_batch if with_words else self._tokenizer.encode_batch_fast
        with _panics_are_errors():
            try:
                encodings: list[Encoding] = encode(texts)
            except (TypeError, UnicodeEncodeError):
                encodings = encode([without_surrogates(text) for text in texts])
        return encodings


def _last_word(encoding: Encoding) -> int:
    """The number of the word that the last token belongs to, from the text's beginning; special tokens aside."""
    return max((word for word in encoding.word_ids if word is not None), default=0)


@contextmanager
def _panics_are_errors() -> Iterator[None]:
    """A panic of tokenizers' Rust code arrives as a BaseException that no package exports; whoever handles errors would
    let it end the process, where one text or one file is to blame.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(f"tokenizers panicked: {error}") from error


def without_surrogates(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD and surrogate pairs joined: always encodable as UTF-8."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
