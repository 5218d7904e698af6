"""The door is a process of its own.

It admits bots while the relay hangs, and it ends when the relay ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import uvloop
from nats.errors import Error as NatsError

from sealbus.life.connecting import Connector
from sealbus.nats.client import HardenedClient
from sealbus.supervision import Supervisor
from sealbus_broker.door.orders import Orders
from sealbus_broker.door.process import MOST_FAILURES, Door
from sealbus_broker.errors import DoorFailed
from sealbus_broker.nats.config import DISCONNECTED_SUBJECT
from sealbus_broker.relay.secrets import BusSecrets
from tests.e2e.shop import Shop, order
from tests.forked import Program
from tests.forked_door import ANEW
from tests.scene import a_policy, now_ms
from tests.waiting import PATIENCE_S, until

ANSWERED_S = 30.0
"""Within this time each login is answered while one of two doors is frozen: two seconds until it
counts as silent, two for a login that it has, and a busy machine."""


@pytest.fixture(autouse=True)
def doors_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python start the doors, as on a real bus."""
    monkeypatch.setenv(ANEW, "yes")


async def log_in(shop: Shop, bot: str = "order") -> HardenedClient:
    """Open a session of a bot that sends nothing to the relay."""

    async def attach(_: HardenedClient) -> None: ...

    client = HardenedClient()
    credentials = shop.credentials(bot)
    connector = Connector(credentials, attach, on_denied=lambda _: None)
    key = credentials.new_session_key(now_ms())
    options = connector.options(key, frozenset()) | {"connect_timeout": PATIENCE_S}
    await client.connect(servers=[shop.url], **options)
    return client


async def log_in_again(shop: Shop) -> HardenedClient:
    """Open a session at the first try, or at the second."""
    with contextlib.suppress(NatsError, OSError):
        return await log_in(shop)
    return await log_in(shop)


async def come_in(shop: Shop) -> None:
    """A bot logs in, as often as it takes, and leaves."""
    async with shop.bot("order"):
        pass


def door_of(relay: Program) -> int:
    """The process id of the relay's door."""
    (pid,) = Path(f"/proc/{relay.pid}/task/{relay.pid}/children").read_text().split()
    return int(pid)


def runs(pid: int) -> bool:
    """Whether the process runs. A process that ended and was not waited for does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
class TestAProcessOfItsOwn:
    async def test_a_relay_that_hangs_keeps_nobody_out(self, shop: Shop) -> None:
        """A relay hangs like this on a message that takes for ever to judge."""
        relay = shop.relays[0]
        relay.send_signal(signal.SIGSTOP)
        try:
            client = await log_in_again(shop)
            assert client.is_connected
            await client.close()
        finally:
            relay.send_signal(signal.SIGCONT)

    async def test_a_door_that_was_killed_is_started_again(self, shop: Shop) -> None:
        """A connected bot does not notice it."""
        killed = door_of(shop.relays[0])
        async with shop.bot("order") as bot:
            os.kill(killed, signal.SIGKILL)
            await until(lambda: b"admission.ended" in (shop.bus.path / "relay.log").read_bytes())
            assert (await bot.publish("orders.placed", order(1))).reason is None
            async with shop.bot("inventory"):
                pass
        assert door_of(shop.relays[0]) != killed

    async def test_logins_go_to_the_door_that_answers(self, shop: Shop) -> None:
        """Of two doors one is frozen. Each login is answered, and soon without many tries."""
        frozen = door_of(await shop.start_relay("other"))
        nc = await shop.nats()
        ended = await nc.subscribe(DISCONNECTED_SUBJECT)
        await nc.flush()
        os.kill(frozen, signal.SIGSTOP)
        try:
            # A login that goes to the frozen door fails after two seconds, and is tried again.
            async with asyncio.timeout(ANSWERED_S):
                await asyncio.gather(*(come_in(shop) for _ in range(20)))
                while True:
                    event = json.loads((await ended.next_msg(PATIENCE_S)).data)
                    if event["client"].get("name") == "sealbus relay other admission":
                        break
            # From here on nats-server knows one door. With two, each try would go to either, and
            # both tries of some login to the frozen one. A busy machine may make one try too slow.
            for _ in range(10):
                client = await log_in_again(shop)
                assert client.is_connected
                await client.close()
        finally:
            os.kill(frozen, signal.SIGCONT)
            await nc.close()

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
    async def test_it_does_not_outlive_its_relay(self, shop: Shop, how: signal.Signals) -> None:
        relay = shop.relays[0]
        door = door_of(relay)
        relay.send_signal(how)
        await relay.wait()
        await until(lambda: not runs(door))

    async def test_signals_for_the_relay_do_not_end_it(self, shop: Shop) -> None:
        """systemd sends SIGTERM to each process of a service. The relay ends the door in order."""
        relay = shop.relays[0]
        door = door_of(relay)
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(door, one)
        client = await log_in_again(shop)
        assert client.is_connected
        await client.close()
        assert door_of(relay) == door
        # And it still goes with its relay.
        relay.kill()
        await relay.wait()
        await until(lambda: not runs(door))

    async def test_no_seed_is_where_others_can_read_it(self, shop: Shop) -> None:
        process = Path(f"/proc/{door_of(shop.relays[0])}")
        told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        assert b"sealbus_broker.cli.running.door" in told
        for key in (shop.secrets.bus, shop.secrets.issuer, shop.secrets.relay):
            assert key.seed_text.encode() not in told


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_door_that_dies_before_its_orders_is_started_again(run: Any) -> None:
    """uvloop, on which relays run, closes the pipe of a process that has ended."""
    keys = BusSecrets.generate()
    orders = Orders(("nats://h:1",), "relay", keys.relay, keys.issuer, a_policy())

    async def dies() -> None:
        door = Door(lambda: orders, Supervisor("test"), (sys.executable, "-c", "exit(7)"))
        running = asyncio.create_task(door.run())
        await until(lambda: door._process is not None and door.pid is None)
        door.open()
        with pytest.raises(DoorFailed, match=f"ended {MOST_FAILURES} times .*exit code 7"):
            await running

    run(dies())


async def test_a_door_that_cannot_stay_ends_the_relay(shop: Shop) -> None:
    """The relay tries it again first, and the error says how the door ended."""
    secrets = shop.secrets
    orders = Orders((shop.url,), "relay", secrets.relay, secrets.issuer, a_policy())
    door = Door(lambda: orders, Supervisor("test"), (sys.executable, "-c", "raise SystemExit(7)"))
    door.open()
    with pytest.raises(DoorFailed, match=f"ended {MOST_FAILURES} times .*exit code 7"):
        await door.run()
