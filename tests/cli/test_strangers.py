"""Credentials in a folder that have another bus, another key or another address."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from sealbus.credentials import Credentials
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.cli.shared.folder import BusFolder
from tests.cli.command import quickly


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

    def test_a_node_that_is_not_named_is_noted(self, bus: Path) -> None:
        text = (bus / "bus.toml").read_text()
        one = 'servers = ["nats://bus.example.com:15070"'
        assert one in text
        (bus / "bus.toml").write_text(text.replace(one, f'{one}, "nats://n2.example.com:4222"'))
        told = "names not all nodes of the bus: nats://bus.example.com:15070"
        assert self.check(bus) == [told]

    @pytest.mark.parametrize(
        ("tls", "is_named"), [("", True), ('\n[tls]\nca = "a"\ncert = "b"\nkey = "c"\n', False)]
    )
    def test_hint_about_nodes_names_a_command_that_works(
        self, bus: Path, tls: str, is_named: bool
    ) -> None:
        """`certs init` refuses certificates of another authority."""
        text = (bus / "bus.toml").read_text().replace("nats://", "tls://")
        one = 'servers = ["tls://bus.example.com:15070"'
        text = text.replace(one, f'{one}, "tls://n2.example.com:4222"')
        (bus / "bus.toml").write_text(text + tls)
        self.other(bus, servers='["tls://bus.example.com:15070"]')
        checked = quickly("check", cwd=bus)
        assert "names not all nodes of the bus" in checked.out
        assert ("certs init" in checked.out) is is_named

    def test_tls_is_not_taken_away_by_the_folder(
        self, bus: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
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
        assert (told.code, key in told.err, "sealbus keys new greeter" in told.err) == (
            1,
            True,
            True,
        )

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
        assert (
            "names another address than bus.toml: nats://elsewhere:4222" in capsys.readouterr().err
        )

    def test_a_file_of_another_bot_is_not_spoken_with(self, bus: Path) -> None:
        """`--as greeter` never speaks as the operator, whatever file is in the folder."""
        shutil.copy(bus / "credentials/operator.toml", bus / "credentials/greeter.toml")
        for command in (["pub", "greetings.sent", "{}"], ["sub", "greetings.sent"]):
            told = quickly(*command, "--as", "greeter", cwd=bus)
            assert (
                told.code,
                "greeter.toml holds the credentials of operator, not of greeter" in told.err,
            ) == (
                1,
                True,
            )
        assert self.check(bus) == ["holds the credentials of another bot, operator"]

    @pytest.mark.parametrize(
        "name", ["../credentials/greeter", "Greeter", "greeter.", "greeter\u200b"]
    )
    def test_a_bot_under_another_spelling_is_nobody(self, bus: Path, name: str) -> None:
        told = quickly("pub", "greetings.sent", "{}", "--as", name, cwd=bus)
        assert (told.code, "is not valid" in told.err) == (2, True)

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
