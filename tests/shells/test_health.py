"""The time until a bus that accepts nothing is red, and pings of a bus whose look is late.

The time is the event loop's own (:mod:`tests.jumping`). So a test waits for no second, and a busy
machine changes nothing. The server is the one in memory, with the streams of a bus. A test gives
the verdicts on probes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from sealbus_broker.cli.watching.ping import ASK_S, Found, _ask
from sealbus_broker.gate.policy import Limits, Store
from sealbus_broker.gate.shares import Shares
from sealbus_broker.memory.accounts import Engine, Target
from sealbus_broker.memory.wire import Message
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import PARTITIONS, Partition
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.relay.health import ASK_S as ANSWER_S
from sealbus_broker.relay.health import (
    LATE_LOOK,
    LATE_S,
    LOOK,
    LOOK_MOST_S,
    LOOK_S,
    OPEN_S,
    STILL_S,
    Health,
)
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.probe import Prober
from sealbus_broker.relay.problems import BusProblem, Level
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.store.stream_store import StreamStore
from tests.contract.ground import a_policy, make_keys
from tests.contract.servers import begun, start_in_memory
from tests.jumping import run
from tests.shells.stage import Judge, Stage
from tests.waiting import until

PROMISED_S = 10.0
"""By when docs/guarantees.md promises that a bus that accepts nothing is red."""

NAME = "one"


def now() -> float:
    return asyncio.get_running_loop().time()


class SlowEngine:
    """JetStream, whose answers a test delays or takes away."""

    def __init__(self, real: Engine) -> None:
        self._real = real
        self.delay_s = 0.0
        self.silent: tuple[str, ...] = ()
        """The first words of the calls that get no answer."""

    def store(self, message: Message, answer_to: Target) -> bool:
        return self._real.store(message, answer_to)

    def ask(self, message: Message, answer_to: Target) -> bool:
        call = message.subject.removeprefix("$JS.API.")
        if call.startswith(self.silent):
            return True
        if self.delay_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay_s, self._real.ask, message, answer_to)
            return True
        return self._real.ask(message, answer_to)


class Ward:
    """A relay's health on a server in memory, and the verdicts that a test gives."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        assert stage.server.accounts.engine is not None
        self.engine = SlowEngine(stage.server.accounts.engine)
        stage.server.accounts.engine = self.engine
        self.accepts = True
        """Whether probes have a verdict."""
        self.is_broken = False
        """Whether each look fails."""
        self.counters = VerdictCounters(now)
        self.prober = Prober(stage.relay, key=stage.secrets.bus, sender=NAME)
        self.health = self.of(Shares())
        self.stopping = asyncio.Event()

    def of(self, shares: Shares) -> Health:
        """The health that tells ``shares`` how full the stores are."""
        stage = self.stage
        return Health(
            nc=stage.relay,
            prober=self.prober,
            stream_store=StreamStore(stage.relay),
            counters=self.counters,
            policy=InForce(stage.policy, now),
            relay=NAME,
            now_ms=lambda: time.time_ns() // 1_000_000,
            monotonic=now,
            shares=shares,
            surroundings=self._surroundings,
        )

    def _surroundings(self, _: Limits) -> Sequence[BusProblem]:
        if self.is_broken:
            raise LookupError
        return ()

    async def judge(self) -> None:
        """Accept the probes that come, for as long as probes are accepted."""
        judge = await Judge.of(self.stage)
        while True:
            envelope = await judge.next()
            if self.accepts:
                await judge.accept(envelope)

    @property
    def level(self) -> str:
        """The health that the relay reports."""
        return str(self.health.report()["health"])

    async def until_red(self) -> float:
        """Wait until the relay reports that it is red; return the seconds until then."""
        began = now()
        async with asyncio.timeout(2 * PROMISED_S):
            await until(lambda: self.level == Level.RED)
        return now() - began


@asynccontextmanager
async def warded() -> AsyncIterator[Ward]:
    """A relay that answers pings. Its health is looked after by nobody yet."""
    secrets, keys = BusSecrets.generate(), make_keys()
    server, stop, start_again, reload = start_in_memory(secrets)
    stage = Stage(
        server.url, secrets, keys, a_policy(keys), stop, start_again, reload, server=server
    )
    async with begun(stage), asyncio.TaskGroup() as working:
        await provision(stage.relay, stage.policy)
        ward = Ward(stage)
        await ward.prober.open()
        await ward.health.open()
        judging = working.create_task(ward.judge())
        yield ward
        ward.stopping.set()
        judging.cancel()


