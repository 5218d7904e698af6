"""The answers of `sealbus ping` and of a relay about the health of a bus."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Any

from sealbus.nats.frames import pub
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Verdict, open_stamp
from sealbus.sending.minting import new_nonce
from sealbus.supervision import end
from sealbus_broker.gate.policy import HEALTH
from sealbus_broker.nats.streams import STREAMS
from tests.cli.command import Ran, sealbus_beside
from tests.cli.pinging import is_ok, pinged_beside
from tests.e2e.shop import Shop, order
from tests.gate.world import salted
from tests.waiting import PATIENCE_S, until


async def ping(shop: Shop, *more: str) -> Ran:
    arguments = ("ping", "--dir", str(shop.bus.path), "--server", shop.url, *more)
    return await sealbus_beside(*arguments, cwd=shop.bus.path)


async def asked(shop: Shop, *more: str) -> dict[str, Any]:
    ran = await ping(shop, "--json", *more)
    found: dict[str, Any] = json.loads(ran.out)
    assert ran.code == (1 if found["health"] == "red" else 0)
    return found


async def well(shop: Shop, *more: str) -> dict[str, Any]:
    """What a ping tells of a bus without a problem."""
    ran = await pinged_beside(lambda: ping(shop, "--json", *more), is_ok)
    found: dict[str, Any] = json.loads(ran.out)
    return found


async def test_a_bus_that_works_is_ok_and_shows_its_streams(shop: Shop) -> None:
    found = await well(shop)
    assert found["probe"]["verdict"] == "accepted"
    assert found["relay"]["relay"] == "relay"
    assert {row["stream"] for row in found["streams"]} == set(STREAMS)
    async with shop.bot("order") as bot:
        policy = (await bot.publish("orders.placed", order(1))).policy.hex()
    assert found["relay"]["policy"] == policy
    for_people = await pinged_beside(lambda: ping(shop))
    assert f"(policy {policy[:16]})" in for_people.err
    assert "ACCEPTED" in for_people.out
    assert "ok: relay relay serves the bus shop" in for_people.err


async def test_probes_fill_no_stream(shop: Shop) -> None:
    for _ in range(3):
        await well(shop)
    assert await shop.stored("ACCEPTED") == 1  # the genesis
    # The last probe, and the note of the policy that sessions obey.
    assert await shop.stored("HEALTH") == 2
    assert await shop.stored("QUARANTINE") == 0

    async def judged() -> bool:
        return await shop.stored("INGRESS") == 0

    await until(judged, "no probe is left in INGRESS")


async def test_each_relay_answers_for_itself(shop: Shop) -> None:
    second = await shop.start_relay("second")
    for name in ("relay", "second"):
        found = await well(shop, "--relay", name)
        assert found["relay"]["relay"] == name
    second.send_signal(signal.SIGSTOP)  # it stays connected, and does nothing
    silent = await ping(shop, "--relay", "second")
    assert silent.code == 1
    assert "the relay second does not answer" in silent.err
    await well(shop, "--relay", "relay")
    second.send_signal(signal.SIGKILL)


async def test_without_any_relay(shop: Shop) -> None:
    shop.relays[0].terminate()
    await shop.relays[0].wait()
    found = await asked(shop)
    assert found["health"] == "red"
    assert "no relay answers" in found["problems"][0]["what"]


async def test_a_stream_that_is_almost_full_is_a_warning(shop: Shop) -> None:
    """The test lowers the limit to a little more than the size of the stream."""
    shop.relays[0].terminate()
    await shop.relays[0].wait()
    nc = await shop.nats()
    for at in range(9):
        await nc.request(
            "quarantine.schema.order", bytes(100_000), PATIENCE_S, headers={"Nats-Msg-Id": str(at)}
        )
    await nc.close()
    policy = shop.bus.path / "policy.yaml"
    policy.write_text(
        policy.read_text().replace("limits:\n", "limits:\n  quarantine_bytes: 1MiB\n", 1)
    )
    await shop.start_relay()

    async def warned() -> bool:
        found = await asked(shop)
        return (
            found["health"] == "warning"
            and "QUARANTINE is 86% full" in found["problems"][0]["what"]
        )

    await until(warned, "it warns")
    log = shop.bus.path / "relay.log"
    await until(lambda: "health.warning" in log.read_text(), "its log says so")


async def fill(shop: Shop) -> None:
    """Fill ACCEPTED, of 1 MiB, with messages that belong to no bot."""
    nc = await shop.nats()
    stored, data = 0, b""
    while b"maximum bytes" not in data:
        said = {"Nats-Msg-Id": f"{stored}"}
        data = (await nc.request("accepted.filler", bytes(1000), PATIENCE_S, headers=said)).data
        stored += 1
    await nc.close()
    assert stored > 500


async def test_a_full_store_is_red(shop: Shop) -> None:
    """ACCEPTED is full, so accepted messages wait in the relay."""
    shop.relays[0].terminate()
    await shop.relays[0].wait()
    policy = shop.bus.path / "policy.yaml"
    policy.write_text(
        policy.read_text().replace(
            "limits:\n", "limits:\n  accepted_bytes: 1MiB\n  bot_share: 100\n", 1
        )
    )
    await shop.start_relay()
    await fill(shop)
    async with shop.bot("order") as sender:
        sending = [
            asyncio.create_task(
                sender.publish("orders.placed", order(n), timeout=PATIENCE_S, alone=True)
            )
            for n in range(10)
        ]

        async def red() -> bool:
            found = await asked(shop)
            return any(
                one["about"] == "store" and "maximum bytes" in one["what"]
                for one in found["problems"]
            )

        await until(red, "it is red")
        await end(*sending)


async def test_a_full_ledger_is_red_before_a_message_waits(shop: Shop) -> None:
    shop.relays[0].terminate()
    await shop.relays[0].wait()
    policy = shop.bus.path / "policy.yaml"
    policy.write_text(
        policy.read_text().replace(
            "limits:\n", "limits:\n  accepted_bytes: 1MiB\n  bot_share: 100\n", 1
        )
    )
    await shop.start_relay()
    await fill(shop)

    async def red() -> bool:
        found = await asked(shop)
        return any((one["about"], one["level"]) == ("ACCEPTED", "red") for one in found["problems"])

    await until(red, "it is red")


async def test_nobody_but_a_relay_may_send_a_probe(shop: Shop) -> None:
    """The probe names `sealbus` as its sender, but a stranger's key has sealed it."""
    nc = await shop.nats()
    stranger = SigningKey.generate(KeyKind.BOT)
    header = Header("shop", "sealbus", HEALTH, bytes(16), 0, 1000)
    (forged,) = seal_envelopes(stranger, [Draft(header, [salted(pack_json({"from": "me"}))])])
    nc.write([pub(b"send.sealbus", forged.data)])
    await nc.flush()
    await until(lambda: "unknown-key" in (shop.bus.path / "relay.log").read_text(), "it is refused")
    await nc.close()
    assert await shop.stored("QUARANTINE") == 0


