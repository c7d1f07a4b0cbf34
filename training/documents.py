"""What a model directory tells people of its model: report.html.

Renewed by whatever changes the directory; loading does not read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stream_classifier.model.publish import file_aside
from training.report.page import REPORT_NAME, render
from training.report.source import ReportSource, read_source

__all__ = ["write_documents"]


def write_documents(path: Path, *, name: str | None = None, texts: Sequence[str] | None = None) -> ReportSource:
    """Writes report.html of a complete model directory; returns what it is made from. Blocks for seconds.

    A directory that was never measured gets no report.

    Args:
        path: the directory.
        name: of the model; None: the directory's own.
        texts: of the measured rows, in their order, to show those that the model gets wrong; None: no text is shown.

    Raises:
        ModelDirectoryError: it does not load.
        ConfigError: what is kept in it for the report cannot be read.
    """
    source = read_source(path, name=name, texts=texts)
    if source.evaluation is not None:
        page = render(source)
        with file_aside(path / REPORT_NAME) as aside:
            aside.write_text(page, "utf-8")
    return source
