"""The options that say which bus a command uses, its address, and the bot that speaks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput
from sealbus.key_places import PLACES
from sealbus.nats.addresses import check_servers
from sealbus_broker.cli.shared.folder import SERVER, BusFolder

F = TypeVar("F", bound=Callable[..., Any])

_IN_ENVIRONMENT: Final = tuple(f"SEALBUS_{name.upper()}" for name in (*PLACES, "token_file"))
"""The environment holds credentials if it has one of these: a place of the key, or a token."""

_SERVERS: Final = "sealbus.servers"
"""The place in which the addresses of ``--server`` wait for the command that speaks as a bot."""


def _checked(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    servers = tuple(one.strip() for text in given for one in text.split(",") if one.strip())
    try:
        return check_servers(servers)
    except InvalidInput as error:
        raise click.BadParameter(f"{error.what.removeprefix('servers: ')}, {error.hint}") from None


def _kept(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> None:
    context.meta[_SERVERS] = _checked(context, parameter, given)


def server_option(command: F) -> F:
    """``--server``: an address of the bus, instead of that in ``bus.toml``."""
    return _server_option("from bus.toml")(command)


def new_server_option(command: F) -> F:
    """``--server``: the address of a bus that has no ``bus.toml`` yet."""
    return _server_option(SERVER)(command)


def written_server_option(command: F) -> F:
    """``--server``: an address that is written into credentials or a token. Nobody connects."""
    return _server_option("from bus.toml", "Address of NATS for the bot")(command)


def _server_option(default: str, what: str = "Address of NATS") -> Callable[[F], F]:
    return click.option(
        "--server",
        "--servers",
        "servers",
        multiple=True,
        metavar="URL",
        callback=_checked,
        help=f"{what}. May be repeated. [default: {default}]",
    )


def new_keys_option(command: F) -> F:
    """``--new-keys``: a clone of a folder becomes a new bus."""
    return click.option(
        "--new-keys",
        is_flag=True,
        help="Make new bus keys, although bus.toml names others. The folder becomes a new bus.",
    )(command)


def dir_option(command: F) -> F:
    """``--dir``: the bus's folder."""
    return click.option(
        "--dir",
        "folder",
        envvar="SEALBUS_DIR",
        metavar="DIR",
        help="Folder of the bus. [default: this folder, or the one bus in it]",
    )(command)


def bot_options(command: F, default: str | None = None) -> F:
    """``--as``, ``--credentials`` and ``--server``: the bot that speaks, and the address.

    ``default`` is the bot that :func:`find_credentials` gets as its default.
    """
    command = click.option(
        "--server",
        "--servers",
        "servers",
        multiple=True,
        metavar="URL",
        expose_value=False,
        callback=_kept,
        help="Address of NATS. May be repeated. [default: from bus.toml or the credentials file]",
    )(command)
    shown = f" [default: {default}]" if default is not None else ""
    command = click.option(
        "--as", "bot", metavar="BOT", help=f"Speak as BOT, with DIR/credentials/BOT.toml.{shown}"
    )(command)
    command = click.option(
        "--credentials",
        "-c",
        envvar="SEALBUS_CREDENTIALS",
        metavar="FILE",
        help="Speak with this credentials file.",
    )(command)
    return dir_option(command)


def find_credentials(
    folder: str | None, bot: str | None, credentials: str | None, default: str | None = None
) -> Credentials:
    """The credentials that a command uses.

    They are those of ``--as`` or ``--credentials``, of the environment, or of ``default`` in the
    folder, in this order. If the command line names the folder, the environment is not asked for
    credentials.
    """
    given: tuple[str, ...] = click.get_current_context().meta.get(_SERVERS, ())
    if bot is not None and _is_typed("credentials"):
        if _is_typed("bot"):
            raise click.UsageError("--as and --credentials both name who speaks: use one of them")
        bot = None
    # Variables that somebody set for one bus may not lead a command about another bus to it.
    if bot is None and _is_typed("folder") and not _is_typed("credentials"):
        if default is None:
            raise click.UsageError("--dir names no bot: add --as BOT")
        bot = default
    if bot is not None:
        return BusFolder.find(folder).speak_as(bot, given)
    if credentials is not None:
        path = Path(credentials)
        found = Credentials.load(credentials)
        home = path.resolve().parent
        if home.name == "credentials" and not given:
            BusFolder(home.parent).speak_with(path, found)
    elif any(os.environ.get(name) for name in _IN_ENVIRONMENT):
        found = Credentials.from_environment()
    elif default is not None:
        return BusFolder.find(folder).speak_as(default, given)
    else:
        raise click.UsageError("no credentials given: use --as BOT, or --credentials FILE")
    return replace(found, servers=given) if given else found


def _is_typed(parameter: str) -> bool:
    """Whether the command line has the parameter itself, and not a variable of the environment."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is ParameterSource.COMMANDLINE
