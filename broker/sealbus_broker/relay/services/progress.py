"""How far a subscriber has come with an envelope of several messages.

A durable subscription acknowledges an envelope when all its messages are done. If one of them
fails, or the subscriber stops amid them, the envelope goes back to the server, which delivers all
of it again. So the subscriber's client first asks on ``sealbus.progress`` to note which messages
are done, and whoever gets the envelope asks for the note. A note is one small message of the stream
PROGRESS for each consumer and stored message. It saves repetitions, and promises nothing: where it
is lost, messages are handled again.

A note is about one delivery of one consumer, and outlives neither: its key has the time at which
the consumer was made, and the time at which the message was stored. A consumer that is made again
has the name of the last one, and a stream that lost messages has their sequences again.

A note also counts how often the envelope was given back untried, because a delivery that was given
back is no attempt.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any, Final

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import PROGRESS, PROGRESS_PREFIX
from sealbus_broker.errors import NotServed
from sealbus_broker.gate.policy import Policy, Store
from sealbus_broker.gate.shares import Shares
from sealbus_broker.nats.jetstream import API, request_over_reload
from sealbus_broker.relay.services.in_hand import READ_S, ConsumersInHand
from sealbus_broker.relay.store.stream_store import StreamMessage, StreamStore

_NO_NOTE: Final = 10037
"""JetStream's number of the error "no message found"."""

_NONE: Final = (0, 0)
"""Nothing is done, and the delivery was never given back."""


class ProgressService:
    """Serves ``sealbus.progress``."""

    def __init__(
        self,
        *,
        nc: HardenedClient,
        stream_store: StreamStore,
        in_hand: ConsumersInHand,
        policy: Callable[[], Policy],
        shares: Shares,
        now_ms: Callable[[], int],
    ) -> None:
        """Prepare.

        Args:
            nc: The relay's connection, for reading notes.
            stream_store: Stores notes.
            in_hand: Tells whether the bot has the delivery.
            policy: Gives the policy in force.
            shares: A note takes room in PROGRESS, and counts against the bot's share of it.
            now_ms: The wall clock, in ms since 1970.
        """
        self._nc = nc
        self._stream_store = stream_store
        self._in_hand = in_hand
        self._policy = policy
        self._shares = shares
        self._now_ms = now_ms

    async def note(self, bot: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Note the messages that are done, and how often the delivery was given back. Return all
        that is noted.

        ``done`` is a hexadecimal number with a bit for each message, by its index. A note that
        comes twice changes nothing.

        Raises:
            NotServed: The delivery is not the bot's, its note cannot be read, or the bot has filled
                its share.
            StreamsUnusable: JetStream cannot look at the subscription now.
            nats.errors.Error: JetStream does not answer.
        """
        consumer = asked["consumer"]
        sequence = asked["sequence"]
        held = await self._in_hand.held(bot, consumer, sequence)
        made = re.sub(r"[^0-9]", "", held.created)
        subject = f"{PROGRESS_PREFIX}.{consumer}.{made}.{sequence}.{asked['stored']}"
        noted = await self._read(subject)
        note = (noted[0] | int(asked["done"], 16), max(noted[1], asked["given_back"]))
        if note != noted:
            # Without an id: another note is not a duplicate of the first, it replaces it.
            data = f"{note[0]:x} {note[1]}".encode()
            share = self._policy().share(Store.PROGRESS)
            now_ms = self._now_ms()
            if not self._shares.has_room(bot, Store.PROGRESS, share, len(data), now_ms):
                raise NotServed(f"{bot} has noted too much within {share.window_ms // 60_000} min")
            self._shares.charge(bot, Store.PROGRESS, share, len(data), now_ms)
            await self._stream_store.store([StreamMessage(subject, data, {})])
        return {"done": f"{note[0]:x}", "given_back": note[1]}

    async def _read(self, subject: str) -> tuple[int, int]:
        ask = json.dumps({"last_by_subj": subject}).encode()
        answer = await request_over_reload(
            self._nc, f"{API}.STREAM.MSG.GET.{PROGRESS}", ask, READ_S
        )
        told = json.loads(answer.data)
        if "error" in told:
            if told["error"].get("err_code") == _NO_NOTE:
                return _NONE
            # A note that is there must not be replaced by a shorter one.
            raise NotServed(f"the note cannot be read: {told['error'].get('description')}")
        done, given_back = base64.b64decode(told["message"]["data"]).split()
        return int(done, 16), int(given_back)
