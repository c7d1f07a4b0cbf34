"""What a wrong configuration gets: the line, the value, the fix, in one line."""

# ruff: noqa: E501 - a table of cases is easier to read with one case a line

from __future__ import annotations

from pathlib import Path

import pytest

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
ID, BROKER, MODEL, SOURCE, SINK = MINIMAL.splitlines()[1:3] + MINIMAL.splitlines()[6:]
APP, CLASSIFIER = ID, SINK  # what follows these lines stands in [app], in [[classifier]]


def refused(tmp_path: Path, text: str, *overrides: str, **environ: str) -> str:
    """The message for a file, its path taken off."""
    file = tmp_path / "pipeline.toml"
    file.write_text(text)
    environ = {f"STREAM_CLASSIFIER__{name}": value for name, value in environ.items()}
    with pytest.raises(ConfigError) as caught:
        config.load(file, overrides=overrides, environ=environ)
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message or "did you mean" in message, "no fix"
    return message.replace(f"{file}:", "").replace(str(file), "the file").strip()


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        # keys
        (ID, 'idd = "x"', '2: app.idd = "x": there is no such key; did you mean id? (and 1 more'),
        (ID, ID + "\nport = 80", "3: app.port = 80: there is no such key; it belongs in web"),
        (ID, ID + "\nxyzzy = 1", "3: app.xyzzy = 1: there is no such key; the keys here are id, broker, delivery"),
        ("[app]", "[App]", "1: App = {"),
        ("[[classifier]]", "[[classifiers]]", "did you mean classifier?"),
        ("[[classifier]]", "[classifier]", "must be a list of tables; write [[classifier]], with two brackets"),
        (ID, "", '1: app.id: it is required; add id = "support"'),
        (SINK, "", '5: classifier.intent.sink: it is required; add sink = "support.intents"'),
        # types
        (ID, "id = 3", "2: app.id = 3: must be a string; put it in quotes"),
        (APP, APP + '\nsession_timeout_s = "10"', '3: app.session_timeout_s = "10": must be a number; remove the quotes: 10'),
        (APP, APP + "\nmax_in_flight_records = 1.0", "3: app.max_in_flight_records = 1.0: must be a whole number; "),
        (APP, APP + "\nmax_in_flight_records = 1.5", "3: app.max_in_flight_records = 1.5: must be a whole number; "),
        (APP, APP + "\nmax_in_flight_records = true", "3: app.max_in_flight_records = true: must be a whole number; "),
        (APP, APP + "\ncreate_topics = 1", "3: app.create_topics = 1: must be true or false; write true or false"),
        (APP, APP + "\ncommit_interval_s = nan", "3: app.commit_interval_s = nan: must be a finite number; "),
        (CLASSIFIER, CLASSIFIER + "\nbatch = 256", "10: classifier.intent.batch = 256: must be a table; "),
        (CLASSIFIER, CLASSIFIER + '\nlabels = "a"', '10: classifier.intent.labels = "a": must be a list; '),
        # values
        (CLASSIFIER, CLASSIFIER + "\nthreshold = 1.5", "10: classifier.intent.threshold = 1.5: must be at most 1; "),
        (CLASSIFIER, CLASSIFIER + '\nthresholds = { "a b" = -1 }', '10: classifier.intent.thresholds."a b" = -1: must be at'),
        (CLASSIFIER, CLASSIFIER + "\ntop_k = -2", "10: classifier.intent.top_k = -2: must be at least -1; "),
        (CLASSIFIER, CLASSIFIER + "\nbatch.max_tokens = 0", '10: classifier.intent.batch.max_tokens = 0: must be "auto" or'),
        (CLASSIFIER, CLASSIFIER + "\n[classifier.batch]\nmax_records = 0", "11: classifier.intent.batch.max_records = 0"),
        (CLASSIFIER, CLASSIFIER + '\ndtype = "bf16"', 'classifier.intent.dtype = "bf16": must be "auto" or "float32"'),
        (CLASSIFIER, CLASSIFIER + '\ndevice = "gpu"', '10: classifier.intent.device = "gpu": is no device; write auto, cpu'),
        (CLASSIFIER, CLASSIFIER + '\nname = "in tent"', "is not valid TOML at column"),
        ('name = "intent"', 'name = "in tent"', '6: classifier[0].name = "in tent": is no classifier name; use letters'),
        (CLASSIFIER, CLASSIFIER + '\ncodec = "jsn"', '10: classifier.intent.codec = "jsn": there are \'json\', \'text\'; did'),
        (APP, APP + '\noffset_reset = "latst"', 'app.offset_reset = "latst": must be "earliest" or "latest"; write "latest"'),
        (APP, APP + "\nsession_timeout_s = 0", "3: app.session_timeout_s = 0: must be greater than 0; "),
        # addresses and names
        (BROKER, 'broker = "localhost:9092"', '3: app.broker = "localhost:9092": must begin with kafka://; write kafka://'),
        (BROKER, 'broker = "kafka://localhost"', "the port is missing; write localhost:9092"),
        (BROKER, 'broker = "kafka://a:1;kafka://b:2"', "is no list of host:port; write kafka://host:port[,host:port]"),
        (BROKER, 'broker = "kafka://a:70000"', "a port is not within 1 to 65535"),
        (BROKER, 'broker = "kafka://a:0"', "a port is not within 1 to 65535"),
        (BROKER, 'broker = "kafka://user:pass@a:1"', "must not hold credentials; write kafka://host:port"),
        (BROKER, 'broker = "amqp://a:1"', "only kafka:// is known"),
        (ID, 'id = "my app"', '2: app.id = "my app": is no app id'),
        (SINK, 'sink = "a b"', '9: classifier.intent.sink = "a b": is no topic name; use letters'),
        (SINK, 'sink = ".."', '9: classifier.intent.sink = "..": is no topic name'),
        (SINK, f'sink = "{"x" * 250}"', "has 250 characters, a topic name has at most 249; shorten it"),
        (MODEL, 'model = "./models/nope"', '7: classifier.intent.model = "./models/nope": there is no such directory'),
        (MODEL, 'model = ""', '7: classifier.intent.model = "": must not be empty'),
        (CLASSIFIER, CLASSIFIER + '\ntext = "body.text"', 'is no JSON Pointer; write "/body/text"'),
        (CLASSIFIER, CLASSIFIER + '\ntext = ["/a", "/b~c"]', "10: classifier.intent.text[1] = \"/b~c\": is no JSON Pointer"),
        (CLASSIFIER, CLASSIFIER + "\ntext = []", "10: classifier.intent.text = []: must be a JSON Pointer or a list of them"),
        # relations
        (SINK, 'sink = "messages"', '9: classifier.intent.sink = "messages": the sink must not be the source; name another'),
        (CLASSIFIER, CLASSIFIER + '\ndead_letter = "messages"', "10: classifier.intent.dead_letter = \"messages\": dead letters"),
        (CLASSIFIER, CLASSIFIER + '\ndead_letter = "intents"', "10: classifier.intent.dead_letter = \"intents\": dead letters"),
        (CLASSIFIER, CLASSIFIER + '\nroute.uncertain = "messages"', "classifier.intent.route.uncertain = \"messages\": a route"),
        (CLASSIFIER, CLASSIFIER + '\nroute.label.a = "intents"', "classifier.intent.route.label.a = \"intents\": a route must"),
        (CLASSIFIER, CLASSIFIER + '\ntext = "/a"\ncodec = "text"', "11: classifier.intent.codec = \"text\": text is for JSON"),
        (CLASSIFIER, CLASSIFIER + '\ncodec = "json"', "10: classifier.intent.codec = \"json\": the codec \"json\" needs to"),
        (CLASSIFIER, CLASSIFIER + '\npassthrough = { a = "/a" }', "the codec \"text\" has no fields to pass through; set text"),
        (CLASSIFIER, CLASSIFIER + '\nlabels = ["a"]', "10: classifier.intent.labels = [\"a\"]: must be at least two labels"),
        (CLASSIFIER, CLASSIFIER + '\nlabels = ["a", "a"]', "a label is there twice"),
        (MODEL, 'model = "org/x"\nlabels = ["a", "b"]', "only the null model takes labels; remove it"),
        (APP, APP + "\ndrain_timeout_s = 10", "3: app.drain_timeout_s = 10: must be less than session_timeout_s, which is 10"),
        (APP, APP + "\nsession_timeout_s = 30", "3: app.session_timeout_s = 30: must be at most rebalance_timeout_s, which is 20"),
        (APP, APP + "\nmax_in_flight_records = 255", "must be at most app.max_in_flight_records, which is 255"),
        (APP, APP + "\nmax_in_flight_records = 10", "classifier.intent.batch.max_records = 256 (the default): must be at most app.max_in_flight_records"),
        (CLASSIFIER, CLASSIFIER + '\n[web]\nhost = "0.0.0.0"', "11: web.host = \"0.0.0.0\": a token is required when"),
        (CLASSIFIER, CLASSIFIER + '\n[web]\ntoken_file = "nope"', "11: web.token_file = \"nope\": the file cannot be read"),
        (BROKER, 'broker = "embedded"\ndelivery = "exactly_once"', "app.delivery = \"exactly_once\": the embedded broker has no transactions"),
        (APP, APP + '\ndelivery = "exactly_once"\ncommit_interval_s = 60', "4: app.commit_interval_s = 60: must be less than transaction_timeout_s"),
        (CLASSIFIER, CLASSIFIER + f'\n[app.tls]\nca = "{"x" * 300}"', "there is no such file"),
        (CLASSIFIER, CLASSIFIER + '\n[web]\ntoken_file = "/dev/zero"', "the file is larger than 65536 bytes"),
        (CLASSIFIER, CLASSIFIER + '\n[app.tls]\nca = "ca.pem"', "11: app.tls.ca = \"ca.pem\": there is no such file"),
        (CLASSIFIER, CLASSIFIER + '\n[app.sasl]\nmechanism = "PLAIN"', "app.sasl.username: it is required"),
        (APP, APP + '\ninstance_id = "a"', "3: app.instance_id = \"a\": each worker needs its own, the file is the same for all"),
        # TOML
        (ID, "id = support", "2: it is not valid TOML at column 6 (Invalid value); text needs quotes, as in key = \"text\""),
        (ID, 'id = "support', "2: it is not valid TOML at column 14 (Illegal character '\\n'); close the quote"),
        (ID, 'id "support"', "2: it is not valid TOML at column 4 (Expected '=' after a key in a key/value pair); a line is"),
        (ID, ID + '\nid = "x"', "3: it is not valid TOML at column 9 (Cannot overwrite a value); give each key and each table"),
        (SINK, "labels = [1, 2", "it is not valid TOML"),
        (ID, f"id = {'9' * 5000}", "it is no settings file (ValueError)"),
        (ID, f"id = {'[' * 5000}", "it is no settings file (RecursionError)"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_line_value_and_fix(tmp_path: Path, line: str, instead: str, message: str) -> None:
    assert line in MINIMAL
    assert message in refused(tmp_path, MINIMAL.replace(line, instead, 1))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("app.id", "--set app.id: there is no '='; write --set app.broker="),
        ("=x", "--set …: the key is no dotted TOML key"),
        ("a b=x", "--set a b: the key is no dotted TOML key"),
        ("app.idd=x", '--set app.idd: app.idd = "x": there is no such key; did you mean id?'),
        ("app.id.x=1", "--set app.id.x: app.id.x: the key above it is no table; remove app.id"),
        ("app=1", "--set app: app = 1: must be a table"),
        (
            "classifier.x.top_k=1",
            "--set classifier.x.top_k: it names no key of a classifier; write classifier.NAME.key; the",
        ),
        ("classifier.intent=1", "--set classifier.intent: it names no key of a classifier"),
        (
            "classifier.intent.threshold=high",
            '--set classifier.intent.threshold: classifier.intent.threshold = "high": must',
        ),
        (
            "web.token=hunter2",
            "--set web.token: a secret must not stand on a command line; set STREAM_CLASSIFIER__WEB__TOKEN",
        ),
    ],
)
def test_a_wrong_override_is_refused_by_its_key(tmp_path: Path, override: str, message: str) -> None:
    refusal = refused(tmp_path, MINIMAL, override)
    assert refusal.startswith(message)
    assert "hunter2" not in refusal


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("APP__BROKR", "x", "it names no setting; did you mean STREAM_CLASSIFIER__APP__BROKER?"),
        ("", "x", "it names no setting; such a name reads STREAM_CLASSIFIER__APP__BROKER"),
        ("APP", "x", 'app = "x": must be a table'),
        ("APP__ID__X", "x", "it names no setting"),
        ("CLASSIFIER__X__TOP_K", "1", 'no classifier has this name; the classifiers are "intent"'),
        ("CLASSIFIER__INTENT__TRESHOLD", "1", "did you mean STREAM_CLASSIFIER__CLASSIFIER__INTENT__THRESHOLD?"),
        ("CLASSIFIER__INTENT__THRESHOLD", "2", "classifier.intent.threshold = 2: must be at most 1"),
        ("WEB__TOKEN", "", "web.token: "),
        ("APP__ID", "\udcff", "app.id = "),
    ],
)
def test_a_wrong_environment_is_refused_by_its_name(tmp_path: Path, name: str, value: str, message: str) -> None:
    refusal = refused(tmp_path, MINIMAL, **{name: value})
    assert refusal.startswith(f"STREAM_CLASSIFIER__{name}: ")
    assert message in refusal


