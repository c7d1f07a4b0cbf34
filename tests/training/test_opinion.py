"""The second opinion: each thing it can say, said where it holds and not where it doesn't; its flags exist."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from tests.plugins.reports import make_answers, make_history
from training.answers import Answers
from training.baseline import Baseline
from training.cli import cli
from training.comparison import Difference
from training.evaluation import Evaluation, evaluate_answers
from training.measured import DataSummary, PartSummary
from training.report.opinion import Remark, Subject, second_opinion

LABELS = ("ham", "news", "spam")
HEALTHY = make_history((1.0, 0.5, 0.3, 0.25), (0.9, 0.5, 0.35, 0.34), (0.7, 0.85, 0.9, 0.905))


def data(
    train: Mapping[str, int] | None = None, *, validation: int = 400, findings: Sequence[Mapping[str, Any]] = ()
) -> DataSummary:
    counts = train or dict.fromkeys(LABELS, 400)
    parts = {"train": PartSummary(sum(counts.values()), counts), "validation": PartSummary(validation, {})}
    return DataSummary(parts, {}, tuple(findings))


def measured(answers: Answers | None = None, **changes: Any) -> Evaluation:
    return evaluate_answers(replace(answers or make_answers(LABELS, number=600, skill=3), **changes), task="free")


def subject(**changes: Any) -> Subject:
    given: dict[str, Any] = {
        "history": HEALTHY,
        "evaluation": measured(),
        "data": data(),
        "training": {"learning_rate": 5e-5, "max_length": 256, "freeze_encoder": False},
        "thresholds": {"default": 0.7},
    }
    return Subject(**{**given, **changes})


def only(found: Sequence[Remark], code: str) -> Remark:
    remarks = [remark for remark in found if remark.code == code]
    assert len(remarks) == 1, [remark.code for remark in found]
    return remarks[0]


def test_a_healthy_model_gets_no_remark() -> None:
    assert second_opinion(subject()) == ()


def test_nothing_known_nothing_said() -> None:
    assert second_opinion(Subject()) == ()


def test_overfitting_that_the_best_epoch_escapes_is_a_note_and_one_it_does_not_a_warning() -> None:
    train, validation = (1.0, 0.4, 0.2, 0.05), (0.6, 0.4, 0.5, 0.7)
    escaped = make_history(train, validation, (0.7, 0.9, 0.88, 0.87))
    remark = only(second_opinion(subject(history=escaped)), "overfitting")
    assert remark.severity == "note"
    assert "From epoch 2 on" in remark.message
    past = make_history(train, validation, (0.7, 0.8, 0.85, 0.9))
    remark = only(second_opinion(subject(history=past)), "overfitting")
    assert remark.severity == "warning"
    assert "--dropout" in remark.fix


def test_a_training_that_was_still_getting_better_is_underfitting() -> None:
    history = make_history((1.0, 0.8, 0.7), (0.9, 0.75, 0.66), (0.5, 0.6, 0.68))
    remark = only(second_opinion(subject(history=history)), "underfitting")
    assert "8.0 points" in remark.message
    assert "--epochs 6" in remark.fix
    assert "--freeze-encoder" not in remark.fix
    frozen = subject(history=history, training={"freeze_encoder": True})
    assert "--freeze-encoder" in only(second_opinion(frozen), "underfitting").fix
    back = replace(make_history((1.0, 0.8, 0.7, 0.6), (0.9, 0.8, 0.75, 0.66), (0.5, 0.68, 0.6, 0.68)), best_epoch=4)
    assert second_opinion(subject(history=back)) == (), "it had been as good two epochs before"
    stopped = replace(history, max_epochs=9)
    assert not [r for r in second_opinion(subject(history=stopped)) if r.code == "underfitting"]


def test_a_training_loss_that_jumps_is_divergence() -> None:
    history = make_history((1.0, 0.5, 2.0), (0.9, 0.5, 1.9), (0.6, 0.8, 0.3))
    remark = only(second_opinion(subject(history=history)), "divergence")
    assert "0.500 to 2.000 in epoch 3" in remark.message
    assert "--learning-rate 2e-05" in remark.fix


def test_a_model_no_better_than_guessing_learned_nothing() -> None:
    history = make_history((1.1, 1.1, 1.1), (1.1, 1.1, 1.09), (0.3, 0.3, 0.31))
    assert "1.099" in only(second_opinion(subject(history=history)), "nothing-learned").message


@pytest.mark.parametrize(("accuracy", "num_rows"), [(1.0, 2), (1.0, 400), (0.45, 400)])
def test_a_model_that_is_unsure_of_what_it_gets_right_has_learned(accuracy: float, num_rows: int) -> None:
    history = make_history((1.1, 1.1, 1.09), (1.1, 1.1, 1.09), (0.3, 0.3, accuracy))
    found = second_opinion(subject(history=history, data=data(validation=num_rows)))
    assert "nothing-learned" not in {remark.code for remark in found}


@pytest.mark.parametrize(("accuracy", "num_rows"), [(0.34, 400), (0.45, 40)])
def test_what_chance_gets_right_is_nothing_learned(accuracy: float, num_rows: int) -> None:
    history = make_history((1.1, 1.1, 1.09), (1.1, 1.1, 1.09), (0.3, 0.3, accuracy))
    only(second_opinion(subject(history=history, data=data(validation=num_rows))), "nothing-learned")


def test_a_label_never_predicted_is_named_with_its_rows() -> None:
    answers = make_answers(LABELS, number=600, skill=3)
    predicted_NL = answers.predicted_NL.copy()
    predicted_NL[:, 0] |= predicted_NL[:, 2]
    predicted_NL[:, 2] = False
    remark = only(second_opinion(subject(evaluation=measured(answers, predicted_NL=predicted_NL))), "never-predicted")
    assert "'spam' is never given" in remark.message
    assert str(int(answers.true_NL[:, 2].sum())) in remark.message
    assert remark.severity == "warning"


def test_a_model_that_never_gives_any_label_is_told_so_once() -> None:
    answers = make_answers(LABELS, number=600, multi_label=True)
    silent = {"p_NL": 0.4 * answers.p_NL, "scores_N": 0.4 * answers.p_NL.max(axis=1)}
    none = measured(answers, **silent, predicted_NL=np.zeros_like(answers.predicted_NL))
    found = second_opinion(subject(evaluation=none))
    remark = only(found, "no-answers")
    assert remark.severity == "warning"
    assert "of 600 texts none" in remark.message
    assert "the highest score is 0.40" in remark.message
    for fix in ("--epochs 8", "--class-weights balanced", "stream-training thresholds MODEL DATA --f1"):
        assert fix in remark.fix
    assert "never-predicted" not in {remark.code for remark in found}
    one = replace(none, answers=replace(none.answers, predicted_NL=answers.predicted_NL & [True, False, False]))
    assert "no-answers" not in {remark.code for remark in second_opinion(subject(evaluation=one))}


def test_too_few_examples() -> None:
    remark = only(second_opinion(subject(data=data({"ham": 400, "news": 7, "spam": 300}))), "few-examples")
    assert "'news' has fewer than 8 training rows" in remark.message
    assert remark.severity == "note", "it is recognised all the same"


def test_few_rows_a_label_are_for_learning_from_pairs_unless_that_was_done() -> None:
    history = make_history((1.1, 1.1, 1.1), (1.1, 1.1, 1.09), (0.3, 0.3, 0.31))
    few = data({"ham": 20, "news": 25, "spam": 30})
    found = second_opinion(subject(history=history, data=few))
    assert only(found, "few-labelled").message == "There are 25 training rows a label"
    assert "--preset few-shot" in only(found, "few-labelled").fix
    assert "--preset few-shot" in only(found, "nothing-learned").fix
    for known in ({"training": {"contrastive_steps": 80}, "data": few}, {"data": data({"ham": 40, "spam": 60})}):
        codes = {remark.code for remark in second_opinion(subject(history=history, **known))}
        assert "few-labelled" not in codes


def test_a_rare_label_that_is_missed_is_imbalance_and_one_that_is_not_is_nothing() -> None:
    rare = data({"ham": 400, "news": 400, "spam": 40})
    assert "imbalance" not in {remark.code for remark in second_opinion(subject(data=rare))}
    answers = make_answers(LABELS, number=600, skill=3)
    predicted_NL = answers.predicted_NL.copy()
    missed = np.flatnonzero(answers.true_NL[:, 2])[::2]
    predicted_NL[missed] = [True, False, False]
    found = second_opinion(subject(evaluation=measured(answers, predicted_NL=predicted_NL), data=rare))
    remark = only(found, "imbalance")
    assert "'spam' has 40 and recall" in remark.message
    assert "--class-weights balanced" in remark.fix
    assert not [r for r in second_opinion(subject(evaluation=measured(answers, predicted_NL=predicted_NL)))
                if r.code == "imbalance"], "as many rows as the others have"  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "interval", "severity"),
    [(-0.05, (-0.08, -0.02), "warning"), (0.01, (-0.01, 0.03), "note"), (0.1, (0.05, 0.15), None)],
)
def test_a_baseline_that_is_as_good_is_said(
    difference: float, interval: tuple[float, float], severity: str | None
) -> None:
    accuracy = Difference(0.9, 0.9 - difference, difference, interval)
    baseline = Baseline("train.csv", 1000, accuracy, accuracy, 0.5 if severity == "note" else 0.001)
    found = second_opinion(subject(evaluation=replace(measured(), baseline=baseline)))
    assert [remark.severity for remark in found if remark.code == "baseline"] == ([severity] if severity else [])
    frozen = second_opinion(
        subject(evaluation=replace(measured(), baseline=baseline), training={"freeze_encoder": True})
    )
    for remarks, named in ((found, False), (frozen, True)):
        assert all(("--freeze-encoder" in r.fix) == named for r in remarks if r.code == "baseline")


def test_leakage_and_other_warnings_of_the_data_check_are_passed_on_and_notes_are_not() -> None:
    leak = {"code": "leakage", "severity": "warning", "part": "test", "message": "10 copies", "fix": "remove them"}
    note = {**leak, "code": "copies", "severity": "note"}
    (remark,) = second_opinion(subject(data=data(findings=[leak, note])))
    assert (remark.code, remark.severity) == ("leakage", "warning")
    assert remark.message == "Data (test): 10 copies"


def test_a_test_accuracy_further_from_validation_than_chance_is_a_shift() -> None:
    far = subject(measured_on="test", history=make_history((1, 0.5), (1, 0.5), (0.8, 0.999)), data=data())
    answers = make_answers(LABELS, number=600, skill=2)
    remark = only(second_opinion(replace(far, evaluation=measured(answers))), "shift")
    assert remark.severity == "warning"
    assert "--time-column" in remark.fix
    near = subject(measured_on="test", history=make_history((1, 0.5), (1, 0.5), (0.96, measured().accuracy)))
    assert second_opinion(near) == ()


def test_labels_distributed_otherwise_are_a_shift_unless_chance_explains_it() -> None:
    remark = only(second_opinion(subject(data=data({"ham": 1000, "news": 100, "spam": 100}))), "label-shift")
    assert "'ham' has" in remark.message
    assert "83.3 % in training" in remark.message
    few = measured(make_answers(LABELS, number=15, skill=3, seed=3))
    assert sum(abs(scores.support / 15 - 1 / 3) for scores in few.per_label.values()) / 2 > 0.1
    found = second_opinion(subject(evaluation=few))
    assert not [r for r in found if r.code == "label-shift"]


def test_miscalibration_is_said_beyond_the_noise_alone() -> None:
    answers = make_answers(LABELS, number=600, skill=2)
    sure = np.where(answers.predicted_NL, 0.999, 0.0005)
    found = second_opinion(subject(evaluation=measured(answers, p_NL=sure, scores_N=sure.max(axis=1))))
    remark = only(found, "miscalibration")
    assert "too sure" in remark.message
    assert "stream-training calibrate MODEL DATA" in remark.fix
    timid = np.where(answers.predicted_NL, 0.4, 0.3)
    found = second_opinion(subject(evaluation=measured(answers, p_NL=timid, scores_N=timid.max(axis=1))))
    assert "not sure enough" in only(found, "miscalibration").message


def test_missing_thresholds_are_a_note_with_what_they_would_do() -> None:
    for thresholds in ({}, {"default": None, "labels": {}, "tuned_for": "x"}):
        remark = only(second_opinion(subject(thresholds=thresholds)), "no-thresholds")
        assert remark.severity == "note"
        assert "stream-training thresholds MODEL DATA" in remark.fix
    assert second_opinion(subject(thresholds={"rejection": {"score": "energy", "threshold": 1.0}})) == ()


def test_truncation_that_costs_accuracy_is_a_warning() -> None:
    answers = make_answers(LABELS, number=600, skill=3)
    wrong = ~answers.correct_N
    cut_N = wrong.copy()
    cut_N[np.flatnonzero(~wrong)[:20]] = True
    remark = only(second_opinion(subject(evaluation=measured(answers, truncated_N=cut_N))), "truncation")
    assert remark.severity == "warning"
    assert "--max-length 512" in remark.fix
    harmless = np.zeros(600, np.bool_)
    harmless[np.flatnonzero(~wrong)[:100]] = True
    remark = only(second_opinion(subject(evaluation=measured(answers, truncated_N=harmless))), "truncation")
    assert remark.severity == "note"
    everything = measured(answers, truncated_N=np.ones(600, np.bool_))
    assert only(second_opinion(subject(evaluation=everything)), "truncation").severity == "note"


def test_few_rows_are_said_with_what_they_leave_open() -> None:
    remark = only(second_opinion(subject(evaluation=measured(make_answers(LABELS, number=80, skill=3)))), "few-rows")
    assert "80 rows" in remark.message


def test_several_labels_a_text_are_judged_too() -> None:
    evaluation = measured(make_answers(LABELS, number=600, multi_label=True, skill=5))
    assert {remark.code for remark in second_opinion(subject(evaluation=evaluation, thresholds={}))} <= {
        "miscalibration"
    }


def test_warnings_come_first() -> None:
    history = make_history((1.0, 0.4, 0.05), (0.6, 0.4, 0.7), (0.7, 0.9, 0.87))
    leak = {"code": "leakage", "severity": "warning", "part": "test", "message": "10 copies", "fix": "remove them"}
    found = second_opinion(subject(history=history, data=data(findings=[leak])))
    assert [remark.severity for remark in found] == ["warning", "note"]


def test_every_flag_and_command_that_is_named_exists() -> None:
    parameters = [parameter for command in cli.commands.values() for parameter in command.params]
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    flags = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    source = (Path(__file__).parents[2] / "training" / "report" / "opinion.py").read_text()
    named = set(re.findall(r"--[a-z][a-z-]+", source))
    assert {"--class-weights", "--epochs", "--max-length"} <= named
    assert named <= flags
    assert set(re.findall(r"stream-training ([a-z-]+)", source)) <= set(cli.commands)


def test_a_stream_unlike_the_rows_is_no_miscalibration() -> None:
    answers = make_answers(LABELS, number=600, skill=3)
    sure = np.where(answers.predicted_NL, 0.999, 0.0005)
    evaluation = measured(answers, p_NL=sure, scores_N=sure.max(axis=1))
    shifted = {"method": "temperature", "fitted_on": {"priors": {"spam": 0.02}}}
    assert "miscalibration" in {remark.code for remark in second_opinion(subject(evaluation=evaluation))}
    found = second_opinion(subject(evaluation=evaluation, calibration=shifted))
    assert "miscalibration" not in {remark.code for remark in found}


def test_an_operating_point_that_decides_otherwise_is_no_shift() -> None:
    answers = make_answers(LABELS, number=600, skill=4)
    accuracy = float((answers.logits_NL.argmax(axis=1) == answers.true_N).mean())
    decided = measured(answers, predicted_NL=np.tile([True, False, False], (600, 1)))
    assert decided.accuracy < accuracy - 0.3
    history = make_history((1, 0.5), (1, 0.5), (0.8, accuracy))
    found = second_opinion(subject(measured_on="test", evaluation=decided, history=history))
    assert "shift" not in {remark.code for remark in found}
