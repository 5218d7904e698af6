"""A session is exactly its grants: every bot against every kind of subject, on a real nats-server.

``tests/door/matrix.py`` has the policies, the cells and the rules. For each cell, nats-server takes
the frame or refuses it. For each subscription that it takes, the relay's account publishes a
message on every subject. For each publish that it takes, the message comes to the relay, and to
nobody else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.nats.provision import provision
from sealbus_broker.server import process
from tests.client.certificates import Authority
from tests.door.matrix import (
    PLANNED,
    Cell,
    Operation,
    Rules,
    consumer,
    is_literal,
    policy,
    stands_for,
    subjects,
    subscriptions,
)
from tests.door.raw_session import RawSession, open_bot, open_relay, pub, sub
from tests.scene import LIMITS, Scene, bot_rule, raise_curtain
from tests.scene_fixtures import render_patiently
from tests.waiting import until

SEEDS = range(5)
CONNECTIONS = 1000
"""Each wide subscription has a session of its own, and a bot has dozens of them."""

SHOWN = 20
"""How many wrong cells a failure shows."""

LEAST = 30_000
"""Each policy gives more comparisons than this."""

PULL = '{"batch": 1, "no_wait": true}'
"""The body of all that bots publish: a request for messages, which JetStream answers at once."""


class Trial:
    """The sessions of all bots of one policy, and the wrong cells that were found."""

    def __init__(self, scene: Scene, bots: list[Rules], tls: ssl.SSLContext | None = None) -> None:
        self._scene = scene
        self._tls = tls
        self._bots = bots
        self.tried = subjects(bots)
        self.wrong: list[str] = []
        self.count = 0
        self._open: list[RawSession] = []

    async def run(self) -> None:
        """Try every cell."""
        keys = {bot.name: SigningKey.generate(KeyKind.BOT) for bot in self._bots}
        rules = {
            bot.name: bot_rule(bot.name, keys[bot.name], subscribe=bot.grants) for bot in self._bots
        }
        self._scene.keys = keys
        self._scene.change(bots=rules, limits=replace(LIMITS, connections=CONNECTIONS))
        for bot in self._bots:
            for used in (True, False):
                await self._scene.make_consumer(consumer(bot.name, in_use=used))
        try:
            listeners: list[Listener] = []
            for bot in self._bots:
                listeners += await self._listen(bot, await self._taken(bot))
            await self._deliver(listeners)
            await self._publish(listeners)
        finally:
            await asyncio.gather(*(session.close() for session in self._open))

    async def _login(self, bot: Rules) -> RawSession:
        session = await open_bot(self._scene, bot.name, bot.consumers, self._tls)
        self._open.append(session)
        return session

    def _compare(self, bot: Rules, what: object, *, expected: bool, got: bool, means: str) -> None:
        self.count += 1
        if expected is not got:
            no = f"not {means}"
            said = f"expected {means if expected else no}, got {means if got else no}"
            self.wrong.append(f"{bot} {what}: {said}")

    async def _taken(self, bot: Rules) -> list[Cell]:
        """The subscriptions that nats-server takes."""
        session = await self._login(bot)
        tried = subscriptions(bot, self.tried)
        for sid, cell in enumerate(tried):
            session.send(sub(cell.subject, sid, cell.queue), f"UNSUB {sid}")
        await session.ask()
        refused = set(session.refusals)
        taken = []
        for cell in tried:
            got = ("Subscription", cell.subject, cell.queue) not in refused
            self._compare(bot, cell, expected=bot.allows(cell), got=got, means="allowed")
            if got:
                taken.append(cell)
        return taken

    async def _listen(self, bot: Rules, taken: list[Cell]) -> list[Listener]:
        """Make these subscriptions again, to stay."""
        wide = [one for one in taken if bot.goes_beyond_a_star(one.subject)]
        # nats-server looks for denied messages once one subscription of a session needs it. So each
        # subscription that goes beyond a grant has a session of its own.
        parts = [[one for one in taken if one not in wide], *([one] for one in wide)]
        sessions = await asyncio.gather(*(self._login(bot) for _ in parts))
        listeners = [
            Listener(bot, session, part) for session, part in zip(sessions, parts, strict=True)
        ]
        for listener in listeners:
            await listener.begin()
        return listeners

    async def _deliver(self, listeners: list[Listener]) -> None:
        """The relay publishes on each subject. Who receives which message, and on what?"""
        relay = await open_relay(self._scene, self._tls)
        self._open.append(relay)
        sent = [one for one in self.tried if is_literal(one) and _is_free(one)]
        await relay.ask(*(pub(subject, subject) for subject in sent))
        groups: dict[tuple[str, str], list[tuple[Listener, Cell]]] = defaultdict(list)
        for listener in listeners:
            await listener.session.ask()
            for cell in listener.cells:
                if cell.queue:
                    groups[listener.bot.name, cell.queue].append((listener, cell))
                else:
                    self._compare_arrivals(listener.bot, cell, [cell], sent, listener.on(cell))
        for members in groups.values():
            # Each message comes to one member of the group.
            bot, shown = members[0][0].bot, members[0][1]
            got = [subject for listener, cell in members for subject in listener.on(cell)]
            self._compare_arrivals(bot, shown, [cell for _, cell in members], sent, got)
        for listener in listeners:
            listener.session.arrivals.clear()

    def _compare_arrivals(
        self, bot: Rules, shown: Cell, members: list[Cell], sent: list[str], got: list[str]
    ) -> None:
        for subject in sent:
            covered = any(stands_for(one.subject, subject) for one in members)
            self._compare(
                bot,
                f"{shown}, and a message on {subject}",
                expected=covered and bot.may_receive(subject),
                got=subject in got,
                means="received",
            )
        if len(set(got)) != len(got):
            self.wrong.append(f"{bot} {shown}: a message came twice")

    async def _publish(self, listeners: list[Listener]) -> None:
        """Each bot publishes on each subject, while all subscriptions stay."""
        relay = await open_relay(self._scene, self._tls)
        self._open.append(relay)
        await relay.ask(sub(">", 1))
        answers: dict[str, set[str]] = {bot.name: set() for bot in self._bots}
        for bot in self._bots:
            for operation in (Operation.PUBLISH, Operation.REQUEST):
                session = await self._login(bot)
                asks = operation is Operation.REQUEST
                mine = [Cell(operation, subject) for subject in self.tried]
                replies = [f"inbox.{bot.name}.{at}" if asks else "" for at in range(len(mine))]
                await session.ask(
                    *(pub(one.subject, PULL, to) for one, to in zip(mine, replies, strict=True))
                )
                await relay.ask()
                refused = {subject for _, subject, _ in session.refusals}
                reached = {one.subject for one in relay.arrivals if one.body == PULL}
                relay.arrivals.clear()
                for cell in mine:
                    means, got = "allowed", cell.subject not in refused
                    self._compare(bot, cell, expected=bot.allows(cell), got=got, means=means)
                    # JetStream takes the others: nobody who subscribes to > sees them.
                    means, got = "seen by the relay", cell.subject in reached
                    expected = bot.sends(cell.subject)
                    self._compare(bot, cell, expected=expected, got=got, means=means)
                if asks:
                    answers[bot.name] = {
                        reply
                        for cell, reply in zip(mine, replies, strict=True)
                        if cell.subject not in refused and bot.is_answered(cell.subject)
                    }
        await self._compare_answers(listeners, answers)

    async def _compare_answers(self, listeners: list[Listener], due: dict[str, set[str]]) -> None:
        """JetStream's answers come to the bot that asked. Nothing else comes to anybody."""

        async def came() -> dict[str, set[str]]:
            found: dict[str, set[str]] = {bot.name: set() for bot in self._bots}
            for one in listeners:
                await one.session.ask()
                found[one.bot.name].update(got.subject for got in one.session.arrivals)
            return found

        async def complete() -> bool:
            found = await came()
            return all(found[name] >= due[name] for name in due)

        await until(complete, f"JetStream answers on {due}")
        for name, found in (await came()).items():
            for subject in sorted(found - due[name]):
                self.wrong.append(f"{name} received {subject}, which a bot's publish has caused")


