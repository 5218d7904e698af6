"""A bus with many bots.

An attacker is on the wire of each bot, and the handlers are processes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final, Self

from nats.errors import Error as NatsError

from sealbus import Bot, Credentials, Message
from sealbus.life.session import Session
from sealbus.nats.client import HardenedClient
from sealbus.protocol.codec import is_bundle, split_bundle
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.seal import Verifier
from sealbus.protocol.shelf_life import is_void
from sealbus.protocol.stamp import open_stamp
from sealbus.supervision import Supervisor
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.gate.policy import Policy
from sealbus_broker.policy.bus_file import BusFile
from tests.asking import answered
from tests.e2e.shop import Shop
from tests.fork_server import PROCESSES

LIMITS: Final = """\
  ttl: 2s
  live_ttl: 5s
  clock_skew: 100ms
  ingress_wait: 2s
"""
"""The shortest limits with which an honest message still gets through on a busy machine.

Short limits let a ledger forget soon. A bot asks for its grants with a live message of 5 seconds.
"""

POLICY: Final = """\
version: 1
bus: shop
limits:
{limits}
on_violation:
  default: drop
roles:
  trader:
    publish: [work.*, pulse.*]
bots:
  worker:
    subscribe: [work.*, pulse.*]
{bots}
subjects:
  work.*:
    schema: work.v1
  pulse.*:
    delivery: live
    schema: work.v1
