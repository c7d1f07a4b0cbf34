"""`classify`: inputs of every form, answered as documented, without Kafka."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_classifier.cli import main
from stream_classifier.cli.inputs import Item, read_items
from stream_classifier.errors import RecordError, TransientError
from stream_classifier.model import opening
from stream_classifier.model.classifier import Classifier


def null_answer(text: str) -> tuple[str, float]:
    """CONTRACTS, section 3, computed here on its own."""
    digest = zlib.crc32(text.encode())
    return ("even", "odd")[digest % 2], 0.5 + (digest >> 16) / 131_072


def classify(
    capsysbinary: pytest.CaptureFixture[bytes], *arguments: str, expect: int = 0
) -> tuple[list[dict[str, Any]], list[str]]:
    """The results and the lines on stderr."""
    assert main(["classify", *arguments]) == expect
    out, err = capsysbinary.readouterr()
    return [json.loads(line) for line in out.splitlines()], err.decode().splitlines()


def test_a_result_is_the_documented_record(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("my card is gone\n")
    label, score = null_answer("my card is gone")
    other = {"even": "odd", "odd": "even"}[label]
    results, errors = classify(capsysbinary, "null", str(file))
    assert results == [
        {
            "classifier": "null",
            "task": "free",
            "label": label,
            "score": score,
            "decision": "accepted",
            "scores": [{"label": label, "score": score}, {"label": other, "score": pytest.approx(1 - score)}],
            "passthrough": {},
            "model": {"name": "null", "digest": None},
            "source": {"file": str(file), "line": 1},
        }
    ]
    assert errors == []


def test_the_output_is_the_same_to_the_byte_every_time(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "a.txt").write_text("hello\n")
    assert main(["classify", "null", str(tmp_path / "a.txt"), "--top-k", "1"]) == 0
    assert capsysbinary.readouterr().out == (
        b'{"classifier":"null","task":"free","label":"even","score":0.6055908203125,"decision":"accepted",'
        b'"scores":[{"label":"even","score":0.6055908203125}],"passthrough":{},'
        b'"model":{"name":"null","digest":null},'
        b'"source":{"file":"' + str(tmp_path / "a.txt").encode() + b'","line":1}}\n'
    )


def test_lines_are_texts_whatever_is_in_them(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffone\r\n\n\x00\u2028ü\x85 x\n  \nlast without an end".encode())
    results, _ = classify(capsysbinary, "null", str(file))
    texts = ["one", "", "\x00\u2028ü\x85 x", "  ", "last without an end"]
    assert [(r["label"], r["score"]) for r in results] == [null_answer(text) for text in texts]
    assert [r["source"]["line"] for r in results] == [1, 2, 3, 4, 5]


def test_the_answers_are_those_of_the_classifier_in_the_order_of_the_lines(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    texts = [f"text {i}" * (i % 7) for i in range(2000)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    results, _ = classify(capsysbinary, "null", str(tmp_path / "texts.txt"), "--threshold", "0.7", "--task", "intent")
    expected = Classifier.load("null", threshold=0.7, task="intent")(texts)
    assert [r["source"]["line"] for r in results] == list(range(1, 2001))
    assert [{key: r[key] for key in prediction.as_dict()} for r, prediction in zip(results, expected, strict=True)] == [
        prediction.as_dict() for prediction in expected
    ]


def test_the_positive_label_can_be_named(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    (tmp_path / "a.txt").write_text("hello\n")
    results, _ = classify(
        capsysbinary, "null", str(tmp_path / "a.txt"), "--task", "sentiment", "--positive-label", "odd"
    )
    label, score = null_answer("hello")
    assert results[0]["sentiment_score"] == pytest.approx(score if label == "odd" else 1 - score)


def test_json_lines_give_text_and_passthrough_by_pointer(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    file = tmp_path / "tickets.jsonl"
    file.write_text('{"body": {"text": "a"}, "id": 17}\n\n{"body": {"text": "b"}}\n')
    results, _ = classify(
        capsysbinary, "null", str(file), "--text-pointer", "/body/text", "--passthrough", "ticket=/id"
    )
    assert [r["label"] for r in results] == [null_answer("a")[0], null_answer("b")[0]]
    assert [r["passthrough"] for r in results] == [{"ticket": 17}, {"ticket": None}]
    assert [r["source"]["line"] for r in results] == [1, 3]


def test_a_text_pointer_tells_that_stdin_is_json_lines(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"title": "a", "body": "b"}\n')))
    results, _ = classify(capsysbinary, "null", "--text-pointer", "/title", "--text-pointer", "/body")
    assert results[0]["score"] == null_answer("a\nb")[1]
    assert results[0]["source"] == {"line": 1}


def test_csv_rows_may_span_lines_and_columns_may_have_any_name(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    file = tmp_path / "mails.csv"
    file.write_text('\ufeffa/b~c,id\r\n"one, ""two""\nthree",1\r\n\r\nfour\n5" pipe,6\n', encoding="utf-8")
    results, _ = classify(capsysbinary, "null", str(file), "--text-column", "a/b~c", "--passthrough", "id=/id")
    assert [r["score"] for r in results] == [null_answer(t)[1] for t in ('one, "two"\nthree', "four", '5" pipe')]
    assert [r["passthrough"] for r in results] == [{"id": "1"}, {"id": None}, {"id": "6"}]
    assert [r["source"]["line"] for r in results] == [2, 5, 6]


def test_tabs_separate_the_columns_of_tsv(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    file = tmp_path / "mails.tsv"
    file.write_text("id\ttext\n1\ta, b\n")
    results, _ = classify(capsysbinary, "null", str(file))
    assert results[0]["score"] == null_answer("a, b")[1]


def test_a_format_given_is_over_the_extension(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("a,b\n")
    results, _ = classify(capsysbinary, "null", str(file), "--format", "text")
    assert results[0]["score"] == null_answer("a,b")[1]


def test_a_missing_column_is_refused_with_those_there_are(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "x.csv").write_text("id,body\n1,a\n")
    results, errors = classify(capsysbinary, "null", str(tmp_path / "x.csv"), expect=2)
    assert results == []
    assert errors == ["stream-classifier: there is no column 'text'; give --text-column, the columns are 'id', 'body'"]


@pytest.mark.parametrize(
    ("name", "content", "lines", "reasons"),
    [
        ("x.txt", b"a\n\xffsecret\nb\n", [1, 3], [(2, "not UTF-8")]),
        ("x.jsonl", b'{"text": 3}\n{"text": "a"}\n{}\n{"t\n', [2], [(1, "a number"), (3, "nothing"), (4, "not JSON")]),
        ("x.jsonl", b'{"text": "\\ud800"}\n{"text": "a"}\n', [2], [(1, "JSON")]),
        ("x.csv", b"text\na\n\xff\nb,secret\nc\n", [2, 5], [(3, "not UTF-8"), (4, "2 cells, the header 1")]),
    ],
)  # fmt: skip
def test_a_broken_record_is_told_with_its_line_and_the_others_go_on(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes],
    name: str, content: bytes, lines: list[int], reasons: list[tuple[int, str]],
) -> None:  # fmt: skip
    file = tmp_path / name
    file.write_bytes(content)
    results, errors = classify(capsysbinary, "null", str(file), expect=1)
    assert [r["source"]["line"] for r in results] == lines
    *told, summary = errors
    assert summary == f"{len(reasons)} of {len(lines) + len(reasons)} records have no result"
    for line, reason in reasons:
        assert any(error.startswith(f"{file}:{line}: ") and reason in error for error in told)
    assert len(told) == len(reasons)
    assert "secret" not in "".join(errors)


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.csv"])
def test_an_empty_file_has_no_results(tmp_path: Path, name: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    (tmp_path / name).touch()
    assert classify(capsysbinary, "null", str(tmp_path / name)) == ([], [])


class Fragile:
    """Scores that are not finite for some texts, and no memory for more than 100 at once."""

    labels = ("a", "b")
    problem_type = "single_label_classification"

    def logits(self, texts: Sequence[str]) -> NDArray[Any]:
        if len(texts) > 100:
            raise TransientError("out of memory")
        return np.array([[np.nan if "poison" in text else 0.0, 1.0] for text in texts])


def test_a_text_the_model_fails_on_takes_no_other_with_it(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fragile = opening.open_model(Fragile())
    monkeypatch.setattr("stream_classifier.model.classifier.open_model", lambda *_, **__: fragile)
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{'poison' if i in (3, 400) else 'text'} {i}\n" for i in range(1, 501)))
    results, errors = classify(capsysbinary, "fragile", str(file), expect=1)
    assert [r["source"]["line"] for r in results] == [i for i in range(1, 501) if i not in (3, 400)]
    assert [error.split(": ")[0] for error in errors[:2]] == [f"{file}:3", f"{file}:400"]
    assert "poison" not in "".join(errors)


def test_each_line_of_a_pipe_is_answered_as_it_comes() -> None:
    """The next line is only sent when the answer to the one before it is there."""
    command = [sys.executable, "-m", "stream_classifier", "classify", "null"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, text in enumerate(["first", "second", "third"], start=1):
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            result = json.loads(process.stdout.readline())
            assert (result["source"]["line"], result["score"]) == (number, null_answer(text)[1])
        process.stdin.close()
        assert process.wait() == 0


@pytest.mark.parametrize("format", ["text", "csv"])
def test_reading_says_when_it_may_wait_and_has_handed_out_all_it_has_by_then(format: str) -> None:
    reading, writing = os.pipe()
    sent = [b"text\n", b"a\nb", b"b\n\nc\n", b"d"]
    handed_out: list[Item] = []
    seen: list[int] = []

    def before_wait() -> None:
        seen.append(len(handed_out))
        if sent:
            os.write(writing, sent.pop(0))
        elif len(seen) == 5:
            os.close(writing)

    with os.fdopen(reading, "rb") as stream:
        for item in read_items(stream, format=format, before_wait=before_wait):
            handed_out.append(item)  # noqa: PERF402 - before_wait looks at it meanwhile
    expected = [(1, b"text"), (2, b"a"), (3, b"bb"), (4, b""), (5, b"c"), (6, b"d")]
    if format == "csv":
        expected = [(line, b'{"text":"%b"}' % value) for line, value in expected[1:] if value]
        assert seen == [0, 0, 1, 3, 3]
    else:
        assert seen == [0, 1, 2, 5, 5]
    assert handed_out == expected


def test_a_long_line_is_one_text_however_it_is_read() -> None:
    text = b"x" * (5 << 20)
    assert list(read_items(io.BytesIO(text + b"\ny"), format="text")) == [(1, text), (2, b"y")]


def test_a_cell_longer_than_the_csv_modules_own_limit_is_read() -> None:
    (item,) = read_items(io.BytesIO(b"text\n" + b"x" * 200_000 + b"\n"), format="csv")
    assert not isinstance(item.value, RecordError)
    assert len(json.loads(item.value)["text"]) == 200_000
