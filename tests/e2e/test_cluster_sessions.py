"""The sessions of bots on a cluster: they are listed, counted and ended on all nodes."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from sealbus import Bot, BotState
from sealbus.nats.client import HardenedClient
from sealbus_broker.nats import connections
from sealbus_broker.nats.config import CONNECTIONS_SUBJECT
from sealbus_broker.nats.connections import Listing, count_sessions, list_sessions
from tests.cli.command import sealbus_beside
from tests.e2e.edits import report
from tests.e2e.nodes import NODES, ClusterShop
from tests.e2e.shop import order, state
from tests.forked import ForkedProgram
from tests.refusal import refusal
from tests.waiting import PATIENCE_S, until

MOST = 4
"""How many sessions a bot may have."""


class Spread:
    """A cluster with a relay, and bots on each node."""

    def __init__(self, shop: ClusterShop, nc: HardenedClient, stack: AsyncExitStack) -> None:
        self.shop = shop
        self.nc = nc
        self._stack = stack

    async def bot(self, name: str, node: int) -> Bot:
        bot = self.shop.bot_at(name, node)
        await bot.connect(timeout=PATIENCE_S)
        self._stack.push_async_callback(bot.close)
        return bot

    async def listing(self) -> Listing:
        return await list_sessions(self.nc)

    def other_node(self) -> int:
        """A node that is not the one of the connection of this test."""
        return next(n for n in range(NODES) if f"node-{n}" != self.nc.server_name)

    def revoke(self, bot: str) -> None:
        path = self.shop.bus.path / "keys" / f"{bot}.yaml"
        path.write_text(f"{path.read_text()}    revoked: 2026-11-01T00:00:00Z\n")


@pytest.fixture
async def spread(tmp_path: Path) -> AsyncIterator[Spread]:
    shop = ClusterShop(tmp_path / "shop")
    policy = shop.bus.path / "policy.yaml"
    policy.write_text(policy.read_text().replace("limits:\n", f"limits:\n  connections: {MOST}\n"))
    async with shop, AsyncExitStack() as stack:
        await shop.start_relay()
        nc = await shop.nats()
        stack.push_async_callback(nc.close)
        yield Spread(shop, nc, stack)


@pytest.fixture
def nodes_have_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list waits for a node that is late. Only for tests in which each node answers."""
    monkeypatch.setattr(connections, "NODE_S", PATIENCE_S)


@pytest.mark.usefixtures("nodes_have_time")
async def test_list_has_the_sessions_of_all_nodes(spread: Spread) -> None:
    for node in range(NODES):
        await spread.bot("order", node)
    listing = await spread.listing()
    names = sorted(listing.nodes[one.node].name for one in listing.sessions)
    assert names == [f"node-{node}" for node in range(NODES)]
    assert listing.unheard == ()
    # The key of a session is its node and its number there, because nodes count alike.
    assert len({(one.node, one.number) for one in listing.sessions}) == NODES
    assert await count_sessions(spread.nc) == NODES


async def test_one_node_answers_for_its_own_clients_alone(spread: Spread) -> None:
    """A list of one answer would miss sessions, so each node has to be asked."""
    for node in range(NODES):
        await spread.bot("order", node)
    answer = await spread.nc.request(CONNECTIONS_SUBJECT, b"{}", PATIENCE_S)
    assert len(json.loads(answer.data)["data"]["connections"]) == 1


async def test_sessions_on_all_nodes_count(spread: Spread) -> None:
    for at in range(MOST):
        await spread.bot("order", at % NODES)
    await refusal(spread.shop.bot_at("order", 0), "no more sessions")


@pytest.mark.usefixtures("nodes_have_time")
async def test_revocation_ends_the_sessions_on_each_node(spread: Spread) -> None:
    bots = [await spread.bot("order", node) for node in range(NODES)]
    spread.revoke("order")
    await until(lambda: all(state(bot) is not BotState.CONNECTED for bot in bots), "all are out")
    await until(lambda: _obey(spread), "the relay says so")
    assert (await spread.listing()).sessions == ()


