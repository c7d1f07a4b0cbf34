"""What is wrong with the data, found before a model is trained on it, and what to do about each.

The tables are looked at as they are in their files: nothing here changes a row. Texts are never shown, only their
lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data import Columns
from training.findings import Finding, Tables, label_findings, row_findings
from training.leakage import leakage_findings
from training.lengths import Lengths, TokenCounter, estimate
from training.reading import find_sources, read_sources

__all__ = ["Inspection", "check_data", "inspect_tables"]

_MAX_LENGTH = 256
_MAX_CUT_SHARE = 0.05
_MAX_UNKNOWN_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of `stream-training data check`.

    Attributes:
        tables: what was looked at.
        lengths: of the training texts.
        max_length: tokens that will be read of a text.
        findings: the gravest first.
    """

    tables: Tables
    lengths: Lengths
    max_length: int
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing graver than a note was found."""
        return all(finding.severity == "note" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        return {
            "multi_label": self.tables.train.multi_label,
            "rows": {part: len(table) for part, table in self.tables.parts()},
            "skipped": {part: table.num_skipped for part, table in self.tables.parts()},
            "labels": {part: dict(sorted(table.label_counts().items())) for part, table in self.tables.parts()},
            "tokens": {
                "estimated": self.lengths.estimated,
                "median": self.lengths.quantile(0.5),
                "p95": self.lengths.quantile(0.95),
                "max": self.lengths.quantile(1.0),
                "max_length": self.max_length,
                "share_over": self.lengths.share_over(self.max_length),
                "unknown_share": self.lengths.unknown_share,
            },
            "findings": [finding.as_dict() for finding in self.findings],
        }


def check_data(
    data: str | Path,
    *,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    columns: Columns | None = None,
    out_of_scope_label: str | None = None,
    counter: TokenCounter | None = None,
    max_length: int = _MAX_LENGTH,
) -> Inspection:
    """Looks at the rows that `training.fit` would read. Blocks: seconds for ten thousand rows.

    Args:
        data, validation, test: as for `training.fit`.
        columns: where texts and labels are; None: text and label, or labels.
        out_of_scope_label: as the settings of `training.fit` say; None: there is none.
        counter: counts tokens, see `training.lengths.token_counter`; None: they are estimated.
        max_length: tokens that will be read of a text.

    Raises:
        ConfigError: what cannot be read at all.
    """
    paths = [None if path is None else Path(path) for path in (validation, test)]
    sources = find_sources(Path(data), validation=paths[0], test=paths[1])
    tables = Tables(*read_sources(sources, columns), out_of_scope_label)
    return inspect_tables(tables, counter=counter, max_length=max_length)


def inspect_tables(tables: Tables, *, counter: TokenCounter | None = None, max_length: int = _MAX_LENGTH) -> Inspection:
    """As `check_data`, for tables in memory."""
    lengths = estimate(tables.train.texts) if counter is None else counter.count(tables.train.texts)
    limit = max_length if counter is None or counter.max_length is None else min(max_length, counter.max_length)
    findings = [
        *label_findings(tables),
        *row_findings(tables),
        *leakage_findings(tables),
        *_length_findings(lengths, limit, None if counter is None else counter.max_length),
    ]
    findings.sort(key=lambda finding: finding.rank)
    return Inspection(tables, lengths, limit, tuple(findings))


def _length_findings(lengths: Lengths, max_length: int, base_limit: int | None) -> Iterator[Finding]:
    cut, p95 = lengths.share_over(max_length), lengths.quantile(0.95)
    if cut > 0:
        longest = p95 if base_limit is None else min(p95, base_limit)
        if p95 <= max_length:
            fix = "nothing to do unless their label shows late"
        elif longest > max_length:
            fix = f"give --max-length {longest} to read more of them; training then takes longer"
        else:
            fix = "the base reads no more; where the label shows late in a text, give a --base that does"
        roughly = "an estimated " if lengths.estimated else ""
        share = f"{100 * cut:.1f} %" if cut >= 0.001 else "under 0.1 %"
        message = f"{roughly}{share} of the texts have more than {max_length} tokens and are cut there"
        yield Finding("long-texts", "warning" if cut > _MAX_CUT_SHARE else "note", "train", message, fix)
    if lengths.unknown_share is not None and lengths.unknown_share > _MAX_UNKNOWN_SHARE:
        message = f"{100 * lengths.unknown_share:.1f} % of the tokens are not in the vocabulary of the base"
        fix = "give a --base that knows the language or the symbols of the texts"
        yield Finding("unknown-tokens", "warning", "train", message, fix)
