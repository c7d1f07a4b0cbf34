"""The model directory: found, read and checked, before anything heavy is loaded.

What comes out can be trusted: labels that match the head, a tokenizer, safetensors weights, the SHA-256 of every listed
file, and where there is a classifier.json its digest. Nothing is written, no pickle is opened, no code of the directory
is run. Running the model is for backends/ and classifier.py; writing a directory is for publish.py.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_classifier.errors import ConfigError, ModelDirectoryError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL, Calibration
from stream_classifier.model.decision import Decider
from stream_classifier.model.golden import GOLDEN_NAME, GoldenCase, read_golden
from stream_classifier.model.manifest import (
    MANIFEST_NAME,
    BackendSpec,
    CalibrationSpec,
    Manifest,
    manifest_digest,
    parse_manifest,
    read_json_object,
)
from stream_classifier.model.weights import check_head, is_weights, weight_files

__all__ = ["ModelDirectory", "digest", "file_sha256", "files_read", "read"]

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.json"
TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
_READ_NAMES = (CONFIG_NAME, TOKENIZER_NAME, TOKENIZER_CONFIG_NAME, GOLDEN_NAME)
_DEFAULT_MAX_LENGTH = 512
STORED_FORMS: Mapping[str, tuple[str, ...]] = {"openvino-int8": ("model.xml", "model.bin")}
"""Files of the forms of a model that are stored, each under backends/ and its name."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = [MANIFEST_NAME, *_READ_NAMES, "*.safetensors", "*.safetensors.index.json"]

