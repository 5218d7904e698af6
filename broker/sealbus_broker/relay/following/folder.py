"""A running relay follows its folder: a change is in force within a second, or refused as a whole.

The steps of a change, in this order:

1. The folder is read, all of it (:mod:`sealbus_broker.policy.reading`). A folder with a problem
   changes nothing: the last good policy stays in force, and the log, ``sealbus ping`` and
   ``sealbus reload`` name the problems.
2. The change is refused if a message could be accepted twice by it
   (:mod:`sealbus_broker.policy.places`).
3. The streams follow the new limits, where these differ. A ledger that must remember for longer
   does so before anything is judged by the new policy, and knows from when on it is complete. No
   ledger remembers for a shorter time while this process runs. A stream that holds more than a
   lowered limit keeps its room. A change that the streams cannot follow is refused, and tried again
   later.
4. HEALTH has a mark that sessions may obey different policies.
5. The policy is in force: the next batch, and each message that has to be judged again, is judged
   by it.
6. The door decides by it.
7. Durable subscriptions that are no longer granted are removed. Where JetStream has no majority
   of nodes for them, nothing is delivered, and the sessions do not wait for it.
8. The sessions of the bots that it concerns obey
   (:mod:`sealbus_broker.relay.following.live_sessions`).
9. The last messages that were judged by an older policy are stored.
10. HEALTH has the digest of the policy that all sessions obey.

A node of a cluster may not answer in step 8. The relay goes on without it, and asks it again until
it answers, or until each session of before has ended by its time. Only then does step 10 follow. If
another change comes meanwhile, the looks for that one go on for both.

Whatever of steps 7 and 8 fails, because NATS is away or slow, is done again a second later, until
it succeeds. A change that comes meanwhile joins it.

A relay that starts does not know which policy its predecessor had. It ends each session whose key
opens nothing. It has all other sessions renewed, unless HEALTH has the digest of its policy under
its own name. So give relays names that stay.

A folder that cannot be read says nothing about the policy. The relay goes on by the last one, and
says so. Once ``policy_age`` is over, where the policy has that limit, it leaves NATS, so that other
relays do its work, and comes back when it can read the folder.

Every relay on NATS answers ``relay.reload`` (:mod:`sealbus_broker.relay.following.asking`): it
looks at its folder at once, and tells the policy in force.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import HEALTH, HEALTH_PREFIX
from sealbus.supervision import Supervisor, end, kind, outcome
from sealbus.waiting import Interrupted, race
from sealbus_broker.door.process import Doorway
from sealbus_broker.errors import FolderUnseen, StreamsUnusable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import API, request
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import stream_configs
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.policy.loader import Loaded
from sealbus_broker.policy.places import Places
from sealbus_broker.policy.policy_file import FILE
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.reading import Reading
from sealbus_broker.policy.succession import NOTHING, Succession, succeed
from sealbus_broker.relay.following import live_sessions
from sealbus_broker.relay.following.asking import RELOAD_SUBJECT, question
from sealbus_broker.relay.following.live_sessions import Heard, LiveSessions
from sealbus_broker.relay.services.consumers import remove_ungranted
from sealbus_broker.relay.store.clocks import Apart
from sealbus_broker.relay.store.ledgers import Ledgers
from sealbus_broker.relay.store.stream_store import StreamMessage, StreamStore

log = get_logger(__name__)

T = TypeVar("T")

AGAIN_S: Final = 1.0
"""The pause before the sessions are looked after again, when that failed."""

UNHEARD_S: Final = 2.0
"""The pause between two looks after nodes of a cluster that do not answer. A list takes
milliseconds, and up to ``NODE_S`` for a node that is silent."""

RETRY_S: Final = 10.0
"""The pause before a change is tried again that the streams could not follow. Most of these causes
go away: a disk has more room, and JetStream answers again."""

OBEYED_PREFIX: Final = f"{HEALTH_PREFIX}.obeyed"
"""Below it each relay keeps the digest, in hex, of the policy that all its sessions obey."""

CHANGING: Final = b"changing"
"""Stored there instead of a digest while sessions obey different policies."""

MARK_S: Final = 0.5
"""How long a change waits for that mark. On a full disk nothing is stored, and a key must be
revoked all the same."""

REMOVE_S: Final = 1.0
"""How long the sessions wait until subscriptions are removed that are no longer granted. It takes
milliseconds. A bot that is connected anew asks for no message of them, so this order only saves it
an error."""

ASK_S: Final = 5.0
"""How long JetStream may take for one answer."""

MOST_TOLD: Final = 20
"""How many problems of a folder one report has."""


class Following:
    """Follows the folder of one relay while it serves.

    :meth:`run` alone looks at the folder and changes the policy. The task *obeying* sees to
    subscriptions and sessions. On a lost connection a change waits for the next one: see the
    module.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        reading: Reading,
        in_force: InForce,
        places: Places,
        apart: Apart,
        door: Doorway,
        ledgers: Ledgers,
        sessions: LiveSessions,
        stream_store: StreamStore,
        settled: Callable[[], Coroutine[Any, Any, None]],
        relay: str,
        now_ms: Callable[[], int],
        supervisor: Supervisor,
    ) -> None:
        """Prepare; :meth:`open` subscribes.

        Args:
            nc: The relay's connection.
            reading: Looks at the folder.
            in_force: Holds the policy.
            places: The places of ids, which may not change.
            apart: Is told when the policy is too old.
            door: Admits bots by the policy.
            ledgers: Are asked again from when on they are complete, when their windows grow.
            sessions: Makes the sessions of bots obey.
            stream_store: Stores the digest of the policy that sessions obey.
            settled: Waits until nothing is being stored that an older policy judged.
            relay: The relay's name.
            now_ms: The wall clock, in ms since 1970.
            supervisor: Answers for the tasks.
        """
        self._nc = nc
        self._reading = reading
        self._in_force = in_force
        self._places = places
        self._apart = apart
        self._door = door
        self._ledgers = ledgers
        self._sessions = sessions
        self._stream_store = stream_store
        self._settled = settled
        self._relay = relay
        self._now_ms = now_ms
        self._supervisor = supervisor
        self._asked = asyncio.Event()
        """Set when somebody asks for a look now."""
        self._questions: list[Msg] = []
        """Those who asked over NATS, and have no answer yet."""
        self._waiting: list[asyncio.Event] = []
        """Those who asked in this process, and wait for the end of a look."""
        self._again_at: float | None = None
        """When a change is tried again that the streams could not follow (event loop's time). 0: at
        the next look."""
        self._remembered = in_force.windows
        """The windows that all streams have followed. For these the ledgers were asked from when on
        they are complete."""
        self._todo: Succession = NOTHING
        """The bots whose sessions have yet to obey."""
        self._owed: set[_Owed] = set()
        """The changes whose last look after old sessions is not over."""
        self._life_ms = in_force().limits.session_ms
        """How long a session lasts at most, by any policy that was in force here."""
        self._done: Policy | None = None
        """The last policy of which nothing is left to do."""
        self._obeying: asyncio.Task[object] | None = None
        """Makes sessions obey, or the last task that did."""
        self._waits_for: str | None = None
        """The reason why sessions do not obey yet. ``None``: nobody has failed."""
        self._sweeping: set[asyncio.Task[object]] = set()
        """The last looks after old sessions, one for each change of the last seconds."""

    # ---- its life -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to answer :data:`RELOAD_SUBJECT`, and follow all changes until now.

        Nothing is judged yet. Returns before NATS knows of the subscription.
        """
        await self._nc.subscribe(RELOAD_SUBJECT, cb=self._on_question)
        await self.look(anyway=True)
        self._see_to(await _insist(self._inherited))

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until ``stopping`` is set."""
        try:
            while not stopping.is_set():
                async with self._reading.folder.watched() as changed:
                    await self._look_and_answer()
                    with contextlib.suppress(Interrupted):
                        await race(changed(), stopping, self._asked)
        finally:
            await self._reading.close()

    async def close(self) -> None:
        """End everything that is under way."""
        tasks = [task for task in (self._obeying, *self._sweeping) if task is not None]
        await end(*tasks)

    def on_back(self) -> None:
        """Look at once. A change has waited for the connection."""
        self._asked.set()

    async def follow_now(self) -> None:
        """Have the folder read now, and wait until all sessions obey its policy."""
        done = asyncio.Event()
        self._waiting.append(done)
        self._asked.set()
        await done.wait()
        # A change that comes meanwhile joins, and its task takes the place of this one.
        while self._obeying is not None and not self._obeying.done():
            await asyncio.wait([self._obeying])

    @property
    def is_done(self) -> bool:
        """Whether all sessions obey the policy in force, and no older one has any effect."""
        # By the digest: a new key of the bus makes another policy of the same rules.
        return self._done is not None and self._done.digest == self._in_force().digest

    # ---- a look ---------------------------------------------------------------------------------

    async def _look_and_answer(self) -> None:
        questions, self._questions = self._questions, []
        waiting, self._waiting = self._waiting, []
        self._asked.clear()
        try:
            await self.look(anyway=bool(questions or waiting))
        finally:
            for done in waiting:
                done.set()
        for msg in questions:
            await self._answer(msg)

    async def look(self, *, anyway: bool = False) -> None:
        """Look at the folder, and follow it if it has changed.

        ``anyway``: read it at once, and even if it looks the same.
        """
        loop = asyncio.get_running_loop()
        is_due = self._again_at is not None and loop.time() >= self._again_at
        loaded = await self._reading.look(anyway=anyway or is_due, at_once=anyway)
        if self._in_force.is_too_old:
            self._apart.tell(too_old(self._in_force))
        elif loaded is not None and await self._follow(loaded):
            self._reading.settle()

    # ---- a change -------------------------------------------------------------------------------

    async def _follow(self, loaded: Loaded) -> bool:
        """Follow a folder that was read; return whether that is done, for better or worse."""
        self._again_at = None
        before = self._in_force()
        policy = loaded.policy
        if policy is None:
            self._refuse(loaded.problems)
            return True
        if policy.digest == before.digest:
            self._in_force.refuse(())  # a change that could not be used was taken back
            return True
        if (problem := self._objection(before, policy)) is not None:
            self._refuse((problem,))
            return True
        # Streams cannot follow without NATS, and nothing is judged meanwhile.
        if self._is_lost():
            self._again_at = 0.0
            return False
        try:
            await self._provision(before, policy)
        except StreamsUnusable as error:
            if self._is_lost():
                self._again_at = 0.0
                return False
            self._refuse((Problem(FILE, 0, 0, error.what, hint=error.hint),))
            self._again_at = asyncio.get_running_loop().time() + RETRY_S
            await self._restore(before)
            return True
        await self._mark()
        self._done = None
        since_ms = self._now_ms()
        self._in_force.replace(policy)
        self._life_ms = max(self._life_ms, policy.limits.session_ms)
        self._places.move(policy, self._in_force.windows.longest_ms, self._now_ms())
        await self._door.follow()
        log.info(
            "policy.changed",
            text=f"policy {policy.digest.hex()[:16]} is in force",
            policy=policy.digest.hex(),
            was=before.digest.hex(),
        )
        for note in loaded.notes:
            log.warning("folder.noted", text=f"note: {note}")
        self._see_to(succeed(before, policy, self._now_ms(), since_ms=since_ms))
        return True

    def _objection(self, before: Policy, policy: Policy) -> Problem | None:
        """Return the reason why a bus that lives cannot have ``policy``."""
        if policy.bus != before.bus:
            what = "is the name of another bus"
            hint = "a bus keeps its name: start a relay of its own for another bus"
            return Problem(FILE, 0, 0, what, policy.bus, before.bus, hint)
        moved = self._places.conflict(policy, self._now_ms())
        if moved is None:
            return None
        pattern, earlier = moved
        what = f"{pattern} has another `delivery` or `once` than {earlier} had"
        minutes = -(-self._in_force.windows.longest_ms // 60_000)
        hint = (
            "a message could be accepted twice: stop all relays, and start them after "
            f"{minutes} minutes; or use a new subject"
        )
        return Problem(FILE, 0, 0, what, hint=hint)

    async def _provision(self, before: Policy, policy: Policy) -> None:
        """Let the streams follow. Raises :class:`StreamsUnusable`."""
        least = self._in_force.windows
        is_same = stream_configs(policy, least) == stream_configs(before, least)
        # After an attempt that failed, nobody knows which of them have followed it.
        if is_same and least == self._remembered:
            return
        # From here on, whether the change succeeds or not, another relay may judge by it.
        self._in_force.widen(policy)
        await provision(
            self._nc,
            policy,
            least=self._in_force.windows,
            lowers=policy.limits.replicas < before.limits.replicas,
        )
        if self._in_force.windows != self._remembered:
            await self._ledgers.refresh()
            self._remembered = self._in_force.windows

    def _is_lost(self) -> bool:
        return not self._nc.is_connected

    def _refuse(self, problems: tuple[Problem, ...]) -> None:
        if problems == self._in_force.problems:
            return
        self._in_force.refuse(problems)
        count = f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}"
        policy = self._in_force().digest.hex()
        kept = f"the policy {policy[:16]} stays in force"
        listed = "\n".join(str(one) for one in problems[:MOST_TOLD])
        text = f"error: the change cannot be used ({count}); {kept}\n{listed}"
        log.error("policy.refused", text=text, problems=len(problems), policy=policy)

    async def _restore(self, before: Policy) -> None:
        """Set back the streams that have followed a policy which is not to be in force."""
        error = await outcome(provision(self._nc, before, least=self._in_force.windows))
        if error is not None:
            log.error("streams.not-restored", error=kind(error))

    # ---- its effect on bots ---------------------------------------------------------------------

    async def _inherited(self) -> Succession:
        """Return what the sessions of an earlier relay lose by the policy in force."""
        policy = self._in_force()
        held = await self._sessions.strangers(policy, self._now_ms())
        if await self._obeyed() == self._digest:
            return held
        there = await self._sessions.bots()
        bots = frozenset(policy.bots)
        # A node that does not answer may have a session of any bot.
        if not self._sessions.unheard:
            bots &= there
        everybody = Succession(frozenset(), bots, frozenset(), MappingProxyType({}))
        await self._mark()
        return everybody.then(held)

    def _see_to(self, succession: Succession) -> None:
        self._todo = self._todo.then(succession)
        self._done = None
        self._sessions.begin()
        if self._obeying is not None:
            self._obeying.cancel()
        obeying = self._obey(self._in_force(), self._todo)
        self._obeying = self._supervisor.piece("making sessions obey", obeying)

    async def _obey(self, policy: Policy, todo: Succession) -> None:
        is_removed = await outcome(self._remove(policy, within_s=REMOVE_S)) is None
        heard = await _insist(partial(self._end_sessions, todo)) if todo else None
        if not is_removed:
            await _insist(partial(self._remove, policy))
        self._waits_for = "JetStream to store the messages that an older policy has accepted"
        await self._settled()
        self._waits_for = None
        self._todo = NOTHING
        if heard is not None:
            # A login that is under way now ends later by as much.
            last_s = live_sessions.SETTLE_S + self._life_ms / 1000
            until = asyncio.get_running_loop().time() + last_s
            self._owed.add(_Owed(todo, heard, until))
        self._done = policy
        sweeping = self._sweep(policy, frozenset(self._owed))
        task = self._supervisor.piece("looking for late sessions", sweeping)
        self._sweeping.add(task)
        task.add_done_callback(self._sweeping.discard)

    async def _remove(self, policy: Policy, within_s: float | None = None) -> None:
        self._waits_for = "JetStream to list and remove durable subscriptions of ACCEPTED"
        async with asyncio.timeout(within_s):
            await remove_ungranted(self._nc, policy)

    async def _end_sessions(self, todo: Succession) -> Heard:
        self._waits_for = "nats-server to list and end sessions"
        return await self._sessions.obey(todo)

    async def _sweep(self, policy: Policy, changes: frozenset[_Owed]) -> None:
        """Look once more, for a login and a request that were under way, and then until each node
        has answered. Nobody waits for it.

        ``changes``: that to ``policy``, and those before whose last look is not over.
        """
        if changes:
            await asyncio.sleep(live_sessions.SETTLE_S)
        while owed := changes & self._owed:
            if not await _insist(partial(self._look_again, owed)):
                if self._done is not None and self._done is not policy:
                    return  # the look of the next change does it too
                await asyncio.sleep(UNHEARD_S)
        await _insist(partial(remove_ungranted, self._nc, self._in_force()))
        if self._done is policy and self.is_done:
            digest = policy.digest.hex().encode()
            await self._stream_store.store([StreamMessage(self._obeyed_subject, digest, {})])

    async def _look_again(self, owed: frozenset[_Owed]) -> bool:
        """Look once more for these changes; return whether all nodes have answered."""
        changes = [(one.todo, one.heard) for one in owed]
        has_all = await self._sessions.sweep(changes, self._in_force().bots)
        now = asyncio.get_running_loop().time()
        self._owed -= {one for one in owed if has_all or now >= one.until}
        return has_all

    async def _mark(self) -> None:
        """Note that from now on sessions may begin by another policy."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MARK_S):
                await self._stream_store.attempt(
                    [StreamMessage(self._obeyed_subject, CHANGING, {})]
                )

    @property
    def _digest(self) -> bytes:
        return self._in_force().digest.hex().encode()

    @property
    def _obeyed_subject(self) -> str:
        return f"{OBEYED_PREFIX}.{self._relay}"

    async def _obeyed(self) -> bytes | None:
        """Return the digest (hex) of the policy that all sessions obey, if it is known."""
        ask = json.dumps({"last_by_subj": self._obeyed_subject}).encode()
        answer = await request(self._nc, f"{API}.STREAM.MSG.GET.{HEALTH}", ask, ASK_S)
        return None if "error" in answer else base64.b64decode(answer["message"]["data"])

    # ---- questions ------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return the answer to a question: the policy in force, and whether it is the newest."""
        in_force = self._in_force
        policy = in_force()
        return {
            "relay": self._relay,
            "bus": policy.bus,
            "policy": policy.digest.hex(),
            "problems": [one.as_dict() for one in in_force.problems[:MOST_TOLD]],
            "unseen": in_force.unseen,
            "sessions_obey": self.is_done,
            "waits_for": None if self.is_done else self._waits_for,
            "sessions_ended": self._sessions.ended,
            "sessions_renewed": self._sessions.renewed,
            "nodes_unheard": sorted({*self._sessions.unheard, *self._unheard_before()}),
        }

    def _unheard_before(self) -> set[str]:
        """Return the nodes that did not answer for a change whose last look is not over."""
        return {name for one in self._owed for name in one.heard.unheard}

    async def _on_question(self, msg: Msg) -> None:
        if msg.data == question(look=True):
            self._questions.append(msg)
            self._asked.set()
        else:
            await self._answer(msg)

    async def _answer(self, msg: Msg) -> None:
        # Whoever asked asks again.
        with contextlib.suppress(NatsError, OSError):
            await msg.respond(json.dumps(self.report()).encode())


@dataclass(frozen=True, slots=True, eq=False)
class _Owed:
    """A change whose last look after old sessions is not over."""

    todo: Succession
    heard: Heard
    until: float
    """When each of these sessions has ended by its time (event loop's time)."""


def too_old(in_force: InForce) -> FolderUnseen:
    """Return the error of a relay whose policy is too old to judge by it."""
    return FolderUnseen(
        f"the relay cannot read its folder for {in_force.unseen_s:.0f} s ({in_force.unseen}), which"
        " is longer than limits.policy_age",
        hint="look at the folder's disk; the relay serves again when it can read the folder",
    )


async def _insist(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do ``work``, again and again until NATS serves it."""
    while True:
        try:
            return await work()
        except (NatsError, OSError, TimeoutError) as error:
            log.warning("sessions.not-told", error=type(error).__name__)
        await asyncio.sleep(AGAIN_S)
