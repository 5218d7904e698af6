"""The greedy bot's floods, at the server's limit and below it. Those with ``once`` end when a relay
cuts the bot off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from examples.robbery.frames import RawSession, pub
from sealbus.protocol.codec import pack_bundle
from sealbus.protocol.limits import MAX_BUNDLE
from tests.faults.greedy.attacker import Field
from tests.faults.greedy.attacking import Attacks, flood, sealed

FLOODS: Final = Attacks()
"""The floods by name."""

PIECE: Final = 256 * 1024
"""The bytes of a flood that are sent at once."""


async def pour(field: Field, frames: bytes, *, once: bool = False) -> None:
    """Send the same frames as fast as the server reads them. A session that was cut off is replaced
    as soon as the door admits another one. With ``once``, that is the end."""
    session: RawSession | None = await field.login()
    field.begin()
    while field.goes_on:
        if session is None:
            await asyncio.sleep(0.1)
            with contextlib.suppress(OSError, ValueError):
                session = await field.try_login()
            continue
        field.counts["pieces"] += 1
        if not await session.send(frames):
            field.counts["cut off"] += 1
            await session.close()
            session = None
            if once:
                return
    if session is not None:
        await session.close()


def repeated(field: Field, way: str, data: bytes) -> bytes:
    """Frames of a piece that all have the same bytes."""
    frame = pub(f"{way}.{field.credentials.bot}", data)
    return frame * (PIECE // len(frame) + 1)


@FLOODS.named("pour-garbage")
async def pour_garbage(field: Field) -> None:
    """Ten bytes that are no envelope, half a million times a second."""
    await pour(field, repeated(field, "send", b"garbage!!!"))


@FLOODS.named("pour-badly-sealed")
async def pour_badly_sealed(field: Field) -> None:
    """Bundles of envelopes that look right. Each has a seal that does not hold."""
    envelopes = [
        data[:-1] + bytes([data[-1] ^ 1]) for data in field.seal("goods.a", b"\xc0", MAX_BUNDLE)
    ]
    await pour(field, repeated(field, "send", pack_bundle(envelopes)))


@FLOODS.named("pour-copies")
async def pour_copies(field: Field) -> None:
    """Bundles of valid envelopes, again and again."""
    await pour(field, repeated(field, "send", pack_bundle(field.seal("goods.a", b"1", MAX_BUNDLE))))


@FLOODS.named("pour-live")
async def pour_live(field: Field) -> None:
    """Ten bytes that are no envelope, as live messages."""
    await pour(field, repeated(field, "call", b"garbage!!!"))


@FLOODS.named("pour-garbage-once")
async def pour_garbage_once(field: Field) -> None:
    """The first of these floods, until it is ended."""
    await pour(field, repeated(field, "send", b"garbage!!!"), once=True)


@FLOODS.named("pour-live-once")
async def pour_live_once(field: Field) -> None:
    """The same of live messages."""
    await pour(field, repeated(field, "call", b"garbage!!!"), once=True)


PACE_S: Final = 0.02
"""The time between two bursts of a flood that stays below ``flood_messages``."""


async def pace(field: Field, make: Callable[[], bytes], *, once: bool = False) -> None:
    """Send the frames of ``make`` fifty times a second."""
    session = await field.login()
    field.begin()
    while field.goes_on:
        if not await session.send(make()):
            field.counts["cut off"] += 1
            await session.close()
            if once:
                return
            session = await field.login()
        await asyncio.sleep(PACE_S)
    await session.close()


@FLOODS.named("pace-garbage")
async def pace_garbage(field: Field) -> None:
    """5,000 messages a second that are no envelope: few by the counts of nats-server."""
    frames = pub(f"send.{field.credentials.bot}", b"garbage!!!") * 100
    await pace(field, lambda: frames)


@FLOODS.named("pace-garbage-once")
async def pace_garbage_once(field: Field) -> None:
    """The same, until it is ended."""
    frames = pub(f"send.{field.credentials.bot}", b"garbage!!!") * 100
    await pace(field, lambda: frames, once=True)


@FLOODS.named("pace-badly-sealed")
async def pace_badly_sealed(field: Field) -> None:
    """6,400 envelopes a second, in 100 bundles. No seal holds."""

    def make() -> bytes:
        envelopes = field.seal("goods.a", b"\xc0", 128)
        return field.frames([data[:-1] + bytes([data[-1] ^ 1]) for data in envelopes])

    await pace(field, make)


@FLOODS.named("pace-valid")
async def pace_valid(field: Field) -> None:
    """Valid messages, as fast as one process seals them."""
    await flood(field, sealed(field, "goods.a", b"\xc0", 4 * MAX_BUNDLE))


@FLOODS.named("pace-refused")
async def pace_refused(field: Field) -> None:
    """Messages that are refused, as fast as one process seals them."""
    await flood(field, sealed(field, "nowhere.a", b"\xc0", 4 * MAX_BUNDLE))
