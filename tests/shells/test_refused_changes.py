"""A change that cannot be used changes nothing; a change that cannot be made yet is made later."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sealbus import InvalidInput
from sealbus.protocol.streams import ACCEPTED, LIVE, QUARANTINE
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import DeliveryClass
from sealbus_broker.nats.promises import Shortfall, stream_shortfalls
from sealbus_broker.nats.provision import COMPLETE_SINCE, provision
from sealbus_broker.policy import reading
from sealbus_broker.relay.following import folder as module
from sealbus_broker.relay.following.asking import RELOAD_SUBJECT, question
from sealbus_broker.relay.store.ledgers import Ledgers
from sealbus_broker.testing.folder import StillFolder
from tests.scene import now_ms
from tests.shells.following_shop import Shop
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

ORDER = {"id": 1}
LARGE = {"text": "x" * 60_000}
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr("sealbus.life.connecting.BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr("sealbus.life.connecting.BACKOFF_MOST_S", 0.05)
    monkeypatch.setattr("sealbus_broker.relay.following.folder.AGAIN_S", 0.01)
    monkeypatch.setattr("sealbus_broker.nats.connection.RECONNECT_S", 0.01)


# ---- a folder with a problem ---------------------------------------------------------------------


async def test_broken_folder_changes_nothing(shop: Shop) -> None:
    order = await shop.bus.bot("order")
    before, limits = shop.policy, shop.limits()
    shop.folder.change("publish: [orders.placed, ticks.now]", "publish: [orders.plaecd]")
    shop.folder.change("delivery: live", "delivery: life")
    with pytest.raises(InvalidInput, match=r"(?s)orders\.plaecd.*life|life.*orders\.plaecd"):
        await shop.bus.reload()
    assert shop.policy is before
    assert shop.limits() == limits
    assert (await order.publish("orders.placed", ORDER)).policy == before.digest
    (problem,) = await shop.health()
    assert problem.startswith("warning: the newest policy cannot be used")
    assert "policy.yaml:" in problem


async def test_problem_is_logged_once_and_again_when_it_changes(shop: Shop) -> None:
    shop.folder.change("bus: shop", "bus: ")
    for _ in range(3):
        with pytest.raises(InvalidInput):
            await shop.bus.reload()
    (line,) = shop.events("policy.refused")
    assert "the policy" in line["text"]
    assert "stays in force" in line["text"]
    shop.folder.change("delivery: live", "delivery: life")
    with pytest.raises(InvalidInput):
        await shop.bus.reload()
    assert len(shop.events("policy.refused")) == 2


async def test_repaired_folder_is_in_force(shop: Shop) -> None:
    order = await shop.bus.bot("order")
    shop.folder.change("publish: [orders.placed, ticks.now]", "publish: [orders.plaecd]")
    with pytest.raises(InvalidInput):
        await shop.bus.reload()
    await shop.follow("publish: [orders.plaecd]", "publish: [orders.placed]")
    assert await shop.health() == []
    assert (await order.publish("orders.placed", ORDER)).policy == shop.newest


async def test_broken_change_that_is_taken_back_is_over(shop: Shop) -> None:
    before = shop.policy
    shop.folder.change("delivery: live", "delivery: life")
    with pytest.raises(InvalidInput):
        await shop.bus.reload()
    await shop.follow("delivery: life", "delivery: live")
    assert await shop.health() == []
    assert shop.policy is before


async def test_another_bus_name_is_refused(shop: Shop) -> None:
    before = shop.policy
    shop.folder.change("bus: shop", "bus: market")
    with pytest.raises(InvalidInput, match="is the name of another bus"):
        await shop.bus.reload()
    assert shop.policy is before


async def test_report_names_the_first_problems(shop: Shop) -> None:
    missing = ", ".join(f"missing.s{number}" for number in range(30))
    shop.folder.change("publish: [orders.placed, ticks.now]", f"publish: [{missing}]")
    answer = await shop.following._nc.request(RELOAD_SUBJECT, question(look=True), PATIENCE_S)
    assert len(shop.following._in_force.problems) > module.MOST_TOLD
    assert answer.data.count(b"missing.s") >= module.MOST_TOLD
    assert len(shop.following.report()["problems"]) == module.MOST_TOLD
    assert shop.following.report()["policy"] == shop.policy.digest.hex()


# ---- streams that cannot follow ------------------------------------------------------------------


async def test_lowered_limit_is_followed_and_room_kept(shop: Shop) -> None:
    """A relay that starts takes such a policy, so one that runs does. They would differ else."""
    order = await shop.bus.bot("order")
    for _ in range(20):
        await order.publish("orders.placed", LARGE)
    accepted = shop.server.jetstream.streams[ACCEPTED]
    before, stored = shop.limits(), len(accepted.messages())
    assert accepted.bytes > MIB
    lower = "limits:\n  ingress_bytes: 64MiB\n  accepted_bytes: 1MiB\n  live_bytes: 8MiB\n"
    await shop.follow("limits:\n", lower)
    assert shop.policy.limits.accepted_bytes == MIB
    assert shop.limits()[ACCEPTED] == before[ACCEPTED]
    assert shop.limits()[LIVE][0] == 8 * MIB
    assert len(accepted.messages()) == stored
    assert shop.events("policy.refused") == []
    (line,) = shop.events("room.kept")
    assert (line["stream"], line["fields"]) == (ACCEPTED, ["max_bytes"])
    assert await shop.health() == []
    (told,) = larger(shop)
    assert told.about == "limits"
    assert "follows a change of limits" in told.hint
    # The next change of limits finds that it holds less.
    accepted.purge(None)
    await shop.follow("live_bytes: 8MiB", "live_bytes: 9MiB")
    assert shop.limits()[ACCEPTED][0] == MIB
    assert larger(shop) == ()


def larger(shop: Shop) -> tuple[Shortfall, ...]:
    """What the health tells of the streams, beside the policy in force."""
    configs = {name: one.config for name, one in shop.server.jetstream.streams.items()}
    return stream_shortfalls(shop.policy, configs)


async def test_id_keeps_its_place_on_a_living_bus(shop: Shop) -> None:
    """Under another delivery class, a captured copy would be accepted once more."""
    shop.folder.change("  ticks.now:\n    delivery: live\n", "  ticks.now:\n")
    with pytest.raises(InvalidInput, match=r"ticks\.now has another `delivery` or `once`"):
        await shop.bus.reload()
    await shop.follow("  ticks.now:\n", "  ticks.now:\n    delivery: live\n")


async def test_place_stays_as_long_as_any_ledger_remembers(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of live messages remembers for longer where ``live_ttl`` is long."""
    await shop.follow("limits:\n", "limits:\n  live_ttl: 1d\n")
    stream_ms, live_ms = shop.policy.ledger_window_ms, shop.policy.live_window_ms
    assert live_ms > stream_ms
    taken_out_ms = now_ms()

    def at(after_ms: int) -> None:
        monkeypatch.setattr(shop.following, "_now_ms", lambda: taken_out_ms + after_ms)

    at(0)
    paid = "  orders.paid:\n    schema: order.v1\n"
    await shop.follow(paid, "")
    shop.folder.change("subjects:\n", f"subjects:\n{paid}    delivery: live\n")
    for after_ms in (stream_ms, live_ms - 1):
        at(after_ms)
        with pytest.raises(InvalidInput, match="has another `delivery` or `once`") as refused:
            await shop.bus.reload()
        assert f"after {-(-live_ms // 60_000)} minutes" in str(refused.value)
    at(live_ms)
    await shop.bus.reload()
    assert shop.is_followed


