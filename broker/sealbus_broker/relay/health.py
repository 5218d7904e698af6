"""Whether the bus works, as each relay finds out for itself every few seconds.

A look asks for these:

- **The whole way.** Unless a message was accepted just now, a probe is sent through INGRESS, the
  gate and the store to its receipt (:mod:`sealbus_broker.relay.probe`). INGRESS answers no
  publisher, so nothing else shows that it has stopped storing. It stops for good once nats-server's
  disk was full.
- **The relay's own stores.** A message that was judged may not be stored for seconds.
- **The partitions.** Messages may wait while none is judged. On a cluster, the consumer of one may
  have no leader.
- **The streams.** Each may be nearly full. On a cluster each may have no leader, or a replica that
  is away or behind (:func:`~sealbus_broker.relay.problems.replica_problem`).
- **The policy.** It may not be the newest (:mod:`sealbus_broker.policy.in_force`).
- **The quarantine.** It may hold messages that ended a relay.
- **The surroundings.** Whoever runs the relay may know more, such as the room on a disk.

A problem has a level: *red*, where the bus accepts nothing, or soon will not; or *warning*, where
an operator should act. The health is the worst level, or *ok*. :meth:`Health.look` alone changes
it. It logs a problem when it begins, when its level changes, each minute that it lasts, and when it
is over. A lost connection is a problem by itself, and then nothing else is asked.

**The time until a bus that accepts nothing is red** is nine seconds at most. The last message was
accepted :data:`JUST_S` before a look that therefore sent no probe. The next look begins
:data:`LOOK_S` after that one began. A look that found nothing ends sooner, because each of its
questions has :data:`ASK_S`, and a probe that takes longer was accepted. The next look finds it
within :data:`LOOK_MOST_S`. Whoever pings the relay also learns the age of the last look, so a
relay that does not look is red as well (:func:`late_look`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.own import UNJUDGEABLE
from sealbus.protocol.stamp import Stamp
from sealbus.protocol.streams import ACCEPTED, INGRESS, LIVE, QUARANTINE
from sealbus.supervision import beside, kind, pause
from sealbus_broker.gate.policy import Limits, Store
from sealbus_broker.gate.shares import Shares
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import API, Json, request_over_reload
from sealbus_broker.nats.streams import (
    ACK_WAIT_S,
    PARTITIONS,
    STREAMS,
    Partition,
    partitions,
)
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.partitions.sharing import Sharing
from sealbus_broker.relay.probe import Prober, is_accepted
from sealbus_broker.relay.problems import (
    RESTART,
    BusProblem,
    Level,
    behind,
    fill_problem,
    no_problems,
    replica_problem,
    unheard,
    unheard_partition,
    worst,
)
from sealbus_broker.relay.store.quarantine import subject
from sealbus_broker.relay.store.stream_store import StreamStore

log = get_logger(__name__)

PING_SUBJECT: Final = "relay.ping"
"""A subject inside the account BUS, where no bot is. Some relay answers with its health, and on
``relay.ping.<name>`` that relay."""

LOOK_S: Final = 3.0
"""The time from the beginning of a look to that of the next. A look that takes longer is followed
by the next one at once."""

JUST_S: Final = 0.5
"""A message that was accepted so long ago, or later, proves the whole way. On a bus with more
messages than that, a probe would only wait behind them."""

PROBE_S: Final = 4.0
"""How long a probe may take. That is a thousand times as long as on an idle bus, and longer than a
flood of 10,000 messages before it takes."""

STUCK_S: Final = 5.0
"""How long the relay's stores may fail before they are red."""

STILL_S: Final = ACK_WAIT_S + 5.0
"""How long a partition in which messages wait may stand still before it is red. It is longer than
it takes until the messages of a dead relay are delivered to another. JetStream may say nothing of a
partition for as long, which is longer than an election takes."""

ASK_S: Final = 2.0
"""How long JetStream may take for one answer. All questions of a look are asked at the same time.
It is shorter than :data:`LOOK_S`: see the module."""

OPEN_S: Final = 0.5
"""How long :meth:`Health.open` waits for the stores. On a cluster, a stream without a leader says
nothing, and messages for the others should not wait for it. The first look asks again."""