async def failing(ward: Ward, after_s: float, fail: Callable[[Ward], None]) -> float:
    """Look after the bus, let it ``fail`` ``after_s`` after the first look; return the seconds
    until it is red."""
    looking = asyncio.create_task(ward.health.run(ward.stopping))
    await until(lambda: ward.level == Level.OK)
    await asyncio.sleep(after_s)
    assert ward.level == Level.OK
    # A message was accepted a moment ago.
    ward.counters.stored_at = now()
    fail(ward)
    with capture_logs() as said:
        took_s = await ward.until_red()
    assert "health.red" in [line["event"] for line in said]
    ward.stopping.set()
    await looking
    return took_s


def all_silent(ward: Ward) -> None:
    ward.accepts, ward.engine.silent = False, ("",)


def consumers_silent(ward: Ward) -> None:
    ward.accepts, ward.engine.silent = False, ("CONSUMER.INFO",)


def ingress_silent(ward: Ward) -> None:
    ward.accepts, ward.engine.silent = False, ("STREAM.INFO.INGRESS",)


def nothing_judged(ward: Ward) -> None:
    ward.accepts = False


MOMENTS_S = [step * 0.5 for step in range(1 + int((LOOK_S + ANSWER_S) / 0.5))]
"""The moments of a failure, over more than the time between two looks."""


@pytest.mark.parametrize("delay_s", [0.0, 0.95 * ANSWER_S], ids=["quick", "slow"])
@pytest.mark.parametrize("fail", [all_silent, consumers_silent, ingress_silent, nothing_judged])
def test_a_bus_that_accepts_nothing_is_red_in_time(
    fail: Callable[[Ward], None], delay_s: float
) -> None:
    """``slow``: JetStream takes almost as long as it may for each answer, also before."""
    # Otherwise a probe that nobody settles would make its partition red.
    assert MOMENTS_S[-1] + PROMISED_S <= STILL_S + ANSWER_S
    took_s: dict[float, float] = {}

    async def play(after_s: float) -> None:
        async with warded() as ward:
            ward.engine.delay_s = delay_s
            took_s[after_s] = await failing(ward, after_s, fail)

    for after_s in MOMENTS_S:
        run(play(after_s))
    assert max(took_s.values()) <= PROMISED_S, took_s


def on_a_ward(work: Callable[[Ward], Coroutine[Any, Any, None]]) -> None:
    async def play() -> None:
        async with warded() as ward:
            await work(ward)

    run(play())


SILENT = Partition(PARTITIONS, 3)


def test_a_partition_without_a_leader_is_red() -> None:
    """The stream has a leader, and the probe is in another partition."""

    async def problems(ward: Ward) -> list[BusProblem]:
        ward.counters.stored_at = now()  # so no probe comes, which nobody would settle
        await ward.health.look()
        return list(ward.health.problems)

    async def play(ward: Ward) -> None:
        ward.engine.silent = (f"CONSUMER.INFO.INGRESS.{SILENT.consumer}",)
        assert await problems(ward) == [], "an election may be under way"
        await asyncio.sleep(STILL_S)
        (problem,) = await problems(ward)
        assert (problem.level, problem.about) == (Level.RED, "partition 3/16")
        assert "no message in it is judged (consumer relay-16-3 of INGRESS)" in problem.what
        # One problem, and not one for each partition.
        ward.engine.silent = ("CONSUMER.INFO", "STREAM.INFO.INGRESS")
        await asyncio.sleep(STILL_S)
        (problem,) = await problems(ward)
        assert problem.about == "INGRESS"
        ward.engine.silent = ()
        assert await problems(ward) == []
        # The time begins anew.
        ward.engine.silent = (f"CONSUMER.INFO.INGRESS.{SILENT.consumer}",)
        assert await problems(ward) == []

    on_a_ward(play)


async def hang(_: Health) -> list[BusProblem]:
    """A part of a look that never ends."""
    await asyncio.Event().wait()
    return []


def test_a_look_that_hangs_is_red_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(ward: Ward) -> None:
        took_s = await failing(ward, 0.1, lambda _: monkeypatch.setattr(Health, "_set_aside", hang))
        assert took_s <= PROMISED_S
        (problem,) = ward.health.problems
        assert problem.what == f"the relay's look at the bus did not end within {LOOK_MOST_S:g} s"

    on_a_ward(play)