def test_names_that_the_environment_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    text = MINIMAL.replace('"intent"', '"a-b"') + MINIMAL[MINIMAL.index("[[") :].replace('"intent"', '"a_b"')
    assert "more than one classifier has this name here" in refused(tmp_path, text, CLASSIFIER__A_B__TOP_K="1")


@pytest.mark.parametrize("where", ["file", "broker"])
def test_a_secret_is_in_no_message(tmp_path: Path, where: str) -> None:
    text = MINIMAL + '[web]\ntoken = "hunter2"\n'
    if where == "broker":
        text = MINIMAL.replace("kafka://localhost", "kafka://user:hunter2@localhost")
    message = refused(tmp_path, text)
    assert "hunter2" not in message
    assert ("web.token_file" if where == "file" else "kafka://***@localhost:9092") in message


def test_a_password_is_masked_in_a_refused_table(tmp_path: Path) -> None:
    assert "hunter2" not in refused(tmp_path, MINIMAL + '[app.sasl]\npassword = "hunter2"\n')
    assert "hunter2" not in refused(tmp_path, MINIMAL + '[app.sasl.more]\npassword = "hunter2"\n')


def test_two_classifiers_are_held_against_each_other(tmp_path: Path) -> None:
    table = MINIMAL[MINIMAL.index("[[") :]
    other = table.replace('"intent"', '"other"')
    assert "14" not in table
    assert refused(tmp_path, MINIMAL + table).startswith("11: classifier[1].name = ")
    assert 'must be "messages.dead-letter"' in refused(tmp_path, MINIMAL + other + 'dead_letter = "lost"\n')
    back = other.replace('"messages"', '"intents"').replace('sink = "intents"', 'sink = "messages"')
    assert "its results come back to it" in refused(tmp_path, MINIMAL + back)
    mixed = other.replace('"messages"', '"more"').replace('"intents"', '"messages.dead-letter"')
    assert 'results of classifier "other" go to the dead letters of "intent"' in refused(tmp_path, MINIMAL + mixed)