WAY_MOST_S: Final = 5.0
"""How long the look at the whole way may take: a probe, and a question before and behind it. Those
only make its sentence more exact."""

LOOK_MOST_S: Final = 5.5
"""How long a look may take. Half a second is left for a relay that is busy."""

LATE_S: Final = 9.0
"""From this age on, the last look is too old. Two looks end at most :data:`LOOK_S` and
:data:`LOOK_MOST_S` apart, which is 8.5 s."""


AGAIN_S: Final = 60.0
"""The pause between two log lines about one problem that lasts."""

POLICY: Final = "policy"
"""The subject of problems of the policy."""

LOOK: Final = "look"
"""The subject of a look that was cut off."""

LATE_LOOK: Final = "late look"
"""The subject of a last look that is too old, or missing. Only reports have it, because the log has
lines of looks."""

_REFUSING: Final = {ACCEPTED: Store.ACCEPTED, LIVE: Store.LIVE}
"""The streams that refuse messages when they are full, and of which each bot has a share."""

HANGS: Final = "look into the relay's log, and start it again if it goes on"

BEGINS: Final = (
    "a relay that has just started looks within some seconds; ask again, and look into its log if"
    " it still has not"
)


class Health:
    """The health of the bus, as one relay sees it."""

    def __init__(
        self,
        *,
        nc: HardenedClient,
        prober: Prober,
        stream_store: StreamStore,
        counters: VerdictCounters,
        policy: InForce,
        relay: str,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        sharing: Sharing | None = None,
        shares: Shares | None = None,
        surroundings: Callable[[Limits], Sequence[BusProblem]] = no_problems,
    ) -> None:
        """Begin without problems.

        Args:
            nc: The relay's connection.
            prober: Sends probes.
            stream_store: Knows which messages cannot be stored.
            counters: Knows when a message was accepted last, and has the counts.
            policy: The policy in force, and whether it is the newest.
            relay: The relay's name.
            now_ms: The wall clock, in ms since 1970.
            monotonic: A clock that is never set, in seconds.
            sharing: Knows the partitions that this relay works on, and the other relays.
            shares: Are told how much the stores hold.
            surroundings: Gives the problems that NATS does not know of, by the policy's limits.
                It does not wait.
        """
        self._nc = nc
        self._prober = prober
        self._stream_store = stream_store
        self._counters = counters
        self._policy = policy
        self._relay = relay
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._sharing = sharing
        self._shares = shares
        self._surroundings = surroundings
        self._found: dict[str, list[BusProblem]] = {}
        """For each part of a look that waits for answers, its problems at its last end."""
        self._looked_at: float | None = None
        """When the last look ended. ``None``: there was none."""
        self._behind: dict[str, frozenset[str]] = {}
        """For each stream, the nodes that did not have everything at the last look."""
        self._floors: dict[str, tuple[int, float]] = {}
        """For each partition, the last sequence that was settled, and since when it is the last."""
        self._unheard: dict[Partition, float] = {}
        """The partitions of which JetStream said nothing at the last look, and since when."""
        self._told: dict[str, tuple[Level, float]] = {}
        """For each problem in the log, by its subject, the level, and when it was written last."""
        self.problems: tuple[BusProblem, ...] = ()
        """The problems that the last look found."""

    @property
    def level(self) -> Level:
        """The worst level of all problems."""
        return worst(self.problems)

    async def open(self) -> None:
        """Begin to answer pings, which returns before NATS knows of it. Look how full the stores
        are, because messages are judged by that from the first one on."""
        # In a queue group, so that one ping has one answer, whichever relay gives it.
        await self._nc.subscribe(PING_SUBJECT, queue="relays", cb=self._on_ping)
        await self._nc.subscribe(f"{PING_SUBJECT}.{self._relay}", queue="relays", cb=self._on_ping)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_S):
                await asyncio.gather(*(self._look_at_store(name) for name in _REFUSING))

    async def _on_ping(self, msg: Msg) -> None:
        # Whoever asked asks again. The look finds a lost connection by itself.
        with contextlib.suppress(NatsError, OSError):
            await msg.respond(json.dumps(self.report()).encode())

    async def run(self, stopping: asyncio.Event) -> None:
        """Look every few seconds until ``stopping`` is set."""
        while not stopping.is_set():
            began = self._monotonic()
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001  # an error of the look must not end the work
                log.error("health.not-checked", error=kind(error))  # noqa: TRY400  # one line
            await pause(max(0.0, began + LOOK_S - self._monotonic()), until=stopping)

    async def look(self) -> None:
        """Look once, and log each change."""
        if not self._nc.is_connected:
            found = [
                BusProblem(
                    Level.RED,
                    "nats",
                    "the relay has no connection to NATS",
                    "is nats-server running?",
                )
            ]
            self._found.clear()
        else:
            parts = await self._ask_all()
            around = self._surroundings(self._policy().limits)
            own = (self._own_stores(), self._own_policy(), around)
            found = [problem for part in (*own, *parts) for problem in part]
        self.problems = tuple(found)
        self._looked_at = self._monotonic()
        self._tell()

    async def _ask_all(self) -> Sequence[list[BusProblem]]:
        """Return the problems of each part of the look that waits for an answer.

        A part that does not end keeps its problems, because nobody has seen their end.
        """
        # At the same time: a server that is silent to all would otherwise hold up the look for
        # long.
        parts = {
            "way": self._whole_way(),
            "streams": self._streams(),
            "partitions": self._partitions(),
            "set aside": self._set_aside(),
        }
        async with beside(*parts.values(), name="a part of the look") as asked:
            # Each part has its own bound. This one holds whatever a part waits for.
            _, cut = await asyncio.wait(
                asked, timeout=LOOK_MOST_S, return_when=asyncio.FIRST_EXCEPTION
            )
            for part, task in zip(parts, asked, strict=True):
                if task.done():
                    self._found[part] = task.result()
        if not cut:
            return [*self._found.values()]
        what = f"the relay's look at the bus did not end within {LOOK_MOST_S:g} s"
        return [*self._found.values(), [BusProblem(Level.RED, LOOK, what, HANGS)]]

    def report(self) -> dict[str, Any]:
        """Return the answer to a ping."""
        policy = self._policy()
        looked = self._looked_s_ago()
        return {
            "relay": self._relay,
            "bus": policy.bus,
            "policy": policy.digest.hex(),
            "ttl_ms": policy.limits.ttl_ms,
            "health": worst(self._present()).value,
            "problems": [asdict(problem) for problem in self._present()],
            "looked_s_ago": looked,
            "counts": dict(self._counters.counts),
            "partitions": [] if self._sharing is None else self._sharing.holds,
            "peers": [] if self._sharing is None else self._sharing.peers,
        }

    def _looked_s_ago(self) -> float | None:
        """Return the age of the last look, in seconds. ``None``: there was none."""
        return None if self._looked_at is None else round(self._monotonic() - self._looked_at, 1)

    def _present(self) -> list[BusProblem]:
        """Return the problems of the last look, with its age and those of the policy as they are
        now."""
        others = [problem for problem in self.problems if problem.about != POLICY]
        return [*late_look(self._relay, self._looked_s_ago()), *others, *self._own_policy()]

    async def _whole_way(self) -> list[BusProblem]:
        stored_at = self._counters.stored_at
        if stored_at is not None and self._monotonic() - stored_at < JUST_S:
            return []
        policy = self._policy()
        before = after = None
        try:
            async with asyncio.timeout(WAY_MOST_S):
                # Compared afterwards: it says whether INGRESS has stored the probe.
                before = await self._last_sequence()
                with contextlib.suppress(TimeoutError):
                    stamp = await self._prober.probe(
                        policy.bus, policy.limits.ttl_ms, self._now_ms(), PROBE_S
                    )
                    return [] if is_accepted(stamp) else [_refused_probe(stamp)]
                after = await self._last_sequence()
        except TimeoutError:
            pass  # JetStream says nothing of INGRESS
        except (NatsError, OSError):
            return []  # the connection was lost, and the next look says so
        return [_no_verdict(before, after)]

    async def _last_sequence(self) -> int | None:
        info = await self._ask(f"STREAM.INFO.{INGRESS}")
        return None if info is None else int(info["state"]["last_seq"])

    def _own_stores(self) -> list[BusProblem]:
        stuck = self._stream_store.stuck
        if stuck is None or stuck[0] < STUCK_S:
            return []
        what = f"judged messages cannot be stored for {stuck[0]:.0f} s: {stuck[1]}"
        return [
            BusProblem(
                Level.RED, "store", what, f"if a stream is full, raise its limit; else {RESTART}"
            )
        ]

    def _own_policy(self) -> list[BusProblem]:
        in_force = self._policy
        if in_force.unseen is not None:
            what = f"the relay cannot read its folder for {in_force.unseen_s:.0f} s"
            hint = f"look at the folder's disk and at its permissions ({in_force.unseen})"
            what += "; it goes by the last policy that it has read"
            return [BusProblem(Level.WARNING, POLICY, what, hint)]
        if in_force.problems:
            count = len(in_force.problems)
            first = in_force.problems[0]
            what = f"the newest policy cannot be used, so an older one is in force: {first}"
            hint = f"`sealbus check` lists {'it' if count == 1 else f'all {count} problems'}"
            return [BusProblem(Level.WARNING, POLICY, what, hint)]
        return []

    async def _streams(self) -> list[BusProblem]:
        # At the same time, because a cluster is silent about each stream without a leader.
        found = await asyncio.gather(*(self._stream(name) for name in STREAMS))
        return [problem for part in found for problem in part]

    async def _look_at_store(self, name: str) -> Json | None:
        """Ask how a stream is. If it refuses messages when it is full, the shares learn how full it
        is."""
        info = await self._ask(f"STREAM.INFO.{name}")
        store = _REFUSING.get(name)
        if info is not None and store is not None and self._shares is not None:
            share = self._policy().share(store)
            self._shares.look(store, share, info["state"]["bytes"], self._now_ms())
        return info

    async def _stream(self, name: str) -> list[BusProblem]:
        info = await self._look_at_store(name)
        if info is None:
            return [unheard(name, is_cluster=bool(self._nc.cluster))]
        # A replica is behind for a moment whenever messages come. So it has to be at two looks.
        before, self._behind[name] = self._behind.get(name, frozenset()), behind(info)
        late = before & self._behind[name]
        return [*fill_problem(name, info), *replica_problem(name, info, late)]

    async def _partitions(self) -> list[BusProblem]:
        number = PARTITIONS if self._sharing is None else self._sharing.number
        asked = partitions(number)
        # At the same time: one after the other, silent ones would take up to two seconds each. A
        # list of them all would wait for the slowest.
        infos = await asyncio.gather(
            *(self._ask(f"CONSUMER.INFO.{INGRESS}.{one.consumer}") for one in asked)
        )
        found = list(zip(asked, infos, strict=True))
        still = [self._still(one, info) for one, info in found if info is not None]
        silent = await self._silent([one for one, info in found if info is None])
        return [problem for part in (*still, silent) for problem in part]

    def _still(self, one: Partition, info: dict[str, Any]) -> list[BusProblem]:
        """Return the problem of a partition in which messages wait and none is settled."""
        partition = str(one)
        waiting = info["num_pending"] + info["num_ack_pending"]
        floor = info["ack_floor"]["stream_seq"]
        now = self._monotonic()
        known, since = self._floors.get(partition, (floor, now))
        if floor != known or not waiting:
            # It moves, or has nothing to do: the time of standing still begins anew.
            since = now
        self._floors[partition] = floor, since
        still_s = now - since
        if still_s < STILL_S:
            return []
        about = f"partition {partition}"
        what = f"{waiting} messages wait in {about}, unsettled for {still_s:.0f} s"
        return [BusProblem(Level.RED, about, what, "look into the relays' logs")]

    async def _silent(self, unheard: Sequence[Partition]) -> list[BusProblem]:
        """Return the problems of the partitions of which JetStream says nothing for long.

        Nothing is delivered of them, and the probe is in one partition alone.
        """
        now = self._monotonic()
        self._unheard = {one: self._unheard.get(one, now) for one in unheard}
        late = {one: now - at for one, at in self._unheard.items() if now - at >= STILL_S}
        # Where JetStream says nothing of the stream either, the look at the stream says so.
        if not late or await self._last_sequence() is None:
            return []
        is_cluster = bool(self._nc.cluster)
        return [unheard_partition(one, for_s, is_cluster=is_cluster) for one, for_s in late.items()]

    async def _set_aside(self) -> list[BusProblem]:
        """Warn of messages that were kept unjudged, until their records age out or are removed."""
        subjects = subject(UNJUDGEABLE)
        info = await self._ask(
            f"STREAM.INFO.{QUARANTINE}", json.dumps({"subjects_filter": subjects}).encode()
        )
        counts = (info or {}).get("state", {}).get("subjects") or {}
        if not counts:
            return []
        bots = ", ".join(sorted(name.rpartition(".")[2] for name in counts)[:5])
        count = sum(counts.values())
        what = (
            f"{count} messages ended the relays that judged them, and were set aside (from {bots})"
        )
        hint = f"look at them with sealbus quarantine ls --reason {UNJUDGEABLE}"
        return [BusProblem(Level.WARNING, UNJUDGEABLE, what, hint)]

    async def _ask(self, call: str, body: bytes = b"") -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = json.loads(
                (await request_over_reload(self._nc, f"{API}.{call}", body, ASK_S)).data
            )
        except (NatsError, OSError, TimeoutError, ValueError):
            return None
        return None if "error" in answer else answer

    def _tell(self) -> None:
        now = self._monotonic()
        for problem in self.problems:
            # A new problem counts as one that was OK before, so it is told at once.
            level, at = self._told.get(problem.about, (Level.OK, now))
            if level is not problem.level or now - at >= AGAIN_S:
                self._told[problem.about] = problem.level, now
                write = log.error if problem.level is Level.RED else log.warning
                text = f"{problem.level.value}: {problem.what}\nhint: {problem.hint}"
                write(
                    f"health.{problem.level.value}",
                    text=text,
                    about=problem.about,
                    what=problem.what,
                    hint=problem.hint,
                )
        over = self._told.keys() - {problem.about for problem in self.problems}
        for about in sorted(over):
            level, _ = self._told.pop(about)
            log.info(
                "health.recovered",
                text=f"over: {about} is well again",
                about=about,
                was=level.value,
                health=self.level.value,
            )


