"""A Sealbus of the benchmark's own: its folder, the nats-server, a relay as the real command.

The peers on NATS are measured on this same server, with the relay's own key (account BUS, all
rights). So they and Sealbus have the same settings, ``sync_interval: always`` among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.workload import ORDER_SCHEMA, REPLY_SCHEMA
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.tls.cert_files import Authority
from sealbus_broker.cli.tls.embedded_tls import server_tls
from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.server.process import NatsServer

BUS: Final = "bench"
START_S: Final = 60.0
STOP_S: Final = 15.0
RELAY: Final = (sys.executable, "-m", "sealbus_broker", "relay")
_LAST_BYTES: Final = 2000


@dataclass(frozen=True, slots=True)
class Plan:
    """A bus's folder: ``policy.yaml`` as text, schemas by name, and the bots that get keys."""

    policy: str
    schemas: dict[str, Any]
    bots: tuple[str, ...]


def pairs_plan(pairs: int) -> Plan:
    """Senders ``s0``… and receivers ``r0``…, at full speed.

    Each pair has one stream subject and one live subject.
    """
    bots, subjects = [], []
    for pair in range(pairs):
        bots.append(f"  s{pair}: {{publish: [orders.p{pair}, quotes.p{pair}]}}")
        bots.append(f"  r{pair}: {{subscribe: [orders.p{pair}, quotes.p{pair}]}}")
        subjects.append(f"  orders.p{pair}: {{schema: order.v1}}")
        subjects.append(f"  quotes.p{pair}: {{delivery: live, schema: order.v1, reply: answer.v1}}")
    policy = "\n".join(["version: 1", f"bus: {BUS}", "bots:", *bots, "subjects:", *subjects, ""])
    names = tuple(f"{side}{pair}" for pair in range(pairs) for side in "sr")
    return Plan(policy, {"order.v1": ORDER_SCHEMA, "answer.v1": REPLY_SCHEMA}, names)


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class BusFailed(RuntimeError):
    """The bus could not be started."""


class Bus:
    """A running bus: ``async with Bus(folder, plan) as bus``. ``folder`` must not exist."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        *,
        sync: str = "always",
        tls: bool = False,
        relay: Sequence[str] = RELAY,
    ) -> None:
        """Write its files.

        Args:
            folder: Its folder.
            plan: The content of the folder.
            sync: JetStream's ``sync_interval``. With ``always``, as in ``sealbus up``, a message is
                on disk before it is acknowledged.
            tls: Whether its server speaks mutual TLS, by certificates of ``sealbus certs``.
            relay: The command of a relay, without its options.
        """
        self.folder = BusFolder(folder)
        folder.mkdir(parents=True)
        (folder / "policy.yaml").write_text(plan.policy)
        (folder / "schemas").mkdir()
        for name, schema in plan.schemas.items():
            (folder / "schemas" / f"{name}.json").write_text(json.dumps(schema))
        with _quiet():
            self._secrets = self.folder.open_secrets()
        self.url = f"{'tls' if tls else 'nats'}://127.0.0.1:{(port := free_port())}"
        facts = BusFile(BUS, (self.url,), (self._secrets.bus.public,))
        if tls:
            now = datetime.now(UTC)
            Authority.open(self.folder, facts, now)[0].certify_bus(facts, (), now, renew=False)
        files = self.folder.own_tls()
        for bot in plan.bots:
            make_key(self.folder, bot, facts, datetime.now(UTC))
        self._server = NatsServer(
            NatsConfig(
                store_dir=folder / ".sealbus" / "jetstream",
                relay=self._secrets.relay.public,
                issuer=self._secrets.issuer.public,
                port=port,
                sync_interval=sync,
                tls=None if files is None else server_tls(files),
            ),
            folder / ".sealbus",
        )
        self._relay = relay
        self._relays: list[asyncio.subprocess.Process] = []

    @property
    def relay_seed(self) -> str:
        """The seed that logs in to the account BUS with all rights."""
        return self._secrets.relay.seed_text

    @property
    def bus_keys(self) -> frozenset[bytes]:
        """The raw public keys that seal the relay's stamps."""
        return frozenset({self._secrets.bus.public.raw})

    @property
    def server_pid(self) -> int:
        """The process id of nats-server."""
        if (pid := self._server.pid) is None:
            raise BusFailed("nats-server has died")
        return pid

    @property
    def relay_pids(self) -> list[int]:
        """The process ids of the running relays."""
        return [relay.pid for relay in self._relays if relay.returncode is None]

    def credentials(self, bot: str) -> Path:
        """The credentials file of ``bot``."""
        return self.folder.credentials(bot)

    async def __aenter__(self) -> Self:
        await self._server.start()
        try:
            await self.start_relay()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_relays()
        await self._server.stop()

    async def stop_relays(self) -> None:
        """Stop all relays in order. Messages wait until the next one starts."""
        await asyncio.gather(*(end(relay) for relay in self._relays))

    async def start_relay(self) -> int:
        """Start one more relay, and wait until it says that the bus is up.

        Returns its process id. Its log is beside the policy.
        """
        name = f"relay{len(self._relays)}"
        log = self.folder.path / f"{name}.log"
        with log.open("ab") as output:
            relay = await asyncio.create_subprocess_exec(
                *self._relay,
                *("--dir", str(self.folder.path), "--server", self.url, "--name", name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # the benchmark gets Ctrl-C, and stops it in order
            )
        self._relays.append(relay)
        try:
            async with asyncio.timeout(START_S):
                while b"is up at" not in log.read_bytes():
                    if relay.returncode is not None:
                        raise BusFailed(f"the relay ended at once: {_last(log)}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise BusFailed(f"the relay was not up within {START_S:g} s: {_last(log)}") from None
        return relay.pid


async def end(process: asyncio.subprocess.Process) -> None:
    """Send SIGTERM, and SIGKILL if the process does not end."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _last(log: Path) -> str:
    return log.read_bytes()[-_LAST_BYTES:].decode("utf-8", "replace").strip()


@contextlib.contextmanager
def _quiet() -> Any:
    """Suppress the messages to a person who makes a bus."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
