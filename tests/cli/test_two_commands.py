"""Two commands that change one file wait for each other, so neither loses the other's change."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealbus_broker.cli.joining import bot
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.cli.shared.folder import BusFolder, encrypted
from sealbus_broker.cli.tls.cert_files import Authority
from sealbus_broker.policy import inviting, keys
from sealbus_broker.policy.bus_file import BusFile, write_bus_file
from sealbus_broker.policy.loader import load
from sealbus_broker.policy.replace import alone
from sealbus_broker.relay.secrets import BusSecrets
from tests.cli.command import quickly
from tests.cli.folders import everything, up
from tests.cli.up_beside_edit import MADE_MS
from tests.ports import free_port
from tests.waiting import PATIENCE_S

POLICY = "."
SECRETS = ".sealbus"


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("bot add shop", POLICY),
        ("bot rm clock --yes", POLICY),
        ("keys rotate-bus", SECRETS),
        ("keys rotate-bus --finish", SECRETS),
        ("keys issuer --new", SECRETS),
    ],
)
def test_command_waits_for_another_and_then_says_so(
    bus: Path, command: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(bus)
    with alone(bus / place), monkeypatch.context() as patch:
        patch.setattr("sealbus_broker.policy.replace.ALONE_S", 0.1)
        told = quickly(*command.split(), cwd=bus)
    assert (told.code, "is being edited by another command" in told.err) == (1, True), told.err
    assert everything(bus) == before
    assert quickly(*command.split(), cwd=bus).code == 0


def test_removal_that_was_shown_does_not_undo_another_change(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bus / "policy.yaml"

    @contextlib.contextmanager
    def late(folder: Path) -> Iterator[None]:
        """Another command changes the file before this one has its turn."""
        file.write_text(file.read_text() + "# changed\n")
        with alone(folder):
            yield

    with monkeypatch.context() as patch:
        patch.setattr(bot, "alone", late)
        told = quickly("bot", "rm", "clock", "--yes", cwd=bus)
    assert (told.code, "policy.yaml has changed since" in told.err) == (1, True), told.err
    assert "clock:" in file.read_text()
    assert (bus / "keys/clock.yaml").exists()
    assert quickly("bot", "rm", "clock", "--yes", cwd=bus).code == 0
    assert file.read_text().endswith("# changed\n")


@pytest.mark.parametrize("file", ["keys/clock.yaml", "credentials/clock.toml"])
@pytest.mark.parametrize("comes", [True, False], ids=["comes", "goes"])
def test_removal_notices_a_file_that_comes_or_goes(
    bus: Path, file: str, comes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key file without its bot would keep relays from following the folder."""
    path, away = bus / file, bus.parent / "away"
    first, then, how = (path, away, "appeared") if comes else (away, path, "disappeared")
    if comes:
        path.rename(away)

    @contextlib.contextmanager
    def late(folder: Path) -> Iterator[None]:
        then.rename(first)
        with alone(folder):
            yield

    with monkeypatch.context() as patch:
        patch.setattr(bot, "alone", late)
        told = quickly("bot", "rm", "clock", "--yes", cwd=bus)
    assert (told.code, f"{file} has {how} since" in told.err) == (1, True), told.err
    assert "clock:" in (bus / "policy.yaml").read_text()
    assert path.exists() is comes
    assert quickly("bot", "rm", "clock", "--yes", cwd=bus).code == 0
    assert not path.exists()


