"""k models that never saw what they answer; and labels that look wrong to them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import training
from stream_classifier.errors import ConfigError
from tests.plugins.models import make_directory
from tests.plugins.tables import write_rows
from training.baseline import baseline_pipeline
from training.cli import cli
from training.data import Table
from training.folds import FrozenFolds, assign_folds
from training.label_review import set_suspicions, suspicions
from training.reading import read_table

WORDS = {"sport": ["match", "ended", "won", "two"], "money": ["bank", "shares", "fell", "rose"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("base") / "tiny", labels=("x", "y"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 rows, of which the eight on lines 2, 22, 42 … have the other label."""
    generator = np.random.default_rng(0)
    right = [("sport", "money")[i % 2] for i in range(160)]
    texts = [f"{' '.join(generator.choice(WORDS[label], size=6))} {i}" for i, label in enumerate(right)]
    given = [{"sport": "money", "money": "sport"}[label] if i % 20 == 0 else label for i, label in enumerate(right)]
    return write_rows(tmp_path_factory.mktemp("data") / "train.csv", texts, given)


def settings(base: Path, **others: object) -> training.FitSettings:
    return training.FitSettings(base=str(base), epochs=3, max_length=32, **others)  # type: ignore[arg-type]  # a few


@pytest.fixture(scope="module")
def frozen(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> training.CrossValidation:
    out = tmp_path_factory.mktemp("out") / "cv"
    return training.cross_validate(
        data, settings=settings(base, freeze_encoder=True, learning_rate=1e-2), num_folds=4, shares=[0.3], out=out
    )


def test_every_row_is_answered_once_by_a_model_that_never_saw_it(frozen: training.CrossValidation) -> None:
    assert frozen.out is not None
    with (frozen.out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["line"]) for row in rows) == list(range(2, 162))
    assert sum(fold.n for fold in frozen.folds) == frozen.n == 160
    hits = np.mean([row["label"] == row["predicted"] for row in rows])
    assert frozen.evaluation.accuracy == pytest.approx(hits)
    assert hits > 0.85
    accuracies = [fold.accuracy for fold in frozen.folds]
    assert frozen.accuracy.mean == pytest.approx(np.mean(accuracies))
    assert frozen.accuracy.standard_deviation == pytest.approx(np.std(accuracies, ddof=1))


