"""A second site mirrors all accepted messages, and becomes the bus when the first one is lost."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey as NaclKey

from sealbus import Bot, Credentials, InvalidInput, Message, Refused, Unresolved, new_nonce
from sealbus.nats.client import HardenedClient
from sealbus.protocol.keys import SigningKey
from sealbus_broker.cli.preparing.second_site import KEY, _open_key
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.nats import mirror
from sealbus_broker.nats.sites import MOST_SUBSCRIPTIONS
from sealbus_broker.server.process import find_binary
from tests.cable import Cable
from tests.cli.command import Ran, sealbus
from tests.e2e.test_prepared_cluster import end, start
from tests.forked import ForkedProgram
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

SUBJECT = "greetings.sent"


class Sites:
    """A bus, its second site, and the cable between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "mybus"
        self.first, self.second, self.door = free_port(), free_port(), free_port()
        self.urls = (f"tls://127.0.0.1:{self.first}", f"tls://127.0.0.1:{self.second}")
        self.stack = AsyncExitStack()
        self.servers: dict[str, asyncio.Task[asyncio.subprocess.Process]] = {}
        for arguments in (
            ("init", "mybus", "--server", self.urls[0]),
            ("certs", "init", "--dir", "mybus"),
            (
                *("prepare", "--dir", "mybus", "--listen", f"127.0.0.1:{self.first}"),
                *("--store", str(folder / "stores"), "--site-port", f"{self.door}"),
                *("--second-site", f"127.0.0.1:{self.second}"),
            ),
        ):
            ran = sealbus(*arguments, cwd=folder)
            assert ran.code == 0, ran.err
        self.bus = BusFolder(self.path)
        self.site = self.path / ".sealbus/second-site"

    def start(self, name: str, config: Path) -> None:
        command = (str(find_binary()), "-c", str(config))
        self.servers[name] = start(command, self.folder / f"{name}.log")
        self.stack.push_async_callback(end, self.servers[name])

    async def relay(self, url: str, name: str) -> ForkedProgram:
        log = self.folder / f"{name}.log"
        command = ("sealbus_broker", "relay", "--dir", str(self.path), "--name", name)
        relay = ForkedProgram((*command, "--server", url), log)

        async def stop() -> None:
            if relay.returncode is None:
                relay.kill()
            await relay.wait()

        self.stack.push_async_callback(stop)
        await until(lambda: b"is up at" in log.read_bytes())
        return relay

    def bot(self, name: str, url: str) -> Bot:
        found = Credentials.load(self.path / f"credentials/{name}.toml")
        return Bot(replace(found, servers=(url,)))

    async def command(self, *arguments: str) -> Ran:
        return await asyncio.to_thread(sealbus, *arguments, "--dir", str(self.path), cwd=self.path)

    async def mirror(self) -> mirror.Mirror:
        secrets, tls = self.bus.secrets(), self.bus.own_tls()
        async with as_relay(self.urls[1:], secrets, "a test", PATIENCE_S, tls) as nc:
            return await mirror.look(nc)

    async def has_all_of(self, last: int) -> bool:
        return (await self.mirror()).last >= last

    async def accepted(self, url: str) -> dict[str, Any]:
        secrets, tls = self.bus.secrets(), self.bus.own_tls()
        async with as_relay((url,), secrets, "a test", PATIENCE_S, tls) as nc:
            return await _accepted(nc)


async def _accepted(nc: HardenedClient) -> dict[str, Any]:
    asked = await nc.request("$JS.API.STREAM.INFO.ACCEPTED", b"", PATIENCE_S)
    state = json.loads(asked.data)["state"]
    stored = {}
    for sequence in range(state["first_seq"], state["last_seq"] + 1):
        body = json.dumps({"seq": sequence}).encode()
        got = await nc.request("$JS.API.STREAM.MSG.GET.ACCEPTED", body, PATIENCE_S)
        stored[f"{sequence}"] = json.loads(got.data)["message"]
    return stored


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[Sites]:
    one = await asyncio.to_thread(Sites, tmp_path)
    async with one.stack:
        yield one


