"""The pinned consumers of the ingress: one relay at a time works on a partition."""

from __future__ import annotations

import pytest

from sealbus_broker.nats.streams import PRIORITY_GROUP
from tests.contract.ground import Ground, Puller, Received
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

CONSUMER = "relay-16-0"
BOT = "e"
"""A name whose messages fall into the first partition."""


async def two_relays(bus: Ground) -> tuple[Puller, Puller]:
    """Two relays' clients on one partition."""
    one = await bus.puller("INGRESS", CONSUMER)
    two = await bus.puller("INGRESS", CONSUMER, await bus.login())
    return one, two


def pin(message: Received) -> str:
    """The pin that a message brings."""
    return message.headers["Nats-Pin-Id"]


async def test_bot_is_in_the_first_partition(bus: Ground) -> None:
    await bus.send(BOT, b"it")

    async def is_there() -> bool:
        return bool((await bus.done(f"CONSUMER.INFO.INGRESS.{CONSUMER}"))["num_pending"] == 1)

    await until(is_there, "it waits in the first partition")


async def test_first_client_gets_the_pin(bus: Ground) -> None:
    one, two = await two_relays(bus)
    one.ask(2, group=PRIORITY_GROUP)
    await bus.relay.flush()
    two.ask(2, group=PRIORITY_GROUP)
    await two.inbox.client.flush()
    await bus.send(BOT, b"1", b"2")
    first, second = await one.inbox.take(2)
    assert pin(first) == pin(second) != ""
    assert two.inbox.is_empty


async def pins_last(bus: Ground) -> None:
    """Let pins last, however busy the machine is."""
    config = (await bus.done(f"CONSUMER.INFO.INGRESS.{CONSUMER}"))["config"]
    longer = config | {"priority_timeout": int(PATIENCE_S * 1e9)}
    wanted = {"stream_name": "INGRESS", "config": longer, "action": "update"}
    place = f"INGRESS.{CONSUMER}.{config['filter_subject']}"
    assert await bus.done(f"CONSUMER.CREATE.{place}", wanted)


async def test_pinned_client_goes_on(bus: Ground) -> None:
    await pins_last(bus)
    one, two = await two_relays(bus)
    one.ask(1, group=PRIORITY_GROUP)
    await bus.relay.flush()
    two.ask(1, group=PRIORITY_GROUP)
    await two.inbox.client.flush()
    await bus.send(BOT, b"1")
    first = await one.next()
    one.ask(1, group=PRIORITY_GROUP, id=pin(first))
    await bus.send(BOT, b"2")
    assert (await one.next()).data == b"2"
    assert two.inbox.is_empty


async def test_info_names_the_pin(bus: Ground) -> None:
    await pins_last(bus)
    one, _ = await two_relays(bus)

    async def pinned() -> str | None:
        (group,) = (await one.info())["priority_groups"]
        assert group["group"] == PRIORITY_GROUP
        found: str | None = group.get("pinned_client_id")
        return found

    assert await pinned() is None
    one.ask(1, group=PRIORITY_GROUP)
    await bus.send(BOT, b"1")
    first = await one.next()
    assert await pinned() == pin(first)
    await bus.done(f"CONSUMER.UNPIN.INGRESS.{CONSUMER}", {"group": PRIORITY_GROUP})
    assert await pinned() is None


async def test_silent_client_loses_the_pin(bus: Ground) -> None:
    one, two = await two_relays(bus)
    one.ask(1, group=PRIORITY_GROUP)
    await bus.relay.flush()
    two.ask(1, group=PRIORITY_GROUP)
    await two.inbox.client.flush()
    await bus.send(BOT, b"1", b"2")
    first, second = await one.next(), await two.next()
    assert second.data == b"2"
    assert pin(second) != pin(first)


async def test_old_pin_is_told_so(bus: Ground) -> None:
    one, two = await two_relays(bus)
    one.ask(1, group=PRIORITY_GROUP)
    await bus.send(BOT, b"1")
    first = await one.next()
    await bus.done(f"CONSUMER.UNPIN.INGRESS.{CONSUMER}", {"group": PRIORITY_GROUP})
    two.ask(1, group=PRIORITY_GROUP)
    await two.inbox.client.flush()
    await bus.send(BOT, b"2")
    assert (await two.next()).data == b"2"
    one.ask(1, group=PRIORITY_GROUP, id=pin(first))
    assert (await one.next()).status == "423"


async def test_given_up_pin_goes_to_the_next(bus: Ground) -> None:
    one, two = await two_relays(bus)
    one.ask(1, group=PRIORITY_GROUP)
    await bus.relay.flush()
    two.ask(1, group=PRIORITY_GROUP)
    await two.inbox.client.flush()
    await bus.send(BOT, b"1", b"2")
    await one.next()
    await bus.done(f"CONSUMER.UNPIN.INGRESS.{CONSUMER}", {"group": PRIORITY_GROUP})
    assert (await two.next()).data == b"2"


async def test_request_without_the_group_is_refused(bus: Ground) -> None:
    one = await bus.puller("INGRESS", CONSUMER)
    one.ask(1)
    assert (await one.next()).status == "400"


async def test_request_of_another_group_is_refused(bus: Ground) -> None:
    one = await bus.puller("INGRESS", CONSUMER)
    one.ask(1, group="others")
    assert (await one.next()).status == "400"
