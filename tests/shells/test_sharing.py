"""Relays that share partitions on one server: words, greetings, hand-over, ends of silent peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.protocol.streams import INGRESS
from sealbus.supervision import Supervisor, end
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import BotRule
from sealbus_broker.nats import numbers
from sealbus_broker.nats.presence import DOOR_SUBJECT, RELAY_SUBJECT, PresenceWord
from sealbus_broker.nats.streams import PARTITIONS, Partition, partition_consumer, partitions
from sealbus_broker.relay.partitions import sharing as sharing_module
from sealbus_broker.relay.partitions.peers import SILENT_ECHOES
from sealbus_broker.relay.partitions.sharing import Sharing
from tests.shells.stage import Stage
from tests.waiting import PATIENCE_S, until

Free = Callable[[], bool]
"""Says whether nobody else holds a partition."""


class Worker:
    """Works on a partition until it is told to give it back, and then until a test lets it."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def run(self, stopping: asyncio.Event) -> None:
        self.runs += 1
        await stopping.wait()
        await self.may_end.wait()


class Relay:
    """One relay's share, on a connection of its own."""

    def __init__(self, stage: Stage, nc: HardenedClient, live: HardenedClient, name: str) -> None:
        self.nc = nc
        self.workers = [Worker() for _ in range(PARTITIONS)]
        self.stopping = asyncio.Event()
        self.supervisor = Supervisor(name)
        self.sharing = Sharing(
            nc=nc,
            live_nc=live,
            relay=name,
            worker=lambda partition: self.workers[partition.index],
            policy=lambda: stage.policy,
            supervisor=self.supervisor,
            enrols=True,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self, before: Callable[[], None] = lambda: None) -> None:
        """Hear; let somebody speak; and begin to share."""
        await self.sharing.open()
        await self.nc.flush()
        before()
        self.tasks = [asyncio.create_task(self.sharing.run(self.stopping))]
        self.tasks += [
            asyncio.create_task(self.sharing.hold(partition, self.stopping))
            for partition in range(PARTITIONS)
        ]

    async def stop(self) -> None:
        """Stop in order."""
        self.stopping.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait(self.tasks)

    @property
    def holds(self) -> set[int]:
        return set(self.sharing.holds)


@asynccontextmanager
async def relays(bus: Stage, *names: str) -> AsyncIterator[list[Relay]]:
    """Some relays that have shared all partitions."""
    started: list[Relay] = []
    try:
        for name in names:
            one = Relay(bus, await bus.login(), await bus.login(), name)
            started.append(one)
            await one.begin()
        await until(lambda: is_shared(started), "each partition is held once")
        yield started
    finally:
        for one in started:
            for worker in one.workers:
                worker.may_end.set()
            await end(*one.tasks)
            await one.supervisor.close()


def is_shared(some: list[Relay], number: int = PARTITIONS) -> bool:
    """Whether each partition is held by one of them, and each has its share."""
    held = [partition for one in some for partition in one.holds]
    return sorted(held) == list(range(number)) and all(one.holds for one in some)


def say(nc: HardenedClient, subject: str, **fields: Any) -> None:
    """Say the word of somebody who is not there."""
    word = PresenceWord(id="x", name="x", server=nc.server_id, connection=0)
    nc.write([pub(subject.encode(), replace(word, **fields).encode())])


async def test_lone_relay_holds_everything(bus: Stage) -> None:
    async with relays(bus, "a") as (one,):
        assert one.holds == set(range(PARTITIONS))
        assert one.sharing.peers == []
        assert one.sharing.is_to_enrol


async def test_relay_that_comes_has_its_share(bus: Stage) -> None:
    async with relays(bus, "a", "b") as (one, other):
        assert len(one.holds) + len(other.holds) == PARTITIONS
        (peer,) = one.sharing.peers
        assert peer["relay"] == "b"
        assert one.sharing.is_to_enrol != other.sharing.is_to_enrol


