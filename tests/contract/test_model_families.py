"""Oracle for every family: a served batch equals one text at a time, and both equal plain transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_classifier.model.backends.first_token import FirstTokenLayer
from stream_classifier.model.backends.torch import TorchBackend
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.directory import read
from tests.plugins.models import FAMILIES, TEXTS, make_directory

# transformers' deberta_v2 module still scripts its functions when it is imported
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

_CLOSE = 2e-4


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("families") / request.param
    return make_directory(path, family=request.param, content={})


@pytest.fixture(scope="module")
def classifier(directory: Path) -> Classifier:
    return Classifier.load(directory, device="cpu", dtype="float32")


def test_batch_answers_as_plain_transformers_does_text_by_text(directory: Path, classifier: Classifier) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    plain = []
    with torch.inference_mode():
        for text in TEXTS:
            inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            inputs = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
            plain.append(model(**inputs).logits[0].numpy())
    batch = classifier.encode(TEXTS)

    np.testing.assert_allclose(classifier.forward(batch), plain, atol=_CLOSE)


def test_last_layer_is_cut_to_the_first_token_where_the_head_reads_no_other(directory: Path) -> None:
    backend = TorchBackend(read(directory), device="cpu", dtype="float32")
    cut = any(isinstance(module, FirstTokenLayer) for module in backend._model.modules())

    assert cut == (directory.name in ("bert", "roberta", "electra"))


def test_neighbours_change_nothing(classifier: Classifier) -> None:
    batch = classifier.encode(TEXTS)
    together = classifier.forward(batch)
    order = np.random.default_rng(0).permutation(len(TEXTS))

    np.testing.assert_allclose(classifier.forward(batch.take(order)), together[order], atol=_CLOSE)
    for i in range(len(TEXTS)):
        np.testing.assert_allclose(classifier.forward(batch.take([i]))[0], together[i], atol=_CLOSE)


def test_texts_differ_in_their_answers(classifier: Classifier) -> None:
    logits = classifier.logits(TEXTS)

    assert len(np.unique(logits.round(3), axis=0)) == len(TEXTS)


def test_text_of_any_length_is_read_up_to_the_models_limit(classifier: Classifier) -> None:
    batch = classifier.encode(["word " * 5000, ""])

    assert batch.lengths_N.tolist() == [64, 2]
    assert batch.truncated_N.tolist() == [True, False]
    assert np.isfinite(classifier.forward(batch)).all()


def test_golden_cases_hold(classifier: Classifier) -> None:
    report = classifier.check_golden()

    assert report.num_cases > 0
    assert not report.failed
