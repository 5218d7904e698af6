"""Attacks on the peers that consist of NATS alone: core NATS, JetStream, FastStream.

All bots have one login, so the lesser bot has the login of the others. Nothing in a message says
who sent it, when, or to whom.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import nats
from nats.aio.client import Client

from benchmarks.attacking.attacker import (
    FAKE,
    GARBAGE,
    HONEST,
    INVALID,
    Attacker,
    NotApplicable,
    changed,
    seen,
    twice,
)
from benchmarks.attacking.tap import Tap
from benchmarks.workload import encode
from examples.robbery.frames import FrameReader, RawSession, pub

MESSAGE_ID: Final = "Nats-Msg-Id"
"""The header by which JetStream recognises duplicates, for two minutes."""

_HEADERS: Final = {b"MSG": 0, b"HMSG": 1}
"""The number of sizes before the last one."""


class OnNats(Attacker):
    """Core NATS, and everything that the others share with it."""

    subject: ClassVar[str] = "bench.core.{pair}"
    headers: ClassVar[dict[str, str]] = {}
    has_ids: ClassVar[bool] = False

    def __init__(self, setup: dict[str, Any]) -> None:
        super().__init__(setup)
        self._port = urlsplit(setup["url"]).port or 0
        self._tap = Tap(self._port)
        self._client: Client | None = None

    async def open(self, folder: Path) -> dict[str, Any]:
        """Log in, and sit on the receivers' line."""
        del folder
        self._client = await nats.connect(self.setup["url"], nkeys_seed_str=self.setup["seed"])
        return {**self.setup, "url": f"nats://127.0.0.1:{await self._tap.open()}"}

    async def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            await self._client.close()
        await self._tap.close()

    async def _publish(
        self, body: bytes, pair: int = 0, headers: dict[str, str] | None = None
    ) -> None:
        assert self._client is not None
        await self._client.publish(self._to(pair), body, headers=headers or self.headers or None)
        await self._client.flush()

    def _to(self, pair: int) -> str:
        return self.subject.format(pair=pair)

    async def honest(self) -> None:
        await self._publish(encode(HONEST))

    async def anonymous(self) -> None:
        session = await RawSession.open("127.0.0.1", self._port)
        await session.login(None, None)
        await session.say(pub(self._to(0), encode(FAKE)))
        await session.close()

    async def garbage(self) -> None:
        await self._publish(GARBAGE, 1)

    async def unsigned(self) -> None:
        await self._publish(encode(FAKE), 1)

    async def altered(self) -> None:
        await self._publish(encode(changed(HONEST)))

    async def other_name(self) -> None:
        await self._publish(encode(FAKE))

    async def replay(self) -> None:
        await self._publish(encode(HONEST))

    async def replay_late(self) -> None:
        raise NotApplicable("messages do not expire")

    async def other_receiver(self) -> None:
        await self._publish(encode(HONEST), 1)

    async def injected(self) -> None:
        await seen(lambda: self._tap.saw(encode(HONEST)))
        self._tap.inject(lambda line: imitated(line, encode(HONEST), encode(FAKE)))

    async def not_granted(self) -> None:
        await self._publish(encode(FAKE))

    async def schema(self) -> None:
        await self._publish(encode(INVALID))

    async def named_twice(self) -> None:
        await self._publish(twice(FAKE))

    async def same_id(self) -> None:
        if not self.has_ids:
            raise NotApplicable("messages have no identifier")
        self.meant += 1
        for body in (encode(HONEST), encode(FAKE)):
            await self._publish(body, headers={**self.headers, MESSAGE_ID: "1"})

    async def future(self) -> None:
        raise NotApplicable("messages have no date")

    async def long_life(self) -> None:
        raise NotApplicable("messages do not expire")

    async def revoked(self) -> None:
        raise NotApplicable("there are no keys")


class OnJetStream(OnNats):
    """JetStream: the same, but stored first."""

    subject = "bench.stream.{pair}"
    has_ids = True


class OnFastStream(OnJetStream):
    """FastStream: the same, declared as JSON."""

    subject = "bench.fast.{pair}"
    headers: ClassVar[dict[str, str]] = {"content-type": "application/json"}


def imitated(line: bytes, of: bytes, payload: bytes) -> bytes | None:
    """The NATS frame that carried ``of`` on this line, with ``payload`` in its place.

    ``None`` if no frame did.
    """
    for frame in reversed(FrameReader().feed(line)):
        if frame.verb in _HEADERS and of in frame.payload:
            sizes = _HEADERS[frame.verb]
            *words, _ = frame.words
            start = frame.raw.index(b"\r\n") + 2
            head = frame.raw[start : start + int(words[-1])] if sizes else b""
            return (
                b" ".join([frame.verb, *words, str(len(head) + len(payload)).encode()])
                + b"\r\n"
                + head
                + payload
                + b"\r\n"
            )
    return None
