"""How soon a lost connection is noticed, and how soon a server that is back is used.

::

    python -m tests.faults.noticing [--cuts 3] [--stops 3] [--restarts 5] [--crowd 1000] [--json]

It plays these scenes on a real nats-server with a relay, and prints the longest times:

* *cuts*: the cable of bots, and that of the relay and its door, is cut in both directions and in
  each one alone. Each side notices by itself.
* *stops*: nats-server is stopped (SIGSTOP) until its clients have left it, and goes on.
* *restarts*: nats-server is killed under steady traffic, and started again. The times count from
  the first connection that it takes.
* *crowd*: so many sessions come back after a restart. No login may wait for a relay in vain.

It exits with 1 if a loss was noticed later than after :data:`NOTICED_S`, or if a login was not
answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.sessions import raise_file_limit
from sealbus import Bot
from sealbus.life.session import STEADY_S
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.policy.bus_file import BusFile
from tests.cable import Cable, Strand
from tests.e2e.shop import Shop, order
from tests.faults.yard import say
from tests.waiting import until

NOTICED_S: Final = 5.0
"""The promise about half-open connections."""

BOTS: Final = 8
"""The bots whose cable is cut."""

CROWD_BOTS: Final = 100
"""The bots of the crowd, which share its sessions."""

PROCESSES: Final = 4
"""The processes of the crowd."""

WAYS: Final = {
    "both ways": {"up": True, "down": True},
    "to the server": {"up": True, "down": False},
    "to the client": {"up": False, "down": True},
}
"""The cuts."""


@dataclass
class Times:
    """How long one event took, each time that it happened."""

    name: str
    seconds: list[float] = field(default_factory=list)

    @property
    def worst(self) -> float:
        """The longest time."""
        return max(self.seconds, default=0.0)


@dataclass
class Report:
    """All that was measured."""

    noticed: list[Times] = field(default_factory=list)
    """From the fault to the side that notices it."""
    back: list[Times] = field(default_factory=list)
    """From the return of the server to its use."""
    unanswered: int = 0
    """Logins for which nats-server waited in vain."""

    @property
    def is_good(self) -> bool:
        """Whether the promises were kept."""
        return not self.unanswered and all(one.worst <= NOTICED_S for one in self.noticed)

    def table(self) -> Iterator[str]:
        """The report as lines for people."""
        for title, rows in (("noticed after", self.noticed), ("back after", self.back)):
            yield f"{title:<44}{'times':>6}{'median':>9}{'longest':>9}"
            for row in rows:
                middle = sorted(row.seconds)[len(row.seconds) // 2]
                yield f"  {row.name:<42}{len(row.seconds):>6}{middle:>8.2f}s{row.worst:>8.2f}s"
        yield f"logins that no relay answered in time: {self.unanswered}"


def tell(text: str) -> None:
    """Show progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


# ---- half-open connections -----------------------------------------------------------------------


async def cut_bots(shop: Shop, report: Report, cuts: int) -> None:
    """Cut the cable of bots, in each way."""
    async with Cable.to(shop.port) as cable, AsyncExitStack() as stack:
        credentials = replace(shop.credentials("inventory"), servers=(cable.url,))
        lost: list[float] = []
        bots = [Bot(credentials) for _ in range(BOTS)]
        for bot in bots:
            bot.on_lost(lambda: lost.append(time.monotonic()))
            await stack.enter_async_context(bot)
        for way, how in WAYS.items():
            bot_side, server_side = Times(f"bot, cut {way}"), Times(f"its server, cut {way}")
            report.noticed += [bot_side, server_side]
            for _ in range(cuts):
                lost.clear()
                began = time.monotonic()
                strands = cable.cut(**how)
                await until(partial(_are_cut, strands, lost), "both sides know")
                bot_side.seconds += [at - began for at in lost]
                server_side.seconds += _server_sides(strands, began)
                await until(lambda: all(bot._session.is_up for bot in bots), "the bots are back")
            tell(f"bots, cut {way}: {bot_side.worst:.2f} s; server: {server_side.worst:.2f} s")


