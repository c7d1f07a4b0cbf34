"""The gate on the command line, for the commands that compress a model: its limits as options, its findings shown."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from training.cli.sections import SectionedOption
from training.cli.show import percent
from training.parity_limits import ParityLimits

if TYPE_CHECKING:
    from training.parity import Parity

__all__ = ["limits_options", "show_parity"]

_SECTION = "What may be lost"


def limits_options(defaults: ParityLimits) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that make a ParityLimits; the command gets it as one argument, `limits`."""
    helps = {
        "min_agreement": "Share of the texts that must get the same label, and where both models have a rejection rule "
        "be rejected by both or neither; 0: not compared.",
        "max_accuracy_loss": "Most accuracy that may be lost, as the upper 95 % bound.",
        "max_ece_rise": "Most that the calibration error may rise.",
        "max_coverage_loss": "Most coverage that may be lost at the stored thresholds.",
        "min_speedup": "Texts per CPU second, against what serves without it; 0: no matter.",
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_limits(**options: Any) -> Any:
            limits = ParityLimits(**{name: options.pop(name) for name in helps})
            return command(limits=limits, **options)

        for name, text in reversed(helps.items()):
            with_limits = click.option(
                f"--{name.replace('_', '-')}",
                type=float,
                default=getattr(defaults, name),
                show_default=True,
                cls=SectionedOption,
                section=_SECTION,
                help=text,
            )(with_limits)
        return with_limits

    return decorate


def show_parity(parity: Parity) -> None:
    """The two models beside each other, and the verdict."""
    old, new = parity.before, parity.after
    rows = [
        ("accuracy", percent(old.accuracy, 2), percent(new.accuracy, 2)),
        ("calibration error", percent(old.ece, 2), percent(new.ece, 2)),
        ("negative log-likelihood", f"{old.nll:.4f}", f"{new.nll:.4f}"),
    ]
    what = "labels"
    if min(old.coverage, new.coverage) < 1:
        rows += [
            ("accepted by the thresholds", percent(old.coverage, 2), percent(new.coverage, 2)),
            ("right of these", percent(old.precision, 2), percent(new.precision, 2)),
        ]
    if old.rejected is not None and new.rejected is not None:
        rows.append(("rejected as out of scope", percent(old.rejected, 2), percent(new.rejected, 2)))
        what = "labels and rejections"
    rows += [
        ("size of the weights", f"{old.size_bytes / 2**20:.1f} MiB", f"{new.size_bytes / 2**20:.1f} MiB"),
        (
            f"texts/s ({old.backend} {old.dtype}, {new.backend} {new.dtype})",
            f"{old.texts_per_s:.0f}",
            f"{new.texts_per_s:.0f}",
        ),
        ("texts per CPU second", f"{old.texts_per_cpu_s:.0f}", f"{new.texts_per_cpu_s:.0f} ({parity.speedup:.2f} ×)"),
    ]
    width = max(len(title) for title, _, _ in rows)
    click.echo(f"{f'{parity.n} rows':<{width}}  {'before':>10}  after")
    for title, before, after in rows:
        click.echo(f"{title:<{width}}  {before:>10}  {after}")
    change, bound = -100 * parity.accuracy_loss, max(0.0, 100 * parity.accuracy_loss_bound)
    click.echo(
        f"\n{100 * parity.agreement:.2f} % of the {what} are the same; accuracy changes by {change:+.2f} points, "
        f"and with 95 % certainty is not lower by more than {bound:.2f}"
    )
    click.echo("it passes" if parity.passed else "it does not pass:\n" + "\n".join(f"  - {r}" for r in parity.reasons))
