"""A model directory to int8 or bfloat16: compressed, held against the model it was made of, written when it passes.

    openvino  static int8 by NNCF, ranges from training texts: stored under backends/openvino-int8/, the weights stay
    torchao   dynamic int8, made of the weights whenever they are loaded: nothing is stored but that it passed
    bfloat16  the weights themselves in half the size, in a directory of their own

The gate is parity.py's, replacing a directory model_files.py's.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stream_classifier.errors import ConfigError
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.directory import ModelDirectory, read
from stream_classifier.model.manifest import MANIFEST_NAME, read_json_object
from stream_classifier.model.publish import finish_directory, write_manifest
from stream_classifier.model.weights import weight_files
from training.data import Columns, Table
from training.manifest_updates import check_place, renew_documents
from training.model_files import written_aside
from training.nncf_int8 import INT8_FOLDER, write_int8
from training.parity import Parity, measure_parity, require
from training.parity_limits import ParityLimits
from training.reading import find_part, find_table, read_table
from training.rejection import in_scope

__all__ = ["BACKENDS", "DTYPES", "QuantizeResult", "quantize"]

logger = logging.getLogger(__name__)

BACKENDS = ("openvino", "torchao")
DTYPES = ("int8", "bfloat16")
_LEAST_TOLERANCE = 0.02
_TOLERANCE_MARGIN = 1.5  # other CPUs round otherwise than the one it was measured on
_WORST_TOLERANCE = 0.99
_TOLERANCE_WITHOUT_GOLDEN = 0.1
_SEED = 0


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What quantizing made.

    Attributes:
        path: the model directory.
        digest: of the model, "sha256:…".
        form: "openvino-int8", "torch-int8" or "bfloat16".
        tolerance: the largest |Δp| that golden cases may show in it; None for bfloat16, which has one of its own.
        parity: what the gate saw.
        measured_on: the file of its rows.
        num_calibration_texts: texts that the ranges of int8 are from; 0: none were needed.
    """

    path: Path
    digest: str
    form: str
    tolerance: float | None
    parity: Parity
    measured_on: str
    num_calibration_texts: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "digest": self.digest,
            "form": self.form,
            "tolerance": self.tolerance,
            "measured_on": self.measured_on,
            "num_calibration_texts": self.num_calibration_texts,
            "parity": self.parity.as_dict(),
        }


def quantize(
    model: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    dtype: str = "int8",
    backend: str = "openvino",
    columns: Columns | None = None,
    num_calibration_texts: int = 300,
    limits: ParityLimits | None = None,
    force: bool = False,
    overwrite: bool = False,
    show_progress: bool = False,
) -> QuantizeResult:
    """Adds an int8 form to a model directory, or writes a copy in bfloat16, if it answers as the model does. Blocks.

    Args:
        model: a model directory, or with `out` a Hub name.
        data: a folder with train and validation (or test) tables: the ranges of int8 are those of training texts, the
            gate runs on the others. Or one table, which is divided. Rows out of scope are left out.
        out: a directory for a copy; None: `model` itself, which is replaced at once and as a whole.
        dtype: "int8", or "bfloat16", which changes the weights and so needs `out`.
        backend: what int8 is for: "openvino" or "torchao".
        columns: where texts and labels are.
        num_calibration_texts: texts that the ranges of int8 are taken from.
        limits: of the gate.
        force: write it whatever the gate says.
        overwrite: whether a model directory at `out` is replaced.
        show_progress: whether NNCF draws bars on standard error when it is a terminal.

    Raises:
        ConfigError: a model, data or place that cannot be used, or a package that is not installed.
        ParityError: the gate refuses it; nothing is written.
    """
    if dtype not in DTYPES or backend not in BACKENDS:
        raise ConfigError(f"dtype is {dtype!r}, backend {backend!r}; give int8 or bfloat16, openvino or torchao")
    if num_calibration_texts < 1:
        raise ConfigError(f"num_calibration_texts is {num_calibration_texts}; give at least 1, such as 300")
    if dtype == "bfloat16" and out is None:
        raise ConfigError("bfloat16 replaces the weights, which nothing brings back; give --out for the copy")
    path = check_place(model, out, overwrite=overwrite)
    calibration, rows = _tables(path, Path(data), columns, num_calibration_texts)
    checked = read(path)
    target = path.resolve() if out is None else Path(out)
    before = Classifier.load(path, device="cpu", dtype="float32")
    with written_aside(target) as aside:
        shutil.copytree(path, aside, dirs_exist_ok=True)
        content = _content(path)
        used = 0
        if dtype == "bfloat16":
            form, tolerance = "bfloat16", None
            _write_bfloat16(checked, aside, content)
            serving, after = before, Classifier.load(aside, device="cpu", dtype="bfloat16")
            size = _bytes(weight_files(aside))
        else:
            served_by = backend.removesuffix("ao")
            form = f"{served_by}-int8"
            if backend == "openvino":
                used = len(calibration)
                logger.info("quantizing, with the ranges of %d texts", used)
                write_int8(checked, aside, calibration, show_progress=show_progress)
                size = _bytes(tuple((aside / INT8_FOLDER).iterdir()))
            else:
                size = _bytes(weight_files(aside))
            content = _with_form(content, form, tolerance=_WORST_TOLERANCE, measured=None)
            write_manifest(aside, content)
            after = Classifier.load(aside, device="cpu", dtype="int8", backend=served_by)
            serving = _serving(path)
            tolerance = _tolerance(after, has_golden=bool(checked.golden))
        logger.info("measuring on %d rows of %s", len(rows), rows.source)
        sizes = (_bytes(weight_files(path)), size)
        parity = measure_parity(before, after, rows, limits=limits or ParityLimits(), sizes=sizes, serving=serving)
        require(parity, force=force)
        if tolerance is not None:
            content = _with_form(content, form, tolerance=tolerance, measured=parity.measured())
        digest = write_manifest(aside, content)
        renew_documents(aside, content, name=target.name)
    written = path if out is None else target
    return QuantizeResult(written, digest, form, tolerance, parity, Path(rows.source).name, used)


