"""Distilling: what the loss says by hand, which layers a student has, and a student from end to end."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch.nn import functional

import training
from stream_classifier import Classifier
from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from stream_classifier.model.manifest import read_json_object
from stream_classifier.model.publish import write_manifest
from tests.plugins.models import TEXTS, make_directory
from tests.training.test_fit import table
from training.cli import cli
from training.data import Table
from training.layers import layer_stack
from training.lesson import UNLABELLED, Lesson, LessonSettings, read_unlabelled
from training.losses import IGNORED, TextLoss
from training.parity import measure_parity
from training.recipe import read_recipe
from training.student import kept_layers, reorder_labels, with_layers

SETTINGS: dict[str, Any] = {"epochs": 2, "learning_rate": 2e-3, "max_length": 32, "seed": 3}
ANYTHING = training.ParityLimits(0.0, 1.0, 1.0, 1.0, min_speedup=0)
TEACHER = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5], [0.3, 0.2, 0.1]], dtype=np.float32)
STUDENT = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.1, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    base = make_directory(folder / "base", labels=("x", "y"))
    settings = training.FitSettings(task="category", base=str(base), **{**SETTINGS, "epochs": 4})
    return training.fit(table(folder / "train.csv", 160, 1), folder / "teacher", settings=settings).path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, number, seed in (("train", 160, 1), ("validation", 60, 4), ("test", 60, 2)):
        table(folder / f"{name}.csv", number, seed)
    return folder


def packed(hard: list[float], teacher: np.ndarray[Any, Any] = TEACHER) -> torch.Tensor:
    return torch.cat([torch.tensor(hard)[:, None], torch.from_numpy(teacher)], dim=1)


def lesson_loss(problem_type: str = SINGLE_LABEL, **settings: float) -> Any:
    return Lesson(LessonSettings(**settings), (), TEACHER).loss(TextLoss(problem_type), problem_type=problem_type)


def test_soft_targets_are_the_divergence_at_the_temperature_times_its_square() -> None:
    loss = lesson_loss(temperature=2.0, hard_weight=0.0)
    wanted, given = (torch.from_numpy(TEACHER) / 2).softmax(1), (STUDENT / 2).softmax(1)
    by_hand = 4 * (wanted * (wanted.log() - given.log())).sum()

    assert loss.weighted_sum(STUDENT, packed([0, 1, 2])).item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert loss.weighted_sum(torch.from_numpy(TEACHER), packed([0, 1, 2])).item() == pytest.approx(0, abs=1e-6)


def test_labels_count_by_their_weight_and_unlabelled_texts_by_the_teacher_alone() -> None:
    soft, both = lesson_loss(hard_weight=0.0), lesson_loss(hard_weight=0.25)
    hard = functional.cross_entropy(STUDENT[:2], torch.tensor([0, 1]), reduction="sum")
    labels = packed([0, 1, UNLABELLED])
    soft_each = [soft.weighted_sum(STUDENT[i : i + 1], labels[i : i + 1]).item() for i in range(3)]
    by_hand = 0.25 * hard.item() + 0.75 * (soft_each[0] + soft_each[1]) + soft_each[2]

    assert both.weighted_sum(STUDENT, labels).item() == pytest.approx(by_hand, rel=1e-5)
    assert both.total_weight(labels).item() == 3


def test_rows_that_fill_up_a_batch_count_nothing() -> None:
    loss = lesson_loss()
    filled = packed([0, IGNORED, IGNORED])

    assert loss.total_weight(filled).item() == 1
    assert loss.weighted_sum(STUDENT, filled).item() == pytest.approx(loss.weighted_sum(STUDENT[:1], filled[:1]).item())


def test_validation_rows_have_the_loss_of_their_labels() -> None:
    plain = TextLoss(SINGLE_LABEL)
    labels = torch.tensor([0, 1, 2])

    assert lesson_loss().weighted_sum(STUDENT, labels).item() == plain.weighted_sum(STUDENT, labels).item()


def test_several_labels_a_text_are_taught_one_by_one() -> None:
    loss = lesson_loss(MULTI_LABEL, temperature=1.0, hard_weight=0.0)
    hard = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 1, 1]])
    labels = torch.cat([hard, torch.from_numpy(TEACHER)], dim=1)
    p, q = torch.from_numpy(TEACHER).sigmoid(), STUDENT.sigmoid()
    by_hand = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(dim=1).sum()

    assert loss.weighted_sum(STUDENT, labels).item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_hidden_states_count_by_their_direction() -> None:
    hidden = np.zeros((3, 1, 2), dtype=np.float32)
    hidden[:, 0] = (3.0, 0.0)
    lesson = Lesson(LessonSettings(hard_weight=0.0, hidden_weight=2.0), (), TEACHER, hidden, (1,))
    loss = lesson.loss(TextLoss(SINGLE_LABEL), problem_type=SINGLE_LABEL)
    labels = torch.cat([packed([0, 1, 2]), torch.from_numpy(hidden[:, 0])], dim=1)
    logits = torch.from_numpy(TEACHER)

    same = loss.weighted_sum(torch.cat([logits, torch.tensor([[1.0, 0.0]] * 3)], dim=1), labels)
    across = loss.weighted_sum(torch.cat([logits, torch.tensor([[0.0, 5.0]] * 3)], dim=1), labels)
    assert same.item() == pytest.approx(0, abs=1e-5)
    assert across.item() == pytest.approx(2.0 * 3 * 2, rel=1e-5)


@pytest.mark.parametrize(
    ("family", "layer"), [("bert", 2), ("distilbert", 2), ("roberta", 2), ("deberta-v2", 1), ("modernbert", 1)]
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # transformers' deberta_v2 module, when imported
def test_a_student_has_copies_of_the_layers_and_is_what_loading_gives(family: str, layer: int, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    whole = AutoModelForSequenceClassification.from_pretrained(make_directory(tmp_path / "whole", family=family)).eval()
    student = with_layers(whole, (layer,)).eval()
    student.save_pretrained(tmp_path / "student")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    ids = torch.tensor([[5, 6, 7, 8]])

    assert loaded.config.num_hidden_layers == 1
    assert whole.config.num_hidden_layers == 2
    with torch.inference_mode():
        assert torch.allclose(student(input_ids=ids).logits, loaded(input_ids=ids).logits, atol=1e-6)
    stack, copies = (layer_stack(model) for model in (whole, student))
    assert all(map(torch.equal, stack[layer - 1].parameters(), copies[0].parameters()))
    assert next(copies[0].parameters()) is not next(stack[layer - 1].parameters())


def test_a_family_with_one_layer_for_all_is_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(make_directory(tmp_path / "albert", family="albert"))
    with pytest.raises(ConfigError, match="give --base"):
        with_layers(model, (1,))


def test_labels_in_another_order_are_the_same_labels(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(make_directory(tmp_path / "model")).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        reorder_labels(model, (2, 0, 1))
        assert torch.allclose(model(input_ids=ids).logits, before[:, [2, 0, 1]], atol=1e-6)


@pytest.mark.parametrize("num_kept", [0, 6, 7])
def test_a_student_has_fewer_layers(num_kept: int) -> None:
    with pytest.raises(ConfigError, match=f"layers is {num_kept}, the teacher has 6"):
        kept_layers(6, num_kept)


def test_a_student_is_smaller_complete_and_learns_from_the_teacher(teacher: Path, data: Path, tmp_path: Path) -> None:
    result = training.distill(
        teacher, data, tmp_path / "student", layers=1, settings=training.FitSettings(**SETTINGS), limits=ANYTHING
    )
    student = Classifier.load(tmp_path / "student", dtype="float32")
    content = json.loads((tmp_path / "student" / "classifier.json").read_text())
    card = (tmp_path / "student" / "README.md").read_text("utf-8")

    assert result.parity.after.size_bytes < result.parity.before.size_bytes
    assert result.parity.n == 60
    assert student.digest == result.fit.digest
    assert student.task == "category", "as the teacher's"
    assert content["training"]["base"] == "1 of 2 layers of teacher"
    assert "`1 of 2 layers of teacher` with `stream-training distill`, taught by `teacher`" in card
    assert "| temperature | 2.0 |" in card
    assert "stream-training fit" not in card
    assert read_recipe(tmp_path / "student" / "run.toml")["epochs"] == SETTINGS["epochs"]
    assert 'as a student of "teacher"' in (tmp_path / "student" / "run.toml").read_text("utf-8")
    assert not student.check_golden().failed
    assert result.parity.after.accuracy > 0.6
    assert not (tmp_path / "student.work").exists()


def test_a_teacher_that_knows_what_is_out_of_scope_teaches_that_too(teacher: Path, data: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "data"
    mixed.mkdir()
    for file in data.iterdir():
        outside = "".join(f"brown fox {i},oos\n" for i in range(20))
        (mixed / file.name).write_text(file.read_text() + outside)
    training.reject(teacher, mixed, label="oos", keep=0.9, out=tmp_path / "teacher")
    settings = training.FitSettings(**{**SETTINGS, "epochs": 1})
    result = training.distill(
        tmp_path / "teacher", mixed, tmp_path / "student", layers=1, settings=settings, limits=ANYTHING
    )
    assert Classifier.load(tmp_path / "student").labels == ("money", "sport")
    assert (result.parity.n, result.fit.evaluation.n) == (60, 60)
    assert result.fit.evaluation.out_of_scope is not None
    assert result.fit.evaluation.out_of_scope.n == 20
    rule = json.loads((tmp_path / "student" / "classifier.json").read_text())["thresholds"]["rejection"]
    assert (rule["tuned_for"]["out_of_scope_label"], rule["tuned_for"]["num_out_of_scope"]) == ("oos", 40)


def test_the_teachers_word_decides_where_labels_count_nothing(teacher: Path, data: Path, tmp_path: Path) -> None:
    """Labels turned round: a student that learns from the teacher alone still answers as the teacher does."""
    turned = tmp_path / "data"
    turned.mkdir()
    for file in data.iterdir():
        text = file.read_text()
        if file.stem == "train":
            text = text.replace(",sport", ",x").replace(",money", ",sport").replace(",x", ",money")
        (turned / file.name).write_text(text)
    agreement = {
        weight: training.distill(
            teacher,
            turned,
            tmp_path / f"student-{weight}",
            layers=1,
            settings=training.FitSettings(**{**SETTINGS, "epochs": 4}, ema_decay=0.0),
            lesson=LessonSettings(hard_weight=weight),
            limits=ANYTHING,
        ).parity.agreement
        for weight in (0.0, 1.0)
    }

    assert agreement[0.0] > 0.7
    assert agreement[1.0] < agreement[0.0] - 0.15


def test_hidden_states_and_unlabelled_texts_take_part(teacher: Path, data: Path, tmp_path: Path) -> None:
    weights = []
    for name, lesson, unlabelled in (
        ("plain", LessonSettings(), ()),
        ("hidden", LessonSettings(hidden_weight=3.0), ()),
        ("more", LessonSettings(), ("match goal bank",) * 40),
    ):
        settings = training.FitSettings(**{**SETTINGS, "epochs": 1})
        training.distill(
            teacher,
            data,
            tmp_path / name,
            layers=1,
            settings=settings,
            lesson=lesson,
            unlabelled=unlabelled,
            limits=ANYTHING,
        )
        weights.append((tmp_path / name / "model.safetensors").read_bytes())

    assert len(set(weights)) == 3


def test_a_refused_student_is_not_written_and_resume_with_force_writes_it_untrained(
    teacher: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "student"
    common = ["distill", str(teacher), str(data), "--out", str(out), "--layers", "1", "--epochs", "1"]
    common += ["--min-agreement", "1", "--max-accuracy-loss", "0", "--max-length", "32", "--json"]
    refused = CliRunner().invoke(cli, common)
    assert isinstance(refused.exception, training.ParityError)
    assert json.loads(refused.stdout)["written"] is False
    assert not out.exists()

    forced = CliRunner().invoke(cli, [*common, "--resume", "--force"])
    assert forced.exit_code == 0, forced.output
    figures = json.loads(forced.stdout)
    assert figures["written"] is True
    assert math.isfinite(figures["accuracy_kept"])
    assert Classifier.load(out).labels == ("money", "sport")


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, {"layers": 9}, "layers is 9, the teacher has 2"),
        ({"base": "x"}, {"layers": 1}, "--layers are the teacher's and --base is another model"),
        ({"freeze_encoder": True}, {}, "--freeze-encoder"),
        ({"balanced_sampling": True}, {}, "--balanced-sampling"),
        ({"base": "x"}, {"lesson": LessonSettings(hidden_weight=1)}, "--hidden-weight needs layers"),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_refused(
    teacher: Path, data: Path, tmp_path: Path, settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        training.distill(teacher, data, tmp_path / "out", settings=training.FitSettings(**settings), **options)
    assert not (tmp_path / "out").exists()


def test_a_linear_probe_of_a_student_is_refused_on_the_command_line() -> None:
    result = CliRunner().invoke(cli, ["distill", "teacher", "rows.csv", "--out", "out", "--linear-probe"])
    assert isinstance(result.exception, ConfigError)
    assert "--linear-probe fits the head to labels" in str(result.exception)


def test_labels_that_the_teacher_does_not_have_are_refused(teacher: Path, tmp_path: Path) -> None:
    other = table(tmp_path / "rows.csv", 60, 1)
    other.write_text(other.read_text().replace(",money", ",weather"))
    with pytest.raises(ConfigError, match="'weather'"):
        training.distill(teacher, other, tmp_path / "out", layers=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"hard_weight": 1.5}, "hard_weight is 1.5"),
        ({"hidden_weight": -1.0}, "hidden_weight is -1.0"),
    ],
    ids=str,
)
def test_lesson_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LessonSettings(**settings)


def test_unlabelled_texts_are_lines(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("naïve café\n\n東京 🙂\n", "utf-8")
    assert read_unlabelled(file) == ("naïve café", "東京 🙂")
    file.write_text("\n \n")
    with pytest.raises(ConfigError, match="there is no text in it"):
        read_unlabelled(file)
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_unlabelled(file)


def test_the_gate_lets_the_student_decide_as_its_teacher(
    teacher: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a teacher that answers nearly always "money", whatever is more probable."""
    costly = shutil.copytree(teacher, tmp_path / "costly")
    content = read_json_object(costly / "classifier.json")
    own = {key: value for key, value in content.items() if key not in ("schema", "files")}
    write_manifest(costly, {**own, "positive_label": "sport", "thresholds": {"operating_point": 0.9999}})
    settings = training.FitSettings(**{**SETTINGS, "epochs": 1})
    result = training.distill(costly, data, tmp_path / "student", layers=1, settings=settings, limits=ANYTHING)
    assert result.parity.agreement > 0.9
    assert read_json_object(tmp_path / "student" / "classifier.json").get("thresholds", {}) in ({}, None)
    assert "the student has no thresholds" in caplog.text


