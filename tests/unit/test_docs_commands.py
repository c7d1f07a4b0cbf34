"""Every command that the documentation or a --help shows is one that the command line takes, its settings included."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import pytest

from stream_classifier import config
from stream_classifier.cli import group as stream_classifier_cli
from training.cli import cli as stream_training_cli

ROOT = Path(__file__).parents[2]
PROGRAMS: dict[str, click.Group] = {"stream-classifier": stream_classifier_cli, "stream-training": stream_training_cli}
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docker/README.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`((?:stream-classifier|stream-training) [^`]+)`")
PIPELINE = """\
[app]
id = "support"
broker = "kafka://localhost:9092"
[[classifier]]
name = "intent"
model = "models/intent"
source = "messages"
sink = "intents"
"""


def shown() -> list[tuple[str, str]]:
    """(where, line) of every command in a page's blocks and sentences, and of every example of a --help."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for language, body in BLOCK.findall(text):
            if language in ("", "sh", "bash", "console"):
                lines = body.replace("\\\n", " ").splitlines()
                found += [(page.name, line.strip()) for line in lines if _starts_with_a_program(line)]
        sentences = " ".join(BLOCK.sub("", text).split())
        found += [(f"{page.name}, a sentence", line) for line in INLINE.findall(sentences)]
    for program, group in PROGRAMS.items():
        for command in _all_commands(group, click.Context(group, info_name=program)):
            lines = (command.epilog or "").replace("\\\n", " ").splitlines()
            found += [(f"{program} --help", line.strip()) for line in lines if _starts_with_a_program(line)]
    return list(dict.fromkeys(found))


def _starts_with_a_program(line: str) -> bool:
    return re.match(r"\s*(?:\w+=\S+ )*(?:stream-classifier|stream-training) ", line) is not None


def _all_commands(group: click.Group, context: click.Context) -> Iterator[click.Command]:
    yield group
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _all_commands(command, context)
        elif command is not None:
            yield command


def _words(line: str) -> tuple[dict[str, str], list[str]]:
    """Environment and words of the first command of a line, without what it is piped into or written to."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if re.fullmatch(r"[|&;<>]+", word):
            break
        words.append(word)
    environ = {}
    while "=" in words[0]:
        name, _, environ[name] = words.pop(0).partition("=")
    return environ, words


def _parsed(
    command: click.Command, name: str, arguments: Sequence[str], parent: click.Context | None = None
) -> click.Context:
    """As click parses it before it calls anything: options known, values of their types, nothing missing."""
    context = command.make_context(name, list(arguments), parent=parent)
    if not isinstance(command, click.Group):
        return context
    words = [*context._protected_args, *context.args]
    if not words:
        raise click.exceptions.NoArgsIsHelpError(context)
    _, inner, rest = command.resolve_command(context, words)
    assert inner is not None
    return _parsed(inner, inner.name or "", rest, context)


COMMANDS = shown()


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=[f"{where}: {line}" for where, line in COMMANDS])
def test_it_is_taken(where: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ, (program, *arguments) = _words(line)
    monkeypatch.chdir(tmp_path)
    try:
        context = _parsed(PROGRAMS[program], program, arguments)
    except click.exceptions.Exit:  # --help
        return
    except (click.MissingParameter, click.BadOptionUsage, click.exceptions.NoArgsIsHelpError):
        if where.endswith("a sentence"):  # it names a command and its options, and leaves out what they are given
            return
        raise
    _check_settings(context.params, environ, tmp_path)


def _check_settings(params: Mapping[str, object], environ: Mapping[str, str], folder: Path) -> None:
    overrides = params.get("overrides")
    if environ or overrides:
        file = folder / "pipeline.toml"
        file.write_text(PIPELINE)
        assert config.load(file, overrides=overrides or (), environ=environ)  # type: ignore[arg-type]  # click's


@pytest.mark.parametrize(
    "line", ["stream-classifier run pipeline.toml --port 1", "stream-training fit x.csv --out", "stream-classifier go"]
)
def test_one_that_is_not_there_would_be_found(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(click.UsageError):
        test_it_is_taken("here", line, tmp_path, monkeypatch)


def test_there_are_as_many_as_expected() -> None:
    """The patterns above find the commands, and not none of them."""
    places = [where for where, _ in COMMANDS]
    assert places.count("README.md") >= 4
    assert places.count("tutorial.md") >= 6
    assert places.count("tutorial.md, a sentence") >= 4
    assert places.count("stream-classifier --help") >= 15
    assert places.count("stream-training --help") >= 3


MAKE = re.compile(r"(?:^|`)make ([a-z]+)(?: ARGS='?([^`'\n]*))?", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist_and_the_demo_takes_its_arguments(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for target, arguments in MAKE.findall(page.read_text(encoding="utf-8")):
        assert target in targets
        if target == "demo" and arguments:
            _parsed(stream_classifier_cli, "stream-classifier", ["demo", *arguments.split()[:1]])