class Listener:
    """A session with subscriptions that stay. The number of each is its place in ``cells``."""

    def __init__(self, bot: Rules, session: RawSession, taken: list[Cell]) -> None:
        self.bot = bot
        self.session = session
        self.cells = taken

    async def begin(self) -> None:
        """Subscribe."""
        frames = [sub(one.subject, sid, one.queue) for sid, one in enumerate(self.cells)]
        await self.session.ask(*frames)
        assert not self.session.refusals

    def on(self, cell: Cell) -> list[str]:
        """The subjects of the messages that came to one subscription."""
        sid = self.cells.index(cell)
        return [one.subject for one in self.session.arrivals if one.sid == sid]


def _is_free(subject: str) -> bool:
    """Whether a message on ``subject`` goes to subscribers alone, and not into a stream or API."""
    return not subject.startswith(("$", "accepted.", "live.", "ingress.", "quarantine."))


async def try_all(scene: Scene, seed: int, tls: ssl.SSLContext | None = None) -> None:
    """Fail with the cells that are wrong."""
    trial = Trial(scene, policy(seed), tls)
    await trial.run()
    left_out = f"\n... {len(trial.wrong)} in all"
    assert not trial.wrong, "\n".join(trial.wrong[:SHOWN]) + left_out
    assert trial.count > LEAST


@pytest.mark.parametrize("seed", SEEDS)
async def test_session_is_exactly_its_grants(streams: Scene, seed: int) -> None:
    await try_all(streams, seed)


def test_policies_have_each_planned_grant() -> None:
    given = [set(bot.grants) for seed in SEEDS for bot in policy(seed)]
    assert [one for one in PLANNED if not any(set(one) <= grants for grants in given)] == []


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """nats-server asks each client for a certificate. The context has one."""
    authority = Authority(tmp_path)
    certificate, secret = authority.server("127.0.0.1")
    context = ssl.create_default_context(cafile=str(authority.file))
    context.load_cert_chain(*authority.server("client"))
    listener = (
        f'tls {{ cert_file: "{certificate}", key_file: "{secret}", ca_file: "{authority.file}",'
        ' verify: true, min_version: "1.3" }\n'
    )

    def with_tls(config: NatsConfig) -> str:
        return render_patiently(config) + listener

    monkeypatch.setattr(process, "render", with_tls)
    # nats-py makes its context so. The relay of the scene connects by it.
    monkeypatch.setattr(ssl, "create_default_context", lambda: context)
    return context


async def test_session_by_mutual_tls_is_its_grants(tmp_path: Path, tls: ssl.SSLContext) -> None:
    scene = await raise_curtain(tmp_path)
    try:
        await provision(scene.relay, scene.policy)
        await try_all(scene, SEEDS[0], tls)
    finally:
        await scene.close()