async def test_paused_node_holds_up_no_revocation(spread: Spread) -> None:
    """The sessions on the other nodes end, the report names the node, and its own end later."""
    away = spread.other_node()
    near = next(n for n in range(NODES) if n != away)
    bots = {node: await spread.bot("order", node) for node in (near, away)}
    spread.shop.signal_node(away, signal.SIGSTOP)
    spread.revoke("order")
    await until(lambda: state(bots[near]) is not BotState.CONNECTED, "the near one is out")
    await until(lambda: _obey(spread), "the relay goes on without the node")
    # The other node may be late once.
    await until(lambda: _misses_only(spread, away), "the relay names the node alone")
    spread.shop.signal_node(away, signal.SIGCONT)
    await until(lambda: state(bots[away]) is not BotState.CONNECTED, "it is out later")
    await until(lambda: _heard(spread), "the relay has heard the node")


async def test_revocation_waits_while_a_majority_is_away(spread: Spread) -> None:
    """The session on the node that is left ends at once, and the command names its wait."""
    left = int(spread.nc.server_name.removeprefix("node-"))
    away = [node for node in range(NODES) if node != left]
    bot = await spread.bot("order", left)
    for node in away:
        await spread.shop.nodes[node].stop()
    # A node that leads goes on to answer for some seconds, and then nothing has to be waited for.
    await until(partial(_has_no_majority, spread), "JetStream does not answer")
    where = ("--dir", str(spread.shop.bus.path), "--server", spread.shop.urls[left])
    command = ("sealbus_broker", "keys", "revoke", "order", "--wait", "--timeout", "600", *where)
    log = spread.shop.bus.path / "revoke.log"
    running = ForkedProgram(command, log)
    await until(lambda: state(bot) is not BotState.CONNECTED, "its session has ended")
    said = b"waiting for relay: JetStream to list and remove durable subscriptions"
    await until(lambda: said in log.read_bytes(), log.read_text)
    assert not await _obey(spread)
    assert running.returncode is None
    for node in away:
        await spread.shop.restart_node(node)
    assert await running.wait() == 0, log.read_text()
    assert b"in force at 1 relay" in log.read_bytes()


async def _has_no_majority(spread: Spread) -> bool:
    try:
        answer = await spread.nc.request("$JS.API.CONSUMER.LIST.ACCEPTED", b"", 1.0)
    except NatsError:
        return True
    return "error" in json.loads(answer.data)


async def test_stopped_node_is_missing_and_named(spread: Spread) -> None:
    away = spread.other_node()
    await spread.shop.nodes[away].stop()

    async def names_it() -> bool:
        listing = await spread.listing()
        return listing.missing == {f"node-{away}"} and not listing.silent

    await until(names_it, "the list names the node")


@pytest.mark.usefixtures("nodes_have_time")
async def test_reload_of_each_node_keeps_all_sessions(spread: Spread) -> None:
    """Each node asks again for its sessions, and the bot has all that it may have already."""
    bots = [await spread.bot("order", at % NODES) for at in range(MOST)]
    before = {(one.node, one.number) for one in (await spread.listing()).sessions}
    for node in range(NODES):
        spread.shop.signal_node(node, signal.SIGHUP)
        await until(partial(_is_reloaded, spread, node), f"node-{node} has read its file again")
    for at, bot in enumerate(bots):
        await bot.publish("orders.placed", order(at), timeout=PATIENCE_S)
    assert {(one.node, one.number) for one in (await spread.listing()).sessions} == before


async def test_sessions_command_shows_the_node(spread: Spread) -> None:
    for node in range(NODES):
        await spread.bot("order", node)
    servers = [part for url in spread.shop.urls for part in ("--server", url)]
    command = ("keys", "sessions", "--json", *servers)
    shown: list[str] = []

    async def shows_all() -> bool:
        nonlocal shown
        ran = await sealbus_beside(*command, cwd=spread.shop.bus.path)
        assert ran.code == 0, ran.err
        shown = sorted(json.loads(line)["node"] for line in ran.out.splitlines())
        return shown == [f"node-{node}" for node in range(NODES)]

    # The command leaves out a node that is late.
    await until(shows_all, lambda: f"each node is shown: {shown}")


def _is_reloaded(spread: Spread, node: int) -> bool:
    log = spread.shop.bus.state / f"node-{node}" / "nats.log"
    return "Reloaded server configuration" in log.read_text()


async def _obey(spread: Spread) -> bool:
    return bool((await report(spread.nc))["sessions_obey"])


async def _misses_only(spread: Spread, node: int) -> bool:
    return bool((await report(spread.nc))["nodes_unheard"] == [f"node-{node}"])


async def _heard(spread: Spread) -> bool:
    return not (await report(spread.nc))["nodes_unheard"]
