"""Whatever a configuration holds, it loads or is refused in one line: nothing else leaves `load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream_classifier import config
from tests.fuzz.configuration import loads_or_is_refused, to_toml

KEYS = [row.key.rpartition(".")[2] for row in config.reference_rows()]
WORDS = ["null", "json", "text", "auto", "embedded", "kafka://a:1", "a", "b", "/a", "0.0.0.0", "exactly_once", "..", ""]

_texts = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_numbers = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 10**400, 2**63, 1e308, 0.5])
_keys = st.sampled_from(KEYS) | _texts
_values = st.recursive(
    _texts | _numbers | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=6,
)
_app = st.fixed_dictionaries({"id": st.just("a"), "broker": st.just("embedded")})
_classifier = st.fixed_dictionaries({key: st.sampled_from(["a", "b", "c"]) for key in ("name", "source", "sink")})
_model = st.sampled_from(["null", "a/b"])


@st.composite
def _nearly_right(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration that is right but for a few values."""
    tree: dict[str, Any] = {"app": draw(_app), "classifier": []}
    for _ in range(draw(st.integers(1, 2))):
        tree["classifier"].append({**draw(_classifier), "model": draw(_model)})
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.sampled_from(config.reference_rows()))
        *parts, last = row.key.replace("classifier[]", "classifier").split(".")
        table: Any = tree
        for part in parts:
            table = table.setdefault(part, {})
            table = table[-1] if isinstance(table, list) else table
            if not isinstance(table, dict):
                break
        else:
            table[last] = draw(_values)
    return tree


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    tree=_nearly_right() | st.dictionaries(_keys | st.sampled_from(["app", "classifier", "web"]), _values, max_size=5)
)
@example(tree={"app": {"id": "a", "broker": "embedded"}, "classifier": [{"name": "a", "model": "null"}, 3]})
@example(tree={"classifier": [{"name": {"name": "x"}, "source": 10**400}]})
@example(tree={"web": {"token_file": "\0"}})
@example(tree={"web": {"token_file": ""}})
@example(tree={"classifier": {"model": "\0"}})
@example(tree={"classifier": [{"model": "/" + "x" * 300}]})
def test_a_file_loads_or_is_refused_in_one_line(tmp_path: Path, tree: dict[str, Any]) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(to_toml(tree), encoding="utf-8")
    loads_or_is_refused(file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(content=st.binary(max_size=60) | _texts.map(str.encode) | st.text("[]{}\"'=.,#\n\r\\a1 ").map(str.encode))
def test_any_bytes_load_or_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_bytes(content)
    loads_or_is_refused(file)


_environment_names = st.lists(st.sampled_from([*map(str.upper, KEYS), "APP", "CLASSIFIER", "A", "", "x"]), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    overrides=st.lists(st.builds("{}={}".format, st.lists(_keys, max_size=3).map(".".join), _texts), max_size=2),
    environ=st.dictionaries(_environment_names.map("__".join), st.text(max_size=10), max_size=2),
)
@example(overrides=["classifier.a.text.x=1"], environ={})
@example(overrides=["classifier.a.text=1", "classifier.a.text.0=1"], environ={})
@example(overrides=["classifier.a.name=b", "classifier.b.name=a"], environ={})
@example(overrides=["a=" + "[" * 3000, "b=" + "9" * 5000], environ={})
@example(overrides=["." * 10_000 + "=1"], environ={})
@example(overrides=[".".join("a" * 3000) + "=1"], environ={})
def test_any_override_and_environment_loads_or_is_refused_in_one_line(
    tmp_path: Path, overrides: list[str], environ: dict[str, str]
) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(
        '[app]\nid = "a"\nbroker = "embedded"\n'
        '[[classifier]]\nname = "a"\nmodel = "null"\nsource = "a"\nsink = "b"\ntext = ["/a"]\n'
    )
    loads_or_is_refused(file, overrides, {f"STREAM_CLASSIFIER__{name}": value for name, value in environ.items()})
