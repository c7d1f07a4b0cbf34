"""The weight files of a model directory, without loading them: safetensors only, and a head for every label."""

from __future__ import annotations

from pathlib import Path

from stream_classifier.errors import ModelDirectoryError
from stream_classifier.model.manifest import read_json_object

__all__ = ["INDEX_NAME", "WEIGHTS_NAME", "check_head", "is_weights", "weight_files"]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
_OTHERS = {".safetensors", ".h5", ".msgpack", ".onnx", ".gguf"}
# What Trainer leaves behind: pickles, but neither weights nor anything that loading looks at.
_TRAINER_STATE = {"training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"}

# The last layer's weight, [labels, hidden], by the name each family gives it.
_HEADS = (
    "classifier.weight",
    "classifier.out_proj.weight",
    "classification_head.out_proj.weight",
    "sequence_summary.summary.weight",
    "logits_proj.weight",
    "score.weight",
)


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the model: one, or the shards of an index.

    Raises:
        ModelDirectoryError: there are none (pickles only, an adapter only, nothing), or a shard is missing.
    """
    if (directory / "adapter_config.json").is_file():
        problem = "it holds an adapter, which changes what its weights answer"
        raise ModelDirectoryError(directory, problem, "merge it into the model and save that")
    if (directory / WEIGHTS_NAME).is_file():
        return (directory / WEIGHTS_NAME,)
    if (directory / INDEX_NAME).is_file():
        return _shards(directory)
    pickles = sorted(file.name for file in directory.iterdir() if is_weights(file.name, pickle_only=True))
    if pickles:
        problem = f"its weights are a pickle only ({pickles[0]}), which can run code when it is opened"
        fix = "convert it where you trust it: save_pretrained of a model loaded from it writes model.safetensors"
        raise ModelDirectoryError(directory, problem, fix)
    raise ModelDirectoryError(directory / WEIGHTS_NAME, "there is no such file", "save the model with save_pretrained")


def is_weights(name: str, *, pickle_only: bool = False) -> bool:
    """Whether a file's name is that of model weights. OpenVINO's .bin under backends/ is raw data, not a pickle."""
    path = Path(name)
    if path.name in _TRAINER_STATE:
        return False
    suffix = path.suffix.lower()
    if pickle_only:
        return suffix in _PICKLES and not (suffix == ".bin" and path.parts[0] == "backends")
    return suffix in _PICKLES | _OTHERS


def check_head(weights: tuple[Path, ...], *, num_labels: int, config_path: Path) -> None:
    """Holds the rows of the last layer against the number of labels, reading no more than the files' headers.

    A family whose last layer has a name of its own is checked when it is loaded instead.

    Raises:
        ModelDirectoryError: a file that is no safetensors file, no head at all, or one of another size.
    """
    from safetensors import SafetensorError, safe_open

    names: set[str] = set()
    for path in weights:
        try:
            with safe_open(path, framework="numpy") as file:
                names.update(file.keys())
                for head in _HEADS:
                    if head in file.keys() and (rows := file.get_slice(head).get_shape()[0]) != num_labels:  # noqa: SIM118 - no mapping
                        problem = f"id2label has {num_labels} labels, {head} in {path.name} has {rows} rows"
                        raise ModelDirectoryError(config_path, problem, "name exactly one label a row")
        except (SafetensorError, OSError) as error:
            raise ModelDirectoryError(path, f"it is no safetensors file ({error})", "save or copy it again") from error
    if not any("classif" in name or "score" in name or "logits" in name or "summary" in name for name in names):
        problem = "there is no classification head in it: it is a base model"
        raise ModelDirectoryError(weights[0], problem, "train it first, for example with stream-training fit")


def _shards(directory: Path) -> tuple[Path, ...]:
    path = directory / INDEX_NAME
    weight_map = read_json_object(path).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names:
        raise ModelDirectoryError(path, "weight_map names no files", "save the model again")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelDirectoryError(path, f"weight_map names {name!r}", "only safetensors files beside it are read")
        if not (directory / name).is_file():
            raise ModelDirectoryError(directory / name, "there is no such file", "copy all shards of the model")
    return tuple(directory / name for name in sorted(set(names)))
