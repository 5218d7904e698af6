"""Edits of a running bus's folder, and waiting until its relays follow them."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sealbus.credentials import Credentials
from sealbus.nats.client import HardenedClient
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.sending.minting import new_nonce, salted
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.relay.following.asking import RELOAD_SUBJECT, question
from tests.e2e.shop import Shop
from tests.scene import now_ms
from tests.waiting import PATIENCE_S, until

TOLERANCE_MS = 100
"""The ``clock_skew`` of the shop."""
REVOKED = "    revoked: 2026-01-01T00:00:00Z\n"


def policy_text(shop: Shop) -> str:
    """The text of policy.yaml."""
    return (shop.bus.path / "policy.yaml").read_text()


def edit(shop: Shop, old: str, new: str) -> None:
    """Replace ``old``, which occurs once, in policy.yaml, in place."""
    text = policy_text(shop)
    assert text.count(old) == 1
    (shop.bus.path / "policy.yaml").write_text(text.replace(old, new))


def revoke(shop: Shop, bot: str, number: int = 0) -> str:
    """Revoke a key of ``bot``; return the text that takes it back."""
    path = shop.bus.path / "keys" / f"{bot}.yaml"
    text = path.read_text()
    head, *keys = text.split("  - ")
    keys[number] += REVOKED
    path.write_text("  - ".join([head, *keys]))
    return text


def give_back(shop: Shop, bot: str, text: str) -> None:
    """Take a revocation back."""
    (shop.bus.path / "keys" / f"{bot}.yaml").write_text(text)


async def keys_are_of_an_earlier_second() -> None:
    """Wait until a voiding now concerns every session key that was made before.

    ``sessions_from`` is in whole seconds, and counts from ``clock_skew`` later on. So a session key
    of this second would count after the voiding.
    """
    second_ms = (now_ms() + TOLERANCE_MS) // 1000 * 1000 + 1000
    await until(lambda: now_ms() >= second_ms, "the next second has begun")


def with_a_copy(shop: Shop, folder: Path) -> Shop:
    """The same bus, whose relays read a copy of its folder at ``folder``."""
    left_out = shutil.ignore_patterns("jetstream", "*.log", "*.sock", "*.pid", "*.lock")
    far = Shop.__new__(Shop)
    far.__dict__ |= shop.__dict__
    far.bus = BusFolder(Path(shutil.copytree(shop.bus.path, folder, ignore=left_out)))
    return far


def sealed(credentials: Credentials, subject: str, payload: Any) -> bytes:
    """A message that is sealed now, as it is sent."""
    at_ms = now_ms()
    header = Header(
        bus=credentials.bus,
        bot=credentials.bot,
        subject=subject,
        nonce=new_nonce(at_ms),
        issued_at_ms=at_ms,
        ttl_ms=30_000,
    )
    draft = Draft(header, [salted(pack_json(payload))])
    return seal_envelopes(credentials.new_session_key(at_ms), [draft])[0].data


@asynccontextmanager
async def asking(shop: Shop) -> AsyncIterator[HardenedClient]:
    """A connection that asks relays."""
    nc = await shop.nats()
    try:
        yield nc
    finally:
        await nc.close()


async def report(nc: HardenedClient, relay: str = "relay") -> dict[str, Any]:
    """What the relay with this name says of itself, without a look at its folder.

    It is empty if no relay is there.
    """
    inbox = nc.new_inbox()
    answers = await nc.subscribe(inbox)
    try:
        await nc.publish(RELOAD_SUBJECT, question(look=False), reply=inbox)
        while True:
            answer = await answers.next_msg(PATIENCE_S)
            if not answer.data:
                return {}
            told: dict[str, Any] = json.loads(answer.data)
            if told["relay"] == relay:
                return told
    finally:
        await answers.unsubscribe()


async def followed(shop: Shop, relay: str = "relay") -> None:
    """Wait until a relay has the folder's policy in force, and all sessions obey it."""
    wanted = shop.bus.policy(shop.secrets.bus.public).digest.hex()
    async with asking(shop) as nc:

        async def is_followed() -> bool:
            told = await report(nc, relay)
            return bool(told.get("policy") == wanted and told["sessions_obey"])

        await until(is_followed, f"the relay {relay} follows")


async def tells(shop: Shop, name: str, relay: str = "relay") -> None:
    """Wait until a relay tells ``problems``, or that its folder is ``unseen``."""
    async with asking(shop) as nc:

        async def is_told() -> bool:
            return bool((await report(nc, relay)).get(name))

        await until(is_told, f"the relay {relay} tells {name}")
