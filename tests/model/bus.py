"""A bus in simulated time. Gate, pipeline, stream store, ledger, ingress worker, publisher and the
subscriber's checks are real.

Only time, the network and nats-server are simulated (:mod:`tests.model.loop`,
:mod:`tests.model.server`). Each process stops where it waits for the world, and goes on when the
schedule says so. From outside, a pause between two steps of a process looks like a delay of its
next frame on the wire. So a schedule only has to delay frames and processes.

The one assumption is :data:`TOLERANCE_MS`: no two clocks differ by more. Within this tolerance each
clock may jump at any time, and also back.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum

from sealbus.errors import Malformed
from sealbus.protocol.codec import is_bundle, split_bundle, unpack_json
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.nonces import life_ms
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import open_stamp
from sealbus_broker.gate.policy import Limits
from tests.gate.world import BUS_KEYS, NOW
from tests.model.actors import (
    BOT,
    LIMITS,
    LIVE,
    TOLERANCE_MS,
    Relay,
    Sender,
    Subscriber,
    a_policy,
    revoked,
)
from tests.model.loop import Clock, Process, simulated_time
from tests.model.server import Frame, Kept, Server, Stream, Wire


class Ends(Enum):
    """The times that may end."""

    TTL = "time-to-live"
    NONCE = "life of a nonce"
    WAIT = "wait for a relay"
    SHELF_LIFE = "shelf life of a verdict"
    WINDOW = "memory of a ledger"
    TIMER = "patience of a process"


class Bus:
    """All parts of the bus together."""

    def __init__(self, *, limits: Limits = LIMITS, relays: int = 2, short_ms: int = 0) -> None:
        """``short_ms``: how much the ledgers' windows are too short."""
        self.policy = a_policy(limits)
        self.clock = Clock(NOW)
        self._time = simulated_time(self.clock)
        self._time.__enter__()
        self.clock.offsets = dict.fromkeys(
            ("ingress", "accepted", "live", "sender", "subscriber"), 0
        )
        windows = {
            "ACCEPTED": self.policy.ledger_window_ms - short_ms,
            "LIVE": self.policy.live_window_ms - short_ms,
            "QUARANTINE": self.policy.ledger_window_ms,
        }
        self.server = Server(self.clock, windows, TOLERANCE_MS)
        self.server.stored = self._stored
        self._begun = 0
        self.relays: list[Relay] = []
        self.killed: list[str] = []
        for _ in range(relays):
            self.start_relay()
        self.sender = Sender(self.clock, self.server)
        self.sender.wire.on_write = self._capture
        self.captured: list[tuple[bytes, bool]] = []
        """Every envelope that was on the wire, and whether it was sent to be judged live."""
        self.copied = set[object]()
        """The numbers of the messages of which a copy was submitted.

        A refusal of one copy says nothing about another copy. The owner of the bot's session can
        get one copy of the same bytes refused and another accepted (docs/threats.md).
        """
        self.subscriber = Subscriber(self.clock, "subscriber")
        self.passing: list[Kept] = []
        """Messages that the server has republished, and that live subscribers have not read yet."""

    def start_relay(self) -> Relay:
        self._begun += 1
        self.clock.set(f"relay-{self._begun}", 0, TOLERANCE_MS)
        relay = Relay(self.clock, self.server, f"relay-{self._begun}", self.policy)
        self.relays.append(relay)
        return relay

    def revoke(self) -> None:
        """Put a policy in force that revokes the bot's key.

        It applies to the relays that start from now on.
        """
        self.policy = revoked(self.policy, self.clock.true_ms)

    def kill_relay(self, relay: Relay, sent: int) -> None:
        """Kill a relay. The server still gets the first ``sent`` frames that the relay wrote."""
        self.relays.remove(relay)
        self.killed.append(relay.name)
        del self.clock.offsets[relay.name]
        relay.wire.lose(sent)
        while relay.wire.out:
            self.server.read(relay.wire)
        relay.process.kill()
        self.server.pulls.pop(relay.name, None)
        self.server.relays.remove(relay.wire)

    def restart_server(self) -> None:
        """nats-server is killed, and comes back before a client has given up."""
        for relay in self.relays:
            relay.lost()
        self.server.restart()
        for relay in self.relays:
            relay.back(self.server)
        self.sender.reconnect()

    def close(self) -> None:
        """End every process, and end the simulation's time."""
        try:
            for wire in [self.sender.wire, *(relay.wire for relay in self.relays)]:
                wire.lose(0)
                wire.process.kill()
        finally:
            self._time.__exit__(None, None, None)

    # ---- steps -----------------------------------------------------------------------------------

    @property
    def durable(self) -> list[Kept]:
        """The messages that a durable subscription gets."""
        return self.server.streams["ACCEPTED"].kept

    def read(self, wire: Wire, relay: Relay) -> None:
        """Let the server read one frame. A live message goes to ``relay``."""
        if wire.out[0].subject.startswith("call."):
            self.server.call(relay.wire, BOT, wire.out.popleft().data)
        else:
            self.server.read(wire)

    def submit(self, data: bytes, relay: Relay | None) -> int:
        """The owner of a session of the bot sends these bytes.

        Without ``relay`` they are stored, and their position is returned. With it they go there
        live.
        """
        for payload in Envelope.decode(data).payloads:
            assert payload is not None
            self.copied.add(unpack_json(payload))
        if relay is None:
            return self.server.ingest(BOT, data)
        self.server.call(relay.wire, BOT, data)
        return 0

    def machines(self) -> list[str]:
        """Everything that has a clock."""
        return list(self.clock.offsets)

    def ends(self, kind: Ends) -> list[int]:
        """The moments of true time, from now on, at which a time is over by one of the clocks."""
        limits, relays = self.policy.limits, [relay.name for relay in self.relays]
        found: list[tuple[str, int]] = []
        headers = [(Envelope.decode(data).header, live) for data, live in self.captured[-4:]]
        if kind is Ends.TTL:
            for header, live in headers:
                end = header.issued_at_ms + header.ttl_ms + limits.clock_skew_ms
                found += [(machine, end) for machine in (relays if live else ["ingress"])]
        elif kind is Ends.NONCE:
            found += [("sender", header.birth_ms + life_ms(live=live)) for header, live in headers]
        elif kind is Ends.WAIT:
            ends = [
                waiting.kept.at_ms + limits.ingress_wait_ms
                for waiting in self.server.ingress.values()
            ]
            found += [(machine, end) for end in ends for machine in relays]
        elif kind is Ends.SHELF_LIFE:
            frames = [frame for relay in self.relays for frame in relay.wire.out]
            found += [
                (frame.subject.partition(".")[0], end)
                for frame in frames
                for end in _store_by(frame)
            ]
        elif kind is Ends.WINDOW:
            for stream in self.server.streams.values():
                found += [
                    (stream.leader, kept.at_ms + stream.window_ms - TOLERANCE_MS)
                    for kept in stream.kept[-2:]
                ]
        moments = {end - self.clock.offsets[machine] for machine, end in found}
        if kind is Ends.TIMER:
            moments = {
                at for process in self._processes() if (at := process.next_timer_ms()) is not None
            }
        return sorted(at for at in moments if at >= self.clock.true_ms)

    def until(self, machine: str, shows_ms: int) -> None:
        """Let time pass until the clock of ``machine`` shows ``shows_ms``."""
        at = shows_ms - self.clock.offsets[machine]
        assert at >= self.clock.true_ms, f"that was {self.clock.true_ms - at} ms ago"
        self.clock.true_ms = at

    def set(self, machine: str, where: int) -> None:
        """Set a clock back (-1) or ahead (1), as far as the tolerance allows."""
        self.clock.set(machine, where, TOLERANCE_MS)

    def drift(self, ms: int) -> None:
        """All clocks jump together, because the code only compares clocks with each other."""
        for machine in self.clock.offsets:
            self.clock.offsets[machine] += ms

    def arrive(self) -> int:
        """The server reads everything that the sender has written.

        Returns the position of the last message that it stored.
        """
        while self.sender.wire.out:
            self.server.read(self.sender.wire)
        return self.server.position

    def asks(self, relay: Relay) -> bool:
        """Whether a relay asks for messages.

        A relay that does not ask may first have frames to write.
        """
        if not self.server.pulls.get(relay.name):
            self.finish(relay)
        return bool(self.server.pulls.get(relay.name))

    def hand(self, relay: Relay, position: int) -> None:
        """The server delivers an ingress message.

        The relay works on it until it waits for the server.
        """
        assert self.asks(relay), "the relay does not ask for messages"
        assert self.server.give(relay.wire, position), "it is acknowledged, or another relay has it"
        relay.wire.deliver(len(relay.wire.coming))

    def finish(self, relay: Relay) -> None:
        """Let a relay and the server talk until neither has a frame left.

        Ingress messages are not delivered.
        """
        relay.process.run()
        while relay.wire.out or relay.wire.coming:
            while relay.wire.out:
                self.server.read(relay.wire)
            relay.wire.deliver(len(relay.wire.coming))

    def handle_all(self) -> None:
        """Subscribers get all stored and all passing messages."""
        for kept in self.durable:
            self.subscriber.durable(kept)
        while self.passing:
            self.subscriber.live(self.passing.pop(0))

    # ---- the attacker's view ---------------------------------------------------------------------

    def _capture(self, frame: Frame) -> None:
        if frame.subject.startswith(("send.", "call.")):
            envelopes = split_bundle(frame.data) if is_bundle(frame.data) else [frame.data]
            for envelope in envelopes:
                self.captured.append((envelope, frame.subject.startswith("call.")))

    def _stored(self, stream: Stream, kept: Kept) -> None:
        if stream.name in ("ACCEPTED", "LIVE"):
            self.passing.append(kept)

    # ---- the promises ----------------------------------------------------------------------------

    def faults(self) -> list[str]:
        """All broken promises, in words."""
        found = [f"unhandled: {error}" for process in self._processes() for error in process.errors]
        acceptances: dict[bytes, set[tuple[str, int]]] = defaultdict(set)
        numbers: dict[int, set[tuple[str, int]]] = defaultdict(set)
        for message, kept in self.subscriber.handled:
            place = kept.subject.partition(".")[0], kept.sequence
            acceptances[message.nonce].add(place)
            numbers[message.payload].add(place)
        found += [
            f"handled through {len(places)} acceptances: {sorted(places)}"
            for places in acceptances.values()
            if len(places) > 1
        ]
        held = {
            message.payload for kept in self.durable for message in self.subscriber.believes(kept)
        }
        for told in self.sender.told:
            places = numbers.get(told.number, set())
            if len(places) > 1:
                through = f"{len(places)} acceptances: {sorted(places)}"
                found.append(f"message {told.number} was handled through {through}")
            if told.outcome == "accepted" and told.subject != LIVE and told.number not in held:
                found.append(
                    f"message {told.number} was told as accepted, and no subscriber will handle it"
                )
            if told.outcome == "refused" and places and told.number not in self.copied:
                refused = f"was told as refused ({told.reason})"
                found.append(f"message {told.number} {refused}, and handled: {sorted(places)}")
        return found

    def _processes(self) -> list[Process]:
        return [*(relay.process for relay in self.relays), self.sender.process]

    # ---- a fair ending ---------------------------------------------------------------------------

    def settle(self, for_ms: int = 60_000) -> None:
        """Let everything go on without delay for ``for_ms``."""
        end = self.clock.true_ms + for_ms
        while True:
            self.exchange()
            timers = [
                at for process in self._processes() if (at := process.next_timer_ms()) is not None
            ]
            at = min(timers, default=end)
            if at > end:
                return
            self.clock.true_ms = max(self.clock.true_ms + 1, at)

    def around(self) -> bool:
        """Deliver once all frames that are under way. Returns whether there were any."""
        return self._exchange_once()

    def exchange(self) -> None:
        """Deliver frames until none is under way."""
        for _ in range(1000):
            if not self._exchange_once():
                return
        raise AssertionError("the processes never come to rest")

    def _exchange_once(self) -> bool:
        for process in self._processes():
            process.run()
        wires = [*(relay.wire for relay in self.relays), self.sender.wire]
        moved = False
        for wire in wires:
            while wire.out:
                moved = True
                self.read(wire, self.relays[0])
        for position in list(self.server.ingress):
            moved |= any(self.server.give(relay.wire, position) for relay in self.relays)
        for wire in wires:
            if wire.coming:
                moved = True
                wire.deliver(len(wire.coming))
        return moved


def _store_by(frame: Frame) -> Iterator[int]:
    """The time by which the delivery in ``frame`` must be stored.

    There is none if the frame is not a delivery.
    """
    with contextlib.suppress(Malformed):
        _, stamp = split_delivery(frame.data)
        store_by_ms = open_stamp(stamp, BUS_KEYS, Verifier()).store_by_ms
        if store_by_ms is not None:
            yield store_by_ms
