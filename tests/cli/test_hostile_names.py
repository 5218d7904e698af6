"""No name of a file or a bot, and no payload, lets a command steer the terminal that shows it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealbus.invitation import JoinToken
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Draft, Header
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.cli.main import cli
from sealbus_broker.cli.shared.options import all_commands
from sealbus_broker.escape import harmless
from tests.cli.bus import RunningBus, clean_environment, running_bus
from tests.cli.command import SEALBUS, Ran, sealbus
from tests.gate.world import salted, sealed
from tests.waiting import PATIENCE_S

BAD = "\x1b[2J\x9b8m\u202e\u2028\x07\r\x7fevil"
"""Steers a terminal.

It clears the screen, hides the text after it, turns the direction of writing, rings, and goes back
to the beginning of the line.
"""

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

TOKEN = JoinToken(
    "mybus",
    "greeter",
    SigningKey(bytes(32), KeyKind.BOT),
    frozenset([SigningKey(bytes(32), KeyKind.BUS).public.raw]),
    ("nats://127.0.0.1:1",),
    2**42,
).encode()

OFFLINE = {
    "backup": [["backup", "saved", "--dir", BAD + "/nowhere"]],
    "restore": [["restore", BAD, "--dir", "{bus}"]],
    "init": [["init", BAD], ["init", "mybus", "--dir", BAD + "/new"]],
    "up": [["up", "--dir", BAD + "/nowhere"], ["up", "--name", BAD, "--dir", "{bus}"]],
    "relay": [["relay", "--dir", BAD + "/nowhere"], ["relay", "--name", BAD, "--dir", "{bus}"]],
    "prepare": [
        ["prepare", "--dir", "{bus}", "--nats-conf", "nowhere/" + BAD],
        ["prepare", "--dir", "{bus}", "--listen", BAD],
        ["prepare", "--dir", "{bus}", "--second-site", BAD],
    ],
    "ping": [["ping", "--dir", BAD + "/nowhere"], ["ping", "--relay", BAD, "--dir", "{bus}"]],
    **{
        f"mirror {verb}": [["mirror", verb, "nats://127.0.0.1:1", "--dir", BAD + "/nowhere"]]
        for verb in ("start", "show", "promote")
    },
    "check": [
        ["check", "--dir", "{bus}"],
        ["check", "--dir", "{bus}", "--json"],
        ["check", "--dir", BAD + "/nowhere"],
    ],
    "bot add": [
        ["bot", "add", BAD, "--dir", "{bus}"],
        ["bot", "add", "shop", "-p", BAD, "--dir", "{bus}"],
    ],
    "certs init": [
        ["certs", "init", "--dir", "{bus}"],
        ["certs", "init", "--name", BAD, "--dir", BAD + "/nowhere"],
    ],
    "certs new": [
        ["certs", "new", BAD, "--dir", "{sound}"],
        ["certs", "new", "greeter", "--dir", "{bus}"],
    ],
    "certs show": [["certs", "show", "--dir", "{bus}"], ["certs", "show", "--dir", BAD + "/no"]],
    "bot rm": [
        ["bot", "rm", BAD, "--dir", "{bus}"],
        ["bot", "rm", "clock", "--dry-run", "--dir", "{bus}"],
    ],
    "invite": [
        ["invite", BAD, "--dir", "{bus}"],
        ["invite", "greeter", "--for", BAD, "--dir", "{sound}"],
    ],
    "invites ls": [
        ["invites", "ls", "--dir", "{bus}"],
        ["invites", "ls", BAD, "--dir", "{sound}"],
    ],
    "invites rm": [
        ["invites", "rm", BAD, "--dir", "{sound}"],
        ["invites", "rm", "greeter", BAD * 2, "--dir", "{sound}"],
    ],
    "invites accept": [["invites", "accept", BAD, "--dir", BAD + "/nowhere"]],
    "join": [
        ["join", "--token-file", BAD],
        ["join", TOKEN, "--out", BAD + "/x", "--timeout", "1"],
    ],
    "keys new": [
        ["keys", "new", BAD, "--dir", "{bus}"],
        ["keys", "new", "greeter", "--out", BAD + "/x", "--dir", "{sound}"],
    ],
    "keys enrol": [
        ["keys", "enrol", BAD, "U", "--dir", "{bus}"],
        ["keys", "enrol", "greeter", "U", "--bus-key", "N", "--dir", BAD + "/nowhere"],
    ],
    "keys pins": [
        ["keys", "pins", BAD, "--dir", "{sound}"],
        ["keys", "pins", "greeter", "--dir", "{bus}"],
    ],
    "keys protect": [["keys", "protect", "nowhere/" + BAD]],
    "keys ls": [["keys", "ls", "--dir", "{bus}"]],
    "keys issuer": [["keys", "issuer", "--dir", BAD + "/nowhere"]],
    "keys show": [
        ["keys", "show", BAD, "--dir", "{sound}"],
        ["keys", "show", "x", "--dir", "{bus}"],
    ],
    "keys revoke": [
        ["keys", "revoke", BAD, "--dir", "{sound}"],
        ["keys", "revoke", "greeter", BAD * 2, "--dir", "{sound}"],
    ],
    "keys void": [
        ["keys", "void", BAD, "--dir", "{sound}"],
        ["keys", "void", "greeter", BAD * 2, "--dir", "{sound}"],
    ],
    "keys expire": [
        ["keys", "expire", "greeter", BAD * 2, "--after", "1d", "--dir", "{sound}"],
        ["keys", "expire", "greeter", "U", "--at", BAD, "--dir", "{sound}"],
        ["keys", "expire", "greeter", "U", "--after", BAD, "--dir", "{sound}"],
    ],
    "keys rotate": [
        ["keys", "rotate", BAD, "--dir", "{sound}"],
        ["keys", "rotate", "greeter", "--overlap", BAD, "--dir", "{sound}"],
        ["keys", "rotate", "greeter", "--out", BAD + "/x", "--dir", "{sound}"],
        ["keys", "rotate", "greeter", "--old", BAD + "/x", "--dir", "{sound}"],
    ],
    "keys sign-link": [
        ["keys", "sign-link", BAD, "U"],
        ["keys", "sign-link", "nowhere/" + BAD, BAD],
    ],
    "keys link": [
        ["keys", "link", BAD, "U", "x", "--dir", "{sound}"],
        ["keys", "link", "greeter", "U", "x", "--dir", BAD + "/nowhere"],
    ],
    "keys rotate-bus": [
        ["keys", "rotate-bus", "--overlap", BAD, "--dir", "{sound}"],
        ["keys", "rotate-bus", "--dir", "{bus}"],
    ],
    "keys show-bus": [["keys", "show-bus", "--dir", BAD + "/nowhere"]],
    "keys sessions": [["keys", "sessions", BAD, "--dir", BAD + "/nowhere"]],
    "reload": [["reload", "--dir", BAD + "/nowhere"], ["reload", "--dir", "{bus}"]],
    "inspect": [
        ["inspect", "nowhere/" + BAD],
        ["inspect", "{envelope}"],
        ["inspect", "{envelope}", "--json"],
    ],
    "pub": [
        ["pub", BAD, "{}", "--as", "greeter", "--dir", "{sound}"],
        ["pub", "x", "{}", "--as", BAD, "--dir", "{sound}"],
        ["pub", "x", "{}", "-c", BAD],
    ],
}
"""Calls that show the hostile name from an argument or from a file."""

ONLINE = {
    "pub": [
        ["pub", "greetings.sent", json.dumps({BAD: 1}), "--as", "greeter"],
        ["pub", "greetings.sent", "--file", BAD, "--as", "greeter"],
    ],
    "sub": [
        ["sub", "greetings.sent", "--as", "listener", "--from", "all", "-n", "1"],
        ["sub", "greetings.sent", "--as", "listener", "--from", "all", "-n", "1", "--json"],
        ["sub", BAD, "--as", "listener"],
    ],
    "request": [["request", BAD, "{}", "--as", "listener"]],
    "quarantine ls": [["quarantine", "ls"], ["quarantine", "ls", "--json"]],
    "quarantine show": [
        ["quarantine", "show", "{record}"],
        ["quarantine", "show", "{record}", "--json"],
        ["quarantine", "show", BAD],
    ],
    "subscriptions ls": [["subscriptions", "ls", "--as", BAD]],
    "subscriptions rm": [["subscriptions", "rm", BAD, "--yes"]],
}


def check(ran: Ran) -> None:
    """See that the output has the hostile words, and no character that steers."""
    for stream in (ran.out, ran.err):
        assert STEERING.search(stream) is None, ascii(stream)
    assert "evil" in ran.out + ran.err


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder full of hostile names, a sound folder, and an envelope with a hostile payload."""
    root = tmp_path_factory.mktemp("hostile")
    for name in ("bus", "sound"):
        assert sealbus("init", "mybus", "--dir", name, cwd=root).code == 0
    sound, bus = root / "sound", (root / "bus").rename(root / f"bus{BAD}")
    (bus / "credentials/greeter.toml").rename(bus / f"credentials/{BAD}.toml")
    for place in ("keys", "schemas"):
        (bus / place / BAD).write_text("x")
    policy = bus / "policy.yaml"
    policy.write_text(
        policy.read_text().replace("  clock:\n", f"  {json.dumps(BAD)}: {{}}\n  clock:\n", 1)
    )
    header = Header("mybus", "greeter", "greetings.sent", bytes(16), 0, 1000)
    draft = Draft(header, [salted(pack_json({BAD: BAD}))])
    (root / "envelope").write_bytes(sealed(draft, SigningKey.generate(KeyKind.BOT)))
    return {"bus": str(bus), "sound": str(sound), "envelope": str(root / "envelope")}


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBus]:
    """A bus of this file's own, so that its first message is hostile."""
    with running_bus(tmp_path_factory.mktemp("running")) as running:
        yield running


