"""Settings from their sources, merged: the file, below the environment, below --set. Each value keeps its origin.

The result is a plain tree of tables, unchecked but for what only the source decides: what the file must not hold, what
a path is relative to. The checks of the values are in settings.py.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path as FilePath
from typing import Any, NoReturn

from stream_classifier.config import schema
from stream_classifier.config.problems import Origin, Path, Problem, SettingsError, key_text, shown
from stream_classifier.config.toml_lines import key_lines
from stream_classifier.errors import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["ENVIRONMENT_PREFIX", "Sources", "read_sources"]

logger = logging.getLogger(__name__)

ENVIRONMENT_PREFIX = "STREAM_CLASSIFIER__"
_MAX_STEPS = 8
_MAX_NAME_CHARS = 80
_MAX_SECRET_BYTES = 64 << 10
_SECRETS: tuple[Path, ...] = (("web", "token"), ("app", "sasl", "password"))
_FILES: tuple[Path, ...] = tuple(("app", "tls", key) for key in ("ca", "cert", "key"))
_PATH_MODEL = re.compile(r"(\.{1,2}|~)?/|.*/.*/")


@dataclass(slots=True)
class Sources:
    """What was read: the merged tree, where each part of it came from, and the file's directory."""

    directory: FilePath
    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)

    def refuse(self, path: Path, what: str, fix: str, *, show: bool = True) -> NoReturn:
        origin = next(self.origins[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.origins)
        value = schema.value_at(self.tree, path)
        seen = None if value is schema.MISSING or not show else shown(value)
        raise SettingsError([Problem(origin.where, key_text(path, self.tree), seen, what, fix)])


@dataclass(frozen=True, slots=True)
class _Assignment:
    path: Path
    text: str
    origin: Origin


def read_sources(file: FilePath, *, overrides: Sequence[str], environ: Mapping[str, str], root: schema.Node) -> Sources:
    """Read and merge.

    Args:
        file: the TOML file.
        overrides: `key=value` each, later ones over earlier ones.
        environ: the environment; only names that begin with STREAM_CLASSIFIER__ are looked at.
        root: the JSON Schema of the settings.

    Raises:
        SettingsError: a file that cannot be read or is not TOML, a name or an override that leads nowhere,
            a secret in the file.
    """
    sources = _read_file(file)
    _refuse_in_file(sources)
    _apply(sources, list(_from_environment(environ, sources, root)), root)
    _apply(sources, [_from_override(override, sources) for override in overrides], root)
    for secret in _SECRETS:
        _read_secret_file(sources, secret)
    for path in _FILES:
        _find_file(sources, path)
    _find_models(sources)
    return sources


def _read_file(file: FilePath) -> Sources:
    def refuse(what: str, fix: str, line: int | None = None) -> SettingsError:
        return SettingsError([Problem(str(file) if line is None else f"{file}:{line}", "", None, what, fix)])

    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise refuse("there is no such file", "give the path of a TOML file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise refuse(f"it cannot be read ({reason})", "give the path of a readable TOML file") from error
    try:
        text = data.decode("utf-8")
        tree = tomllib.loads(text)
        lines = key_lines(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refuse("it is not UTF-8", "save the file as UTF-8", line) from error
    except tomllib.TOMLDecodeError as error:
        line, problem, fix = _syntax_problem(str(error), text)
        raise refuse(problem, fix, line) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists without end
        raise refuse(f"it is no settings file ({type(error).__name__})", "remove what is nested or long") from error
    origins: dict[Path, Origin] = {(): Origin("file", str(file))}
    origins.update({path: Origin("file", f"{file}:{line}") for path, line in lines.items()})
    return Sources(file.parent, tree, origins)


def _syntax_problem(message: str, text: str) -> tuple[int, str, str]:
    """Line, problem and fix for tomllib's message, which ends "(at line 3, column 5)" or "(at end of document)"."""
    match = re.fullmatch(r"(.*?)\s*\(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    what, line, column = (match[1], match[2], match[3]) if match else (message, None, None)
    at = int(line) if line else len(text.rstrip().split("\n"))
    fixes = {
        "Invalid value": 'text needs quotes, as in key = "text"',
        "Unclosed": "close the bracket or the brace",
        "Expected '='": "a line is key = value",
        "Invalid statement": "a line is key = value, [table] or [[table]]",
        "Cannot": "give each key and each table once",
        "Expected newline or end": "one key = value a line; text needs quotes",
        "Illegal character": "close the quote on the same line",
        "Unterminated": "close the quote",
    }
    fix = next((fix for beginning, fix in fixes.items() if what.startswith(beginning)), "correct the line")
    return at, f"it is not valid TOML{f' at column {column}' if column else ''} ({what!s})", fix


def _refuse_in_file(sources: Sources) -> None:
    for path in _SECRETS:
        if schema.value_at(sources.tree, path) is not schema.MISSING:
            name = ENVIRONMENT_PREFIX + "__".join(str(step).upper() for step in path)
            fix = f"set {name}, or {'.'.join(map(str, path))}_file to a file that holds it"
            sources.refuse(path, "a secret must not stand in the file", fix, show=False)
    if schema.value_at(sources.tree, ("app", "instance_id")) is not schema.MISSING:
        fix = f"set {ENVIRONMENT_PREFIX}APP__INSTANCE_ID, or use --set app.instance_id=…"
        sources.refuse(("app", "instance_id"), "each worker needs its own, the file is the same for all", fix)


def _from_environment(environ: Mapping[str, str], sources: Sources, root: schema.Node) -> Iterator[_Assignment]:
    for name in sorted(environ):
        if name.upper().startswith(ENVIRONMENT_PREFIX) and name.startswith("STREAM_CLASSIFIER"):
            path = _environment_path(name, name[len(ENVIRONMENT_PREFIX) :], sources, root)
            yield _Assignment(path, environ[name], Origin("environment", _readable(name)))


def _environment_path(name: str, rest: str, sources: Sources, root: schema.Node) -> Path:
    """The setting that an environment name stands for. Our keys are read in lower case, the user's as written."""
    path: Path = ()
    if rest.upper().startswith("CLASSIFIER__"):
        rest = rest[len("CLASSIFIER__") :]
        index, length = _classifier_by_environment_name(name, rest, sources)
        path, rest = ("classifier", index), rest[length:]
    for part in rest.split("__"):
        node = schema.at(root, path)
        if not part:
            raise SettingsError([Problem(_readable(name), "", None, "it names no setting", _environment_example())])
        if not node.is_map and part.lower() not in node.keys:
            known = [ENVIRONMENT_PREFIX + "__".join(_names(path, sources)) + key.upper() for key in node.keys]
            close = nearest(name, known)
            fix = f"did you mean {close}?" if close else _environment_example()
            raise SettingsError([Problem(_readable(name), "", None, "it names no setting", fix)])
        path = (*path, part if node.is_map else part.lower())
    return path


def _names(path: Path, sources: Sources) -> list[str]:
    """The parts of an environment name for a path, with an empty one behind them to be joined to a key."""
    parts = [
        _environment_form(sources.tree["classifier"][step]["name"]) if isinstance(step, int) else step for step in path
    ]
    return [*(part.upper() for part in parts), ""] if parts else [""]


def _environment_example() -> str:
    return f"such a name reads {ENVIRONMENT_PREFIX}APP__BROKER or {ENVIRONMENT_PREFIX}CLASSIFIER__INTENT__THRESHOLD"


def _environment_form(name: str) -> str:
    return name.upper().replace("-", "_")


def _classifier_by_environment_name(name: str, rest: str, sources: Sources) -> tuple[int, int]:
    """Index of the classifier that `rest` begins with, and where its key begins; a name may hold "__" itself."""
    names = _classifier_names(sources)
    fits = [(i, n) for i, n in names if rest.upper().startswith(_environment_form(n) + "__")]
    longest = max((len(n) for _, n in fits), default=0)
    fits = [(i, n) for i, n in fits if len(n) == longest]
    if len(fits) == 1:
        return fits[0][0], longest + 2
    what = "no classifier has this name" if not fits else "more than one classifier has this name here"
    known = ", ".join(shown(n) for _, n in names) or "none"
    raise SettingsError(
        [Problem(_readable(name), "", None, what, f"the classifiers are {known}; --set tells them apart")]
    )


def _classifier_names(sources: Sources) -> list[tuple[int, str]]:
    tables = sources.tree.get("classifier")
    if not isinstance(tables, list):
        return []
    return [(i, t["name"]) for i, t in enumerate(tables) if isinstance(t, dict) and isinstance(t.get("name"), str)]


def _from_override(override: str, sources: Sources) -> _Assignment:
    key, separator, text = override.partition("=")
    key = key.strip()

    def refuse(what: str, fix: str) -> SettingsError:
        return SettingsError([Problem(f"--set {_readable(key) or '…'}", "", None, what, fix)])

    if not separator:
        raise refuse("there is no '='", "write --set app.broker=kafka://localhost:9092")
    try:
        nested: object = tomllib.loads(f"{key} = 0")
    except (ValueError, RecursionError) as error:
        raise refuse("the key is no dotted TOML key", 'write app.id, or classifier.intent.thresholds."a b"') from error
    path: Path = ()
    while isinstance(nested, dict) and len(nested) == 1:
        (step, nested), *_ = nested.items()
        path = (*path, step)
    if len(path) > _MAX_STEPS:
        raise refuse(f"the key has {len(path)} parts", "write app.id, or classifier.intent.threshold")
    if not path or nested != 0:
        raise refuse("the key is no dotted TOML key", 'write app.id, or classifier.intent.thresholds."a b"')
    if path in _SECRETS:
        name = ENVIRONMENT_PREFIX + "__".join(str(step).upper() for step in path)
        raise refuse("a secret must not stand on a command line", f"set {name}, or --set {key}_file=…")
    if path[0] == "classifier":
        names = {n: i for i, n in _classifier_names(sources)}
        name = str(path[1]) if len(path) > 1 else ""
        if name not in names or len(path) < 3:
            known = ", ".join(shown(n) for n in names) or "none"
            raise refuse("it names no key of a classifier", f"write classifier.NAME.key; the classifiers are {known}")
        path = ("classifier", names[name], *path[2:])
    return _Assignment(path, text, Origin("argument", f"--set {_readable(key)}"))


def _readable(name: str) -> str:
    """A name from outside, fit for a line: quoted and cut where it is odd or long."""
    return name if name.isprintable() and len(name) <= _MAX_NAME_CHARS else shown(name)


def _apply(sources: Sources, assignments: Sequence[_Assignment], root: schema.Node) -> None:
    """Set the values of one layer. A threshold for all labels replaces the thresholds by label of the layers below."""
    for path in {assignment.path for assignment in assignments if assignment.path[-1] == "threshold"}:
        by_label: Path = (*path[:-1], "thresholds")
        classifier = schema.value_at(sources.tree, path[:-1])
        if isinstance(classifier, dict) and classifier.pop("thresholds", None):
            logger.warning("%s replaces %s", key_text(path, sources.tree), key_text(by_label, sources.tree))
            _forget(sources, by_label)
    for assignment in assignments:
        table: Any = sources.tree
        path = assignment.path
        for position, step in enumerate(path[:-1]):
            table = table.setdefault(step, {}) if isinstance(table, dict) else table[step]
            if not isinstance(table, (dict, list)):
                sources.origins[path] = assignment.origin
                fix = f"remove {key_text(path[: position + 1], sources.tree)}, or make it a table"
                sources.refuse(path, "the key above it is no table", fix)
        if not isinstance(table, dict):
            sources.origins[path] = assignment.origin
            sources.refuse(path, "the key above it is no table", "address a classifier by its name")
        table[path[-1]] = _value(assignment.text, is_text=schema.at(root, path).is_text)
        _forget(sources, path)
        sources.origins[path] = assignment.origin


def _forget(sources: Sources, path: Path) -> None:
    for known in [known for known in sources.origins if known[: len(path)] == path]:
        del sources.origins[known]


def _value(text: str, *, is_text: bool) -> object:
    """A value as TOML; what is no TOML is a string, and so is everything for a key that takes only strings."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    if set(parsed) != {"value"}:  # a line break in it began another key
        return text
    value = parsed["value"]
    return text if is_text and not isinstance(value, str) else value


def _read_secret_file(sources: Sources, secret: Path) -> None:
    """Put the content of the file that KEY_file names in the place of KEY, unless the environment gave that."""
    *above, key = secret
    table, path = schema.value_at(sources.tree, tuple(above)), (*above, f"{key}_file")
    if not isinstance(table, dict) or not isinstance(table.get(path[-1]), str) or key in table:
        return
    file = sources.directory / table[path[-1]]
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_SECRET_BYTES + 1)  # /dev/zero has no end
        content = data.decode("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        sources.refuse(path, f"the file cannot be read ({reason})", "check the path, relative to the settings file")
    if not content or len(data) > _MAX_SECRET_BYTES:
        what = "the file is empty" if not content else f"the file is larger than {_MAX_SECRET_BYTES} bytes"
        sources.refuse(path, what, f"write the {key} into it, and nothing else")
    table[key], table[path[-1]] = content, str(file)
    sources.origins[secret] = sources.origins[path]


def _find_file(sources: Sources, path: Path) -> None:
    """Make the name of a file absolute; it is relative to the settings file."""
    table = schema.value_at(sources.tree, path[:-1])
    if not isinstance(table, dict) or not isinstance(table.get(path[-1]), str):
        return
    file = sources.directory / table[path[-1]]
    if not os.path.isfile(file):  # unlike Path.is_file it says no to a name that is too long
        sources.refuse(path, "there is no such file", "check the path, relative to the settings file")
    table[path[-1]] = str(file.absolute())


def _find_models(sources: Sources) -> None:
    """Make the models that are directories beside the file absolute; Hub names and entry points stay as they are."""
    tables = sources.tree.get("classifier")
    for index, table in enumerate(tables if isinstance(tables, list) else ()):
        model = table.get("model") if isinstance(table, dict) else None
        if not isinstance(model, str) or model in ("", "null"):
            continue
        home = os.path.expanduser("~") if model.startswith("~/") else ""
        found = os.path.join(sources.directory, home + model[1:] if home else model)
        if os.path.isdir(found) and not entry_points(group="stream_classifier.models", name=model):
            table["model"] = os.path.abspath(found)
        elif _PATH_MODEL.match(model):  # a Hub name has one slash at most, and none in front
            fix = "check the path, relative to the settings file"
            sources.refuse(("classifier", index, "model"), "there is no such directory", fix)