# ---- NATS that is away ---------------------------------------------------------------------------


async def test_change_without_nats_is_made_when_it_is_back(shop: Shop) -> None:
    order = await shop.bus.bot("order")
    before = shop.policy
    shop.server.stop()
    await until(shop.following._is_lost, "the relay has noticed")
    shop.folder.change("publish: [orders.placed, ticks.now]", "publish: [orders.paid]")
    await shop.bus.reload()
    assert shop.policy is before
    shop.server.start()
    await until(lambda: shop.is_followed, "it is in force")
    await until(lambda: shop.obeyed == shop.newest, "and obeyed")
    assert (await order.publish("orders.paid", ORDER)).policy == shop.newest
    assert shop.events("policy.refused") == []


async def test_connection_lost_amid_the_streams_refuses_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def failing(*arguments: object, **options: object) -> None:
        if not failed.is_set():
            failed.set()
            shop.server.stop()
            await until(shop.following._is_lost, "the relay has noticed")
            raise StreamsUnusable("JetStream did not answer")
        await provision(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "provision", failing)
    shop.folder.change("limits:\n", "limits:\n  accepted_bytes: 64MiB\n")
    await shop.bus.reload()
    assert not shop.is_followed
    shop.server.start()
    await until(lambda: shop.is_followed, "it is in force")
    assert shop.events("policy.refused") == []


