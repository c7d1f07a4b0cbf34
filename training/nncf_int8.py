"""Static int8 of a model by NNCF: the ranges of its activations are measured on texts, once, and stored with it."""

from __future__ import annotations

import io
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from stream_classifier.errors import ConfigError
from stream_classifier.model.directory import ModelDirectory
from stream_classifier.model.tokenization import TextTokenizer

__all__ = ["INT8_FOLDER", "write_int8"]

INT8_FOLDER = Path("backends", "openvino-int8")


def write_int8(checked: ModelDirectory, target: Path, texts: Sequence[str], *, show_progress: bool = False) -> None:
    """Writes backends/openvino-int8/ of the model in `checked` into the directory `target`. Blocks for minutes.

    Weights and embeddings are int8 too. The last layer is computed for the first token alone, as when serving.

    Args:
        texts: what the model will read, a few hundred of them.

    Raises:
        ConfigError: NNCF or OpenVINO is not installed.
        ConversionError: OpenVINO cannot run the model.
    """
    import torch

    from stream_classifier.model.backends.first_token import read_first_token_only
    from stream_classifier.model.backends.openvino import convert, import_openvino
    from stream_classifier.model.backends.pretrained import load_pretrained

    openvino = import_openvino()  # first: it keeps telemetry out, NNCF's too
    model = load_pretrained(checked, torch.float32)
    read_first_token_only(model)
    tokenizer = TextTokenizer(checked.tokenizer_path, max_length=checked.max_length, vocab_size=checked.vocab_size)
    tokens = tokenizer.encode(list(texts))
    inputs = [
        _inputs(tokens.input_ids_T[start:end]) for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)
    ]
    with _off_standard_output(shown=show_progress):
        nncf = _import_nncf()
        quantized = nncf.quantize(
            convert(model, checked.path),
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(inputs),
        )
    folder = target / INT8_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)


def _inputs(ids_S: Any) -> dict[str, Any]:
    """One text, without padding, as the converted model takes it."""
    ids_1S = ids_S.astype(np.int64)[None]
    return {"input_ids": ids_1S, "attention_mask": np.ones_like(ids_1S)}


def _import_nncf() -> Any:
    logger_class = logging.getLoggerClass()
    try:
        import nncf
    except ImportError as error:
        fix = "pip install 'stream-classifier[quantize]'"
        raise ConfigError(f"quantizing for OpenVINO needs NNCF, which is not installed ({error}); {fix}") from error
    finally:
        logging.setLoggerClass(logger_class)  # it puts its own in place, for everybody
    nncf.set_log_level(logging.ERROR)
    return nncf


@contextmanager
def _off_standard_output(*, shown: bool) -> Iterator[None]:
    """NNCF draws its bars on standard output, where data goes: to standard error with them, or nowhere."""
    with redirect_stdout(sys.stderr if shown and sys.stderr.isatty() else io.StringIO()):
        yield
