"""Numbers in pages about the bus are those of the code."""

from __future__ import annotations

import math
import re
from typing import Final

import pytest

from sealbus import presence
from sealbus.life import connecting
from sealbus.protocol.limits import MAX_PAYLOADS
from sealbus.receiving import attempts, supply
from sealbus_broker.cli.running import serve
from sealbus_broker.cli.tls.node_files import MAX_NODES
from sealbus_broker.door.watch import HANG_S
from sealbus_broker.gate.policy import Limits
from sealbus_broker.nats import config, connection, streams
from sealbus_broker.relay import health, problems, promises
from sealbus_broker.relay.floods.meter import MOST_WORTHLESS
from sealbus_broker.relay.following.live_sessions import GRACE_S
from sealbus_broker.relay.ingress.last_try import LAST_DELIVERIES
from sealbus_broker.relay.ingress.pulling import PULL_EXPIRES_S
from sealbus_broker.relay.ingress.refusal_pace import MOST_REFUSED
from sealbus_broker.relay.ingress.stops import MOST_STOPS
from sealbus_broker.relay.live import leader, worker
from sealbus_broker.relay.services import consumers, router
from sealbus_broker.relay.services.crowd import LOGIN_MS
from tests.docs.places import DOCS

WORDS: Final[dict[float, str]] = {4: "four", 5: "fifth", 12: "twelve"}
"""Numbers that the pages spell out."""

PING_S: Final = float(config.PING_INTERVAL.removesuffix("ms")) / 1000
SILENT_S: Final = (config.PING_MAX + 1) * PING_S
"""The shortest silence after which nats-server ends a session."""
SILENT_MOST_S: Final = SILENT_S + PING_S

ALL: Final = ("architecture", "guarantees", "bots")
FLOW: Final = ("architecture",)
PROMISES: Final = ("guarantees",)
BOTS: Final = ("bots",)

