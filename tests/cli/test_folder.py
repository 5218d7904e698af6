"""A bus's folder knows its bus: where it is, which keys are its own, and what in it belongs to another."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sealbus.credentials import Credentials
from sealbus.keys import KeyKind, SigningKey
from sealbus_broker.cli.folder import BusFolder
from sealbus_broker.policy.bus_file import BusFile, write_bus_file
from tests.cli.command import SEALBUS, quickly, sealbus, wait_for
from tests.ports import free_port
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bus as `sealbus init` makes it."""
    folder = tmp_path_factory.mktemp("made")
    assert quickly("init", "mybus", "--server", "nats://bus.example.com:15070", cwd=folder).code == 0
    return folder / "mybus"


@pytest.fixture
def bus(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "mybus"))


@pytest.fixture
def clone(made: Path, tmp_path: Path) -> Path:
    """What git would give somebody else: the folder without what is ignored."""
    return Path(shutil.copytree(made, tmp_path / "mybus", ignore=shutil.ignore_patterns(".sealbus", "credentials")))


def facts(folder: Path) -> dict[str, object]:
    return tomllib.loads((folder / "bus.toml").read_text())


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def up(folder: Path, *arguments: str) -> Iterator[Path]:
    """A bus that runs; gives its log."""
    log = folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*SEALBUS, "up", *arguments], cwd=folder, stdout=output, stderr=output)
    try:
        wait_for(log, "is up at")
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """A folder that cannot be written, for root neither."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    mounted = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("root may write everywhere, and mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], capture_output=True, check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class TestInit:
    def test_says_where_the_bus_is(self, made: Path) -> None:
        told = facts(made)
        assert (told["name"], told["servers"]) == ("mybus", ["nats://bus.example.com:15070"])
        credentials = tomllib.loads((made / "credentials/greeter.toml").read_text())
        assert (credentials["servers"], credentials["bus_keys"]) == (told["servers"], told["bus_keys"])
        assert "bus.toml" not in (made / ".gitignore").read_text()

    @pytest.mark.parametrize("server", ["127.0.0.1:4222", "http://x", "nats://user:hunter2@x", "nats://", "ws://x"])
    def test_refuses_what_is_no_address(self, tmp_path: Path, server: str) -> None:
        told = quickly("init", "mybus", "--server", server, cwd=tmp_path)
        assert (told.code, "like nats://127.0.0.1:4222" in told.err) == (2, True)
        assert "hunter2" not in told.err
        assert not (tmp_path / "mybus").exists()

    def test_refuses_servers_with_and_without_tls_together(self, tmp_path: Path) -> None:
        told = quickly("init", "mybus", "--server", "nats://a", "--server", "tls://b", cwd=tmp_path)
        assert (told.code, "stand together" in told.err) == (2, True)

    def test_leaves_nothing_of_a_folder_that_it_cannot_write(self, tmp_path: Path) -> None:
        told = sealbus("init", "mybus", cwd=tmp_path, full_disk=True)
        assert (told.code, "error: mybus cannot be written: File too large" in told.err) == (1, True)
        assert not (tmp_path / "mybus").exists()

    def test_in_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        with unwritable(tmp_path):
            told = quickly("init", "mybus", cwd=tmp_path)
        assert (told.code, "cannot be written" in told.err) == (1, True)


class TestUp:
    def test_listens_where_bus_toml_says_and_everyone_finds_it(self, tmp_path: Path) -> None:
        port = free_port()
        assert quickly("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
        folder = tmp_path / "mybus"
        with up(folder):
            assert quickly("ping", cwd=folder).code == 0
            assert sealbus("pub", "greetings.sent", '{"text": "x"}', "--as", "greeter", cwd=folder).code == 0

    def test_tells_which_credentials_name_another_port(self, bus: Path) -> None:
        port = free_port()
        (bus / "bus.toml").write_text((bus / "bus.toml").read_text().replace("bus.example.com", "127.0.0.1"))
        with up(bus, "--port", str(port)) as log:
            told = log.read_text()
            for name in ("clock", "greeter", "listener", "operator"):
                assert f"credentials/{name}.toml: names another address" in told
            assert facts(bus)["servers"] == [f"nats://127.0.0.1:{port}"]
            assert quickly("ping", cwd=bus).code == 0
            said = quickly("pub", "greetings.sent", '{"text": "x"}', "--as", "greeter", cwd=bus)
            assert said.code == 0
            assert (
                f"names another address than bus.toml: nats://bus.example.com:15070; using nats://127.0.0.1:{port}"
                in (said.err)
            )
        assert (bus / "bus.toml").read_text().startswith("# Which bus this folder holds")

    def test_makes_no_keys_in_a_clone(self, clone: Path) -> None:
        before = everything(clone)
        told = quickly("up", cwd=clone)
        assert told.code == 1
        assert "bus.toml names the bus key N" in told.err
        assert "--new-keys" in told.err
        assert everything(clone) == before

    def test_makes_a_clone_a_bus_of_its_own_if_told_to(self, clone: Path) -> None:
        was = facts(clone)["bus_keys"]
        shutil.copytree(clone, clone.parent / "other")
        with up(clone, "--port", str(free_port()), "--new-keys"):
            assert facts(clone)["bus_keys"] != was
            assert quickly("check", cwd=clone).code == 0

    def test_refuses_keys_that_are_another_buss(self, bus: Path, tmp_path: Path) -> None:
        assert quickly("init", "other", cwd=tmp_path).code == 0
        shutil.copy(tmp_path / "other/.sealbus/relay.toml", bus / ".sealbus/relay.toml")
        for command in (["up"], ["relay"], ["prepare"], ["ping"], ["up", "--new-keys"]):
            told = quickly(*command, cwd=bus)
            assert (told.code, "holds the bus key N" in told.err) == (1, True), command
        checked = quickly("check", "--json", cwd=bus)
        assert checked.code == 3
        (problem,) = [row for row in map(json.loads, checked.out.splitlines()) if row["kind"] == "problem"]
        assert problem["file"] == "bus.toml"


def test_prepare_says_where_the_bus_is_found(clone: Path) -> None:
    (clone / "bus.toml").unlink()
    told = quickly("prepare", "--listen", "0.0.0.0:15071", cwd=clone)
    assert told.code == 0
    assert facts(clone) == {"name": "mybus", "servers": ["nats://127.0.0.1:15071"], "bus_keys": [told.out.strip()]}
    assert quickly("prepare", "--server", "nats://a:1,nats://b:2", cwd=clone).code == 0
    assert facts(clone)["servers"] == ["nats://a:1", "nats://b:2"]
    assert quickly("prepare", cwd=clone).code == 0
    assert facts(clone)["servers"] == ["nats://a:1", "nats://b:2"]


def test_prepare_in_a_folder_that_cannot_be_written_shows_what_belongs_there(clone: Path, tmp_path: Path) -> None:
    (clone / "bus.toml").unlink()
    (clone / ".sealbus").mkdir()
    conf = tmp_path / "nats.conf"
    writable = tmp_path / "state"
    writable.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs mounts")
    with unwritable(clone):
        subprocess.run(["mount", "--bind", str(writable), str(clone / ".sealbus")], check=True)
        try:
            told = quickly("prepare", "--nats-conf", str(conf), cwd=clone)
        finally:
            subprocess.run(["umount", str(clone / ".sealbus")], check=True)
    assert told.code == 0
    assert f'bus_keys = ["{told.out.strip()}"]' in told.err
    assert not (clone / "bus.toml").exists()


class TestWithoutSecrets:
    """In a clone, where the private keys of the bus are not, and must not be made."""

    @pytest.mark.parametrize(
        "command",
        [
            ["check"],
            ["keys", "ls"],
            ["keys", "new", "greeter"],
            ["bot", "add", "shop", "-p", "greetings.sent"],
            ["bot", "rm", "clock", "--yes"],
        ],
        ids=" ".join,
    )
    def test_works_and_makes_no_bus_key(self, clone: Path, command: list[str]) -> None:
        told = quickly(*command, cwd=clone)
        assert told.code == 0, told.err
        assert not (clone / ".sealbus").exists()

    @pytest.mark.parametrize("command", [["relay"], ["ping"]], ids=" ".join)
    def test_says_where_keys_come_from(self, clone: Path, command: list[str]) -> None:
        told = quickly(*command, cwd=clone)
        assert (told.code, "copy relay.toml from where the bus runs\n" in told.err) == (1, True)
        (clone / "bus.toml").unlink()
        told = quickly(*command, cwd=clone)
        assert (told.code, "sealbus prepare" in told.err) == (1, True)
        assert not (clone / ".sealbus").exists()

    def test_new_keys_are_for_this_bus(self, clone: Path) -> None:
        assert quickly("keys", "new", "greeter", cwd=clone).code == 0
        made = tomllib.loads((clone / "credentials/greeter.toml").read_text())
        told = facts(clone)
        assert (made["bus"], made["bus_keys"], made["servers"]) == (told["name"], told["bus_keys"], told["servers"])

    def test_without_bus_toml_the_key_has_to_be_given(self, clone: Path) -> None:
        (clone / "bus.toml").unlink()
        told = quickly("keys", "new", "greeter", cwd=clone)
        assert (told.code, "bus.toml is missing" in told.err, "--bus-key" in told.err) == (1, True, True)
        key = SigningKey.generate(KeyKind.BUS).public.text
        assert quickly("keys", "new", "greeter", "--bus-key", key, cwd=clone).code == 0

    def test_another_key_than_the_folder_s_is_refused(self, clone: Path) -> None:
        key = SigningKey.generate(KeyKind.BUS).public.text
        told = quickly("keys", "new", "greeter", "--bus-key", key, cwd=clone)
        assert (told.code, "is not the key that bus.toml names" in told.err) == (1, True)
        assert not (clone / "credentials").exists()


class TestKeysNew:
    def test_for_a_bot_that_is_not_declared(self, bus: Path) -> None:
        before = everything(bus)
        told = quickly("keys", "new", "greter", cwd=bus)
        assert (told.code, "declares no bot greter" in told.err, "did you mean greeter?" in told.err) == (1, True, True)
        told = quickly("keys", "new", "warehouse", cwd=bus)
        assert (told.code, "sealbus bot add warehouse" in told.err) == (1, True)
        assert everything(bus) == before

    def test_with_a_server_that_is_no_address(self, bus: Path) -> None:
        told = quickly("keys", "new", "greeter", "--server", "nats://a:hunter2@b", "--out", "x.toml", cwd=bus)
        assert (told.code, "not a NATS address" in told.err, "hunter2" in told.err) == (2, True, False)

    def test_where_keys_cannot_be_written(self, bus: Path) -> None:
        with unwritable(bus / "keys"):
            told = quickly("keys", "new", "greeter", "--out", "next.toml", cwd=bus)
        assert (told.code, "keys" in told.err, "cannot be written" in told.err) == (1, True, True)
        assert not (bus / "next.toml").exists(), "no secret stands without its public key"

    def test_on_a_full_disk(self, bus: Path) -> None:
        before = everything(bus)
        told = sealbus("keys", "new", "greeter", "--out", "next.toml", cwd=bus, full_disk=True)
        assert (told.code, "cannot be written: File too large" in told.err) == (1, True)
        assert everything(bus) == before


class TestStrangers:
    """Credentials of another bus, another key, another address."""

    def other(self, folder: Path, **changes: str) -> None:
        path = folder / "credentials/greeter.toml"
        text = path.read_text()
        for field, value in changes.items():
            text = re.sub(rf"^{field} = .*$", f"{field} = {value}", text, flags=re.MULTILINE)
        path.write_text(text)

    def check(self, bus: Path) -> list[str]:
        checked = quickly("check", "--json", cwd=bus)
        assert checked.code == 0
        return [
            row["what"]
            for row in map(json.loads, checked.out.splitlines())
            if row["file"] == "credentials/greeter.toml"
        ]

    def test_another_address_is_noted(self, bus: Path) -> None:
        assert self.check(bus) == []
        self.other(bus, servers='["nats://elsewhere:4222"]')
        assert self.check(bus) == ["names another address: nats://elsewhere:4222"]

    def test_the_same_address_written_otherwise_is_the_same(self, bus: Path) -> None:
        self.other(bus, servers='["nats://BUS.example.com.:15070", "nats://x"]')
        assert self.check(bus) == []

    def test_tls_is_not_taken_away_by_the_folder(self, bus: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.other(bus, servers='["tls://bus.example.com:15070"]')
        assert self.check(bus) == ["names another address: tls://bus.example.com:15070"]
        assert BusFolder(bus).speak_as("greeter").servers == ("tls://bus.example.com:15070",)
        assert "names another address than bus.toml" in capsys.readouterr().err

    def test_another_bus_key_is_told_at_once(self, bus: Path) -> None:
        key = SigningKey.generate(KeyKind.BUS).public.text
        self.other(bus, bus_keys=f'["{key}"]')
        (what,) = self.check(bus)
        assert what.startswith(f"is for the bus key {key}, and bus.toml names N")
        told = quickly("pub", "greetings.sent", "{}", "--as", "greeter", cwd=bus)
        assert (told.code, key in told.err, "sealbus keys new greeter" in told.err) == (1, True, True)

    def test_a_file_of_another_bus_in_the_folder_is_told(self, bus: Path) -> None:
        self.other(bus, bus='"shop"')
        for arguments in (["-c", "credentials/greeter.toml"], ["--as", "greeter"]):
            told = quickly("pub", "greetings.sent", "{}", *arguments, cwd=bus)
            assert (told.code, "is for the bus shop" in told.err) == (1, True)

    def test_a_file_in_the_folder_that_names_another_address_is_told(
        self, bus: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.other(bus, servers='["nats://elsewhere:4222"]')
        path = bus / "credentials/greeter.toml"
        BusFolder(bus).speak_with(path, Credentials.load(path))
        assert "names another address than bus.toml: nats://elsewhere:4222" in capsys.readouterr().err

    def test_a_misspelt_bot_is_told(self, bus: Path) -> None:
        told = quickly("pub", "greetings.sent", "{}", "--as", "greter", cwd=bus)
        assert (told.code, "did you mean greeter?" in told.err) == (1, True)

    def test_another_bus_is_told_at_once(self, bus: Path) -> None:
        self.other(bus, bus='"shop"')
        assert self.check(bus) == ["is for the bus shop, and bus.toml names mybus"]
        told = quickly("sub", "greetings.sent", "--as", "greeter", cwd=bus)
        assert (told.code, "is for the bus shop" in told.err) == (1, True)

    def test_a_key_that_nobody_would_admit_is_noted(self, bus: Path) -> None:
        shutil.copy(bus / "keys/clock.yaml", bus / "clock.before")
        assert quickly("keys", "new", "clock", "--out", "next.toml", cwd=bus).code == 0
        assert quickly("check", cwd=bus).out == ""
        (bus / "credentials/clock.toml").unlink()
        shutil.move(bus / "next.toml", bus / "credentials/clock.toml")
        shutil.move(bus / "clock.before", bus / "keys/clock.yaml")
        assert "holds a key that is not in keys/clock.yaml" in quickly("check", cwd=bus).out

    def test_credentials_that_cannot_be_read_are_noted(self, bus: Path) -> None:
        (bus / "credentials/greeter.toml").chmod(0o644)
        (what,) = self.check(bus)
        assert "can be read by others" in what


class TestFind:
    @pytest.mark.parametrize("command", [["check"], ["keys", "ls"], ["bot", "rm", "clock", "--dry-run"]], ids=" ".join)
    def test_the_one_bus_below_is_found(self, made: Path, command: list[str]) -> None:
        told = quickly(*command, cwd=made.parent)
        assert (told.code, "using the bus in mybus" in told.err) == (0, True)

    @pytest.mark.parametrize("command", [["check"], ["up"], ["keys", "ls"], ["keys", "new", "greeter"]], ids=" ".join)
    def test_of_two_below_one_has_to_be_chosen(self, made: Path, tmp_path: Path, command: list[str]) -> None:
        for name in ("one", "two"):
            shutil.copytree(made, tmp_path / name)
        told = quickly(*command, cwd=tmp_path)
        assert (told.code, "one, two" in told.err, "--dir" in told.err) == (1, True, True)


class TestBusToml:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("name = ", "bus.toml:1:8: is not TOML"),
            ("\xff", "bus.toml: is not UTF-8 text (line 1)"),
            ('# x\nnmae = "mybus"\n', "bus.toml:2:1: unknown name nmae"),
            ('name = "My Bus"\n', "bus.toml:1:1: name is not the name of a bus"),
            ('name = "mybus"\nservers = []\n', "bus.toml:2:1: servers is not a list of 1 to 16 texts"),
            ('name = "mybus"\nservers = ["x"]\n', "bus.toml:2:1: servers: not a NATS address"),
            ('name = "mybus"\nservers = ["nats://x"]\nbus_keys = ["x"]\n', "bus.toml:3:1: bus_keys: public key"),
            ('name = "mybus"\nservers = ["nats://x"]\n', "bus.toml: bus_keys is not a list of 1 to 4 texts"),
        ],
    )  # fmt: skip
    def test_a_mistake_is_told_where_it_stands(self, bus: Path, text: str, told: str) -> None:
        (bus / "bus.toml").write_bytes(text.encode("latin-1"))
        checked = quickly("check", cwd=bus)
        assert (checked.code, told in checked.out) == (3, True), checked.out
        assert quickly("keys", "new", "greeter", "--out", "x.toml", cwd=bus).code == 1
        assert quickly("ping", cwd=bus).code == 1

    def test_another_name_than_the_policy_s(self, bus: Path) -> None:
        (bus / "bus.toml").write_text((bus / "bus.toml").read_text().replace("mybus", "shop"))
        checked = quickly("check", cwd=bus)
        assert (checked.code, "bus.toml: is another bus's file" in checked.out) == (3, True)

    def test_comments_stay_when_the_port_changes(self, bus: Path) -> None:
        mine = "# ours\n" + (bus / "bus.toml").read_text().replace("bus.example.com:15070", "127.0.0.1:1")
        (bus / "bus.toml").write_text(mine)
        port = free_port()
        with up(bus, "--port", str(port)):
            assert (bus / "bus.toml").read_text() == mine.replace("127.0.0.1:1", f"127.0.0.1:{port}")

    def test_one_that_cannot_be_edited_stops_no_bus(self, bus: Path) -> None:
        text = (
            (bus / "bus.toml")
            .read_text()
            .replace("servers = [", "servers = [ # here\n")
            .replace("bus.example.com", "127.0.0.1")
        )
        (bus / "bus.toml").write_text(text)
        with up(bus, "--port", str(free_port())) as log:
            assert "is written in a form that is not edited here" in log.read_text()
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            assert {row["event"] for row in rows} >= {"folder.note", "relay.ready"}
        assert (bus / "bus.toml").read_text() == text

    def test_a_seed_in_it_is_not_repeated(self, bus: Path) -> None:
        seed = SigningKey.generate(KeyKind.BUS).seed_text
        (bus / "bus.toml").write_text(f'name = "{seed}"\n')
        assert seed[5:] not in quickly("check", cwd=bus).out


class TestBot:
    def test_comes_in_one_step_and_can_speak(self, tmp_path: Path) -> None:
        port = free_port()
        assert quickly("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
        folder = tmp_path / "mybus"
        told = quickly("bot", "add", "shop", "-p", "greetings.sent", "-s", "clock.ask", "-r", "operator", cwd=folder)
        assert told.code == 0
        assert told.out == "credentials/shop.toml\n"
        checked = quickly("check", cwd=folder)
        assert (checked.code, checked.out) == (0, "")
        with up(folder):
            assert sealbus("pub", "greetings.sent", '{"text": "x"}', "--as", "shop", cwd=folder).code == 0
            assert quickly("quarantine", "ls", "--as", "shop", cwd=folder).code == 0

    def test_goes_in_one_step(self, bus: Path) -> None:
        before = everything(bus)
        assert quickly("bot", "add", "shop", "-p", "greetings.sent", cwd=bus).code == 0
        dry = quickly("bot", "rm", "shop", "--dry-run", cwd=bus)
        assert (dry.code, "-  shop:" in dry.err, "delete keys/shop.yaml" in dry.err) == (0, True, True)
        assert "shop" in quickly("keys", "ls", cwd=bus).out
        assert quickly("bot", "rm", "shop", "--yes", cwd=bus).code == 0
        assert everything(bus) == before

    def test_every_bot_of_the_template_can_go(self, bus: Path) -> None:
        for name in ("greeter", "listener", "clock", "operator"):
            assert quickly("bot", "rm", name, "--yes", cwd=bus).code == 0
        assert quickly("check", cwd=bus).code == 0
        assert not list((bus / "keys").iterdir())
        assert not list((bus / "credentials").iterdir())
        assert quickly("bot", "add", "shop", "-p", "greetings.sent", cwd=bus).code == 0
        assert quickly("check", cwd=bus).code == 0

    def test_is_not_removed_where_nobody_can_be_asked(self, bus: Path) -> None:
        before = everything(bus)
        told = quickly("bot", "rm", "clock", cwd=bus, given="y\n")
        assert (told.code, "--yes" in told.err) == (2, True)
        assert everything(bus) == before

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["greeter"], "declares greeter already"),
            (["shop", "-p", "greetings.snt"], "did you mean greetings.sent?"),
            (["shop", "-p", "Bad Pattern"], "is not valid"),
            (["shop", "-p", ">"], "may not be a wildcard"),
            (["shop", "-r", "operators"], "did you mean operator?"),
            (["sealbus"], "the relay's own name"),
            (["shop", "--out", "keys/shop.toml"], "for public keys"),
            (["shop", "--out", "credentials/greeter.toml"], "exists already"),
        ],
    )
    def test_that_cannot_be_added_changes_nothing(self, bus: Path, arguments: list[str], said: str) -> None:
        before = everything(bus)
        told = quickly("bot", "add", *arguments, cwd=bus)
        assert (told.code, said in told.err) == (1, True), told.err
        assert everything(bus) == before

    def test_whose_name_is_none_is_wrong_usage(self, bus: Path) -> None:
        before = everything(bus)
        told = sealbus("bot", "add", "Shop", cwd=bus)
        assert (told.code, "is not valid" in told.err) == (2, True)
        assert everything(bus) == before

    def test_on_a_full_disk_changes_nothing(self, bus: Path) -> None:
        before = everything(bus)
        for command in (["bot", "add", "shop"], ["keys", "new", "greeter", "--out", "x.toml"]):
            told = sealbus(*command, cwd=bus, full_disk=True)
            assert (told.code, "cannot be written" in told.err) == (1, True)
            assert everything(bus) == before

    def test_whose_key_cannot_be_written_is_not_declared(self, bus: Path) -> None:
        before = everything(bus)
        with unwritable(bus / "keys"):
            assert quickly("bot", "add", "shop", cwd=bus).code == 1
        assert everything(bus) == before

    def test_that_nobody_declared_but_that_has_files(self, bus: Path) -> None:
        policy = bus / "policy.yaml"
        policy.write_text(policy.read_text().replace("  clock:\n    subscribe: [clock.ask]\n", ""))
        assert quickly("check", cwd=bus).code == 3
        assert quickly("bot", "rm", "clock", "--yes", cwd=bus).code == 0
        assert quickly("check", cwd=bus).code == 0
        told = quickly("bot", "rm", "clok", "--yes", cwd=bus)
        assert (told.code, "there is no bot clok" in told.err) == (1, True)


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
    [("bus: mybus", "bus: SEED"), ("  greeter:", "  SEED:"), ("[greetings.sent]", "[SEED]"), ("1000/s", "SEED"), ("operator]", "SEED]")],
)  # fmt: skip
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
    """How to run a command without root's right to read everything; skips where that cannot be had.

    `.sealbus` and `credentials` are then somebody else's, as after `sudo sealbus up`.
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
        (["keys", "new", "greeter"], 1, "credentials/greeter.toml cannot be written: Permission denied"),
        (["bot", "add", "shop"], 1, "credentials/shop.toml cannot be written: Permission denied"),
        (["bot", "rm", "clock", "--yes"], 1, "credentials/clock.toml cannot be read: Permission denied"),
        (["up"], 1, ".sealbus/relay.toml cannot be read: Permission denied"),
        (["relay"], 1, ".sealbus/relay.toml cannot be read: Permission denied"),
        (["prepare"], 1, ".sealbus/relay.toml cannot be read: Permission denied"),
        (["ping"], 1, ".sealbus/relay.toml cannot be read: Permission denied"),
        (["pub", "greetings.sent", "{}", "--as", "greeter"], 1, "greeter.toml cannot be read: Permission denied"),
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


