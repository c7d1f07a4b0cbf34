"""What the demo shows: a live view on a terminal, plain lines elsewhere, and the summary at the end."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from stream_classifier.demo.traffic import DEAD_LETTERS, SINK, SOURCE, Producer, Tally

__all__ = ["LiveView", "PlainView", "View", "summary"]

_PLAIN_EVERY_S = 5.0


class View(Protocol):
    """Shows the state of the demo."""

    def __enter__(self) -> View: ...
    def __exit__(self, *exc: object) -> None: ...
    def update(self, producer: Producer, tally: Tally) -> None: ...


class PlainView:
    """A line on stderr every few seconds, where nobody watches a terminal."""

    def __init__(self) -> None:
        self._shown_at = time.monotonic()

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def update(self, producer: Producer, tally: Tally) -> None:
        """Show, if it is time to."""
        if time.monotonic() - self._shown_at >= _PLAIN_EVERY_S:
            self._shown_at = time.monotonic()
            print(
                f"{producer.num_sent} sent, {tally.num_results} results, {tally.num_uncertain} uncertain, "
                f"{tally.num_dead_letters} dead letters, p50 {_ms(tally.latency_s(0.5))}",
                file=sys.stderr,
            )


class LiveView:
    """The terminal, redrawn a few times a second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, refresh_per_second=4)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(None, None, None)

    def update(self, producer: Producer, tally: Tally) -> None:
        """Redraw."""
        from rich.console import Group
        from rich.text import Text

        parts = [self._figures(producer, tally), self._labels(tally), self._recent(producer, tally)]
        self._live.update(Group(*parts, Text("Ctrl-C ends it", style="dim")))

    def _figures(self, producer: Producer, tally: Tally) -> Any:
        from rich.table import Table

        table = Table(title=f"{SOURCE} → {SINK}", title_justify="left", expand=False)
        accuracy = tally.accuracy
        cells = {
            "sent": str(producer.num_sent),
            "results": str(tally.num_results),
            "results/s": _number(tally.rate),
            "latency p50": _ms(tally.latency_s(0.5)),
            "p99": _ms(tally.latency_s(0.99)),
            "uncertain": str(tally.num_uncertain),
            "dead letters": str(tally.num_dead_letters),
            "accuracy": "-" if accuracy is None else f"{accuracy:.1%}",
        }
        for heading in cells:
            table.add_column(heading, justify="right")
        table.add_row(*cells.values())
        return table

    def _labels(self, tally: Tally) -> Any:
        from rich.table import Table

        table = Table.grid(padding=(0, 1))
        most = max(tally.labels.values(), default=1)
        for label, count in sorted(tally.labels.items()):
            table.add_row(label, "█" * max(1, round(30 * count / most)), str(count))
        return table

    def _recent(self, producer: Producer, tally: Tally) -> Any:
        from rich.table import Table

        table = Table("label", "score", "decision", "article", title="last results", title_justify="left", expand=True)
        for result in list(tally.recent):
            style = "yellow" if result["decision"] == "uncertain" else None
            text = producer.texts.get(result["number"], "")
            table.add_row(result["label"], f"{result['score']:.3f}", result["decision"], text, style=style)
        return table


def summary(producer: Producer, tally: Tally) -> str:
    """What happened, from what stands in the topics."""
    errors = ", ".join(f"{count} x {name}" for name, count in tally.dead_letters.most_common()) or "none"
    share = tally.num_uncertain / tally.num_results if tally.num_results else 0.0
    accuracy = tally.accuracy
    rows = {
        "records in": f"{producer.num_sent} ({producer.num_broken} of them broken on purpose)",
        "results out": f"{tally.num_results} in topic {SINK}",
        "accuracy": "-"
        if accuracy is None
        else f"{accuracy:.1%} against the known categories, read back from the sink",
        "uncertain": f"{tally.num_uncertain} ({share:.1%})",
        "rate": f"{_number(tally.rate)} results/s",
        "latency": f"p50 {_ms(tally.latency_s(0.5))}, p99 {_ms(tally.latency_s(0.99))}",
        "dead letters": f"{tally.num_dead_letters} in topic {DEAD_LETTERS}: {errors}",
    }
    return "\n".join(f"{name:<13} {value}" for name, value in rows.items())


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
