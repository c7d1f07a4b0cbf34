"""`export`: a copy of a model for whatever reads plain Hugging Face directories, with its calibration in its weights.

p = softmax or sigmoid of scale·z + bias, and z = W·x + b: so W becomes scale·W, b becomes scale·b + bias, and plain
Transformers gives the probabilities that `Classifier` gave. Everything else of the copy stays as it was.

    L labels, E width of the last layer's input.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stream_classifier.errors import ConfigError, TrainingError
from stream_classifier.model.backends.pretrained import load_pretrained, quiet_transformers
from stream_classifier.model.calibration import Calibration
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.directory import ModelDirectory, read
from stream_classifier.model.manifest import MANIFEST_NAME, read_json_object
from stream_classifier.model.publish import finish_directory
from stream_classifier.model.weights import weight_files
from training.classifier_head import classifier_calls, classifier_of
from training.manifest_updates import COMPUTED, renew_documents
from training.measured import map_logits
from training.model_files import check_target, written_aside

__all__ = ["FOLDED", "ExportResult", "export"]

logger = logging.getLogger(__name__)

FOLDED = ", folded into the last layer"
"""Behind the name of the method in classifier.json."""
_TOLERANCE = 1e-2  # |Δp|; weights in float32 show 1e-6, in bfloat16 their rounding


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What `export` made.

    Attributes:
        path, digest: of the copy.
        method: of the calibration that is in its weights now.
        max_difference: the largest |Δp| between model and copy, on the golden texts; without any, on the labels' names.
        forms_left_out: of backends/, which hold the weights before.
    """

    path: Path
    digest: str
    method: str
    max_difference: float
    forms_left_out: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "digest": self.digest,
            "method": self.method,
            "max_difference": self.max_difference,
            "forms_left_out": list(self.forms_left_out),
        }


def export(
    model: str | Path, out: str | Path, *, fold_calibration: bool = False, overwrite: bool = False
) -> ExportResult:
    """Writes a copy of a model whose logits are calibrated as they come. Blocks for seconds.

    Thresholds stay: the probabilities they were tuned for are the same. Forms under backends/ are left out.

    Args:
        model: a model directory or a Hub name, with a calibration in its classifier.json.
        out: the directory to make.
        fold_calibration: write the calibration into the last layer; so far there is nothing else to export.
        overwrite: whether a model directory at `out` is replaced.

    Raises:
        ConfigError: there is no calibration, the model's last layer is not known, its rejection rule reads the logits
            as they are, or `out` is `model` itself or there already.
        ModelDirectoryError: the model does not load.
        TrainingError: the copy answers otherwise, or the layer is not among the weights; it is not written.
    """
    if not fold_calibration:
        raise ConfigError("export has nothing to do; give --fold-calibration to write the calibration into the weights")
    out = Path(out)
    if out.resolve() == Path(model).resolve():
        raise ConfigError(f"--out {out} is the model itself, whose raw weights would be lost; give another directory")
    check_target(out, overwrite=overwrite, source=model)
    checked = read(model)
    content = _content(checked)
    texts = [case.text for case in checked.golden] or list(checked.labels)
    before = Classifier.load(model, device="cpu", dtype="float32", backend="torch")
    layer = _last_layer(checked, before, texts)
    forms = tuple(content.pop("backends", {}))
    if forms:
        logger.warning("%s is left out: it holds the weights as they were; quantize %s again", ", ".join(forms), out)
    with written_aside(out) as aside:
        shutil.copytree(checked.path, aside, dirs_exist_ok=True, ignore=shutil.ignore_patterns("backends"))
        _fold(weight_files(aside), layer, checked.calibration, num_labels=len(checked.labels))
        map_logits(aside, lambda logits_NL: _calibrated(logits_NL, checked.calibration))
        digest = finish_directory(aside, content, golden_texts=[case.text for case in checked.golden])
        difference = _difference(before, checked.calibration, aside, texts)
        renew_documents(aside, content, name=out.resolve().name)
    return ExportResult(out, digest, checked.calibration.method, difference, forms)


