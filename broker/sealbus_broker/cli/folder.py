"""The bus's folder as the commands find and use it, and the options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from sealbus.credentials import Credentials
from sealbus.errors import CredentialsError, SealbusError
from sealbus.keys import PublicKey
from sealbus_broker.gate.policy import Policy
from sealbus_broker.policy.loader import load
from sealbus_broker.relay.secrets import BusSecrets

F = TypeVar("F", bound=Callable[..., Any])

SERVER: Final = "nats://127.0.0.1:4222"


class Unusable(SealbusError):
    """The folder is not one that this command can work with."""


@dataclass(frozen=True, slots=True)
class BusFolder:
    """Where one bus's files are."""

    path: Path

    @classmethod
    def find(cls, given: str | None) -> BusFolder:
        """``given``, or this folder, or the one bus that lies directly in it."""
        here = Path(given or ".")
        if (here / "policy.yaml").exists():
            return cls(here)
        if given is None:
            below = sorted(path.parent for path in here.glob("*/policy.yaml"))
            if len(below) == 1:
                click.echo(f"using the bus in {below[0]}", err=True)
                return cls(below[0])
        raise Unusable(
            f"there is no policy.yaml in {here if given else 'this folder'}",
            hint="make a bus with `sealbus init NAME`, or name its folder with --dir",
        )

    @property
    def state(self) -> Path:
        """Private: seeds, the server's files."""
        return self.path / ".sealbus"

    def credentials(self, bot: str) -> Path:
        """Where a bot's credentials are kept."""
        return self.path / "credentials" / f"{bot}.toml"

    def secrets(self) -> BusSecrets:
        """The bus's own keys; made if there are none yet."""
        path = self.state / "relay.toml"
        if not path.exists():
            BusSecrets.generate().write(path)
            click.echo(f"made the bus's own keys: {path} (keep it secret, keep a copy)", err=True)
        return BusSecrets.load(path)

    def policy(self, bus_key: PublicKey) -> Policy:
        """The policy of this folder; every problem is shown if there is any."""
        loaded = load(self.path, frozenset([bus_key]))
        for note in loaded.notes:
            click.echo(f"{click.style('note:', fg='yellow')} {note}", err=True)
        if loaded.policy is None:
            for problem in loaded.problems:
                click.echo(str(problem), err=True)
            raise Unusable(
                f"{len(loaded.problems)} problem(s) in {self.path}: nothing was started",
                hint="mend them; `sealbus check`",
            )
        return loaded.policy


def dir_option(command: F) -> F:
    """``--dir``: the bus's folder."""
    return click.option(
        "--dir",
        "folder",
        envvar="SEALBUS_DIR",
        metavar="DIR",
        help="The bus's folder. [default: here, or the one bus in here]",
    )(command)


def bot_options(command: F) -> F:
    """``--as`` and ``--credentials``: who speaks."""
    command = click.option("--as", "bot", metavar="BOT", help="Speak as BOT, with DIR/credentials/BOT.toml.")(command)
    command = click.option(
        "--credentials", "-c", envvar="SEALBUS_CREDENTIALS", metavar="FILE", help="Speak with this credentials file."
    )(command)
    return dir_option(command)


def find_credentials(
    folder: str | None, bot: str | None, credentials: str | None, default: str | None = None
) -> Credentials:
    """Whose credentials a command uses: ``--as``, ``--credentials``, the environment's, or ``default``'s in the bus's folder."""
    if bot is not None:
        return Credentials.load(BusFolder.find(folder).credentials(bot))
    if credentials is not None:
        return Credentials.load(credentials)
    if default is not None:
        return Credentials.load(BusFolder.find(folder).credentials(default))
    if os.environ.get("SEALBUS_SEED"):
        return Credentials.from_environment()
    raise CredentialsError("who speaks?", hint="say --as BOT, or --credentials FILE, or set SEALBUS_CREDENTIALS")
