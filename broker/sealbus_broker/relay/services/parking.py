"""Messages that a subscriber gave up: kept in the quarantine, where an operator sees them.

The subscriber's client asks on ``sealbus.park``. It names its consumer, the message's sequence in
ACCEPTED, and the error. The bytes come from the bus's own store, and not from the bot, so a bot can
park only a message that was delivered to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from sealbus.errors import Malformed
from sealbus.nats.client import HardenedClient
from sealbus.own import UNDELIVERABLE
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope, Header
from sealbus.protocol.streams import ACCEPTED, ACCEPTED_PREFIX
from sealbus.protocol.subjects import matches
from sealbus_broker.errors import NotServed
from sealbus_broker.gate.policy import DeliveryClass, Policy, Store
from sealbus_broker.gate.shares import Shares
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import stored_message
from sealbus_broker.relay.services.in_hand import READ_S, ConsumersInHand
from sealbus_broker.relay.store.quarantine import Record
from sealbus_broker.relay.store.stream_store import StreamStore

log = get_logger(__name__)


class ParkingService:
    """Serves ``sealbus.park``."""

    def __init__(
        self,
        *,
        in_hand: ConsumersInHand,
        nc: HardenedClient,
        stream_store: StreamStore,
        policy: Callable[[], Policy],
        relay: str,
        now_ms: Callable[[], int],
        shares: Shares,
    ) -> None:
        """Prepare.

        Args:
            in_hand: Tells whether the bot has the message.
            nc: The relay's connection, for reading ACCEPTED.
            stream_store: Stores the records.
            policy: Gives the policy in force.
            relay: The relay's name, which records have.
            now_ms: The wall clock, in ms since 1970.
            shares: A parked message takes room in the quarantine, and counts against its
                subscriber.
        """
        self._in_hand = in_hand
        self._nc = nc
        self._stream_store = stream_store
        self._policy = policy
        self._relay = relay
        self._now_ms = now_ms
        self._shares = shares

    async def park(self, bot: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Keep the message that ``bot`` gave up.

        Returns:
            Its sequence in the quarantine. ``None``: the message is no longer stored, or the bot
            has filled its share of the quarantine. The log then names the message, which stays in
            ACCEPTED as long as any other.

        Raises:
            NotServed: The message is not the bot's to give up.
            StreamsUnusable: JetStream cannot look at the subscription, or read the message, now.
            nats.errors.Error: JetStream does not answer.
        """
        consumer = asked["consumer"]
        sequence = asked["sequence"]
        place = (await self._in_hand.held(bot, consumer, sequence)).place
        stored = await stored_message(self._nc, ACCEPTED, sequence, READ_S)
        if stored is None:
            log.warning("message.expired", bot=bot, consumer=consumer, sequence=sequence)
            return {"record": None}
        # The sequence is the bot's word. Between the last acknowledged and the last delivered
        # message there are also messages of other subjects, which the bot may not be allowed to
        # see.
        if not matches(f"{ACCEPTED_PREFIX}.{place['pattern']}", stored.subject):
            raise NotServed(f"{consumer} does not deliver message {sequence}")
        record, data = self._record(bot, place, asked, stored.data)
        share = self._policy().share(Store.QUARANTINE)
        if not self._shares.has_room(bot, Store.QUARANTINE, share, len(data), self._now_ms()):
            log.warning(
                "message.not-kept",
                bot=bot,
                consumer=consumer,
                sequence=sequence,
                error=asked["error"],
            )
            return {"record": None}
        # With a place of its own: several subscriptions may give up one message, and each has a
        # record.
        index = "" if asked.get("index") is None else f".{asked['index']}"
        entry = record.entry(data, f"parked.{consumer}.{sequence}{index}")
        (kept,) = await self._stream_store.store([entry])
        if not kept.duplicate:
            self._shares.charge(bot, Store.QUARANTINE, share, len(data), self._now_ms())
        log.warning(
            "message.parked",
            bot=bot,
            pattern=place["pattern"],
            durable=place["durable"],
            sequence=sequence,
            attempts=asked["attempt"],
            error=asked["error"],
            record=kept.sequence,
        )
        return {"record": kept.sequence}

    def _record(
        self, bot: str, place: dict[str, Any], asked: dict[str, Any], data: bytes
    ) -> tuple[Record, bytes]:
        header: Header | None = None
        arrived_at_ms = now_ms = self._now_ms()
        index = asked.get("index")
        try:
            data, _ = split_delivery(data)
            envelope = Envelope.decode_shown(data)
            header = envelope.header
            arrived_at_ms = header.issued_at_ms
            if index is not None:
                if index >= len(envelope.payloads) or envelope.payloads[index] is None:
                    raise NotServed(f"message {asked['sequence']} has no payload {index}")
                # The others have other ends. An operator need not see them.
                data = envelope.withhold(
                    [at for at in range(len(envelope.payloads)) if at != index], parent=False
                )
        except Malformed:
            pass  # somebody wrote into the stream past the relays: the bytes are kept as they are
        attempts = f"{asked['attempt']} attempts" if asked["attempt"] > 1 else "1 attempt"
        subscription = f"subscription {place['durable']} to {place['pattern']}"
        detail = f"given up after {attempts} ({asked['error']}): {subscription}"
        record = Record(
            reason=UNDELIVERABLE,
            detail=detail,
            session=bot,
            claimed=header.bot if header else None,
            # A relay has accepted it, so its seal held.
            proven=header.bot if header else None,
            subject=header.subject if header else None,
            nonce=header.nonce.hex() if header else None,
            delivery=DeliveryClass.STREAM.value,
            position=asked["sequence"],
            arrived_at_ms=arrived_at_ms,
            judged_at_ms=now_ms,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            policy=self._policy().digest.hex(),
            relay=self._relay,
            payloads=None if index is None else [index],
        )
        return record, data
