"""No output repeats a secret, and another user's secrets end in a sentence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from tests.cli.command import quickly, sealbus


@pytest.mark.parametrize(
    "command",
    [
        ["keys", "new", "SEED"],
        ["bot", "add", "SEED"],
        ["bot", "add", "shop", "-p", "SEED"],
        ["bot", "rm", "SEED", "--yes"],
        ["init", "SEED"],
        ["pub", "greetings.sent", "{}", "--as", "SEED"],
        ["pub", "greetings.sent", "{}", "--credentials", "SEED"],
        ["keys", "new", "greeter", "--bus-key", "SEED"],
        ["keys", "new", "greeter", "--server", "SEED"],
        ["keys", "new", "greeter", "SEED"],
        ["SEED"],
        ["pub", "--SEED"],
        ["up", "--port", "SEED"],
        ["up", "--name", "SEED"],
        ["check", "--dir", "SEED"],
        ["relay", "--server", "nats://SEED@127.0.0.1"],
        ["inspect", "SEED"],
        ["prepare", "--listen", "SEED"],
    ],
    ids=" ".join,
)
def test_a_seed_in_a_wrong_place_is_not_repeated(bus: Path, command: list[str]) -> None:
    seed = SigningKey.generate(KeyKind.BOT).seed_text
    told = quickly(*(word.replace("SEED", seed) for word in command), cwd=bus)
    assert told.code in {1, 2}
    assert seed[4:] not in told.out + told.err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bus: mybus", "bus: SEED"),
        ("  greeter:", "  SEED:"),
        ("[greetings.sent]", "[SEED]"),
        ("1000/s", "SEED"),
        ("operator]", "SEED]"),
    ],
)
def test_a_seed_in_the_policy_is_not_repeated(bus: Path, old: str, new: str) -> None:
    seed = SigningKey.generate(KeyKind.BOT).seed_text
    policy = bus / "policy.yaml"
    policy.write_text(policy.read_text().replace(old, new.replace("SEED", seed), 1))
    for extra in ([], ["--json"]):
        told = quickly("check", *extra, cwd=bus)
        assert told.code == 3
        assert seed[4:] not in told.out + told.err


@pytest.fixture
def mortal(bus: Path) -> tuple[str, ...]:
    """The prefix that takes root's right to read everything. Skips the test if there is none.

    `.sealbus` and `credentials` then belong to another user, as after `sudo sealbus up`.
    """
    if os.geteuid() != 0:
        for name in (".sealbus", "credentials"):
            (bus / name).chmod(0o000)
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root may read everything, and there is no setpriv here")
    for name in (".sealbus", "credentials"):
        (bus / name).chmod(0o700)
        for path in (bus / name, *(bus / name).iterdir()):
            os.chown(path, 65534, 65534)
    return (setpriv, "--bounding-set=-dac_override,-dac_read_search")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["check"], 0, "credentials: cannot be read: Permission denied"),
        (["keys", "ls"], 0, ""),
        (["keys", "new", "greeter", "--out", "next.toml"], 0, ""),
        (
            ["keys", "new", "greeter"],
            1,
            "credentials/greeter.toml cannot be written: Permission denied",
        ),
        (["bot", "add", "shop"], 1, "credentials/shop.toml cannot be written: Permission denied"),
        (
            ["bot", "rm", "clock", "--yes"],
            1,
            "credentials/clock.toml cannot be read: Permission denied",
        ),
        (["up"], 1, ".sealbus/relay.toml cannot be read: Permission denied"),
        (["relay"], 1, ".sealbus/relay.toml cannot be read: Permission denied"),
        (["prepare"], 1, ".sealbus/relay.toml cannot be read: Permission denied"),
        (["ping"], 1, ".sealbus/relay.toml cannot be read: Permission denied"),
        (
            ["pub", "greetings.sent", "{}", "--as", "greeter"],
            1,
            "greeter.toml cannot be read: Permission denied",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_secrets_of_somebody_else_end_in_a_sentence(
    bus: Path, mortal: tuple[str, ...], command: list[str], code: int, said: str
) -> None:
    policy = (bus / "policy.yaml").read_text()
    told = sealbus(*command, cwd=bus, prefix=mortal)
    assert (told.code, said in told.out + told.err) == (code, True), told.err
    assert (bus / "policy.yaml").read_text() == policy
