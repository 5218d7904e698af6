"""A NATS server inside this process, for tests: the real protocol without a socket or a file.

The clients on it are the real ones. They connect to :attr:`MemoryNats.url`, send NATS's bytes, and
cannot tell the difference. ``tests/contract`` holds this server and a real nats-server to one list
of behaviours. It has the accounts of a bus, the auth callout, and the part of JetStream that the
bus uses.

**It is not for production.** It keeps everything in memory, it limits no client, and all code of
its process can reach into it.

A test can take it through the misfortunes of a server: :meth:`MemoryNats.stop`,
:meth:`MemoryNats.start`, :meth:`MemoryNats.cut`, :meth:`MemoryNats.expel` and
:meth:`MemoryNats.stall`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from typing import Any, Final, Self

from sealbus.nats import in_process
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey, verify
from sealbus_broker.memory import wire
from sealbus_broker.memory.accounts import Accounts
from sealbus_broker.memory.callout import Callout
from sealbus_broker.memory.connection import Connection
from sealbus_broker.memory.grant import Grant
from sealbus_broker.memory.jetstream import JetStream
from sealbus_broker.memory.pipe import connection
from sealbus_broker.memory.system import System
from sealbus_broker.nats.config import BUS_ACCOUNT, FULL_ACCOUNT, MAX_PAYLOAD_BYTES

VERSION: Final = "2.15.1"
"""The nats-server whose behaviour this one has."""

_PORT: Final = 4222
"""Of the address. Nothing listens on it."""

_TOO_MANY: Final = "maximum account active connections exceeded"


class MemoryNats:
    """One server. Use it in one event loop."""

    def __init__(self, relay: PublicKey, issuer: PublicKey) -> None:
        """``relay``: who may log in as a relay. ``issuer``: whose sessions are believed."""
        self._relay = relay
        self._issuer = issuer
        self._key = SigningKey.generate(KeyKind.BUS)
        """The server's own key, whose public half is its id. Each start makes another."""
        self._connections: dict[int, Connection] = {}
        """By number."""
        self._count = 0
        """How many connections there were."""
        self._stalled = False
        """Whether it reads from nobody. New connections begin like that."""
        self.host = secrets.token_hex(8) + in_process.ENDING
        """The host of its address, which no other server in this process has."""
        self.accounts = Accounts()
        self._callout = Callout(self.accounts, self._key, issuer)
        self.jetstream = JetStream(self.accounts, lambda: self.longest_wait_s)
        self.accounts.engine = self.jetstream
        self.longest_wait_s: float | None = None
        """The longest wait of a bot's request for messages. A short one makes bots stop soon."""

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"nats://{self.host}:{_PORT}"

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    # ---- its life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Take connections from now on. A server that starts again has another id."""
        self._loop = asyncio.get_running_loop()
        self._key = SigningKey.generate(KeyKind.BUS)
        self._callout = Callout(self.accounts, self._key, self._issuer)
        self._system = System(self.accounts, self._key.public.text, self._connections)
        self.accounts.system = self._system
        self._stalled = False
        in_process.listen(self.host, self._accept)

    def stop(self, *, keep_files: bool = True) -> None:
        """Cut all connections and take none. Streams in memory are gone.

        ``keep_files``: streams in files are there at the next start.
        """
        in_process.unlisten(self.host)
        self.cut()
        self.jetstream.stop(keep_files=keep_files)

    def cut(self, name: str | None = None) -> int:
        """Cut the connections of a client, or all; return how many.

        ``name``: what the client calls itself, or the first word of it. A bot's first word is its
        name.
        """
        # A list, because each one that is cut leaves the dict.
        chosen = [
            one for one in self._connections.values() if name is None or one.calls_itself(name)
        ]
        for one in chosen:
            one.cut()
        return len(chosen)

    def reload(self) -> None:
        """Ask a relay again for each session, as nats-server does when it reads its configuration
        anew."""
        for one in list(self._connections.values()):
            if one.grant is not None and one.grant.account != BUS_ACCOUNT:
                one.ask_again()

    def expel(self, name: str, error: str = "User Authentication Expired") -> int:
        """End a client's connections as nats-server ends expired sessions; return how many."""
        chosen = [one for one in self._connections.values() if one.calls_itself(name)]
        for one in chosen:
            one.end(error)
        return len(chosen)

    def stall(self, stalled: bool = True) -> None:
        """Read nothing from any client, or go on reading, as a server that was paused."""
        self._stalled = stalled
        for one in list(self._connections.values()):
            one.stall(stalled)

    @property
    def names(self) -> list[str]:
        """The first word of what each client that is logged in calls itself."""
        return sorted(one.owner for one in self._connections.values() if one.grant is not None)

    # ---- connections ----------------------------------------------------------------------------

    def _accept(self, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if asyncio.get_running_loop() is not self._loop:
            raise OSError("the server in memory belongs to another event loop")
        reader, writer, pipe = connection(limit, stalled=self._stalled)
        self._count += 1
        nonce = secrets.token_urlsafe(11)
        peer = Connection(host=self, number=self._count, nonce=nonce, pipe=pipe)
        self._connections[peer.number] = peer
        pipe.serve(peer)
        pipe.send(wire.info(self.greeting(peer) | {"nonce": nonce}))
        return reader, writer

    def greeting(self, connection: Connection) -> dict[str, Any]:
        """The fields of ``INFO``, without a challenge."""
        own = self._key.public.text
        return {
            "server_id": own,
            "server_name": "memory",
            "version": VERSION,
            "proto": 1,
            "host": self.host,
            "port": _PORT,
            "headers": True,
            "auth_required": True,
            "max_payload": MAX_PAYLOAD_BYTES,
            "jetstream": True,
            "client_id": connection.number,
            "client_ip": "127.0.0.1",
        }

    def authenticate(self, connection: Connection, connect: wire.Connect) -> None:
        """Let a relay in by its key. Ask a relay about everybody else."""
        options = connect.options
        if options.get("nkey") == self._relay.text:
            is_relay = _proves(self._relay, connection.nonce, options.get("sig"))
            connection.admit(Grant.of_relay() if is_relay else None)
            return

        def answered(grant: Grant | None) -> None:
            if grant is not None and grant.account == FULL_ACCOUNT:
                connection.admit(None, _TOO_MANY)
            else:
                connection.admit(grant)

        connection.give_up = self._callout.ask(
            options,
            connection.nonce,
            connection.number,
            answered,
        )

    def ended(self, connection: Connection) -> None:
        """A connection is over."""
        self._connections.pop(connection.number, None)
        self._system.ended(connection)


def _proves(key: PublicKey, nonce: str, signature: object) -> bool:
    """Whether ``signature``, in base64, is the key's over ``nonce``."""
    try:
        # Clients write either alphabet of base64, with or without padding.
        text = str(signature).replace("-", "+").replace("_", "/").rstrip("=")
        raw = base64.b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return False
    return verify(key.raw, nonce.encode(), raw)
