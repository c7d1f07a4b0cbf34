"""`stream-classifier classify`: texts from a file or a pipe to result records, without Kafka."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import click

from stream_classifier.cli.group import examples
from stream_classifier.cli.inputs import FORMATS, format_of, read_items
from stream_classifier.cli.output import write
from stream_classifier.errors import ConfigError, RecordError, TransientError
from stream_classifier.records import Prediction, result_record

if TYPE_CHECKING:
    from stream_classifier.codecs import Codec
    from stream_classifier.model.classifier import Classifier

__all__ = ["command"]

_MAX_RECORDS = 512  # answered at once: enough for the model to sort by length, few enough to see results soon
_LARGE_BYTES = 1 << 20  # from here on a file gets a progress bar


@click.command(
    "classify",
    short_help="Classify the texts in a file or a pipe.",
    epilog=examples(
        "echo 'my card is gone' | stream-classifier classify models/intent",
        "stream-classifier classify models/intent messages.txt > results.jsonl",
        "stream-classifier classify models/intent tickets.jsonl --text-pointer /body --passthrough id=/id",
        "stream-classifier classify models/spam mails.csv --text-column subject --text-column body --threshold 0.9",
        "tail -f chat.log | stream-classifier classify null",
    ),
)
@click.argument("model")
@click.argument("file", default="-")
@click.option("--format", type=click.Choice(FORMATS), help="Of FILE; by its extension unless given, else text.")
@click.option("--text-pointer", multiple=True, metavar="POINTER", help="JSON lines: where the text is. [/text]")
@click.option("--text-column", multiple=True, metavar="NAME", help="CSV: the column with the text. [text]")
@click.option("--passthrough", multiple=True, metavar="NAME=POINTER", help="Copy a field or a column to the result.")
@click.option("--threshold", type=float, help="Probability from which a label is accepted.")
@click.option("--top-k", type=int, default=5, show_default=True, help="Labels in scores; 0: none, -1: all.")
@click.option("--task", help="Instead of the model's own, e.g. intent or sentiment.")
@click.option("--positive-label", help="For sentiment: the positive label, where its name does not tell.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, float16 or int8.")
@click.option("--backend", default="auto", show_default=True, help="auto, torch, openvino, or an installed one.")
def command(
    model: str,
    file: str,
    format: str | None,
    text_pointer: tuple[str, ...],
    text_column: tuple[str, ...],
    passthrough: tuple[str, ...],
    threshold: float | None,
    top_k: int,
    task: str | None,
    positive_label: str | None,
    device: str,
    dtype: str,
    backend: str,
) -> int:
    """Classify the texts in FILE, or on stdin: result records as JSON lines on stdout.

    MODEL is a model directory, a Hub name, an entry point, or null. In FILE each line is a text (.txt and others), a
    JSON document (.jsonl) or a row under a header (.csv, .tsv); UTF-8. Several pointers or columns are joined to one
    text. Each result tells its line in `source`; a record without a result is reported on stderr with its line, the
    others go on, and the exit code is 1.
    """
    from stream_classifier.cli.logs import set_up_logging

    set_up_logging("warning")
    format = _format(format, file, text_pointer, text_column)
    columns = text_column or ("text",) if format in ("csv", "tsv") else ()
    pointers = text_pointer or ("/text",) if format == "jsonl" else tuple(map(_column_pointer, columns))
    fields = _fields(passthrough)
    with _open(file) as stream:
        from stream_classifier import codecs
        from stream_classifier.model.classifier import Classifier

        classifier = Classifier.load(
            model,
            task=task,
            positive_label=positive_label,
            threshold=threshold,
            top_k=top_k,
            device=device,
            dtype=dtype,
            backend=backend,
        )
        separator = "\n" if classifier.text_join is None else classifier.text_join
        name = "json" if pointers else "text"
        codec = codecs.create(name, text=pointers, separator=separator, passthrough=fields)
        answers = _Answers(classifier, codec, None if file == "-" else file)
        with _progress(file) as on_read:
            items = read_items(stream, format=format, text_columns=columns, before_wait=answers.flush, on_read=on_read)
            for line, value in items:
                answers.add(line, value)
            answers.flush()
    if answers.num_failed:
        print(f"{answers.num_failed} of {answers.num_records} records have no result", file=sys.stderr)
    return 1 if answers.num_failed else 0


class _Answers:
    """Gathers records, answers them together, and writes the results in their order.

    Args:
        classifier: the model.
        codec: a value to its text.
        file: named in the results; None leaves it out.
    """

    def __init__(self, classifier: Classifier, codec: Codec, file: str | None) -> None:
        self._classifier = classifier
        self._codec = codec
        self._source = {} if file is None else {"file": file}
        self._model = {"name": classifier.name, "digest": classifier.digest}
        self._lines: list[int] = []
        self._values: list[bytes] = []
        self.num_records = 0
        self.num_failed = 0

    def add(self, line: int, value: bytes | RecordError) -> None:
        """Take one record; answers all that were gathered when there are enough."""
        self.num_records += 1
        if isinstance(value, RecordError):
            self._failed(line, value)
            return
        self._lines.append(line)
        self._values.append(value)
        if len(self._values) >= _MAX_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Answer what was gathered."""
        if not self._values:
            return
        lines, values = self._lines, self._values
        self._lines, self._values = [], []
        decoded = self._codec.decode(values)
        for row, error in decoded.errors:
            self._failed(lines[row], error)
        results = []
        for index, (row, answer) in enumerate(zip(decoded.rows, self._answer(decoded.texts), strict=True)):
            if isinstance(answer, RecordError):
                self._failed(lines[row], answer)
                continue
            fields = None if decoded.passthrough is None else decoded.passthrough[index]
            results.append(self._codec.encode(self._result(lines[row], answer, fields)) + b"\n")
        write(b"".join(results))

    def _result(self, line: int, prediction: Prediction, fields: Mapping[str, Any] | None) -> dict[str, Any]:
        return result_record(
            prediction.as_dict(),
            classifier=self._classifier.name,
            task=self._classifier.task,
            model=self._model,
            source={**self._source, "line": line},
            passthrough=fields,
        )

    def _answer(self, texts: Sequence[str]) -> list[Prediction | RecordError]:
        """An answer a text. When the model fails on several, on halves of them, down to the one that is to blame."""
        if not texts:
            return []
        try:
            return list(self._classifier(texts))
        except RecordError as error:
            if len(texts) == 1:
                return [error]
        except TransientError:  # out of memory
            if len(texts) == 1:
                raise
        middle = len(texts) // 2
        return self._answer(texts[:middle]) + self._answer(texts[middle:])

    def _failed(self, line: int, error: RecordError) -> None:
        self.num_failed += 1
        print(f"{self._source.get('file', 'stdin')}:{line}: {error.message}", file=sys.stderr)


