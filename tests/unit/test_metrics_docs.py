"""The reference page of the metrics is the table in the code."""

from pathlib import Path

from stream_classifier.observe.metrics import reference_table

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
REGENERATE = (
    "python -c 'from stream_classifier.observe.metrics import reference_table; print(reference_table(), end=\"\")'"
)


def test_reference_page_ends_with_the_table_of_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith("\n\n" + reference_table()), (
        f"{PAGE.name} differs from METRICS: replace its table by the output of {REGENERATE}"
    )