@pytest.mark.parametrize("part", ["_whole_way", "_set_aside"], ids=["that part", "another part"])
def test_a_problem_outlasts_a_look_that_is_cut(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has seen the end of the problem, whichever part of the look hangs."""

    async def abouts(ward: Ward) -> tuple[set[str], set[str]]:
        """The subjects of the problems that a look finds, and of those that are over."""
        with capture_logs() as said:
            await ward.health.look()
        over = {line["about"] for line in said if line["event"] == "health.recovered"}
        return {problem.about for problem in ward.health.problems}, over

    async def play(ward: Ward) -> None:
        nothing_judged(ward)
        assert await abouts(ward) == ({"probe"}, set())
        with monkeypatch.context() as hanging:
            hanging.setattr(Health, part, hang)
            assert await abouts(ward) == ({"probe", LOOK}, set())
        ward.accepts = True
        assert await abouts(ward) == (set(), {"probe", LOOK})

    on_a_ward(play)


def test_a_cut_look_and_an_old_look_are_two_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(ward: Ward) -> None:
        monkeypatch.setattr(Health, "_set_aside", hang)
        await ward.health.look()
        await asyncio.sleep(LATE_S)
        problems = ward.health.report()["problems"]
        assert sorted(problem["about"] for problem in problems) == sorted([LATE_LOOK, LOOK])

    on_a_ward(play)


def test_a_look_that_fails_is_red_in_time() -> None:
    """The relay has no newer look, and says how old its last one is."""

    async def play(ward: Ward) -> None:
        looking = asyncio.create_task(ward.health.run(ward.stopping))
        await until(lambda: ward.level == Level.OK)
        ward.is_broken = True
        assert await ward.until_red() <= PROMISED_S
        ward.stopping.set()
        await looking

    on_a_ward(play)


BOTH_FORMS = pytest.mark.parametrize("asked", [None, NAME], ids=["any relay", "this relay"])


async def pinged(ward: Ward, asked: str | None) -> Found:
    """What ``sealbus ping`` finds, with or without ``--relay``."""
    found = Found()
    await _ask(ward.stage.relay, ward.stage.secrets, asked, found)
    found.judge()
    return found


@BOTH_FORMS
def test_a_ping_is_red_where_the_last_look_is_old(asked: str | None) -> None:
    async def play(ward: Ward) -> None:
        await ward.health.look()
        await asyncio.sleep(LATE_S - 0.1)
        assert (await pinged(ward, asked)).health == Level.OK
        await asyncio.sleep(0.1)
        found = await pinged(ward, asked)
        assert found.health == Level.RED
        (problem,) = found.problems
        assert problem.what == (
            f"the last look of the relay {NAME} at the bus is too old: it was {LATE_S:g} s ago;"
            f" expected less than {LATE_S:g} s"
        )
        assert "look into the relay's log" in problem.hint

    on_a_ward(play)


@BOTH_FORMS
def test_a_ping_is_red_where_no_look_has_ended(asked: str | None) -> None:
    async def play(ward: Ward) -> None:
        began = now()
        found = await pinged(ward, asked)
        assert now() - began >= ASK_S - 0.2, "a relay that has just started is given time"
        assert found.health == Level.RED
        (problem,) = found.problems
        assert problem.what == (
            f"the relay {NAME} has not looked at the bus yet; expected a look within"
            f" {LATE_S:g} s of its start"
        )
        assert "has just started" in problem.hint

    on_a_ward(play)


def test_a_ping_waits_for_the_first_look() -> None:
    async def play(ward: Ward) -> None:
        pinging = asyncio.create_task(pinged(ward, NAME))
        await asyncio.sleep(ASK_S / 2)
        await ward.health.look()
        assert (await pinging).health == Level.OK

    on_a_ward(play)


# ---- the shares of the stores --------------------------------------------------------------------


SIZE = 100_000
"""The bytes of a message that was accepted before the relay came."""


def test_shares_are_of_the_room_that_a_relay_finds() -> None:
    async def scene() -> None:
        async with warded() as ward:
            shares, share = Shares(), ward.stage.policy.share(Store.ACCEPTED)
            await ward.stage.relay.request("accepted.orders.placed", bytes(SIZE), ANSWER_S)
            await ward.of(shares).open()
            assert share.most_bytes - shares.most_bytes(Store.ACCEPTED, share) >= SIZE // 2

    run(scene())


def test_stores_that_say_nothing_hold_up_no_relay() -> None:
    async def scene() -> None:
        async with warded() as ward:
            ward.engine.silent = ("STREAM.INFO.ACCEPTED",)
            began = now()
            await ward.of(Shares()).open()
            assert OPEN_S <= now() - began < ANSWER_S

    run(scene())
