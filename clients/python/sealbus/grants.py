"""The grants of a bot, as the bus tells them: which subjects are live, how fast the bot may send,
where it may listen.

The answer to ``sealbus.grants`` becomes a :class:`Grants`. :class:`KnownGrants` keeps the newest
one: it asks with each new connection, and when a stamp names another policy than the one that the
grants came from. The relay judges by its policy, whatever is known here. Grants only spare a client
messages that would be refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sealbus.asking import Insistence
from sealbus.errors import CredentialsError, InvalidInput, Malformed, NotConnected, SealbusError
from sealbus.log import log
from sealbus.outcomes import NoReply, Refused, RequestFailed, Unresolved
from sealbus.protocol.answer import ASK_AGAIN, BUSY_PAUSE_S
from sealbus.protocol.delivery import Message
from sealbus.protocol.limits import most_values
from sealbus.protocol.subjects import matches, overlap
from sealbus.protocol.together import WIDEST, Together
from sealbus.supervision import Supervisor, end

GRANTS: Final = "sealbus.grants"
"""The bus's own subject that tells them."""

ASK_AGAIN_S: Final = 5.0
"""Least time between two questions that stamps of another policy cause: while relays change over,
each has its own."""

MAX_SPREAD_MS: Final = 60_000
"""The longest time over which bots are asked to spread their return. It is the time of 15,000
logins, and more than one server has connections."""

LATE_AGAIN_S: Final = 60.0
"""Least time between two questions that late messages cause. Messages are late on a bus that is
busy too, and then questions should be few."""

REMEMBERED: Final = 4096
"""Subjects whose declaration is kept at hand."""


@dataclass(frozen=True, slots=True)
class GrantedRate:
    """At most ``per_second`` messages a second on the subjects of one declaration, ``burst`` of
    them at once."""

    per_second: float
    burst: int
    """Messages; at least 1."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One declaration of the policy: a subject, or a pattern of them."""

    pattern: str
    live: bool
    """Whether messages are judged at once and not stored."""
    schemas: tuple[str, ...]
    """The first is the default."""
    rate: GrantedRate | None
    """Of one bot, all its processes together; ``None``: no limit."""
    reply: bool
    """Whether it takes requests."""
    max_bytes: int
    """Largest payload, answers included."""
    parent: str | None
    """The parts of a parent that a message here carries: its ``stamp``, the ``envelope`` too, or
    nothing (``None``)."""
    together: Together = WIDEST
    """How much an envelope of several messages takes."""

    @property
    def max_values(self) -> int:
        """Most values in a payload, map keys included."""
        return most_values(self.max_bytes)


@dataclass(frozen=True, slots=True)
class PolicyLimits:
    """The policy's limits that a bot meets. Times in milliseconds."""

    ttl_ms: int
    """Longest life of an envelope on a stream subject."""
    live_ttl_ms: int
    """The same on a live subject."""
    clock_skew_ms: int
    """How far two clocks may differ."""
    session_ms: int
    """How long a login lasts."""
    attempts: int
    """How often a failing message is tried."""
    subscriptions: int
    """Most durable subscriptions of one bot."""


@dataclass(frozen=True, slots=True)
class Grants:
    """One bot's part of the policy."""

    policy: bytes
    """Digest of the policy (32 bytes), as in stamps."""
    relay: str
    """Name of the relay that told them."""
    publish: tuple[str, ...]
    """Patterns of the subjects that the bot may publish on."""
    subscribe: tuple[str, ...]
    """Patterns of the subjects that it may listen to."""
    declared: tuple[Declared, ...]
    """Declarations that concern the bot."""
    limits: PolicyLimits
    spread_ms: int
    """Over how long bots of this bus spread their return when a server is back (ms)."""
    complete: bool
    """Whether all of it is here. A bot with very many grants is told the first."""
    _known: dict[str, Declared | None] = field(default_factory=dict, repr=False, compare=False)
    """Look-ups so far, by subject. The one part that changes; it says nothing new."""

    @classmethod
    def read(cls, payload: Any) -> Grants:
        """The grants in an answer's payload. Raises :class:`Malformed`."""
        try:
            return cls(
                policy=bytes.fromhex(payload["policy"]),
                relay=payload["relay"],
                publish=tuple(payload["publish"]),
                subscribe=tuple(payload["subscribe"]),
                declared=tuple(_declared(subject) for subject in payload["subjects"]),
                limits=_limits(payload["limits"]),
                # A relay of before does not tell it.
                spread_ms=min(max(0, int(payload.get("spread", 0))), MAX_SPREAD_MS),
                complete=payload["complete"],
            )
        except (KeyError, TypeError, ValueError):
            raise Malformed(
                f"the relay's answer on {GRANTS} cannot be read",
                hint="is this library older than the relay?",
            ) from None

    def find(self, subject: str) -> Declared | None:
        """The declaration of ``subject``; ``None`` if there is none that concerns this bot, or it
        is not known."""
        try:
            return self._known[subject]
        except KeyError:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = next((one for one in self.declared if matches(one.pattern, subject)), None)
            self._known[subject] = found
            return found

    def may_subscribe(self, pattern: str) -> bool:
        """Whether everything that ``pattern`` stands for is granted; true also where that is not
        known."""
        return not self.complete or any(matches(grant, pattern) for grant in self.subscribe)

    def is_live(self, pattern: str) -> bool | None:
        """Whether all declarations that ``pattern`` covers or touches are live; ``None`` if none is
        known."""
        classes = {one.live for one in self.declared if overlap(one.pattern, pattern)}
        return classes == {True} if classes else None


