"""A message that kills every relay that judges it.

It is set aside, and no other message is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

from sealbus import Verdict
from sealbus.nats.client import HardenedClient
from sealbus.supervision import end
from sealbus_broker.nats.streams import PARTITIONS, partition_consumer
from sealbus_broker.relay.ingress.last_try import LAST_DELIVERIES, Alone
from sealbus_broker.relay.store.quarantine import RECORD_HEADER
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until

POISON = "Poison-Street-1"
HOOK = f"""
import os, signal
import sealbus.protocol.codec as codec
import sealbus_broker.nats.streams as streams

streams.ACK_WAIT_S = 1  # so that messages of a dead relay come again soon
unpack = codec.unpack_json

def deadly(data, *more):
    if b"{POISON}" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    return unpack(data, *more)

codec.unpack_json = deadly
"""
"""The code that dies in each relay. Python imports a module of this name when it starts."""

SOURCES = list(filter(None, [os.environ.get("PYTHONPATH")]))


async def start_relay(shop: Shop, hook: Path, name: str) -> asyncio.subprocess.Process:
    with (shop.bus.path / f"{name}.log").open("ab") as log:
        relay = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sealbus_broker", "relay"),
            *("--dir", str(shop.bus.path), "--server", shop.url, "--name", name),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(hook), *SOURCES])},
        )
    shop.relays.append(relay)
    return relay


async def test_a_message_that_kills_relays_is_set_aside_alone(tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    async with Shop(tmp_path / "shop") as shop:
        running, deaths = True, 0

        async def keep_a_relay() -> None:
            nonlocal deaths
            number = 0
            while running:
                relay = await start_relay(shop, hook, f"relay-{number}")
                await relay.wait()
                deaths += running
                number += 1

        keeping = asyncio.create_task(keep_a_relay())
        async with shop.bot("order") as sender, shop.bot("order") as honest:
            deadly = order(666) | {"ship_to": order(1)["ship_to"] | {"street": POISON}}
            poison = asyncio.create_task(sender.publish("orders.placed", deadly, timeout=1))
            trading = [
                asyncio.create_task(
                    honest.publish("orders.placed", order(number), timeout=PATIENCE_S)
                )
                for number in range(20)
            ]
            verdicts = {(await one).verdict for one in trading}
            nc = await shop.nats()
            record = await set_aside(nc)
            poison.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await poison
            problem = await told(nc)
            assert "were set aside (from order)" in problem["what"]
            assert problem["hint"].endswith("quarantine ls --reason unjudgeable")
            async with shop.bot("operator") as operator:
                asked = {"reason": "unjudgeable"}
                page = (
                    await operator.request("sealbus.quarantine.list", asked, timeout=PATIENCE_S)
                ).payload
                assert [one["reason"] for one in page["records"]] == ["unjudgeable"]
        running = False
        assert verdicts == {Verdict.ACCEPTED}
        assert POISON.encode() in record["body"]  # the body is whole
        assert record["reason"] == "unjudgeable"
        assert (record["session"], record["proven"], record["subject"]) == ("order", None, None)
        assert "a relay that judged it alone ended" in record["detail"]
        assert deaths >= LAST_DELIVERIES
        await until(
            lambda: any(
                b"message.set-aside" in file.read_bytes()
                for file in shop.bus.path.glob("relay-*.log")
            ),
            "a log says so",
        )
        await nc.close()
        for relay in shop.relays:
            if relay.returncode is None:
                relay.kill()
        await end(keeping)


async def set_aside(nc: HardenedClient) -> dict[str, Any]:
    """The first record of a message that was set aside, once there is one."""
    ask = json.dumps({"next_by_subj": "quarantine.unjudgeable.>", "seq": 1}).encode()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await nc.request("$JS.API.DIRECT.GET.QUARANTINE", ask, PATIENCE_S)
            headers = answer.headers or {}
            if RECORD_HEADER in headers:
                return {**json.loads(headers[RECORD_HEADER]), "body": answer.data}
            await asyncio.sleep(0.1)


async def told(nc: HardenedClient) -> dict[str, str]:
    """The problem that a relay's health names of messages that were set aside, once it does."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(NatsError):
                answer: dict[str, Any] = json.loads((await nc.request("relay.ping", b"", 1)).data)
                for problem in answer["problems"]:
                    if problem["about"] == "unjudgeable":
                        found: dict[str, str] = problem
                        return found
            await asyncio.sleep(0.1)


async def test_an_honest_message_that_came_often_is_judged(tmp_path: Path) -> None:
    """Such a message comes where a relay is restarted again and again.

    Each stop gives back the messages that were not begun.
    """
    async with Shop(tmp_path / "shop") as shop:
        relay = await shop.start_relay()
        async with shop.bot("order") as sender:
            relay.terminate()
            await relay.wait()
            publishing = asyncio.create_task(
                sender.publish("orders.placed", order(1), timeout=PATIENCE_S)
            )
            nc = await shop.nats()
            for _ in range(LAST_DELIVERIES + 2):
                await give_back(nc)
            await shop.start_relay("last")
            assert (await publishing).verdict is Verdict.ACCEPTED
            assert await shop.stored("QUARANTINE") == 0
            # The verdict may be that of a copy, which the sender sends after a second.
            log = shop.bus.path / "last.log"
            await until(lambda: b"message.isolated" in log.read_bytes(), "it was judged alone")
            await nc.close()


async def give_back(nc: HardenedClient) -> None:
    """Pull a message from INGRESS, as a relay does, and give it back."""
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    ask = json.dumps({"batch": 1, "expires": int(PATIENCE_S * 1e9), "group": "relay"}).encode()
    for partition in range(PARTITIONS):
        consumer = partition_consumer(partition)
        await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.INGRESS.{consumer}", ask, reply=inbox)
    while True:
        message = await subscription.next_msg(PATIENCE_S)
        if message.reply:
            break
    consumer = partition_consumer(int(message.subject.split(".")[2]))
    await nc.request(message.reply, b"-NAK", PATIENCE_S)
    await nc.request(
        f"$JS.API.CONSUMER.UNPIN.INGRESS.{consumer}", b'{"group": "relay"}', PATIENCE_S
    )
    await subscription.unsubscribe()


async def test_a_message_that_is_judged_alone_is_alone() -> None:
    alone, order_of_events = Alone(), list[str]()
    go_on = asyncio.Event()

    async def beside(name: str) -> None:
        async with alone.together():
            order_of_events.append(f"{name} begins")
            await go_on.wait()
            order_of_events.append(f"{name} ends")

    async def by_itself() -> None:
        async with alone.alone():
            order_of_events.append("alone")

    tasks = [asyncio.create_task(beside("a")), asyncio.create_task(beside("b"))]
    await until(lambda: len(order_of_events) == 2, "both are under way")
    tasks.append(asyncio.create_task(by_itself()))
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(beside("c")))
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(*tasks)
    assert order_of_events.index("alone") == 4
    assert order_of_events[5:] == ["c begins", "c ends"]
