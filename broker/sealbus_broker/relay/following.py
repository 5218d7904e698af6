"""A running relay follows its folder: a change is in force within a second, or refused as a whole.

The steps of a change, in this order:

1. The folder is read, all of it. A folder with a problem changes nothing: the last good policy
   stays in force, and the log, ``sealbus ping`` and ``sealbus reload`` name the problems.
2. The streams follow the new limits. A ledger that must remember for longer does so before anything
   is judged by the new policy. One that may remember for a shorter time does so at the next
   connection, because another relay may still judge by the old policy. If a stream cannot follow,
   the change is refused.
3. The policy is in force: the next batch is judged by it.
4. The door decides by it.
5. Durable subscriptions that are no longer granted are removed.
6. The sessions of the bots that it concerns obey (:mod:`sealbus_broker.relay.live_sessions`).

A relay that starts does not know which policy its predecessor had. The digest of the policy that
all sessions obey is in HEALTH, so the sessions obey after a start too, where it is another.

Whatever of steps 5 and 6 fails, because NATS is away or slow, is done again a second later, until
it succeeds. A change that comes meanwhile joins it.

A folder that cannot be read says nothing about the policy. The relay goes on by the last one, and
says so. It stops judging once ``policy_age`` is over, where the policy has that limit
(:mod:`sealbus_broker.policy.in_force`).

Every relay on NATS answers ``relay.reload`` (:func:`question`): it looks at its folder at once, and
tells the policy in force.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable, Coroutine
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import HEALTH, HEALTH_PREFIX
from sealbus.supervision import Supervisor, end, in_thread, kind, outcome, spawn
from sealbus.waiting import Interrupted, race
from sealbus_broker.door.process import Doorway
from sealbus_broker.errors import ClocksApart, StreamsUnusable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import API, request
from sealbus_broker.nats.provision import provision
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.policy.loader import Loaded
from sealbus_broker.policy.policy_file import FILE
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.succession import NOTHING, Succession, succeed
from sealbus_broker.policy.watching import Folder, State
from sealbus_broker.relay.ledgers import Ledgers
from sealbus_broker.relay.live_sessions import LiveSessions
from sealbus_broker.relay.services.consumers import remove_ungranted
from sealbus_broker.relay.stream_store import StreamMessage, StreamStore

log = get_logger(__name__)

T = TypeVar("T")

RELOAD_SUBJECT: Final = "relay.reload"
"""A subject inside the account BUS, where no bot is. Every relay answers."""

READ_S: Final = 10.0
"""How long a disk may take. A thousand bots and schemas take a second. A network disk that is gone
never answers."""

AGAIN_S: Final = 1.0
"""The pause before the sessions are looked after again, when that failed."""

OBEYED_SUBJECT: Final = f"{HEALTH_PREFIX}.obeyed"
"""The digest of the policy that all sessions obey, in hex."""

ASK_S: Final = 5.0
"""How long JetStream may take for one answer."""

MOST_TOLD: Final = 20
"""How many problems of a folder one report has."""


def question(*, look: bool) -> bytes:
    """Return the body of a question on :data:`RELOAD_SUBJECT`.

    ``look``: the relay looks at its folder before it answers.
    """
    return b"look" if look else b""


class Following:
    """Follows the folder of one relay while it serves.

    :meth:`run` alone reads the folder and changes the policy. The task *obeying* sees to
    subscriptions and sessions. On a lost connection a change waits for the next one: see the
    module.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        folder: Folder,
        in_force: InForce,
        door: Doorway,
        ledgers: Ledgers,
        sessions: LiveSessions,
        stream_store: StreamStore,
        relay: str,
        now_ms: Callable[[], int],
        supervisor: Supervisor,
    ) -> None:
        """Prepare; :meth:`open` subscribes.

        Args:
            nc: The relay's connection.
            folder: The folder, which is watched.
            in_force: Holds the policy.
            door: Admits bots by the policy.
            ledgers: Are read again when their windows grow.
            sessions: Makes the sessions of bots obey.
            stream_store: Stores the digest of the policy that sessions obey.
            relay: The relay's name.
            now_ms: The wall clock, in ms since 1970.
            supervisor: Answers for the task *obeying*.
        """
        self._nc = nc
        self._folder = folder
        self._in_force = in_force
        self._door = door
        self._ledgers = ledgers
        self._sessions = sessions
        self._stream_store = stream_store
        self._relay = relay
        self._now_ms = now_ms
        self._supervisor = supervisor
        self._state: State | None = None
        """The state of the folder that was read last. ``None``: it has to be read."""
        self._reading: asyncio.Task[tuple[State, Loaded | None]] | None = None
        """A look at the folder that is under way. It may take longer than :data:`READ_S`."""
        self._asked = asyncio.Event()
        """Set when somebody asks for a look now."""
        self._questions: list[Msg] = []
        """Those who asked over NATS, and have no answer yet."""
        self._waiting: list[asyncio.Event] = []
        """Those who asked in this process, and wait for the end of a look."""
        self._todo: Succession = NOTHING
        """The bots whose sessions have yet to obey."""
        self._obeying: asyncio.Task[object] | None = None
        """Makes them obey, or the last task that did."""
        self._sweeping: set[asyncio.Task[object]] = set()
        """The last looks after old sessions, one for each change of the last seconds."""

    async def open(self) -> None:
        """Begin to answer :data:`RELOAD_SUBJECT`. Returns before NATS knows of it."""
        await self._nc.subscribe(RELOAD_SUBJECT, cb=self._on_question)

    async def _begin(self) -> None:
        """See to the sessions of a relay that came before, if it had another policy."""
        if await _insist(self._obeyed) != self._digest:
            bots = await _insist(self._sessions.bots)
            known = frozenset(self._in_force().bots)
            narrow = Succession(bots - known, bots & known, frozenset(), MappingProxyType({}))
            self._see_to(narrow)

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until ``stopping`` is set."""
        try:
            await self._begin()
            while not stopping.is_set():
                async with self._folder.watched() as changed:
                    await self._look_and_answer()
                    with contextlib.suppress(Interrupted):
                        await race(changed(), stopping, self._asked)
        finally:
            # A thread that hangs is left behind, and holds up nobody.
            tasks = [task for task in (self._reading, self._obeying) if task is not None]
            self._reading = None
            await end(*tasks, *self._sweeping)

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

    async def follow_now(self) -> None:
        """Have the folder read now, and wait until all sessions obey its policy."""
        done = asyncio.Event()
        self._waiting.append(done)
        self._asked.set()
        await done.wait()
        if self._obeying is not None:
            await asyncio.wait([self._obeying])

    def on_back(self) -> None:
        """Look at once: what was changed while there was no connection has waited."""
        self._asked.set()

    @property
    def is_done(self) -> bool:
        """Whether all sessions obey the policy in force."""
        return not self._todo

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
            "sessions_ended": self._sessions.ended,
            "sessions_renewed": self._sessions.renewed,
        }

    async def look(self, *, anyway: bool = False) -> None:
        """Look at the folder, and follow it if it has changed.

        ``anyway``: read it even if it looks the same.
        """
        known = None if anyway else self._state
        if self._reading is None:
            reading = in_thread("sealbus folder", lambda: _read(self._folder, known))
            self._reading = spawn(reading, "reading the folder")
        await asyncio.wait([self._reading], timeout=READ_S)
        if not self._reading.done():
            self._miss(f"the disk does not answer for {READ_S:g} s")
            return
        reading_done, self._reading = self._reading, None
        error = reading_done.exception()
        if isinstance(error, OSError):
            self._miss(error.strerror or type(error).__name__)
            return
        state, loaded = reading_done.result()
        if self._in_force.unseen is not None:
            log.info("policy.seen", text="over: the folder can be read again")
        self._in_force.see()
        if loaded is None or await self._follow(loaded):
            self._state = state
        else:
            self._state = None  # it waits for NATS, and is read again then, changed or not

    def _miss(self, why: str) -> None:
        if self._in_force.unseen is None:
            what = f"the folder cannot be read ({why}), so nobody knows whether the policy is new"
            log.error("policy.unseen", text=f"error: {what}", because=why)
        self._in_force.miss(why)

    # ---- a change -------------------------------------------------------------------------------

    async def _follow(self, loaded: Loaded) -> bool:
        """Follow a folder that was read; return whether that is done, for better or worse."""
        before = self._in_force()
        policy = loaded.policy
        if policy is None:
            self._refuse(loaded.problems)
            return True
        if policy.digest == before.digest:
            self._in_force.refuse(())  # a change that could not be used was taken back
            return True
        if policy.bus != before.bus:
            what = "is the name of another bus"
            hint = "a bus keeps its name: start a relay of its own for another bus"
            self._refuse((Problem(FILE, 0, 0, what, policy.bus, before.bus, hint),))
            return True
        # Streams cannot follow without NATS, and nothing is judged meanwhile.
        if self._is_lost():
            return False
        try:
            await provision(self._nc, policy, before=before)
            await self._ledgers.read()
        except ClocksApart:
            return False  # the relay leaves NATS until they agree
        except StreamsUnusable as error:
            if self._is_lost():
                return False
            self._refuse((Problem(FILE, 0, 0, error.what, hint=error.hint),))
            await self._restore(before, policy)
            return True
        self._in_force.replace(policy)
        await self._door.follow()
        log.info(
            "policy.changed",
            text=f"policy {policy.digest.hex()[:16]} is in force",
            policy=policy.digest.hex(),
            was=before.digest.hex(),
        )
        for note in loaded.notes:
            log.warning("folder.noted", text=f"note: {note}")
        self._see_to(succeed(before, policy, self._now_ms()))
        return True

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

    async def _restore(self, before: Policy, refused: Policy) -> None:
        """Set back the streams that have followed a policy which is not to be in force."""
        error = await outcome(provision(self._nc, before, before=refused))
        if error is not None:
            log.error("streams.not-restored", error=kind(error))

    # ---- its effect on bots ---------------------------------------------------------------------

    def _see_to(self, succession: Succession) -> None:
        self._todo = self._todo.then(succession)
        self._sessions.begin()
        if self._obeying is not None:
            self._obeying.cancel()
        self._obeying = self._supervisor.piece("making sessions obey", self._obey())

    async def _obey(self) -> None:
        digest = self._digest
        await _insist(partial(remove_ungranted, self._nc, self._in_force()))
        todo = self._todo
        if todo:
            until_us = await _insist(partial(self._sessions.obey, todo))
            self._todo = NOTHING
            # Nobody waits for it: it finds a session only where a login was under way.
            sweeping = _insist(partial(self._sessions.sweep, todo, until_us))
            task = self._supervisor.piece("looking for late sessions", sweeping)
            self._sweeping.add(task)
            task.add_done_callback(self._sweeping.discard)
        await self._stream_store.store([StreamMessage(OBEYED_SUBJECT, digest, {})])

    @property
    def _digest(self) -> bytes:
        return self._in_force().digest.hex().encode()

    async def _obeyed(self) -> bytes | None:
        """Return the digest (hex) of the policy that all sessions obey; ``None`` on a new bus."""
        ask = json.dumps({"last_by_subj": OBEYED_SUBJECT}).encode()
        answer = await request(self._nc, f"{API}.STREAM.MSG.GET.{HEALTH}", ask, ASK_S)
        return None if "error" in answer else base64.b64decode(answer["message"]["data"])

    # ---- questions ------------------------------------------------------------------------------

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


async def _insist(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do ``work``, again and again until NATS serves it."""
    while True:
        try:
            return await work()
        except (NatsError, OSError, TimeoutError) as error:
            log.warning("sessions.not-told", error=type(error).__name__)
        await asyncio.sleep(AGAIN_S)


def _read(folder: Folder, known: State | None) -> tuple[State, Loaded | None]:
    """Look at the folder, and read it unless it is as ``known``. Raises :class:`OSError`."""
    # The state before the reading: a change during it leads to another look.
    state = folder.state()
    return state, None if state == known else folder.load()