def _format(format: str | None, file: str, pointers: Sequence[str], columns: Sequence[str]) -> str:
    """The input's format: as asked for, or what the options or the file's name tell; and whether the options fit it."""
    if format is None:
        format = format_of(file)
        if format == "text":
            format = "jsonl" if pointers else "csv" if columns else "text"
    if pointers and format != "jsonl":
        raise ConfigError(f"--text-pointer is for JSON lines, the format is {format}; give --format jsonl")
    if columns and format not in ("csv", "tsv"):
        raise ConfigError(f"--text-column is for CSV, the format is {format}; give --format csv")
    return format


def _column_pointer(column: str) -> str:
    return "/" + column.replace("~", "~0").replace("/", "~1")


def _fields(passthrough: Sequence[str]) -> dict[str, str]:
    fields = {}
    for pair in passthrough:
        name, separator, pointer = pair.partition("=")
        if not name or not separator:
            raise ConfigError(f"--passthrough {pair}: there is no name=pointer; write --passthrough id=/id")
        fields[name] = pointer
    return fields


@contextmanager
def _open(file: str) -> Iterator[io.BufferedIOBase]:
    if file == "-":
        yield cast("io.BufferedIOBase", sys.stdin.buffer)
        return
    try:
        stream = open(file, "rb")  # noqa: SIM115 - closed below; only opening it is the user's mistake
    except OSError as error:
        raise ConfigError(f"{file}: it cannot be read ({error.strerror}); give a file, or - for stdin") from error
    with stream:
        yield stream


@contextmanager
def _progress(file: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while a large file is read, where somebody may look at it and no results get in its way."""
    size = os.path.getsize(file) if os.path.isfile(file) else 0
    if size < _LARGE_BYTES or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda size: None
        return
    with click.progressbar(length=size, file=sys.stderr, label=os.path.basename(file)) as bar:
        yield bar.update
