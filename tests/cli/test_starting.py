"""`init`, `up` and `prepare`: the files that they write into a folder, and the keys they take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from tests.cli.command import quickly, sealbus
from tests.cli.folders import everything, facts, unwritable, up
from tests.cli.pinging import pinged
from tests.ports import free_port

EVERYWHERE = "0.0.0.0"  # noqa: S104  # that others may reach it is the test


class TestInit:
    def test_says_where_the_bus_is(self, made: Path) -> None:
        told = facts(made)
        assert (told["name"], told["servers"]) == ("mybus", ["nats://bus.example.com:15070"])
        credentials = tomllib.loads((made / "credentials/greeter.toml").read_text())
        assert (credentials["servers"], credentials["bus_keys"]) == (
            told["servers"],
            told["bus_keys"],
        )
        assert "bus.toml" not in (made / ".gitignore").read_text()

    @pytest.mark.parametrize(
        "server", ["127.0.0.1:4222", "http://x", "nats://user:hunter2@x", "nats://", "ws://x"]
    )
    def test_refuses_an_invalid_address(self, tmp_path: Path, server: str) -> None:
        told = quickly("init", "mybus", "--server", server, cwd=tmp_path)
        assert (told.code, "like nats://127.0.0.1:4222" in told.err) == (2, True)
        assert "hunter2" not in told.err
        assert not (tmp_path / "mybus").exists()

    def test_refuses_servers_with_and_without_tls_together(self, tmp_path: Path) -> None:
        told = quickly("init", "mybus", "--server", "nats://a", "--server", "tls://b", cwd=tmp_path)
        assert (told.code, "stand together" in told.err) == (2, True)

    def test_leaves_nothing_of_a_folder_that_it_cannot_write(self, tmp_path: Path) -> None:
        told = sealbus("init", "mybus", cwd=tmp_path, full_disk=True)
        assert (told.code, "error: mybus cannot be written: File too large" in told.err) == (
            1,
            True,
        )
        assert not (tmp_path / "mybus").exists()

    def test_in_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        with unwritable(tmp_path):
            told = quickly("init", "mybus", cwd=tmp_path)
        assert (told.code, "cannot be written" in told.err) == (1, True)


class TestUp:
    def test_listens_where_bus_toml_says_and_everyone_finds_it(self, tmp_path: Path) -> None:
        port = free_port()
        assert (
            quickly("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
        )
        folder = tmp_path / "mybus"
        with up(folder):
            pinged(lambda: quickly("ping", cwd=folder))
            assert (
                sealbus(
                    "pub", "greetings.sent", '{"text": "x"}', "--as", "greeter", cwd=folder
                ).code
                == 0
            )

    def test_tells_which_credentials_name_another_port(self, bus: Path) -> None:
        port = free_port()
        (bus / "bus.toml").write_text(
            (bus / "bus.toml").read_text().replace("bus.example.com", "127.0.0.1")
        )
        with up(bus, "--port", str(port)) as log:
            told = log.read_text()
            for name in ("clock", "greeter", "listener", "operator"):
                assert f"credentials/{name}.toml: names another address" in told
            assert facts(bus)["servers"] == [f"nats://127.0.0.1:{port}"]
            pinged(lambda: quickly("ping", cwd=bus))
            said = quickly("pub", "greetings.sent", '{"text": "x"}', "--as", "greeter", cwd=bus)
            assert said.code == 0
            assert (
                "names another address than bus.toml: nats://bus.example.com:15070; "
                f"using nats://127.0.0.1:{port}" in (said.err)
            )
        assert (
            (bus / "bus.toml")
            .read_text()
            .startswith("# The identity and the addresses of this bus")
        )

    def test_tells_which_credentials_name_another_bus_key(self, bus: Path) -> None:
        file = bus / "bus.toml"
        file.write_text(file.read_text().replace("bus.example.com", "127.0.0.1"))
        (ours,) = tomllib.loads(file.read_text())["bus_keys"]
        theirs = SigningKey.generate(KeyKind.BUS).public.text
        greeter = bus / "credentials/greeter.toml"
        greeter.write_text(greeter.read_text().replace(ours, theirs))
        with up(bus, "--port", str(free_port())) as log:
            (said,) = [line for line in log.read_text().splitlines() if theirs in line]
        assert f"credentials/greeter.toml: is for the bus key {theirs}, " in said
        assert f"bus.toml names {ours}" in said
        assert "run `sealbus keys new greeter`" in said

    @pytest.mark.parametrize("host", [EVERYWHERE, "::", "10.1.2.3", "bus.example.com", ""])
    def test_without_tls_only_this_machine_may_reach_it(self, bus: Path, host: str) -> None:
        before = everything(bus)
        told = sealbus("up", "--host", host, "--port", str(free_port()), cwd=bus)
        assert told.code == 2
        assert f"error: --host {host} can be reached from other machines" in told.err
        assert "expected an address of this machine alone" in told.err
        named = ("sealbus certs init", "sealbus relay", "--insecure-plaintext")
        assert all(word in told.err for word in named)
        assert everything(bus) == before

    @pytest.mark.parametrize(("host", "warned"), [(EVERYWHERE, True), ("127.0.0.1", False)])
    def test_warns_of_plaintext_that_others_can_reach(
        self, bus: Path, host: str, warned: bool
    ) -> None:
        arguments = ("--host", host, "--insecure-plaintext", "--port", str(free_port()))
        with up(bus, *arguments) as log:
            rows = [json.loads(line) for line in log.read_text().splitlines()]
        told = [row for row in rows if row["event"] == "nats-server.exposed"]
        assert [(row["level"], row["host"]) for row in told] == (
            [("warning", host)] if warned else []
        )
        assert all("run nats-server yourself with TLS" in row["hint"] for row in told)

    def test_makes_no_keys_in_a_clone(self, clone: Path) -> None:
        before = everything(clone)
        told = sealbus("up", cwd=clone)
        assert told.code == 1
        assert "bus.toml names the bus key N" in told.err
        assert "--new-keys" in told.err
        assert everything(clone) == before

    def test_makes_a_clone_a_bus_of_its_own_if_told_to(self, clone: Path) -> None:
        was = facts(clone)["bus_keys"]
        shutil.copytree(clone, clone.parent / "other")
        with up(clone, "--port", str(free_port()), "--new-keys") as log:
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            said = [row["text"] for row in rows if row["event"] == "folder.said"]
            assert "made the bus's own keys" in said[0]
            assert "wrote bus.toml" in said[1]
            assert facts(clone)["bus_keys"] != was
            assert quickly("check", cwd=clone).code == 0

    @pytest.mark.parametrize("command", ["up", "prepare"])
    @pytest.mark.parametrize("is_new", [False, True])
    def test_makes_no_keys_for_a_folder_with_a_problem(
        self, clone: Path, command: str, is_new: bool
    ) -> None:
        if is_new:
            (clone / "bus.toml").unlink()
        policy = clone / "policy.yaml"
        policy.write_text(policy.read_text().replace("roles:\n", "rolls:\n", 1))
        before = everything(clone)
        told = quickly(command, *([] if is_new else ["--new-keys"]), cwd=clone)
        assert (told.code, "nothing was done" in told.err) == (1, True), told.err
        assert everything(clone) == before

    def test_refuses_keys_that_are_another_buss(self, bus: Path, tmp_path: Path) -> None:
        assert quickly("init", "other", cwd=tmp_path).code == 0
        shutil.copy(tmp_path / "other/.sealbus/relay.toml", bus / ".sealbus/relay.toml")
        for command in (["up"], ["relay"], ["prepare"], ["ping"], ["up", "--new-keys"]):
            told = quickly(*command, cwd=bus)
            assert (told.code, "holds the bus key N" in told.err) == (1, True), command
        checked = quickly("check", "--json", cwd=bus)
        assert checked.code == 3
        (problem,) = [
            row for row in map(json.loads, checked.out.splitlines()) if row["kind"] == "problem"
        ]
        assert problem["file"] == "bus.toml"


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:٤٢٢٢", "0.0.0.0:4_222", "0.0.0.0: 4222", "0.0.0.0:0", "4222"]
)
def test_prepare_wants_a_plain_port(bus: Path, listen: str) -> None:
    told = quickly("prepare", "--listen", listen, cwd=bus)
    assert (told.code, "is not an address" in told.err) == (2, True)


def test_prepare_says_where_the_bus_is_found(clone: Path) -> None:
    (clone / "bus.toml").unlink()
    told = quickly("prepare", "--listen", "0.0.0.0:15071", cwd=clone)
    assert told.code == 0
    assert facts(clone) == {
        "name": "mybus",
        "servers": ["nats://127.0.0.1:15071"],
        "bus_keys": [told.out.strip()],
    }
    assert quickly("prepare", "--server", "nats://a:1,nats://b:2", cwd=clone).code == 0
    assert facts(clone)["servers"] == ["nats://a:1", "nats://b:2"]
    assert quickly("prepare", cwd=clone).code == 0
    assert facts(clone)["servers"] == ["nats://a:1", "nats://b:2"]


def test_prepare_in_an_unwritable_folder_shows_the_contents(clone: Path, tmp_path: Path) -> None:
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
