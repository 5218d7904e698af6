"""A relay that starts while its server is restarted, stopped, or ends the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from nats.errors import Error as NatsError
from structlog.testing import capture_logs

from sealbus.errors import ConnectionFailed
from sealbus.nats.client import HardenedClient
from sealbus.protocol.subjects import GENESIS
from sealbus_broker.gate.policy import Policy
from sealbus_broker.memory.accounts import Target
from sealbus_broker.memory.server import MemoryNats
from sealbus_broker.memory.wire import Message
from sealbus_broker.nats import connection
from sealbus_broker.relay.relay import Relay
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.services.consumers import ConsumersUnheard, remove_ungranted
from sealbus_broker.testing.door import DoorInProcess
from tests.contract.ground import a_policy, make_keys
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

CONNECTION = "sealbus relay test messages"
"""The relay's connection calls itself so."""
SOME_CALL = 7
"""Any of the first calls of a start."""
SURE = 30
"""Each start has more calls than this."""
AT_ONCE = 8
"""The starts at the same time. On a busy machine, sixty relays in one process would have no turn
within the deadlines of their calls."""


@pytest.fixture(autouse=True)
def _back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RECONNECT_S", 0.01)


class Starting:
    """A relay that starts on a new server in memory, whose JetStream counts the calls."""

    def __init__(
        self,
        at: int = 0,
        misfortune: Callable[[MemoryNats], object] | None = None,
        *,
        served: bool = False,
    ) -> None:
        """``misfortune`` befalls the server at the call with the number ``at``. Its answer is lost.
        ``served``: whether the call itself takes effect."""
        secrets, policy = BusSecrets.generate(), a_policy(make_keys())
        # Two partitions are as good as sixteen. Each has calls of its own.
        policy = replace(policy, limits=replace(policy.limits, clock_skew_ms=1, partitions=2))
        self.server = MemoryNats(secrets.relay.public, secrets.issuer.public)
        self.server.accounts.engine = self
        self.server.start()
        self.calls = 0
        """The number of calls before the first request for messages, which ends the start."""
        self.befell = asyncio.Event()
        """Set with the misfortune."""
        self._is_over = False
        self._at = at
        self._misfortune = misfortune
        self._served = served
        self.stopping = asyncio.Event()
        self._ready = asyncio.Event()
        relay = Relay(
            servers=[self.server.url],
            secrets=secrets,
            policy=policy,
            name="test",
            make_door=DoorInProcess,
        )
        self.running = asyncio.create_task(relay.run(self.stopping, self._ready.set))

    async def ready(self) -> None:
        """Wait until the relay is ready, and stop it. Raises the error that ends it before."""
        waiting = asyncio.create_task(self._ready.wait())
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait((waiting, self.running), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            self.stopping.set()
            await self.running
        self.server.stop()
        assert self._ready.is_set()

    # ---- the server's JetStream -----------------------------------------------------------------

    def ask(self, message: Message, answer_to: Target) -> bool:
        self._is_over = self._is_over or ".MSG.NEXT." in message.subject
        is_lost = self._count()
        if is_lost and not self._served:
            return True
        return self.server.jetstream.ask(message, Target("BUS", "") if is_lost else answer_to)

    def store(self, message: Message, answer_to: Target) -> bool:
        # Each message comes here, also those that no stream takes.
        is_lost = message.subject.endswith(GENESIS) and self._count()
        if is_lost and not self._served:
            return True
        return self.server.jetstream.store(message, Target("BUS", "") if is_lost else answer_to)

    def _count(self) -> bool:
        """Whether this call meets the misfortune."""
        self.calls += not self._is_over
        if self.calls != self._at or self._misfortune is None or self.befell.is_set():
            return False
        asyncio.get_running_loop().call_soon(self._misfortune, self.server)
        self.befell.set()
        return True


def restart(server: MemoryNats) -> None:
    """The server loses its connections and its streams in memory."""
    server.stop()
    asyncio.get_running_loop().call_soon(server.start)


@pytest.mark.parametrize("served", [False, True])
async def test_a_start_survives_a_restart_at_each_call(served: bool) -> None:
    plain = Starting()
    await plain.ready()
    assert plain.calls > SURE
    turns = asyncio.Semaphore(AT_ONCE)

    async def start(at: int) -> bool:
        async with turns:
            one = Starting(at, restart, served=served)
            await one.ready()
            return one.befell.is_set()

    results = await asyncio.gather(*map(start, range(1, plain.calls + 1)), return_exceptions=True)
    failed = {at: it for at, it in enumerate(results, 1) if isinstance(it, BaseException)}
    assert not failed
    # A start that takes longer makes some calls more: it looks at the partitions meanwhile.
    assert all(results[:SURE])


async def test_a_start_survives_a_restart_while_it_subscribes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer to its flush is lost with the connection."""
    flush = HardenedClient.flush
    flushed = 0

    async def flush_in_vain(self: HardenedClient, timeout: int = 10) -> None:  # noqa: ASYNC109
        nonlocal flushed
        if self.options["name"] == CONNECTION:
            flushed += 1
            if flushed == 1:
                asyncio.get_running_loop().call_soon(restart, starting.server)
        await flush(self, timeout)

    monkeypatch.setattr(HardenedClient, "flush", flush_in_vain)
    starting = Starting()
    await starting.ready()
    assert flushed > 1


async def test_a_start_waits_for_a_stream_without_a_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An election, after all streams were there. Nobody would start the relay again by hand."""
    monkeypatch.setattr("sealbus_broker.relay.relay.AWAY_S", 0.01)
    tries = 0

    async def without_leader(nc: HardenedClient, policy: Policy) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise NatsError("the consumers cannot be listed")
        return await remove_ungranted(nc, policy)

    monkeypatch.setattr("sealbus_broker.relay.relay.remove_ungranted", without_leader)
    with capture_logs() as lines:
        await Starting().ready()
    (line,) = [one for one in lines if one["event"] == "streams.awaited"]
    assert "the consumers cannot be listed" in line["error"]


async def test_a_start_does_not_wait_for_one_silent_subscription(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All other bots would wait too. The relay looks again while it serves."""

    async def without_one(nc: HardenedClient, policy: Policy) -> int:
        await remove_ungranted(nc, policy)
        raise ConsumersUnheard({"order_1"})

    monkeypatch.setattr("sealbus_broker.relay.relay.remove_ungranted", without_one)
    with capture_logs() as lines:
        await Starting().ready()
    assert [one for one in lines if one["event"] == "streams.awaited"] == []


async def test_a_stop_ends_a_start_that_has_lost_its_server() -> None:
    starting = Starting(SOME_CALL, MemoryNats.stop)
    await starting.befell.wait()
    starting.stopping.set()
    async with asyncio.timeout(PATIENCE_S):
        await starting.running
    assert starting.calls == SOME_CALL


async def test_a_start_ends_when_the_connection_ends_for_good() -> None:
    def refuse(server: MemoryNats) -> None:
        server.expel(CONNECTION, "Authorization Violation")

    starting = Starting(SOME_CALL, refuse)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ConnectionFailed, match="ended the relay's connection for good"):
            await starting.running
    starting.server.stop()