def _content(checked: ModelDirectory) -> dict[str, Any]:
    """What the copy's classifier.json says, `backends` as they were.

    Raises:
        ConfigError: see `export`.
    """
    calibration, manifest = checked.calibration, checked.manifest
    if manifest is None or manifest.calibration is None or calibration.is_identity:
        fix = f"stream-training calibrate {checked.path} ROWS gives it one"
        raise ConfigError(f"{checked.path}: it has no calibration to write into the weights; {fix}")
    rejection = manifest.thresholds.rejection
    if rejection is not None and rejection.score == "energy":
        problem = "its rejection rule is by energy, which reads the logits before calibration"
        fix = f"stream-training thresholds {checked.path} ROWS --keep-in-scope 0.95 --rejection-score max_prob"
        raise ConfigError(f"{checked.path}: {problem}; fit one by the probability first: {fix}")
    old = read_json_object(checked.path / MANIFEST_NAME)
    content = {key: value for key, value in old.items() if key not in COMPUTED}
    written = {**old["calibration"], "method": calibration.method + FOLDED, "scale": 1.0, "bias": 0.0}
    return {**content, "calibration": written}


def _last_layer(checked: ModelDirectory, classifier: Classifier, texts: Sequence[str]) -> str:
    """The name of the linear layer whose output the logits are.

    Raises:
        ConfigError: there is none, as in families that pool what their last layer says, or it has no bias for ours.
    """
    with quiet_transformers():
        model = load_pretrained(checked, torch.float32)
    last = classifier_of(model, len(checked.labels))
    if last is not None:
        with classifier_calls(last) as calls, torch.inference_mode():
            ids_NS, real_NS = classifier.encode(texts[:1]).padded(int(getattr(model.config, "pad_token_id", None) or 0))
            output = model(
                input_ids=torch.from_numpy(ids_NS), attention_mask=torch.from_numpy(real_NS.astype(np.int64))
            )
        if len(calls) != 1 or calls[0][1] is not output.logits:
            last = None
    has_bias = last is not None and "bias" in dict(last.named_parameters())
    if last is None or (np.asarray(checked.calibration.bias).any() and not has_bias):
        family = model.config.model_type
        raise ConfigError(
            f"{checked.path}: the last layer of a {family} model has no place for a calibration; serve it as it is"
        )
    return next(str(name) for name, module in model.named_modules() if module is last)


def _fold(files: Sequence[Path], layer: str, calibration: Calibration, *, num_labels: int) -> None:
    """Into the files that hold the layer; all other tensors stay bit for bit.

    Raises:
        TrainingError: no file holds it, as where weights have other names than the layers they are loaded into.
    """
    scale_L, bias_L = (
        torch.from_numpy(np.broadcast_to(np.asarray(values, dtype=np.float64), (num_labels,)).copy())
        for values in (calibration.scale, calibration.bias)
    )
    folded: set[str] = set()
    for file in files:
        tensors: dict[str, Tensor] = load_file(file)
        changed: dict[str, Tensor] = {}
        if (weight_LE := tensors.get(f"{layer}.weight")) is not None:
            changed[f"{layer}.weight"] = scale_L[:, None] * weight_LE.double()
        if (b_L := tensors.get(f"{layer}.bias")) is not None:
            changed[f"{layer}.bias"] = scale_L * b_L.double() + bias_L
        folded |= changed.keys()
        if changed:
            rounded = {name: tensor.to(tensors[name].dtype) for name, tensor in changed.items()}
            save_file({**tensors, **rounded}, file, metadata={"format": "pt"})
    wanted = {f"{layer}.weight"} | ({f"{layer}.bias"} if bias_L.any() else set())
    if missing := sorted(wanted - folded):
        raise TrainingError(f"the weights have no {' and no '.join(missing)} to write the calibration into; serve the "
                            "model as it is")  # fmt: skip


def _calibrated(logits_NL: Any, calibration: Calibration) -> Any:
    scaled_NL = logits_NL * np.asarray(calibration.scale) + np.asarray(calibration.bias)
    return scaled_NL.astype(logits_NL.dtype)


def _difference(before: Classifier, calibration: Calibration, aside: Path, texts: Sequence[str]) -> float:
    after = Classifier.load(aside, device="cpu", dtype="float32", backend="torch")
    raw = Calibration(calibration.problem_type)
    p_NL, q_NL = calibration.probabilities(before.logits(texts)), raw.probabilities(after.logits(texts))
    difference = float(np.abs(p_NL - q_NL).max())
    if difference > _TOLERANCE:
        raise TrainingError(
            f"the copy answers otherwise: a probability differs by {difference:.2g}; it is not written, serve the "
            "model as it is"
        )
    return difference