async def test_partition_is_not_asked_for_before_it_is_given_back(bus: Stage) -> None:
    async with relays(bus, "a") as (one,):
        for worker in one.workers:
            worker.may_end.clear()
        other = Relay(bus, await bus.login(), await bus.login(), "b")
        await other.begin()
        try:
            await until(lambda: one.sharing.peers != [], "the first knows of the second")
            await until(
                lambda: any(given.is_set() for given in one.sharing._held.values()),
                "it gives partitions back",
            )
            assert other.holds == set()
            for worker in one.workers:
                worker.may_end.set()
            await until(lambda: is_shared([one, other]), "they are handed over")
        finally:
            await other.stop()
        await until(lambda: is_shared([one]), "and come back at its stop")


async def test_relay_that_stops_leaves_all_to_the_others(bus: Stage) -> None:
    async with relays(bus, "a", "b") as (one, other):
        await one.stop()
        assert one.holds == set()
        await until(lambda: is_shared([other]), "the other has all")


async def test_end_of_a_connection_hands_over_at_once(
    bus: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    async def take_over(_: HardenedClient, partition: Partition, __: Free) -> None:
        taken.append(partition.index)

    monkeypatch.setattr(sharing_module, "take_over", take_over)
    async with relays(bus, "a", "b") as (one, other):
        held = one.holds
        one.nc.abort()
        await end(*one.tasks)
        await until(lambda: is_shared([other]), "the other has all")
        assert set(taken) == held


async def test_silent_relay_is_ended_before_its_share_is_taken(
    bus: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    frozen, live = await bus.login(), await bus.login()
    number, live_number = frozen.client_id, live.client_id

    async def take_over(_: HardenedClient, partition: Partition, __: Free) -> None:
        assert frozen.client_id != number or not frozen.is_connected
        assert live.client_id != live_number or not live.is_connected
        taken.append(partition.index)

    monkeypatch.setattr(sharing_module, "take_over", take_over)
    one = Relay(bus, await bus.login(), await bus.login(), "a")
    holds = frozenset({3, 5})
    places = {"connection": number, "live": (one.nc.server_id, live_number)}
    await one.begin(lambda: say(one.nc, RELAY_SUBJECT, **places, holds=holds))
    try:
        await until(lambda: bool(one.holds) and one.sharing.peers != [], "both are there")
        assert not one.holds & holds
        await until(lambda: is_shared([one]), "it has all")
        assert set(taken) == holds
        await until(lambda: frozen.is_connected, "the other comes back")
        assert frozen.client_id != number
    finally:
        await one.stop()


async def test_silent_relay_that_cannot_be_ended_is_not_taken_over(
    bus: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still act: the time-outs of the server decide."""
    taken: list[int] = []

    async def take_over(_: HardenedClient, partition: Partition, __: Free) -> None:
        taken.append(partition.index)

    monkeypatch.setattr(sharing_module, "take_over", take_over)
    one = Relay(bus, await bus.login(), await bus.login(), "a")
    words = {"server": "NOBODY", "connection": 1, "holds": frozenset({3})}
    await one.begin(lambda: say(one.nc, RELAY_SUBJECT, **words))
    try:
        await until(lambda: one.sharing.peers != [], "it is heard")
        await until(lambda: is_shared([one]), "the other has all")
        assert taken == []
    finally:
        await one.stop()


async def test_relay_may_be_silent_again_while_it_is_ended(
    bus: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has connected again meanwhile, so nobody takes its share before the second end."""
    taken: list[int] = []
    ends: list[asyncio.Event] = []

    async def take_over(_: HardenedClient, partition: Partition, __: Free) -> None:
        taken.append(partition.index)

    async def kick(*_: object) -> bool:
        ends.append(asyncio.Event())
        await ends[-1].wait()
        return True

    monkeypatch.setattr(sharing_module, "take_over", take_over)
    monkeypatch.setattr(Sharing, "_kick", kick)
    one = Relay(bus, await bus.login(), await bus.login(), "a")
    words = {"server": one.nc.server_id, "holds": frozenset({3, 5})}
    await one.begin(lambda: say(one.nc, RELAY_SUBJECT, **words, connection=1))
    try:
        await until(lambda: len(ends) == 1, "it is silent")
        say(one.nc, RELAY_SUBJECT, **words, connection=2)
        await until(lambda: len(ends) == 2, "it is silent again")
        ends[0].set()
        beat = one.sharing._beat
        await until(lambda: one.sharing._beat > beat + 1, "the first end is over")
        assert not one.holds & {3, 5}
        ends[1].set()
        await until(lambda: is_shared([one]), "it has all")
    finally:
        await one.stop()
    assert set(taken) == {3, 5}


async def test_each_connection_of_a_silent_relay_is_ended(bus: Stage) -> None:
    """The server of one of them is away, and live messages still come on the other."""
    live = await bus.login()
    number = live.client_id
    one = Relay(bus, await bus.login(), await bus.login(), "a")
    words = {"server": "NOBODY", "connection": 1, "live": (live.server_id, number)}
    await one.begin(lambda: say(one.nc, RELAY_SUBJECT, **words))
    try:
        await until(lambda: live.client_id != number, "its other connection ends")
    finally:
        await one.stop()


async def test_relay_speaks_while_it_cannot_look_at_ingress(
    bus: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JetStream may be without a leader. A relay that says nothing would be ended."""

    async def look(_: HardenedClient) -> numbers.Numbers:
        await asyncio.sleep(PATIENCE_S)
        return numbers.Numbers(PARTITIONS, PARTITIONS)

    monkeypatch.setattr(numbers, "look", look)
    monkeypatch.setattr(sharing_module, "LOOK_S", 0.01)
    one = Relay(bus, await bus.login(), await bus.login(), "a")
    await one.begin()
    try:
        await until(lambda: one.sharing._beat > 2, "it speaks again and again")
    finally:
        await one.stop()


async def test_relays_follow_the_number_of_the_policy(bus: Stage) -> None:
    """One of them knows the new policy later. The relay with the lowest id changes the number."""
    limits = replace(bus.policy.limits, partitions=5)
    policy = replace(bus.policy, limits=limits, digest=b"five")
    async with relays(bus, "a", "b") as started:
        first, later = sorted(started, key=lambda relay: relay.sharing.id)
        first.sharing._policy = lambda: policy
        await until(lambda: is_shared(started, 5), "they share five")
        assert {relay.sharing.number for relay in started} == {5}
        assert (await numbers.look(bus.relay)) == numbers.Numbers(5, 5)
        later.sharing._policy = lambda: policy

        async def others_are_gone() -> bool:
            listed = await bus.done("CONSUMER.NAMES.INGRESS")
            return set(listed["consumers"]) == {one.consumer for one in partitions(5)}

        await until(others_are_gone, "the consumers of the number before are removed")


async def test_consumer_that_is_missing_is_made_again(
    bus: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that was paused may remove the consumers of a number that is due again."""
    monkeypatch.setattr(sharing_module, "LOOK_BEATS", 1)
    async with relays(bus, "one"):
        call = f"$JS.API.CONSUMER.DELETE.{INGRESS}.{partition_consumer(3)}"
        assert b"true" in (await bus.relay.request(call, b"", 5)).data

        async def is_back() -> bool:
            call = f"$JS.API.CONSUMER.INFO.{INGRESS}.{partition_consumer(3)}"
            return b"error" not in (await bus.relay.request(call, b"", 5)).data

        await until(is_back, "the relay makes it again")


async def test_change_that_fails_is_told_once(bus: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    async def change(_: HardenedClient, number: int) -> None:
        attempts.append(number)
        raise StreamsUnusable("no room", hint="make room")

    monkeypatch.setattr(numbers, "change", change)
    monkeypatch.setattr(sharing_module, "CHANGE_BEATS", 0)
    policy = replace(bus.policy, limits=replace(bus.policy.limits, partitions=5))
    with capture_logs() as logs:
        async with relays(bus, "one") as (one,):
            one.sharing._policy = lambda: policy
            await until(lambda: len(attempts) > 2, "the relay tries again")
    told = [one["because"] for one in logs if one["event"] == "partitions.not-followed"]
    assert len(told) == 1
    assert "no room" in told[0]


async def test_no_echo_means_that_nobody_is_silent(bus: Stage) -> None:
    """A server that was paused gives back one echo."""
    async with relays(bus, "a") as (one,):
        say(bus.relay, RELAY_SUBJECT, connection=bus.relay.client_id)
        await until(lambda: one.sharing.peers != [], "it is heard")
        bus.server.stall()
        beat = one.sharing._beat
        await until(lambda: one.sharing._unechoed > SILENT_ECHOES, "many beats pass")
        assert one.sharing._beat <= beat + 1
        assert one.sharing.peers != []
        bus.server.stall(False)
        await until(lambda: one.sharing.peers == [], "it is silent by and by")


async def test_last_door_is_left_alone(bus: Stage) -> None:
    door, second = await bus.login(), await bus.login()
    numbers = door.client_id, second.client_id
    async with relays(bus, "a") as (one,):
        say(door, DOOR_SUBJECT, id="d", connection=numbers[0])
        await until(lambda: bool(one.sharing._doors.there), "it is heard")
        await until(lambda: not one.sharing._doors.there, "it is silent")
        assert door.client_id == numbers[0]
        say(door, DOOR_SUBJECT, id="d", connection=numbers[0])

        def goes_on() -> bool:
            say(second, DOOR_SUBJECT, id="e", connection=numbers[1])
            return door.client_id != numbers[0]

        await until(goes_on, "it is ended where another is there")
        assert second.client_id == numbers[1]


async def test_namesake_is_told_once(bus: Stage) -> None:
    async with relays(bus, "a", "a") as (one, other):
        assert len(one.sharing._namesakes) == len(other.sharing._namesakes) == 1


async def test_relay_that_comes_back_says_so(bus: Stage) -> None:
    async with relays(bus, "a", "b") as (one, other):
        number = one.nc.client_id
        bus.server.cut("relay")
        await until(lambda: one.nc.is_connected and one.nc.client_id != number, "it is back")
        one.sharing.on_back()
        other.sharing.on_back()
        await until(lambda: is_shared([one, other]), "all is shared again")
        await until(lambda: other.sharing._peers.there[0].connection == one.nc.client_id)


async def test_word_of_a_relay_that_is_back_is_the_first(
    bus: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for messages afterwards."""
    async with relays(bus, "a") as (one,):
        written: list[bytes] = []
        with monkeypatch.context() as patch:
            patch.setattr(one.nc, "write", written.extend)
            one.sharing.on_back()
        assert len(written) == 1
        assert RELAY_SUBJECT.encode() in written[0]


async def test_taking_over_sees_a_relay_that_is_back(
    bus: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    async def take_over(nc: HardenedClient, partition: Partition, is_free: Free) -> None:
        assert is_free()
        say(nc, RELAY_SUBJECT, number=PARTITIONS, holds=frozenset({partition.index}))
        await until(lambda: not is_free(), "it has heard the word")
        seen.append(partition.index)

    monkeypatch.setattr(sharing_module, "take_over", take_over)
    async with relays(bus, "a", "b") as (one, _):
        one.nc.abort()
        await end(*one.tasks)
        await until(lambda: seen != [], "the other was about to take over")


async def test_relays_with_different_policies_leave_no_partition_alone(bus: Stage) -> None:
    """One of them follows its folder later, or cannot use the newest policy."""
    bots = {name: BotRule(name, {}, publish=("x",)) for name in ("order", "shop", "stock")}
    few = replace(bus.policy, bots={"order": bots["order"]}, digest=b"few")
    many = replace(bus.policy, bots=bots, digest=b"many")
    async with relays(bus, "a", "b") as (one, other):
        one.sharing._policy = lambda: few
        other.sharing._policy = lambda: many
        # Whichever relay's weights count, both take them.
        lowest = min(one, other, key=lambda relay: relay.sharing.id).sharing
        await until(
            lambda: (
                other.sharing._own_weights() != one.sharing._own_weights()
                and all(relay.sharing._weights() == lowest._own_weights() for relay in (one, other))
            ),
            "both have heard it",
        )
        await until(lambda: is_shared([one, other]), "each partition is held once")