@pytest.fixture(scope="module")
def record(bus: RunningBus) -> str:
    """The number of a record with a hostile payload. Another such message is accepted."""
    assert bus.run("pub", "greetings.sent", json.dumps({"text": BAD}), "--as", "greeter").code == 0
    told = bus.run("pub", "greetings.sent", json.dumps({BAD: BAD}), "--as", "greeter", "--json")
    return str(json.loads(told.out)["record"])


def test_every_command_is_tried() -> None:
    assert {" ".join(words) for words, _ in all_commands(cli)} == OFFLINE.keys() | ONLINE.keys()


@pytest.mark.parametrize(
    "arguments", [one for calls in OFFLINE.values() for one in calls], ids=ascii
)
def test_the_content_of_a_folder_is_shown_escaped(
    places: dict[str, str], tmp_path: Path, arguments: list[str]
) -> None:
    if BAD + "/new" in arguments:
        (tmp_path / BAD).mkdir()
    check(sealbus(*(places.get(word.strip("{}"), word) for word in arguments), cwd=tmp_path))


@pytest.mark.parametrize(
    "arguments", [one for calls in ONLINE.values() for one in calls], ids=ascii
)
def test_the_messages_of_bots_are_shown_escaped(
    bus: RunningBus, record: str, arguments: list[str]
) -> None:
    words = (record if word == "{record}" else word for word in arguments)
    # In a process of its own: the last escaping is that of the process's streams.
    check(sealbus(*words, cwd=bus.folder))


def test_a_terminal_gets_colours_and_nothing_else(places: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    command = [*SEALBUS, "check", "--dir", places["bus"]]
    with subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env=clean_environment(TERM="xterm")
    ) as process:
        os.close(theirs)
        told = b""
        while data := _read(ours):
            told += data
        process.wait(PATIENCE_S)
    os.close(ours)
    lines = told.decode().replace("\r\n", "\n")
    assert "evil" in lines
    assert harmless(lines) == lines


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody has the other end any longer
        return b""


@pytest.mark.parametrize(
    "own", ["\x1b[31m", "\x1b[0m", "\x1b[1m", "\r\x1b[K", "a\tb\n", "é\U0001f600"]
)
def test_the_own_text_of_a_command_is_left_alone(own: str) -> None:
    assert harmless(own) == own


@pytest.mark.parametrize(
    "char", [*"\0\x07\x08\r\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\u200e", "\x1b[8m", "\x1b[2J"]
)
def test_all_else_is_escaped(char: str) -> None:
    assert harmless(f"a{char}b").isprintable()
