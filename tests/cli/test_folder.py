"""A bus's folder knows its bus: how commands find it, and the content of `bus.toml`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sealbus.credentials import Credentials
from sealbus.protocol.envelope import Draft, Header
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.cli.shared.folder import BusFolder, found_at
from sealbus_broker.policy import document
from sealbus_broker.policy.bus_file import BusFile, write_bus_file
from tests.cli.command import quickly
from tests.cli.folders import up
from tests.gate.world import salted, sealed
from tests.ports import free_port


class TestFind:
    @pytest.mark.parametrize(
        "command", [["check"], ["keys", "ls"], ["bot", "rm", "clock", "--dry-run"]], ids=" ".join
    )
    def test_the_one_bus_below_is_found(self, made: Path, command: list[str]) -> None:
        told = quickly(*command, cwd=made.parent)
        assert (told.code, "using the bus in mybus" in told.err) == (0, True)

    def test_a_hidden_copy_is_no_second_bus(self, made: Path, tmp_path: Path) -> None:
        for name in ("mybus", ".backup"):
            shutil.copytree(made, tmp_path / name)
        told = quickly("check", cwd=tmp_path)
        assert (told.code, "using the bus in mybus" in told.err) == (0, True)

    def test_hidden_credentials_are_not_checked(self, made: Path, tmp_path: Path) -> None:
        bus = shutil.copytree(made, tmp_path / "mybus")
        hidden = bus / "credentials" / ".greeter.toml"
        (bus / "credentials" / "greeter.toml").rename(hidden)
        assert quickly("bot", "rm", "greeter", "--yes", cwd=bus).code == 0
        assert "greeter" not in quickly("check", cwd=bus).out
        hidden.rename(bus / "credentials" / "greeter.toml")
        assert "policy.yaml does not declare" in quickly("check", cwd=bus).out

    @pytest.mark.parametrize(
        "command", [["check"], ["up"], ["keys", "ls"], ["keys", "new", "greeter"]], ids=" ".join
    )
    def test_of_two_below_one_has_to_be_chosen(
        self, made: Path, tmp_path: Path, command: list[str]
    ) -> None:
        for name in ("one", "two"):
            shutil.copytree(made, tmp_path / name)
        told = quickly(*command, cwd=tmp_path)
        assert (told.code, "one, two" in told.err, "--dir" in told.err) == (1, True, True)

    @pytest.mark.parametrize(
        "command", [["relay"], ["up", "--port", "1"]], ids=lambda words: words[0]
    )
    def test_a_log_has_nothing_but_its_own_lines(self, clone: Path, command: list[str]) -> None:
        """Remarks on the folder, and its problems, go to the reader of the log."""
        told = quickly(*command, cwd=clone.parent)
        rows = [json.loads(line) for line in told.err.splitlines()]
        assert [(row["event"], row["level"]) for row in rows] == [
            ("folder.said", "info"),
            ("command.failed", "error"),
        ]
        assert rows[0]["text"] == "using the bus in mybus"
        (clone / "bus.toml").unlink()
        (clone / "policy.yaml").write_text("bus: [")
        told = quickly(*command, "--name", "Bad", cwd=clone.parent)
        rows = [json.loads(line) for line in told.err.splitlines()]
        assert rows[-1]["event"] == "command.failed"

    def test_problem_of_the_folder_is_said_in_the_log(self, clone: Path) -> None:
        (clone / "policy.yaml").write_text("bus: [")
        told = quickly("up", "--new-keys", cwd=clone)
        rows = [json.loads(line) for line in told.err.splitlines()]
        assert [row["event"] for row in rows] == ["problem.found", "command.failed"]
        assert rows[0]["text"].startswith("policy.yaml:1")

    def test_inspect_finds_the_one_bus_below(self, made: Path, tmp_path: Path) -> None:
        header = Header("mybus", "greeter", "greetings.sent", bytes(16), 0, 1000)
        greeter = Credentials.load(made / "credentials/greeter.toml").key_in_memory
        for key, wrong in (
            (greeter, []),
            (
                SigningKey.generate(KeyKind.BOT),
                ["unknown-key: this key is not among the given keys"],
            ),
        ):
            (tmp_path / "sealed").write_bytes(sealed(Draft(header, [salted(b"\x80")]), key))
            told = quickly("inspect", str(tmp_path / "sealed"), "--json", cwd=made.parent)
            assert "using the bus in mybus" in told.err
            assert [line[:26] for line in json.loads(told.out)["errors"]] == [
                line[:26] for line in wrong
            ]
            assert told.code == (3 if wrong else 0)


class TestBusToml:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("name = ", "bus.toml:1:8: is not TOML"),
            ("\xff", "bus.toml: is not UTF-8 text (line 1)"),
            ('# x\nnmae = "mybus"\n', "bus.toml:2:1: unknown name nmae"),
            ('name = "My Bus"\n', "bus.toml:1:1: name is not the name of a bus"),
            (
                'name = "mybus"\nservers = []\n',
                "bus.toml:2:1: servers is not a list of 1 to 16 texts",
            ),
            ('name = "mybus"\nservers = ["x"]\n', "bus.toml:2:1: servers: not a NATS address"),
            (
                'name = "mybus"\nservers = ["nats://x"]\nbus_keys = ["x"]\n',
                "bus.toml:3:1: bus_keys: public key",
            ),
            (
                'name = "mybus"\nservers = ["nats://x"]\n',
                "bus.toml: bus_keys is not a list of 1 to 4 texts",
            ),
        ],
    )
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
        mine = "# ours\n" + (bus / "bus.toml").read_text().replace(
            "bus.example.com:15070", "127.0.0.1:1"
        )
        (bus / "bus.toml").write_text(mine)
        port = free_port()
        with up(bus, "--port", str(port)):
            assert (bus / "bus.toml").read_text() == mine.replace(
                "127.0.0.1:1", f"127.0.0.1:{port}"
            )

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
            assert {row["event"] for row in rows} >= {"folder.noted", "relay.started"}
        assert (bus / "bus.toml").read_text() == text

    def test_a_seed_in_it_is_not_repeated(self, bus: Path) -> None:
        seed = SigningKey.generate(KeyKind.BUS).seed_text
        (bus / "bus.toml").write_text(f'name = "{seed}"\n')
        assert seed[5:] not in quickly("check", cwd=bus).out


@pytest.mark.parametrize(
    ("before", "host", "port", "after"),
    [
        ("nats://127.0.0.1:4222", "127.0.0.1", None, "nats://127.0.0.1:4222"),
        ("nats://127.0.0.1:4222", "127.0.0.1", 15070, "nats://127.0.0.1:15070"),
        ("nats://127.0.0.1", "127.0.0.1", 4222, "nats://127.0.0.1"),
        ("nats://localhost:4222", "127.0.0.1", None, "nats://localhost:4222"),
        # This address is read, and never listened on.
        ("nats://127.0.0.1:4222", "0.0.0.0", None, "nats://127.0.0.1:4222"),  # noqa: S104
        ("nats://127.0.0.1:4222", "10.1.2.3", None, "nats://10.1.2.3:4222"),
        ("nats://127.0.0.1:4222", "fd00::1", 5000, "nats://[fd00::1]:5000"),
        ("nats://bus.example.com:4222", "10.1.2.3", None, "nats://bus.example.com:4222"),
        ("tls://bus.example.com:4222", "10.1.2.3", 5000, "tls://bus.example.com:5000"),
        (None, "127.0.0.1", None, "nats://127.0.0.1:4222"),
        (None, "::", 5000, "nats://127.0.0.1:5000"),
    ],
)
def test_where_the_bus_is_found(
    tmp_path: Path, before: str | None, host: str, port: int | None, after: str
) -> None:
    key = SigningKey.generate(KeyKind.BUS).public
    if before is not None:
        write_bus_file(tmp_path, BusFile("shop", (before,), (key,)))
    known = BusFolder(tmp_path).bus_file()
    assert found_at(known, "shop", key, host, port) == BusFile("shop", (after,), (key,))


@pytest.mark.parametrize("before", ["nats://bus.example.com:4222", None])
def test_a_server_with_certificates_is_found_by_tls(tmp_path: Path, before: str | None) -> None:
    key = SigningKey.generate(KeyKind.BUS).public
    if before is not None:
        write_bus_file(tmp_path, BusFile("shop", (before,), (key,)))
    known = BusFolder(tmp_path).bus_file()
    found = found_at(known, "shop", key, "127.0.0.1", 4222, tls=True)
    assert found.servers == (
        "tls://127.0.0.1:4222" if before is None else "tls://bus.example.com:4222",
    )


def test_relay_that_starts_takes_no_file_apart_twice(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second reading comes once it is connected. A large bus has a thousand files."""

    def fails(*_: object) -> None:
        raise AssertionError

    policy, watched = BusFolder(made).followed(SigningKey.generate(KeyKind.BUS).public)
    for name in ("read_yaml_tree", "read_json_tree"):
        monkeypatch.setattr(document, name, fails)
    again = watched.load().policy
    assert again is not None
    assert again.digest == policy.digest