async def test_mirror_catches_up_and_becomes_the_bus(sites: Sites) -> None:
    cable = await sites.stack.enter_async_context(Cable.to(sites.door))
    config = sites.site / "nats.conf"
    config.write_text(config.read_text().replace(f":{sites.door}", f":{cable.port}"))
    sites.start("first", sites.path / ".sealbus/nats.conf")
    sites.start("second", config)
    relay = await sites.relay(sites.urls[0], "relay-1")
    async with sites.bot("greeter", sites.urls[0]) as bot:
        await bot.publish(SUBJECT, {"text": "0"}, timeout=PATIENCE_S)
        ran = await sites.command("mirror", "start", sites.urls[1])
        assert (ran.code, "made the mirror" in ran.err) == (0, True), ran.err
        stamp = await bot.publish(SUBJECT, {"text": "1"}, timeout=PATIENCE_S)
        await until(lambda: sites.has_all_of(3), "the mirror has the probe and two messages")
        ran = await sites.command("mirror", "show", sites.urls[1])
        assert (ran.code, ran.out) == (0, "last sequence 3, 0 messages behind\n"), ran.err

        # Not while the first site is there.
        ran = await sites.command("mirror", "promote", sites.urls[1], "--yes")
        assert (ran.code, "the first site is there" in ran.err) == (1, True), ran.err

        cable.cut(swallow=True)
        for number in range(2, 20):
            await bot.publish(SUBJECT, {"text": f"{number}"}, timeout=PATIENCE_S)
        assert (await sites.mirror()).last == 3
        cable.repair()
        await until(lambda: sites.has_all_of(21), "the mirror has caught up")
        here, there = await sites.accepted(sites.urls[0]), await sites.accepted(sites.urls[1])
        # Sequences, times, headers and bytes.
        assert here == there

        cable.cut(swallow=True)
        lost = new_nonce()
        await bot.publish(SUBJECT, {"text": "lost"}, nonce=lost, timeout=PATIENCE_S)

    # The first site is lost, with the last message.
    relay.kill()
    await end(sites.servers["first"])
    await until(lambda: _is_silent(sites), "the first site has been silent for a while")
    ran = await sites.command("mirror", "promote", sites.urls[1], "--yes")
    assert (ran.code, "sequence 21" in ran.err) == (0, True), ran.err
    await end(sites.servers["second"])
    sites.start("promoted", sites.site / "promoted.conf")
    await sites.relay(sites.urls[1], "relay-2")

    async with sites.bot("greeter", sites.urls[1]) as bot:
        # The ledger knows neither this message nor whether there were others.
        with pytest.raises((Refused, Unresolved, InvalidInput)):
            await bot.publish(SUBJECT, {"text": "lost"}, nonce=lost, timeout=5)
        await bot.publish(SUBJECT, {"text": "new"}, timeout=PATIENCE_S)
    heard: list[str] = []
    listener = sites.bot("listener", sites.urls[1])

    @listener.subscribe(SUBJECT, durable="all", start="all")
    async def hear(message: Message) -> None:
        if message.payload["text"] == "1":
            assert message.stamp.envelope == stamp.envelope
        heard.append(str(message.payload["text"]))

    async with listener:
        await until(lambda: "new" in heard, "the new one is heard")
    assert heard == [*(f"{number}" for number in range(20)), "new"]


async def _is_fed(sites: Sites) -> bool:
    return (await sites.mirror()).is_fed


async def _is_silent(sites: Sites) -> bool:
    return not (await sites.mirror()).is_fed


async def test_mirror_goes_on_beside_relays_and_operators(sites: Sites) -> None:
    sites.start("first", sites.path / ".sealbus/nats.conf")
    sites.start("second", sites.site / "nats.conf")
    await sites.relay(sites.urls[0], "relay-1")
    assert (await sites.command("mirror", "start", sites.urls[1])).code == 0
    ran = await sites.command("mirror", "start", sites.urls[1])
    assert (ran.code, "the mirror is there" in ran.err) == (0, True), ran.err
    # Its start removes each consumer that the policy does not grant.
    await sites.relay(sites.urls[0], "relay-2")
    ran = await sites.command("subscriptions", "ls")
    assert (ran.code, ran.out) == (0, ""), ran.err
    ran = await sites.command("subscriptions", "rm", "mirror", "--yes")
    assert (ran.code, "there is no durable subscription mirror" in ran.err) == (3, True), ran.err
    async with sites.bot("greeter", sites.urls[0]) as bot:
        await bot.publish(SUBJECT, {"text": "0"}, timeout=PATIENCE_S)
    await until(lambda: sites.has_all_of(2), "the mirror has the message")


