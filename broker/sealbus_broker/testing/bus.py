"""A whole bus inside a test: the real relay, gate and clients, on a NATS server in memory.

How it works. :class:`TestBus` reads the policy folder as a relay does, and gives each bot a new key
in memory. It starts :class:`~sealbus_broker.memory.server.MemoryNats`, and on it a
:class:`~sealbus_broker.relay.relay.Relay` with its door in the same process. Bots are
:class:`sealbus.Bot` objects with credentials for this bus. So the code that seals, admits, judges,
stores, stamps and delivers a message is the code that does so in production. Nothing is written to
disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from sealbus import Bot, Credentials, InvalidInput, SealbusError
from sealbus.own import RECORD_REASONS
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.streams import INGRESS, QUARANTINE
from sealbus.protocol.subjects import GENESIS
from sealbus.supervision import beside, spawn
from sealbus_broker.gate.policy import BotKey, Policy
from sealbus_broker.memory.server import MemoryNats
from sealbus_broker.nats.jetstream import without_nulls
from sealbus_broker.nats.streams import LEDGERS, stream_configs
from sealbus_broker.policy.loader import Loaded, load
from sealbus_broker.policy.problems import Problem, nearest
from sealbus_broker.relay.relay import Relay
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.testing.door import DoorInProcess
from sealbus_broker.testing.folder import StillFolder
from sealbus_broker.testing.kept import Kept
from sealbus_broker.testing.refusals import check_reason

NAME: Final = "test"
"""The relay's name in stamps."""

START_S: Final = 10.0
"""How long the start may take. It takes milliseconds; a debugger may make it longer."""

LOOK_S: Final = 0.005
"""Between two looks into the quarantine, which is in memory."""

LONGEST_WAIT_S: Final = 0.05
"""How long a durable subscription's request waits for messages. A bot that stops waits for that."""

_AGE_NS: Final = 10 * 1_000_000_000


