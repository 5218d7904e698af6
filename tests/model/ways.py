"""Schedules in which an envelope, or the attempts under one nonce, reach the bus a second time.

Each happens as late as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from sealbus.protocol.envelope import Draft, Envelope, seal_envelopes
from sealbus.protocol.limits import LIVE_WAIT_MS
from sealbus.protocol.nonces import life_ms
from sealbus.protocol.shelf_life import shelf_life_ms
from tests.gate.parts import Parts
from tests.model.actors import LIMITS, LIVE, RATED, SKEW_MS, STORED, Relay, revoked
from tests.model.bus import Bus
from tests.model.server import ACK_WAIT_MS


def longest(bus: Bus) -> None:
    """The store stores a first copy as early as possible, and a last one as late as possible.

    Each time in the window is used up to its last millisecond. Each clock is as wrong as it may be.
    """
    relay = bus.relays[0]
    bus.set("sender", 1)
    bus.sender.say(STORED, life_ms(live=False) / 1000)
    first = bus.arrive()  # issued as far ahead of the ingress's clock as possible
    bus.set("sender", -1)
    bus.set("accepted", -1)  # stored even earlier by the store's clock
    bus.hand(relay, first)
    bus.finish(relay)
    bus.handle_all()  # the receipt is under way

    birth_ms = Envelope.decode(bus.captured[0][0]).header.birth_ms
    bus.set("accepted", 1)
    bus.set("sender", 1)
    bus.drift(1)  # so the publisher's patience, which is as long, is not over
    bus.until("sender", birth_ms + life_ms(live=False))
    bus.sender.process.run()  # its last attempt, at the end of the nonce's life
    issued_ms = Envelope.decode(bus.captured[-1][0]).header.issued_at_ms
    assert issued_ms == birth_ms + life_ms(live=False)
    bus.until("ingress", issued_ms + LIMITS.ttl_ms + SKEW_MS)
    last = bus.arrive()
    _store_late(bus, relay, last, LIMITS.ingress_wait_ms)


def longest_live(bus: Bus) -> None:
    """The same for a live message, whose arrival is the relay's own time.

    It waits in the relay behind another message.
    """
    relay = bus.relays[0]
    bus.set("sender", 1)
    bus.sender.say(LIVE, life_ms(live=True) / 1000)
    _call(bus, relay)
    bus.set("sender", -1)
    bus.set("live", -1)
    bus.finish(relay)
    bus.handle_all()

    birth_ms = Envelope.decode(bus.captured[0][0]).header.birth_ms
    bus.set("live", 1)
    bus.set("sender", 1)
    bus.drift(1)
    bus.until("sender", birth_ms + life_ms(live=True))
    bus.sender.process.run()
    last, _ = bus.captured[-1]
    issued_ms = Envelope.decode(last).header.issued_at_ms
    assert issued_ms == birth_ms + life_ms(live=True)
    bus.sender.wire.out.clear()
    bus.until(relay.name, issued_ms + LIMITS.live_ttl_ms + SKEW_MS)
    bus.sender.say(LIVE, 5)
    _call(bus, relay)  # the other message is being stored
    bus.submit(last, relay)
    relay.wire.deliver(1)
    bus.until(relay.name, bus.clock.now_ms(relay.name) + LIVE_WAIT_MS)
    while relay.wire.out:
        bus.server.read(relay.wire)
    relay.wire.deliver(len(relay.wire.coming))  # it is stored, and the last copy is judged
    bus.set("sender", -1)
    bus.set("subscriber", -1)  # a live subscriber uses its own clock
    bus.until("live", bus.clock.now_ms(relay.name) + shelf_life_ms(live=True) + SKEW_MS)
    bus.finish(relay)
    bus.handle_all()


def sealed_again(bus: Bus) -> None:
    """A client seals a message again under its nonce, after the ledger forgot the first time."""
    relay = bus.relays[0]
    first = _accepted(bus, relay, STORED)
    _forget(bus, "ACCEPTED")
    header = Envelope.decode(first).header
    header = replace(header, issued_at_ms=bus.clock.now_ms("sender"))
    (again,) = seal_envelopes(bus.sender.session.key, [Draft(header, Parts.of(first).payloads)])
    bus.hand(relay, bus.submit(again.data, None))
    bus.finish(relay)
    bus.handle_all()


def stalled_store(bus: Bus) -> None:
    """A copy is judged in time, but the relay's frame comes after the ledger forgot the first."""
    relay = bus.relays[0]
    first = _accepted(bus, relay, STORED)
    copy = bus.submit(first, None)
    bus.hand(relay, copy)
    _forget(bus, "ACCEPTED")
    while relay.wire.out:
        bus.server.read(relay.wire)
    bus.finish(relay)
    bus.handle_all()


def stalled_turn(bus: Bus) -> None:
    """The same, but the judged copy waits in the relay while another message is being stored."""
    relay = bus.relays[0]
    first = _accepted(bus, relay, STORED)
    bus.sender.say(STORED)
    bus.hand(relay, bus.arrive())
    bus.hand(relay, bus.submit(first, None))
    _forget(bus, "ACCEPTED")
    bus.settle(3_000)
    bus.handle_all()


