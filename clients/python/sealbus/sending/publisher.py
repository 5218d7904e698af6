"""Sending, as callers see it: each message until the relay's signed verdict on it is here.

How it works. :meth:`Publisher.publish` makes an :class:`~sealbus.sending.burst.BurstItem` and
waits for its verdict. On a subject with a rate, the message waits for its pace first
(:mod:`sealbus.sending.pacing`). Then it goes round in the :class:`~sealbus.sending.sender.Sender`
until its verdict is here. It leaves the round by that, by the end of its caller's time, by its
caller's cancellation, or when the bot is closed (:meth:`Publisher.abandon`). A burst goes on while
anybody waits for one of its messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from sealbus.errors import InvalidInput, NotConnected, SealbusError
from sealbus.grants import Declared, Grants
from sealbus.protocol.envelope import Header
from sealbus.protocol.limits import (
    MAX_ENVELOPE_BYTES,
    MAX_PARENT_BYTES,
    MAX_PAYLOADS,
    MAX_TOGETHER_BYTES,
)
from sealbus.protocol.nonces import life_ms
from sealbus.protocol.stamp import Stamp
from sealbus.protocol.subjects import is_own
from sealbus.sending.bundling import ROOM_BYTES
from sealbus.sending.burst import Burst, BurstItem, Kind
from sealbus.sending.minting import salted
from sealbus.sending.pacing import Pace
from sealbus.sending.sender import RETRY_FIRST_S, Sender, now_ms
from sealbus.supervision import Supervisor

MANY: Final = 4096
"""The most messages of one call of :meth:`Publisher.publish_many` that wait for a verdict at a
time: sixteen of the largest bursts. More would take memory, and make nothing faster."""

EARLY_MS: Final = 10_000
"""A nonce that is resumed may come from a process whose clock was ahead of this one's by so
much."""


class Publisher:
    """Gives each message to the sender, and its verdict to its caller."""

    def __init__(self, *, sender: Sender, supervisor: Supervisor) -> None:
        """``sender``: takes messages on their way. ``supervisor``: answers for the timers."""
        self._sender = sender
        self._supervisor = supervisor
        # The other parts of a bot know the publisher alone.
        self.run, self.resend = sender.run, sender.resend
        self.receive, self.take = sender.receive, sender.take
        self._all: dict[BurstItem, None] = {}
        """Every message without verdict, in order. A dict, because it keeps order and forgets
        fast."""
        self._paces: dict[str, Pace[BurstItem | Burst]] = {}
        """By the pattern of the declaration."""
        self._begun = 0
        """Messages so far, which gives each its order."""
        self._is_closed = False
        """Whether nothing is sent any more."""

    async def publish(
        self,
        header: Header,
        payload: bytes,
        *,
        live: bool,
        resumed: bool,
        timeout_s: float,
        parent: bytes | None = None,
        alone: bool = False,
        declared: Declared | None = None,
        on_named: Callable[[Header], None] | None = None,
    ) -> Stamp:
        """Send one message and return the stamp that accepts it.

        Args:
            header: its ``issued_at_ms`` is set anew for each attempt. Unless ``resumed``, its nonce
                is set when it is sent for the first time, which is the nonce's birth.
            payload: one packed value.
            live: whether it is judged at once, or stored first.
            resumed: whether an earlier call published under this nonce. The ledger accepts one
                envelope only under a nonce, so an acceptance of that attempt counts too.
            timeout_s: seconds to wait for a verdict, from when it is sent for the first time.
                Before that it may have to wait for its turn.
            parent: its encoded parent. Such a message is alone in its envelope.
            alone: whether it is alone in its envelope in any case. A resumed message is, because
                its nonce names nothing else, and so is one with ``on_named``.
            declared: its subject's declaration, if that is known. Its rate is kept to.
            on_named: called with the header when the message gets a nonce: just before it is sent
                for the first time, and each time that it gets another one.

        Raises:
            Refused: the relay's verdict. A refusal that another attempt may avoid is raised only
                when the time is over.
            Unresolved: no verdict came in time. Or it came under a bus key that the credentials do
                not name, and a :class:`CredentialsError` is the cause.
            InvalidInput: the message or its parent is too large, another one with its nonce is
                being published, the nonce is too old, or the time is longer than a nonce lives.
            NotConnected: the bot is closed.
        """
        self._check_life(header, live=live, resumed=resumed, timeout_s=timeout_s)
        is_alone = alone or resumed or parent is not None or on_named is not None
        kind = Kind(
            header=header,
            live=live,
            most=1 if is_alone else _most(declared),
            most_bytes=_most_bytes(declared),
            parent=parent,
            resumed=resumed,
            pace=self._pace(declared),
            on_named=on_named,
        )
        return await self._verdict(self._begin(kind, payload, timeout_s))

    async def publish_many(
        self,
        header: Header,
        payloads: Iterable[bytes | InvalidInput],
        *,
        live: bool,
        timeout_s: float,
        alone: bool = False,
        declared: Declared | None = None,
    ) -> list[Stamp | SealbusError]:
        """Send many messages, up to :data:`MANY` at a time, and return the outcome of each, in
        order. See :meth:`publish` for the arguments and the errors.

        Once the bot is closed, no more payloads are read, and the outcome of the last one is
        :class:`NotConnected`. Raises an error that reading ``payloads`` raises. Nobody waits for
        the earlier messages then.

        Args:
            payloads: packed values. An error in place of one is its outcome.
        """
        self._check_life(header, live=live, resumed=False, timeout_s=timeout_s)
        kind = Kind(
            header=header,
            live=live,
            most=1 if alone else _most(declared),
            most_bytes=_most_bytes(declared),
            pace=self._pace(declared),
        )
        outcomes: list[Stamp | SealbusError | None] = []
        waiting: dict[int, BurstItem] = {}
        room = asyncio.Semaphore(MANY)

        def ended(at: int, _: asyncio.Future[Stamp]) -> None:
            if (item := waiting.pop(at, None)) is not None:
                outcomes[at] = _outcome(item)
                self._end(item)
                room.release()

        try:
            for at, payload in enumerate(payloads):
                if isinstance(payload, InvalidInput):
                    outcomes.append(payload)
                    continue
                # While there is room it does not wait, and the messages are of one turn.
                await room.acquire()
                try:
                    item = self._begin(kind, payload, timeout_s)
                except SealbusError as error:
                    room.release()
                    outcomes.append(error)
                    if self._is_closed:
                        break
                    continue
                waiting[at] = item
                outcomes.append(None)
                item.verdict.add_done_callback(partial(ended, at))
            if waiting:
                # The callbacks above were added first, so they are through by its end.
                await asyncio.wait([item.verdict for item in waiting.values()])
        finally:
            for at in list(waiting):
                self._end(waiting.pop(at))
        return [one for one in outcomes if one is not None]

    async def resume(self, item: BurstItem, *, timeout_s: float) -> Stamp:
        """Find out the outcome of a message that nobody waits for any more. Its envelope is sent
        again under its nonce, with all its messages, unless the verdict on it is known by now.

        Raises as :meth:`publish` does.
        """
        if not item.is_over:
            raise InvalidInput(
                "the outcome of this message is being found out already", hint="wait for it"
            )
        burst = item.burst
        if burst is None or not item.was_sent:
            return await self._resume_unsent(item, timeout_s)
        if burst.verdict is not None:
            item.renew(timeout_s)
            burst.end_by(burst.verdict)
            return item.verdict.result()
        age_ms = now_ms() - burst.header.birth_ms
        left_s = (life_ms(live=burst.kind.live) - age_ms) / 1000
        if left_s <= 0:
            raise InvalidInput(
                f"this message was sent {age_ms / 1000:.0f} s ago, and can be resumed no longer",
                hint="its outcome can no longer be found out",
            )
        if self._sender.named.get(burst.header.nonce, burst) is not burst:
            raise InvalidInput(
                "a message with this nonce is being published already",
                hint="wait for its verdict",
            )
        self._check_open(item.kind)
        item.renew(min(timeout_s, left_s))
        self._all[item] = None
        burst.left += 1
        self._sender.named[burst.header.nonce] = burst
        self._sender.set_deadline(burst, item, asyncio.get_running_loop().time())
        burst.interval_s = RETRY_FIRST_S
        self._sender.submit(burst)
        return await self._verdict(item)

    async def _resume_unsent(self, item: BurstItem, timeout_s: float) -> Stamp:
        """Begin anew with a message that nothing was sent of."""
        self._check_life(item.kind.header, live=item.kind.live, resumed=False, timeout_s=timeout_s)
        self._check_open(item.kind)
        if item.burst is not None:
            item.burst.leave_out(item)
            item.burst = None
        item.renew(timeout_s)
        self._begun += 1
        item.order = self._begun
        self._enter(item)
        return await self._verdict(item)

    def _check_open(self, kind: Kind) -> None:
        if self._is_closed:
            subject = kind.header.subject
            raise NotConnected(f"the bot was closed before the message on {subject} was sent")

    def _begin(self, kind: Kind, payload: bytes, timeout_s: float) -> BurstItem:
        """Begin to send a message. Raises :class:`InvalidInput` if it or its parent is too large,
        and :class:`NotConnected` if the bot is closed."""
        self._check_open(kind)
        # Told here, before the message waits for its turn or for a connection.
        parent = kind.parent or b""
        if len(parent) > MAX_PARENT_BYTES:
            raise InvalidInput(
                f"a parent of {len(parent)} bytes for {kind.header.subject}; at most "
                f"{MAX_PARENT_BYTES}",
                hint="follow from a message with a smaller payload: with include_parent=True, its "
                "payload is a part of the parent",
            )
        size = len(payload) + len(parent)
        if size > MAX_ENVELOPE_BYTES - ROOM_BYTES:
            raise InvalidInput(
                f"a payload of {len(payload)} bytes makes an envelope of more than "
                f"{MAX_ENVELOPE_BYTES} bytes",
                hint="send a smaller payload, or where it can be fetched and its hash",
            )
        self._begun += 1
        item = BurstItem(
            kind=kind,
            payload=salted(payload),
            timeout_s=timeout_s,
            verdict=asyncio.get_running_loop().create_future(),
            order=self._begun,
        )
        self._enter(item)
        return item

    def _enter(self, item: BurstItem) -> None:
        """Have a message sent, in its turn if its subject has a rate."""
        self._all[item] = None
        kind = item.kind
        if kind.most == 1:
            burst = self._sender.new_burst(item)
            if kind.resumed:
                # Before its turn, because a receipt of an earlier attempt may come at any time.
                self._sender.named[kind.header.nonce] = burst
            self._sender.submit(burst)
        elif kind.pace is not None:
            kind.pace.submit(item)
        else:
            self._sender.join(item)

    async def _verdict(self, item: BurstItem) -> Stamp:
        try:
            return await item.verdict
        finally:
            self._end(item)

    def _end(self, item: BurstItem) -> None:
        """Nobody waits for the message any more. Forget its burst with the last of its messages."""
        # If the caller was cancelled, this tells the pace that the message needs no turn.
        item.verdict.cancel()
        del self._all[item]
        burst = item.burst
        if burst is None:
            return
        burst.left -= 1
        if burst.left > 0:
            return
        self._sender.forget(burst)

    def _check_life(self, header: Header, *, live: bool, resumed: bool, timeout_s: float) -> None:
        """Raise :class:`InvalidInput` for attempts that would outlive the nonce.

        Later the bus may have forgotten the nonce, and would deliver the message again.
        """
        life_s = life_ms(live=live) / 1000
        if timeout_s > life_s:
            kind = "live" if live else "stream"
            raise InvalidInput(
                f"timeout={timeout_s:g} is out of range: a {kind} message is sent again for "
                f"at most {life_s:g} s",
                hint=f"use at most {life_s:g} s; if no verdict comes in a shorter time, "
                "bot.resume(error) may find out the outcome",
            )
        if not resumed:
            return
        if header.nonce in self._sender.named:
            raise InvalidInput(
                "a message with this nonce is being published already",
                hint="wait for its verdict, or leave nonce out",
            )
        age_ms = now_ms() - header.birth_ms
        if not -EARLY_MS <= age_ms <= life_s * 1000:
            when = f"{age_ms / 1000:.0f} s ago" if age_ms > 0 else "in the future"
            raise InvalidInput(
                f"this nonce was born {when}: a message can be resumed for {life_s:g} s",
                hint="make nonces with sealbus.new_nonce(); the outcome of an older message can "
                "no longer be found out",
            )

    def _pace(self, declared: Declared | None) -> Pace[BurstItem | Burst] | None:
        if declared is None:
            return None
        pace = self._paces.get(declared.pattern)
        if pace is None:
            # Also without a rate, because the policy may give the subject one at any time.
            pace = Pace(declared.rate, self._sender.release, self._supervisor)
            self._paces[declared.pattern] = pace
        return pace

    def follow(self, grants: Grants) -> None:
        """Keep to the rates of newer grants, also with the messages that wait for their turn."""
        rates = {one.pattern: one.rate for one in grants.declared}
        for pattern, pace in self._paces.items():
            # Grants never tell the bus's own rates. If they are not complete, others may be missing
            # too.
            if pattern in rates or (grants.complete and not is_own(pattern)):
                pace.set_rate(rates.get(pattern))

    def verdicts(self) -> list[asyncio.Future[Stamp]]:
        """The verdicts that callers of :meth:`publish` wait for."""
        return [item.verdict for item in self._all if not item.verdict.done()]

    def abandon(self) -> None:
        """Wait for no verdict any more, and send nothing more: the bot is closed."""
        self._is_closed = True
        for item in self._all:
            if not item.verdict.done():
                item.verdict.set_exception(item.abandoned())


def _most(declared: Declared | None) -> int:
    """The most messages of one envelope on a subject with this declaration, whatever its rate."""
    return MAX_PAYLOADS if declared is None else declared.together.payloads


def _most_bytes(declared: Declared | None) -> int:
    """The most bytes of several payloads in one envelope."""
    return MAX_TOGETHER_BYTES if declared is None else declared.together.size


def _outcome(item: BurstItem) -> Stamp | SealbusError:
    error = item.verdict.exception()
    if error is None:
        return item.verdict.result()
    if isinstance(error, SealbusError):
        return error
    raise error
