"""Enrolment as operators and hosts see it: a bus from `sealbus up`, and commands as processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sealbus.credentials import Credentials
from sealbus.invitation import JoinToken
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.server.process import find_binary
from tests.cli.bus import clean_environment, wait_until
from tests.cli.command import SEALBUS, Ran, sealbus, wait_for
from tests.cli.folders import up
from tests.forked import ForkedPopen
from tests.ports import free_port
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow


class Bus:
    """A bus that runs, and the folder of a host that is not the bus's."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "mybus"
        self.host = root / "host"
        self.host.mkdir()
        self.log = self.folder / "up.log"

    def operator(self, *arguments: str) -> Ran:
        """A command beside the folder, which must succeed."""
        ran = sealbus(*arguments, cwd=self.folder)
        assert ran.code == 0, ran.err
        return ran

    def invite(self, bot: str = "shop", *arguments: str) -> str:
        """A token for a new bot."""
        added = self.operator("bot", "add", bot, "--publish", "greetings.sent", "--invite")
        if not arguments:
            return added.out.strip()
        self.operator("invites", "rm", bot)
        return self.operator("invite", bot, *arguments).out.strip()

    def join(self, token: str, *arguments: str) -> Ran:
        """`sealbus join` to its end, with the token on standard input."""
        return sealbus("join", "-", *arguments, cwd=self.host, given=token)

    @contextmanager
    def joining(self, token: str, *arguments: str) -> Iterator[tuple[ForkedPopen, Path]]:
        """`sealbus join` while it runs, and the file with its words."""
        words = self.host / f"words-{len(list(self.host.iterdir()))}"
        with words.open("wb") as output:
            process = ForkedPopen(
                ("sealbus_broker", "join", token, *arguments),
                cwd=self.host,
                stdout=output,
                stderr=output,
                env=clean_environment(),
            )
        try:
            yield process, words
        finally:
            process.kill()
            process.wait()

    def publishes(self, file: Path) -> bool:
        """Whether the bot with these credentials publishes."""
        ran = sealbus("pub", "greetings.sent", '{"text": "hello"}', "-c", str(file), cwd=self.host)
        return ran.code == 0

    def events(self, name: str) -> list[dict[str, object]]:
        """The lines of the relay's log with this event."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if line["event"] == name]


def key_of(file: Path) -> str:
    return Credentials.load(file).key.public.text


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    """A running bus of its own."""
    port = free_port()
    assert sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
    with up(tmp_path / "mybus"):
        yield Bus(tmp_path)


def test_invited_bot_joins_and_publishes(bus: Bus) -> None:
    token = bus.invite()
    joined = bus.join(token)
    assert joined.code == 0, joined.err
    file = bus.host / "shop.toml"
    assert joined.out == "shop.toml\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert key_of(file) in joined.err
    assert bus.publishes(file)
    (accepted,) = bus.events("invitation.accepted")
    assert accepted["key"] == key_of(file)
    written = (bus.folder / "keys/shop.yaml").read_text()
    assert key_of(file) in written
    assert "invitations" not in written
    # Neither the private key nor the token has been anywhere but on its host.
    seed = Credentials.load(file).key_in_memory.seed_text
    for place in (*bus.folder.rglob("*"),):
        if place.is_file():
            content = place.read_bytes()
            assert seed.encode() not in content, place
            assert token.encode() not in content, place
    assert token not in joined.err
    assert seed not in joined.err


def test_join_again_goes_on_with_the_same_file(bus: Bus) -> None:
    token = bus.invite()
    assert bus.join(token).code == 0
    key = key_of(bus.host / "shop.toml")
    again = bus.join(token)
    assert again.code == 0, again.err
    assert key_of(bus.host / "shop.toml") == key
    assert "going on with the key" in again.err


def test_token_is_worth_nothing_for_another_key(bus: Bus) -> None:
    token = bus.invite()
    assert bus.join(token).code == 0
    other = bus.join(token, "--out", "other.toml")
    assert other.code == 3
    assert "refuses the token" in other.err
    assert key_of(bus.host / "other.toml") not in (bus.folder / "keys/shop.yaml").read_text()
    assert not bus.publishes(bus.host / "other.toml")
    assert any("no such invitation" in str(one["why"]) for one in bus.events("admission.denied"))


def test_key_waits_for_an_operator(bus: Bus) -> None:
    token = bus.invite("shop", "--approve")
    nobody = sealbus("invites", "accept", "shop", "--yes", cwd=bus.folder)
    assert nobody.code == 3
    assert "no key has come" in nobody.err
    with bus.joining(token, "--timeout", "120") as (process, words):
        wait_for(words, "the bus has the key")
        key = key_of(bus.host / "shop.toml")
        assert key in words.read_text()
        assert process.poll() is None
        wrong = sealbus("invites", "accept", "shop", "--key", "U" + "A" * 20, cwd=bus.folder)
        assert wrong.code == 3
        assert key in wrong.err
        assert key not in (bus.folder / "keys/shop.yaml").read_text()
        assert bus.operator("invites", "accept", "shop", "--key", key[:16]).out.strip() == key
        assert process.wait(PATIENCE_S) == 0, words.read_text()
    assert bus.publishes(bus.host / "shop.toml")
    assert not bus.events("invitation.accepted")


def test_of_two_joins_with_one_token_one_wins(bus: Bus) -> None:
    token = bus.invite("shop", "--approve")
    with (
        bus.joining(token, "--out", "one.toml") as (one, said_one),
        bus.joining(token, "--out", "two.toml") as (two, said_two),
    ):
        wait_until(lambda: [one.poll(), two.poll()].count(None) == 1)
        codes = {"one.toml": one.poll(), "two.toml": two.poll()}
        lost = next(name for name, code in codes.items() if code is not None)
        won = next(name for name, code in codes.items() if code is None)
        assert codes[lost] == 3
        words = {"one.toml": said_one, "two.toml": said_two}
        assert "another key of shop came first" in words[lost].read_text()
        assert key_of(bus.host / won) in words[lost].read_text()
        wait_until(lambda: bool(bus.events("invitation.joined-twice")))
        (warned,) = bus.events("invitation.joined-twice")[:1]
        assert warned["first"] == key_of(bus.host / won)
        bus.operator("invites", "accept", "shop", "--yes")
        winner = one if won == "one.toml" else two
        assert winner.wait(PATIENCE_S) == 0, words[won].read_text()
    assert bus.publishes(bus.host / won)
    assert key_of(bus.host / lost) not in (bus.folder / "keys/shop.yaml").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_stopped_join_is_said_again(bus: Bus, number: signal.Signals) -> None:
    token = bus.invite("shop", "--approve")
    with bus.joining(token) as (process, words):
        wait_for(words, "the bus has the key")
        process.send_signal(number)
        code = process.wait(PATIENCE_S)
        assert code == (130 if number is signal.SIGINT else -signal.SIGKILL)
        assert "Traceback" not in words.read_text()
    key = key_of(bus.host / "shop.toml")
    bus.operator("invites", "accept", "shop", "--key", key)
    again = bus.join(token)
    assert again.code == 0, again.err
    assert key_of(bus.host / "shop.toml") == key
    assert bus.publishes(bus.host / "shop.toml")


def test_withdrawn_token_is_refused(bus: Bus) -> None:
    token = bus.invite("shop", "--approve")
    with bus.joining(token, "--timeout", "120") as (process, words):
        wait_for(words, "the bus has the key")
        bus.operator("invites", "rm", "shop")
        assert process.wait(PATIENCE_S) == 3
        assert "was withdrawn or used" in words.read_text()
    assert "shop" not in bus.operator("invites", "ls").out


def test_wait_for_an_operator_has_an_end(bus: Bus) -> None:
    token = bus.invite("shop", "--approve")
    ran = bus.join(token, "--timeout", "20")
    assert ran.code == 1
    assert "shop has not joined within 20 s" in ran.err
    assert "say the same again to go on" in ran.err


def test_key_of_another_bot_is_not_enrolled(bus: Bus) -> None:
    """The folder would have a problem, and no revocation would be in force any more."""
    assert bus.join(bus.invite("shop")).code == 0
    token = bus.invite("mole", "--for", "10m")
    stolen = (bus.host / "shop.toml").read_text().replace('bot = "shop"', 'bot = "mole"')
    (bus.host / "mole.toml").write_text(stolen)
    (bus.host / "mole.toml").chmod(0o600)
    ran = bus.join(token)
    assert ran.code == 3, ran.err
    assert bus.operator("check").code == 0
    wait_until(
        lambda: any("enrolled already" in str(one["why"]) for one in bus.events("admission.denied"))
    )


def test_restart_of_the_bus_loses_no_key(tmp_path: Path) -> None:
    """The record outlives the bus, and the host waits for it."""
    port = free_port()
    assert sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
    bus = Bus(tmp_path)
    with ExitStack() as host:
        with up(bus.folder):
            token = bus.invite("shop", "--approve")
            process, words = host.enter_context(bus.joining(token))
            wait_for(words, "the bus has the key")
        wait_for(words, "trying again")
        keys = bus.folder / "keys/shop.yaml"
        # Somebody decides meanwhile that it needs no operator.
        keys.write_text(keys.read_text().replace("    approve: true\n", ""))
        with up(bus.folder):
            assert process.wait(PATIENCE_S) == 0, words.read_text()
            assert key_of(bus.host / "shop.toml") in keys.read_text()
            assert bus.publishes(bus.host / "shop.toml")


def test_bus_without_a_key_of_the_token_is_not_believed(bus: Bus) -> None:
    """Whoever sits at the address may admit every login. He cannot seal for the bus."""
    said = JoinToken.decode(bus.invite())
    another = frozenset([SigningKey.generate(KeyKind.BUS).public.raw])
    ran = bus.join(replace(said, bus_keys=another).encode(), "--timeout", "100")
    assert ran.code == 1
    assert "has joined" not in ran.err
    assert "bus key" in ran.err


def test_host_joins_over_mutual_tls(tmp_path: Path) -> None:
    port = free_port()
    assert sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
    bus = Bus(tmp_path)
    bus.operator("certs", "init")
    with up(bus.folder):
        token = bus.invite()
        bus.operator("certs", "new", "shop")
        for name in ("ca.crt", "shop.pem", "shop.key"):
            shutil.copy(bus.folder / "credentials" / name, bus.host / name)
        without = bus.join(token, "--ca", "ca.crt", "--out", "without.toml")
        assert without.code == 1
        assert "certificate" in without.err
        files = ("--ca", "ca.crt", "--cert", "shop.pem", "--cert-key", "shop.key")
        joined = bus.join(token, *files)
        assert joined.code == 0, joined.err
        assert bus.publishes(bus.host / "shop.toml")


@contextmanager
def running(folder: Path, *command: str) -> Iterator[Path]:
    """A process that runs until the end of the block, and its log."""
    log = folder / f"{Path(command[0]).name}-{len(list(folder.glob('*.log')))}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, env=clean_environment()
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_relay_of_its_own_leaves_the_folder_to_an_operator(tmp_path: Path) -> None:
    """Its folder may be a copy, so it writes nothing there."""
    port = free_port()
    assert sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
    bus = Bus(tmp_path)
    store = str(tmp_path / "store")
    bus.operator("prepare", "--listen", f"127.0.0.1:{port}", "--store", store, "--sync", "2m")
    nats = running(tmp_path, str(find_binary()), "-c", str(bus.folder / ".sealbus/nats.conf"))
    with nats, running(bus.folder, *SEALBUS, "relay") as log:
        wait_for(log, "is up at")
        token = bus.invite()
        with bus.joining(token) as (process, words):
            wait_for(words, "the bus has the key")
            key = key_of(bus.host / "shop.toml")
            assert key not in (bus.folder / "keys/shop.yaml").read_text()
            bus.operator("invites", "accept", "shop", "--key", key)
            assert process.wait(PATIENCE_S) == 0, words.read_text()
        assert bus.publishes(bus.host / "shop.toml")
