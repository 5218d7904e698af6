"""A probe: a message of the bus's own that goes the whole way of a bot's message.

A probe is an envelope like any other, on ``sealbus.health``, sealed with the bus's key in the name
of ``sealbus``. It goes into INGRESS, is pulled, judged, stored and answered with a stamp. It is
stored in HEALTH, which keeps the last one, and not in ACCEPTED, which it would fill. Its answer
says whether the bus accepts messages, and how soon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sealbus.errors import Malformed
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.protocol.codec import is_bundle, pack_json, split_bundle
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.protocol.keys import Signer
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp
from sealbus.protocol.subjects import INBOX, RELAY, ingress_subject
from sealbus.sending.minting import new_nonce, salted
from sealbus_broker.gate.policy import HEALTH

TTL_MS: Final = 10_000
"""How long a probe lives at most. Nobody waits for it longer."""


class Prober:
    """Sends probes and waits for their stamps. Any number may be under way."""

    def __init__(
        self,
        nc: HardenedClient,
        *,
        key: Signer,
        sender: str,
        trusted: Callable[[], frozenset[bytes]] | None = None,
    ) -> None:
        """
        Args:
            nc: A connection with the relays' login.
            key: The bus key.
            sender: Who probes, for people who look at the envelope.
            trusted: Gives the raw bus keys that other relays may stamp with. ``None``: the same.
        """
        self._nc = nc
        self._key = key
        self._trusted = trusted or (lambda: frozenset([key.public.raw]))
        self._sender = sender
        self._verifier = Verifier()
        self._waiting: dict[bytes, asyncio.Future[Stamp]] = {}
        """The probes under way, by nonce. A stamp for any other is ignored."""

    async def open(self) -> None:
        """Subscribe to stamps. Call once, before :meth:`probe`."""
        # NATS knows of the subscription before it takes a probe, because the probe is sent behind.
        await self._nc.subscribe_direct(f"{INBOX}.{RELAY}.*", self._on_stamp)

    async def probe(self, bus: str, ttl_ms: int, now_ms: int, timeout_s: float) -> Stamp:
        """Send one probe and return its stamp, whatever the verdict.

        Args:
            bus: The bus's name.
            ttl_ms: The longest life that the policy allows.
            now_ms: The wall clock, in ms since 1970.
            timeout_s: How long the stamp may take.

        Raises:
            TimeoutError: There is no stamp in time.
            nats.errors.Error: The probe cannot be sent.
        """
        nonce = new_nonce(now_ms)
        header = Header(bus, RELAY, HEALTH, nonce, now_ms, min(ttl_ms, TTL_MS))
        payload = salted(pack_json({"from": self._sender}))
        (envelope,) = seal_envelopes(self._key, [Draft(header, [payload])])
        stamped: asyncio.Future[Stamp] = asyncio.get_running_loop().create_future()
        self._waiting[nonce] = stamped
        try:
            self._nc.write([pub(ingress_subject(RELAY, live=False).encode(), envelope.data)])
            async with asyncio.timeout(timeout_s):
                return await stamped
        finally:
            del self._waiting[nonce]

    def _on_stamp(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        try:
            stamps = split_bundle(data) if is_bundle(data) else [data]
            trusted = self._trusted()
            opened = [open_stamp(stamp, trusted, self._verifier) for stamp in stamps]
        except Malformed:
            return
        for stamp in opened:
            waiting = self._waiting.get(stamp.nonce)
            if waiting is not None and not waiting.done():
                waiting.set_result(stamp)


def is_accepted(stamp: Stamp) -> bool:
    """Whether the probe was accepted."""
    return stamp.verdict is Verdict.ACCEPTED
