"""The durable subscriptions of bots: JetStream consumers on ACCEPTED.

A relay makes one when a bot asks for it, and removes it when the policy no longer grants it, when
an operator says so, or, by JetStream, after the time without use that the bot asked for. It stays
when a bot's session ends.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from sealbus.protocol.limits import MAX_PULL, MAX_PULL_S, MAX_PULLS
from sealbus.protocol.streams import ACCEPTED, ACCEPTED_PREFIX
from sealbus.protocol.subjects import consumer_name
from sealbus_broker.errors import NotServed
from sealbus_broker.gate.policy import Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import API, is_missing, refused, request, time_ms
from sealbus_broker.nats.sites import MIRROR
from sealbus_broker.nats.streams import MAX_SUBSCRIPTIONS

log = get_logger(__name__)

ACK_WAIT_S: Final = 30
"""How long a bot's handler may be silent before its message is delivered again. The client reports
progress sooner."""

ACK_PENDING: Final = 16_384
"""How many messages of a durable subscription are in hand or wait for another attempt. A message
that fails waits here, so this many may fail before the rest is held up. Four processes may each
have 4,096 waiting (``sealbus.receiving.attempts.MOST_WAITING``)."""

LIST_MOST: Final = 200
"""How many subscriptions one answer has: about 80 KiB of JSON."""

REQUEST_S: Final = 5.0
"""How long JetStream may take for one answer."""

NAMED_MOST: Final = 3
"""How many consumers an error names."""

_EXISTS: Final = 10148
"""JetStream's error for a consumer that exists with other settings: another relay was faster, or
was asked with another start."""

_TOO_MANY: Final = 10026
"""JetStream's error for a stream that has as many consumers as it may have."""


class ConsumersUnheard(NatsError):
    """JetStream does not tell of some consumers, because their leaders do not answer it.

    A cluster asks the leader of each consumer for a list, and waits four seconds (nats-server
    2.15.1).
    """

    def __init__(self, names: Collection[str]) -> None:
        """``names``: the consumers."""
        named = ", ".join(sorted(names)[:NAMED_MOST])
        more = len(names) - NAMED_MOST
        rest = f", and {more} more" if more > 0 else ""
        super().__init__(f"the leaders of these durable subscriptions do not answer: {named}{rest}")


