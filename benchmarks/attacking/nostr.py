"""Attacks on Nostr: events made by hand, published to the relay or put on the receiver's line."""

from __future__ import annotations

import hashlib
import re
import struct
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import orjson
from nostr_sdk import Event, EventBuilder, Keys, Kind, PublicKey, Tag, Timestamp

from benchmarks.attacking.attacker import (
    AHEAD_S,
    FAKE,
    GARBAGE,
    HONEST,
    INVALID,
    LONG_S,
    PAST_S,
    Attacker,
    NotApplicable,
    changed,
    now,
    seen,
    twice,
)
from benchmarks.attacking.tap import Tap
from benchmarks.peers.nostr import ORDER
from benchmarks.workload import encode

ANSWER_S: Final = 2.0
NO_SIGNATURE: Final = "0" * 128

Fields = dict[str, Any]
"""An event as JSON."""


class OnNostr(Attacker):
    """Everybody who makes a key may publish. The lesser bot is one of them."""

    def __init__(self, setup: dict[str, Any]) -> None:
        super().__init__(setup)
        self._owner, self._lesser = (Keys.parse(secret) for secret in setup["senders"])
        self._receivers = [
            Keys.parse(secret).public_key().to_hex() for secret in setup["receivers"]
        ]
        self._tap = Tap(urlsplit(setup["url"]).port or 0)
        self._captured: Fields = {}

    async def open(self, folder: Path) -> dict[str, Any]:
        """Sit on the receivers' line."""
        del folder
        return {**self.setup, "url": f"ws://127.0.0.1:{await self._tap.open()}"}

    async def close(self) -> None:
        """Hang up."""
        await self._tap.close()

    async def _say(self, *frames: str | bytes) -> None:
        """Send frames on a connection of its own, and wait for the relay's answer to each."""
        with suppress(aiohttp.ClientError, TimeoutError, TypeError):  # it may hang up
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(self.setup["url"]) as socket,
            ):
                for frame in frames:
                    await (
                        socket.send_bytes(frame)
                        if isinstance(frame, bytes)
                        else socket.send_str(frame)
                    )
                    await socket.receive(ANSWER_S)

    async def _publish(self, *events: Fields) -> None:
        await self._say(*(_publication(event) for event in events))

    def _event(
        self,
        content: bytes,
        keys: Keys | None = None,
        to: int = 0,
        at: int | None = None,
        expires: int | None = None,
    ) -> Fields:
        tags = [Tag.public_key(PublicKey.parse(self._receivers[to]))]
        if expires is not None:
            tags.append(Tag.expiration(Timestamp.from_secs(expires)))
        draft = EventBuilder(Kind(ORDER), content.decode()).tags(tags)
        draft = draft.custom_created_at(Timestamp.from_secs(at if at is not None else now()))
        event: Event = draft.finalize(keys or self._owner)
        fields: Fields = orjson.loads(event.as_json())
        return fields

    async def honest(self) -> None:
        self._captured = self._event(encode(HONEST))
        # Otherwise attacks would fail for a wrong reason.
        assert _identity(self._captured) == self._captured["id"]
        await self._publish(self._captured)

    async def anonymous(self) -> None:
        """With a new key. There are no other credentials."""
        await self._publish(self._event(encode(FAKE), Keys.generate()))

    async def garbage(self) -> None:
        await self._say(GARBAGE)
        await self._say(GARBAGE.decode("latin-1"))
        await self._say('["EVENT",{}]')

    async def unsigned(self) -> None:
        event = self._event(encode(FAKE), self._lesser, to=1)
        await self._publish({**event, "sig": NO_SIGNATURE})
        await self._publish({name: value for name, value in event.items() if name != "sig"})

    async def altered(self) -> None:
        event = {**self._captured, "content": encode(changed(HONEST)).decode()}
        await self._publish(event, {**event, "id": _identity(event)})

    async def other_name(self) -> None:
        event = {
            **self._event(encode(FAKE), self._lesser),
            "pubkey": self._owner.public_key().to_hex(),
        }
        event["id"] = _identity(event)
        await self._publish({**event, "sig": self._lesser.sign_schnorr(bytes.fromhex(event["id"]))})

    async def replay(self) -> None:
        await self._publish(self._captured, self._captured)
        await seen(lambda: self._tap.saw(self._captured["id"].encode()))
        self._tap.inject(lambda line: _imitated(line, self._captured, self._captured))

    async def replay_late(self) -> None:
        past = now() - PAST_S
        await self._publish(self._event(encode(HONEST), at=past, expires=past + 1))

    async def other_receiver(self) -> None:
        event = {**self._captured, "tags": [["p", self._receivers[1]]]}
        await self._publish(event, {**event, "id": _identity(event)})
        # And unchanged, on the line where the other receiver's events arrive.
        ours = self._event(encode(HONEST), self._lesser, to=1)
        self.meant += 1
        await self._publish(ours)
        await seen(lambda: self._tap.saw(ours["id"].encode()))
        self._tap.inject(lambda line: _imitated(line, ours, self._captured))

    async def injected(self) -> None:
        await seen(lambda: self._tap.saw(self._captured["id"].encode()))
        forged = {**self._event(encode(FAKE)), "sig": NO_SIGNATURE}
        for event in (forged, self._event(encode(FAKE), self._lesser)):
            self._tap.inject(partial(_imitated, of=self._captured, event=event))

    async def not_granted(self) -> None:
        await self._publish(self._event(encode(FAKE), self._lesser))

    async def schema(self) -> None:
        await self._publish(self._event(encode(INVALID)))

    async def named_twice(self) -> None:
        await self._publish(self._event(twice(FAKE)))

    async def same_id(self) -> None:
        raise NotApplicable("an event's identifier is the hash of its content")

    async def future(self) -> None:
        await self._publish(self._event(encode(FAKE), at=now() + AHEAD_S))

    async def long_life(self) -> None:
        await self._publish(self._event(encode(FAKE), expires=now() + LONG_S))

    async def revoked(self) -> None:
        raise NotApplicable("an author is a key: it cannot be revoked")


def _publication(event: Fields) -> str:
    text: str = orjson.dumps(["EVENT", event]).decode()
    return text


def _identity(event: Fields) -> str:
    """An event's identifier (NIP-01)."""
    names = ("pubkey", "created_at", "kind", "tags", "content")
    return hashlib.sha256(orjson.dumps([0, *(event[name] for name in names)])).hexdigest()


def _imitated(line: bytes, of: Fields, event: Fields) -> bytes | None:
    """A websocket frame with ``event``, for the subscription that got ``of`` on this line.

    ``None`` if no subscription did.
    """
    found = re.search(rb'\["EVENT","([^"]+)",\{"id":"' + of["id"].encode(), line)
    if found is None:
        return None
    text: bytes = orjson.dumps(["EVENT", found[1].decode(), event])
    return (
        b"\x81"
        + (bytes([len(text)]) if len(text) < 126 else b"\x7e" + struct.pack(">H", len(text)))
        + text
    )
