"""The attacks on every peer: one method an attack.

An attacker only tries. The receiver shows whether the attack got through.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.peer import Order
from benchmarks.workload import encode, order

SIZE: Final = 200
PAST_S: Final = 60
"""The age of an expired message. A backdated message is the same as one that was kept back."""
AHEAD_S: Final = 3600
LONG_S: Final = 24 * 3600
SEEN_S: Final = 10.0

HONEST: Final = order(1, SIZE)
FAKE: Final[Order] = {**order(666_666, SIZE), "customer": "cus-6666"}
"""A valid order. If something stops it, it is not the schema."""
INVALID: Final[Order] = {**FAKE, "items": [{**FAKE["items"][0], "quantity": -1}]}
GARBAGE: Final = b"\x00\xffnot a message\xfe" * 3


class NotApplicable(Exception):
    """The peer has no such feature to attack. The text says which feature it lacks."""


class Attacker(ABC):
    """Made anew for each attack, with a peer that has just started.

    It sees the network and may send on it. It owns the lesser bot ``s1``, which may send to ``r1``
    and to nobody else. Its target are the messages from ``s0`` to ``r0``. If an attack needs the
    key of ``s0``, its row says so.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        """``setup`` is the result of the peer's start."""
        self.setup = setup
        self.meant = 0
        """How many valid messages it has sent, beyond :meth:`honest`. They will arrive."""

    async def open(self, folder: Path) -> dict[str, Any]:
        """Take up position, with files in ``folder``.

        Returns the setup for the receivers. The attacker may sit on their line.
        """
        del folder
        return self.setup

    async def close(self) -> None:  # noqa: B027 - nothing to do if nothing is open
        """Hang up."""

    @abstractmethod
    async def honest(self) -> None:
        """Send a message of ``s0``, in the same way as the attacks.

        It proves that the attacker can send. It is also the message that is captured.
        """

    @abstractmethod
    async def anonymous(self) -> None:
        """An order, without credentials of any kind."""

    @abstractmethod
    async def garbage(self) -> None:
        """Bytes that are no message, from ``s1``, sent where its messages are accepted."""

    @abstractmethod
    async def unsigned(self) -> None:
        """An order of ``s1`` to ``r1``, which is allowed, but without signature or token."""

    @abstractmethod
    async def altered(self) -> None:
        """The captured order with another sum, sent to the same place."""

    @abstractmethod
    async def other_name(self) -> None:
        """An order in the name of ``s0``, with the key and the credentials of ``s1``."""

    @abstractmethod
    async def replay(self) -> None:
        """The captured order, once more, byte for byte."""

    @abstractmethod
    async def replay_late(self) -> None:
        """An order of ``s0`` that was kept back until it had expired."""

    @abstractmethod
    async def other_receiver(self) -> None:
        """The captured order to ``r0``, to ``r1``."""

    @abstractmethod
    async def injected(self) -> None:
        """An order of the attacker's own, past everything that is before the receiver."""

    @abstractmethod
    async def not_granted(self) -> None:
        """An order of ``s1``, in its own name and with its own key, to ``r0``."""

    @abstractmethod
    async def schema(self) -> None:
        """An order of ``s0`` that the schema does not allow."""

    @abstractmethod
    async def named_twice(self) -> None:
        """An order of ``s0`` with two values for one name. Readers differ in their choice."""

    @abstractmethod
    async def same_id(self) -> None:
        """Another order of ``s0`` with an identifier that has been used."""

    @abstractmethod
    async def future(self) -> None:
        """An order of ``s0``, dated an hour ahead."""

    @abstractmethod
    async def long_life(self) -> None:
        """An order of ``s0`` that can be used for a day."""

    @abstractmethod
    async def revoked(self) -> None:
        """An order of ``s0`` with a key of its own that has been revoked."""


def changed(captured: Order) -> Order:
    """The same order for a hundredth of the price."""
    return {**captured, "items": [{**item, "unit_price_cents": 1} for item in captured["items"]]}


def twice(value: Order) -> bytes:
    """JSON that names the currency twice. Valid either way."""
    return b'{"currency":"GBP",' + encode({**value, "currency": "EUR"})[1:]


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


async def seen(condition: Callable[[], bool]) -> None:
    """Wait until ``condition()`` holds. Raises :class:`TimeoutError`."""
    async with asyncio.timeout(SEEN_S):
        while not condition():  # noqa: ASYNC110 - it waits for bytes that pass
            await asyncio.sleep(0.01)