def honest_and_late(bus: Bus) -> None:
    """The store takes longer than a verdict's shelf life.

    The relay makes the next attempt itself.
    """
    relay = bus.relays[0]
    bus.sender.say(STORED)
    bus.hand(relay, bus.arrive())
    bus.until("accepted", bus.clock.now_ms(relay.name) + shelf_life_ms(live=False) + SKEW_MS + 1)
    for _ in range(3):
        while relay.wire.out:
            bus.server.read(relay.wire)
        bus.finish(relay)
        bus.clock.true_ms += 100
    bus.sender.wire.deliver(len(bus.sender.wire.coming))
    assert bus.sender.told[0].outcome == "accepted"


def answer_lost(bus: Bus) -> None:
    """A message is stored, but the relay does not learn it.

    When the relay tries again, the message has waited too long.
    """
    relay = bus.relays[0]
    bus.sender.say(STORED, 5)
    position = bus.arrive()
    bus.until(relay.name, bus.server.ingress[position].kept.at_ms + LIMITS.ingress_wait_ms)
    _stored_without_answer(bus, relay, position)
    _read_receipts(bus)


def revoked_meanwhile(bus: Bus) -> None:
    """The same, but when the relay tries again the key's revocation has taken effect."""
    relay = bus.relays[0]
    bus.sender.say(STORED, 5)
    position = bus.arrive()
    relay.policy = revoked(bus.policy, bus.clock.now_ms(relay.name) + 1_000)
    _stored_without_answer(bus, relay, position)
    _read_receipts(bus)


def revoked_while_away(bus: Bus) -> None:
    """A relay's frame is lost with its connection.

    When the relay is back, the key's revocation has taken effect.
    """
    relay = bus.relays[0]
    bus.finish(relay)
    bus.sender.say(STORED, 5)
    position = bus.arrive()
    relay.policy = revoked(bus.policy, bus.clock.now_ms(relay.name) + 3_000)
    bus.hand(relay, position)
    relay.lost()
    bus.clock.true_ms += 3_000
    relay.back(bus.server)
    bus.finish(relay)
    bus.handle_all()
    _read_receipts(bus)


def slow_write(bus: Bus, refuses: Callable[[Bus, Relay], None]) -> None:
    """A relay has written a message, and is stopped. Another relay gets the message, and refuses
    it.

    Then the server reads the frame of the first relay.
    """
    slow, other = bus.relays
    bus.finish(other)
    bus.sender.say(STORED)
    position = bus.arrive()
    bus.clock.true_ms += LIMITS.ingress_wait_ms - ACK_WAIT_MS
    bus.hand(slow, position)
    bus.clock.true_ms += ACK_WAIT_MS
    refuses(bus, other)
    bus.finish(other)
    bus.server.expire(other.wire)
    bus.hand(other, position)
    bus.finish(other)
    while slow.wire.out:
        bus.server.read(slow.wire)
    bus.handle_all()
    _read_receipts(bus)


def _for_its_wait(bus: Bus, other: Relay) -> None:
    bus.clock.true_ms += 1


def _for_its_key(bus: Bus, other: Relay) -> None:
    other.policy = revoked(bus.policy, bus.clock.now_ms(other.name))


def _for_a_key_that_is_gone(bus: Bus, other: Relay) -> None:
    other.policy = replace(bus.policy, bots={})


def two_hold_it(bus: Bus) -> None:
    """One relay has a message in hand and is stopped.

    Another relay gets the message, accepts it, and is stopped before it answers.
    """
    slow, quick = bus.relays
    bus.sender.say(STORED)
    position = bus.arrive()
    bus.finish(slow)
    bus.finish(quick)
    assert bus.server.give(slow.wire, position)
    bus.clock.true_ms += ACK_WAIT_MS
    bus.hand(quick, position)
    while quick.wire.out:
        bus.server.read(quick.wire)
    bus.handle_all()
    bus.clock.true_ms += LIMITS.ingress_wait_ms + 1_000
    bus.finish(slow)
    _read_receipts(bus)


def one_stored_one_refused(bus: Bus) -> None:
    """An attempt is stored, and its relay dies before it answers.

    The next attempt is refused, because clocks jump while it is under way.
    """
    one, other = bus.relays
    bus.sender.say(STORED)
    bus.hand(one, bus.arrive())
    while one.wire.out:
        bus.server.read(one.wire)
    bus.handle_all()
    bus.kill_relay(one, 0)
    bus.clock.true_ms += 1_000
    bus.set("sender", 1)
    bus.sender.process.run()
    bus.set("sender", -1)
    bus.set("ingress", -1)
    bus.hand(other, bus.arrive())
    bus.finish(other)
    bus.sender.wire.deliver(len(bus.sender.wire.coming))


