"""From a delivery to a message: verified, and recognised if it was handled before."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from copy import copy
from typing import Final

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput, Malformed
from sealbus.life.clock import Clock
from sealbus.log import log
from sealbus.pins import check_sender
from sealbus.protocol.delivery import Message, open_delivery
from sealbus.protocol.seal import Verifier
from sealbus.protocol.sealed import UnknownKey
from sealbus.protocol.shelf_life import is_too_old_live
from sealbus.trust import Trust

REMEMBERED: Final = 65_536
"""Nonces of handled envelopes kept: minutes of a busy subject, about 8 MiB."""


LATE: Final = "too late"
"""The name of void and of late live deliveries in :attr:`DeliveryVerifier.refused`."""


class HandledMessages:
    """The last messages that were handled, by sender, nonce and index: two bots may use the same
    nonce."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, bytes], int] = {}
        """For each envelope a bit for each message that was handled. A dict, because it keeps
        order: the oldest one is the first."""

    def __contains__(self, message: Message) -> bool:
        return bool(self.of(message) >> message.index & 1)

    def of(self, message: Message) -> int:
        """A bit for each handled message of the envelope that ``message`` is in."""
        return self._seen.get((message.bot, message.nonce), 0)

    def add(self, message: Message) -> None:
        """Remember ``message``, and forget the oldest envelope where there are too many."""
        key = message.bot, message.nonce
        if key not in self._seen and len(self._seen) >= REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = self._seen.get(key, 0) | 1 << message.index


class DeliveryVerifier:
    """Turns deliveries into messages, and counts those that are not believed."""

    def __init__(
        self,
        credentials: Credentials,
        verifier: Verifier,
        *,
        clock: Clock | None = None,
        on_late: Callable[[], None] | None = None,
        trust: Trust | None = None,
        on_unknown: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            credentials: the bus, its keys, and the pinned senders.
            verifier: remembers seals that held.
            clock: knows how far this machine's clock is off.
            on_late: called for each live message that comes too late, or seems to.
            trust: has the keys of the bus. ``None``: those of the credentials.
            on_unknown: called for each delivery that is stamped by a key which ``trust`` has not.
        """
        self._credentials = credentials
        self._trust = trust or Trust.of(credentials)
        self._on_unknown = on_unknown
        self._verifier = verifier
        self.clock = clock or Clock(credentials.bot)
        self._on_late = on_late
        self.demands_pins = False
        """Whether it believes pinned senders alone."""
        self.refused: Counter[str] = Counter()
        """How many deliveries were refused, by the check that failed."""

    def demanding(self) -> DeliveryVerifier:
        """One like it, with the same counts, that believes pinned senders alone.

        Raises :class:`InvalidInput` where the credentials pin none.
        """
        if not self._credentials.senders:
            raise InvalidInput(
                'verify="sender" needs the keys of the senders, and the credentials name none',
                hint="append the table [senders] that `sealbus keys pins BOT` prints",
            )
        strict = copy(self)
        strict.demands_pins = True
        return strict

    def open(self, subject: bytes, data: bytes, prefix: str, *, attempt: int = 1) -> list[Message]:
        """The verified messages in ``data``, in order, or none for anything else.

        ``prefix``: the first token of the NATS subject. ``attempt``: see
        :attr:`Message.attempt`.
        """
        credentials = self._credentials
        name = subject.decode("utf-8", "replace").removeprefix(f"{prefix}.")
        try:
            messages = open_delivery(
                data,
                name,
                bus=credentials.bus,
                bus_keys=self._trust.keys,
                verifier=self._verifier,
                attempt=attempt,
            )
            # One envelope, and so one sender.
            self._check_sender(messages[0])
        except Malformed as error:
            if isinstance(error, UnknownKey) and self._on_unknown is not None:
                self._on_unknown()
            self.refuse(error.what, error.hint)
            return []
        return messages

    def _check_sender(self, message: Message) -> None:
        """Raise :class:`Malformed` for a sender that is not the one whose key is pinned."""
        pins = self._credentials.senders.get(message.bot)
        if pins is not None:
            check_sender(message.envelope, pins, self._verifier, message.links)
        elif self.demands_pins:
            raise Malformed("pinned sender: no key of this bot is pinned")

    def is_late_live(self, message: Message) -> bool:
        """Whether ``message``, which is heard live now, may be void. If so, it is counted.

        It was held back: on its way, by this process, or by somebody who has it from a store. Or
        this machine's clock is ahead.
        """
        now_ms = time.time_ns() // 1_000_000
        if not is_too_old_live(message.stamp, now_ms):
            return False
        why = self.clock.told or "it was held back, or this machine's clock is ahead of the bus's"
        self.refuse_late(message, f"judged {now_ms - message.stamp.judged_at_ms} ms ago; {why}")
        if self._on_late is not None:
            self._on_late()
        return True

    def refuse_late(self, message: Message, why: str) -> None:
        """Count a genuine delivery that took effect too late, and so is none
        (:mod:`sealbus.protocol.shelf_life`)."""
        self.refused[LATE] += 1
        log.warning(
            "a message on %s from %s came too late, and is not handled: %s",
            message.subject,
            message.bot,
            why,
        )

    def refuse(self, why: str, hint: str | None = None) -> None:
        """Count a delivery that is not believed. ``hint``: the remedy, for the log."""
        self.refused[why] += 1
        log.warning("a delivery was refused: %s%s", why, f"; {hint}" if hint else "")


class PendingMessage:
    """A message that a handler works on. It ends with exactly one of the three methods.

    For a live message they do nothing: it is delivered once, whatever becomes of it.
    """

    __slots__ = ("message",)

    def __init__(self, message: Message) -> None:
        self.message = message

    def handled(self) -> None:
        """The handler succeeded: the message is done for good."""

    def failed(self, error: BaseException) -> float | None:
        """The handler raised ``error``. Returns the seconds until the next attempt, or ``None``:
        there is no other."""
        del error
        return None

    def give_back(self) -> None:
        """The handler was cut off, through no fault of the message: whoever is free may have it at
        once."""