"""
SCHEMA: Final = '{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}'


class Market(Shop):
    """A shop with a policy of its own: ``count`` bots that send, and one that handles."""

    def __init__(self, folder: Path, count: int, limits: str = LIMITS, first: int = 0) -> None:
        """``first`` is the number of the first sender.

        Markets that share a process need different names for their senders (:func:`wiretap`).
        """
        super().__init__(folder)
        self.traders = [f"t{number}" for number in range(first, first + count)]
        bots = "".join(f"  {name}:\n    roles: [trader]\n" for name in self.traders)
        (self.bus.path / "policy.yaml").write_text(POLICY.format(limits=limits, bots=bots))
        for old in (self.bus.path / "schemas").iterdir():
            old.unlink()
        for old in (self.bus.path / "keys").iterdir():
            old.unlink()
        (self.bus.path / "schemas" / "work.v1.json").write_text(SCHEMA)
        facts = BusFile("shop", (self.url,), (self.secrets.bus.public,))
        for bot in ("worker", *self.traders):
            make_key(self.bus, bot, facts, datetime.now(UTC))

    def policy(self) -> Policy:
        """The policy as the relay reads it."""
        return self.bus.policy()


# ---- handlers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Handled:
    """A line that a handler wrote down."""

    bot: str
    number: int
    nonce: str
    stamp: str
    """The SHA-256 of the stamp: two acceptances have two stamps."""
    live: bool


def hearer(credentials: str, diary: str, before: Callable[[], None] = lambda: None) -> None:
    """A process that writes down its messages until it is killed or told to stop.

    Each handler calls ``before`` first.
    """
    with Path(diary).open("ab", buffering=0) as file:

        def note(message: Message, *, live: bool) -> None:
            before()
            line = {
                "bot": message.bot,
                "number": message.payload["number"],
                "nonce": message.nonce.hex(),
                "stamp": hashlib.sha256(message.stamp_data).hexdigest(),
                "live": live,
            }
            file.write(json.dumps(line).encode() + b"\n")

        async def work() -> None:
            bot = Bot.from_file(credentials)

            @bot.subscribe("work.*", durable="d", start="all", concurrency=16)
            async def take(message: Message) -> None:
                note(message, live=False)

            @bot.subscribe("pulse.*", live=True)
            async def hear(message: Message) -> None:
                note(message, live=True)

            @bot.on_connected
            def ready() -> None:
                file.write(b"{}\n")

            await bot.run()

        asyncio.run(work())


@dataclass
class Hearer:
    """One process of :func:`hearer`."""

    process: ForkServerProcess
    diary: Path

    @classmethod
    def start(cls, market: Market, name: str, target: Callable[[str, str], None] = hearer) -> Self:
        """Start a hearer. Its diary is ``name``."""
        diary = market.bus.path / f"{name}.jsonl"
        diary.touch()
        process = PROCESSES.Process(
            target=target, args=(str(market.bus.credentials("worker")), str(diary)), daemon=True
        )
        process.start()
        return cls(process, diary)

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def lines(self) -> Iterator[Handled]:
        """The messages that it has handled so far."""
        for text in self.diary.read_text().splitlines():
            with contextlib.suppress(ValueError):  # the last line of a killed process
                fields = json.loads(text)
                if fields:
                    yield Handled(**fields)

    @property
    def ready(self) -> bool:
        """Whether it has ever been connected."""
        return self.diary.stat().st_size > 0


# ---- the wire ------------------------------------------------------------------------------------


@dataclass
class Wiretap:
    """Everything that the bots of this process publish."""

    captured: dict[str, dict[bytes, bool]] = field(default_factory=dict)
    """By bot: its envelopes, the first sent first, and whether each was sent live."""

    def take(self, subject: str, data: bytes) -> None:
        """Read one NATS message."""
        way, _, bot = subject.partition(".")
        if way in ("send", "call"):
            envelopes = split_bundle(data) if is_bundle(data) else [data]
            known = self.captured.setdefault(bot, {})
            known.update(
                (envelope, way == "call") for envelope in envelopes if envelope not in known
            )


@contextmanager
def wiretap() -> Iterator[Wiretap]:
    """Inside the block, the attacker gets everything that the bots of this process publish."""
    tap, original = Wiretap(), HardenedClient.publish

    async def publish(
        self: HardenedClient, subject: str, payload: bytes = b"", *args: Any, **options: Any
    ) -> None:
        tap.take(subject, payload)
        await original(self, subject, payload, *args, **options)

    HardenedClient.publish = publish  # type: ignore[assignment,method-assign]  # taken back below
    try:
        yield tap
    finally:
        HardenedClient.publish = original  # type: ignore[method-assign]  # as it was


@asynccontextmanager
async def raw_session(credentials: Credentials) -> AsyncIterator[Session]:
    """A session of a bot without a client around it, which comes back when it is lost."""

    async def nothing(_: HardenedClient) -> None:
        pass

    session = Session(credentials, nothing, supervisor=Supervisor(credentials.bot))
    await session.open()
    try:
        yield session
    finally:
        await session.close(flush=False)


async def send_raw(session: Session, bot: str, data: bytes, *, live: bool) -> bool:
    """Send bytes unchanged. Returns whether they were sent."""
    if not session.is_up:
        return False
    client = await session.client()
    try:
        await client.publish(f"{'call' if live else 'send'}.{bot}", data)
    except (NatsError, OSError):
        return False
    return True


# ---- the store -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copy:
    """A stored copy of a message."""

    bot: str
    nonce: str
    is_void: bool
    """Whether it was stored too late, so that nobody handles it."""


async def read_store(market: Market) -> list[Copy]:
    """The messages of the traders in ACCEPTED."""
    found: list[Copy] = []
    keys, verifier = frozenset({market.secrets.bus.public.raw}), Verifier()
    async with AsyncExitStack() as stack:
        nc = await market.nats()
        stack.push_async_callback(nc.close)
        sequence = 1
        while True:
            ask = json.dumps({"seq": sequence, "next_by_subj": "accepted.work.*"}).encode()
            answer = await answered(nc, "$JS.API.DIRECT.GET.ACCEPTED", ask)
            headers = answer.headers or {}
            if headers.get("Status"):
                return found
            sequence = int(headers["Nats-Sequence"]) + 1
            at = datetime.fromisoformat(headers["Nats-Time-Stamp"])
            envelope, stamp = split_delivery(answer.data)
            header = Envelope.decode_shown(envelope).header
            late = is_void(open_stamp(stamp, keys, verifier), int(at.timestamp() * 1000))
            found.append(Copy(header.bot, header.nonce.hex(), late))
