"""Texts without labels: a .txt file with one a line, or the columns of a table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from stream_classifier.errors import ConfigError
from training.tables import FORMATS, BadRow, read_rows

__all__ = ["read_texts"]

logger = logging.getLogger(__name__)


def read_texts(path: Path, columns: Sequence[str] = ("text",)) -> list[str]:
    """All texts that are not empty, each once, in their order; rows that cannot be read are left out and counted.

    Raises:
        ConfigError: a file that cannot be read or has no texts.
    """
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: it cannot be read ({error}); give a file of UTF-8 with one text a line"
            ) from error
        texts = dict.fromkeys(line.strip() for line in lines if line.strip())
    else:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file; give a .txt file or one of {', '.join(FORMATS)}")
        texts, num_bad = {}, 0
        for row in read_rows(path, columns):
            if isinstance(row, BadRow):
                num_bad += 1
                continue
            texts |= dict.fromkeys(cell for cell in row.cells if isinstance(cell, str) and cell.strip())
        if num_bad:
            logger.warning("%s: %d rows cannot be read and are left out", path, num_bad)
    if not texts:
        raise ConfigError(f"{path}: there are no texts in it; check the file and --text-column")
    return list(texts)
