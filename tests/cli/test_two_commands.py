"""Two commands that change one file wait for each other, so neither loses the other's change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealbus_broker.cli.joining import bot
from sealbus_broker.policy import inviting, replace
from sealbus_broker.policy.loader import load
from sealbus_broker.policy.replace import alone
from tests.cli.command import quickly
from tests.cli.folders import everything

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
        patch.setattr(replace, "ALONE_S", 0.1)
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