async def test_lost_second_site_begins_anew(sites: Sites) -> None:
    """The bus still knows how far the lost one was."""
    sites.start("first", sites.path / ".sealbus/nats.conf")
    sites.start("second", sites.site / "nats.conf")
    await sites.relay(sites.urls[0], "relay-1")
    assert (await sites.command("mirror", "start", sites.urls[1])).code == 0
    async with sites.bot("greeter", sites.urls[0]) as bot:
        for number in range(3):
            await bot.publish(SUBJECT, {"text": f"{number}"}, timeout=PATIENCE_S)
    await until(lambda: sites.has_all_of(4), "the mirror has all messages")
    await end(sites.servers["second"])
    shutil.rmtree(sites.folder / "stores/second-site")
    sites.start("again", sites.site / "nats.conf")
    ran = await sites.command("mirror", "start", sites.urls[1])
    assert (ran.code, "made the mirror" in ran.err) == (0, True), ran.err
    await until(lambda: sites.has_all_of(4), "the new mirror has all messages")
    assert await sites.accepted(sites.urls[0]) == await sites.accepted(sites.urls[1])


async def _end(relay: ForkedProgram) -> None:
    relay.kill()
    await relay.wait()


async def _publish(sites: Sites, *texts: str) -> None:
    async with sites.bot("greeter", sites.urls[0]) as bot:
        for text in texts:
            await bot.publish(SUBJECT, {"text": text}, timeout=PATIENCE_S)


async def _follows(sites: Sites) -> None:
    """See that the second site has the messages of the first one."""
    here = await sites.accepted(sites.urls[0])
    await until(lambda: sites.has_all_of(len(here)), "the mirror has all messages")
    assert await sites.accepted(sites.urls[1]) == here


@pytest.mark.parametrize("is_restored", [True, False], ids=["a backup", "an empty store"])
async def test_mirror_does_not_follow_another_history(sites: Sites, is_restored: bool) -> None:
    """It would keep lost messages in the places of new ones, without an error."""
    sites.start("first", sites.path / ".sealbus/nats.conf")
    sites.start("second", sites.site / "nats.conf")
    relay = await sites.relay(sites.urls[0], "relay-1")
    assert (await sites.command("mirror", "start", sites.urls[1])).code == 0
    await _publish(sites, "0", "1")
    assert (await sites.command("backup", "saved")).code == 0
    await _publish(sites, "lost", "lost", "lost")
    await until(lambda: sites.has_all_of(6), "the mirror has the probe and all messages")
    await _end(relay)
    await end(sites.servers["first"])

    shutil.rmtree(sites.folder / "stores/jetstream")
    sites.start("again", sites.path / ".sealbus/nats.conf")
    if is_restored:
        ran = await sites.command("restore", "saved")
        assert ran.code == 0, ran.err
    await sites.relay(sites.urls[0], "relay-2")
    await _publish(sites, *(f"{number}" for number in range(2, 8)))
    await until(lambda: _is_silent(sites), "nobody feeds the mirror")
    assert (await sites.command("mirror", "show", sites.urls[1])).code == 3
    ran = await sites.command("mirror", "start", sites.urls[1])
    assert (ran.code, "its last message is not the one that" in ran.err) == (1, True), ran.err
    assert "the store of the second site away" in ran.err
    assert (await sites.mirror()).last == 6

    await end(sites.servers["second"])
    shutil.rmtree(sites.folder / "stores/second-site")
    sites.start("empty", sites.site / "nats.conf")
    ran = await sites.command("mirror", "start", sites.urls[1])
    assert (ran.code, "made the mirror" in ran.err) == (0, True), ran.err
    await _follows(sites)


