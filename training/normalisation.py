"""What is done to a text before it is cut into tokens, put into the tokenizer itself: tokenizer.json then holds it, and
training, serving and plain Hugging Face see the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stream_classifier.errors import ConfigError

__all__ = ["NORMALISATIONS", "check_normalisation", "normalised"]


def _replace(pattern: str, by: str) -> Callable[[Any], Any]:
    def make(normalizers: Any) -> Any:
        from tokenizers import Regex

        return normalizers.Replace(Regex(pattern), by)

    return make


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "nfc": lambda normalizers: normalizers.NFC(),
    "nfkc": lambda normalizers: normalizers.NFKC(),
    "lowercase": lambda normalizers: normalizers.Lowercase(),
    "strip-accents": lambda normalizers: normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "collapse-spaces": _replace(r"\s+", " "),
    "mask-urls": _replace(r"https?://\S+|www\.\S+", "url"),
    "mask-digits": _replace(r"\d", "0"),
}

NORMALISATIONS = tuple(_MAKERS)
"""Unicode's canonical (nfc) and compatible (nfkc) composition; lower case; letters without accents; one space for any
white space; "url" for every address; 0 for every digit."""


def check_normalisation(names: Sequence[str]) -> None:
    """Refuses names that are not known, or there twice.

    Raises:
        ConfigError: with those that are known.
    """
    for i, name in enumerate(names):
        if name not in _MAKERS:
            raise ConfigError(
                f"normalisation is {name!r}; give {', '.join(NORMALISATIONS[:-1])} or {NORMALISATIONS[-1]}"
            )
        if name in names[:i]:
            raise ConfigError(f"normalisation has {name!r} twice; give it once")


def normalised(tokenizer: Any, names: Sequence[str]) -> Any:
    """A fast tokenizer that does what `names` say, in their order, and then what `tokenizer` does.

    It is a PreTrainedTokenizerFast whatever its family: tokenizers of a family (BertTokenizer) build their normalizer
    anew from their own settings when they are loaded, and what tokenizer.json says about it would be lost.
    """
    if not names:
        return tokenizer
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    steps = [_MAKERS[name](normalizers) for name in names]
    if backend.normalizer is not None:
        steps.append(backend.normalizer)
    backend.normalizer = normalizers.Sequence(steps)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # as its annotations are
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        **tokenizer.special_tokens_map,
    )