def _declared(subject: Mapping[str, Any]) -> Declared:
    rate = subject["rate"]
    return Declared(
        pattern=subject["pattern"],
        live={"live": True, "stream": False}[subject["delivery"]],
        schemas=tuple(subject["schemas"]),
        rate=None if rate is None else GrantedRate(float(rate["per_second"]), int(rate["burst"])),
        reply=bool(subject["reply"]),
        max_bytes=int(subject["max_bytes"]),
        parent={None: None, "stamp": "stamp", "envelope": "envelope"}[subject["parent"]],
        together=Together(
            payloads=int(subject["together"]["payloads"]), size=int(subject["together"]["bytes"])
        ),
    )


def _limits(limits: Mapping[str, Any]) -> PolicyLimits:
    return PolicyLimits(
        ttl_ms=int(limits["ttl"]),
        live_ttl_ms=int(limits["live_ttl"]),
        clock_skew_ms=int(limits["clock_skew"]),
        session_ms=int(limits["session"]),
        attempts=int(limits["attempts"]),
        subscriptions=int(limits["subscriptions"]),
    )


class KnownGrants:
    """The newest grants, and the task that asks for newer ones.

    How it works. Grants are *unknown* until the first answer. From then on there are always some,
    and newer ones replace them. One question is under way at a time, and it is asked until it is
    answered, or fails in a way that another question would not change. A failure is told to whoever
    waits for the first grants; the next connection asks again. When the connection is lost, the
    grants stay.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Message]],
        supervisor: Supervisor,
        on_grants: Callable[[Grants], None] | None = None,
    ) -> None:
        """``ask`` asks once on :data:`GRANTS`. Raises :class:`Refused`, :class:`Unresolved` or
        :class:`NoReply`. ``supervisor``: answers for the task that asks. ``on_grants``: told of
        each answer."""
        self._ask = ask
        self._on_grants = on_grants
        self._supervisor = supervisor
        self._asking: asyncio.Task[None] | None = None
        """The last question, which may be over."""
        self._answered = asyncio.Event()
        """Set while there are grants, or a failure."""
        self._failure: SealbusError | None = None
        """Why the grants are unknown."""
        self._not_before = 0.0
        """No question because of a stamp before this time, by the loop's clock."""
        self._late_not_before = 0.0
        """No question because of a late message before this time."""
        self._changed = asyncio.Event()
        """Set when there are grants by another policy. Each waiter has the event of its time."""
        self.grants: Grants | None = None
        """``None`` while they are unknown."""
        self.refused: Refused | None = None
        """The last refusal of the question that is under way. ``None``: it was not refused."""

    async def get(self) -> Grants:
        """The grants; waits for the first.

        Raises :class:`Refused` where the bus refuses to tell them, :class:`CredentialsError` where
        the bot cannot believe the bus, and :class:`NotConnected` when the bot is closed.
        """
        while self.grants is None:
            await self._answered.wait()
            if self._failure is not None:
                raise self._failure
        return self.grants

    async def renewed(self, timeout_s: float) -> Grants:
        """Grants that were asked for just now; those that are known if there is no answer in
        time."""
        self.renew()
        assert self._asking is not None
        # wait() and not wait_for(): the question goes on when this caller's time is over.
        await asyncio.wait([self._asking], timeout=timeout_s)
        return await self.get()

    async def changed(self, timeout_s: float) -> None:
        """Wait until there are grants by another policy, for ``timeout_s`` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def find(self, subject: str) -> Declared | None:
        """The declaration of ``subject``, if it is known."""
        return None if self.grants is None else self.grants.find(subject)

    async def way(
        self,
        subject: str,
        live: bool | None,
        timeout_s: float,
    ) -> tuple[bool, Declared | None]:
        """Whether a message on ``subject`` goes live, and the subject's declaration if it is known.

        ``live`` is the author's word, or ``None``. Raises :class:`InvalidInput` if the policy
        says otherwise.
        """
        if live is None and self.grants is None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self.get()
            except TimeoutError:
                raise NotConnected(
                    f"no relay told within {timeout_s:g} s whether {subject} is live; "
                    "nothing was sent",
                    hint="is a relay running?",
                ) from None
        declared = self.find(subject)
        if declared is None:
            return bool(live), None  # the relay refuses it, and says why
        if live is None or live is declared.live:
            return declared.live, declared
        declared = (await self.renewed(timeout_s)).find(subject)  # the policy may have changed
        if declared is not None and live is not declared.live:
            kind = "live" if declared.live else "a stream"
            raise InvalidInput(
                f"live={live} is wrong for {subject}: the policy declares it as {kind}",
                hint="leave `live` out: the bus tells the bot which subjects are live",
            )
        return live, declared

    def renew(self) -> None:
        """Ask, unless a question is under way. Call with each new connection."""
        if self._asking is None or self._asking.done():
            if self.grants is None:
                # A failure of the last session is no answer of this one.
                self._answered.clear()
                self._failure = None
            self.refused = None
            # After any question, because a stamp soon after it brings nothing new.
            self._not_before = asyncio.get_running_loop().time() + ASK_AGAIN_S
            self._asking = self._supervisor.piece("asking for grants", self._insist(), self._failed)

    def notice(self, policy: bytes) -> None:
        """A stamp was given by ``policy``: ask again if the grants are another's."""
        if self.grants is None or self.grants.policy == policy:
            return
        # While relays change over, stamps of the old policy and the new one alternate.
        if asyncio.get_running_loop().time() >= self._not_before:
            self.renew()

    def notice_late(self) -> None:
        """A live message came too late, or this machine's clock is ahead: ask again, because the
        verdict on the question shows which."""
        now = asyncio.get_running_loop().time()
        if self.grants is not None and now >= self._late_not_before:
            self._late_not_before = now + LATE_AGAIN_S
            self.renew()

    async def close(self) -> None:
        """Ask no more; whoever still waits is told that the bot is closed."""
        if self._asking is not None:
            await end(self._asking)
        self._failure = NotConnected("the bot was closed before the bus told its grants")
        self._answered.set()

    def _failed(self) -> None:
        """Asking ended by a mistake of this library. Whoever waits is told, and the next session
        asks again."""
        self._failure = SealbusError(
            "the bus's answer about this bot's grants could not be read",
            hint="the log names the error: report it",
        )
        self._answered.set()

    def _take(self, grants: Grants) -> None:
        before, self.grants = self.grants, grants
        if self._on_grants is not None:
            self._on_grants(grants)
        if before is not None and before.policy != grants.policy:
            # Who waits now is woken, and who waits later waits for another change.
            self._changed.set()
            self._changed = asyncio.Event()

    async def _insist(self) -> None:
        insistence = Insistence()
        while True:
            try:
                self._take(Grants.read((await self._ask()).payload))
                self.refused = None
            except (NoReply, Unresolved) as error:
                cause = error.__cause__
                if not isinstance(cause, CredentialsError):
                    # No pause: the question has waited for its whole time already.
                    log.debug("no answer on %s yet: %s", GRANTS, error.what)
                    continue
                # Without the nonce: that one names the question, and no message of the author.
                log.warning("the bus does not tell this bot's grants: %s", cause.what)
                self._failure = cause
            except RequestFailed as failed:
                if failed.error in ASK_AGAIN:
                    log.debug("no grants from %s yet: %s", GRANTS, failed.message)
                    await asyncio.sleep(BUSY_PAUSE_S)
                    continue
                log.warning("the bus does not tell this bot's grants: %s", failed.what)
                self._failure = failed
            except Refused as refused:
                pause_s = insistence.pause_s(refused)
                if pause_s is not None:
                    log.debug("no grants yet: %s", refused.what)
                    self.refused = refused
                    await asyncio.sleep(pause_s)
                    continue
                log.warning("the bus does not tell this bot's grants: %s", refused.what)
                self._failure = refused
            except Malformed as error:
                log.warning("the bus does not tell this bot's grants: %s", error.what)
                self._failure = error
            else:
                self._failure = None
            self._answered.set()
            return
