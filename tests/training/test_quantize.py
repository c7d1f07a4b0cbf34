"""Quantizing a model: what is written serves and is held to its own tolerance; what answers otherwise is refused."""

from __future__ import annotations

import csv
import importlib.util
import json
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import training
from stream_classifier import Classifier
from stream_classifier.errors import ConfigError, ModelDirectoryError
from stream_classifier.model.directory import digest
from tests.plugins.models import TEXTS, make_directory
from training.cli import cli
from training.parity import loss_bound

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="NNCF is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the libraries that quantize
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# A tiny model on few rows; it is not faster in int8, and no test asks how fast it is.
GENEROUS = training.ParityLimits(min_agreement=0.9, max_accuracy_loss=0.2, min_speedup=0)
INT8_FILES = ("backends/openvino-int8/model.bin", "backends/openvino-int8/model.xml")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("quantize") / "tiny", content={"task": "category"})


@pytest.fixture(scope="module")
def data(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with the labels that the model gives them: in float32 it is always right."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    words = sorted({word for text in TEXTS for word in text.split()})
    classifier = Classifier.load(model, device="cpu", dtype="float32", backend="torch")
    for name, number in (("train", 60), ("validation", 200)):
        texts = [" ".join(draw.choices(words, k=draw.randint(3, 20))) for _ in range(number)]
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = zip(texts, (p.label for p in classifier(texts)), strict=True)
            csv.writer(file).writerows([("text", "label"), *rows])
    return folder


@pytest.fixture(scope="module")
def quantized(model: Path, data: Path) -> tuple[Path, training.QuantizeResult]:
    out = model.parent / "int8"
    return out, training.quantize(model, data, out=out, num_calibration_texts=40, limits=GENEROUS)


@pytest.fixture
def copy(quantized: tuple[Path, training.QuantizeResult], tmp_path: Path) -> Path:
    return shutil.copytree(quantized[0], tmp_path / "copy")


def scramble(monkeypatch: pytest.MonkeyPatch) -> None:
    """The int8 form becomes that of a model whose labels are mixed up."""
    import training.quantization

    def write(checked: Any, target: Path, texts: Any, *, show_progress: bool) -> None:
        import torch

        from stream_classifier.model.backends.openvino import convert, import_openvino
        from stream_classifier.model.backends.pretrained import load_pretrained

        broken = load_pretrained(checked, torch.float32)
        with torch.no_grad():
            broken.classifier.weight.copy_(broken.classifier.weight.roll(1, dims=0))
        (target / "backends" / "openvino-int8").mkdir(parents=True)
        import_openvino().save_model(convert(broken, target), target / INT8_FILES[1], compress_to_fp16=False)

    monkeypatch.setattr(training.quantization, "write_int8", write)


def shift(monkeypatch: pytest.MonkeyPatch, offset: float) -> None:
    """The int8 form becomes one with logits that are all higher: of the same probabilities, and another energy."""
    import training.quantization

    def write(checked: Any, target: Path, texts: Any, *, show_progress: bool) -> None:
        import torch

        from stream_classifier.model.backends.openvino import convert, import_openvino
        from stream_classifier.model.backends.pretrained import load_pretrained

        shifted = load_pretrained(checked, torch.float32)
        with torch.no_grad():
            shifted.classifier.bias.add_(offset)
        (target / "backends" / "openvino-int8").mkdir(parents=True)
        import_openvino().save_model(convert(shifted, target), target / INT8_FILES[1], compress_to_fp16=False)

    monkeypatch.setattr(training.quantization, "write_int8", write)


def test_it_is_served_in_int8_and_answers_as_the_model_does(
    quantized: tuple[Path, training.QuantizeResult], model: Path, data: Path
) -> None:
    out, result = quantized
    served = Classifier.load(out, device="cpu")
    exact = Classifier.load(model, device="cpu", dtype="float32", backend="torch")
    with (data / "validation.csv").open() as file:
        texts = [row["text"] for row in csv.DictReader(file)]

    assert (served.backend, served.device, served.dtype) == ("openvino", "cpu", "int8")
    same = [a.label == b.label for a, b in zip(served(texts), exact(texts), strict=True)]
    assert np.mean(same) == result.parity.agreement >= 0.9
    assert not np.array_equal(served.logits(texts), exact.logits(texts)), "it is another form"
    assert result.form == "openvino-int8"
    assert result.num_calibration_texts == 40
    assert result.measured_on == "validation.csv"
    assert result.digest == served.digest != exact.digest


def test_the_weights_stay_and_its_files_are_listed(
    quantized: tuple[Path, training.QuantizeResult], model: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    out, result = quantized
    content = json.loads((out / "classifier.json").read_text())
    form = content["backends"]["openvino-int8"]

    assert (out / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert AutoModelForSequenceClassification.from_pretrained(out).num_labels == 3
    assert set(INT8_FILES) <= content["files"].keys()
    assert form["tolerance"] == result.tolerance
    assert form["measured"]["agreement"] == result.parity.agreement
    assert "backends" not in json.loads((model / "classifier.json").read_text())
    assert not list(model.parent.glob(".int8*"))


def test_golden_cases_are_held_to_the_tolerance_that_was_measured(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = Classifier.load(copy, device="cpu", dtype="int8").check_golden()
    assert not report.failed
    assert (
        report.tolerance == json.loads((copy / "classifier.json").read_text())["backends"]["openvino-int8"]["tolerance"]
    )

    content = json.loads((copy / "classifier.json").read_text())
    content["backends"]["openvino-int8"]["tolerance"] = report.max_difference / 10
    (copy / "classifier.json").write_text(json.dumps(content))
    with pytest.raises(ModelDirectoryError, match="golden cases differ"):
        Classifier.load(copy, device="cpu", dtype="int8")
    fallback = Classifier.load(copy, device="cpu")
    assert (fallback.backend, fallback.dtype) == ("torch", "float32")
    assert "on openvino in int8" in caplog.text


@pytest.mark.parametrize("name", INT8_FILES)
def test_a_changed_file_is_refused_by_its_digest(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)

    with pytest.raises(ModelDirectoryError, match="its SHA-256 is"):
        Classifier.load(copy, device="cpu")


@pytest.mark.parametrize("name", INT8_FILES)
def test_a_file_that_is_not_listed_is_refused(copy: Path, name: str) -> None:
    content = json.loads((copy / "classifier.json").read_text())
    del content["files"][name]
    (copy / "classifier.json").write_text(json.dumps(content))

    with pytest.raises(ModelDirectoryError, match="does not list this file"):
        Classifier.load(copy, device="cpu")


def test_without_openvino_another_precision_serves_unless_int8_is_named(
    copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    monkeypatch.setitem(sys.modules, "openvino", None)

    served = Classifier.load(copy, device="cpu")
    assert (served.backend, served.dtype != "int8") == ("torch", True)
    assert "has an int8 form for OpenVINO, which is not installed" in caplog.text
    for settings in ({}, {"backend": "openvino"}):
        with pytest.raises(ConfigError, match=r"pip install 'stream-classifier\[openvino\]'"):
            Classifier.load(copy, device="cpu", dtype="int8", **settings)


def test_by_name_the_other_precisions_are_still_there(copy: Path) -> None:
    served = Classifier.load(copy, device="cpu", dtype="float32")

    assert (served.backend, served.dtype) == ("openvino", "float32")


def test_a_broken_int8_is_refused_and_nothing_is_written(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scramble(monkeypatch)
    before = digest(model)
    with pytest.raises(training.ParityError, match="of the labels are the same") as caught:
        training.quantize(model, data, limits=GENEROUS)

    assert not caught.value.parity.passed
    assert "accuracy may be lower by up to" in str(caught.value)
    assert digest(model) == before
    assert not (model / "backends").exists()
    assert not list(model.parent.glob(f".{model.name}*"))


def test_a_refused_one_ends_with_1_and_force_writes_it(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scramble(monkeypatch)
    arguments = ["quantize", str(model), str(data), "--out", str(tmp_path / "out"), "--min-speedup", "0", "--json"]
    refused = CliRunner().invoke(cli, arguments)
    assert isinstance(refused.exception, training.ParityError)  # main() makes exit code 1 of it
    assert json.loads(refused.stdout)["written"] is False
    assert not (tmp_path / "out").exists()

    forced = CliRunner().invoke(cli, [*arguments, "--force"])
    assert forced.exit_code == 0, forced.output
    figures = json.loads(forced.stdout)
    assert figures["written"] is True
    assert figures["parity"]["passed"] is False
    assert (tmp_path / "out" / INT8_FILES[0]).is_file()


def test_bfloat16_halves_the_weights_in_a_directory_of_its_own(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --out"):
        training.quantize(model, data, dtype="bfloat16")
    result = training.quantize(model, data, dtype="bfloat16", out=tmp_path / "half", limits=GENEROUS)

    assert result.parity.after.size_bytes < 0.6 * result.parity.before.size_bytes
    assert not Classifier.load(tmp_path / "half", device="cpu", dtype="float32", backend="torch").check_golden().failed
    assert Classifier.load(tmp_path / "half").task == "category"


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_torchao_makes_int8_of_the_weights_when_they_are_loaded(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "torchao"
    result = training.quantize(model, data, backend="torchao", out=out, limits=GENEROUS)
    served = Classifier.load(out, device="cpu", dtype="int8")

    assert (served.backend, served.dtype, result.form) == ("torch", "int8", "torch-int8")
    assert not (out / "backends").exists()
    with pytest.raises(ConfigError, match="has no int8 form for torch"):
        Classifier.load(model, device="cpu", dtype="int8", backend="torch")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int4"}, "dtype is 'int4'"),
        ({"num_calibration_texts": 0}, "num_calibration_texts is 0"),
        ({"out": "{model}"}, "is there already"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    model: Path, data: Path, settings: dict[str, Any], message: str
) -> None:
    if "out" in settings:
        settings = {"out": model}
    with pytest.raises(ConfigError, match=message):
        training.quantize(model, data, **settings)


@pytest.mark.parametrize(
    ("only_first", "only_second", "num_rows"), [(0, 0, 100), (3, 1, 200), (10, 10, 998), (30, 10, 1000)]
)
def test_the_bound_holds_the_true_loss_in_19_of_20_draws(only_first: int, only_second: int, num_rows: int) -> None:
    """At the bound as the true loss, a split as good as the one seen is drawn in about 5 % of cases."""
    bound = loss_bound(only_first, only_second, num_rows)
    p_second = only_second / num_rows
    draws = np.random.default_rng(0).multinomial(
        num_rows, [p_second + bound, p_second, 1 - 2 * p_second - bound], 20_000
    )
    share = np.mean(draws[:, 0] - draws[:, 1] <= only_first - only_second)

    assert 0.01 < share < 0.1
    assert bound > (only_first - only_second) / num_rows


def test_a_new_calibration_says_how_the_form_is_measured_with_it(
    copy: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training.calibrate(copy, data, method="none", dtype="float32")
    again = f"openvino-int8 was measured with the calibration before: stream-training quantize {copy} DATA measures it"
    assert again in caplog.text
    assert training.quantize(copy, data, num_calibration_texts=40, limits=GENEROUS).form == "openvino-int8"


def test_the_report_is_renewed_and_the_model_may_be_the_folder_one_is_in(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Path(shutil.copytree(model, tmp_path / "measured"))
    training.write_report(measured, data / "validation.csv")
    monkeypatch.chdir(measured)
    result = training.quantize(".", data, num_calibration_texts=40, limits=GENEROUS)
    assert result.digest.removeprefix("sha256:")[:12] in (measured / "report.html").read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["measured"]


def test_a_text_that_one_form_alone_rejects_is_a_difference(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lets more through than before: no coverage is lost, and no label differs."""
    own = shutil.copytree(model, tmp_path / "own")
    training.reject(own, data / "train.csv", keep=0.6, score="energy")
    shift(monkeypatch, 20.0)
    command = ["quantize", str(own), str(data), "--min-speedup", "0", "--max-accuracy-loss", "0.2"]
    done = CliRunner().invoke(cli, [*command, "--calibration-texts", "40"])
    assert re.search(r"rejected as out of scope +[1-9]\d\.\d\d % +0\.00 %", done.output), done.output
    assert "% of the labels and rejections are the same, at least 99.00 % must be" in str(done.exception)
    assert "backends" not in json.loads((own / "classifier.json").read_text())

    forced = training.quantize(own, data, num_calibration_texts=40, force=True).parity
    assert forced.before.rejected == pytest.approx(1 - forced.agreement, abs=0.02)
    assert forced.after.rejected == 0


def test_one_small_table_is_divided(model: Path, data: Path, tmp_path: Path) -> None:
    result = training.quantize(model, data / "train.csv", out=tmp_path / "out", limits=GENEROUS, force=True)
    assert result.num_calibration_texts == 30
    assert result.parity.n == 30, "the other half"
