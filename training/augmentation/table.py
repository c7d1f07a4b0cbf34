"""A labelled table to a larger one: its rows first, then rows made from them, each saying from which and how."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stream_classifier.errors import ConfigError
from training.augmentation.made import MadeTexts
from training.augmentation.noise import NOISE
from training.augmentation.settings import AugmentSettings
from training.augmentation.writing import MadeRow, check_labels, check_target, write_rows
from training.interrupts import Interrupts
from training.progress import bar
from training.reading import find_sources, read_table
from training.work_dir import fingerprint, work_dir

__all__ = ["AugmentResult", "augment"]

_BATCH_TEXTS = 16
_EVALUATION_NAMES = ("validation", "valid", "val", "dev", "evaluation", "eval", "test")


@dataclass(frozen=True, slots=True)
class AugmentResult:
    """What `augment` wrote.

    Attributes:
        path: the file.
        num_originals: rows of the training table.
        num_made: rows made from them, by method.
        num_unchanged: rows not written because nothing changed, or another row has the same text.
    """

    path: Path
    num_originals: int
    num_made: Mapping[str, int]
    num_unchanged: int


def augment(
    data: str | Path,
    out: str | Path,
    *,
    settings: AugmentSettings | None = None,
    overwrite: bool = False,
    resume: bool = False,
    show_progress: bool = False,
) -> AugmentResult:
    """Writes the training rows of `data` and rows made from them as one table. Blocks.

    Rows for evaluation are never augmented: of a folder the training table alone is read. Splits keep a row and those
    made from it on one side, and hold out original rows only. What models have made when it is interrupted is in
    `out`.work; with models, on the main thread, it handles SIGINT and SIGTERM as `training.fit` does.

    Args:
        data: a table, or a folder with one to train on.
        out: a .csv, .tsv, .jsonl or .parquet file to write; complete or not there.
        settings: how; None: one row from each, by all kinds of noise in turn.
        overwrite: whether a file at `out` is replaced, and what an interrupted call left is thrown away.
        resume: go on with what is in `out`.work; from the beginning where there is nothing.
        show_progress: whether bars are shown on standard error when it is a terminal.

    Raises:
        ConfigError: data, models or a place that cannot be used.
        Interrupted: a signal came; a KeyboardInterrupt whose message says how to go on.
    """
    settings = settings or AugmentSettings()
    out, source = Path(out), find_sources(Path(data)).train
    check_target(out, source, overwrite=overwrite)
    if source.stem.lower() in _EVALUATION_NAMES:
        raise ConfigError(
            f"{source}: rows to evaluate on are not augmented, or figures would tell of made texts; give training rows"
        )
    table = read_table(source, settings.columns)
    if table.augmented is not None and any(table.augmented):
        raise ConfigError(f"{source} was made by augment; give the table it was made from, with more --copies")
    parts = [(text,) for text in table.texts] if table.parts is None else table.parts
    check_labels(out, table)
    with ExitStack() as stack:
        kept_texts = None
        if any(method not in NOISE for method in settings.methods_in_turn):  # noise is as quickly made again
            made_from = {**fingerprint(settings, {"training": table}, num_processes=1), "models": _models(settings)}
            stack.enter_context(Interrupts().handled())
            work = stack.enter_context(work_dir(out, made_from, resume=resume, overwrite=overwrite))
            kept_texts = MadeTexts(work)
        made = _make(parts, settings, kept_texts, show_progress=show_progress)
        seen = set(parts)
        kept: list[MadeRow] = []
        for i, method, cells in made:
            if cells not in seen and any(cell.strip() for cell in cells):
                seen.add(cells)
                kept.append((i, method, cells))
        rows = [(i, "", cells) for i, cells in enumerate(parts)] + kept
        write_rows(out, table, settings.columns, rows)
    counts = {method: sum(name == method for _, name, _ in kept) for method in settings.methods_in_turn}
    return AugmentResult(out, len(table), counts, len(made) - len(kept))


def _models(settings: AugmentSettings) -> list[list[object]]:
    """The weights of the models, so that texts of other ones are not gone on with."""
    folders = (settings.masked_model, settings.translate_with, settings.translate_back_with)
    files = [file for folder in folders if folder is not None for file in sorted(folder.glob("*.safetensors"))]
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _make(
    parts: Sequence[tuple[str, ...]], settings: AugmentSettings, made: MadeTexts | None, *, show_progress: bool
) -> list[MadeRow]:
    """Rows as index of the original, method and cells; in the order of the originals, copy by copy."""
    methods = settings.methods_in_turn
    jobs = [(i, methods[(i + copy) % len(methods)]) for copy in range(settings.copies) for i in range(len(parts))]
    results: dict[int, tuple[str, ...]] = {}
    for method in dict.fromkeys(methods):
        own = [k for k, (_, name) in enumerate(jobs) if name == method]
        cells = [cell for k in own for cell in parts[jobs[k][0]]]
        with bar(len(cells), method, unit="text", shown=show_progress) as progress:
            changed = iter(_changed(cells, method, settings, None if method in NOISE else made, progress.update))
        for k in own:
            results[k] = tuple(next(changed) for _ in parts[jobs[k][0]])
    return [(i, method, results[k]) for k, (i, method) in enumerate(jobs)]


def _changed(
    cells: list[str], method: str, settings: AugmentSettings, made: MadeTexts | None, advance: Callable[[int], object]
) -> list[str]:
    """Batch by batch of cells of like length, each drawn by a seed of its own: so it can be gone on with."""
    change = _changer(method, settings)
    results = list(cells)
    order = sorted(range(len(cells)), key=lambda i: len(cells[i]))
    for number, start in enumerate(range(0, len(order), _BATCH_TEXTS)):
        batch = order[start : start + _BATCH_TEXTS]
        texts = None if made is None else made.of(method, number)
        if texts is None:
            draw = random.Random(f"{settings.seed} {method} {number}")
            texts = change([cells[i] for i in batch], draw)
            if made is not None:
                made.keep(method, number, texts)
        for i, text in zip(batch, texts, strict=True):
            results[i] = text
        advance(len(batch))
    return results


def _changer(method: str, settings: AugmentSettings) -> Callable[[list[str], random.Random], list[str]]:
    """What makes other texts of a batch of texts."""
    if method == "masked" and settings.masked_model is not None:
        from training.augmentation.masked import MaskedModel

        model = MaskedModel(settings.masked_model)
        return lambda cells, draw: model.substitute(cells, settings.rate(method), draw)
    if method == "translation" and settings.translate_with is not None and settings.translate_back_with is not None:
        from training.augmentation.translation import BackTranslator

        return BackTranslator(settings.translate_with, settings.translate_back_with).translate
    return lambda cells, draw: [NOISE[method](cell, settings.rate(method), draw) for cell in cells]
