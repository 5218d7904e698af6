"""The durable subscriptions of bots: JetStream consumers on ACCEPTED, made on request and taken away with the grant."""

from __future__ import annotations

import json
from typing import Any, Final

import structlog
from nats.aio.client import Client

from sealbus.subjects import consumer_name
from sealbus_broker.gate.policy import Policy
from sealbus_broker.relay.streams import ACCEPTED

log = structlog.get_logger(__name__)

ACK_WAIT_S: Final = 30
"""How long a bot's handler may be silent before its message is delivered again; the client reports progress sooner."""

ACK_PENDING: Final = 1024
"""Messages a durable subscription may have in hand."""

REQUEST_S: Final = 5.0
_EXISTS: Final = 10148
"""JetStream: the consumer exists with other settings; another relay was faster, or asked with another start."""


async def make_consumer(nc: Client, bot: str, pattern: str, durable: str, start: str) -> str | None:
    """Make the consumer of a bot's durable subscription, if it is not there; return its name, or ``None`` if JetStream refuses.

    Where it began, ``start`` (``new`` or ``all``), stays as the first asker wanted it. That the bot may have it is for the caller
    to have checked.
    """
    name = consumer_name(bot, pattern, durable)
    if "error" not in await _api(nc, f"CONSUMER.INFO.{ACCEPTED}.{name}", None):
        return name
    config = {
        "durable_name": name,
        "filter_subject": f"accepted.{pattern}",
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_S * 1_000_000_000,
        "deliver_policy": start,
        "max_ack_pending": ACK_PENDING,
        "max_deliver": -1,
        "metadata": {"bot": bot, "pattern": pattern, "durable": durable},
    }
    create = {"stream_name": ACCEPTED, "config": config, "action": "create"}
    made = await _api(nc, f"CONSUMER.CREATE.{ACCEPTED}.{name}.{config['filter_subject']}", create)
    if "error" in made and made["error"].get("err_code") != _EXISTS:
        log.error("consumer.refused", consumer=name, error=made["error"].get("description"))
        return None
    return name


async def remove_ungranted(nc: Client, policy: Policy) -> int:
    """Delete every consumer on ACCEPTED that the policy no longer grants; return how many.

    A consumer outlives the session that asked for it, so a grant that is taken away must take it along: its bot could still pull.
    """
    removed = 0
    for info in await _consumers(nc):
        name, metadata = info["name"], info["config"].get("metadata") or {}
        bot = policy.bots.get(metadata.get("bot", ""))
        pattern, durable = metadata.get("pattern", ""), metadata.get("durable", "")
        is_ours = bot is not None and name == consumer_name(bot.name, pattern, durable)
        filters_so = info["config"].get("filter_subject") == f"accepted.{pattern}"
        if bot is not None and is_ours and filters_so and bot.may_subscribe(pattern):
            continue
        await _api(nc, f"CONSUMER.DELETE.{ACCEPTED}.{name}", None)
        log.warning("consumer.removed", consumer=name, bot=metadata.get("bot"), pattern=pattern)
        removed += 1
    return removed


async def _consumers(nc: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = await _api(nc, f"CONSUMER.LIST.{ACCEPTED}", {"offset": len(found)})
        found.extend(page.get("consumers") or [])
        if not page.get("consumers") or len(found) >= page["total"]:
            return found


async def _api(nc: Client, call: str, body: object) -> Any:
    answer = await nc.request(f"$JS.API.{call}", b"" if body is None else json.dumps(body).encode(), REQUEST_S)
    return json.loads(answer.data)
