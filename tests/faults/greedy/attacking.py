"""The parts of the greedy bot's attacks: a registry of them, and frames that are sent again and
again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Final

from examples.robbery.frames import RawSession
from sealbus.protocol.codec import pack_json
from tests.faults.greedy.attacker import Attack, Field

MANY_VALUES: Final = pack_json([{}] * 16_383)
"""The most values that fit in 64 KiB, each of the kind that costs most to decode."""

LARGEST: Final = pack_json("x" * (65_536 - 3))
"""The largest payload of the default limits."""

MANY: Final = 256


class Attacks(dict[str, Attack]):
    """Attacks by name."""

    def named(self, name: str) -> Callable[[Attack], Attack]:
        """Register an attack."""

        def register(function: Attack) -> Attack:
            self[name] = function
            return function

        return register


async def flood(field: Field, make: Callable[[], bytes], sessions: int = 1) -> None:
    """Send the frames of ``make`` again and again, over ``sessions`` sessions."""

    async def one(session: RawSession) -> None:
        session = await field.say(session, make())  # at least once, even on a busy machine
        while field.goes_on:
            session = await field.say(session, make())
        await session.close()

    logged_in = [await field.login() for _ in range(sessions)]
    field.begin()
    await asyncio.gather(*(one(session) for session in logged_in))


def sealed(
    field: Field,
    subject: str,
    payload: bytes,
    count: int,
    *,
    live: bool = False,
    parent: bytes | None = None,
) -> Callable[[], bytes]:
    """Makes frames of ``count`` new messages."""
    return lambda: field.frames(field.seal(subject, payload, count, parent), live=live)


def in_turn(makes: Sequence[Callable[[], bytes]]) -> Callable[[], bytes]:
    """Takes the frames of each kind in turn."""
    turns = cycle(makes)

    def make() -> bytes:
        return next(turns)()

    return make
