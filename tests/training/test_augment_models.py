"""Augmentation with models: tiny ones with random weights, as real in every other way."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import training
from stream_classifier.errors import ConfigError, TrainingError
from tests.plugins.models import make_directory, masked_directory
from training.augmentation.made import MadeTexts
from training.augmentation.masked import MaskedModel, word_span
from training.augmentation.settings import AugmentSettings
from training.augmentation.translation import BackTranslator
from training.reading import read_table
from training.work_dir import MADE_NAME

TEXTS = ["The quick brown fox jumps over the lazy dog.", "we report what the minister said", "42 !?", ""]


def marian_directory(path: Path, seed: int) -> Path:
    """A Marian model of one layer, with a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

    words = sorted({word for text in TEXTS for word in text.lower().strip(".").split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    config = MarianConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=32,
        pad_token_id=0,
        eos_token_id=1,
        forced_eos_token_id=1,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        MarianMTModel(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_masked_words_are_replaced_and_all_else_stays(tmp_path: Path, family: str) -> None:
    model = MaskedModel(masked_directory(tmp_path / family, family))
    seen = 0
    for seed in range(5):
        changed = model.substitute(TEXTS, 0.3, random.Random(seed))
        assert changed == model.substitute(TEXTS, 0.3, random.Random(seed))
        assert changed[2:] == TEXTS[2:]
        for before, after in zip(TEXTS[:2], changed[:2], strict=True):
            assert len(after.split()) == len(before.split())
            assert [c for c in after if not c.isalpha()] == [c for c in before if not c.isalpha()]
            different = [(b, a) for b, a in zip(before.split(), after.split(), strict=True) if a != b]
            assert len(different) <= round(len(before.split()) * 0.3)
            assert all(a[0].isupper() for b, a in different if b[0].isupper())
            seen += len(different)
    assert seen > 5


@pytest.mark.parametrize(
    ("span", "found"),
    [((0, 5), (1, 5)), ((1, 5), (1, 5)), ((1, 4), None), ((6, 7), None), ((8, 10), None), ((10, 14), None)],
)
def test_words_are_spans_of_letters_with_or_without_the_space_before(
    span: tuple[int, int], found: tuple[int, int] | None
) -> None:
    assert word_span(" over ! x2fish", *span) == found


def test_a_model_without_a_masked_language_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no masked-language head.*stream-training adapt"):
        MaskedModel(make_directory(tmp_path / "bert"))
    with pytest.raises(ConfigError, match=r"no config\.json"):
        MaskedModel(tmp_path / "none")


def test_texts_are_translated_there_and_back_the_same_for_the_same_seed(tmp_path: Path) -> None:
    translator = BackTranslator(marian_directory(tmp_path / "there", 1), marian_directory(tmp_path / "back", 2))
    texts = [*TEXTS, "dog " * 100]
    first = translator.translate(texts, random.Random(3))
    assert first == translator.translate(texts, random.Random(3))
    assert first[:2] != TEXTS[:2]
    assert first != translator.translate(texts, random.Random(4))
    assert first[3:] == texts[3:]  # the empty one, and the one that is too long
    assert all(1 / 3 <= len(new) / len(old) <= 3 for new, old in zip(first[:3], texts[:3], strict=True))


def test_a_directory_that_is_no_translation_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--translate-with .*transformers does not load it.*sentencepiece"):
        BackTranslator(make_directory(tmp_path / "bert"), tmp_path)


def test_a_killed_run_is_gone_on_with_and_makes_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["text,label", *(f"the quick brown fox said dog {i},a" for i in range(100))]))
    settings = AugmentSettings(
        methods=("typing", "masked"), copies=2, masked_model=masked_directory(tmp_path / "bert", "bert")
    )
    expected = training.augment(path, tmp_path / "whole.csv", settings=settings).path.read_bytes()
    out = tmp_path / "more.csv"
    substitute, calls = MaskedModel.substitute, [0]

    def killed(*arguments: Any) -> list[str]:
        calls[0] += 1
        if calls[0] == 3:
            raise MemoryError
        return substitute(*arguments)

    monkeypatch.setattr(MaskedModel, "substitute", killed)
    with pytest.raises(MemoryError):
        training.augment(path, out, settings=settings)
    with (tmp_path / "more.csv.work" / "made.jsonl").open("a") as file:
        file.write('["masked", 2, ["torn')
    with pytest.raises(ConfigError, match=r"an interrupted run is in more\.csv\.work/; --resume goes on with it"):
        training.augment(path, out, settings=settings)
    with pytest.raises(ConfigError, match=r"the interrupted run had as seed 0, not 1"):
        training.augment(path, out, settings=replace(settings, seed=1), resume=True)
    assert not out.exists()

    training.augment(path, out, settings=settings, resume=True)

    assert out.read_bytes() == expected
    assert calls[0] == 3 + 5, "100 texts are seven batches, and two were made"
    assert not (tmp_path / "more.csv.work").exists()


def test_what_a_torn_line_was_to_say_is_made_again_and_the_file_stays_whole(tmp_path: Path) -> None:
    MadeTexts(tmp_path).keep("masked", 0, ["one"])
    with (tmp_path / MADE_NAME).open("a") as file:
        file.write('["masked", 1, ["to')

    made = MadeTexts(tmp_path)
    assert (made.of("masked", 0), made.of("masked", 1)) == (["one"], None)
    made.keep("masked", 1, ["two\r\u2028"])

    assert MadeTexts(tmp_path).of("masked", 1) == ["two\r\u2028"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_on_a_full_disk_the_line_says_how_to_go_on(tmp_path: Path) -> None:
    made = MadeTexts(tmp_path)
    (tmp_path / MADE_NAME).symlink_to("/dev/full")
    with pytest.raises(TrainingError, match=r"cannot be kept \(No space left on device\); .* --resume"):
        made.keep("masked", 0, ["one"])


def test_texts_of_a_model_that_has_changed_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["text,label", *(f"the quick brown fox said dog {i},a" for i in range(40))]))
    model = masked_directory(tmp_path / "bert", "bert")
    settings = AugmentSettings(methods=("masked",), masked_model=model)
    with monkeypatch.context() as patch:
        patch.setattr("training.augmentation.table.write_rows", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            training.augment(path, tmp_path / "more.csv", settings=settings)
    os.utime(model / "model.safetensors", ns=(1, 1))

    with pytest.raises(ConfigError, match=r"the interrupted run had as models .*give the same"):
        training.augment(path, tmp_path / "more.csv", settings=settings, resume=True)


def test_a_table_is_augmented_with_both(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["text,label", *(f"the quick brown fox said {word},a" for word in ("dog", "what"))]))
    settings = AugmentSettings(
        methods=("masked", "translation"),
        copies=2,
        rates={"masked": 0.5},
        masked_model=masked_directory(tmp_path / "bert", "bert"),
        translate_with=marian_directory(tmp_path / "there", 1),
        translate_back_with=marian_directory(tmp_path / "back", 2),
    )
    result = training.augment(path, tmp_path / "more.csv", settings=settings)
    assert result.num_made["masked"] == 2
    assert sum(result.num_made.values()) + result.num_unchanged == 4
    assert read_table(result.path).labels == ["a"] * (2 + sum(result.num_made.values()))
