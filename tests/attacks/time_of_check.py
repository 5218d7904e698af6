"""Messages that become invalid between a check and its effect.

They were valid when they were sent, when they arrived, or when they were judged.
"""

from __future__ import annotations

import os
from dataclasses import replace

from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.reason import Reason
from tests.attacks.corpus import Family
from tests.attacks.line import Line
from tests.gate.bus import Step
from tests.gate.scenarios import live
from tests.gate.world import (
    HOUR,
    KEYS,
    NOW,
    PULSE,
    SHIPPED,
    SKEW,
    envelope,
    sealed_stamp,
    shipment,
    told_at,
)
from tests.scene import now_ms

FAMILY = Family("time of check")
attack = FAMILY.attack


@attack(
    "check_key_revoked", Reason.KEY_REVOKED, alone="the relay would have to be stopped meanwhile"
)
def revoked_while_it_waited() -> Step:
    """A message that arrived before the revocation and is judged after it."""
    before_ms = NOW - SKEW - 1000
    data = envelope(key=KEYS["order-leaked"], issued_at_ms=before_ms)
    return Step(data, arrived_at_ms=before_ms)


@attack("check_wait", Reason.STALE, alone="the relay would have to be stopped meanwhile")
def a_live_message_that_waited() -> Step:
    """A live message that a busy relay judges a millisecond after its sender's last retry."""
    return replace(live(envelope(PULSE)), now_ms=NOW + 2_001)


@attack("check_wait", Reason.STALE, alone="the relay would have to be stopped for five minutes")
def waited_too_long() -> Step:
    """A message that no relay took for one millisecond longer than the ledger's window allows."""
    return Step(envelope(issued_at_ms=NOW - 300_001), arrived_at_ms=NOW - 300_001)


@attack(
    "check_not_in_future",
    Reason.ISSUED_IN_FUTURE,
    alone="the relay would have to be stopped meanwhile",
)
def issued_ahead_and_judged_later() -> Step:
    """A message from the future when it arrives, though not when the relay judges it."""
    return Step(envelope(issued_at_ms=NOW + SKEW + 1), now_ms=NOW + 2 * SKEW)


@FAMILY.line("too late")
async def stored_after_its_verdict_had_gone_bad(line: Line) -> None:
    """An acceptance that was stored an hour after it was written.

    By then the ledger may have forgotten the first one.
    """
    with told_at(now_ms(), os.urandom(8)):
        data = shipment()
        stamped = sealed_stamp(data, SHIPPED)
    *before, stored_ns, pending = line.reply.split(".")
    line.deliver(
        pack_delivery(data, stamped),
        reply=".".join([*before, str(int(stored_ns) + HOUR * 1_000_000), pending]),
    )
