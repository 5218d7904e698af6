"""A bot comes and goes in one step, or not at all."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from sealbus_broker.policy import document
from sealbus_broker.policy.tree import Node
from sealbus_broker.policy.yaml_tree import read_yaml_tree
from tests.cli.command import quickly, sealbus
from tests.cli.folders import everything, unwritable, up
from tests.ports import free_port


class TestBot:
    def test_comes_in_one_step_and_can_speak(self, tmp_path: Path) -> None:
        port = free_port()
        assert (
            quickly("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
        )
        folder = tmp_path / "mybus"
        told = quickly(
            "bot",
            "add",
            "shop",
            "-p",
            "greetings.sent",
            "-s",
            "clock.ask",
            "-r",
            "operator",
            cwd=folder,
        )
        assert told.code == 0
        assert told.out == "credentials/shop.toml\n"
        checked = quickly("check", cwd=folder)
        assert (checked.code, checked.out) == (0, "")
        with up(folder):
            assert (
                sealbus("pub", "greetings.sent", '{"text": "x"}', "--as", "shop", cwd=folder).code
                == 0
            )
            assert quickly("quarantine", "ls", "--as", "shop", cwd=folder).code == 0

    def test_goes_in_one_step(self, bus: Path) -> None:
        before = everything(bus)
        assert quickly("bot", "add", "shop", "-p", "greetings.sent", cwd=bus).code == 0
        dry = quickly("bot", "rm", "shop", "--dry-run", cwd=bus)
        assert (dry.code, "-  shop:" in dry.err, "delete keys/shop.yaml" in dry.err) == (
            0,
            True,
            True,
        )
        assert "shop" in quickly("keys", "ls", cwd=bus).out
        assert quickly("bot", "rm", "shop", "--yes", cwd=bus).code == 0
        assert everything(bus) == before

    @pytest.mark.parametrize("folder", ["schemas", "keys"])
    def test_comes_and_goes_beside_links_within_the_folder(self, bus: Path, folder: str) -> None:
        shared = bus / "shared"
        shared.mkdir()
        for path in (bus / folder).iterdir():
            path.rename(shared / path.name)
            path.symlink_to(f"../shared/{path.name}")
        assert quickly("check", cwd=bus).code == 0
        told = quickly("bot", "add", "shop", "-p", "greetings.sent", cwd=bus)
        assert told.code == 0, told.err
        assert quickly("bot", "rm", "shop", "--yes", cwd=bus).code == 0
        assert all(path.is_symlink() for path in (bus / folder).iterdir())

    def test_goes_with_each_key_file_taken_apart_once(
        self, bus: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The folder is read twice. A large bus has a thousand files."""
        taken: Counter[str] = Counter()

        def noted(file: str, text: str) -> Node:
            taken[file] += 1
            return read_yaml_tree(file, text)

        monkeypatch.setattr(document, "read_yaml_tree", noted)
        assert quickly("bot", "rm", "clock", "--dry-run", cwd=bus).code == 0
        assert {taken[f"keys/{path.name}"] for path in (bus / "keys").iterdir()} == {1}

    def test_is_not_added_beside_a_link_out_of_the_folder(self, bus: Path, tmp_path: Path) -> None:
        schema = next((bus / "schemas").iterdir())
        schema.rename(tmp_path / schema.name)
        schema.symlink_to(tmp_path / schema.name)
        told = quickly("bot", "add", "shop", "-p", "greetings.sent", cwd=bus)
        assert (told.code, "leads out of the folder" in told.err) == (1, True), told.err

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
            (["shop", "-p", ">"], "may not be a wildcard"),
            (["shop", "-r", "operators"], "did you mean operator?"),
            (["shop", "--out", "keys/shop.toml"], "for public keys"),
            (["shop", "--out", "credentials/greeter.toml"], "exists already"),
        ],
    )
    def test_that_cannot_be_added_changes_nothing(
        self, bus: Path, arguments: list[str], said: str
    ) -> None:
        before = everything(bus)
        told = quickly("bot", "add", *arguments, cwd=bus)
        assert (told.code, said in told.err) == (1, True), told.err
        assert everything(bus) == before

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["Shop"], "is not valid"),
            (["sealbus"], "the relay's own name"),
            (["shop", "-p", "Bad Pattern"], "is not valid"),
            (["shop", "-s", "a..b"], "is not valid"),
        ],
    )
    def test_with_an_invalid_name_or_pattern_is_wrong_usage(
        self, bus: Path, arguments: list[str], said: str
    ) -> None:
        before = everything(bus)
        told = quickly("bot", "add", *arguments, cwd=bus)
        assert (told.code, said in told.err) == (2, True)
        assert everything(bus) == before

    def test_that_is_not_removed_names_the_file_in_the_way(
        self, bus: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And no file of the copy in which the change is tried."""
        before = everything(bus)

        def refuse(path: Path, *_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"{path}")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            told = quickly("bot", "rm", "clock", "--yes", "--dir", str(bus), cwd=bus)
        assert (told.code, f"{bus}/keys/clock.yaml cannot be written" in told.err) == (1, True)
        assert everything(bus) == before

    def test_on_a_full_disk_changes_nothing(self, bus: Path) -> None:
        before = everything(bus)
        for command in (["bot", "add", "shop"], ["keys", "new", "greeter", "--out", "x.toml"]):
            told = sealbus(*command, cwd=bus, full_disk=True)
            assert (told.code, "cannot be written" in told.err) == (1, True)
            assert everything(bus) == before

    def test_that_is_removed_in_part_is_accounted_for(
        self, bus: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk is full after the files are deleted. The same command goes on later."""

        def full(path: Path, _: str) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{path}")

        with monkeypatch.context() as patch:
            patch.setattr("sealbus_broker.cli.joining.bot.replace_file", full)
            told = quickly("bot", "rm", "clock", "--yes", "--dir", str(bus), cwd=bus)
        assert (told.code, "policy.yaml cannot be written: No space left" in told.err) == (1, True)
        assert (
            f"deleted {bus}/keys/clock.yaml, {bus}/credentials/clock.toml; `sealbus bot rm clock` "
            "goes on with the rest" in told.err
        )
        assert quickly("bot", "rm", "clock", "--yes", cwd=bus).code == 0
        assert quickly("check", cwd=bus).code == 0

    def test_whose_key_cannot_be_written_is_not_declared(self, bus: Path) -> None:
        before = everything(bus)
        with unwritable(bus / "keys"):
            assert quickly("bot", "add", "shop", cwd=bus).code == 1
        assert everything(bus) == before

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"\xff", "policy.yaml: is not UTF-8 text (line 1)"),
            (
                "bots:\u2028".encode(),
                "policy.yaml: line 1: this character ends a line for some readers only",
            ),
            (b"#" * 2**21, "policy.yaml: is too large"),
        ],
    )
    def test_of_a_policy_that_cannot_be_read_changes_nothing(
        self, bus: Path, content: bytes, said: str
    ) -> None:
        (bus / "policy.yaml").write_bytes(content)
        before = everything(bus)
        for command in (["bot", "add", "shop"], ["bot", "rm", "greeter", "--yes"]):
            told = quickly(*command, cwd=bus)
            assert (told.code, said in told.err) == (1, True), told.err
        assert everything(bus) == before

    def test_that_nobody_declared_but_that_has_files(self, bus: Path) -> None:
        policy = bus / "policy.yaml"
        policy.write_text(policy.read_text().replace("  clock:\n    subscribe: [clock.ask]\n", ""))
        assert quickly("check", cwd=bus).code == 3
        assert quickly("bot", "rm", "clock", "--yes", cwd=bus).code == 0
        assert quickly("check", cwd=bus).code == 0
        told = quickly("bot", "rm", "clok", "--yes", cwd=bus)
        assert (told.code, "there is no bot clok" in told.err) == (1, True)