@pytest.mark.parametrize(
    ("before", "host", "port", "after"),
    [
        ("nats://127.0.0.1:4222", "127.0.0.1", None, "nats://127.0.0.1:4222"),
        ("nats://127.0.0.1:4222", "127.0.0.1", 15070, "nats://127.0.0.1:15070"),
        ("nats://127.0.0.1", "127.0.0.1", 4222, "nats://127.0.0.1"),
        ("nats://localhost:4222", "127.0.0.1", None, "nats://localhost:4222"),
        ("nats://127.0.0.1:4222", "0.0.0.0", None, "nats://127.0.0.1:4222"),  # noqa: S104  # read, never listened on
        ("nats://127.0.0.1:4222", "10.1.2.3", None, "nats://10.1.2.3:4222"),
        ("nats://127.0.0.1:4222", "fd00::1", 5000, "nats://[fd00::1]:5000"),
        ("nats://bus.example.com:4222", "10.1.2.3", None, "nats://bus.example.com:4222"),
        ("tls://bus.example.com:4222", "10.1.2.3", 5000, "tls://bus.example.com:5000"),
        (None, "127.0.0.1", None, "nats://127.0.0.1:4222"),
        (None, "::", 5000, "nats://127.0.0.1:5000"),
    ],
)
def test_where_the_bus_is_found(tmp_path: Path, before: str | None, host: str, port: int | None, after: str) -> None:
    key = SigningKey.generate(KeyKind.BUS).public
    if before is not None:
        write_bus_file(tmp_path, BusFile("shop", (before,), (key,)))
    assert BusFolder(tmp_path).found_at("shop", key, host, port) == BusFile("shop", (after,), (key,))
