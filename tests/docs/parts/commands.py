"""Makes the parts of ``docs/commands.md``: commands, exit codes, and the rows of ``pub``."""

from __future__ import annotations

import inspect

import click

from sealbus_broker.cli.main import cli
from sealbus_broker.cli.messages.bulk import ROW
from sealbus_broker.cli.shared.errors import EXIT_CODES
from sealbus_broker.cli.shared.options import all_commands, environment_names
from tests.docs.parts.markdown import COLUMNS, fenced, wrapped


def exit_codes() -> str:
    """The exit codes of the commands."""
    return "\n".join(wrapped(f"**{code}**: {told}", "- ") for code, told in EXIT_CODES.items())


def pub_row() -> str:
    """The fields of a row that ``sealbus pub`` reads."""
    return "\n".join(wrapped(f"**`{name}`**: {told}", "- ") for name, told in ROW.items())


def commands() -> str:
    """Each command: its usage, its help text, and its options with their environment variables."""
    parts = []
    for words, command in sorted(all_commands(cli)):
        context = click.Context(command, info_name=" ".join(("sealbus", *words)))
        usage = command.get_usage(context).removeprefix("Usage: ")
        parts.append(f"### sealbus {' '.join(words)}")
        parts.append(fenced(usage, "text"))
        parts.extend(_paragraphs(command.help or ""))
        options = [
            _option(context, words, option)
            for option in command.params
            if isinstance(option, click.Option) and not option.hidden
        ]
        if options:
            parts.append("\n".join(options))
    return "\n\n".join(parts)


def _paragraphs(told: str) -> list[str]:
    return [wrapped(" ".join(part.split())) for part in inspect.cleandoc(told).split("\n\n")]


def _option(context: click.Context, words: tuple[str, ...], option: click.Option) -> str:
    """An item of a list: the option's spelling, its environment variables, and its meaning."""
    record = option.get_help_record(context)
    assert record is not None
    spelled, told = record
    meaning = " ".join(told.split())
    if isinstance(option.type, click.Choice) and len(spelled) > COLUMNS // 2:
        spelled = f"{', '.join(option.opts)} {(option.name or '').upper()}"
        meaning += f" One of {', '.join(f'`{choice}`' for choice in option.type.choices)}."
    names = " or ".join(f"`{name}`" for name in environment_names(words, option))
    return wrapped(f"**`{spelled}`** ({names}): {meaning}", "- ")
