"""report.html: complete, safe whatever the labels are, small, and the same for the same model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import training
from stream_classifier.errors import ConfigError
from tests.plugins.models import make_directory
from tests.plugins.reports import EVIL_LABELS, make_answers, make_history, make_measured_directory
from tests.plugins.tables import make_telling_directory, random_texts, write_honest_rows, write_rows
from training.cli import cli
from training.documents import write_documents
from training.measured import MEASURED_NAME, Measured, decide_again, read_measured
from training.report.page import render
from training.report.plots import measured_plots, training_plots
from training.report.source import read_source

VOID = {"meta", "br", "wbr"}


class Page(HTMLParser):
    """The elements of a page with their attributes, its visible text, and whether they nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"{self._open} are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = make_measured_directory(tmp_path_factory.mktemp("report") / "<b>model", EVIL_LABELS)
    write_documents(directory)
    return (directory / "report.html").read_text("utf-8")


def test_labels_are_text_whatever_they_are(evil: str) -> None:
    page = Page(evil)
    assert len(page.all("script")) == 1
    assert evil.count("alert(1)") == evil.count("&lt;script&gt;alert(1)")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    shown = "".join(page.text)
    for label in EVIL_LABELS[:5]:
        assert label in shown
    assert "\u202e" not in evil, "a label must not turn the page's own text round"
    assert "x" * 100 not in evil, "long labels are cut"


def test_the_page_asks_for_nothing_and_forbids_it(evil: str) -> None:
    page = Page(evil)
    assert "default-src 'none'" in evil
    assert not [name for name, _ in page.elements if name in ("link", "img", "iframe", "object", "base")]
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "@import" not in evil
    assert "//" not in evil.replace("http://www.w3.org/", "").split("<script>")[0]


def test_every_plot_says_in_words_what_it_shows_and_has_ids_of_its_own(evil: str) -> None:
    page = Page(evil)
    plots = page.all("svg")
    assert len(plots) == 8
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for plot in plots:
        assert plot["role"] == "img"
        assert all(name in ids for name in (plot["aria-labelledby"] or "").split())
    assert "The training loss goes from 1.000 to 0.300" in evil
    assert "#00001" not in evil, "a stand-in for a colour of the page was left"


def test_it_has_the_figures_the_data_and_the_recipe(evil: str) -> None:
    shown = "".join(Page(evil).text)
    for expected in ("Every text is accepted", "tiny", "sha256:", "transformers", "validation loss", "accuracy",
                     "macro-F1", "calibration error", "left out", "64 are read", "Confusion matrix",
                     ):  # fmt: skip
        assert expected in shown


def test_150_labels_stay_small_and_have_their_matrix(tmp_path: Path) -> None:
    labels = [f"intent_{i:03d}" for i in range(150)]
    directory = make_measured_directory(tmp_path / "many", labels, answers=make_answers(labels, number=3000))
    write_documents(directory)
    html = (directory / "report.html").read_text("utf-8")
    assert len(html.encode()) < 2_000_000
    assert "Confusion matrix" in "".join(Page(html).text)
    assert html.count("<td></td>") > 150 * 100


def test_a_thousand_labels_have_the_confused_pairs_alone(tmp_path: Path) -> None:
    labels = [f"product {i}" for i in range(1000)]
    directory = make_measured_directory(tmp_path / "huge", labels, answers=make_answers(labels, number=500))
    write_documents(directory)
    html = (directory / "report.html").read_text("utf-8")
    assert len(html.encode()) < 2_000_000
    assert "Most often confused" in html
    assert "matrix of 1000 labels" in html


def test_several_labels_a_text(tmp_path: Path) -> None:
    labels = ("joy", "anger", "fear")
    answers = make_answers(labels, multi_label=True)
    write_documents(make_measured_directory(tmp_path / "multi", labels, answers=answers))
    shown = "".join(Page((tmp_path / "multi" / "report.html").read_text("utf-8")).text)
    assert "micro-F1" in shown
    assert "Confusion matrix" not in shown


@pytest.mark.parametrize("number", [1, 2])
def test_one_row_one_epoch_and_no_error_are_enough(tmp_path: Path, number: int) -> None:
    answers = make_answers(("a", "b"), number=number, skill=50)
    directory = make_measured_directory(tmp_path / "small", ("a", "b"), answers=answers)
    make_history((1.0,), (1.0,), (1.0,)).write(directory)
    write_documents(directory)
    assert "nothing is confused" in (directory / "report.html").read_text("utf-8")


def test_equal_models_have_equal_reports(tmp_path: Path) -> None:
    directory = make_measured_directory(tmp_path / "model", ("a", "b"))
    assert render(read_source(directory)) == render(read_source(directory))


