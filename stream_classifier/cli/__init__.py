"""The command line: `stream-classifier`. One command a file, imported only when it is asked for or listed.

Data goes to stdout, all else to stderr. Exit codes: 0 done, 1 failed while running, 2 refused to start (one line: what,
the value, the fix), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from stream_classifier.cli.group import LazyGroup, examples
from stream_classifier.cli.output import ReaderGone, abandon_stdout, write
from stream_classifier.errors import ConfigError, StreamClassifierError

__all__ = ["COMMANDS", "main"]

PROGRAM = "stream-classifier"

COMMANDS = {
    "run": "stream_classifier.cli.run:command",
    "demo": "stream_classifier.cli.demo:command",
    "classify": "stream_classifier.cli.classify:command",
    "check": "stream_classifier.cli.check:command",
    "config": "stream_classifier.cli.config:command",
    "dead-letters": "stream_classifier.cli.dead_letters:command",
    "broker": "stream_classifier.cli.broker:command",
}
"""Name → module:attribute. The modules import nothing heavy at their top: --help reads all of them."""


@click.group(
    cls=LazyGroup,
    commands_at=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "stream-classifier run pipeline.toml",
        "stream-classifier classify models/intent messages.txt",
        "stream-classifier check pipeline.toml",
    ),
)
@click.version_option(package_name="stream-classifier", prog_name=PROGRAM)
def group() -> None:
    """Text classification on Kafka topics."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: what follows the program's name; sys.argv[1:] unless given.
    """
    try:
        code = group.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        write(b"")
    except click.exceptions.Abort:  # Ctrl-C, as click hands it on
        return 130
    except KeyboardInterrupt:
        return 130
    except ReaderGone:
        abandon_stdout()
        return 0
    except click.ClickException as error:
        return _refuse(f"{error.format_message().rstrip('.')}{_usage_hint(error)}")
    except ConfigError as error:
        return _refuse(str(error))
    except StreamClassifierError as error:
        print(f"{PROGRAM}: {_one_line(error)}", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


def _refuse(message: str) -> int:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _usage_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"; see {context.command_path} --help" if context is not None else ""