NUMBERS: Final[tuple[tuple[tuple[str, ...], str, tuple[float, ...]], ...]] = (
    # What a subscription has in hand.
    (ALL, r"Up to (\S+) envelopes of", (consumers.ACK_PENDING,)),
    (ALL, r"more than (\S+) envelopes .{,20}fail in a row", (consumers.ACK_PENDING,)),
    (PROMISES + BOTS, r"after (\S+) failures in a row", (attempts.FAILURES_IN_A_ROW,)),
    (PROMISES, r"while (\S+) of its envelopes wait", (attempts.MOST_WAITING,)),
    (BOTS, r"process that has (\S+) such envelopes", (attempts.MOST_WAITING,)),
    (PROMISES, r"if more than (\S+) processes", (consumers.ACK_PENDING / attempts.MOST_WAITING,)),
    (FLOW, r"had in hand come again after (\S+) s", (consumers.ACK_WAIT_S,)),
    (FLOW + PROMISES, r"they come up to (\S+) s later", (consumers.ACK_WAIT_S,)),
    (PROMISES, r"promises hold for up to (\S+) s", (consumers.ACK_WAIT_S - supply.PROGRESS_S,)),
    (PROMISES + BOTS, r"event loop for (\S+) s", (consumers.ACK_WAIT_S - supply.PROGRESS_S,)),
    (BOTS, r"again after (\S+) s, 2 s, 4 s", (attempts.RETRY_FIRST_S,)),
    (BOTS, r"number of attempts: (\S+) by default", (Limits().attempts,)),
    (BOTS, r"in one envelope, up to (\S+) of", (MAX_PAYLOADS,)),
    # Silence.
    (FLOW + BOTS, r"After (\S+) to (\S+) s (?:nats|without)", (SILENT_S, SILENT_MOST_S)),
    (PROMISES, r"After (\S+) s the bot has no session", (SILENT_S,)),
    (FLOW, r"leaves the connection within (\S+) s", (math.ceil(SILENT_MOST_S),)),
    (PROMISES, r"notices a half-open connection within (\S+) s", (math.ceil(SILENT_MOST_S),)),
    (PROMISES, r"notices them within (\S+) s", (math.ceil(SILENT_MOST_S),)),
    (FLOW, r"kills the relay after (\S+) s without a sign", (HANG_S,)),
    (FLOW, r"pins of its partitions expire after (\S+) s", (streams.PIN_TIMEOUT_S,)),
    (FLOW, r"are delivered again after (\S+) s", (streams.ACK_WAIT_S,)),
    (FLOW, r"Relays try to connect every (\S+) s", (connection.RECONNECT_S,)),
    (FLOW, r"and bots every (\S+) s", (connecting.AWAY_S,)),
    (FLOW, r"more than (\S+) sessions", (int(connecting.AWAY_S * 1000 / LOGIN_MS),)),
    (FLOW, r"return over (\S+) ms for each session", (LOGIN_MS,)),
    (FLOW, r"After (\S+) s a relay deletes LIVE", (leader.AFTER_S,)),
    (PROMISES, r"LIVE again when that has lasted for (\S+) s", (leader.AFTER_S,)),
    (PROMISES, r"has not done so within (\S+) s, the bus cuts", (GRACE_S,)),
    # Relays.
    (FLOW, r"INGRESS has (\S+) partitions", (streams.PARTITIONS,)),
    (FLOW, r"under way lasts up to (\S+) s more", (PULL_EXPIRES_S,)),
    (FLOW, r"number of nodes from 3 to (\S+)\.", (MAX_NODES,)),
    (FLOW, r"forgotten after (\S+) hours", (streams.RECORDS_AGE_S / 3600,)),
    (FLOW, r"From its (\w+) delivery on", (LAST_DELIVERIES,)),
    (FLOW, r"in hand at (\w+) such deaths", (LAST_DELIVERIES - 1,)),
    (FLOW, r"waits through (\w+) orderly stops", (MOST_STOPS + LAST_DELIVERIES - 1,)),
    (PROMISES, r"wait through (\w+) stops of relays", (MOST_STOPS + LAST_DELIVERIES - 1,)),
    (FLOW + PROMISES, r"more than (\S+) worthless envelopes a second", (MOST_WORTHLESS,)),
    (FLOW + PROMISES, r"more than (\S+) of its envelopes a second are", (MOST_REFUSED,)),
    (PROMISES, r"nats-server keeps (\S+) messages", (config.MAX_BUFFERED_MESSAGES,)),
    (PROMISES, r"While (\S+) of these answers wait", (router.TOLD_WAITING,)),
    (PROMISES, r"`ingress_wait` \((\S+) min\)", (Limits().ingress_wait_ms / 60_000,)),
    # Health.
    (FLOW + PROMISES, r"Every (\S+) s, (?:each|a) relay c", (health.LOOK_S,)),
    (FLOW, r"a check ends within (\S+) s", (health.LOOK_MOST_S,)),
    (FLOW, r"Every (\S+) s, a relay also", (promises.LOOK_S,)),
    (FLOW, r"last check is (\S+) s old", (health.LATE_S,)),
    (FLOW, r"a stream is (\S+) % full", (100 * problems.FULL_AT,)),
    (FLOW, r"room for less than (\S+) % of", (round(100 * serve.DISK_AT),)),
    (FLOW, r"has been lost for (\S+) s", (worker.LOST_S,)),
    # A bot's own calls.
    (BOTS, r"connect\(timeout=(\S+)\)", (presence.CONNECT_TIMEOUT_S,)),
    (BOTS, r"close\(timeout=(\S+)\)", (presence.DRAIN_S,)),
    (BOTS, r"together have at most (\S+) seconds", (presence.DRAIN_S,)),
)
"""Pages, a sentence with numbers in groups, and the same numbers in the code."""


def ways(value: float) -> set[str]:
    """The ways in which a page writes a number."""
    return {f"{round(value, 6):,.9g}", WORDS.get(value, "")}


@pytest.mark.parametrize(
    ("page", "sentence", "values"),
    [
        pytest.param(page, sentence, values, id=f"{page}-{sentence}")
        for pages, sentence, values in NUMBERS
        for page in pages
    ],
)
def test_number_in_a_page_is_that_of_the_code(
    page: str, sentence: str, values: tuple[float, ...]
) -> None:
    text = " ".join((DOCS / f"{page}.md").read_text().split())
    found = re.findall(sentence, text)
    assert found, f"the page does not say: {sentence}"
    for said in found:
        numbers = (said,) if isinstance(said, str) else said
        assert all(one in ways(value) for one, value in zip(numbers, values, strict=True)), said