async def cut_relay(shop: Shop, report: Report, cuts: int) -> None:
    """Cut the cable of a relay and its door, in each way."""
    async with Cable.to(shop.port) as cable:
        shop.url = cable.url
        relay = await shop.start_relay("far")
        for way, how in WAYS.items():
            times = {
                part: Times(f"{part}, cut {way}") for part in ("relay", "door", "their server")
            }
            report.noticed += times.values()
            for _ in range(cuts):
                began = time.monotonic()
                strands = cable.cut(**how)
                await until(partial(_are_closed_at_both, strands), "all sides know")
                for one in strands:
                    part = "door" if one.name.endswith("admission") else "relay"
                    times[part].seconds.append((one.client_closed or 0) - began)
                times["their server"].seconds += _server_sides(strands, began)
                await until(partial(_has_open, cable, len(strands)), "they are back")
            tell(f"relay, cut {way}: {max(one.worst for one in times.values()):.2f} s")
        relay.terminate()
        await relay.wait()


def _are_cut(strands: list[Strand], lost: list[float]) -> bool:
    return len(lost) == BOTS and _are_closed(strands)


def _are_closed_at_both(strands: list[Strand]) -> bool:
    return all(one.client_closed for one in strands) and _are_closed(strands)


def _has_open(cable: Cable, number: int) -> bool:
    return len(_open(cable)) == number


def _are_closed(strands: list[Strand]) -> bool:
    return all(one.server_closed or one.client_closed for one in strands) and all(
        one.server_closed is not None or one.server in one.dead for one in strands
    )


def _server_sides(strands: list[Strand], began: float) -> list[float]:
    return [one.server_closed - began for one in strands if one.server_closed is not None]


def _open(cable: Cable) -> list[Strand]:
    return [one for one in cable.strands if not one.client_closed and one.name]


# ---- stops and restarts --------------------------------------------------------------------------


async def stop_server(shop: Shop, report: Report, stops: int) -> None:
    """Stop nats-server until a bot has left it, and let it go on."""
    noticed, back = Times("bot, server stopped"), Times("bot, server goes on")
    report.noticed.append(noticed)
    report.back.append(back)
    lost: list[float] = []
    bot = shop.bot("inventory")
    bot.on_lost(lambda: lost.append(time.monotonic()))
    async with bot:
        for _ in range(stops):
            lost.clear()
            began = time.monotonic()
            assert shop.server.pid is not None
            os.kill(shop.server.pid, signal.SIGSTOP)
            await until(lambda: bool(lost), "the bot has noticed")
            noticed.seconds.append(lost[0] - began)
            os.kill(shop.server.pid, signal.SIGCONT)
            began = time.monotonic()
            await until(lambda: bot._session.is_up, "the bot is back")
            back.seconds.append(time.monotonic() - began)
    tell(f"server stopped: {noticed.worst:.2f} s; back {back.worst:.2f} s")


async def restart_server(shop: Shop, report: Report, restarts: int) -> None:
    """Kill nats-server under traffic, and start it again after a while."""
    relays = Times("relay, server started again")
    bots = Times("bot, server started again")
    verdicts = Times("verdict of a publish under way, server started again")
    report.back += [relays, bots, verdicts]
    sender = shop.bot("order")
    async with sender, _publishing(sender) as published:
        for number in range(restarts):
            log = shop.bus.path / "relay.log"
            before = _reconnects(log)
            await asyncio.sleep(STEADY_S)
            await _kill(shop)
            await asyncio.sleep(0.3 * number)  # the longer it is away, the longer are pauses
            started = await _started(shop)
            count = len(published)
            await until(lambda: sender._session.is_up, "the bot is back")
            bots.seconds.append(time.monotonic() - started)
            await until(lambda: len(published) > count, "a verdict has come")  # noqa: B023
            verdicts.seconds.append(published[count] - started)
            await until(partial(_has_reconnects, log, before + 2))
            relays.seconds.append(_reconnected(log) - (time.time() - (time.monotonic() - started)))
    tell(f"server restarted: relay {relays.worst:.2f} s, bot {bots.worst:.2f} s")


def _reconnects(log: Path) -> int:
    return log.read_text().count("nats.reconnected")


def _has_reconnects(log: Path, number: int) -> bool:
    return _reconnects(log) >= number


async def _kill(shop: Shop) -> None:
    assert shop.server.pid is not None
    os.kill(shop.server.pid, signal.SIGKILL)
    await shop.server.stop()


async def _started(shop: Shop) -> float:
    """Start the server; return when it took the first connection, by the monotonic clock."""
    starting = asyncio.create_task(shop.restart_server())
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", shop.port)
        except OSError:
            await asyncio.sleep(0.002)
            continue
        greeting = await reader.readline()
        writer.transport.abort()
        if greeting:
            at = time.monotonic()
            await starting
            return at


