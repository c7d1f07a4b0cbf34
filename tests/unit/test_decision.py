"""Decisions to the letter of the contract: labels, ties, thresholds, tasks, multi-label, rejection, refusals."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from stream_classifier.errors import ConfigError, RecordError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from stream_classifier.model.decision import Decider
from stream_classifier.model.predictions import best_first
from stream_classifier.records import Prediction

INTENTS = ("card_lost", "card_blocked", "balance")


def decide(probabilities, labels=INTENTS, problem_type=SINGLE_LABEL, **settings) -> Prediction:
    """The prediction of one text."""
    (prediction,) = Decider(labels, problem_type, **settings).decide([probabilities])
    return prediction


class TestLabel:
    def test_the_most_probable_label_wins_and_its_score_is_not_rounded(self):
        prediction = decide([0.05, 0.9312744140625, 0.0187255859375])
        assert (prediction.label, prediction.score) == ("card_blocked", 0.9312744140625)
        assert type(prediction.score) is float

    def test_ties_go_to_the_lower_index(self):
        prediction = decide([0.2, 0.4, 0.4])
        assert prediction.label == "card_blocked"
        assert [label for label, _ in prediction.scores] == ["card_blocked", "balance", "card_lost"]

    def test_ties_go_to_the_lower_index_with_two_labels(self):
        prediction = decide([0.5, 0.5], ("b", "a"))
        assert prediction.label == "b"
        assert [label for label, _ in prediction.scores] == ["b", "a"]

    @pytest.mark.parametrize(
        ("spam", "label", "score"), [(0.2, "ham", 0.8), (0.3, "spam", 0.3), (0.31, "spam", 0.31), (0.9, "spam", 0.9)]
    )
    def test_with_an_operating_point_the_positive_label_wins_from_there(self, spam, label, score):
        prediction = decide([spam, 1 - spam], ("spam", "ham"), positive_label="spam", operating_point=0.3)
        assert (prediction.label, prediction.score) == (label, pytest.approx(score))

    def test_with_an_operating_point_the_other_label_wins_below_it_however_probable_the_positive_one(self):
        prediction = decide([0.3, 0.7], ("ham", "spam"), positive_label="spam", operating_point=0.9, threshold=0.5)
        assert (prediction.label, prediction.score, prediction.decision) == ("ham", 0.3, "uncertain")
        assert prediction.scores[0].label == "spam"  # the scores are still best first


class TestThreshold:
    def test_without_any_everything_is_accepted(self):
        assert decide([1.0, 0.0, 0.0]).decision == decide([0.34, 0.33, 0.33]).decision == "accepted"

    @pytest.mark.parametrize(("score", "decision"), [(0.8, "accepted"), (np.nextafter(0.8, 0), "uncertain")])
    def test_a_score_equal_to_the_threshold_is_accepted(self, score, decision):
        assert decide([score, 1 - score, 0.0], threshold=0.8).decision == decision

    def test_each_label_has_its_own(self):
        thresholds = {"card_lost": 0.9, "balance": 0.4}
        assert decide([0.5, 0.3, 0.2], thresholds=thresholds).decision == "uncertain"
        assert decide([0.2, 0.3, 0.5], thresholds=thresholds).decision == "accepted"
        assert decide([0.2, 0.5, 0.3], thresholds=thresholds).decision == "accepted"  # nothing said: 0

    def test_settings_come_before_the_model_before_zero(self):
        def thresholds(**settings):
            return list(Decider(INTENTS, SINGLE_LABEL, **settings).thresholds.values())

        model = {"model_threshold": 0.3, "model_thresholds": {"card_lost": 0.9}}
        assert thresholds() == [0.0, 0.0, 0.0]
        assert thresholds(**model) == [0.9, 0.3, 0.3]
        assert thresholds(**model, thresholds={"balance": 0.5}) == [0.9, 0.3, 0.5]
        assert thresholds(**model, thresholds={"card_lost": 0.0}) == [0.0, 0.3, 0.3]
        assert thresholds(**model, threshold=0.6) == [0.6, 0.6, 0.6]
        assert thresholds(**model, threshold=0.0) == [0.0, 0.0, 0.0]
        assert thresholds(**model, threshold=0.6, thresholds={"balance": 0.7}) == [0.6, 0.6, 0.7]

    def test_a_threshold_that_replaces_per_label_ones_of_the_model_warns_once(self, caplog):
        decider = Decider(INTENTS, SINGLE_LABEL, threshold=0.6, model_thresholds={"card_lost": 0.9, "balance": 0.8})
        decider.decide([[1.0, 0.0, 0.0]] * 3)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "threshold = 0.6 replaces the model's own thresholds of 2 labels" in record.getMessage()

    @pytest.mark.parametrize(
        "settings",
        [
            {"threshold": 0.6},
            {"threshold": 0.6, "model_threshold": 0.5},
            {"threshold": 0.6, "thresholds": {"balance": 0.5}},
            {"threshold": 0.6, "thresholds": {"balance": 0.5}, "model_thresholds": {"balance": 0.9}},
            {"thresholds": {"balance": 0.5}, "model_thresholds": {"balance": 0.9}},
        ],
    )
    def test_nothing_warns_when_no_per_label_threshold_is_lost(self, caplog, settings):
        Decider(INTENTS, SINGLE_LABEL, **settings)
        assert not caplog.records


class TestScores:
    @pytest.mark.parametrize(("top_k", "shown"), [(0, 0), (1, 1), (2, 2), (3, 3), (5, 3), (-1, 3)])
    def test_top_k_says_how_many_are_shown(self, top_k, shown):
        prediction = decide([0.2, 0.5, 0.3], top_k=top_k)
        assert prediction.scores == (("card_blocked", 0.5), ("balance", 0.3), ("card_lost", 0.2))[:shown]

    @pytest.mark.parametrize(("top_k", "shown"), [(0, 0), (1, 1), (5, 2), (-1, 2)])
    def test_top_k_holds_for_two_labels(self, top_k, shown):
        assert decide([0.4, 0.6], ("a", "b"), top_k=top_k).scores == (("b", 0.6), ("a", 0.4))[:shown]

    @pytest.mark.parametrize(("num_labels", "k"), [(3, 2), (20, 5), (21, 5), (60, 5), (60, 19), (60, 40), (150, 1)])
    def test_all_ways_to_find_the_best_agree_with_a_stable_sort(self, num_labels, k):
        few_values = np.random.default_rng(0).integers(0, 5, (50, num_labels)) / 5  # many ties
        expected = [sorted(range(num_labels), key=lambda i: -row[i])[:k] for row in few_values.tolist()]
        assert best_first(few_values, k).tolist() == expected


class TestTask:
    def test_intent_asks_for_clarification_when_uncertain(self):
        assert decide([0.5, 0.3, 0.2], task="intent", threshold=0.6).requires_clarification is True
        assert decide([0.7, 0.2, 0.1], task="intent", threshold=0.6).requires_clarification is False

    @pytest.mark.parametrize("task", ["free", "spam", "news"])
    def test_other_tasks_add_nothing(self, task):
        assert decide([0.7, 0.2, 0.1], task=task).as_dict().keys() == {"label", "score", "decision", "scores"}

    def test_sentiment_score_is_the_probability_of_the_positive_label_whatever_the_label(self):
        labels = ("negative", "neutral", "positive")
        assert decide([0.7, 0.2, 0.1], labels, task="sentiment").sentiment_score == 0.1
        assert decide([0.7, 0.2, 0.1], labels, task="sentiment", positive_label="neutral").sentiment_score == 0.2

    @pytest.mark.parametrize(
        ("labels", "positive"),
        [
            (("negative", "positive"), "positive"),
            (("POSITIVE", "NEGATIVE"), "POSITIVE"),
            (("neg", "neu", "Pos"), "Pos"),
            (("bad", "good"), "good"),
            (("__positive__", "other"), "__positive__"),
        ],
    )
    def test_the_positive_label_is_guessed_from_the_names(self, labels, positive):
        assert Decider(labels, SINGLE_LABEL, task="sentiment").positive_label == positive

    @pytest.mark.parametrize(
        ("labels", "why"),
        [
            (("LABEL_0", "LABEL_1"), "no label is plainly the positive one among 'LABEL_0', 'LABEL_1'"),
            (("1 star", "5 stars"), "no label is plainly"),
            (("not positive", "negative"), "no label is plainly"),
            (("very positive", "positive", "negative"), "several labels could be .*'very positive', 'positive'"),
            (("good", "positive"), "several"),
        ],
    )
    def test_sentiment_is_refused_when_the_positive_label_cannot_be_guessed(self, labels, why):
        with pytest.raises(ConfigError, match=f"{why}.*set positive_label"):
            Decider(labels, SINGLE_LABEL, task="sentiment")

    def test_the_positive_label_of_an_operating_point_is_guessed_or_asked_for(self):
        assert decide([0.6, 0.4], ("negative", "positive"), operating_point=0.4).label == "positive"
        with pytest.raises(ConfigError, match="set positive_label"):
            Decider(("ham", "spam"), SINGLE_LABEL, operating_point=0.4)


class TestMultiLabel:
    TOPICS = ("sport", "politics", "money")

    def decide(self, probabilities, **settings):
        return decide(probabilities, self.TOPICS, MULTI_LABEL, **settings)

    def test_labels_are_those_that_reach_one_half_best_first(self):
        prediction = self.decide([0.5, 0.9, 0.49])
        assert prediction.labels == (("politics", 0.9), ("sport", 0.5))
        assert (prediction.label, prediction.score, prediction.decision) == ("politics", 0.9, "accepted")

    def test_with_none_the_decision_is_uncertain_and_the_label_the_best(self):
        prediction = self.decide([0.1, 0.2, 0.4])
        assert prediction.labels == ()
        assert (prediction.label, prediction.score, prediction.decision) == ("money", 0.4, "uncertain")

    def test_a_label_below_its_own_threshold_does_not_count_though_it_is_the_best(self):
        prediction = self.decide([0.6, 0.8, 0.3], thresholds={"politics": 0.95, "money": 0.3})
        assert prediction.labels == (("sport", 0.6), ("money", 0.3))
        assert (prediction.label, prediction.decision) == ("politics", "accepted")

    def test_labels_are_listed_whatever_top_k_says(self):
        prediction = self.decide([0.6, 0.8, 0.7], top_k=0)
        assert [label for label, _ in prediction.labels or ()] == ["politics", "money", "sport"]
        assert prediction.scores == ()

    def test_ties_go_to_the_lower_index(self):
        assert [label for label, _ in self.decide([0.7, 0.7, 0.7]).labels or ()] == list(self.TOPICS)

    def test_the_model_default_replaces_one_half(self):
        assert self.decide([0.4, 0.1, 0.1], model_threshold=0.4).labels == (("sport", 0.4),)

    def test_one_label_is_enough(self):
        assert decide([0.7], ("toxic",), MULTI_LABEL).labels == (("toxic", 0.7),)


class TestRejection:
    def test_max_prob_makes_improbable_texts_uncertain(self):
        rule = {"score": "max_prob", "threshold": 0.5}
        assert decide([0.49, 0.3, 0.21], rejection=rule).decision == "uncertain"
        assert decide([0.5, 0.3, 0.2], rejection=rule).decision == "accepted"

    def test_energy_is_the_logsumexp_of_the_logits(self):
        logits = [[1.0, 2.0, 3.0], [-5.0, -4.0, -3.0], [1e30, 0.0, 0.0]]
        energy = math.log(sum(map(math.exp, logits[0])))
        decider = Decider(INTENTS, SINGLE_LABEL, rejection={"score": "energy", "threshold": energy - 1e-9})
        assert decider.needs_logits
        assert decider.decide([[0.1, 0.2, 0.7]] * 3, None, logits).accepted_N.tolist() == [True, False, True]

    def test_energy_without_logits_is_an_error(self):
        decider = Decider(INTENTS, SINGLE_LABEL, rejection={"score": "energy", "threshold": 0.0})
        with pytest.raises(ValueError, match="needs the logits"):
            decider.decide([[0.1, 0.2, 0.7]])

    def test_rejection_and_threshold_both_count(self):
        rule = {"score": "max_prob", "threshold": 0.2}
        assert decide([0.5, 0.3, 0.2], rejection=rule, threshold=0.6).decision == "uncertain"

    @pytest.mark.parametrize(
        "rule",
        [
            {"score": "entropy", "threshold": 0.5},
            {"threshold": 0.5},
            {"score": "max_prob", "threshold": 1.5},
            {"score": "max_prob"},
            {"score": "energy", "threshold": math.nan},
            {"score": "energy", "threshold": None},
        ],
    )
    def test_a_rule_that_makes_no_sense_is_refused(self, rule):
        with pytest.raises(ConfigError, match="rejection"):
            Decider(INTENTS, SINGLE_LABEL, rejection=rule)


class TestBatch:
    @pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL])
    def test_a_row_that_is_not_finite_is_invalid_and_alone(self, broken, problem_type):
        decider = Decider(INTENTS, problem_type, task="intent")
        predictions = decider.decide([[0.7, 0.2, 0.1], [0.5, broken, 0.5], [0.1, 0.2, 0.7]])
        assert predictions.invalid_N.tolist() == [False, True, False]
        assert predictions.label_indices_N.tolist() == [0, -1, 2]
        assert predictions.accepted_N.tolist() == [True, False, True]
        assert math.isnan(predictions.scores_N[1])
        assert predictions.as_dicts() == [predictions[0].as_dict(), {}, predictions[2].as_dict()]
        with pytest.raises(RecordError) as caught:
            predictions[1]
        assert (caught.value.stage, caught.value.reason) == ("decide", "NonFiniteScores")
        with pytest.raises(RecordError):
            list(predictions)

    def test_truncated_marks_its_row_only(self):
        rows = Decider(INTENTS, SINGLE_LABEL).decide([[0.7, 0.2, 0.1]] * 2, [False, True]).as_dicts()
        assert "truncated" not in rows[0]
        assert rows[1]["truncated"] is True

    def test_keys_come_in_the_documented_order(self):
        decider = Decider(INTENTS, MULTI_LABEL, task="intent")
        (row,) = decider.decide([[0.7, 0.2, 0.1]], [True]).as_dicts()
        assert list(row) == ["label", "score", "decision", "scores", "labels", "requires_clarification", "truncated"]

    def test_rows_are_plain_python_values(self):
        (row,) = Decider(("bad", "good"), SINGLE_LABEL, task="sentiment").decide(np.float32([[0.25, 0.75]])).as_dicts()
        assert {type(value) for value in row.values()} == {str, float, list}
        assert type(row["scores"][0]["score"]) is float

    def test_each_call_gives_new_rows(self):
        predictions = Decider(INTENTS, SINGLE_LABEL).decide([[0.7, 0.2, 0.1]])
        predictions.as_dicts()[0]["scores"].clear()
        assert len(predictions.as_dicts()[0]["scores"]) == 3

    def test_rows_can_be_indexed_and_taken(self):
        predictions = Decider(INTENTS, SINGLE_LABEL).decide([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.2, 0.1, 0.7]])
        assert [p.label for p in predictions] == list(INTENTS)
        assert predictions[-1].label == "balance"
        assert [p.label for p in predictions.take([2, 0])] == ["balance", "card_lost"]
        assert [p.label for p in predictions.take(np.array([False, True, False]))] == ["card_blocked"]
        assert len(predictions.take([])) == 0
        for row in (3, -4):
            with pytest.raises(IndexError):
                predictions[row]

    @pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL])
    @pytest.mark.parametrize("top_k", [0, 5])
    def test_no_texts_give_no_predictions(self, problem_type, top_k):
        predictions = Decider(INTENTS, problem_type, top_k=top_k).decide(np.empty((0, 3)))
        assert len(predictions) == 0
        assert predictions.as_dicts() == list(predictions) == []

    @pytest.mark.parametrize("scores", [[[0.5, 0.5]], [0.2, 0.3, 0.5], [[[0.2, 0.3, 0.5]]], []])
    def test_scores_of_another_shape_are_an_error(self, scores):
        with pytest.raises(ValueError, match="3 labels"):
            Decider(INTENTS, SINGLE_LABEL).decide(scores)

    def test_a_mismatch_of_texts_and_truncation_is_an_error(self):
        with pytest.raises(ValueError, match="truncated"):
            Decider(INTENTS, SINGLE_LABEL).decide([[0.7, 0.2, 0.1]], [True, False])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, "threshold = 1.5: a threshold is a probability"),
        ({"threshold": 80}, "write 0.8 for 80 %"),
        ({"threshold": -0.1}, "between 0 and 1"),
        ({"threshold": math.nan}, "between 0 and 1"),
        ({"threshold": True}, "between 0 and 1"),
        ({"threshold": "0.5"}, "between 0 and 1"),
        ({"model_threshold": 2.0}, r"thresholds\.default of the model = 2\.0"),
        (
            {"thresholds": {"card_lots": 0.5}},
            "thresholds: the model has no label 'card_lots'; did you mean 'card_lost'",
        ),
        ({"thresholds": {"Balance": 0.5}}, "did you mean 'balance'"),
        ({"thresholds": {"weather": 0.5}}, "it has 'card_lost', 'card_blocked', 'balance'"),
        ({"thresholds": {"balance": 7}}, r"thresholds\.balance = 7"),
        ({"model_thresholds": {"balanced": 0.5}}, r"thresholds\.labels of the model.*'balance'"),
        ({"positive_label": "balanse"}, "positive_label: the model has no label 'balanse'; did you mean 'balance'"),
        ({"operating_point": 0.5}, "3 labels"),
        ({"top_k": -2}, "top_k = -2"),
        ({"top_k": True}, "top_k"),
        ({"top_k": 2.0}, "top_k"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Decider(INTENTS, SINGLE_LABEL, **settings)


@pytest.mark.parametrize(
    ("labels", "problem_type", "settings", "message"),
    [
        (("a", "b", "a"), SINGLE_LABEL, {}, "'a' is there twice"),
        (("a",), SINGLE_LABEL, {}, "at least 2"),
        ((), MULTI_LABEL, {}, "at least 1"),
        ("ab", SINGLE_LABEL, {}, "list of labels"),
        (("a", "b"), "regression", {}, "problem_type is 'regression'"),
        (("a", "b"), SINGLE_LABEL, {"operating_point": 2.0, "positive_label": "a"}, "operating_point = 2.0"),
        (("a", "b"), MULTI_LABEL, {"operating_point": 0.5, "positive_label": "a"}, "exclude each other"),
    ],
)
def test_models_that_make_no_sense_are_refused(labels, problem_type, settings, message):
    with pytest.raises(ConfigError, match=message):
        Decider(labels, problem_type, **settings)


def test_a_refusal_names_some_of_many_labels():
    with pytest.raises(ConfigError, match="'l11' and 188 more"):
        Decider([f"l{i}" for i in range(200)], SINGLE_LABEL, positive_label="weather")
