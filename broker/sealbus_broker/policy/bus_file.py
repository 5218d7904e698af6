"""``bus.toml``: the name of the bus that a folder holds, where it is found, and the public keys
that its stamps verify with.

::

    name = "shop"                              # as in policy.yaml
    servers = ["nats://bus.example.com:4222"]
    bus_keys = ["N…"]                          # whose stamps bots believe

    made = "2026-11-24T08:00:00Z"              # not needed: when the first of its keys was made
    links = ["…"]                              # not needed: how its keys follow one another

    [tls]                                      # not needed: certificates of an authority elsewhere
    ca = "/etc/sealbus/ca.pem"
    cert = "/etc/sealbus/bus.pem"
    key = "/etc/sealbus/bus.key"

``sealbus keys rotate-bus`` writes ``links``. With them a command knows credentials that name an
older key of this bus.

It holds no secret and belongs in git: so every command, and every clone of the folder, knows the
bus without its private keys. It is no part of the policy's digest, because a bus that moves is
still judged by the same rules.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput, Malformed
from sealbus.nats.addresses import check_servers, is_encrypted
from sealbus.protocol.bus_keys import BusKeys
from sealbus.protocol.keyring import Link, check_chain, open_link
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.subjects import is_name
from sealbus.text_file import decode_text
from sealbus.trust import follow
from sealbus_broker.escape import readable
from sealbus_broker.policy.document import read_file
from sealbus_broker.policy.errors import InTheWay
from sealbus_broker.policy.links import FIELD, link_list, read_links
from sealbus_broker.policy.problems import Problem, nearest
from sealbus_broker.policy.reader import time_ms, time_text
from sealbus_broker.policy.replace import replace_file

FILE: Final = "bus.toml"

MAX_BUS_FILE_BYTES: Final = 16 * 1024
"""Largest file. It needs a few hundred bytes, and the rest is for comments."""

MAX_SERVERS: Final = 16
"""Most addresses of one bus. A NATS cluster has three or five."""

MAX_BUS_KEYS: Final = 4
"""Most keys: the one in use, the next one, and those of relays that still have the last one."""

PORT: Final = 4222
"""The port of nats-server if an address has none."""

_FIELDS: Final = ("name", "servers", "bus_keys", "made", "links", "tls")
_TLS_FIELDS: Final = ("ca", "cert", "key")


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """The bus's certificates, as paths relative to its folder."""

    ca: str
    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class BusFile:
    """The content of the file."""

    name: str
    servers: tuple[str, ...]
    bus_keys: tuple[PublicKey, ...]
    tls: TlsPaths | None = None
    """``None``: those of ``sealbus certs``, if there are any."""
    made_ms: int | None = None
    """When the first of its keys was made (ms since 1970), if that is known."""
    links: tuple[bytes, ...] = ()
    """The sealed links from each of its keys to the next."""

    @property
    def chain(self) -> tuple[Link, ...]:
        """The links, taken apart."""
        return tuple([open_link(link) for link in self.links])

    def trusted(self, pinned: frozenset[bytes]) -> BusKeys:
        """The keys that a bot trusts whose credentials name the ``pinned`` ones (raw)."""
        return follow(self.chain, pinned)

    def text(self) -> str:
        """The file's content."""
        return (
            "# The identity and the addresses of this bus. Nothing here is secret: commit it.\n"
            + "".join(f"{name} = {value}\n" for name, value in self._values().items())
            + self._tls_text()
        )

    def _tls_text(self) -> str:
        if self.tls is None:
            return ""
        lines = (f"{name} = {json.dumps(getattr(self.tls, name))}\n" for name in _TLS_FIELDS)
        return "\n[tls]\n" + "".join(lines)

    def _values(self) -> dict[str, str]:
        return {
            "name": json.dumps(self.name),
            "servers": json.dumps(list(self.servers)),
            "bus_keys": json.dumps([key.text for key in self.bus_keys]),
            **({} if self.made_ms is None else {"made": json.dumps(time_text(self.made_ms))}),
            **({FIELD: link_list(self.links)} if self.links else {}),
        }

    def put_into(self, text: str) -> str:
        """``text``, a sound file, with these values. Everything else stays, with the comments.

        Raises :class:`InvalidInput` if the file has a form that cannot be edited here.
        """
        values = self._values()
        for name, value in {FIELD: "[]", **values}.items():
            if (there := _entry(name, text)) is not None:
                text = f"{text[: there.start()]}{name} = {value}{text[there.end() :]}"
            elif name in values and (keys := _entry("bus_keys", text)) is not None:
                # Behind the line of the keys, because a table may follow.
                head, tail = text[: keys.end()], text[keys.end() :]
                rest, newline, tail = tail.partition("\n")
                text = f"{head}{rest}\n{name} = {value}{newline}{tail}"
        # Whatever the pattern found, the result has to read as these values and nothing else.
        try:
            good = _parsed(text) == self
        except (InvalidInput, tomllib.TOMLDecodeError):
            good = False
        if not good:
            wanted = ", ".join(f"{name} = {value}" for name, value in self._values().items())
            raise InTheWay(
                f"{FILE} is written in a form that is not edited here",
                hint=f"write there: {wanted}",
            )
        return text