class Subscriptions:
    """Makes, lists and removes the bots' durable subscriptions."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._making: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """A lock for each bot, so that its requests cannot pass its limit together. Two relays may
        let one more through."""

    async def make(
        self,
        bot: str,
        pattern: str,
        durable: str,
        start: str,
        *,
        most: int,
        forget_s: int | None = None,
    ) -> str:
        """Make the consumer of a bot's durable subscription, if it does not exist; return its name.

        The caller has checked that the bot may receive the pattern.

        Args:
            bot: The subscriber.
            pattern: The subjects that it wants.
            durable: The subscription's name.
            start: ``new`` or ``all``. A consumer that exists keeps the start that it was made with.
            most: How many durable subscriptions the bot may have.
            forget_s: After this many seconds without use JetStream removes the consumer.

        Raises:
            NotServed: The bot or the bus has too many.
            StreamsUnusable: JetStream answers with another error, as while it has no leader.
            nats.errors.Error: It does not answer.
        """
        name = consumer_name(bot, pattern, durable)
        async with self._making[bot]:
            if await _info(self._nc, name) is not None:
                return name
            # No bot's name contains ``_``, so no other bot's consumer begins like this.
            count = sum(one.startswith(f"{bot}_") for one in await _names(self._nc))
            if count >= most:
                raise NotServed(
                    f"{bot} has {count} durable subscriptions, and the policy allows {most}"
                    " (limits.subscriptions); an operator can remove one that is no longer used:"
                    " sealbus subscriptions rm"
                )
            config = _config(bot, pattern, durable) | {"deliver_policy": start}
            if forget_s is not None:
                config["inactive_threshold"] = forget_s * 1_000_000_000
            create = {"stream_name": ACCEPTED, "config": config, "action": "create"}
            made = await _api(
                self._nc, f"CONSUMER.CREATE.{ACCEPTED}.{name}.{config['filter_subject']}", create
            )
        error = made.get("error", {})
        if error.get("err_code") == _TOO_MANY:
            log.error(
                "consumer.refused",
                consumer=name,
                error=f"the bus has {MAX_SUBSCRIPTIONS} durable subscriptions",
            )
            raise NotServed(
                f"the bus has {MAX_SUBSCRIPTIONS} durable subscriptions, and takes no more"
            )
        # Under this name only the start can differ: the name is a hash of pattern and durable name.
        if error and error.get("err_code") != _EXISTS:
            log.error("consumer.refused", consumer=name, error=error.get("description"))
            raise refused(f"the consumer {name} cannot be made", error)
        return name

    async def withdraw(self, consumer: str) -> None:
        """Remove a consumer that was made while its grant was taken away."""
        await _delete(self._nc, consumer)

    async def list(self, bot: str | None, offset: int, limit: int) -> dict[str, Any]:
        """Return a page of the durable subscriptions of ``bot`` or of all, in the order of their
        names.

        Raises:
            NotServed: JetStream does not tell of all of them.
        """
        try:
            infos = await _consumers(self._nc)
        except ConsumersUnheard as unheard:
            raise NotServed(
                f"{unheard}; an election takes seconds, so try again; if it goes on, start the"
                " nodes of the cluster that are away, and look into nats-server's log"
            ) from None
        rows = [_row(info) for info in infos if _is_subscription(info)]
        wanted = sorted(
            (row for row in rows if bot in (None, row["bot"])), key=lambda row: str(row["consumer"])
        )
        page = wanted[offset : offset + min(limit, LIST_MOST)]
        end = offset + len(page)
        return {
            "subscriptions": page,
            "next": end if end < len(wanted) else None,
            "total": len(wanted),
        }

    async def remove(self, consumer: str, operator: str) -> dict[str, Any]:
        """Remove a consumer, and with it its place in the stream; return its row.

        Raises:
            NotServed: It does not exist, or JetStream does not remove it.
            StreamsUnusable: JetStream cannot say whether it exists.
            nats.errors.Error: JetStream does not answer.
        """
        info = await _info(self._nc, consumer)
        if info is None or not _is_subscription(info):
            raise NotServed(f"there is no durable subscription {consumer}")
        gone = await _api(self._nc, f"CONSUMER.DELETE.{ACCEPTED}.{consumer}", None)
        # JetStream may have removed it meanwhile, after its time without use.
        if "error" in gone and not is_missing(gone):
            raise NotServed(f"JetStream did not remove it: {gone['error'].get('description')}")
        row = _row(info)
        log.warning(
            "consumer.removed",
            consumer=consumer,
            bot=row["bot"],
            pattern=row["pattern"],
            operator=operator,
        )
        return row


def _config(bot: str, pattern: str, durable: str) -> dict[str, Any]:
    return {
        "durable_name": consumer_name(bot, pattern, durable),
        "filter_subject": f"{ACCEPTED_PREFIX}.{pattern}",
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_S * 1_000_000_000,
        "max_ack_pending": ACK_PENDING,
        "max_batch": MAX_PULL,
        "max_expires": MAX_PULL_S * 1_000_000_000,
        "max_waiting": MAX_PULLS,
        # A limit would lose the message in silence. The client counts, and has it parked.
        "max_deliver": -1,
        "metadata": {"bot": bot, "pattern": pattern, "durable": durable},
    }


def _is_subscription(info: dict[str, Any]) -> bool:
    """Return whether a relay made a consumer for a bot.

    Others are that of the second site, and those that were made by hand, which the next start of a
    relay removes. nats-server writes metadata of its own into each.
    """
    return "bot" in (info["config"].get("metadata") or {})


def _row(info: dict[str, Any]) -> dict[str, Any]:
    metadata = info["config"]["metadata"]
    active = info["delivered"].get("last_active")
    return {
        "consumer": info["name"],
        "bot": metadata.get("bot", ""),
        "pattern": metadata.get("pattern", ""),
        "durable": metadata.get("durable", ""),
        "waiting": info["num_pending"],
        "in_hand": info["num_ack_pending"],
        "listening": info["num_waiting"] > 0 or info["num_ack_pending"] > 0,
        "created_ms": time_ms(info["created"]),
        "delivered_ms": time_ms(active) if active else None,
    }


async def remove_ungranted(nc: Client, policy: Policy) -> int:
    """Remove every consumer on ACCEPTED that the policy does not grant; return how many.

    A consumer outlives the session that asked for it. Its bot could still pull after the grant was
    taken away.

    Raises:
        ConsumersUnheard: Some could not be looked at. All others are done.
        nats.errors.Error: JetStream does not do it.
    """
    removed = 0
    # All are listed before any is removed. Otherwise the pages of the list would shift.
    found, unheard = await _list(nc)
    for info in found:
        name = info["name"]
        # That of the second site. No request of a bot makes a consumer of this name.
        if name == MIRROR:
            continue
        metadata = info["config"].get("metadata") or {}
        bot = policy.bots.get(metadata.get("bot", ""))
        pattern = metadata.get("pattern", "")
        durable = metadata.get("durable", "")
        # The metadata only repeat the request. A session may pull by the name, and gets the
        # messages of the filter.
        is_ours = bot is not None and name == consumer_name(bot.name, pattern, durable)
        filters_so = info["config"].get("filter_subject") == f"{ACCEPTED_PREFIX}.{pattern}"
        if bot is not None and is_ours and filters_so and bot.may_subscribe(pattern):
            await _follow(nc, info, _config(bot.name, pattern, durable))
            continue
        await _delete(nc, name)
        log.warning("consumer.removed", consumer=name, bot=metadata.get("bot"), pattern=pattern)
        removed += 1
    if unheard:
        raise ConsumersUnheard(unheard)
    return removed


async def _delete(nc: Client, consumer: str) -> None:
    """Remove a consumer. Raises ``nats.errors.Error`` if JetStream keeps it."""
    gone = await _api(nc, f"CONSUMER.DELETE.{ACCEPTED}.{consumer}", None)
    if "error" in gone and not is_missing(gone):
        raise NatsError(f"{consumer} cannot be removed: {gone['error'].get('description')}")


async def _follow(nc: Client, info: dict[str, Any], config: dict[str, Any]) -> None:
    """Give a consumer that an earlier version made the settings of this version."""
    before = info["config"]
    if all(
        before.get(name) == config[name] for name in ("max_ack_pending", "max_batch", "max_expires")
    ):
        return
    # JetStream sets the last of them only when the consumer is made.
    kept = ("deliver_policy", "inactive_threshold", "max_waiting")
    config |= {name: before[name] for name in kept if name in before}
    update = {"stream_name": ACCEPTED, "config": config, "action": "update"}
    answer = await _api(
        nc, f"CONSUMER.CREATE.{ACCEPTED}.{info['name']}.{config['filter_subject']}", update
    )
    log.info(
        "consumer.updated", consumer=info["name"], error=answer.get("error", {}).get("description")
    )


async def _info(nc: Client, consumer: str) -> dict[str, Any] | None:
    """Return JetStream's facts about a consumer, or ``None`` if it does not exist.

    Raises:
        StreamsUnusable: JetStream answers with another error. The consumer may exist.
    """
    info: dict[str, Any] = await _api(nc, f"CONSUMER.INFO.{ACCEPTED}.{consumer}", None)
    if is_missing(info):
        return None
    if "error" in info:
        raise refused(f"the consumer {consumer} cannot be looked at", info["error"])
    return info


async def _names(nc: Client) -> list[str]:
    """Return the names of all consumers. Raises ``StreamsUnusable`` for an error of JetStream's."""
    found: list[str] = []
    while True:
        page = await _api(nc, f"CONSUMER.NAMES.{ACCEPTED}", {"offset": len(found)})
        if "error" in page:
            raise refused("the consumers cannot be listed", page["error"])
        found.extend(page.get("consumers") or [])
        if not page.get("consumers") or len(found) >= page["total"]:
            return found


async def _consumers(nc: Client) -> list[dict[str, Any]]:
    """Return all consumers. Raises :class:`ConsumersUnheard` if some are missing."""
    found, unheard = await _list(nc)
    if unheard:
        raise ConsumersUnheard(unheard)
    return found


async def _list(nc: Client) -> tuple[list[dict[str, Any]], set[str]]:
    """Return the consumers that JetStream tells of, and the names of those that it does not."""
    found: list[dict[str, Any]] = []
    unheard: set[str] = set()
    offset = 0
    while True:
        page = await _api(nc, f"CONSUMER.LIST.{ACCEPTED}", {"offset": offset})
        if "error" in page:
            raise NatsError(f"the consumers cannot be listed: {page['error'].get('description')}")
        # One whose nodes are all away is listed without a name, and is among the missing ones too.
        found.extend(one for one in page.get("consumers") or [] if one["name"])
        unheard.update(page.get("missing") or [])
        # Missing ones count in the offset and in the total.
        offset += page["limit"]
        if offset >= page["total"]:
            return found, unheard


async def _api(nc: Client, call: str, body: object) -> Any:
    return await request(
        nc, f"{API}.{call}", b"" if body is None else json.dumps(body).encode(), REQUEST_S
    )
