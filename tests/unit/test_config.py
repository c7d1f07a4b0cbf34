"""The settings: defaults, the order of the sources, where each value came from, and the Python API's arguments."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from stream_classifier import config
from stream_classifier.errors import ConfigError

MINIMAL = """\
[app]
id = "support"
broker = "kafka://localhost:9092"

[[classifier]]
name = "intent"
model = "null"
source = "messages"
sink = "intents"
"""

# CONTRACTS, section 3, to the letter.
DEFAULTS = {
    "app.delivery": "at_least_once",
    "app.commit_interval_s": 1.0,
    "app.session_timeout_s": 10,
    "app.rebalance_timeout_s": 20,
    "app.instance_id": None,
    "app.drain_timeout_s": 8,
    "app.delivery_timeout_s": 120,
    "app.transaction_timeout_s": 60,
    "app.connect_timeout_s": 60,
    "app.offset_reset": "earliest",
    "app.offset_gap": "continue",
    "app.create_topics": True,
    "app.max_in_flight_records": 20_000,
    "app.max_in_flight_bytes": 64 * 1024 * 1024,
    "app.tls": None,
    "app.sasl": None,
    "web.host": "127.0.0.1",
    "web.port": 6066,
    "web.token": None,
    "web.token_file": None,
    "web.show_text": False,
    "web.liveness_timeout_s": 60,
    "log.level": "info",
    "log.format": "text",
    "classifier[].dead_letter": "messages.dead-letter",
    "classifier[].codec": "text",
    "classifier[].text": None,
    "classifier[].passthrough": {},
    "classifier[].task": None,
    "classifier[].positive_label": None,
    "classifier[].threshold": None,
    "classifier[].thresholds": {},
    "classifier[].top_k": 5,
    "classifier[].route.uncertain": None,
    "classifier[].route.label": {},
    "classifier[].labels": None,
    "classifier[].device": "auto",
    "classifier[].dtype": "auto",
    "classifier[].backend": "auto",
    "classifier[].batch.max_tokens": "auto",
    "classifier[].batch.max_records": 256,
    "classifier[].batch.max_wait_ms": 5,
    "classifier[].max_text_chars": 100_000,
    "classifier[].inference_timeout_s": 60,
}
REQUIRED = {
    "app.id": "support",
    "app.broker": "kafka://localhost:9092",
    "classifier[].name": "intent",
    "classifier[].model": "null",
    "classifier[].source": "messages",
    "classifier[].sink": "intents",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.toml"
    path.write_text(MINIMAL)
    return path


def load(file: Path, *overrides: str, **environ: str) -> config.Settings:
    environ = {f"STREAM_CLASSIFIER__{name}": value for name, value in environ.items()}
    return config.load(file, overrides=overrides, environ=environ)


def attribute(settings: config.Settings, key: str) -> object:
    value: object = settings
    if key.startswith("classifier[]."):
        value, key = settings.classifiers[0], key.removeprefix("classifier[].")
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(("key", "value"), [*DEFAULTS.items(), *REQUIRED.items()])
def test_a_minimal_file_has_the_documented_defaults(file: Path, key: str, value: object) -> None:
    assert attribute(load(file), key) == value


def test_the_reference_lists_exactly_the_documented_keys_with_a_meaning_each() -> None:
    rows = config.reference_rows()
    optional_tables = {
        "app.tls": ("ca", "cert", "key"),
        "app.sasl": ("mechanism", "username", "password", "password_file"),
    }
    inner = {f"{table}.{key}" for table, keys in optional_tables.items() for key in keys}
    assert {row.key for row in rows} == {*DEFAULTS, *REQUIRED, *inner} - set(optional_tables)
    assert len(rows) == len({row.key for row in rows})
    required = {*REQUIRED, "app.sasl.mechanism", "app.sasl.username"}
    assert {row.key for row in rows if row.default == "required"} == required
    assert all(row.meaning.endswith(".") and "\n" not in row.meaning for row in rows)


def test_the_environment_is_over_the_file_and_arguments_are_over_both(file: Path) -> None:
    assert load(file).app.id == "support"
    assert load(file, APP__ID="from-environment").app.id == "from-environment"
    assert load(file, "app.id=from-argument", APP__ID="from-environment").app.id == "from-argument"
    assert load(file, "app.id=first", "app.id=second").app.id == "second"


def test_a_classifier_is_addressed_by_its_name(file: Path) -> None:
    file.write_text(MINIMAL + MINIMAL[MINIMAL.index("[[") :].replace('"intent"', '"spam-2"'))
    settings = load(
        file, "classifier.spam-2.threshold=0.9", CLASSIFIER__INTENT__TOP_K="3", CLASSIFIER__SPAM_2__TOP_K="-1"
    )
    assert [c.threshold for c in settings.classifiers] == [None, 0.9]
    assert [c.top_k for c in settings.classifiers] == [3, -1]


def test_the_longest_name_wins_where_an_environment_name_fits_two_classifiers(file: Path) -> None:
    file.write_text(MINIMAL + MINIMAL[MINIMAL.index("[[") :].replace('"intent"', '"intent__v2"'))
    settings = load(file, CLASSIFIER__INTENT__V2__TOP_K="3", CLASSIFIER__INTENT__TOP_K="4")
    assert [c.top_k for c in settings.classifiers] == [4, 3]


def test_values_from_outside_are_toml_and_bare_words_are_strings(file: Path) -> None:
    settings = load(
        file,
        "classifier.intent.batch={ max_records = 7, max_wait_ms = 0.5 }",
        'classifier.intent.labels=["a", "b", "c"]',
        "app.create_topics=false",
        "log.level=debug",
    )
    classifier = settings.classifiers[0]
    assert (classifier.batch.max_records, classifier.batch.max_wait_ms, classifier.batch.max_tokens) == (7, 0.5, "auto")
    assert classifier.labels == ("a", "b", "c")
    assert settings.app.create_topics is False
    assert settings.log.level == "debug"


@pytest.mark.parametrize("ordinal", ["0", "1e5", "true", "2026-01-01", "0x10"])
def test_a_key_that_takes_only_text_takes_what_looks_like_a_number(file: Path, ordinal: str) -> None:
    assert load(file, APP__INSTANCE_ID=ordinal).app.instance_id == ordinal
    assert load(file, f"app.id={ordinal}").app.id == ordinal


def test_labels_and_other_names_of_the_users_own_keep_their_case(file: Path) -> None:
    settings = load(
        file, 'classifier.intent.thresholds."Card lost"=0.7', CLASSIFIER__INTENT__ROUTE__LABEL__Even="evens"
    )
    assert settings.classifiers[0].thresholds == {"Card lost": 0.7}
    assert settings.classifiers[0].route.label == {"Even": "evens"}


def test_environment_names_without_the_double_underscore_are_not_ours(file: Path) -> None:
    settings = config.load(
        file, environ={"STREAM_CLASSIFIER_APP_ID": "x", "STREAM_CLASSIFIER_KAFKA": "kafka.sh", "APP__ID": "y"}
    )
    assert settings.app.id == "support"


def test_a_threshold_given_replaces_the_thresholds_below_it_and_says_so(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(MINIMAL + "threshold = 0.5\nthresholds = { even = 0.9 }\n")
    assert load(file).classifiers[0].thresholds == {"even": 0.9}
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        classifier = load(file, "classifier.intent.threshold=0.6").classifiers[0]
    assert (classifier.threshold, classifier.thresholds) == (0.6, {})
    assert "classifier.intent.thresholds" in caplog.text
    both = load(file, "classifier.intent.threshold=0.6", "classifier.intent.thresholds.odd=0.7").classifiers[0]
    assert (both.threshold, both.thresholds) == (0.6, {"odd": 0.7})


def test_every_value_knows_where_it_came_from(file: Path) -> None:
    settings = load(file, "classifier.intent.batch={ max_records = 7 }", APP__ID="x")
    assert settings.origin(("app", "id")).where == "STREAM_CLASSIFIER__APP__ID"
    assert settings.origin(("app", "broker")).where == f"{file}:3"
    assert settings.origin(("app", "delivery")).where == "default"
    assert settings.origin(("classifier", 0, "sink")).where == f"{file}:9"
    assert settings.origin(("classifier", 0, "top_k")).kind == "default"
    assert settings.origin(("classifier", 0, "batch", "max_records")).where == "--set classifier.intent.batch"
    assert settings.file == file


def test_a_model_directory_is_found_beside_the_file_and_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "models" / "intent").mkdir(parents=True)
    (tmp_path / "null").mkdir()
    file = tmp_path / "pipeline.toml"
    for given, expected in [
        ("models/intent", str(tmp_path / "models" / "intent")),
        ("./models/intent", str(tmp_path / "models" / "intent")),
        (str(tmp_path / "models"), str(tmp_path / "models")),
        ("null", "null"),
        ("distilbert/sst2", "distilbert/sst2"),
        ("my-entry-point", "my-entry-point"),
    ]:
        file.write_text(MINIMAL.replace('"null"', f'"{given}"'))
        assert load(file).classifiers[0].model == expected


def test_the_codec_follows_from_the_text(file: Path) -> None:
    file.write_text(MINIMAL + 'text = "/body"\n')
    classifier = load(file).classifiers[0]
    assert (classifier.codec, classifier.text) == ("json", ("/body",))
    file.write_text(MINIMAL + 'text = ["/title", "/body"]\npassthrough = { customer = "/from/id" }\n')
    classifier = load(file).classifiers[0]
    assert (classifier.text, classifier.passthrough) == (("/title", "/body"), {"customer": "/from/id"})


def test_a_token_comes_from_its_file_and_the_environment_is_over_that(file: Path) -> None:
    (file.parent / "token").write_text("from-file\n")
    file.write_text(MINIMAL + '[web]\nhost = "0.0.0.0"\ntoken_file = "token"\n')
    settings = load(file)
    assert settings.web.token is not None
    assert settings.web.token.get_secret_value() == "from-file"
    assert settings.web.token_file == str(file.parent / "token")
    assert settings.origin(("web", "token")).where == f"{file}:12"
    settings = load(file, WEB__TOKEN="12345")
    assert settings.web.token is not None
    assert settings.web.token.get_secret_value() == "12345"


def test_a_secret_is_in_no_text_of_the_settings(file: Path) -> None:
    settings = load(file, WEB__TOKEN="hunter2")
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_classifiers_may_share_a_source_or_a_sink_or_follow_each_other(file: Path) -> None:
    table = MINIMAL[MINIMAL.index("[[") :]
    file.write_text(
        MINIMAL
        + table.replace('"intent"', '"b"').replace('"intents"', '"b"')
        + table.replace('"intent"', '"c"').replace('"messages"', '"intents"').replace('sink = "intents"', 'sink = "c"')
    )
    assert [c.name for c in load(file).classifiers] == ["intent", "b", "c"]


def test_settings_cannot_be_changed(file: Path) -> None:
    settings = load(file)
    with pytest.raises(ValidationError, match="frozen"):
        settings.app.id = "x"  # type: ignore[misc]


def test_limits_may_be_equal_to_those_they_are_measured_against(file: Path) -> None:
    equal = ("app.session_timeout_s=20", "app.rebalance_timeout_s=20", "app.max_in_flight_records=256")
    assert config.load(file, overrides=equal, environ={}).app.max_in_flight_records == 256


def test_offsets_are_committed_ten_times_as_often_under_exactly_once_unless_it_is_said(file: Path) -> None:
    assert load(file, "app.delivery=exactly_once").app.commit_interval_s == 0.1
    assert load(file, "app.delivery=exactly_once", "app.commit_interval_s=2").app.commit_interval_s == 2
    assert load(file).app.commit_interval_s == 1.0


def test_the_embedded_broker_and_ipv6_addresses_are_brokers(file: Path) -> None:
    for broker in ("embedded", "kafka://a:1,b.example:65535", "kafka://[::1]:9092"):
        assert load(file, f"app.broker={broker}").app.broker == broker


def test_the_schema_describes_the_file() -> None:
    schema = config.json_schema()
    assert set(schema["properties"]) == {"app", "web", "log", "classifier"}
    assert schema["required"] == ["app", "classifier"]
    classifier = schema["$defs"]["ClassifierSettings"]
    assert classifier["required"] == ["name", "model", "source", "sink"]
    assert classifier["additionalProperties"] is False
    assert classifier["properties"]["top_k"]["default"] == 5
    assert "default" not in classifier["properties"]["dead_letter"]
    assert schema["$defs"]["AppSettings"]["properties"]["delivery"]["enum"] == ["at_least_once", "exactly_once"]


class TestArguments:
    """StreamClassifier(app, model=…, …) in terms of settings."""

    def test_none_means_not_given(self) -> None:
        settings = config.classifier_from_arguments(
            {"model": Path("models/intent"), "source": "a", "sink": "b", "threshold": None, "batch": {"max_records": 3}}
        )
        assert (settings.name, settings.model, settings.threshold) == ("intent", "models/intent", None)
        assert (settings.batch.max_records, settings.top_k, settings.dead_letter) == (3, 5, "a.dead-letter")

    def test_a_model_object_stands_under_its_class_name(self) -> None:
        class Sentiment:
            pass

        settings = config.model_from_arguments({"model": Sentiment()})
        assert (settings.name, settings.model) == ("Sentiment", "Sentiment")

    def test_a_name_is_made_of_what_a_name_can_hold(self) -> None:
        assert config.model_from_arguments({"model": "organisation/modèle 2"}).name == "mod-le-2"
        assert config.model_from_arguments({"model": "models/intent/"}).name == "intent"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"threshold": 1.5}, "threshold = 1.5: must be at most 1; give a number from 0 to 1"),
            ({"treshold": 0.5}, "treshold = 0.5: there is no such key; did you mean threshold?"),
            ({"sink": None}, 'sink: it is required; add sink = "support.intents"'),
            ({"sink": "a"}, 'sink = "a": the sink must not be the source; name another topic for the results'),
            (
                {"batch": {"max_records": 0}},
                "batch.max_records = 0: must be at least 1; give a number from 1 to 1000000",
            ),
            ({"text": "body"}, 'text = "body": is no JSON Pointer; write "/body"'),
        ],
    )
    def test_an_error_names_the_argument(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            config.classifier_from_arguments({"model": "null", "source": "a", "sink": "b", **arguments})
        assert str(caught.value) == message