def _entry(name: str, text: str) -> re.Match[str] | None:
    """The place of a text, or of a list of texts, which may take several lines."""
    form = rf'^{name}[ \t]*=[ \t]*("[^"\n]*"|\[\s*(?:"[^"\n]*"\s*(?:,\s*)?)*\])'
    return re.search(form, text, re.MULTILINE)


def read_bus_file(root: Path, problems: list[Problem]) -> BusFile | None:
    """The folder's ``bus.toml``, or ``None`` if it does not exist.

    After adding its problems to ``problems``, the result is ``None`` too.
    """
    # A link that leads nowhere does not exist for exists(). It is a problem, and not a missing
    # file.
    if not (root / FILE).exists() and not (root / FILE).is_symlink():
        return None
    content = read_file(root, FILE, MAX_BUS_FILE_BYTES)
    if isinstance(content, Problem):
        problems.append(content)
        return None
    text = ""
    try:
        text = decode_text(content)
        return _parsed(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        last = (
            text.count("\n") + 1,
            len(text) - text.rfind("\n"),
        )  # else it says "at end of document"
        line, column = (int(found[1]), int(found[2])) if found else last
        problems.append(
            Problem(
                FILE,
                line,
                column,
                "is not TOML",
                hint='the form is name = "shop", one line a value',
            )
        )
    except _Wrong as error:
        at = re.search(rf"^{re.escape(error.field)}\b", text, re.MULTILINE) if error.field else None
        line = text.count("\n", 0, at.start()) + 1 if at else 0
        problems.append(Problem(FILE, line, 1 if at else 0, error.what, hint=error.hint))
    except InvalidInput as error:
        problems.append(Problem(FILE, 0, 0, error.what, hint=error.hint))
    except (ValueError, RecursionError):  # a number too long, or nesting too deep, for Python
        problems.append(Problem(FILE, 0, 0, "is not TOML"))
    return None


def write_bus_file(root: Path, bus: BusFile) -> bool:
    """Write ``bus`` into ``bus.toml``. Return whether the file had to be changed.

    A caller that makes ``bus`` of the present content holds
    :func:`~sealbus_broker.policy.replace.alone` from its reading on.

    Raises :class:`InvalidInput` if the existing file cannot be edited, and ``OSError`` if it cannot
    be written.
    """
    problems: list[Problem] = []
    now = read_bus_file(root, problems)
    if problems:
        raise InTheWay(str(problems[0]), hint="`sealbus check` lists everything")
    if now == bus:
        return False
    text = bus.text() if now is None else bus.put_into(decode_text((root / FILE).read_bytes()))
    replace_file(root / FILE, text)
    return True


def address(server: str) -> tuple[str, int]:
    """Host and port of a NATS address.

    Two addresses of one place are equal: ``localhost`` is ``127.0.0.1``.
    """
    parts = urlsplit(server)
    host = (parts.hostname or "").lower().rstrip(".")
    with contextlib.suppress(ValueError):  # a name
        host = str(ipaddress.ip_address(host))
    return "127.0.0.1" if host == "localhost" else host, parts.port or PORT


def other_place(bus: BusFile, servers: tuple[str, ...]) -> bool:
    """Whether none of ``servers`` is an address of the bus file.

    An address with TLS differs from one without.
    """
    return not _places(servers) & _places(bus.servers)


def lacks_place(bus: BusFile, servers: tuple[str, ...]) -> bool:
    """Whether an address of the bus file is not among ``servers``, as after a growth to a cluster.

    An address with TLS differs from one without.
    """
    return not _places(bus.servers) <= _places(servers)


def _places(servers: tuple[str, ...]) -> set[tuple[bool, str, int]]:
    return {(is_encrypted(server), *address(server)) for server in servers}


def other_bus(bus: BusFile, credentials: Credentials) -> str | None:
    """The reason why ``credentials`` cannot be used on this bus: another name, or another bus key.

    ``None`` if they can be used.
    """
    if credentials.bus != bus.name:
        return f"for the bus {credentials.bus}, and {FILE} names {bus.name}"
    # With a key that another one follows, a bot learns the present one when it connects.
    if not bus.trusted(credentials.bus_keys) & {key.raw for key in bus.bus_keys}:
        theirs = " ".join(sorted(PublicKey(raw, KeyKind.BUS).text for raw in credentials.bus_keys))
        ours = " ".join(key.text for key in bus.bus_keys)
        return f"for the bus key {theirs}, and {FILE} names {ours}"
    return None


class _Wrong(InvalidInput):
    """A field has a problem."""

    def __init__(self, field: str, what: str, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.field = field


def _parsed(text: str) -> BusFile:
    given = tomllib.loads(text)
    for name in given:
        if name not in _FIELDS:
            hint = nearest(name, _FIELDS) or f"known here: {', '.join(_FIELDS)}"
            raise _Wrong(name, f"unknown name {readable(name, 80)}", hint)
    if not isinstance(given.get("name"), str) or not is_name(given["name"]):
        raise _Wrong(
            "name",
            "name is not the name of a bus",
            "as in policy.yaml: 1-32 characters of a-z, 0-9 and -",
        )
    servers: tuple[str, ...] = _checked(
        "servers", _texts(given, "servers", MAX_SERVERS), check_servers
    )
    keys = [
        _checked("bus_keys", text, lambda one: PublicKey.parse(one, KeyKind.BUS))
        for text in _texts(given, "bus_keys", MAX_BUS_KEYS)
    ]
    return BusFile(
        given["name"],
        servers,
        tuple(keys),
        _tls(given.get("tls")),
        _made(given.get("made")),
        _checked(FIELD, given.get(FIELD, []), partial(_links, given["name"])),
    )


def _made(given: object) -> int | None:
    found = time_ms(given) if isinstance(given, str) else None
    if given is not None and found is None:
        raise _Wrong("made", "made is not a time in UTC", 'like made = "2026-11-24T08:00:00Z"')
    return found


def _links(bus: str, given: object) -> tuple[bytes, ...]:
    links = read_links(given)
    try:
        check_chain([open_link(link) for link in links], bus)
    except Malformed as error:
        what = error.what.removeprefix("keyring: ")
        raise InvalidInput(what, hint="`sealbus keys rotate-bus` writes them") from None
    return links


def _tls(given: object) -> TlsPaths | None:
    if given is None:
        return None
    if (
        not isinstance(given, dict)
        or given.keys() != set(_TLS_FIELDS)
        or not all(isinstance(one, str) and one for one in given.values())
    ):
        raise _Wrong(
            "tls",
            "tls has not the fields ca, cert and key",
            'each is the path of a PEM file, like cert = "/etc/sealbus/bus.pem"',
        )
    return TlsPaths(given["ca"], given["cert"], given["key"])


def _texts(given: dict[str, Any], field: str, most: int) -> list[str]:
    values = given.get(field)
    if (
        not isinstance(values, list)
        or not 1 <= len(values) <= most
        or not all(isinstance(one, str) for one in values)
    ):
        raise _Wrong(field, f"{field} is not a list of 1 to {most} texts")
    return values


def _checked(field: str, text: object, check: Any) -> Any:
    try:
        return check(text)
    except InvalidInput as error:
        raise _Wrong(
            field, f"{field}: {error.what.removeprefix(f'{field}: ')}", error.hint
        ) from None