@pytest.mark.parametrize("command", ["keys new clock --out new.toml", "invite clock"])
def test_bot_that_is_removed_meanwhile_gets_no_file(
    bus: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relays would refuse the folder because of a key file without a bot."""

    @contextlib.contextmanager
    def late(folder: Path) -> Iterator[None]:
        patch.undo()
        assert quickly("bot", "rm", "clock", "--yes", cwd=bus).code == 0
        with alone(folder):
            yield

    with monkeypatch.context() as patch:
        for module in (inviting, keys):
            patch.setattr(module, "alone", late)
        told = quickly(*command.split(), cwd=bus)
    assert (told.code, "policy.yaml declares no bot clock" in told.err) == (1, True), told.err
    assert not (bus / "keys/clock.yaml").exists()
    assert not (bus / "new.toml").exists()
    assert quickly("check", cwd=bus).code == 0


def test_bot_that_is_removed_while_it_is_added_is_gone(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*arguments: Any) -> Path:
        patch.undo()
        assert quickly("bot", "rm", "shop", "--yes", cwd=bus).code == 0
        return make_key(*arguments)

    before = everything(bus)
    with monkeypatch.context() as patch:
        patch.setattr(bot, "make_key", late)
        told = quickly("bot", "add", "shop", "--publish", "greetings.sent", cwd=bus)
    assert (told.code, "policy.yaml declares no bot shop" in told.err) == (1, True), told.err
    assert "still declares" not in told.err
    assert everything(bus) == before


def test_withdrawal_tells_that_an_invitation_is_gone(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quickly("invite", "greeter", cwd=bus).code == 0
    policy = load(bus).policy
    assert policy is not None

    @contextlib.contextmanager
    def late(folder: Path) -> Iterator[None]:
        """The clerk takes the invitation out before this command has its turn."""
        patch.undo()
        inviting.withdraw(folder, "greeter", [*policy.bots["greeter"].invitations])
        with alone(folder):
            yield

    with monkeypatch.context() as patch:
        patch.setattr(inviting, "alone", late)
        told = quickly("invites", "rm", "greeter", cwd=bus)
    assert (told.code, "was accepted or withdrawn meanwhile" in told.err) == (0, True), told.err
    assert "withdrew" not in told.err


# ---- bus.toml -----------------------------------------------------------------------------------


def test_certs_init_keeps_a_change_of_bus_toml_meanwhile(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes certificates for some time after it has read the file."""
    certify = Authority.certify_bus

    def slowly(*arguments: Any, **options: Any) -> list[Path]:
        monkeypatch.setattr(Authority, "certify_bus", certify)
        write_bus_file(bus, replace(BusFolder(bus).bus_file() or _unknown(), made_ms=1000))
        return certify(*arguments, **options)

    monkeypatch.setattr(Authority, "certify_bus", slowly)
    assert quickly("certs", "init", cwd=bus).code == 0
    found = BusFolder(bus).bus_file() or _unknown()
    assert (found.servers, found.made_ms) == (("tls://bus.example.com:15070",), 1000)


def test_rotate_bus_keeps_a_change_of_bus_toml_meanwhile(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the bus after it has read the file."""
    rewrite = BusSecrets.rewrite

    def slowly(secrets: BusSecrets, path: Path) -> None:
        write_bus_file(bus, encrypted(BusFolder(bus).bus_file() or _unknown()))
        rewrite(secrets, path)

    monkeypatch.setattr(BusSecrets, "rewrite", slowly)
    monkeypatch.setattr("sealbus_broker.cli.keys.bus_keys.CONNECT_S", 0.01)
    assert quickly("keys", "rotate-bus", cwd=bus).code == 0
    found = BusFolder(bus).bus_file() or _unknown()
    assert (found.servers, len(found.links)) == (("tls://bus.example.com:15070",), 1)


def test_up_keeps_a_change_of_bus_toml_meanwhile(bus: Path) -> None:
    """It starts nats-server after it has read the file."""
    port = free_port()
    with up(bus, "--port", str(port), module="tests.cli.up_beside_edit"):
        found = BusFolder(bus).bus_file() or _unknown()
    assert found.servers == (f"nats://bus.example.com:{port}",)
    assert found.made_ms == MADE_MS


def test_two_changes_of_bus_toml_come_one_after_the_other(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = BusFolder(bus).bus_file() or _unknown()
    reading, waiting = threading.Event(), threading.Event()

    def slowly(now: BusFile | None) -> BusFile:
        """Change the file only when the other command waits, or is done."""
        reading.set()
        assert waiting.wait(PATIENCE_S)
        return encrypted(now or known)

    def other() -> None:
        assert reading.wait(PATIENCE_S)
        BusFolder(bus).record(lambda now: replace(now or known, made_ms=1000))
        waiting.set()

    monkeypatch.setattr("sealbus_broker.policy.replace.time.sleep", lambda _: waiting.set())
    second = threading.Thread(target=other)
    second.start()
    BusFolder(bus).record(slowly)
    second.join(PATIENCE_S)
    assert BusFolder(bus).bus_file() == replace(encrypted(known), made_ms=1000)


def _unknown() -> BusFile:
    raise AssertionError("there is no bus.toml")
