"""``sealbus keys protect`` and ``enrol``: no seed in plain text, and no harm to the folder."""

from __future__ import annotations

import base64
import os
import pty
import subprocess
import tomllib
from pathlib import Path

import pytest

from sealbus import Credentials, CredentialsError
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from tests.cli.bus import clean_environment
from tests.cli.command import SEALBUS, Ran, quickly, sealbus
from tests.cli.folders import everything, facts, unwritable
from tests.client.ssh_agents import blob
from tests.waiting import PATIENCE_S

PASSPHRASE = "correct horse battery staple"
GREETER = "credentials/greeter.toml"


def seed_of(folder: Path) -> str:
    return str(tomllib.loads((folder / GREETER).read_text())["seed"])


def protect(folder: Path, passphrase: str = PASSPHRASE, name: str = GREETER) -> Ran:
    return sealbus(
        "keys", "protect", name, cwd=folder, variables={"SEALBUS_PASSPHRASE": passphrase}
    )


class TestProtect:
    def test_the_seed_is_not_in_the_file_any_more(
        self, bus: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, seed = Credentials.load(bus / GREETER), seed_of(bus)
        told = protect(bus)
        assert (told.code, told.out) == (0, "")
        assert "greeter needs SEALBUS_PASSPHRASE_FILE or SEALBUS_PASSPHRASE" in told.err
        assert [name for name, data in everything(bus).items() if seed.encode() in data] == []
        assert (bus / GREETER).stat().st_mode & 0o777 == 0o600
        monkeypatch.setenv("SEALBUS_PASSPHRASE", PASSPHRASE)
        after = Credentials.load(bus / GREETER)
        assert after.key_in_memory.seed_text == seed
        assert (after.bus, after.bot, after.servers, after.bus_keys) == (
            before.bus,
            before.bot,
            before.servers,
            before.bus_keys,
        )
        assert PASSPHRASE not in told.out + told.err + repr(after)

    def test_check_needs_no_passphrase(self, bus: Path) -> None:
        assert protect(bus).code == 0
        told = quickly("check", cwd=bus)
        assert (told.code, "credentials" in told.out + told.err) == (0, False), told
        greeter = bus / GREETER
        greeter.write_text(greeter.read_text().replace("sealed1", "sealed2"))
        told = quickly("check", cwd=bus)
        assert "sealed_seed has the version 2" in told.out + told.err

    def test_speaking_needs_the_passphrase(self, bus: Path) -> None:
        assert protect(bus).code == 0
        told = quickly("pub", "greetings.sent", "{}", "--as", "greeter", cwd=bus)
        assert (told.code, "sealed_seed needs a passphrase" in told.err) == (1, True)
        told = sealbus(
            *("pub", "greetings.sent", "{}", "--as", "greeter"),
            cwd=bus,
            variables={"SEALBUS_PASSPHRASE": "not the right one"},
        )
        assert (told.code, "the passphrase does not open sealed_seed" in told.err) == (1, True)
        assert "not the right one" not in told.err

    def test_a_second_time_changes_nothing(self, bus: Path) -> None:
        assert protect(bus).code == 0
        before = everything(bus)
        told = protect(bus)
        assert (told.code, "has no seed to protect" in told.err) == (1, True)
        assert everything(bus) == before

    @pytest.mark.parametrize(
        ("passphrase", "said"),
        [
            ("short", "the passphrase has 5 characters; expected at least 12"),
            (" " * 20, "is empty"),
            ("x" * 2000, "has 2000 bytes; expected at most 1024"),
        ],
    )
    def test_a_bad_passphrase_changes_nothing(self, bus: Path, passphrase: str, said: str) -> None:
        before = everything(bus)
        told = protect(bus, passphrase)
        assert (told.code, said in told.err) == (2, True), told.err
        assert everything(bus) == before

    def test_without_a_terminal_somebody_has_to_say_it(self, bus: Path) -> None:
        before = everything(bus)
        told = quickly("keys", "protect", GREETER, cwd=bus)
        assert (told.code, "set SEALBUS_PASSPHRASE_FILE" in told.err) == (2, True)
        assert everything(bus) == before

    def test_a_file_that_is_no_credentials(self, bus: Path) -> None:
        for name, said in (
            ("nowhere.toml", "nowhere.toml cannot be read"),
            ("policy.yaml", "policy.yaml can be read by others"),
        ):
            told = protect(bus, name=name)
            assert (told.code, said in told.err) == (1, True), told.err

    def test_a_folder_that_cannot_be_written_keeps_the_seed(self, bus: Path) -> None:
        before = everything(bus)
        with unwritable(bus / "credentials"):
            told = protect(bus)
        assert (told.code, "cannot be written" in told.err) == (1, True), told.err
        assert everything(bus) == before

    def test_a_full_disk_keeps_the_seed(self, bus: Path) -> None:
        before = everything(bus)
        told = sealbus(
            *("keys", "protect", GREETER),
            cwd=bus,
            variables={"SEALBUS_PASSPHRASE": PASSPHRASE},
            full_disk=True,
        )
        assert (told.code, "cannot be written: File too large" in told.err) == (1, True), told.err
        assert everything(bus) == before

    def test_a_link_stays_one(self, bus: Path) -> None:
        (bus / "greeter.toml").symlink_to(GREETER)
        assert protect(bus, name="greeter.toml").code == 0
        assert (bus / "greeter.toml").is_symlink()
        assert "sealed_seed" in (bus / GREETER).read_text()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_the_file_still_belongs_to_the_bot(self, bus: Path) -> None:
        os.chown(bus / GREETER, 65534, 65534)
        assert protect(bus).code == 0
        status = (bus / GREETER).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65534, 0o600)

    @pytest.mark.parametrize(("second", "code"), [(PASSPHRASE, 0), ("another", None)])
    def test_a_terminal_asks_twice(self, bus: Path, second: str, code: int | None) -> None:
        before = (bus / GREETER).read_text()
        told, ended = at_a_terminal(bus, [PASSPHRASE, second])
        assert "Passphrase: " in told
        assert PASSPHRASE not in told
        assert ended == code
        assert ((bus / GREETER).read_text() == before) == (code is None)
        assert ("do not match" in told) == (code is None)