def test_agreement_goes_by_the_label_and_not_by_its_place(tmp_path: Path) -> None:
    model = make_directory(tmp_path / "model", content={"task": "free"})
    other = shutil.copytree(model, tmp_path / "other")
    config = json.loads((other / "config.json").read_text("utf-8"))
    turned = ("politics", "sport", "business")  # where the rows of the head go
    config["id2label"] = {str(i): label for i, label in enumerate(turned)}
    config["label2id"] = {label: i for i, label in enumerate(turned)}
    (other / "config.json").write_text(json.dumps(config), "utf-8")
    weights = load_file(other / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][[2, 0, 1]].contiguous()
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    (other / "classifier.json").unlink()
    (other / "golden.jsonl").unlink()
    before, after = (Classifier.load(path, device="cpu", dtype="float32") for path in (model, other))
    texts = [text for text in TEXTS if text]
    rows = Table("rows", texts, [(prediction.label,) for prediction in before(texts)])
    parity = measure_parity(before, after, rows, limits=ANYTHING, sizes=(1, 1))
    assert (parity.agreement, parity.after.accuracy) == (1.0, 1.0)


def test_a_tracker_that_is_not_there_is_refused_before_the_teacher_answers(
    teacher: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--report-to wandb: it is not installed"):
        training.distill(teacher, data, tmp_path / "s", settings=training.FitSettings(report_to=("wandb",)))