class TestBus:
    """A bus in memory, by the policy in one folder::

        async with TestBus("mybus") as bus:
            order = await bus.bot("order")
            await order.publish("orders.placed", {"order_id": "ord-1"})

    Use it in one event loop. It is not for production.
    """

    __test__ = False  # its name begins with Test, and pytest need not look into it

    def __init__(self, folder: str | Path) -> None:
        """``folder`` has ``policy.yaml`` and ``schemas/``. Nothing is written there.

        Raises:
            InvalidInput: the folder's policy cannot be used. The error lists every problem.
        """
        self._secrets = BusSecrets.generate()
        self._keys: dict[str, SigningKey] = {}
        self._path = Path(folder)
        loaded = self._load()
        self._policy = self._usable(loaded.policy, loaded.problems)
        self._folder = StillFolder(self._load)
        """The folder, which the relay reads again only in :meth:`reload`."""
        self._server = MemoryNats(self._secrets.relay.public, self._secrets.issuer.public)
        self._server.longest_wait_s = LONGEST_WAIT_S
        self._stopping = asyncio.Event()
        self._relay: Relay | None = None
        """``None`` until it is started."""
        self._running: asyncio.Task[None] | None = None
        self._bots: list[Bot] = []

    def _load(self) -> Loaded:
        """Read the folder, and give each bot its key of this test."""
        loaded = load(self._path, frozenset([self._secrets.bus.public]))
        if loaded.policy is None:
            return loaded
        bots = {}
        for name, rule in loaded.policy.bots.items():
            if name not in self._keys:
                self._keys[name] = SigningKey.generate(KeyKind.BOT)
            raw = self._keys[name].public.raw
            # A server in memory has no TLS, so no bot is bound to a certificate there.
            bots[name] = replace(rule, keys={raw: BotKey(raw, 0)}, certificate_names=())
        return replace(loaded, policy=replace(loaded.policy, bots=bots))

    def _usable(self, policy: Policy | None, problems: Sequence[Problem]) -> Policy:
        if policy is None or problems:
            listed = "; ".join(str(problem) for problem in problems)
            what = f"the policy in {self._path} cannot be used: {listed}"
            raise InvalidInput(what, hint="`sealbus check` lists the same problems")
        return policy

    # ---- its life -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._server.start()
        try:
            await self._start()
        except BaseException:
            with contextlib.suppress(SealbusError):
                await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.gather(*(bot.close() for bot in self._bots))
        finally:
            await self._end()

    async def _start(self) -> None:
        self._make_old()
        relay = self._relay = Relay(
            servers=[self._server.url],
            secrets=self._secrets,
            policy=self._policy,
            name=NAME,
            folder=self._folder,
            make_door=DoorInProcess,
        )
        ready = asyncio.Event()
        serving = relay.run(self._stopping, ready.set)
        self._running = spawn(serving, "the relay of a test bus")
        async with beside(ready.wait(), name="the start of a test bus") as (starting,):
            both = (self._running, starting)
            await asyncio.wait(both, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            self._running.result()
        if not ready.is_set():
            raise TimeoutError(f"the test bus did not start within {START_S:g} s")

    async def _end(self) -> None:
        """End the relay and the server. Raises the error that ended the relay, if there is one."""
        self._stopping.set()
        # A relay that stops waits for the last messages that it has asked for, up to a second. Here
        # nobody sends any more.
        if INGRESS in self._server.jetstream.streams:
            for consumer in self._server.jetstream.streams[INGRESS].consumers.values():
                consumer.hasten()
        try:
            if self._running is not None:
                await self._running
        finally:
            self._server.stop(keep_files=False)

    def _make_old(self) -> None:
        """Begin the ledgers some time ago: a relay waits while its ledgers are young."""
        began_ns = time.time_ns() - self._policy.limits.clock_skew_ms * 1_000_000 - _AGE_NS
        for config in stream_configs(self._policy):
            if config["name"] in LEDGERS:
                stream = self._server.jetstream.make(without_nulls(config))
                stream.store(f"{stream.name.lower()}.{GENESIS}", b"", b"", began_ns)

    async def reload(self) -> None:
        """Put the folder's present policy in force, as a running bus does within a second.

        Returns when all sessions obey it.

        Raises:
            InvalidInput: it cannot be used. The error lists every problem, and the policy stays as
                it was.
        """
        assert self._relay is not None, "use it within `async with`"
        in_force = await self._relay.reload()
        self._policy = self._usable(in_force(), in_force.problems)

    # ---- bots -----------------------------------------------------------------------------------

    async def bot(self, name: str) -> Bot:
        """A connected bot of the policy. The bus closes it at its end.

        Raises:
            InvalidInput: the policy has no such bot.
        """
        bot = Bot(self.credentials(name))
        await self.connect(bot)
        return bot

    async def connect(self, bot: Bot) -> None:
        """Connect a bot that was made with :meth:`credentials`. The bus closes it at its end."""
        self._bots.append(bot)
        await bot.connect()

    def credentials(self, name: str) -> Credentials:
        """A bot's credentials for this bus, for code that makes its own :class:`~sealbus.Bot`.

        Raises:
            InvalidInput: the policy has no such bot.
        """
        self._check_bot(name)
        return Credentials(
            bus=self._policy.bus,
            bot=name,
            key=self._keys[name],
            servers=(self._server.url,),
            bus_keys=frozenset([self._secrets.bus.public.raw]),
        )

    def _check_bot(self, name: str) -> None:
        if name not in self._keys:
            known = sorted(self._keys)
            hint = nearest(name, known) or f"policy.yaml has: {', '.join(known)}"
            raise InvalidInput(f"the policy has no bot {name!r}", hint=hint)

    def environment(self, name: str) -> Mapping[str, str]:
        """The same as variables of the environment, for ``Bot.from_environment()``."""
        credentials = self.credentials(name)
        keys = [PublicKey(raw, KeyKind.BUS).text for raw in credentials.bus_keys]
        return {
            "SEALBUS_BUS": credentials.bus,
            "SEALBUS_BOT": credentials.bot,
            "SEALBUS_SEED": self._keys[name].seed_text,
            "SEALBUS_SERVERS": ",".join(credentials.servers),
            "SEALBUS_BUS_KEYS": ",".join(keys),
        }

    # ---- outcomes of messages -------------------------------------------------------------------

    async def quarantine(self, reason: str | None = None) -> list[Kept]:
        """The messages that the bus keeps because they were refused or given up, the oldest first.

        ``reason``: only those with this reason.

        Raises:
            InvalidInput: there is no such reason.
        """
        if reason is not None:
            check_reason(reason, RECORD_REASONS)
        stream = self._server.jetstream.streams[QUARANTINE]
        kept = [Kept.of(stored) for stored in stream.messages()]
        return [one for one in kept if reason in (None, one.reason)]

    async def quarantined(self, reason: str, *, within_s: float = 5.0) -> Kept:
        """Wait until the bus keeps a message with ``reason``, and return the newest.

        Raises:
            AssertionError: there was none within ``within_s`` seconds.
            InvalidInput: there is no such reason.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_s
        while not (found := await self.quarantine(reason)):
            if loop.time() > end_s:
                raise AssertionError(f"no message was kept as {reason} within {within_s:g} s")
            await asyncio.sleep(LOOK_S)
        return found[-1]

    # ---- misfortunes ----------------------------------------------------------------------------

    def cut(self, name: str) -> None:
        """Cut the connections of a bot, as a network does. The bot connects again by itself.

        Raises:
            InvalidInput: the policy has no such bot.
        """
        self._check_bot(name)
        self._server.cut(name)