async def test_mirror_of_the_restored_history_goes_on(sites: Sites) -> None:
    """The backup has all messages that the mirror has."""
    sites.start("first", sites.path / ".sealbus/nats.conf")
    sites.start("second", sites.site / "nats.conf")
    relay = await sites.relay(sites.urls[0], "relay-1")
    assert (await sites.command("mirror", "start", sites.urls[1])).code == 0
    await _publish(sites, "0", "1")
    await until(lambda: sites.has_all_of(3), "the mirror has the probe and both messages")
    assert (await sites.command("backup", "saved")).code == 0
    await _end(relay)
    await end(sites.servers["first"])
    shutil.rmtree(sites.folder / "stores/jetstream")
    sites.start("again", sites.path / ".sealbus/nats.conf")
    assert (await sites.command("restore", "saved")).code == 0
    await sites.relay(sites.urls[0], "relay-2")
    await _publish(sites, "2")
    ran = await sites.command("mirror", "start", sites.urls[1])
    assert (ran.code, "the mirror is there" in ran.err) == (0, True), ran.err
    await _follows(sites)


async def test_show_notices_a_first_site_that_went_back(sites: Sites) -> None:
    """Somebody gives nats-server an old copy of its store, which has the consumer too."""
    sites.start("first", sites.path / ".sealbus/nats.conf")
    sites.start("second", sites.site / "nats.conf")
    relay = await sites.relay(sites.urls[0], "relay-1")
    assert (await sites.command("mirror", "start", sites.urls[1])).code == 0
    await _publish(sites, "0")
    await end(sites.servers["first"])
    store = sites.folder / "stores/jetstream"
    shutil.copytree(store, sites.folder / "old")
    sites.start("on", sites.path / ".sealbus/nats.conf")
    await _publish(sites, *["lost"] * 4)
    await until(lambda: sites.has_all_of(6), "the mirror has the probe and all messages")
    ran = await sites.command("mirror", "show", sites.urls[1])
    assert ran.code == 0, ran.err
    await _end(relay)
    await end(sites.servers["on"])
    shutil.rmtree(store)
    (sites.folder / "old").rename(store)
    sites.start("back", sites.path / ".sealbus/nats.conf")
    await sites.relay(sites.urls[0], "relay-2")
    await _publish(sites, "1")
    await until(lambda: _is_fed(sites), "the first site feeds the mirror")
    ran = await sites.command("mirror", "show", sites.urls[1], "--json")
    told = json.loads(ran.out.splitlines()[0])
    assert (ran.code, told["problem"]) == (3, mirror.ANOTHER_HISTORY), ran.out


async def test_relay_does_not_run_on_a_mirror(sites: Sites) -> None:
    sites.start("first", sites.path / ".sealbus/nats.conf")
    sites.start("second", sites.site / "nats.conf")
    await sites.relay(sites.urls[0], "relay-1")
    assert (await sites.command("mirror", "start", sites.urls[1])).code == 0
    ran = await sites.command("mirror", "start", sites.urls[1], "--server", sites.urls[1])
    assert (ran.code, "is a mirror at the address of the bus" in ran.err) == (1, True), ran.err
    ran = await sites.command("relay", "--server", sites.urls[1], "--name", "too-early")
    assert ran.code == 1
    assert "stream ACCEPTED is not as the bus needs it" in ran.err


def _login(key: SigningKey | None, nonce: str) -> bytes:
    fields: dict[str, Any] = {"name": "leaf", "cluster": "leaf", "headers": True}
    if key is not None:
        signature = NaclKey(key.raw_seed).sign(nonce.encode()).signature
        fields |= {
            "nkey": key.public.text,
            "sig": base64.urlsafe_b64encode(signature).decode().rstrip("="),
        }
    return b"CONNECT " + json.dumps(fields).encode() + b"\r\nPING\r\n"