async def test_a_question_older_than_the_ledger_is_dropped(shop: Shop) -> None:
    """The relay drops an old question to the bus, because no operator needs to see it.

    It quarantines an old message to another bot.
    """
    now_ms = time.time_ns() // 1_000_000
    key, issued_at_ms = shop.credentials("order").new_session_key(now_ms), now_ms - 60_000
    asked = {"sealbus.grants": {}, "stock.check": {"sku": "ABC-0001"}}
    nc = await shop.nats()
    inbox = await nc.subscribe("inbox.order.*")
    verdicts: dict[str, Verdict] = {}
    for subject, payload in asked.items():
        header = Header("shop", "order", subject, new_nonce(issued_at_ms), issued_at_ms, 1000)
        (envelope,) = seal_envelopes(key, [Draft(header, [salted(pack_json(payload))])])
        nc.write([pub(b"call.order", envelope.data)])
        stamp = open_stamp(
            (await inbox.next_msg(PATIENCE_S)).data, shop.credentials("order").bus_keys, Verifier()
        )
        assert stamp.reason is Reason.STALE
        verdicts[stamp.subject] = stamp.verdict
    await nc.close()
    assert verdicts == {"sealbus.grants": Verdict.DROPPED, "stock.check": Verdict.QUARANTINED}
    assert await shop.stored("QUARANTINE") == 1


async def test_a_relay_does_not_count_its_own_probes(shop: Shop, each_sent_once: None) -> None:
    for _ in range(3):
        assert (await asked(shop))["probe"]["verdict"] == "accepted"
    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
    shop.relays[0].terminate()
    await shop.relays[0].wait()
    lines = (shop.bus.path / "relay.log").read_text().splitlines()
    (said,) = [json.loads(line) for line in lines if "relay.stopped" in line]
    # From the bot: the order, and its question for its grants, which it asks at most twice.
    assert said["accepted"] in (2, 3)
