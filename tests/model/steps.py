"""The steps that may happen on the simulated bus, one at a time, in any order.

Everything may be delayed for any time. The only assumption is the tolerance of the clocks. A
schedule is a list of numbers. The first of three numbers chooses a step among those that may happen
now. The others choose its subject.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from tests.model.actors import LIVE, RATED, STORED, Relay
from tests.model.bus import Bus, Ends
from tests.model.server import Wire

T = TypeVar("T")

MESSAGES: Final = 3
"""The number of messages of the honest bot in one schedule. Each has enough attempts and copies."""

KILLS: Final = 2
"""The number of killed relays, and of restarts of the server."""

SPANS_MS: Final = (1, 50, 1_000, 5_000, 11_000)
"""How much time passes in a step that does not wait for the end of a time, in ms."""

Step = Callable[[int, int], str]
"""A step takes two numbers, and returns a description of its effect."""


class Steps:
    """One schedule under way."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.done: list[str] = []
        """A description of each step."""
        self._restarts = 0
        self._is_revoked = False

    def take(self, pick: int, one: int, two: int) -> None:
        """Do one of the steps that may happen now."""
        possible = self._possible()
        self.done.append(possible[pick % len(possible)](one, two))

    def check(self) -> None:
        """Fail if a promise is broken."""
        faults = self.bus.faults()
        assert not faults, "\n".join(["", *self.done, *(f"** {fault}" for fault in faults)])

    def _possible(self) -> list[Step]:
        bus = self.bus
        always: list[Step] = [
            self._sender_runs,
            self._relay_runs,
            self._talk,
            self._expired,
            self._all_goes_on,
        ]
        always += [self._time_passes, self._until, self._until, self._clock_jumps]
        sometimes: list[tuple[Step, object]] = [
            (self._say, len(bus.sender.told) < MESSAGES),
            (self._sender_reads, bus.sender.wire.coming),
            (self._server_reads, self._with_frames()),
            (self._delivered, self._deliverable()),
            (self._taken, self._deliverable()),
            (self._relay_reads, self._with_post()),
            (self._relay_killed, len(bus.killed) < KILLS),
            (self._server_killed, self._restarts < KILLS),
            (self._revoked, not self._is_revoked and len(bus.sender.told) == MESSAGES),
            (self._handled, bus.durable),
            (self._heard, bus.passing),
            (self._copied, bus.captured),
        ]
        return always + [step for step, may in sometimes if may]

    # ---- the honest bot --------------------------------------------------------------------------

    def _say(self, one: int, two: int) -> str:
        subject, timeout_s = _of((STORED, LIVE, RATED), one), _of((30, 5), two)
        count = min(1 + two // 2 % 3, MESSAGES - len(self.bus.sender.told))
        self.bus.sender.say(subject, timeout_s, resumes=one % 3 == 0, count=count)
        then = ", and then asks again" if one % 3 == 0 else ""
        return f"the bot publishes {count} on {subject}, and waits {timeout_s} s{then}"

    def _sender_reads(self, one: int, two: int) -> str:
        self.bus.sender.wire.deliver(1)
        return "the bot reads one receipt"

    def _sender_runs(self, one: int, two: int) -> str:
        self.bus.sender.process.run()
        return "the bot runs"

    # ---- the network and the server --------------------------------------------------------------

    def _server_reads(self, one: int, two: int) -> str:
        wire = _of(self._with_frames(), one)
        subject = wire.out[0].subject
        self.bus.read(wire, self._relay(two))
        return f"the server reads from {wire.name}: {subject}"

    def _delivered(self, one: int, two: int) -> str:
        """A message is delivered for the first time, or again because it was not acknowledged."""
        relay, position = self._relay(two), _of(self._deliverable(), one)
        given = self.bus.server.give(relay.wire, position)
        return f"ingress message {position} is {'' if given else 'not '}delivered to {relay.name}"

    def _taken(self, one: int, two: int) -> str:
        """A message is delivered and judged.

        The frames that the relay then writes are still under way.
        """
        relay = self._relay(two)
        asks, positions = self.bus.asks(relay), self._deliverable()
        if not asks or not positions:
            return f"{relay.name} gets nothing"
        position = _of(positions, one)
        self.bus.hand(relay, position)
        return f"{relay.name} is given ingress message {position}, and works on it"

    def _expired(self, one: int, two: int) -> str:
        relay = self._relay(one)
        self.bus.server.expire(relay.wire)
        return f"the requests of {relay.name} end"

    def _all_goes_on(self, one: int, two: int) -> str:
        self.bus.around()
        return "everything that is under way arrives, once around"

    def _server_killed(self, one: int, two: int) -> str:
        self._restarts += 1
        self.bus.restart_server()
        return "nats-server is killed, and comes back"

    # ---- relays ----------------------------------------------------------------------------------

    def _relay_reads(self, one: int, two: int) -> str:
        relay = _of(self._with_post(), one)
        count = 1 + two % 3
        relay.wire.deliver(count)
        return f"{relay.name} reads {count} frames, and runs"

    def _relay_runs(self, one: int, two: int) -> str:
        relay = self._relay(one)
        relay.process.run()
        return f"{relay.name} runs"

    def _talk(self, one: int, two: int) -> str:
        relay = self._relay(one)
        self.bus.finish(relay)
        return f"{relay.name} and the server talk until neither has more to say"

    def _relay_killed(self, one: int, two: int) -> str:
        relay, sent = self._relay(one), two % 4
        self.bus.kill_relay(relay, sent)
        self.bus.start_relay()
        return f"{relay.name} is killed; {sent} of its frames still arrive"

    def _revoked(self, one: int, two: int) -> str:
        """A relay reads its policy when it starts."""
        self._is_revoked = True
        self.bus.revoke()
        self.bus.start_relay()
        return "the bot's key is revoked, for the relay that starts now and for later ones"

    # ---- subscribers -----------------------------------------------------------------------------

    def _handled(self, one: int, two: int) -> str:
        """A message is handled for the first time, or again after a restart, which forgets it."""
        kept = _of(self.bus.durable, one)
        handled = self.bus.subscriber.durable(kept)
        return f"stored message {kept.sequence} is {'' if handled else 'not '}handled"

    def _heard(self, one: int, two: int) -> str:
        kept = self.bus.passing.pop(0)
        heard = self.bus.subscriber.live(kept)
        return f"message {kept.sequence} on {kept.subject} is {'' if heard else 'not '}handled live"

    # ---- the attacker ----------------------------------------------------------------------------

    def _copied(self, one: int, two: int) -> str:
        at = one % len(self.bus.captured)
        data, live = self.bus.captured[at]
        relay = self._relay(two) if live else None
        position = self.bus.submit(data, relay)
        where = f"to {relay.name}" if relay else f"as ingress message {position}"
        return f"a copy of envelope {at} is submitted {where}"

    # ---- time ------------------------------------------------------------------------------------

    def _time_passes(self, one: int, two: int) -> str:
        ms = _of(SPANS_MS, one)
        self.bus.clock.true_ms += ms
        return f"{ms} ms pass"

    def _until(self, one: int, two: int) -> str:
        """Time passes until a time is just not over, or just over, by one of the clocks."""
        kind, beyond = _of(tuple(Ends), one), two % 2
        ends = self.bus.ends(kind)
        if not ends:
            return "no time passes"
        before, self.bus.clock.true_ms = self.bus.clock.true_ms, _of(ends, two // 2) + beyond
        over = "just over" if beyond else "not yet over"
        return f"{self.bus.clock.true_ms - before} ms pass: {kind.value}, {over}"

    def _clock_jumps(self, one: int, two: int) -> str:
        machine, where = _of(self.bus.machines(), one), _of((-1, 1, 0), two)
        self.bus.set(machine, where)
        return f"the clock of {machine} jumps: {self.bus.clock.offsets[machine]} ms"

    # ---- choices ---------------------------------------------------------------------------------

    def _relay(self, which: int) -> Relay:
        return _of(self.bus.relays, which)

    def _deliverable(self) -> list[int]:
        server, now_ms = self.bus.server, self.bus.clock.true_ms
        return [
            position for position, waiting in server.ingress.items() if waiting.again_ms <= now_ms
        ]

    def _with_post(self) -> list[Relay]:
        return [relay for relay in self.bus.relays if relay.wire.coming]

    def _with_frames(self) -> list[Wire]:
        return [
            wire
            for wire in (self.bus.sender.wire, *(relay.wire for relay in self.bus.relays))
            if wire.out
        ]


def _of(several: Sequence[T], which: int) -> T:
    return several[which % len(several)]