def test_labels_that_were_turned_around_are_reviewed_first(frozen: training.CrossValidation) -> None:
    assert frozen.out is not None
    with (frozen.out / "review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == frozen.num_suspicious
    turned = [(int(row["line"]) - 2) % 20 == 0 for row in rows[:8]]  # 5 % of all rows
    assert len(turned) >= 3
    assert sum(turned) > len(turned) / 2
    assert rows[0]["label"] != rows[0]["suggested"]


def test_sets_of_labels_that_were_changed_are_to_be_reviewed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = [("sport", "money", "money|sport")[i % 3] for i in range(60)]
    changed = {30: ("sport", "money|sport"), 32: ("money|sport", "money"), 40: ("money", "sport")}
    given = [changed[i][1] if i in changed else labels for i, labels in enumerate(right)]
    data = write_rows(tmp_path / "train.csv", [f"{labels} {i}" for i, labels in enumerate(right)], given)
    logits_NL = np.array([[4.0 if label in labels else -4.0 for label in ("money", "sport")] for labels in right])

    def knows(_: FrozenFolds, train: object, held_out: np.ndarray, **named: object) -> np.ndarray:
        return logits_NL[held_out]

    monkeypatch.setattr(FrozenFolds, "logits", knows)
    columns = training.Columns(multi_label=True)
    several = settings(base, freeze_encoder=True, columns=columns, baseline=False)
    result = training.cross_validate(data, settings=several, num_folds=3, out=tmp_path / "cv")
    assert result.num_suspicious == 3
    with (tmp_path / "cv" / "review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["line"]) - 2: (row["suggested"], row["label"]) for row in rows} == changed
    assert {row["p_suggested"] for row in rows} == {"0.9820"}


def test_a_label_that_should_be_added_and_one_that_should_go() -> None:
    p_NL = np.tile([0.95, 0.05], (40, 1))
    p_NL[20:] = [0.05, 0.9]
    given_NL = p_NL > 0.5
    given_NL[3, 1], given_NL[25, 1], p_NL[7, 1] = True, False, 0.45  # one too many, one too few, one that is unsure
    found = set_suspicions(p_NL, given_NL)
    assert np.flatnonzero(found.flagged_N).tolist() == [3, 25]
    assert found.suggested_NL[[3, 25]].tolist() == [[True, False], [False, True]]
    assert found.ranked()[:2].tolist() == [3, 25]
    assert found.p_suggested_N[[3, 25]] == pytest.approx([0.95, 0.9])


def test_the_learning_curve_ends_with_all_rows(frozen: training.CrossValidation) -> None:
    few, all_rows = frozen.learning_curve
    assert (few.share, all_rows.share, all_rows.num_train) == (0.3, 1.0, 120)
    assert few.num_train == pytest.approx(36, abs=3)
    assert all_rows.accuracy == frozen.accuracy


def test_a_fold_starts_from_the_same_weights_whatever_was_trained_before(base: Path, data: Path) -> None:
    from training.reading import read_table

    table = read_table(data)
    models = FrozenFolds(table, ("money", "sport"), settings(base, freeze_encoder=True, learning_rate=1e-2))
    first, second = np.arange(100), np.arange(60, 160)
    held_out = np.arange(100, 110)
    alone = models.logits(first, held_out, seed=1)
    models.logits(second, np.arange(10), seed=2)
    assert models.logits(first, held_out, seed=1).tolist() == alone.tolist()


def test_without_a_frozen_encoder_every_fold_is_fine_tuned(base: Path, data: Path) -> None:
    result = training.cross_validate(
        data, settings=settings(base, learning_rate=2e-3, batch_size=8, ema_decay=0.0), num_folds=2
    )
    assert result.n == 160
    assert result.evaluation.accuracy > 0.8
    assert result.out is None


def test_copies_are_in_one_fold_and_labels_in_all() -> None:
    labels = ["common"] * 60 + ["rare"] * 12
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), size=(36, 30))
    texts = ["".join(letters[i // 2]) for i in range(72)]  # each is there twice
    folds_N = assign_folds(Table("rows", texts, [(label,) for label in labels]), 3, seed=0)
    assert (folds_N[::2] == folds_N[1::2]).all()
    assert np.bincount(folds_N).tolist() == [24, 24, 24]
    assert np.bincount(folds_N[60:]).tolist() == [4, 4, 4]


def test_contrastive_learning_leaves_no_encoder_for_all_folds(base: Path) -> None:
    assert FrozenFolds.can(settings(base, freeze_encoder=True))
    assert not FrozenFolds.can(settings(base, freeze_encoder=True, contrastive_steps=2))


def test_copies_are_in_one_fold_whatever_the_time_column_says() -> None:
    texts = [f"{word} of the day" for word in ("shares", "goals", "votes", "films", "phones", "trains")] * 4
    table = Table("t", texts, [("x",)] * 24, times=[float(i) for i in range(24)])
    fold_N = assign_folds(table, 3, seed=0)
    assert all(len({int(fold_N[i]) for i in range(start, 24, 6)}) == 1 for start in range(6))


def test_a_label_the_models_are_never_sure_of_does_not_fill_the_list() -> None:
    generator = np.random.default_rng(0)
    sure_NL = np.tile([0.98, 0.01, 0.01], (100, 1))
    vague_NL = np.stack([np.full(100, 0.1), generator.uniform(0.4, 0.5, 100), np.full(100, 0.45)], axis=1)
    wrong_NL = np.tile([0.98, 0.01, 0.01], (5, 1))
    other_NL = np.tile([0.01, 0.01, 0.98], (60, 1))
    p_NL = np.concatenate([sure_NL, vague_NL, wrong_NL, other_NL])
    given_N = np.array([0] * 100 + [1] * 100 + [2] * 65)
    found = suspicions(p_NL / p_NL.sum(axis=1, keepdims=True), given_N)
    assert set(found.ranked()[:5].tolist()) == set(range(200, 205))
    assert found.flagged_N[200:205].all()
    assert found.suggested_NL[200:205, 0].all()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--folds", "1"], "at least 2"),
        (["--learning-curve", "0.5,many"], "shares of the rows"),
        (["--learning-curve", "50"], "above 0 and below 1"),
    ],
)
def test_folds_and_shares_that_cannot_be_are_refused(data: Path, arguments: list[str], problem: str) -> None:
    done = CliRunner().invoke(cli, ["cross-validate", str(data), *arguments])
    assert isinstance(done.exception, ConfigError)
    assert problem in str(done.exception)


def test_tables_that_are_there_are_not_replaced(data: Path, frozen: training.CrossValidation) -> None:
    with pytest.raises(ConfigError, match="--overwrite"):
        training.cross_validate(data, out=frozen.out)


def test_the_command_gives_one_object(base: Path, data: Path) -> None:
    arguments = ["cross-validate", str(data), "--base", str(base), "--freeze-encoder", "--epochs", "1", "--folds", "2"]
    done = CliRunner().invoke(cli, [*arguments, "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["n"] == 160
    assert len(figures["folds"]) == 2
    assert {"mean", "standard_deviation"} == set(figures["accuracy"])
    assert figures["evaluation"]["confusion"]["labels"] == ["money", "sport"]
    shown = CliRunner().invoke(cli, [*arguments, "--quiet"])
    assert "labels look wrong" in shown.output


def test_a_baseline_out_of_the_same_folds_stands_beside_it(frozen: training.CrossValidation, data: Path) -> None:
    baseline = frozen.evaluation.baseline
    assert baseline is not None
    assert baseline.num_train == round(frozen.n * (1 - 1 / len(frozen.folds)))
    assert baseline.accuracy.first == pytest.approx(frozen.evaluation.accuracy)
    table = read_table(data)
    fold_N = assign_folds(table, len(frozen.folds), seed=0)
    given = []
    for fold in range(len(frozen.folds)):
        train = table.take(np.flatnonzero(fold_N != fold).tolist(), "train")
        pipeline = baseline_pipeline(len(train)).fit(train.texts, [labels[0] for labels in train.label_sets])
        held_out = np.flatnonzero(fold_N == fold)
        said = pipeline.predict([table.texts[i] for i in held_out])
        given += [label == table.label_sets[i][0] for label, i in zip(said, held_out, strict=True)]
    assert baseline.accuracy.second == pytest.approx(np.mean(given))


@pytest.mark.parametrize("option", ["--show-texts", "--refit-all", "--test-share=0.2", "--keep-in-scope=0.9"])
def test_options_of_a_model_that_is_not_written_are_refused(option: str, data: Path) -> None:
    with pytest.raises(ConfigError, match="is for the model that a fit writes, and this writes none; leave it out"):
        CliRunner().invoke(cli, ["cross-validate", str(data), option], catch_exceptions=False)


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_trained(base: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="--report-to wandb: it is not installed"):
        training.cross_validate(data, settings=settings(base, report_to=("wandb",)))


def test_a_frozen_fold_has_the_epochs_of_a_fit_on_as_many_rows(base: Path, tmp_path: Path) -> None:
    texts = [f"{WORDS[label][i % 4]} {i}" for i in range(20) for label in ("money", "sport")]
    rows = read_table(write_rows(tmp_path / "few.csv", texts, ["money", "sport"] * 20))
    few = training.FitSettings(base=str(base), freeze_encoder=True, seed=1, max_length=32)
    models = FrozenFolds(rows, ("money", "sport"), few)
    folder = tmp_path / "fold"
    folder.mkdir()
    models.logits(np.arange(40), np.arange(2), seed=1, work_dir=folder)
    state = json.loads(next(folder.glob("checkpoint-*/trainer_state.json")).read_text("utf-8"))
    assert state["num_train_epochs"] == few.for_rows(36).max_epochs > few.max_epochs
