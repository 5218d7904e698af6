"""The greedy bot, in a process of its own.

It has raw sockets and the credentials of one bot. It has no client that enforces rules.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, Final, Self

from examples.robbery.frames import RawSession, pub
from sealbus import Credentials
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.codec import pack_bundle
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.limits import MAX_BUNDLE, MAX_BUNDLE_BYTES, SALT_BYTES
from sealbus.protocol.seal import sign_connect
from sealbus.sending.minting import new_nonce
from tests.fork_server import PROCESSES

HOST: Final = "127.0.0.1"
LOGIN_TRIES: Final = 100
KEY_S: Final = 240.0
"""How long a session key is used: as long as by a bot of the library."""


class Over(Exception):
    """The time of the attack has ended while its bot was not admitted."""


@dataclass
class Field:
    """The means of an attack: an address, one bot's credentials, and an end."""

    port: int
    credentials: Credentials
    seconds: float
    _begun: Callable[[], None]
    counts: Counter[str] = field(default_factory=Counter)
    """Counts of the frames that it sent, and of their results."""
    _until: float = 0.0
    _key: tuple[SessionKey, float] | None = None
    """The session key in use, and when the next one is made, by the monotonic clock."""

    def begin(self) -> None:
        """The attack is prepared. From now on it goes on for its time."""
        self._until = time.monotonic() + self.seconds
        self._begun()

    @property
    def goes_on(self) -> bool:
        """Whether the attack goes on."""
        return time.monotonic() < self._until

    # ---- sessions --------------------------------------------------------------------------------

    async def try_login(
        self, key: SessionKey | None = None, consumers: Sequence[str] = ()
    ) -> RawSession | None:
        """A session of the bot, or ``None`` if it is not admitted."""
        session = await RawSession.open(HOST, self.port)
        key = key or self.key()
        text = AdmissionText.of(key, self.credentials.bot, tuple(consumers)).encode()
        signature = sign_connect(key.key, session.challenge.encode(), text.encode())
        if await session.login(text, base64.b64encode(signature).decode()):
            return session
        await session.close()
        return None

    async def login(self, consumers: Sequence[str] = ()) -> RawSession:
        """A session of the bot. A busy server drops some logins, so each is tried again.

        Raises :class:`Over` if the attack's time ends before: a bot that was cut off has to pause.
        """
        for tries in itertools.count(1):
            with contextlib.suppress(OSError, ValueError):
                if (session := await self.try_login(consumers=consumers)) is not None:
                    return session
            if self._until and not self.goes_on:
                raise Over
            if not self._until and tries == LOGIN_TRIES:
                break
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{self.credentials.bot} is not admitted")

    async def say(self, session: RawSession, frames: bytes) -> RawSession:
        """Send frames, and wait until the server has read them.

        A session that was cut off is replaced.
        """
        if await session.say(frames, within_s=30.0):
            return session
        self.counts["cut off"] += 1
        await session.close()
        return await self.login()

    def key(self) -> SessionKey:
        """A session key of the bot, which it uses for some minutes."""
        now = time.monotonic()
        if self._key is None or now >= self._key[1]:
            made = self.credentials.new_session_key(time.time_ns() // 1_000_000)
            self._key = made, now + KEY_S
        return self._key[0]

    # ---- messages --------------------------------------------------------------------------------

    def seal(
        self,
        subject: str,
        payload: bytes,
        count: int = 1,
        parent: bytes | None = None,
        by: SigningKey | None = None,
        **other: Any,
    ) -> list[bytes]:
        """Envelopes with nonces of their own, under one signature.

        ``by`` is an enrolled key in place of the bot's own. ``other`` has invalid fields of the
        header.
        """
        now = time.time_ns() // 1_000_000
        said: dict[str, Any] = {
            "bus": self.credentials.bus,
            "bot": self.credentials.bot,
            "ttl_ms": 10_000,
        } | other
        drafts = [
            Draft(
                Header(subject=subject, nonce=new_nonce(now), issued_at_ms=now, **said),
                [os.urandom(SALT_BYTES) + payload],
                parent,
            )
            for _ in range(count)
        ]
        key = self.key()
        if by is not None or "bus" in other or "bot" in other:
            enrolled = by or self.credentials.key
            key = SessionKey.make(enrolled, bus=said["bus"], bot=said["bot"], now_ms=now)
        return [sealed.data for sealed in seal_envelopes(key, drafts)]

    def frames(self, envelopes: Sequence[bytes], *, live: bool = False) -> bytes:
        """The frames for ``envelopes``, with as many in one NATS message as possible."""
        self.counts["messages"] += len(envelopes)
        way = f"{'call' if live else 'send'}.{self.credentials.bot}"
        frames = [pub(way, data) for data in _together(envelopes)]
        self.counts["NATS messages"] += len(frames)
        self.counts["bytes"] += sum(map(len, envelopes))
        return b"".join(frames)


def _together(envelopes: Sequence[bytes]) -> Iterator[bytes]:
    fit = max(1, min(MAX_BUNDLE, (MAX_BUNDLE_BYTES - 64) // (max(map(len, envelopes)) + 8)))
    for at in range(0, len(envelopes), fit):
        some = envelopes[at : at + fit]
        yield some[0] if len(some) == 1 else pack_bundle(list(some))


Attack = Callable[[Field], Awaitable[None]]


class Attacker:
    """The process."""

    def __init__(self, process: ForkServerProcess, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe

    @classmethod
    def start(
        cls, name: str, port: int, credentials: str, seconds: float, *, polite: bool = True
    ) -> Self:
        """Start it. It begins by itself when it is prepared.

        If ``polite``, the bus and the honest bots come first where all share one machine.
        """
        ours, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(
            target=play, args=(name, port, credentials, seconds, polite, theirs), daemon=True
        )
        process.start()
        theirs.close()
        return cls(process, ours)

    async def hear(self) -> Any:
        """Its next message: that it has begun, and then its counts."""
        return await asyncio.to_thread(self._hear)

    def _hear(self) -> Any:
        while not self._pipe.poll(0.1):
            if not self._process.is_alive() and not self._pipe.poll(0.0):
                raise RuntimeError("the attacker's process ended before it was done")
        return self._pipe.recv()

    def end(self) -> None:
        """End it in any state."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def play(
    name: str, port: int, credentials: str, seconds: float, polite: bool, pipe: Connection
) -> None:
    """The process's work: one attack."""
    from tests.faults.greedy.attacks import ATTACKS

    if polite:
        os.nice(19)
    attack = Field(port, Credentials.load(credentials), seconds, lambda: pipe.send("begun"))
    asyncio.run(_carry_out(ATTACKS[name], attack))
    pipe.send(dict(attack.counts))


async def _carry_out(attack: Attack, ground: Field) -> None:
    with contextlib.suppress(Over):
        await attack(ground)