def test_at_least_one_classifier_is_needed(tmp_path: Path) -> None:
    app = MINIMAL[: MINIMAL.index("[[")]
    assert "classifier: it is required; add a table [[classifier]]" in refused(tmp_path, app)
    assert "there must be at least one classifier; add a table" in refused(tmp_path, "classifier = []\n" + app)


def test_all_problems_are_found_and_the_message_counts_them(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(MINIMAL.replace(ID, "id = 3\nxyzzy = 1").replace(SINK, "sink = 4"))
    with pytest.raises(config.SettingsError) as caught:
        config.load(file, environ={})
    assert [problem.key for problem in caught.value.problems] == ["app.xyzzy", "app.id", "classifier.intent.sink"]
    assert "(and 2 more problems: stream-classifier check FILE)" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"\xff\xfe", "1: it is not UTF-8; save the file as UTF-8"),
        (b"a = 1\nb = '\xff'", "2: it is not UTF-8"),
        (b"", "app: it is required; add a table [app]"),
        (b"a = '\x00'", "it is not valid TOML"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "pipeline.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        config.load(file, environ={})


def test_a_directory_and_an_impossible_path_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("a\0b"), tmp_path / ("x" * 5000)):
        with pytest.raises(ConfigError, match=r"cannot be read|no such file"):
            config.load(path, environ={})