# Position ids start at pad_token_id + 1 in these families, so that many rows of the position table are never used.
_OFFSET_POSITIONS = {
    "camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A checked model directory.

    Attributes:
        path: the directory (a Hub name: its snapshot in the cache).
        name: the directory's own name, or the Hub name.
        labels: in the order of the head's rows.
        problem_type: "single_label_classification" or "multi_label_classification".
        max_length: tokens the model reads of a text, special tokens included.
        vocab_size: rows of the embedding as config.json says; None when it does not.
        calibration: as classifier.json says; none where it says nothing.
        manifest: the content of classifier.json; None when there is none.
        digest: "sha256:…" of classifier.json; None when there is none.
        golden: the golden cases; empty when there are none.
    """

    path: Path
    name: str
    labels: tuple[str, ...]
    problem_type: str
    max_length: int
    vocab_size: int | None
    calibration: Calibration
    manifest: Manifest | None
    digest: str | None
    golden: tuple[GoldenCase, ...]

    @property
    def tokenizer_path(self) -> Path:
        return self.path / TOKENIZER_NAME

    def form(self, name: str) -> BackendSpec | None:
        """What classifier.json says of another form of the model, such as "openvino-int8"; None: it has none."""
        return None if self.manifest is None else self.manifest.backends.get(name)


def read(model: str | Path) -> ModelDirectory:
    """Finds, reads and checks a model directory or the cached or fetched files of a Hub name.

    Blocks: it reads the weights once for their SHA-256 where classifier.json lists them.

    Raises:
        ModelDirectoryError: whatever is wrong, with the file and the fix.
    """
    path = _find(model)
    config = read_json_object(_required(path / CONFIG_NAME, "save the model with save_pretrained"))
    _required(path / TOKENIZER_NAME, "save a fast tokenizer there: AutoTokenizer.from_pretrained(base).save_pretrained")
    weights = weight_files(path)
    content, manifest = None, None
    if (path / MANIFEST_NAME).is_file():
        content = read_json_object(path / MANIFEST_NAME)
        manifest = parse_manifest(content, path / MANIFEST_NAME)
        _check_files(path, manifest, weights)
    else:
        logger.warning("%s has no %s: it loads with defaults, unverified and without a digest", path, MANIFEST_NAME)
    labels = _labels(path / CONFIG_NAME, config)
    problem_type = _problem_type(path / CONFIG_NAME, config, labels)
    check_head(weights, num_labels=len(labels), config_path=path / CONFIG_NAME)
    listed_golden = manifest is not None and GOLDEN_NAME in manifest.files
    vocab_size = config.get("vocab_size")
    return ModelDirectory(
        path=path,
        name=str(model) if isinstance(model, str) and not Path(model).exists() else path.resolve().name,
        labels=labels,
        problem_type=problem_type,
        max_length=_max_length(path, config, manifest),
        vocab_size=vocab_size if isinstance(vocab_size, int) else None,
        calibration=_calibration(path / MANIFEST_NAME, manifest, labels, problem_type),
        manifest=manifest,
        digest=manifest_digest(content) if content is not None else None,
        golden=read_golden(path / GOLDEN_NAME, num_labels=len(labels)) if listed_golden else (),
    )


def digest(directory: str | Path) -> str | None:
    """The digest of the model in a directory, from its classifier.json alone; None when there is none.

    Cheap: neither the other files nor their SHA-256 are looked at.
    """
    path = Path(directory) / MANIFEST_NAME
    return manifest_digest(read_json_object(path)) if path.is_file() else None


def files_read(directory: Path) -> list[str]:
    """Names of the files that loading reads, relative and with slashes: what `files` in classifier.json must list."""
    names = [name for name in _READ_NAMES if (directory / name).is_file()]
    names += [path.name for path in weight_files(directory)]
    index = "model.safetensors.index.json"
    if (directory / index).is_file() and not (directory / "model.safetensors").is_file():
        names.append(index)
    backends = directory / "backends"
    names += [path.relative_to(directory).as_posix() for path in backends.rglob("*") if path.is_file()]
    return sorted(names)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        hasher = hashlib.sha256()
        while block := file.read(1 << 20):
            hasher.update(block)
        return hasher.hexdigest()


def _find(model: str | Path) -> Path:
    path = Path(model)
    if os.path.isdir(path):  # unlike Path.is_dir it says no to a name that is too long
        return path
    if os.path.exists(path):
        raise ModelDirectoryError(path, "it is a file, not a model directory", "give the directory that holds it")
    if isinstance(model, Path) or not _HUB_NAME.fullmatch(model):
        raise ModelDirectoryError(path, "there is no such directory", "check the path")
    return _hub_snapshot(model)


def _hub_snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # its own errors, the network's and the file system's have no common root
        problem = f"there is no such directory, and no such model could be had from the Hub ({type(error).__name__})"
        fix = "check the path, or fetch the model into the Hub's cache while online"
        raise ModelDirectoryError(name, problem, fix) from error


def _required(path: Path, fix: str) -> Path:
    if not os.path.isfile(path):
        raise ModelDirectoryError(path, "there is no such file", fix)
    return path


def _labels(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    id2label = config.get("id2label")
    if id2label is None:  # Hugging Face leaves it out when it has its default
        num_labels = config.get("num_labels", 2)
        if not isinstance(num_labels, int) or num_labels < 1:
            raise ModelDirectoryError(path, f"num_labels is {num_labels!r}", "give the number of labels")
        id2label = {str(i): f"LABEL_{i}" for i in range(num_labels)}
    fix = 'give id2label as {"0": "first label", …} and label2id as its inverse'
    if not isinstance(id2label, dict) or not id2label:
        raise ModelDirectoryError(path, "id2label names no labels", fix)
    indices = [str(i) for i in range(len(id2label))]
    if sorted(id2label) != sorted(indices):
        problem = f"id2label has the indices {_some(id2label)}, not 0 to {len(id2label) - 1}: a label is missing"
        raise ModelDirectoryError(path, problem, fix)
    labels = tuple(id2label[i] for i in indices)
    if not all(isinstance(label, str) and label for label in labels) or len(set(labels)) != len(labels):
        raise ModelDirectoryError(path, "id2label has a label that is empty, no string or there twice", fix)
    if any(unicodedata.category(char) == "Cc" for label in labels for char in label):
        raise ModelDirectoryError(path, "id2label has a label with control characters", "name it in plain text")
    label2id = config.get("label2id")
    if label2id is not None and label2id != {label: i for i, label in enumerate(labels)}:
        raise ModelDirectoryError(path, "label2id is not the inverse of id2label", fix)
    return labels


def _problem_type(path: Path, config: Mapping[str, Any], labels: tuple[str, ...]) -> str:
    problem_type = config.get("problem_type") or SINGLE_LABEL
    if problem_type not in (SINGLE_LABEL, MULTI_LABEL):
        raise ModelDirectoryError(
            path, f"problem_type is {problem_type!r}", f"only {SINGLE_LABEL} and {MULTI_LABEL} can be served"
        )
    if problem_type == SINGLE_LABEL and len(labels) < 2:
        raise ModelDirectoryError(path, "there is one label only (a regression?)", "give at least two labels")
    return str(problem_type)


def _max_length(path: Path, config: Mapping[str, Any], manifest: Manifest | None) -> int:
    """The model's own limit, the tokenizer's, and classifier.json's word over both as long as the model can read it."""
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    limit = None
    if isinstance(positions, int) and positions > 0:
        pad = config.get("pad_token_id")
        offset = (pad if isinstance(pad, int) else 1) + 1 if str(config.get("model_type")) in _OFFSET_POSITIONS else 0
        limit = positions - offset
        if limit < 1:
            problem = f"max_position_embeddings is {positions}, so that the model reads no token of a text"
            raise ModelDirectoryError(path / CONFIG_NAME, problem, "give the number that the model was trained with")
    if manifest is not None and manifest.max_length is not None:
        if limit is not None and manifest.max_length > limit:
            problem = f"max_length is {manifest.max_length}, the model reads {limit} tokens"
            raise ModelDirectoryError(path / MANIFEST_NAME, problem, f"set it to {limit} or less")
        return manifest.max_length
    tokenizer_config = path / TOKENIZER_CONFIG_NAME
    own = read_json_object(tokenizer_config).get("model_max_length") if tokenizer_config.is_file() else None
    limits = [x for x in (limit, own) if isinstance(x, (int, float)) and 0 < x < 1_000_000]
    return int(min(limits, default=_DEFAULT_MAX_LENGTH))


def _check_files(path: Path, manifest: Manifest, weights: tuple[Path, ...]) -> None:
    """Every listed file has its SHA-256, every file that loading reads is listed, and no weights lie beside them."""
    fix = "train or copy the model again; a file changed on purpose needs a new classifier.json"
    for name in files_read(path):
        if name not in manifest.files and not name.startswith("backends/"):
            raise ModelDirectoryError(path / name, f"{MANIFEST_NAME} does not list it under files", fix)
    for name, expected in manifest.files.items():
        if not (path / name).is_file():
            raise ModelDirectoryError(path / name, f"{MANIFEST_NAME} lists it, and it is not there", fix)
        if is_weights(name, pickle_only=True):
            raise ModelDirectoryError(path / name, "it is a pickle, which can run code", "convert it to safetensors")
        if (actual := file_sha256(path / name)) != expected:
            raise ModelDirectoryError(path / name, f"its SHA-256 is {actual}, {MANIFEST_NAME} says {expected}", fix)
    for backend in manifest.backends:
        for name in (f"backends/{backend}/{file}" for file in STORED_FORMS.get(backend, ())):
            if name not in manifest.files:
                problem = f"{MANIFEST_NAME} names the backend {backend}, and does not list this file"
                raise ModelDirectoryError(path / name, problem, "make it again with stream-training quantize")
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if name not in manifest.files and is_weights(name) and file.is_file():
            raise ModelDirectoryError(file, f"these weights are not listed in {MANIFEST_NAME}", "remove them")


def _calibration(path: Path, manifest: Manifest | None, labels: tuple[str, ...], problem_type: str) -> Calibration:
    """The calibration that classifier.json asks for; what it says of decisions is tried on the same occasion."""
    if manifest is None:
        return Calibration(problem_type)
    spec, thresholds = manifest.calibration or CalibrationSpec(method="none"), manifest.thresholds
    try:
        calibration = Calibration(problem_type, method=spec.method, scale=spec.scale, bias=spec.bias)
        calibration.check_labels(len(labels))
        Decider(
            labels,
            problem_type,
            task=manifest.task,
            positive_label=manifest.positive_label,
            operating_point=thresholds.operating_point,
            model_threshold=thresholds.default,
            model_thresholds=thresholds.labels,
            rejection=thresholds.rejection.model_dump() if thresholds.rejection else None,
        )
    except ConfigError as error:
        raise ModelDirectoryError(path, str(error), f"the labels of the model are {_some(labels)}") from error
    return calibration


def _some(names: Any) -> str:
    """The first few names, for an error in one line."""
    listed = [repr(name) for name in names]
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
