"""The director opens the shop, lets it trade and lets the attacker try everything.

It checks the results itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from examples.robbery.catalogue import (
    ATTACKS,
    INSIDE,
    LATER,
    NEEDS_AN_ORDER,
    ON_STAGE,
    THROWN_OUT,
    Attack,
)
from examples.robbery.evidence import Evidence
from examples.robbery.judging import Finding, Trade
from examples.robbery.order import TTL_S
from examples.robbery.order_book import Order, demand, opening_stock
from examples.robbery.shop import Shop
from examples.robbery.stage import Actor, Stage, StageError
from examples.robbery.under_tls import TlsShop
from sealbus import Bot
from sealbus_broker.nats.connection import connect

Say = Callable[[str], None]

HELD_BACK = len(NEEDS_AN_ORDER)
"""The number of orders that are placed one by one, because the attacker waits for each."""

RELAY_AWAY_S = 1.0

BACK_S = 30.0
"""How long a bot may take to come back. Its longest pause between two attempts is 5 s."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of the demo."""

    findings: list[Finding]
    trade: Trade
    quarantine: list[dict[str, Any]]


class Director:
    """One performance.

    ``folder`` is private and is deleted afterwards. ``say`` gets lines for people.
    """

    def __init__(self, folder: Path, orders: list[Order], say: Say) -> None:
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._orders = orders
        self._say = say
        self._shop = Shop(folder / "bus")
        self._book = folder / "orders.jsonl"
        self._book.write_text("".join(json.dumps(order) + "\n" for order in orders))
        self._actors: dict[str, Actor] = {}
        self._placed = 0
        self._killed_at = 0
        self._last_order = 0.0
        self._harm: tuple[str, ...] = ()

    async def perform(self) -> Outcome:
        """The whole demo. Raises :class:`StageError` if it cannot be finished."""
        outcome = await self._without_tls()
        findings = [*outcome.findings]
        async with TlsShop(self._shop, self._logs, self._say) as veiled:
            for find in (veiled.read_line, veiled.connect_without_certificate):
                findings.append(await find(self._orders[0]))
                self._say_finding(len(findings), findings[-1])
        return replace(outcome, findings=findings)

    async def _without_tls(self) -> Outcome:
        async with Stage(self._logs) as stage:
            await self._open(stage)
            nats = await self._look_in()
            async with Bot(self._shop.credentials("operator")) as operator:
                try:
                    relay_log = self._actors["relay"].log
                    evidence = Evidence(
                        nats, operator, self._actors, relay_log, self._shop.nats_log
                    )
                    before = await self._stock()
                    await self._trade(stage, evidence)
                    findings = await self._rob(evidence)
                    trade = await self._count(evidence, before)
                    return Outcome(findings, trade, await evidence.quarantined(8))
                finally:
                    await nats.close()

    # ---- the shop --------------------------------------------------------------------------------

    async def _open(self, stage: Stage) -> None:
        shop = self._shop
        self._say("opening the shop: nats-server, relay, and a process for each bot")
        stock = shop.folder / "stock.json"
        stock.write_text(json.dumps(opening_stock(self._orders)))
        await (await stage.start("server", shop.folder, str(shop.port))).expect("ready")
        self._actors["relay"] = await stage.start("relay", shop.folder, shop.url, "relay-1")
        await self._actors["relay"].expect("ready")
        attacker = await stage.start("attacker", str(shop.port), shop.write_credentials("scraper"))
        tapped = (await attacker.expect("listening"))["port"]
        self._actors |= {
            "attacker": attacker,
            "inventory": await stage.start("inventory", shop.write_credentials("inventory"), stock),
            "shipping": await stage.start("shipping", shop.write_credentials("shipping")),
            # The order bot takes this for NATS. It is the attacker, who passes everything on.
            "order": await stage.start(
                "order", shop.write_credentials("order", tapped), self._book
            ),
        }
        for name in ("inventory", "shipping", "order"):
            await self._actors[name].expect("ready")
        self._say("the attacker is on the order bot's network connection, and owns the bot scraper")

    async def _look_in(self) -> Client:
        async def on_error(_: Exception) -> None:
            """An error here shows as missing evidence."""

        seed = self._shop.secrets.relay.seed_text
        return await connect([self._shop.url], seed, name="director", on_error=on_error)

    async def _stock(self) -> dict[str, int]:
        order = self._actors["order"]
        order.cue("stock", skus=sorted(demand(self._orders)))
        stock: dict[str, int] = (await order.expect("stock"))["stock"]
        return stock

    # ---- honest trade ----------------------------------------------------------------------------

    async def _trade(self, stage: Stage, evidence: Evidence) -> None:
        count = len(self._orders) - HELD_BACK
        self._say(f"trade: {count} orders; the attacker sees every frame of the order bot")
        order, began = self._actors["order"], time.monotonic()
        order.cue("place", count=count)
        while self._killed_at < count // 3:
            self._killed_at = (await order.expect("shipped"))["count"]
        pid = self._actors["relay"].pid
        self._say(f"trade: {self._killed_at} shipped; SIGKILL for the relay (pid {pid})")
        await self._actors["relay"].kill()
        await asyncio.sleep(RELAY_AWAY_S)
        self._actors["relay"] = await stage.start(
            "relay", self._shop.folder, self._shop.url, "relay-2"
        )
        await self._actors["relay"].expect("ready")
        self._say("trade: a new relay is up; nobody was told, and the old one kept nothing")
        await order.expect("placed", within_s=60 + count / 100)
        self._placed = count
        if not await evidence.settled(count):
            self._say("trade: not everything has arrived")
        # The new relay has each bot renew its session. The attacker would speak in an old one.
        if not await evidence.sessions_obey():
            self._say("trade: not all sessions are renewed")
        took_s = time.monotonic() - began
        self._say(f"trade: {count} orders through in {took_s:.1f} s, killed relay included")

    async def _place_one(self) -> None:
        order = self._actors["order"]
        order.cue("place", count=1)
        self._placed += 1
        await order.expect("placed")
        self._last_order = time.monotonic()

    # ---- the robbery -----------------------------------------------------------------------------

    async def _rob(self, evidence: Evidence) -> list[Finding]:
        self._say(
            f"robbery: {len(ATTACKS)} attacks, each with evidence in quarantine, logs and streams"
        )
        findings = []
        for attack in ON_STAGE:
            findings.append(await self._attack(attack, evidence))
            self._say_finding(len(findings), findings[-1])
        return findings

    def _say_finding(self, number: int, finding: Finding) -> None:
        place = f"{number:2}/{len(ATTACKS)} {finding.attack.key:18}"
        self._say(
            f"{place} {finding.where or 'NOT STOPPED':17} {finding.proof or finding.why}"[:88]
        )

    async def _attack(self, attack: Attack, evidence: Evidence) -> Finding:
        attacker = self._actors["attacker"]
        facts: dict[str, Any] = {}
        if attack in LATER:
            # The time-to-live and the clock difference must be over. Then the message is late by
            # any clock.
            await asyncio.sleep(max(0.0, self._last_order + TTL_S + 1.2 - time.monotonic()))
        if attack is INSIDE[0]:
            facts["loot"] = str(self._shop.folder / "credentials" / "inventory.toml")
        mark = await evidence.mark()
        kept = self._revoke("inventory") if attack in THROWN_OUT else None
        attacker.cue(attack.key, **facts)
        if attack.key in NEEDS_AN_ORDER:
            await attacker.expect("armed")
            await self._place_one()
        tried = await attacker.expect("tried")
        finding = await evidence.examine(attack, tried["sha256"], mark)
        if kept is not None:
            # The honest bot has the same key, and is needed again.
            await self._give_back("inventory", kept)
        if attack.key in NEEDS_AN_ORDER:
            await evidence.settled(self._placed)
        harm = await evidence.harm(self._placed)
        # Each attack is blamed for its own harm.
        fresh = tuple(one for one in harm if one not in self._harm)
        self._harm = harm
        return replace(finding, harm=fresh)

    def _revoke(self, bot: str) -> str:
        """Revoke the keys of a bot, as an operator does. Returns the key file as it was."""
        path = self._shop.folder / "keys" / f"{bot}.yaml"
        text = path.read_text()
        path.write_text(text + "    revoked: 2026-01-01T00:00:00Z\n")
        self._say(f"robbery: the operator revokes the key of {bot}; nothing is restarted")
        return text

    async def _give_back(self, bot: str, text: str) -> None:
        """Take a revocation back, and wait until the bot is admitted again."""
        log = self._actors["relay"].log
        seen = log.stat().st_size
        (self._shop.folder / "keys" / f"{bot}.yaml").write_text(text)
        admitted = '"event": "admission.granted"', f'"bot": "{bot}"'
        async with asyncio.timeout(BACK_S):
            while not any(  # noqa: ASYNC110  # another process writes it
                all(part in line for part in admitted)
                for line in log.read_text()[seen:].splitlines()
            ):
                await asyncio.sleep(0.1)

    # ---- the counts ------------------------------------------------------------------------------

    async def _count(self, evidence: Evidence, before: dict[str, int]) -> Trade:
        self._say("counting")
        order = await self._actors["order"].status()
        inventory = await self._actors["inventory"].status()
        shipping = await self._actors["shipping"].status()
        return Trade(
            orders=len(self._orders),
            accepted=order["placed"],
            reserved=inventory["reserved"],
            shipped=shipping["shipped"],
            seen=order["shipped"],
            doubled=order["doubled"] + inventory["doubled"] + shipping["doubled"],
            stored=await evidence.traded(),
            stock_before=before,
            stock_after=await self._stock(),
            stock_sold=demand(self._orders),
            relay_killed_at=self._killed_at,
        )


__all__ = ["Director", "Outcome", "StageError"]
