"""The generated pages of the reference say what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generator()


@pytest.mark.parametrize("page", generate.PAGES)
def test_generated_page_is_what_the_code_says(page: str) -> None:
    written = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert written == generate.rendered(page), f"docs/reference/{page} is stale: run python docs/generate.py"


def test_the_pages_hold_every_setting_and_every_command() -> None:
    configuration, cli = generate.rendered("configuration.md"), generate.rendered("cli.md")
    for key in ("app.broker", "web.token_file", "classifier[].route.uncertain"):
        assert f"| `{key}` |" in configuration
    for command in ("stream-classifier run", "stream-classifier config show", "stream-training fit"):
        assert f"### `{command}`" in cli