def killed_after(bus: Bus, frames: int) -> None:
    """A relay refuses a message because of its rate.

    The relay is killed when the server has read ``frames`` of its frames.
    """
    one, other = bus.relays
    _accepted(bus, one, RATED)
    bus.sender.say(RATED)
    bus.hand(one, bus.arrive())
    for _ in range(frames):
        if not one.wire.out:
            one.wire.deliver(len(one.wire.coming))
        if one.wire.out:
            bus.server.read(one.wire)
    bus.kill_relay(one, 0)
    bus.sender.wire.deliver(len(bus.sender.wire.coming))
    bus.clock.true_ms += ACK_WAIT_MS
    for position in list(bus.server.ingress):
        bus.hand(other, position)
        bus.finish(other)
    bus.handle_all()


def forgotten_by_a_restart(bus: Bus) -> None:
    """A retry is issued after the live ledger was lost, because it is in memory.

    The retry has a nonce that was accepted before.
    """
    _attempt_again_after_a_restart(bus, resumes=False)


def asked_again_after_a_restart(bus: Bus) -> None:
    """The same, but the application is told *unknown*, and asks again under its nonce."""
    _attempt_again_after_a_restart(bus, resumes=True)


def _attempt_again_after_a_restart(bus: Bus, *, resumes: bool) -> None:
    relay = bus.relays[0]
    bus.sender.say(LIVE, resumes=resumes)
    _call(bus, relay)
    bus.finish(relay)
    bus.handle_all()
    bus.restart_server()
    bus.sender.wire.out.clear()
    bus.clock.true_ms += 2 * SKEW_MS + 1_000
    bus.sender.process.run()
    _call(bus, relay)
    bus.finish(relay)
    bus.handle_all()


def judged_before_a_restart(bus: Bus) -> None:
    """A copy is judged. While it is being stored, the live ledger begins anew.

    The relay tries again at once.
    """
    relay = bus.relays[0]
    first = _accepted(bus, relay, LIVE)
    bus.submit(first, relay)
    relay.wire.deliver(1)
    bus.restart_server()
    bus.finish(relay)
    bus.handle_all()


def _accepted(bus: Bus, relay: Relay, subject: str) -> bytes:
    """Get a message accepted and handled. Returns its envelope."""
    bus.sender.say(subject)
    if subject == LIVE:
        _call(bus, relay)
    else:
        bus.hand(relay, bus.arrive())
    bus.finish(relay)
    bus.handle_all()
    bus.sender.wire.deliver(len(bus.sender.wire.coming))
    return bus.captured[-1][0]


def _stored_without_answer(bus: Bus, relay: Relay, position: int) -> None:
    """A relay that has just asked gets a message. Its frame is stored, but no answer comes.

    The relay tries again.
    """
    bus.finish(relay)  # its earlier requests time out
    bus.server.expire(relay.wire)
    bus.finish(relay)  # so it asks now, because a refusal is told only soon after a request
    bus.hand(relay, position)
    while relay.wire.out:
        bus.server.read(relay.wire)
    relay.wire.coming.clear()
    bus.handle_all()
    for _ in range(18):
        bus.clock.true_ms += 500
        bus.finish(relay)


def _forget(bus: Bus, stream: str) -> None:
    """Let time pass until the ledger has forgotten its messages."""
    window_ms = bus.server.streams[stream].window_ms
    bus.until(stream.lower(), bus.server.streams[stream].kept[-1].at_ms + window_ms + 1)


def _read_receipts(bus: Bus) -> None:
    """The sender was stopped meanwhile. It reads all receipts, and then gets no more."""
    bus.sender.wire.deliver(len(bus.sender.wire.coming))
    bus.clock.true_ms += 40_000
    bus.sender.process.run()


def _call(bus: Bus, relay: Relay) -> None:
    while bus.sender.wire.out:
        bus.read(bus.sender.wire, relay)
    relay.wire.deliver(len(relay.wire.coming))


def _store_late(bus: Bus, relay: Relay, position: int, wait_ms: int) -> None:
    bus.until(relay.name, bus.server.ingress[position].kept.at_ms + wait_ms)
    bus.hand(relay, position)
    bus.until("accepted", bus.clock.now_ms(relay.name) + shelf_life_ms(live=False) + SKEW_MS)
    bus.finish(relay)
    bus.handle_all()


FRAMES: Final = 8
"""A relay writes fewer frames than this about one message."""

WAYS: Final[Mapping[str, Callable[[Bus], None]]] = (
    {
        play.__name__: play
        for play in (
            longest,
            longest_live,
            sealed_again,
            stalled_store,
            stalled_turn,
            honest_and_late,
            answer_lost,
            revoked_meanwhile,
            revoked_while_away,
            two_hold_it,
            one_stored_one_refused,
            forgotten_by_a_restart,
            asked_again_after_a_restart,
            judged_before_a_restart,
        )
    }
    | {
        "slow_write_then_too_late": partial(slow_write, refuses=_for_its_wait),
        "slow_write_then_revoked": partial(slow_write, refuses=_for_its_key),
        "slow_write_then_removed": partial(slow_write, refuses=_for_a_key_that_is_gone),
    }
    | {f"killed_after_{frames}": partial(killed_after, frames=frames) for frames in range(FRAMES)}
)