def test_texts_are_shown_on_request_alone(tmp_path: Path) -> None:
    directory = make_telling_directory(tmp_path / "model", content={"task": "free"})
    rows = write_honest_rows(tmp_path / "rows.csv", directory, temperature=2.0, number=100)
    page = directory / "report.html"
    before = training.write_report(directory, rows)
    assert before.measured_on == "rows.csv"
    assert "Texts it gets wrong" not in page.read_text("utf-8")
    written = [text for text in random_texts(100, seed=1) if escape(text) in page.read_text("utf-8")]
    assert not written
    after = training.write_report(directory, rows, show_texts=True)
    shown = [text for text in random_texts(100, seed=1) if escape(text) in page.read_text("utf-8")]
    assert len(shown) == min(50, round((1 - after.evaluation.accuracy) * 100))
    assert after.digest == before.digest
    raw = b"".join(np.load(directory / MEASURED_NAME)[name].tobytes() for name in np.load(directory / MEASURED_NAME))
    assert not [text for text in random_texts(100, seed=1) if text.encode() in raw], "no text is kept"
    training.write_report(directory)
    assert "Texts it gets wrong" not in page.read_text("utf-8")


def test_texts_are_escaped(tmp_path: Path) -> None:
    directory = make_telling_directory(tmp_path / "model", content={"task": "free"})
    texts = [f"<img src=x onerror=alert({i})> \ud800 text {i}" for i in range(40)]
    labels = [("sport", "business", "politics")[i % 3] for i in range(40)]
    rows = write_rows(tmp_path / "rows.csv", [text.replace("\ud800", "") for text in texts], labels)
    training.write_report(directory, rows, show_texts=True)
    html = (directory / "report.html").read_text("utf-8")
    assert "onerror=alert" in html
    assert not Page(html).all("img")


def test_the_command_and_its_refusals(tmp_path: Path) -> None:
    directory = make_telling_directory(tmp_path / "model", content={"task": "free"})
    rows = write_honest_rows(tmp_path / "rows.csv", directory, temperature=1.0, number=60)
    with pytest.raises(ConfigError, match="give DATA"):
        training.write_report(directory)
    with pytest.raises(ConfigError, match="--show-texts needs the texts"):
        training.write_report(directory, show_texts=True)
    with pytest.raises(ConfigError, match="no directory"):
        training.write_report("some/hub-name", rows)
    done = CliRunner().invoke(cli, ["report", str(directory), str(rows), "--baseline", str(rows), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["measured_on"] == "rows.csv"
    again = CliRunner().invoke(cli, ["report", str(directory)])
    assert again.exit_code == 0, again.output
    html = Path(again.stdout.strip()).read_text("utf-8")
    assert "tf-idf" in html, "the baseline is kept too"


def test_measured_rows_read_back_and_are_decided_by_the_directory_as_it_is_now(tmp_path: Path) -> None:
    labels = ("a", "b", "c")
    answers = make_answers(labels)
    content = {"task": "free", "calibration": {"method": "temperature", "scale": 0.5}, "thresholds": {"default": 0.6}}
    directory = make_measured_directory(tmp_path / "model", labels, answers=answers, content=content)
    stored = read_measured(directory)
    assert stored is not None
    source = read_source(directory)
    assert source.measured is not None
    again = source.measured.answers
    assert (again.logits_NL == answers.logits_NL).all()
    assert (again.true_NL == answers.true_NL).all()
    assert (again.predicted_NL == answers.predicted_NL).all(), "a temperature changes no label"
    assert again.scores_N.mean() < answers.scores_N.mean()
    assert (again.accepted_N == (again.scores_N >= 0.6)).all()
    assert source.measured.data.parts["train"].labels == {
        label: int(n) * 5 for label, n in zip(labels, answers.true_NL.sum(axis=0), strict=True)
    }


def test_measured_rows_that_are_broken_or_of_another_model_are_refused(tmp_path: Path) -> None:
    directory = make_measured_directory(tmp_path / "model", ("a", "b"))
    other = read_source(make_measured_directory(tmp_path / "other", ("a", "c"))).model
    stored = read_measured(directory)
    assert stored is not None
    with pytest.raises(ConfigError, match="other labels"):
        decide_again(stored, other)
    (directory / MEASURED_NAME).write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ConfigError, match=MEASURED_NAME):
        write_documents(directory)


def test_a_directory_that_was_never_measured_gets_no_report(tmp_path: Path) -> None:
    directory = make_directory(tmp_path / "model", content={"task": "free"}, golden_texts=())
    assert write_documents(directory).evaluation is None
    assert not (directory / "report.html").exists()


def test_labels_with_glyphs_no_font_has_draw_without_a_warning() -> None:
    labels = ("猫", "𒀀𒀁", "🙂")
    from training.evaluation import evaluate_answers

    evaluation = evaluate_answers(make_answers(labels), task="free")
    drawn = "".join(plot.svg for plot in measured_plots(evaluation))
    assert all(label in drawn for label in labels)


def test_matplotlib_is_loaded_for_the_report_alone() -> None:
    program = "import training.fitting, training.reporting, sys; sys.exit('matplotlib' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 0


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    training_plots(make_history())
    assert dict(matplotlib.rcParams) == before


def test_writing_is_atomic_for_the_rows_too(tmp_path: Path) -> None:
    directory = make_measured_directory(tmp_path / "model", ("a", "b"))
    Measured(answers=make_answers(("a", "b")), measured_on="test").write(directory)
    assert not [path.name for path in directory.iterdir() if path.name.startswith(".")]
