"""Who must not know whom: the rules of the design, held by reading the imports of every module.

Imports inside functions and under TYPE_CHECKING count too, and so does `import_module` with a literal name.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KAFKA_CLIENTS = ("aiokafka", "kafka")
FAUST = ("faust", "mode")
TENSORS = ("torch", "transformers", "safetensors", "tokenizers", "openvino")

# rule: (where it holds, except in these files, what must not be imported there)
RULES = {
    "model knows nothing of Kafka, Faust, asyncio or metrics": (
        "stream_classifier/model",
        (),
        (*KAFKA_CLIENTS, *FAUST, "asyncio", "aiohttp", "prometheus_client"),
    ),
    "model stands below everything else": (
        "stream_classifier/model",
        (),
        tuple(f"stream_classifier.{room}" for room in ("stream", "observe", "cli", "broker", "config", "codecs")),
    ),
    "stream knows no torch": ("stream_classifier/stream", (), TENSORS),
    "only four modules of stream know Faust": (
        "stream_classifier/stream",
        ("transport.py", "fetching.py", "plugin.py", "worker.py"),
        ("faust",),
    ),
    "only observe/metrics.py knows prometheus_client": (
        "stream_classifier",
        ("observe/metrics.py",),
        ("prometheus_client",),
    ),
    "stream_classifier never imports training": ("stream_classifier", (), ("training",)),
    "training knows nothing of streams": ("training", (), (*KAFKA_CLIENTS, *FAUST, "aiohttp", "prometheus_client")),
    "the packages know neither tests nor benchmarks": ("stream_classifier", (), ("tests", "benchmarks")),
}

TRAINING_MAY_IMPORT = ("stream_classifier.model", "stream_classifier.records", "stream_classifier.errors")


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds(rule: str) -> None:
    room, exempt, forbidden = RULES[rule]
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _modules(room)
        if path.relative_to(ROOT / room).as_posix() not in exempt
        for line, name in _imports(path.read_text())
        if _is_within(name, forbidden)
    ]
    assert broken == []


def test_training_imports_only_the_model_side() -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _modules("training")
        for line, name in _imports(path.read_text())
        if _is_within(name, ("stream_classifier",)) and not _is_within(name, TRAINING_MAY_IMPORT)
    ]
    assert broken == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch.nn as nn", ["torch.nn"]),
        ("def f():\n    from faust.types import TP", ["faust.types.TP"]),
        ("from stream_classifier import model, broker", ["stream_classifier.model", "stream_classifier.broker"]),
        ("import importlib\nimportlib.import_module('training.fit')", ["importlib", "training.fit"]),
        ("try:\n    import a\nexcept ImportError:\n    import b", ["a", "b"]),
    ],
)
def test_reader_sees_every_way_to_import(source: str, names: list[str]) -> None:
    assert [name for _, name in _imports(source)] == names


def test_a_name_is_within_its_package_only() -> None:
    assert _is_within("torch.nn", ("torch",))
    assert not _is_within("torchmetrics", ("torch",))


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import stream_classifier", ("torch", "faust", "pydantic", "numpy")),
        ("import training", ("torch", "transformers")),
        ("import stream_classifier.cli", ("torch", "faust")),
        ("import stream_classifier.stream.plugin", ("torch", "transformers")),
        ("import stream_classifier.broker", ("torch", "faust", "kafka")),
    ],
)
def test_importing_pulls_in_nothing_heavy(statement: str, unwanted: tuple[str, ...]) -> None:
    program = f"import sys; {statement}; print(*sorted(set({unwanted!r}) & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert loaded.stdout.strip() == ""


def _modules(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found, f"{room} has no modules: the rule would hold for nothing"
    return found


def _imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a module imports; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def _is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
