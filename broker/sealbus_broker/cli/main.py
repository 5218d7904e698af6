"""``sealbus``, the command line for operators. Data goes to stdout, and messages for people to
stderr.

``sealbus_broker.cli.shared.errors`` has the exit codes.
"""

from __future__ import annotations

import gc
import io
import sys
from importlib import import_module
from typing import Any, Final

import click

from sealbus.errors import SealbusError, hide_seeds
from sealbus_broker.cli.shared.errors import (
    CommandStopped,
    ReaderGone,
    exit_code,
    known_error,
)
from sealbus_broker.cli.shared.options import finish_command, usage_row, wants_json
from sealbus_broker.cli.shared.talk import say_error
from sealbus_broker.escape import json_line

_MODULES: Final = {
    "backup": "copies.backup",
    "bot": "joining.bot",
    "certs": "preparing.certs",
    "check": "preparing.check",
    "init": "preparing.init",
    "inspect": "messages.inspect",
    "invite": "joining.invite",
    "invites": "joining.invites",
    "join": "joining.join",
    "keys": "keys.keys",
    "mirror": "copies.mirror",
    "ping": "watching.ping",
    "prepare": "preparing.prepare",
    "pub": "messages.bots",
    "quarantine": "watching.quarantine",
    "relay": "running.serve",
    "reload": "watching.reload",
    "request": "messages.bots",
    "restore": "copies.backup",
    "sub": "messages.bots",
    "subscriptions": "watching.subscriptions",
    "up": "running.serve",
}
"""Each command, and the module that has its function: its room in this package, and its name."""


class _Commands(click.Group):
    """Imports the module of a command when it is asked for.

    ``sealbus pub`` needs neither the relay nor the JSON Schemas. Importing their libraries takes as
    long as everything else together.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click calls it so
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _MODULES and cmd_name not in self.commands:
            command: click.Command = getattr(
                import_module(f"sealbus_broker.cli.{_MODULES[cmd_name]}"), cmd_name
            )
            if not gc.isenabled():  # a process of the command's own: all its imports are done
                gc.freeze()
                gc.enable()
            finish_command(command, cmd_name)
            self.add_command(command)
        return super().get_command(ctx, cmd_name)


@click.group(
    cls=_Commands,
    # No auto_envvar_prefix: finish_command() names the variables of options. With the prefix,
    # SEALBUS_VERSION=1 would have every command print the version, and do nothing else.
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="sealbus", prog_name="sealbus", message="%(prog)s %(version)s")
def cli() -> None:
    """A message bus on NATS on which no bot can impersonate another.

    The environment can give each option too, as SEALBUS_<COMMAND>_<OPTION>. SEALBUS_DIR
    holds for each command with --dir but init, and SEALBUS_CREDENTIALS for each with --credentials.
    """


def main() -> int:
    """Run the command line; return the exit code."""
    try:
        result = _run()
    except click.ClickException as error:
        told = io.StringIO()
        error.show(told)
        click.echo(hide_seeds(told.getvalue()), nl=False, err=True)
        return error.exit_code
    except click.Abort as abort:
        if isinstance(abort.__cause__ or abort.__context__, EOFError):
            click.echo("error: there is nobody to answer the question", err=True)
            return 1
        click.echo("stopped", err=True)
        return 130
    except Exception as error:
        known = known_error(error)
        if known is None:
            raise
        return _exit_code(known)
    return result if isinstance(result, int) else 0


def _run() -> Any:
    """Run the command line. With ``--json``, a wrong one is an object on stdout too."""
    try:
        return cli.main(prog_name="sealbus", standalone_mode=False)
    except click.UsageError as error:
        if wants_json(error.ctx, sys.argv[1:]):
            click.echo(json_line(usage_row(error)))
        raise


def _exit_code(error: SealbusError | CommandStopped | ReaderGone) -> int:
    """Print ``error``, unless it is not one, and return its exit code."""
    if isinstance(error, ReaderGone):
        return 0
    if isinstance(error, CommandStopped):
        click.echo("stopped", err=True)
        return 128 + error.signal
    say_error(error)
    return exit_code(error)