def _reconnected(log: Path) -> float:
    """When both connections of the relay were there, by the wall clock."""
    lines = [
        json.loads(line) for line in log.read_text().splitlines() if "nats.reconnected" in line
    ]
    return max(datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines[-2:])


@asynccontextmanager
async def _publishing(bot: Bot) -> AsyncIterator[list[float]]:
    """Publish one message after the other while the body runs; yield when each was accepted."""
    accepted: list[float] = []

    async def publish() -> None:
        while True:
            await bot.publish("orders.placed", order(len(accepted)), timeout=60)
            accepted.append(time.monotonic())

    publishing = asyncio.create_task(publish())
    try:
        yield accepted
    finally:
        publishing.cancel()
        await asyncio.wait([publishing])


# ---- a crowd -------------------------------------------------------------------------------------


def crowded(folder: Path) -> Shop:
    """A bus of :data:`CROWD_BOTS` bots."""
    shop = Shop(folder)
    policy = shop.bus.path / "policy.yaml"
    names = [f"b{number}" for number in range(CROWD_BOTS)]
    bots = "".join(f"  {name}: {{subscribe: [orders.placed]}}\n" for name in names)
    policy.write_text(policy.read_text().replace("bots:\n", f"bots:\n{bots}", 1))
    facts = BusFile("shop", (shop.url,), (shop.secrets.bus.public,))
    for name in names:
        make_key(shop.bus, name, facts, datetime.now(UTC))
    return shop


async def return_all(shop: Shop, report: Report, count: int) -> None:
    """Restart the server of ``count`` sessions, and wait until all are back."""
    folder = shop.bus.path / "crowd"
    folder.mkdir()
    for number in range(CROWD_BOTS):
        path = shop.bus.credentials(f"b{number}")
        (folder / path.name).write_text(path.read_text())
        (folder / path.name).chmod(0o600)
    command = (sys.executable, "-m", "tests.faults.returning", str(folder))
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(
            *command, str(count // PROCESSES), stdin=pipe, stdout=pipe
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    tell(f"{count} sessions are there")
    relay = await shop.nats()
    await _kill(shop)
    started = await _started(shop)
    await until(lambda: _all_back(relay, count // PROCESSES * PROCESSES), "all sessions are back")
    await asyncio.sleep(1)  # so that each has said so to itself
    told = [await _end(process) for process in processes]
    await relay.close()
    back = sorted(at - started for one in told for at in one["back"])
    report.back += [Times(f"first of {count} sessions", back[:1]), Times("all of them", back)]
    report.unanswered += sum(one["unanswered"] for one in told)
    tell(f"{len(back)} sessions are back: first {back[0]:.2f} s, last {back[-1]:.2f} s")


async def _all_back(relay: Any, count: int) -> bool:
    if not relay.is_connected:
        return False
    answer = await relay.request("$SYS.REQ.ACCOUNT.BOTS.CONNZ", b'{"limit": 1}', 10)
    total: int = json.loads(answer.data)["data"]["total"]
    return total >= count


async def _end(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.close()
    said, _ = await process.communicate()
    told: dict[str, Any] = json.loads(said)
    return told


# ---- all of it -----------------------------------------------------------------------------------


async def play(
    folder: Path, *, cuts: int = 1, stops: int = 1, restarts: int = 1, crowd: int = 0
) -> Report:
    """Play each scene so often, on buses below ``folder``."""
    report = Report()
    async with Shop(folder / "shop") as shop:
        await shop.start_relay()
        scenes: list[tuple[Callable[[Shop, Report, int], Any], int]] = [
            (stop_server, stops),
            (restart_server, restarts),
            (cut_bots, cuts),
            (cut_relay, cuts),
        ]
        for scene, count in scenes:
            if count:
                await scene(shop, report, count)
    if crowd:
        async with crowded(folder / "crowd") as shop:
            await shop.start_relay()
            await return_all(shop, report, crowd)
    return report


def main() -> int:
    """Run from the command line. Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description="Lost connections, and servers that are back.")
    for name, count in {"cuts": 3, "stops": 3, "restarts": 5, "crowd": 1000}.items():
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    logging.disable(logging.CRITICAL)  # lost connections are intended
    raise_file_limit()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(play(Path(folder), **given))
    if as_json:
        say(json.dumps(asdict(report)))
    else:
        for line in report.table():
            say(line)
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
