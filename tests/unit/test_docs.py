"""The documentation holds what it says: links lead somewhere, configurations load, code runs.

Its commands are for test_docs_commands.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stream_classifier import config
from stream_classifier.model import classifier
from stream_classifier.model.opening import open_model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{page.relative_to(ROOT)}-{number}", body)
        for page in PAGES
        for number, (kind, body) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
        if kind == language
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize(("where", "body"), blocks("toml"), ids=[where for where, _ in blocks("toml")])
def test_configurations_load(where: str, body: str, tmp_path: Path) -> None:
    if "[[classifier]]" not in body:
        pytest.skip("a fragment")
    file = tmp_path / "pipeline.toml"
    file.write_text(body, encoding="utf-8")
    assert config.load(file, environ={}).classifiers


@pytest.mark.parametrize(("where", "body"), blocks("python"), ids=[where for where, _ in blocks("python")])
async def test_code_runs(
    where: str, body: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Imports, calls and settings, up to what an app does only once it has started. Every model is the null model."""
    monkeypatch.setattr(classifier, "open_model", lambda model, **options: open_model("null"))
    exec(compile(body, where, "exec"), {"__name__": "snippet"})


def test_the_page_on_model_directories_names_every_key_of_the_manifest() -> None:
    from stream_classifier.model.manifest import CalibrationSpec, Manifest, Thresholds

    page = (ROOT / "docs/reference/model-directory.md").read_text(encoding="utf-8")
    keys = {field.alias or name for model in (Manifest, CalibrationSpec, Thresholds)
            for name, field in model.model_fields.items()}  # fmt: skip
    assert {key for key in keys if f"`{key}`" not in page} == set()