async def _at_the_door(
    sites: Sites, key: SigningKey | None, certificate: tuple[Path, Path] | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw leaf node, with the words of the second site."""
    context = ssl.create_default_context(cafile=sites.path / ".sealbus/ca.pem")
    if certificate is not None:
        context.load_cert_chain(*certificate)
    reader, writer = await asyncio.open_connection("127.0.0.1", sites.door, ssl=context)
    greeting = json.loads((await reader.readline()).removeprefix(b"INFO "))
    writer.write(_login(key, greeting["nonce"]))
    return reader, writer


@pytest.mark.parametrize("who", ["a bot without the key", "the relay's key", "no certificate"])
async def test_only_the_second_site_passes_its_door(sites: Sites, who: str) -> None:
    sites.start("first", sites.path / ".sealbus/nats.conf")
    await sites.relay(sites.urls[0], "relay-1")
    key = sites.bus.secrets().relay if who == "the relay's key" else None
    bot = sites.path / "credentials/greeter"
    pair = None if who == "no certificate" else (bot.with_suffix(".pem"), bot.with_suffix(".key"))
    said = b""
    async with asyncio.timeout(PATIENCE_S):
        try:
            reader, _ = await _at_the_door(sites, key, pair)
            said = await reader.read()
        except (ssl.SSLError, ConnectionError):
            assert pair is None
    assert b"PONG" not in said
    assert b"Authorization Violation" in said or pair is None


async def test_second_site_reads_and_changes_nothing(sites: Sites) -> None:
    sites.start("first", sites.path / ".sealbus/nats.conf")
    await sites.relay(sites.urls[0], "relay-1")
    before = await sites.accepted(sites.urls[0])
    key = _open_key(sites.site / KEY)
    reader, writer = await _at_the_door(
        sites, key, (sites.site / "bus.pem", sites.site / "bus.key")
    )
    heard: list[bytes] = []
    async with asyncio.timeout(PATIENCE_S):
        while not heard or heard[-1] != b"PONG\r\n":
            heard.append(await reader.readline())
        # It would hear everything, and do anything.
        writer.write(b"LS+ >\r\n")
        for subject in (
            "$JS.API.STREAM.DELETE.ACCEPTED",
            "$JS.API.CONSUMER.CREATE.ACCEPTED.mine",
            "$JS.API.CONSUMER.DELETE.ACCEPTED.mirror",
            "first.STREAM.DELETE.ACCEPTED",
            "accepted.greetings.sent",
            "send.greeter",
            "relay.here",
        ):
            writer.write(f"LMSG {subject} answer 2\r\n{{}}\r\n".encode())
        writer.write(b"PING\r\n")
        async with sites.bot("greeter", sites.urls[0]) as bot:
            await bot.publish(SUBJECT, {"text": "secret"}, timeout=PATIENCE_S)
        writer.write(b"PING\r\n")
        while heard.count(b"PONG\r\n") < 3:
            heard.append(await reader.readline())
    writer.close()
    lines = [line.split() for line in heard]
    wanted = {line[1] for line in lines if line[0] == b"LS+"}
    assert {one for one in wanted if not one.startswith((b"$LDS.", b"$SYS."))} == {
        # That of its own account, which has no JetStream.
        b"$JS.API.>",
        b"first.CONSUMER.RESET.ACCEPTED.mirror",
        b"$JS.FC.ACCEPTED.mirror.*",
        b"$JS.FC.*.*.ACCEPTED.mirror.*",
    }
    assert not [line for line in lines if line[0] in (b"LMSG", b"HMSG")]
    after = await sites.accepted(sites.urls[0])
    assert {one: after[one] for one in before} == before
    assert len(after) == len(before) + 1


async def test_second_site_has_few_subscriptions(sites: Sites) -> None:
    """Each costs the bus's nats-server memory."""
    sites.start("first", sites.path / ".sealbus/nats.conf")
    await sites.relay(sites.urls[0], "relay-1")
    pair = sites.site / "bus.pem", sites.site / "bus.key"
    reader, writer = await _at_the_door(sites, _open_key(sites.site / KEY), pair)
    writer.writelines(b"LS+ some.%d\r\n" % number for number in range(MOST_SUBSCRIPTIONS + 1))
    async with asyncio.timeout(PATIENCE_S):
        while b"maximum subscriptions exceeded" not in (line := await reader.readline()):
            assert line, "the door has taken them all"
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
    writer.close()
