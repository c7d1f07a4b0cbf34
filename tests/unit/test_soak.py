"""What a soak calls growth: the last quarter against the second, beyond the limit of each figure."""

from __future__ import annotations

import pytest

from benchmarks.faults.soak import LIMITS, growth


def samples(**changed: list[float]) -> dict[str, list[float]]:
    return {name: changed.get(name, [100.0] * 16) for name in ("seconds", *LIMITS)}


def grown(**changed: list[float]) -> set[str]:
    return {name for name, row in growth(samples(**changed)).items() if not row["kept"]}


def test_what_stays_the_same_does_not_grow() -> None:
    assert grown() == set()


@pytest.mark.parametrize("name", LIMITS)
def test_what_rises_steadily_grows(name: str) -> None:
    assert grown(**{name: [1000.0 * step for step in range(16)]}) == {name}


def test_the_first_quarter_and_single_peaks_do_not_count() -> None:
    start = [10.0, 40.0, 60.0, 90.0]
    assert grown(rss_mib=[*start, *[100.0] * 12]) == set()
    assert grown(latency_p99_ms=[*[100.0] * 14, 9000.0, 100.0]) == set()
    assert grown(open_files=[*[14.0] * 12, *[16.0] * 4]) == {"open_files"}
    assert grown(rss_mib=[*[100.0] * 5, 900.0, 100.0, 100.0, *[150.0] * 8]) == {"rss_mib"}