def _no_verdict(before: int | None, after: int | None) -> BusProblem:
    """Return the problem of a probe without a stamp. ``before`` and ``after``: the last sequences
    of INGRESS, around the probe. ``None``: JetStream did not say."""
    if before is None or after is None:
        what = "a message of the relay's own has no verdict"
    elif before == after:
        what = f"INGRESS stores nothing: a message is not in the stream after {PROBE_S:g} s"
    else:
        what = f"a message that INGRESS has stored had no verdict within {PROBE_S:g} s"
    return BusProblem(Level.RED, "probe", f"the bus accepts nothing: {what}", RESTART)


def _refused_probe(stamp: Stamp) -> BusProblem:
    what = f"a message of the relay's own was refused ({stamp.reason})"
    return BusProblem(
        Level.RED, "probe", what, "are the clocks of the relays and of nats-server right?"
    )


def late_look(relay: str, looked_s_ago: float | None) -> list[BusProblem]:
    """Return the problem of a relay whose last look at the bus is too old, or missing.

    Args:
        relay: The relay's name.
        looked_s_ago: The age of its last look, in seconds. ``None``: there was none.
    """
    if looked_s_ago is not None and looked_s_ago < LATE_S:
        return []
    if looked_s_ago is None:
        what = (
            f"the relay {relay} has not looked at the bus yet; expected a look within"
            f" {LATE_S:g} s of its start"
        )
        return [BusProblem(Level.RED, LATE_LOOK, what, BEGINS)]
    what = (
        f"the last look of the relay {relay} at the bus is too old: it was {looked_s_ago:g} s ago;"
        f" expected less than {LATE_S:g} s"
    )
    return [BusProblem(Level.RED, LATE_LOOK, what, HANGS)]
