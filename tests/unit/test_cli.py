"""The command line: exit codes, one line for a refusal, what is printed where, and what --help imports."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import click
import pytest

from stream_classifier import config
from stream_classifier.cli import COMMANDS, group, main
from stream_classifier.cli.group import LazyGroup
from stream_classifier.cli.logs import set_up_logging
from stream_classifier.errors import DeliveryError
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.golden import GoldenReport

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


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.toml"
    path.write_text(MINIMAL)
    return path


def commands() -> list[tuple[str, ...]]:
    """All commands, and those below them."""
    found: list[tuple[str, ...]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        found.append((name,))
        command = group.get_command(context, name)
        if isinstance(command, LazyGroup):
            found += [(name, inner) for inner in command.list_commands(context)]
    return found


@pytest.mark.parametrize("command", [(), *commands()], ids=" ".join)
def test_every_help_ends_with_examples(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    _, _, examples = out.partition("Examples:\n")
    assert examples
    assert all("stream-classifier" in line for line in examples.strip().splitlines())
    assert err == ""


def test_help_and_the_package_import_nothing_heavy() -> None:
    code = (
        "import sys; from stream_classifier.cli import main; code = main(['--help']); "
        "heavy = {'torch', 'faust', 'pydantic', 'numpy', 'transformers', 'aiokafka', 'prometheus_client'}; "
        "sys.exit(code or ' '.join(sorted(heavy & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in COMMANDS)


def test_the_package_can_be_run_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stream_classifier", "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("stream-classifier, version ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command; see stream-classifier --help"),
        (["config"], "Missing command; see stream-classifier config --help"),
        (["chek"], "there is no command 'chek', perhaps 'check'; see stream-classifier --help"),
        (["nope"], "there is no command 'nope', the commands are run, demo, classify"),
        (["config", "shw"], "there is no command 'shw', perhaps 'show'; see stream-classifier config --help"),
        (["run"], "Missing argument 'FILE'; see stream-classifier run --help"),
        (["run", "no-such.toml"], "no-such.toml: there is no such file; give the path of a TOML file"),
        (["config", "show", "no-such.toml"], "no-such.toml: there is no such file"),
        (
            ["classify", "null", "no-such.txt"],
            "no-such.txt: it cannot be read (No such file or directory); give a file",
        ),
        (["classify", "no/such/model", "-"], "there is no such directory"),
        (["classify", "null", "--threshold", "high"], "Invalid value for '--threshold'"),
        (["classify", "null", "--threshold", "1.5"], "1.5"),
        (["classify", "null", "x.csv", "--text-pointer", "/a"], "--text-pointer is for JSON lines, the format is csv"),
        (["classify", "null", "x.jsonl", "--text-column", "a"], "--text-column is for CSV, the format is jsonl"),
        (["classify", "null", "--passthrough", "id"], "there is no name=pointer; write --passthrough id=/id"),
        (["check", "models/x", "--broker"], "--set and --broker are for one; leave them out"),
        (["broker", "--port", "0"], "cannot listen on port 0"),
    ],
)
def test_a_refusal_is_one_line_on_stderr_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stream-classifier: ")
    assert err.count("\n") == 1
    assert message in err


def test_settings_of_the_environment_reach_the_worker_with_those_of_set_over_them(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stream_classifier.stream import worker

    seen: list[config.Settings] = []

    def run(settings: config.Settings) -> int:
        seen.append(settings)
        return 1

    monkeypatch.setattr(worker, "run", run)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("STREAM_CLASSIFIER__APP__ID", "from-environment")
    monkeypatch.setenv("STREAM_CLASSIFIER__LOG__LEVEL", "debug")
    assert main(["run", str(file), "--set", "log.level=error", "--set", "web.port=1"]) == 1
    assert (seen[0].app.id, seen[0].log.level, seen[0].web.port) == ("from-environment", "error", 1)
    assert logging.getLogger("stream_classifier").level == logging.ERROR


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (DeliveryError("the broker\nhas gone"), 1, "stream-classifier: the broker has gone\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_ends_a_command_gives_its_exit_code(
    raised: BaseException, code: int, message: str, file: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def load(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(config, "load", load)
    assert main(["config", "show", str(file)]) == code
    assert capsys.readouterr().err.strip() == message.strip()


def test_nobody_hears_of_a_reader_that_goes_away(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("text\n" * 20_000)
    command = f"{sys.executable} -m stream_classifier classify null texts.txt | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["source"] == {"file": "texts.txt", "line": 1}


class TestConfig:
    def test_schema_prints_the_json_schema(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["config", "schema"]) == 0
        assert json.loads(capsys.readouterr().out) == config.json_schema()

    def test_show_tells_each_setting_and_where_it_came_from(
        self, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STREAM_CLASSIFIER__APP__INSTANCE_ID", "worker-0")
        assert main(["config", "show", str(file), "--set", "classifier.intent.threshold=0.75"]) == 0
        lines = dict(line.rsplit("  # ", 1) for line in capsys.readouterr().out.splitlines())
        origins = {line.strip(): origin for line, origin in lines.items()}
        assert origins['app.id = "support"'] == f"{file}:2"
        assert origins['app.instance_id = "worker-0"'] == "STREAM_CLASSIFIER__APP__INSTANCE_ID"
        assert origins["classifier.intent.threshold = 0.75"] == "--set classifier.intent.threshold"
        assert origins["app.session_timeout_s = 10"] == "default"
        keys = {row.key for row in config.reference_rows()}
        of_absent_tables = {key for key in keys if key.startswith(("app.tls.", "app.sasl."))}
        assert len(origins) == len(keys - of_absent_tables | {"app.tls", "app.sasl"})

    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_show_masks_secrets(
        self, options: list[str], file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STREAM_CLASSIFIER__WEB__TOKEN", "hunter2")
        monkeypatch.setenv("STREAM_CLASSIFIER__APP__SASL__PASSWORD", "hunter3")
        sasl = ["--set", "app.sasl.mechanism=PLAIN", "--set", "app.sasl.username=alice"]
        assert main(["config", "show", str(file), *sasl, *options]) == 0
        out = capsys.readouterr().out
        assert "hunter" not in out
        assert out.count("********") == 2
        assert "alice" in out

    def test_show_as_json_is_one_object_with_the_names_of_the_file(
        self, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["config", "show", str(file), "--set", 'classifier.intent.text=["/a"]', "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["settings"]["app"]["max_in_flight_bytes"] == 64 * 2**20
        assert shown["settings"]["classifier"][0]["text"] == ["/a"]
        assert shown["origins"]["classifier.intent.sink"] == f"{file}:9"
        assert shown["origins"]["classifier.intent.text"] == "--set classifier.intent.text"


class TestCheck:
    def test_a_good_configuration_is_ok(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", str(file)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"ok      settings: {file}, 1 classifier"
        assert lines[1].startswith("ok      classifier.intent: null loads: 2 labels, no digest, null on cpu")
        assert all(line.startswith("ok ") for line in lines)

    def test_all_problems_of_a_configuration_are_told_a_line_each(
        self, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file.write_text(MINIMAL.replace('id = "support"', "id = 3").replace("sink", "snk"))
        assert main(["check", str(file)]) == 2
        out, err = capsys.readouterr()
        assert [line.partition(f"{file}:")[2] for line in out.splitlines()] == [
            '9: classifier.intent.snk = "intents": there is no such key; did you mean sink?',
            "2: app.id = 3: must be a string; put it in quotes",
            '5: classifier.intent.sink: it is required; add sink = "support.intents"',
        ]
        assert all(line.startswith("FAILED  settings: ") for line in out.splitlines())
        assert err == ""

    def test_a_route_for_a_label_the_model_has_not_is_found(
        self, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file.write_text(MINIMAL + 'route.label.evn = "evens"\n')
        assert main(["check", str(file), "--json"]) == 2
        report = json.loads(capsys.readouterr().out)
        assert (report["ok"], report["target"]) == (False, str(file))
        failed = [check for check in report["checks"] if not check["ok"]]
        assert len(failed) == 1
        assert "route.label.evn: the model has no such label; did you mean 'even'?" in failed[0]["message"]

    def test_every_model_is_looked_at_though_one_fails(
        self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "empty").mkdir()
        broken = MINIMAL[MINIMAL.index("[[") :].replace('"intent"', '"broken"').replace('"null"', '"empty"')
        file.write_text(MINIMAL.replace("[[", broken + "[[", 1))
        assert main(["check", str(file)]) == 2
        out = capsys.readouterr().out
        assert f"FAILED  classifier.broken: {tmp_path / 'empty' / 'config.json'}: there is no such file; " in out
        assert "ok      classifier.intent: null loads" in out

    def test_a_model_whose_golden_cases_differ_fails(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Different(Classifier):
            def check_golden(self, *, all: bool = True) -> GoldenReport:
                return GoldenReport(30 if all else 8, (3,), 0.25, 0.01)

        different = Classifier.load("null")
        different.__class__ = Different
        different.probe_texts = ("a",)
        monkeypatch.setattr("stream_classifier.stream.service.load_classifier", lambda *_: different)
        assert main(["check", "null"]) == 2
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("FAILED  model golden: 1 of 30 golden cases differ")

    def test_a_model_is_checked_by_its_name(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", "null"]) == 0
        assert capsys.readouterr().out.startswith("ok      model: null loads: 2 labels")


class TestLogs:
    def test_text_lines_go_to_stderr_with_utc_times(self, capsys: pytest.CaptureFixture[str]) -> None:
        set_up_logging("info", "text")
        logging.getLogger("stream_classifier.stream").info("running: %s", "group")
        logging.getLogger("stream_classifier.stream").debug("unseen")
        logging.getLogger("aiokafka").info("unseen")
        out, err = capsys.readouterr()
        assert out == ""
        time, _, rest = err.partition(" ")
        assert rest == "INFO stream_classifier.stream: running: group\n"
        assert time.endswith("Z")

    def test_json_lines_are_one_object_each(self, capsys: pytest.CaptureFixture[str]) -> None:
        set_up_logging("debug", "json")
        try:
            raise ValueError("broken\nin two")
        except ValueError:
            logging.getLogger("stream_classifier").exception("it failed")
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        line = json.loads(lines[0])
        assert (line["level"], line["logger"], line["message"]) == ("error", "stream_classifier", "it failed")
        assert "ValueError: broken\nin two" in line["exception"]

    def test_what_was_set_up_before_keeps_no_line_away(self, capsys: pytest.CaptureFixture[str]) -> None:
        ours, child = logging.getLogger("stream_classifier"), logging.getLogger("stream_classifier.stream")
        others = io.StringIO()
        ours.addHandler(logging.StreamHandler(others))
        child.addHandler(logging.StreamHandler(others))
        ours.propagate = child.propagate = False
        child.disabled = True  # what logging.config.fileConfig does to loggers it does not know
        child.setLevel(logging.CRITICAL)
        logging.disable(logging.ERROR)
        set_up_logging("debug", "text")
        child.debug("a line")
        assert [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()] == [
            "DEBUG stream_classifier.stream: a line"
        ]
        assert others.getvalue() == ""
