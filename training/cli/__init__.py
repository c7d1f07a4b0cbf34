"""The command line `stream-training`, one command a file. Exit codes: 0 done, 1 failed, 2 refused (one line with the
fix), 130 interrupted, 143 terminated.

Data goes to standard output, all else to standard error. What a command does is in the modules it calls,
loaded only then.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

import click

from stream_classifier.errors import ConfigError, StreamClassifierError
from training.cli import (
    adapt,
    augment,
    calibrate,
    compare,
    convert,
    cross_validate,
    data,
    distill,
    evaluate,
    export,
    fit,
    quantize,
    report,
    thresholds,
)
from training.cli.options import examples
from training.cli.sections import CommandGroup
from training.interrupts import Interrupted

__all__ = ["cli", "main"]

_EXTRA = frozenset({"accelerate", "datasets", "matplotlib", "pyarrow", "scipy", "sklearn", "tqdm"})
"""What the extra `training` installs, as it is imported."""
_NOTHING_WRITTEN = "interrupted: nothing was written"


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # nothing forks here; unset, tokenizers warns as if it did
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(prog_name="stream-training", standalone_mode=False) or 0
    except click.ClickException as error:
        click.echo(f"error: {_one_line(error)}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt) as error:  # click makes an Abort of what it catches
        cause = error.__cause__ if isinstance(error, click.Abort) else error
        signum = getattr(cause, "signum", signal.SIGINT)
        click.echo(str(cause or "") or _NOTHING_WRITTEN, err=True)
        code = 128 + signum
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        click.echo(f"error: {package} is not installed; pip install 'stream-classifier[training]'", err=True)
        code = 2
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        code = 2
    except OSError as error:
        fix = "; free some space, and give the same command again" if error.errno == errno.ENOSPC else ""
        click.echo(f"error: {error}{fix}", err=True)
        code = 1
    except StreamClassifierError as error:
        click.echo(f"error: {error}", err=True)
        code = 1
    sys.exit(code)


@click.group(
    cls=CommandGroup,
    epilog=examples(
        "stream-training fit support.csv --task intent --out models/intent",
        "stream-training evaluate models/intent test.csv --json",
        "stream-training calibrate models/intent validation.csv",
        "stream-training thresholds models/intent validation.csv --precision 0.95",
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
)
@click.version_option(package_name="stream-classifier")
def cli() -> None:
    """Makes and measures the models that stream-classifier serves."""


for _module in (
    adapt,
    augment,
    calibrate,
    compare,
    convert,
    cross_validate,
    data,
    distill,
    evaluate,
    export,
    fit,
    quantize,
    report,
    thresholds,
):
    cli.add_command(_module.command)


def _one_line(error: click.ClickException) -> str:
    """What is wrong with the arguments, and where the right ones are listed."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = " ".join(error.format_message().split()).rstrip(".")
    return message if context is None else f"{message}; see {context.command_path} --help"


def _terminate(signum: int, frame: object) -> None:
    raise Interrupted(_NOTHING_WRITTEN, signum)
