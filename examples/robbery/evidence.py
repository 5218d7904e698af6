"""The director's evidence, so that it need not believe anybody: logs, streams, the quarantine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from examples.robbery.catalogue import Attack
from examples.robbery.judging import TRADE, Finding
from examples.robbery.stage import Actor
from sealbus import Bot
from sealbus_broker.relay.following.asking import RELOAD_SUBJECT, question
from tests.attacks.corpus import Where

PATIENCE_S = 4.0
"""How long evidence may take to appear, in seconds. A verdict takes milliseconds."""

SETTLE_S = 0.3
"""How long to wait where the evidence is that nothing happened, in seconds."""

IGNORED = "ignored an invalid receipt: "
"""The beginning of a log line of a bot about an invalid receipt."""

STREAMS = {"INGRESS", "ACCEPTED", "LIVE", "HEALTH", "PROGRESS", "QUARANTINE", "RECORDS", "KEYRING"}
GENESIS = "sealbus.genesis"
HONEST_LIVE = (
    GENESIS,
    "sealbus.grants",
    "sealbus.subscribe",
    "sealbus.quarantine.list",
    "stock.check",
    "reply.",
)


@dataclass(frozen=True, slots=True)
class Mark:
    """The sizes and counts before an attack."""

    relay_log: int
    nats_log: int
    order_log: int
    statuses: Mapping[str, Mapping[str, Any]]


class Evidence:
    """Observes the bus from outside.

    It reads the streams with the relay's login, the quarantine as the operator, and the logs.
    """

    def __init__(
        self,
        nats: Client,
        operator: Bot,
        actors: Mapping[str, Actor],
        relay_log: Path,
        nats_log: Path,
    ) -> None:
        self._nats = nats
        self._operator = operator
        self._actors = actors
        self._relay_log = relay_log
        self._nats_log = nats_log

    # ---- looking ---------------------------------------------------------------------------------

    async def quarantined(self, limit: int = 50) -> list[dict[str, Any]]:
        """The newest records of the quarantine, as the operator gets them over the bus."""
        answer = await self._operator.request("sealbus.quarantine.list", {"limit": limit})
        records: list[dict[str, Any]] = answer.payload["records"]
        return records

    async def stored(self, stream: str = "ACCEPTED") -> dict[str, int]:
        """The number of messages in a stream, by subject without the stream's own prefix."""
        answer = await self._api(f"STREAM.INFO.{stream}", {"subjects_filter": ">"})
        subjects: dict[str, int] = answer["state"].get("subjects") or {}
        return {subject.partition(".")[2]: count for subject, count in subjects.items()}

    async def traded(self) -> dict[str, int]:
        """The number of accepted messages by subject, without the genesis."""
        return {
            subject: count for subject, count in (await self.stored()).items() if subject != GENESIS
        }

    async def _api(self, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = await self._nats.request(
            f"$JS.API.{call}", json.dumps(body or {}).encode(), timeout=5
        )
        parsed: dict[str, Any] = json.loads(answer.data)
        if "error" in parsed:
            raise LookupError(f"{call}: {parsed['error'].get('description')}")
        return parsed

    async def mark(self) -> Mark:
        """Note the sizes and counts."""
        statuses = {
            name: await self._actors[name].status() for name in ("order", "inventory", "shipping")
        }
        return Mark(
            _size(self._relay_log),
            _size(self._nats_log),
            _size(self._actors["order"].log),
            statuses,
        )

    async def sessions_obey(self) -> bool:
        """Wait until the relay has renewed all sessions of before. Returns whether it has."""
        return await _until(self._obey, within_s=30)

    async def _obey(self) -> bool:
        answer = await self._nats.request(RELOAD_SUBJECT, question(look=False), timeout=5)
        return bool(json.loads(answer.data)["sessions_obey"])

    async def settled(self, orders: int) -> bool:
        """Wait until ``orders`` are shipped. Returns whether they are."""
        return await _until(lambda: self._all_traded(orders), within_s=30)

    async def _all_traded(self, orders: int) -> bool:
        traded = await self.traded()
        if any(traded.get(subject, 0) < orders for subject in TRADE):
            return False
        # A bot counts when its own publish is confirmed. Then the next bot may already have the
        # message.
        return min(await self._handled()) >= orders

    async def _handled(self) -> tuple[int, int, int]:
        """The counts of the bots: orders seen shipped, reserved, and shipped."""
        status = {
            name: await self._actors[name].status() for name in ("order", "inventory", "shipping")
        }
        return (
            status["order"]["shipped"],
            status["inventory"]["reserved"],
            status["shipping"]["shipped"],
        )

    async def harm(self, orders: int) -> tuple[str, ...]:
        """Wrong messages and streams, and missing ones, after ``orders`` honest orders."""
        answer = await self._api("STREAM.NAMES")
        names = set(answer["streams"] or [])
        if names != STREAMS:
            return (f"the streams are {', '.join(sorted(names)) or 'gone'}",)
        harm = []
        expected = dict.fromkeys(TRADE, orders)
        traded = await self.traded()
        if traded != expected:
            harm.append(f"accepted is {traded}; expected {orders} of each")
        strange = [
            subject for subject in await self.stored("LIVE") if not subject.startswith(HONEST_LIVE)
        ]
        harm += [f"accepted on {subject}" for subject in strange]
        status = {
            name: await self._actors[name].status() for name in ("order", "inventory", "shipping")
        }
        counts = (
            status["order"]["shipped"],
            status["inventory"]["reserved"],
            status["shipping"]["shipped"],
        )
        if counts != (orders, orders, orders):
            harm.append(f"handled by order, inventory, shipping: {counts}; expected {orders} each")
        if doubled := sum(one["doubled"] for one in status.values()):
            harm.append(f"{doubled} handled twice")
        return tuple(harm)

    # ---- one attack ------------------------------------------------------------------------------

    async def examine(self, attack: Attack, sent: list[str], mark: Mark) -> Finding:
        """Find out what stopped ``attack``.

        ``sent`` has the SHA-256 (hex) of each body to look for.
        """
        examine: dict[Where, Callable[[], Awaitable[Finding]]] = {
            Where.DOOR: lambda: self._at_the_door(attack, mark),
            Where.NATS: lambda: self._in_nats_log(attack, mark),
            Where.LIMIT: lambda: self._in_nats_log(attack, mark),
            Where.GATE: lambda: self._in_quarantine(attack, sent),
            Where.LEDGER: lambda: self._in_quarantine(attack, sent),
            Where.SERVICE: lambda: self._not_served(attack),
            Where.STREAMS: lambda: self._nothing_happened(attack, mark),
            Where.ACCOUNTS: lambda: self._nothing_happened(attack, mark),
            Where.BOT: lambda: self._not_believed(attack, mark),
        }
        return await examine[attack.where]()

    async def _at_the_door(self, attack: Attack, mark: Mark) -> Finding:
        found: list[dict[str, Any]] = []

        async def look() -> bool:
            lines = _since(self._relay_log, mark.relay_log)
            found[:] = [
                record
                for record in map(_json, lines)
                if str(record.get("event", "")).startswith("admission.")
            ]
            return bool(found)

        if not await _until(look):
            return Finding(attack, None, "the relay's log knows of no such login", "")
        if any(record["event"] != "admission.denied" for record in found):
            return Finding(attack, None, "a session was granted", "relay log")
        return Finding(attack, Where.DOOR, found[0]["why"], "relay log: admission.denied")

    async def _in_nats_log(self, attack: Attack, mark: Mark) -> Finding:
        missing: list[str] = []

        async def look() -> bool:
            lines = [
                line
                for line in _since(self._nats_log, mark.nats_log)
                if attack.why.lower() in line.lower()
            ]
            missing[:] = [
                one for one in attack.subjects if not any(f'"{one}"' in line for line in lines)
            ]
            return bool(lines) and not missing

        if not await _until(look):
            return Finding(
                attack,
                None,
                f"nats-server did not refuse {', '.join(missing) or 'it'}",
                "nats-server log",
            )
        return Finding(
            attack,
            attack.where,
            attack.why,
            f"nats-server log: {len(attack.subjects) or 1} refused",
        )

    async def _in_quarantine(self, attack: Attack, sent: list[str]) -> Finding:
        reasons: dict[str, dict[str, Any]] = {}

        async def look() -> bool:
            reasons.update(
                {
                    record["sha256"]: record
                    for record in await self.quarantined()
                    if record["sha256"] in sent
                }
            )
            return bool(sent) and set(reasons) == set(sent)

        if not await _until(look):
            missing = f"{len(set(sent) - set(reasons))} of {len(set(sent))} not in quarantine"
            return Finding(
                attack, None, missing, ", ".join(record["reason"] for record in reasons.values())
            )
        why = ", ".join(sorted({str(record["reason"]) for record in reasons.values()}))
        last = max(reasons.values(), key=lambda record: int(record["sequence"]))
        where = (
            Where.LEDGER if why in ("replay", "nonce-reused", "already-answered") else Where.GATE
        )
        return Finding(
            attack,
            where,
            why,
            f"quarantine #{last['sequence']}" + (f": {last['detail']}" if last["detail"] else ""),
        )

    async def _not_served(self, attack: Attack) -> Finding:
        async def answered() -> bool:
            return any(
                subject.startswith("reply.scraper.") for subject in await self.stored("LIVE")
            )

        if not await _until(answered):
            return Finding(attack, None, "the relay did not answer", "stream LIVE")
        consumers = (await self._api("CONSUMER.NAMES.ACCEPTED"))["consumers"] or []
        mine = [name for name in consumers if name.startswith("scraper_")]
        if mine:
            return Finding(attack, None, f"{mine[0]} was made", "stream ACCEPTED")
        return Finding(
            attack,
            Where.SERVICE,
            attack.why,
            f"ACCEPTED has {len(consumers)} durables, none for scraper",
        )

    async def _nothing_happened(self, attack: Attack, mark: Mark) -> Finding:
        """The other half of the evidence is that :meth:`harm` finds none."""
        await asyncio.sleep(SETTLE_S)
        if any("Violation" in line for line in _since(self._nats_log, mark.nats_log)):
            return Finding(attack, Where.NATS, "Publish Violation", "nats-server log")
        return Finding(
            attack, attack.where, attack.why, "streams, counts and deliveries: as before"
        )

    async def _not_believed(self, attack: Attack, mark: Mark) -> Finding:
        if attack.key == "forged-receipt":
            return await self._receipt_not_believed(attack, mark)
        if attack.key == "repeated-shipment":
            await asyncio.sleep(SETTLE_S)
            now = await self._actors["order"].status()
            if (now["shipped"], now["doubled"]) != (mark.statuses["order"]["shipped"], 0):
                return Finding(attack, None, "the order bot handled it again", "order's count")
            return Finding(attack, Where.BOT, attack.why, "order's count: as before, none doubled")
        counted: dict[str, int] = {}

        async def look() -> bool:
            now, then = (
                (await self._actors[attack.victim].status())["refused"],
                mark.statuses[attack.victim]["refused"],
            )
            counted.update(
                {
                    why: count - then.get(why, 0)
                    for why, count in now.items()
                    if count > then.get(why, 0)
                }
            )
            return bool(counted)

        if not await _until(look):
            return Finding(
                attack,
                None,
                f"{attack.victim} has refused no delivery",
                "its count of refused deliveries",
            )
        return Finding(
            attack,
            Where.BOT,
            next(iter(counted)),
            f"{attack.victim}: {sum(counted.values())} deliveries refused",
        )

    async def _receipt_not_believed(self, attack: Attack, mark: Mark) -> Finding:
        found: list[str] = []

        async def look() -> bool:
            lines = _since(self._actors["order"].log, mark.order_log)
            found[:] = [line.rpartition(IGNORED)[2] for line in lines if IGNORED in line]
            return bool(found)

        if not await _until(look):
            return Finding(attack, None, "the order bot did not refuse the receipt", "order's log")
        return Finding(attack, Where.BOT, found[0], "order's log; it sent again, and was shipped")


async def _until(look: Callable[[], Awaitable[bool]], within_s: float = PATIENCE_S) -> bool:
    """Check until there is evidence, or until patience is over."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not await look():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.03)
    return True


def _size(path: Path) -> int:
    return path.stat().st_size


def _since(path: Path, offset: int) -> list[str]:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read().decode("utf-8", "replace").splitlines()


def _json(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
