"""A click group whose commands are imported when they are needed, and the examples that end every --help."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from stream_classifier.errors import no_command

__all__ = ["LazyGroup", "examples"]


class LazyGroup(click.Group):
    """A group with a table of commands instead of the commands.

    Args:
        commands_at: name → "module:attribute", in the order of --help.
    """

    def __init__(self, *args: Any, commands_at: Mapping[str, str], **kwargs: Any) -> None:
        kwargs.setdefault("no_args_is_help", False)  # the help as an error is no line
        super().__init__(*args, **kwargs)
        self._commands_at = commands_at

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._commands_at:
            ctx.fail(no_command(name, self._commands_at))
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._commands_at:
            return None
        module, _, attribute = self._commands_at[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def examples(*lines: str) -> str:
    """An epilog for click: the lines as they are, under a heading."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
