"""A file or folder that a command needs is not usable: one sentence, and a hint that helps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sealbus_broker.cli.joining.bot import _copy_file
from sealbus_broker.policy.document import MAX_FILE_BYTES
from tests.cli.command import Ran, quickly, sealbus
from tests.cli.folders import everything
from tests.cli.test_another_user import BOUND, NOBODY
from tests.ports import free_port

PUB = ["pub", "greetings.sent", "--as", "greeter"]
CASES = [
    (["bot", "add", "shop"], "policy.yaml"),
    (["bot", "add", "shop"], "keys"),
    (["bot", "add", "shop"], "schemas"),
    (["bot", "rm", "clock", "--yes"], "policy.yaml"),
    (["bot", "rm", "clock", "--yes"], "credentials"),
    (["keys", "new", "greeter", "--out", "next.toml"], "keys"),
    (["keys", "new", "greeter"], "credentials"),
    (["keys", "ls"], "policy.yaml"),
    (["prepare", "--store", "store"], ".sealbus/relay.toml"),
    (["prepare", "--store", "store"], ".sealbus/nats.conf"),
    (["ping"], "bus.toml"),
    (["ping"], ".sealbus"),
    (["ping"], ".sealbus/relay.toml"),
    (["relay"], ".sealbus/relay.toml"),
    (["up"], ".sealbus"),
    ([*PUB, "{}"], "credentials/greeter.toml"),
    ([*PUB, "{}"], "credentials"),
    (["sub", "greetings.sent", "--as", "greeter"], "credentials/greeter.toml"),
    (["quarantine", "ls", "--as", "greeter"], "credentials/greeter.toml"),
    (["subscriptions", "ls", "--as", "greeter"], "credentials/greeter.toml"),
    (["inspect"], "given"),
    ([*PUB, "--file"], "given"),
]
IDS = [f"{' '.join(arguments)}, {file}" for arguments, file in CASES]


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def swapped(path: Path) -> None:
    """A folder is at the place of a file, or a file at the place of a folder."""
    was_folder = path.is_dir()
    remove(path)
    path.write_text("x") if was_folder else path.mkdir()


def looped(path: Path) -> None:
    """A symbolic link leads to itself."""
    remove(path)
    path.symlink_to(path)


def of_another_user(path: Path) -> None:
    path.chmod(0o700 if path.is_dir() else 0o600)
    os.chown(path, NOBODY, NOBODY)


def prepared(bus: Path, arguments: list[str], file: str) -> list[str]:
    """The command's arguments. Each file that it needs is there."""
    for name in ("given", ".sealbus/nats.conf"):
        (bus / name).write_text("{}\n")
    return [*arguments, "given"] if file == "given" else arguments


def is_told(ran: Ran, file: str) -> None:
    if ran.code == 0:
        return  # the command needs nothing of it
    # `up` and `relay` have JSON outside a terminal: the same sentence and hint in a row.
    assert ran.err.count("error: ") == 1, ran.err
    assert "hint: " in ran.err, ran.err
    assert Path(file).name in ran.err
    for unexpected in ("Traceback", "mistake in Sealbus", "the operating system refused"):
        assert unexpected not in ran.err


@pytest.mark.parametrize("state", [swapped, looped], ids=lambda state: state.__name__)
@pytest.mark.parametrize(("arguments", "file"), CASES, ids=IDS)
def test_a_wrong_kind_of_file_is_told(
    bus: Path, arguments: list[str], file: str, state: Callable[[Path], None]
) -> None:
    arguments = prepared(bus, arguments, file)
    state(bus / file)
    ran = quickly(*arguments, cwd=bus)
    assert ran.code != 0 or file == "keys" or "nats.conf" in file
    is_told(ran, file)


@pytest.mark.parametrize(("arguments", "file"), CASES, ids=IDS)
def test_a_file_of_another_user_is_told(bus: Path, arguments: list[str], file: str) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can give a file away, and setpriv is needed")
    arguments = prepared(bus, arguments, file)
    of_another_user(bus / file)
    ran = sealbus(*arguments, cwd=bus, prefix=BOUND)
    assert ran.code != 0
    is_told(ran, file)
    assert "another user" in ran.err


def test_unreadable_schema_is_named_and_no_temporary_folder(bus: Path) -> None:
    """`bot add` tries the folder in a copy."""
    schema = next((bus / "schemas").iterdir())
    looped(schema)
    ran = quickly("bot", "add", "shop", cwd=bus)
    assert "temporary" not in ran.err
    assert schema.name in ran.err


def test_of_a_large_file_only_the_beginning_is_copied(tmp_path: Path) -> None:
    """Somebody may have put a disk image into schemas/."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    _copy_file(str(tmp_path / "large"), str(tmp_path / "copy"))
    assert (tmp_path / "copy").stat().st_size == MAX_FILE_BYTES + 1


def test_a_pipe_in_schemas_holds_nothing_up(bus: Path) -> None:
    os.mkfifo(bus / "schemas/pipe.v1.json")
    assert "schemas/pipe.v1.json" in quickly("bot", "add", "shop", cwd=bus).err


@pytest.mark.parametrize(
    "command",
    [
        "prepare --nats-conf nats.conf --store b\udcff",
        "prepare --cluster --node a --node b --node c",
        "up --port {port}",
    ],
    ids=["prepare", "prepare --cluster", "up"],
)
def test_folder_that_is_not_utf_8_is_named(bus: Path, command: str) -> None:
    """nats-server cannot be told of it. Linux allows any bytes in a name."""
    folder = bus.rename(bus.with_name(os.fsdecode(b"b\xff")))
    arguments = command.format(port=free_port()).split()
    told = sealbus(*arguments, cwd=folder)
    assert (told.code, "udcff" in told.err) == (2, True), told.err
    assert "is not UTF-8, and nats-server cannot be told of it" in told.err


def test_credentials_that_nobody_could_read_are_not_made(bus: Path) -> None:
    assert quickly("certs", "init", cwd=bus).code == 0
    before = everything(bus)
    told = quickly("keys", "new", "greeter", "--out", os.fsdecode(b"g\xff.toml"), cwd=bus)
    assert (told.code, "not UTF-8" in told.err) == (1, True), told.err
    assert everything(bus) == before