def at_a_terminal(folder: Path, answers: list[str]) -> tuple[str, int | None]:
    """What the command shows on a terminal, and its exit code if it ended."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*SEALBUS, "keys", "protect", GREETER],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=clean_environment(),
        start_new_session=True,
    ) as process:
        os.close(theirs)
        told = b""
        for answer in answers:
            asked = told.count(b": ")
            while told.count(b": ") == asked:
                told += os.read(ours, 4096)
            os.write(ours, answer.encode() + b"\n")
        end = (b"from now on", b"do not match")
        while not any(one in told for one in end):
            told += os.read(ours, 4096)
        if end[1] in told:
            process.kill()
            process.wait(PATIENCE_S)
            code = None
        else:
            code = process.wait(PATIENCE_S)
    os.close(ours)
    return told.decode(), code


class TestEnrol:
    def test_a_key_of_openssh(self, bus: Path, tmp_path: Path) -> None:
        key = SigningKey.generate(KeyKind.BOT)
        line = f"ssh-ed25519 {base64.b64encode(blob(key)).decode()} me@here"
        told = quickly("keys", "enrol", "greeter", line, cwd=bus)
        assert told.code == 0, told.err
        fields = tomllib.loads(told.out)
        assert fields == {
            "bus": "mybus",
            "bot": "greeter",
            "ssh_agent": key.public.text,
            "servers": facts(bus)["servers"],
            "bus_keys": facts(bus)["bus_keys"],
        }
        assert f"added {key.public.text} to greeter" in told.err
        assert key.public.text in quickly("keys", "show", "greeter", cwd=bus).out
        path = tmp_path / "greeter.toml"
        path.write_text(told.out)
        path.chmod(0o600)
        assert Credentials.load(path, unlock=False).key.public == key.public
        assert quickly("check", cwd=bus).code == 0

    def test_words_of_the_line_as_the_shell_gives_them(self, bus: Path) -> None:
        key = SigningKey.generate(KeyKind.BOT)
        words = ["ssh-ed25519", base64.b64encode(blob(key)).decode(), "me@here"]
        assert quickly("keys", "enrol", "greeter", *words, cwd=bus).code == 0

    def test_a_public_key_whose_place_the_operator_knows(self, bus: Path, tmp_path: Path) -> None:
        key = SigningKey.generate(KeyKind.BOT)
        told = quickly("keys", "enrol", "greeter", key.public.text, cwd=bus)
        assert (told.code, "seed" in tomllib.loads(told.out)) == (0, False)
        path = tmp_path / "greeter.toml"
        path.write_text(told.out)
        path.chmod(0o600)
        with pytest.raises(CredentialsError, match="seed must be a text"):
            Credentials.load(path)
        (tmp_path / "seed").write_text(key.seed_text)
        (tmp_path / "seed").chmod(0o600)
        path.write_text(told.out + 'seed_file = "seed"\n')
        assert Credentials.load(path).key.public == key.public

    def test_no_seed_is_written(self, bus: Path) -> None:
        before = everything(bus)
        key = SigningKey.generate(KeyKind.BOT).public.text
        assert quickly("keys", "enrol", "greeter", key, cwd=bus).code == 0
        after = everything(bus)
        assert {name for name in after if after[name] != before.get(name)} == {"keys/greeter.yaml"}

    @pytest.mark.parametrize(
        ("key", "code", "said"),
        [
            ("SEED", 2, "got a seed"),
            ("x", 2, "KEY is neither a public key (U…) nor a line of OpenSSH"),
            ("U", 2, "is not base32 text"),
            ("N", 2, "is not base32 text"),
            ("ssh-rsa AAAA", 2, "is not of the kind ssh-ed25519"),
            ("ssh-ed25519 AAAA", 2, "the OpenSSH key is damaged"),
            ("LISTENER", 1, "is a key of listener: a key belongs to one bot"),
            ("GREETER", 1, "keys/greeter.yaml has this key already"),
            ("BUS", 1, "is the bus's own key"),
        ],
    )
    def test_a_key_that_cannot_be_added(self, bus: Path, key: str, code: int, said: str) -> None:
        seed = SigningKey.generate(KeyKind.BOT).seed_text
        bus_key = PublicKey.parse(facts(bus)["bus_keys"][0], KeyKind.BUS)  # type: ignore[index]
        given = {
            "SEED": seed,
            "BUS": PublicKey(bus_key.raw, KeyKind.BOT).text,
            **{
                name.upper(): Credentials.load(bus / f"credentials/{name}.toml").key.public.text
                for name in ("listener", "greeter")
            },
        }
        before = everything(bus)
        told = quickly("keys", "enrol", "greeter", given.get(key, key), cwd=bus)
        assert (told.code, said in told.err, told.out) == (code, True, ""), told.err
        assert seed[2:] not in told.err
        assert everything(bus) == before

    def test_a_bot_that_is_not_declared(self, bus: Path) -> None:
        key = SigningKey.generate(KeyKind.BOT).public.text
        told = quickly("keys", "enrol", "greter", key, cwd=bus)
        assert (told.code, "did you mean greeter?" in told.err) == (1, True)
