"""Help in sections, as a command with forty options is read like a page and not like a list; groups that know what was
meant.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import click

from stream_classifier.errors import no_command

__all__ = ["CommandGroup", "SectionedCommand", "SectionedOption"]


class CommandGroup(click.Group):
    """A group that names the command that a misspelt one was meant to be."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuses a command that there is not."""
        if args[0] not in self.commands:
            ctx.fail(no_command(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


class SectionedOption(click.Option):
    """An option that stands in a section of the help.

    Args:
        section: its heading; options without one stand under "Options", at the end.
    """

    def __init__(self, *arguments: Any, section: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help has its options in sections, in the order of the first option of each."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options, a list a section."""
        sections: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                sections[getattr(parameter, "section", "Options")].append(record)
        others = sections.pop("Options")
        for title, records in (*sections.items(), ("Options", others)):
            with formatter.section(title):
                formatter.write_dl(records)
