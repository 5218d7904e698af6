"""Attacks on uAgents: envelopes made by hand.

They are posted to the receiver's endpoint, which takes envelopes from everybody.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import aiohttp
from uagents_core.envelope import Envelope
from uagents_core.identity import Identity, generate_user_address

from benchmarks.attacking.attacker import (
    FAKE,
    GARBAGE,
    HONEST,
    INVALID,
    LONG_S,
    PAST_S,
    Attacker,
    NotApplicable,
    changed,
    now,
    twice,
)
from benchmarks.peers.uagents import ORDER_DIGEST, address
from benchmarks.workload import encode

TTL_S: Final = 30
ANSWER: Final = aiohttp.ClientTimeout(total=5)


class OnUAgents(Attacker):
    """``s0`` and ``s1`` are agents, and so is everybody who makes a key."""

    def __init__(self, setup: dict[str, Any]) -> None:
        super().__init__(setup)
        self._owner, self._lesser = (Identity.from_seed(seed, 0) for seed in setup["senders"])
        self._receivers = [address(seed) for seed in setup["receivers"]]
        self._captured: Envelope | None = None

    async def _post(self, body: bytes | str, to: int = 0) -> None:
        port = self.setup["ports"][self.setup["receivers"][to]]
        headers = {"content-type": "application/json"}
        with suppress(aiohttp.ClientError):
            async with (
                aiohttp.ClientSession(timeout=ANSWER) as session,
                session.post(
                    f"http://127.0.0.1:{port}/submit", data=body, headers=headers
                ) as response,
            ):
                await response.read()

    def _envelope(
        self, payload: bytes, sender: str | None = None, to: int = 0, **faults: Any
    ) -> Envelope:
        """A valid envelope, except for ``faults``, and unsigned."""
        fields = {
            "version": 1,
            "sender": sender or self._owner.address,
            "target": self._receivers[to],
            "session": uuid4(),
            "schema_digest": ORDER_DIGEST,
            "expires": now() + TTL_S,
            "nonce": int.from_bytes(os.urandom(7), "big"),
        }
        envelope = Envelope(**{**fields, **faults})
        envelope.encode_payload(payload.decode())
        return envelope

    async def _as_owner(self, payload: bytes, **faults: Any) -> Envelope:
        envelope = self._envelope(payload, **faults)
        envelope.sign(self._owner)
        await self._post(envelope.model_dump_json())
        return envelope

    def _captured_with(self, **faults: Any) -> Envelope:
        assert self._captured is not None
        copy: Envelope = self._captured.model_copy(update=faults)
        return copy

    async def honest(self) -> None:
        self._captured = await self._as_owner(encode(HONEST))

    async def anonymous(self) -> None:
        """As a user, because uAgents does not expect a signature on the envelopes of users."""
        await self._post(
            self._envelope(encode(FAKE), sender=generate_user_address()).model_dump_json()
        )

    async def garbage(self) -> None:
        await self._post(GARBAGE, to=1)

    async def unsigned(self) -> None:
        await self._post(
            self._envelope(encode(FAKE), sender=self._lesser.address, to=1).model_dump_json(), to=1
        )

    async def altered(self) -> None:
        envelope = self._captured_with()
        envelope.encode_payload(encode(changed(HONEST)).decode())
        await self._post(envelope.model_dump_json())

    async def other_name(self) -> None:
        envelope = self._envelope(encode(FAKE))
        envelope.sign(self._lesser)
        await self._post(envelope.model_dump_json())

    async def replay(self) -> None:
        await self._post(self._captured_with().model_dump_json())

    async def replay_late(self) -> None:
        await self._as_owner(encode(HONEST), expires=now() - PAST_S)

    async def other_receiver(self) -> None:
        """With the target changed.

        Unchanged, it would be a replay: one process serves both receivers here, and would give it
        to the first one.
        """
        await self._post(self._captured_with(target=self._receivers[1]).model_dump_json(), to=1)

    async def injected(self) -> None:
        """Nothing is before the receiver. Everybody may post to the endpoint, with a new key."""
        stranger = Identity.generate()
        envelope = self._envelope(encode(FAKE), sender=stranger.address)
        envelope.sign(stranger)
        await self._post(envelope.model_dump_json())

    async def not_granted(self) -> None:
        envelope = self._envelope(encode(FAKE), sender=self._lesser.address)
        envelope.sign(self._lesser)
        await self._post(envelope.model_dump_json())

    async def schema(self) -> None:
        await self._as_owner(encode(INVALID))

    async def named_twice(self) -> None:
        await self._as_owner(twice(FAKE))

    async def same_id(self) -> None:
        captured = self._captured_with()
        await self._as_owner(encode(FAKE), session=captured.session, nonce=captured.nonce)

    async def future(self) -> None:
        raise NotApplicable("envelopes have no date")

    async def long_life(self) -> None:
        await self._as_owner(encode(FAKE), expires=now() + LONG_S)

    async def revoked(self) -> None:
        raise NotApplicable("an address is a key: it cannot be revoked")
