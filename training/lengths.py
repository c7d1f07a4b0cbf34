"""How many tokens texts have: by a base's tokenizer, or estimated where none is at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model.manifest import read_json_object
from stream_classifier.model.tokenization import without_surrogates

__all__ = ["Lengths", "TokenCounter", "check_base", "estimate", "token_counter"]

_CHARACTERS_A_TOKEN = 3.7  # of English texts with BERT's vocabulary: 3.2 (mails, SMS) to 4.6 (news)
_MAX_COUNTED = 20_000  # texts: quantiles need no more


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of texts in tokens, special ones included.

    Attributes:
        tokens_N: of each text counted; of large tables every n-th.
        unknown_share: share of all tokens that the vocabulary does not have; None for an estimate.
        estimated: whether they are computed from the number of characters.
    """

    tokens_N: NDArray[np.int64]
    unknown_share: float | None
    estimated: bool

    def quantile(self, q: float) -> int:
        """The length that a share `q` of the texts does not exceed."""
        return int(np.ceil(np.quantile(self.tokens_N, q)))

    def share_over(self, max_length: int) -> float:
        """Share of the texts that are longer."""
        return float((self.tokens_N > max_length).mean())


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of texts.

    Attributes:
        count: texts to their lengths.
        max_length: tokens that the base reads; None: unknown.
        unknown_id: of the token for what the vocabulary does not have; None: there is none.
    """

    count: Callable[[Sequence[str]], Lengths]
    max_length: int | None = None
    unknown_id: int | None = None


def estimate(texts: Sequence[str]) -> Lengths:
    """Lengths from the numbers of characters; wrong by a quarter for English, by more for other scripts."""
    characters_N = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    return Lengths(np.ceil(characters_N / _CHARACTERS_A_TOKEN).astype(np.int64) + 2, None, estimated=True)


def token_counter(base: str) -> TokenCounter:
    """A counter with the tokenizer of a base: a directory, or a Hub name. Blocks.

    Raises:
        ConfigError: it has no fast tokenizer.
    """
    check_base(base)
    path = Path(base)
    if not (path / "tokenizer.json").is_file():
        return _counting(_by_transformers(base))
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # tokenizers raises no narrower one, whatever is wrong with the file
        fix = "give a base with a fast tokenizer (tokenizer.json)"
        raise ConfigError(f"--base {base}: its tokenizer does not load ({error}); {fix}") from error
    positions = read_json_object(path / "config.json").get("max_position_embeddings")
    return _counting(tokenizer, positions if isinstance(positions, int) and positions > 0 else None)


def check_base(base: str) -> None:
    """Refuses a path that is no directory of a model, and a name that cannot be had from the Hub without asking it.

    Raises:
        ConfigError: no config.json in it; or no such directory, and no name of the Hub or none in its cache while
            HF_HUB_OFFLINE is set.
    """
    path = Path(base)
    if path.exists():
        if (path / "config.json").is_file():
            return
        raise ConfigError(f"--base {base}: there is no config.json in it; give a directory that save_pretrained wrote")
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        in_cache = isinstance(try_to_load_from_cache(base, "config.json"), str)
    except HFValidationError as error:
        problem = "there is no such directory, and a name of the Hub is owner/name"
        raise ConfigError(f"--base {base}: {problem}; check the path") from error
    if constants.HF_HUB_OFFLINE and not in_cache:
        problem = f"there is no such directory, and no model of that name in the Hub's cache ({constants.HF_HUB_CACHE})"
        fix = "check the path, or unset HF_HUB_OFFLINE once so that it is fetched"
        raise ConfigError(f"--base {base}: {problem}; {fix}")


def _by_transformers(base: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(base, trust_remote_code=False).backend_tokenizer
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        problem = f"its tokenizer does not load ({reason})"
        if not Path(base).exists():
            problem = f"there is no such directory, and as a name of the Hub it does not load ({reason})"
        fix = "give a directory or a Hub name with a fast tokenizer"
        raise ConfigError(f"--base {base}: {problem}; {fix}") from error


def _counting(tokenizer: Any, max_length: int | None = None) -> TokenCounter:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    unknown_id = _unknown_id(tokenizer)

    def count(texts: Sequence[str]) -> Lengths:
        step = -(-len(texts) // _MAX_COUNTED)
        encodings = tokenizer.encode_batch_fast([without_surrogates(text) for text in texts[::step]])
        tokens_N = np.fromiter((len(e.ids) for e in encodings), dtype=np.int64, count=len(encodings))
        num_unknown = sum(e.ids.count(unknown_id) for e in encodings)
        return Lengths(tokens_N, num_unknown / max(1, int(tokens_N.sum())), estimated=False)

    return TokenCounter(count, max_length, unknown_id)


def _unknown_id(tokenizer: Any) -> int | None:
    names = [getattr(tokenizer.model, "unk_token", None), "[UNK]", "<unk>"]
    return next((i for name in names if name and (i := tokenizer.token_to_id(name)) is not None), None)