def _tables(model: Path, data: Path, columns: Columns | None, num_texts: int) -> tuple[list[str], Table]:
    """Texts to calibrate with, and the rows of the gate: other ones, which the model was not trained on if possible."""
    train = in_scope(read_table(find_part(data, "train"), columns), model)
    order = np.random.default_rng(_SEED).permutation(len(train))
    held_out = None
    if data.is_dir():
        held_out = find_table(data, "validation") or find_table(data, "test")
    chosen = order[: num_texts if held_out is not None else min(num_texts, (len(train) + 1) // 2)]
    if held_out is not None:
        return [train.texts[int(i)] for i in chosen], in_scope(read_table(held_out, columns), model)
    rest = sorted(order[len(chosen) :].tolist()) or sorted(order.tolist())  # of one row both
    if data.is_dir():
        logger.warning("%s has no validation and no test table: the gate runs on training rows, which flatter", data)
    return [train.texts[int(i)] for i in chosen], train.take(rest, train.source)


def _content(path: Path) -> dict[str, Any]:
    """What classifier.json says now, without what is computed when it is written."""
    if not (path / MANIFEST_NAME).is_file():
        return {}
    return {
        key: value for key, value in read_json_object(path / MANIFEST_NAME).items() if key not in ("schema", "files")
    }


def _with_form(
    content: dict[str, Any], form: str, *, tolerance: float, measured: dict[str, Any] | None
) -> dict[str, Any]:
    forms = {**content.get("backends", {}), form: {"tolerance": tolerance, "measured": measured}}
    return {**content, "backends": forms}


def _tolerance(classifier: Classifier, *, has_golden: bool) -> float:
    """One and a half times what the golden cases show, at least 0.02."""
    if not has_golden:
        return _TOLERANCE_WITHOUT_GOLDEN
    seen = _TOLERANCE_MARGIN * classifier.check_golden().max_difference
    return float(min(_WORST_TOLERANCE, max(_LEAST_TOLERANCE, round(seen, 4))))


def _serving(path: Path) -> Classifier:
    """What would serve on this machine without the int8 form."""
    from stream_classifier.model.backends.torch import pick_device, pick_dtype

    dtype = str(pick_dtype("auto", pick_device("cpu"))).removeprefix("torch.")
    return Classifier.load(path, device="cpu", dtype=dtype)


def _write_bfloat16(checked: ModelDirectory, aside: Path, content: dict[str, Any]) -> None:
    """The weights rounded, and the golden cases answered by them anew; forms made of the old weights go."""
    import torch

    from stream_classifier.model.backends.pretrained import load_pretrained, quiet_transformers

    for file in weight_files(aside):
        file.unlink()
    (aside / "model.safetensors.index.json").unlink(missing_ok=True)
    shutil.rmtree(aside / "backends", ignore_errors=True)
    content.pop("backends", None)
    with quiet_transformers():
        load_pretrained(checked, torch.bfloat16).save_pretrained(aside)
    finish_directory(aside, content, golden_texts=[case.text for case in checked.golden])


def _bytes(files: tuple[Path, ...]) -> int:
    return sum(file.stat().st_size for file in files)
