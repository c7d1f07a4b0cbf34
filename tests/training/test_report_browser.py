"""report.html opened in a browser, as a user does: on a phone and a desktop, in the light and in the dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.browser import Browser, find_browser
from tests.plugins.reports import EVIL_LABELS, make_answers, make_measured_directory
from training.documents import write_documents
from training.report.page import REPORT_NAME

PHONE, DESKTOP = 390, 1280
LEAST_CONTRAST = 4.5  # WCAG 2.2, level AA, for text of any size
LEAST_SIZE_PX = 10

TEXTS = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const painted = (colour, below) => {
    for (const style of [`rgb(${below})`, colour]) { canvas.fillStyle = style; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => rgb.map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const contrast = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const style = getComputedStyle(element), below = painted(style.backgroundColor, ground(element.parentElement));
    const bar = element.matches(".bar") && /(rgba?|color)\\([^)]*\\)/.exec(style.backgroundImage);
    return bar ? painted(bar[0], below) : below;
  };
  const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!text || element.closest("script, title, desc")) continue;
    const style = getComputedStyle(element), below = ground(element), plot = element.closest("svg");
    const { a, b } = plot ? element.getScreenCTM() : { a: 1, b: 0 };
    texts.push({
      text: text.slice(0, 40),
      contrast: contrast(luminance(painted(plot ? style.fill : style.color, below)), luminance(below)),
      size: parseFloat(style.fontSize) * Math.hypot(a, b),
    });
  }
  return texts;
})()"""
"""Every piece of text with its contrast to what is behind it and its size in pixels, as they are shown."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with Browser(program) as browser:
        yield browser


@pytest.fixture(scope="module", params=["evil", "several labels", "many"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {"evil": EVIL_LABELS, "several labels": ("joy", "anger", "fear")}.get(
        request.param, tuple(f"kind_of_intent_{i}" for i in range(40))
    )
    answers = make_answers(labels, number=1000, multi_label=request.param == "several labels")
    finding = {
        "code": "x",
        "severity": "warning",
        "part": "train",
        "message": "copies " + "of_rows" * 30,
        "fix": "none",
    }
    directory = make_measured_directory(
        tmp_path_factory.mktemp("report") / "model", labels, answers=answers, findings=[finding]
    )
    write_documents(directory, texts=[f"{i} " + "unbroken" * 100 for i in range(len(answers))])
    return directory / REPORT_NAME


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_of_it_is_legible(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") == width, "it scrolls sideways"
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") != dark
    texts = browser.evaluate(TEXTS)
    assert len(texts) > 100
    assert [text for text in texts if text["contrast"] < LEAST_CONTRAST] == []
    assert [text for text in texts if text["size"] < LEAST_SIZE_PX] == []


def test_it_asks_for_nothing_and_its_own_script_runs(browser: Browser, page: Path) -> None:
    browser.open(page)
    sort = "document.querySelector('#labels th:last-child button').click()"
    shares = "[...document.querySelectorAll('#labels td:last-child')].map((cell) => parseFloat(cell.dataset.v))"
    for descending in (True, False):
        browser.evaluate(sort)
        shown = browser.evaluate(shares)
        assert len(shown) > 1
        assert shown == sorted(shown, reverse=descending)
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.messages == []
