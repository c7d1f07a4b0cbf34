"""A base published as pytorch_model.bin to one with safetensors weights, which training and serving read.

A .bin is a pickle, and opening a pickle can run code. It is opened once, in a process of its own, by torch's reader
that takes nothing but tensors; what comes out is written as safetensors. Serving never opens one.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from stream_classifier.errors import ConfigError, TrainingError
from training.encoder import quiet_transformers
from training.model_files import check_target, written_aside

__all__ = ["Conversion", "convert"]

_WEIGHTS_NAME = "model.safetensors"
_COPIED = {".json", ".txt", ".model", ".md"}  # configuration, vocabularies, card; nothing that is a pickle
_CODE = "import sys; from training.pickle_reader import main; sys.exit(main(sys.argv[1:]))"
_REFUSED = 3  # the exit code of pickle_reader


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion wrote.

    Attributes:
        path: the new directory.
        num_tensors: tensors in its model.safetensors.
        num_parameters: numbers in them.
    """

    path: Path
    num_tensors: int
    num_parameters: int


def convert(directory: str | Path, out: str | Path, *, overwrite: bool = False) -> Conversion:
    """Writes a copy of a model directory whose weights are safetensors. Blocks for seconds.

    Args:
        directory: with config.json, the tokenizer's files and pytorch_model.bin, whole or in shards.
        out: the directory to make.
        overwrite: replace a model directory that is there.

    Raises:
        ConfigError: nothing to convert there, a pickle that holds more than tensors, or no place to write to.
        TrainingError: what was written does not load.
    """
    source, out = Path(directory), Path(out)
    pickles = _pickles(source)
    check_target(out, overwrite=overwrite, source=source)
    with written_aside(out) as aside:
        for path in sorted(source.iterdir()):
            if path.is_file() and path.suffix in _COPIED and not path.name.endswith(".index.json"):
                shutil.copyfile(path, aside / path.name)
        _convert_apart(pickles, aside / _WEIGHTS_NAME)
        conversion = _check(aside, out)
    return conversion


def _pickles(source: Path) -> list[Path]:
    if not (source / "config.json").is_file():
        raise ConfigError(f"{source}: there is no config.json in it; give the directory of a model")
    if (source / _WEIGHTS_NAME).is_file():
        raise ConfigError(f"{source}: its weights are safetensors already; use it as it is")
    found = sorted(source.glob("pytorch_model*.bin"))
    if not found:
        raise ConfigError(f"{source}: there is no pytorch_model.bin in it; download the model with its weights")
    return found


def _convert_apart(pickles: list[Path], target: Path) -> None:
    command = [sys.executable, "-c", _CODE, str(target), *map(str, pickles)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    if done.returncode == _REFUSED:
        raise ConfigError(
            f"{pickles[0].parent}: {reason}; it may run code when it is opened and is left alone: take another base"
        )
    if done.returncode:
        raise TrainingError(f"{pickles[0].parent}: the weights could not be converted ({reason})")


def _check(aside: Path, out: Path) -> Conversion:
    from safetensors import safe_open
    from transformers import AutoModel

    try:
        with quiet_transformers():
            _, loading = AutoModel.from_pretrained(
                aside, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TrainingError(f"{out}: transformers does not load what was converted ({reason})") from error
    missing = [name for name in loading["missing_keys"] if "pooler" not in name]
    if missing:
        raise TrainingError(f"{out}: the weights lack {len(missing)} tensors, such as {missing[0]}: another model's?")
    with safe_open(aside / _WEIGHTS_NAME, framework="numpy") as file:
        sizes = [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118 - no mapping
    return Conversion(out, len(sizes), sum(sizes))