async def test_refused_change_is_tried_again_when_it_is_asked(shop: Shop) -> None:
    """Without a change of the folder: the reason of the refusal may be over."""
    before = shop.policy
    stream = shop.server.jetstream.streams[ACCEPTED]
    stream.config["discard"] = "old"
    shop.folder.change("limits:\n", "limits:\n  accepted_bytes: 1MiB\n")
    with pytest.raises(InvalidInput, match="discard: got"):
        await shop.bus.reload()
    assert shop.policy is before
    (problem,) = await shop.health()
    assert "stream ACCEPTED is not as the bus needs it" in problem
    stream.config["discard"] = "new"
    await shop.bus.reload()
    assert shop.is_followed
    assert await shop.health() == []


async def test_change_is_tried_again_when_the_folder_is_quiet(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may be writing the next change just then."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    stream = shop.server.jetstream.streams[ACCEPTED]
    stream.config["discard"] = "old"
    shop.folder.change("limits:\n", "limits:\n  accepted_bytes: 1MiB\n")
    with pytest.raises(InvalidInput, match="discard: got"):
        await shop.bus.reload()
    stream.config["discard"] = "new"
    pauses: list[float] = []
    monkeypatch.setattr(StillFolder, "settle_s", 0.01)
    monkeypatch.setattr(reading, "time", SimpleNamespace(sleep=pauses.append))
    await shop.following.look()
    assert pauses == [0.01]
    assert shop.is_followed


def _no_stream(shop: Shop, _: pytest.MonkeyPatch) -> Callable[[], None]:
    """No stream follows, and none can be set back."""
    accepted = shop.server.jetstream.streams[ACCEPTED]
    accepted.config["discard"] = "old"
    return lambda: accepted.config.update(discard="new")


def _later_stream(shop: Shop, _: pytest.MonkeyPatch) -> Callable[[], None]:
    """ACCEPTED has followed when another stream cannot."""
    quarantine = shop.server.jetstream.streams[QUARANTINE]
    quarantine.config["discard"] = "new"
    return lambda: quarantine.config.update(discard="old")


def _ledgers(_: Shop, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """All streams have followed when JetStream does not answer."""

    async def failing(_: Ledgers) -> None:
        raise StreamsUnusable("JetStream did not answer")

    refresh = Ledgers.refresh
    monkeypatch.setattr(Ledgers, "refresh", failing)
    return lambda: monkeypatch.setattr(Ledgers, "refresh", refresh)


@pytest.mark.parametrize("fail", [_no_stream, _later_stream, _ledgers])
async def test_longer_window_is_followed_at_a_later_attempt(
    fail: Callable[[Shop, pytest.MonkeyPatch], Callable[[], None]],
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ledger is complete only for the time of the window before."""
    ledger = ledgers(shop).by_delivery[DeliveryClass.STREAM]
    stream = shop.server.jetstream.streams[ACCEPTED]
    # As on a bus that is older than its window.
    stream.purge(None)
    ledger.since_ms = None
    before = stream.config["duplicate_window"]
    succeed = fail(shop, monkeypatch)
    shop.folder.change("limits:\n", "limits:\n  ttl: 10m\n")
    with pytest.raises(InvalidInput):
        await shop.bus.reload()
    succeed()
    await shop.bus.reload()
    assert shop.is_followed
    assert stream.config["duplicate_window"] == shop.policy.ledger_window_ms * 1_000_000 > before
    assert ledger.since_ms == int(stream.config["metadata"][COMPLETE_SINCE])


def ledgers(shop: Shop) -> Ledgers:
    """The ledgers of the relay."""
    assert shop.relay._ledgers is not None
    return shop.relay._ledgers


# ---- a folder that cannot be read ----------------------------------------------------------------


class Disk:
    """Breaks the disk of a relay's folder."""

    def __init__(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = shop.bus._folder
        self._state = self._folder.state
        self._patch = monkeypatch

    def break_(self) -> None:
        def state() -> tuple[object, ...]:
            raise OSError(5, os.strerror(5))

        self._patch.setattr(self._folder, "state", state)

    def repair(self) -> None:
        self._patch.setattr(self._folder, "state", self._state)


@pytest.fixture
def disk(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(shop, monkeypatch)


def later(shop: Shop, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the clock of the policy ahead."""
    monkeypatch.setattr(shop.relay._policy, "_monotonic", lambda: time.monotonic() + seconds)


async def test_unreadable_folder_is_a_warning(
    shop: Shop, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await shop.bus.bot("order")
    disk.break_()
    for _ in range(3):
        await shop.following.follow_now()
    assert len(shop.events("policy.unseen")) == 1
    later(shop, monkeypatch, 100_000)
    await shop.following.follow_now()
    (problem,) = await shop.health()
    assert problem.startswith("warning: the relay cannot read its folder for 100")
    assert shop.following.report()["unseen"] == "Input/output error"
    await order.publish("orders.placed", ORDER)
    disk.repair()
    await shop.bus.reload()
    assert await shop.health() == []
    assert len(shop.events("policy.seen")) == 1


async def test_nothing_is_judged_after_policy_age(
    shop: Shop, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await shop.bus.bot("order")
    await shop.follow("limits:\n", "limits:\n  policy_age: 1h\n")
    disk.break_()
    await shop.following.follow_now()
    await order.publish("orders.placed", ORDER)
    monkeypatch.setattr("sealbus_broker.relay.store.clocks.LOOK_S", 0.05)
    later(shop, monkeypatch, 3601)
    await shop.following.follow_now()
    await until(lambda: shop.events("policy.too-old") != [], "the relay leaves NATS")
    publishing = asyncio.ensure_future(order.publish("orders.placed", ORDER, timeout=PATIENCE_S))
    await until(lambda: waits(shop), "the message waits in INGRESS")
    # A change that came meanwhile is the policy by which the message is judged.
    shop.folder.change("payload_bytes: 64KiB", "payload_bytes: 32KiB")
    assert not publishing.done()
    disk.repair()
    assert (await publishing).reason is None
    assert shop.policy.limits.payload_bytes == 32 * 1024
    assert len(shop.events("policy.too-old")) == 1


def waits(shop: Shop) -> bool:
    return len(shop.server.jetstream.streams["INGRESS"].messages()) == 1


async def test_silent_disk_is_a_folder_that_cannot_be_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, let_go = threading.Event(), threading.Event()
    folder = shop.bus._folder

    def state() -> tuple[object, ...]:
        hangs.set()
        let_go.wait(PATIENCE_S)
        return ()

    monkeypatch.setattr(reading, "READ_S", 0.05)
    monkeypatch.setattr(folder, "state", state)
    order = await shop.bus.bot("order")
    await shop.following.follow_now()
    assert hangs.is_set()
    assert (shop.following.report()["unseen"] or "").startswith("its disk does not answer")
    await order.publish("orders.placed", ORDER)
    # The thread that hangs is not joined by another one.
    await shop.following.follow_now()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("sealbus folder") == 1
    let_go.set()
    monkeypatch.setattr(reading, "READ_S", PATIENCE_S)
    await shop.bus.reload()
    assert shop.following.report()["unseen"] is None
