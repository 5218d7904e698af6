"""The bus's folder as the commands find and use it.

Each fact has one place. The bus's name, its addresses and its public keys are in ``bus.toml``, and
every command reads them there. If the private keys in ``.sealbus`` or the credentials of a bot
disagree with it, the command says so at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sealbus.credentials import Credentials
from sealbus.errors import CredentialsError, InvalidInput
from sealbus.file_hints import file_hint
from sealbus.nats.addresses import ENCRYPTED, PLAIN, is_encrypted
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.keys import PublicKey
from sealbus.protocol.subjects import check_name
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import reading
from sealbus_broker.cli.shared.talk import ON_STDERR, Talk
from sealbus_broker.escape import readable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.policy.bus_file import (
    FILE,
    PORT,
    BusFile,
    address,
    lacks_place,
    other_bus,
    other_place,
    read_bus_file,
    write_bus_file,
)
from sealbus_broker.policy.problems import Problem, nearest
from sealbus_broker.policy.replace import alone
from sealbus_broker.relay.secrets import BusSecrets

if TYPE_CHECKING:
    from sealbus_broker.policy.loader import Loaded
    from sealbus_broker.policy.watching import WatchedFolder

SERVER: Final = f"nats://127.0.0.1:{PORT}"
"""The address of a bus if no other is given."""

RENEW_ELSEWHERE: Final = f"renew it at the authority that made it; {FILE} names the file"
"""The hint about a certificate that ``sealbus certs`` has not made. It refuses to renew it."""

_ANY_ADDRESS: Final = ("0.0.0.0", "::", "")  # noqa: S104  # compared with, never listened on


@dataclass(frozen=True, slots=True)
class BusFolder:
    """The folder of one bus."""

    path: Path
    talk: Talk = field(default=ON_STDERR, compare=False, repr=False)

    @classmethod
    def find(cls, given: str | None, talk: Talk = ON_STDERR) -> BusFolder:
        """``given``, or the current folder, or the one bus directly below it.

        A hidden folder, such as a copy that somebody put away, is not looked at.
        """
        here = Path(given or ".")
        try:
            if (here / "policy.yaml").exists():
                return cls(here, talk)
            found = here.glob("*/policy.yaml") if given is None else ()
            below = sorted(path.parent for path in found if not path.parent.name.startswith("."))
        except (OSError, ValueError) as error:  # ValueError: a path with NUL in it
            why = getattr(error, "strerror", None) or "not a path"
            raise Unusable(
                f"{readable(str(here), 300)} cannot be read: {why}", hint=file_hint(error)
            ) from None
        if len(below) == 1:
            talk.say(f"using the bus in {readable(str(below[0]), 300)}")
            return cls(below[0], talk)
        if below:
            names = readable(", ".join(str(path) for path in below), 300)
            raise Unusable(
                f"there are {len(below)} buses in this folder: {names}",
                hint="choose one with --dir",
            )
        raise Unusable(
            f"there is no policy.yaml in {readable(str(here), 300) if given else 'this folder'}",
            hint="make a bus with `sealbus init NAME`, or name its folder with --dir",
        )

    @property
    def state(self) -> Path:
        """The private folder: seeds, and files of the server."""
        return self.path / ".sealbus"

    @property
    def secrets_file(self) -> Path:
        """The file of the bus's own keys."""
        return self.state / "relay.toml"

    def credentials(self, bot: str) -> Path:
        """The file with a bot's credentials."""
        return self.path / "credentials" / f"{bot}.toml"

    # ---- the bus as the folder describes it ------------------------------------------------------

    def bus_file(self) -> BusFile | None:
        """The content of ``bus.toml``, or ``None`` if it does not exist.

        Raises :class:`Unusable` if it has a problem.
        """
        problems: list[Problem] = []
        found = read_bus_file(self.path, problems)
        if problems:
            raise Unusable(str(problems[0]), hint="`sealbus check` lists everything")
        return found

    def servers(self, given: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The addresses of the bus: ``given`` on the command line, or of ``bus.toml``, or this
        machine.
        """
        if given:
            return given
        known = self.bus_file()
        return known.servers if known is not None else (SERVER,)

    def policy(self, bus_key: PublicKey | None = None) -> Policy:
        """The policy of this folder. Reports every note, and every problem."""
        from sealbus_broker.policy.loader import (
            load,
        )  # few commands need it, and its JSON Schema libraries load slowly

        return self._usable(load(self.path, frozenset([bus_key] if bus_key is not None else [])))

    def followed(self, bus_key: PublicKey) -> tuple[Policy, WatchedFolder]:
        """The policy, as :meth:`policy` gives it, and the folder as a relay follows it.

        A relay reads the folder once more when it is connected. So both readings share the files,
        of which a large bus has a thousand.
        """
        from sealbus_broker.policy.watching import WatchedFolder  # as in policy()

        watched = WatchedFolder(self.path.resolve(), frozenset([bus_key]))
        return self._usable(watched.load()), watched

    def _usable(self, loaded: Loaded) -> Policy:
        for one in loaded.notes:
            self.talk.note(str(one))
        if loaded.policy is None:
            for problem in loaded.problems:
                self.talk.problem(str(problem))
            count = len(loaded.problems)
            raise Unusable(
                f"{count} {'problem' if count == 1 else 'problems'} in {self.path}",
                hint="nothing was done; repair them, `sealbus check` lists them",
            )
        return loaded.policy

    def own_tls(self) -> TlsFiles | None:
        """The certificates of the bus itself: those that ``bus.toml`` names, or those of
        ``sealbus certs``. ``None`` if it has none. They need not be usable."""
        known = self.bus_file()
        if known is not None and known.tls is not None:
            return TlsFiles(
                self.path / known.tls.ca, self.path / known.tls.cert, self.path / known.tls.key
            )
        made = TlsFiles(self.state / "ca.pem", self.state / "bus.pem", self.state / "bus.key")
        try:
            return made if (self.state / "bus.pem").exists() else None
        except PermissionError:
            # The bus's own keys are in the same folder. Whoever reads those tells it better.
            return None

    def tls_copies(self) -> list[Path]:
        """The copies of the bus's own certificate, for nodes of a cluster and for a second site.

        Raises :class:`OSError` if a folder cannot be read.
        """
        nodes = sorted((self.state / "nodes").glob("*/bus.pem"))
        return [*nodes, *self.state.glob("second-site/bus.pem")]

    def tls(self, servers: tuple[str, ...] = ()) -> TlsFiles | None:
        """The certificates for connections to ``servers``, by default to those of the bus.

        ``None`` for servers without TLS, and for a bus without certificates of its own: then those
        of the system hold.
        """
        return self.own_tls() if is_encrypted(self.servers(servers)[0]) else None

    # ---- the bus's own keys ----------------------------------------------------------------------

    def secrets(self) -> BusSecrets:
        """The bus's own keys.

        Raises if they are missing, or are not those that ``bus.toml`` names.
        """
        known = self.bus_file()
        if known is not None and not self.has_secrets():
            raise self._elsewhere(known, "")
        secrets = BusSecrets.load(self.secrets_file)
        if known is not None and not {*secrets.publics} & {*known.bus_keys}:
            raise Unusable(
                f"{self.state / 'relay.toml'} holds the bus key {secrets.bus.public.text},"
                f" and {FILE} names {' '.join(key.text for key in known.bus_keys)}",
                hint=f"put back the file of this bus, or write the other key into {FILE}",
            )
        return secrets

    def open_secrets(self, *, new_keys: bool = False) -> BusSecrets:
        """The bus's own keys, made if this bus has none yet. Only commands that start a bus use it.

        If ``bus.toml`` names a key, the bus has one on another machine: a clone of the folder is
        not a new bus. Then keys are made only with ``new_keys``, and every older credentials file
        stops working.
        """
        known = self.bus_file()
        if self.has_secrets():
            return self.secrets()
        if known is not None and not new_keys:
            raise self._elsewhere(
                known, "; or make a new bus with --new-keys: present credentials will not work then"
            )
        path = self.secrets_file
        secrets = BusSecrets.generate()
        secrets.write(path)
        self.talk.say(f"made the bus's own keys: {path} (keep it secret, keep a copy)")
        if known is not None:
            made_ms = int(time.time()) * 1000
            own = (secrets.bus.public,)
            self.record(lambda now: replace(now or known, bus_keys=own, made_ms=made_ms, links=()))
        return secrets

    def check_before_keys(self) -> None:
        """Raise :class:`Unusable` if a command would make the bus's own keys, and the folder has a
        problem.

        Keys of a bus that does not start are of no use, and with ``new_keys`` the folder would be
        another bus from then on. No key of a bot can be a key that does not exist yet, so the check
        needs none.
        """
        from sealbus_broker.policy.loader import load  # as in policy()

        if not self.has_secrets() and (loaded := load(self.path)).policy is None:
            self._usable(loaded)

    def has_secrets(self) -> bool:
        """Whether the bus's own keys are here, and not in another copy of the folder."""
        path = self.secrets_file
        with reading(path):
            return path.exists() or path.is_symlink()

    def _elsewhere(self, known: BusFile, other: str) -> Unusable:
        path = self.secrets_file
        return Unusable(
            f"{FILE} names the bus key {' '.join(key.text for key in known.bus_keys)},"
            f" and its private half is not in {path}",
            hint=f"copy {path.name} from the machine where the bus runs{other}",
        )

    def record(self, change: Callable[[BusFile | None], BusFile]) -> None:
        """Change ``bus.toml``, say so, and name the credentials in this folder that no longer fit.

        ``change`` gets the present content, and not what the command has read at its beginning.
        Another command may have changed the file since. A file that cannot be written, as in a
        container, is no error: its content is printed instead.
        """
        path = self.path / FILE
        bus = None
        try:
            with alone(self.path):
                bus = change(self.bus_file())
                if write_bus_file(self.path, bus):
                    self.talk.say(f"wrote {path}: the bus {bus.name} at {', '.join(bus.servers)}")
        except OSError as error:
            bus = bus or change(self.bus_file())
            told = bus.text().split("\n", maxsplit=1)[1].rstrip()
            self.talk.note(
                f"{path} cannot be written: {error.strerror}. Its content should be:\n{told}"
            )
        except (InvalidInput, Unusable) as error:
            self.talk.note(f"{path}: {error.what}; {error.hint}")
        for one in [] if bus is None else self.strangers(bus):
            self.talk.note(str(one))

    def port(self, given: int | None) -> int:
        """The port of a server of this bus: ``given``, or that of ``bus.toml``."""
        return given or address(self.servers()[0])[1]

    # ---- credentials -----------------------------------------------------------------------------

    def credential_files(self) -> list[Path]:
        """The files with credentials in this folder, without an editor's hidden copies.

        Raises :class:`OSError` if there is a folder for them that cannot be read.
        """
        try:
            files = sorted((self.path / "credentials").iterdir())
        except FileNotFoundError:
            return []
        return [one for one in files if one.suffix == ".toml" and not one.name.startswith(".")]

    def strangers(self, bus: BusFile) -> list[Problem]:
        """The credentials in this folder that name another address or another bus than ``bus``, or
        not all its addresses.

        Each has the reason.
        """
        found: list[Problem] = []
        try:
            files = self.credential_files()
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            return [Problem("credentials", 0, 0, what, hint=file_hint(error))]
        for file in files:
            shown = f"credentials/{readable(file.name, 100)}"
            try:
                one = Credentials.load(file, unlock=False)
            except CredentialsError as error:
                found.append(Problem(shown, 0, 0, error.what, hint=error.hint))
                continue
            if one.bot != file.stem:
                hint = f"commands that say `--as {one.bot}` do not find it: name it {one.bot}.toml"
                found.append(
                    Problem(
                        shown, 0, 0, f"holds the credentials of another bot, {one.bot}", hint=hint
                    )
                )
            if (why := other_bus(bus, one)) is not None:
                hint = f"move the file away and run `sealbus keys new {one.bot}`"
                found.append(Problem(shown, 0, 0, f"is {why}", hint=hint))
            elif other_place(bus, one.servers):
                what = f"names another address: {', '.join(one.servers)}"
                hint = "bots with this file connect there: change `servers` in it"
                found.append(Problem(shown, 0, 0, what, expected=", ".join(bus.servers), hint=hint))
            elif lacks_place(bus, one.servers):
                what = f"names not all nodes of the bus: {', '.join(one.servers)}"
                hint = "bots with this file do not find the other nodes: change `servers` in it"
                if is_encrypted(bus.servers[0]) and bus.tls is None:
                    hint += ", or say `sealbus certs init`"
                found.append(Problem(shown, 0, 0, what, expected=", ".join(bus.servers), hint=hint))
        return found

    def speak_as(self, bot: str, given: tuple[str, ...] = ()) -> Credentials:
        """The credentials of ``bot`` in this folder, for this bus, with its address."""
        path = self.credentials(check_name(bot))
        try:
            credentials = Credentials.load(path)
        except CredentialsError:
            if (near := self._misspelt(bot)) is None:
                raise
            raise CredentialsError(
                f"there are no credentials of {bot} in {path.parent}", hint=near
            ) from None
        if credentials.bot != bot:
            raise CredentialsError(
                f"{path} holds the credentials of {credentials.bot}, not of {bot}",
                hint=f"speak as {credentials.bot} with --credentials {path}, or replace the file",
            )
        bus = self.bus_file()
        elsewhere = bus is not None and self._is_elsewhere(path, credentials, bus)
        if given:
            return replace(credentials, servers=given)
        if bus is None or not elsewhere:
            return credentials
        if is_encrypted(credentials.servers[0]) and not is_encrypted(bus.servers[0]):
            self.speak_with(path, credentials)  # and keep TLS: no file of the folder can remove it
            return credentials
        self.talk.note(
            f"{path} names another address than {FILE}: {', '.join(credentials.servers)};"
            f" using {', '.join(bus.servers)}"
        )
        return replace(credentials, servers=bus.servers)

    def speak_with(self, path: Path, credentials: Credentials) -> None:
        """Print a note if ``credentials`` from ``path`` name another address than ``bus.toml``."""
        bus = self.bus_file()
        if bus is not None and self._is_elsewhere(path, credentials, bus):
            self.talk.note(
                f"{path} names another address than {FILE}: {', '.join(credentials.servers)},"
                f" and not {', '.join(bus.servers)}"
            )

    def _is_elsewhere(self, path: Path, credentials: Credentials, bus: BusFile) -> bool:
        """Whether the credentials name another address. Raises if they are of another bus."""
        if (why := other_bus(bus, credentials)) is not None:
            raise CredentialsError(
                f"{path} is {why}",
                hint=f"move the file away and run `sealbus keys new {credentials.bot}`",
            )
        return other_place(bus, credentials.servers)

    def _misspelt(self, bot: str) -> str | None:
        """The hint ``did you mean x?`` if only a file with a similar name exists."""
        try:
            known = [
                path.stem
                for path in (self.path / "credentials").iterdir()
                if path.suffix == ".toml"
            ]
        except OSError:
            return None
        return nearest(bot, known) if bot not in known else None


def found_at(
    known: BusFile | None,
    name: str,
    bus_key: PublicKey,
    host: str | None,
    port: int | None,
    *,
    tls: bool = False,
) -> BusFile:
    """``bus.toml`` for a server that listens on ``host`` and ``port``.

    Args:
        known: The present content. ``None``: there is no file.
        name: The name of the bus, for a new file.
        bus_key: The key of the bus, for a new file.
        host: The address of the server. ``None``: the present one.
        port: Its port. ``None``: the present one.
        tls: Whether the addresses become ``tls://``.
    """
    if known is None:
        scheme = ENCRYPTED if tls else PLAIN
        return BusFile(name, (_url(scheme, host or "127.0.0.1", port or PORT),), (bus_key,))
    if tls:
        known = encrypted(known)
    first = urlsplit(known.servers[0])
    was_host, was_port = address(known.servers[0])
    local = was_host in ("127.0.0.1", "::1")
    now_host = host if host and host not in _ANY_ADDRESS and local else was_host
    if (now_host, port or was_port) == (was_host, was_port):
        return known
    return replace(known, servers=(_url(first.scheme, now_host, port or was_port),))


def encrypted(bus: BusFile) -> BusFile:
    """``bus`` with ``tls://`` in each address."""
    return replace(
        bus, servers=tuple(f"{ENCRYPTED}://{one.split('://', 1)[1]}" for one in bus.servers)
    )


def _url(scheme: str, host: str, port: int) -> str:
    shown = "127.0.0.1" if host in _ANY_ADDRESS else host
    return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"
