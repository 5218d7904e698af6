"""``sealbus certs``: the files of a bus with TLS, and the bus that runs with them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import shutil
import socket
import ssl
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sealbus import Bot, Credentials
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.certificates import LIFE, Pair, make_bus, read
from sealbus_broker.policy import replace
from sealbus_broker.policy.replace import alone
from tests.cli.command import PATIENTLY, Ran, quickly, sealbus, sealbus_beside
from tests.cli.folders import everything, facts, up
from tests.cli.pinging import pinged
from tests.ports import free_port
from tests.refusal import refusal
from tests.waiting import PATIENCE_S

BOTS = ("clock", "greeter", "listener", "operator")


def run(bus: Path, *arguments: str) -> Ran:
    ran = quickly(*arguments, cwd=bus)
    assert ran.code == 0, ran.err
    return ran


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    """A folder of a bus without TLS."""
    url = f"nats://127.0.0.1:{free_port()}"
    run(tmp_path, "init", "mybus", "--server", url)
    return tmp_path / "mybus"


@pytest.fixture
def tls_bus(bus: Path) -> Path:
    """The same after ``certs init``."""
    run(bus, "certs", "init")
    return bus


def url(bus: Path) -> str:
    servers = facts(bus)["servers"]
    assert isinstance(servers, list)
    return str(servers[0])


def age(bus: Path, days: float) -> None:
    """Make the bus's certificate this old."""
    state = bus / ".sealbus"
    authority = Pair((state / "ca.pem").read_bytes(), (state / "ca.key").read_bytes())
    names = read((state / "bus.pem").read_bytes()).names
    pair = make_bus(authority, "mybus", names, datetime.now(UTC) - timedelta(days=days))
    (state / "bus.key").write_bytes(pair.key)
    (state / "bus.pem").write_bytes(pair.certificate)


def of_another_authority(bus: Path) -> None:
    """Have bus.toml name the certificates, as if they were made elsewhere."""
    away = bus.parent / "step"
    away.mkdir()
    for name in ("ca.pem", "bus.pem", "bus.key"):
        (bus / ".sealbus" / name).rename(away / name)
    (bus / ".sealbus/ca.key").unlink()
    with (bus / "bus.toml").open("a") as file:
        file.write('\n[tls]\nca = "../step/ca.pem"\ncert = "../step/bus.pem"\n')
        file.write(f'key = "{away}/bus.key"\n')


class TestInit:
    def test_gives_the_bus_and_each_bot_certificates(self, tls_bus: Path) -> None:
        assert url(tls_bus).startswith("tls://127.0.0.1:")
        for bot in BOTS:
            files = Credentials.load(tls_bus / "credentials" / f"{bot}.toml").tls
            assert files is not None
            files.context()
        secret = [".sealbus/ca.key", ".sealbus/bus.key", "credentials/greeter.key"]
        assert [(tls_bus / one).stat().st_mode & 0o777 for one in secret] == [0o600] * 3
        assert run(tls_bus, "check").code == 0

    def test_does_nothing_the_second_time(self, tls_bus: Path) -> None:
        before = everything(tls_bus)
        assert run(tls_bus, "certs", "init").err == ""
        assert everything(tls_bus) == before

    @pytest.mark.parametrize(("days", "renewed"), [(50, False), (61, True), (91, True)])
    def test_renews_when_a_third_is_left(self, tls_bus: Path, days: int, renewed: bool) -> None:
        age(tls_bus, days)
        before = (tls_bus / ".sealbus/bus.pem").read_bytes()
        run(tls_bus, "certs", "init")
        assert ((tls_bus / ".sealbus/bus.pem").read_bytes() != before) is renewed

    def test_never_replaces_the_authority(self, tls_bus: Path) -> None:
        before = everything(tls_bus)
        run(tls_bus, "certs", "init", "--renew")
        changed = {name for name, content in everything(tls_bus).items() if content != before[name]}
        pairs = {f"credentials/{bot}.{kind}" for bot in BOTS for kind in ("pem", "key")}
        assert changed == pairs | {".sealbus/bus.pem", ".sealbus/bus.key"}

    def test_makes_no_second_authority(self, tls_bus: Path) -> None:
        """In a clone from git, which has neither the keys of the bus nor the authority."""
        shutil.rmtree(tls_bus / ".sealbus")
        before = everything(tls_bus)
        ran = quickly("certs", "init", cwd=tls_bus)
        assert (ran.code, "the authority of the bus is not in" in ran.err) == (1, True), ran.err
        assert everything(tls_bus) == before

    def test_keeps_the_names_that_were_given(self, tls_bus: Path) -> None:
        run(tls_bus, "certs", "init", "--name", "bus.example.com", "--name", "10.1.2.3")
        names = ("bus.example.com", "10.1.2.3", "localhost", "127.0.0.1", "::1")
        run(tls_bus, "certs", "init", "--renew")
        assert set(read((tls_bus / ".sealbus/bus.pem").read_bytes()).names) == set(names)

    def test_refuses_a_name_that_is_none(self, bus: Path) -> None:
        before = everything(bus)
        told = quickly("certs", "init", "--name", "a b", cwd=bus)
        assert (told.code, "no host name and no address" in told.err) == (2, True)
        assert everything(bus) == before

    def test_leaves_credentials_with_tokens_as_they_are(self, tls_bus: Path) -> None:
        path = tls_bus / "credentials/a.toml"  # before those of the others
        path.touch(mode=0o600)
        lines = (tls_bus / "bus.toml").read_text().splitlines(keepends=True)
        path.write_text(
            'bus = "mybus"\nbot = "a"\n'
            + "".join(line for line in lines if line.startswith(("servers", "bus_k")))
            + '[oidc]\ntoken_file = "/run/token"\n'
        )
        before = path.read_bytes()
        (tls_bus / "credentials/ca.crt").unlink()
        file = tls_bus / "bus.toml"
        file.write_text(file.read_text().replace("127.0.0.1", "bus.example.com"))
        run(tls_bus, "certs", "init", "--renew")
        assert path.read_bytes() == before
        assert not (tls_bus / "credentials/a.pem").exists()
        assert (tls_bus / "credentials/ca.crt").exists()
        clock = tomllib.loads((tls_bus / "credentials/clock.toml").read_text())
        assert "bus.example.com" in clock["servers"][0]
        told = quickly("check", cwd=tls_bus)
        assert "credentials/a.toml: names another address" in told.out + told.err

    def test_renews_the_certificate_of_a_bot_with_tokens(self, tls_bus: Path) -> None:
        path = tls_bus / "credentials/clock.toml"
        kept = [one for one in path.read_text().splitlines(True) if not one.startswith("seed")]
        path.write_text("".join(kept) + '[oidc]\ntoken_file = "/run/token"\n')
        there = path.read_bytes(), path.with_suffix(".pem").read_bytes()
        run(tls_bus, "certs", "init", "--renew")
        assert path.read_bytes() == there[0]
        assert path.with_suffix(".pem").read_bytes() != there[1]

    @pytest.mark.parametrize("missing", ["ca.key", "ca.pem"])
    def test_without_one_file_of_the_authority(self, tls_bus: Path, missing: str) -> None:
        (tls_bus / ".sealbus" / missing).unlink()
        told = quickly("certs", "init", cwd=tls_bus)
        assert (told.code, f".sealbus/{missing} is not\n" in told.err) == (1, True)
        assert not (tls_bus / ".sealbus" / missing).exists()

    def test_with_a_key_that_others_can_read(self, tls_bus: Path) -> None:
        (tls_bus / ".sealbus/ca.key").chmod(0o644)
        told = quickly("certs", "init", cwd=tls_bus)
        assert (told.code, "can be read by others (mode 0644)" in told.err) == (1, True)

    def test_with_certificates_of_an_authority_elsewhere(self, bus: Path) -> None:
        with (bus / "bus.toml").open("a") as file:
            file.write('\n[tls]\nca = "ca"\ncert = "cert"\nkey = "key"\n')
        told = quickly("certs", "init", cwd=bus)
        assert (told.code, "certificates of another authority: cert" in told.err) == (1, True)

    def test_on_a_disk_that_is_full_leaves_no_part(self, bus: Path) -> None:
        told = sealbus("certs", "init", cwd=bus, full_disk=True)
        assert (told.code, "cannot be written" in told.err) == (1, True)
        assert not list((bus / ".sealbus").glob("*.pem"))


class TestRepair:
    @pytest.mark.parametrize("key", [".sealbus/bus.key", "credentials/greeter.key"])
    def test_run_that_was_killed_between_two_files(self, tls_bus: Path, key: str) -> None:
        """It had written the new key, and not the certificate."""
        path = tls_bus / key
        path.write_bytes((tls_bus / "credentials/clock.key").read_bytes())
        before = everything(tls_bus)
        told = run(tls_bus, "check").out
        assert (f"{key}: is not the key of the certificate in bus.pem" in told) is ("bus" in key)
        run(tls_bus, "certs", "init")
        assert run(tls_bus, "check").out == ""
        changed = {name for name, content in everything(tls_bus).items() if content != before[name]}
        assert changed == {key, key.replace(".key", ".pem")}
        TlsFiles(tls_bus / ".sealbus/ca.pem", path.with_suffix(".pem"), path).context()
        assert run(tls_bus, "certs", "init").err == ""

    def test_key_that_is_no_key_is_replaced(self, tls_bus: Path) -> None:
        key = tls_bus / ".sealbus/bus.key"
        key.write_bytes(b"")
        run(tls_bus, "certs", "init")
        TlsFiles(tls_bus / ".sealbus/ca.pem", key.with_suffix(".pem"), key).context()

    @pytest.mark.parametrize(
        "command", [("certs", "init", "--renew"), ("certs", "new", "greeter", "--renew")]
    )
    def test_two_renewals_wait_for_each_other(
        self, tls_bus: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The key of one would otherwise be beside the certificate of the other."""
        before = everything(tls_bus)
        with alone(tls_bus / ".sealbus"), monkeypatch.context() as patch:
            patch.setattr(replace, "ALONE_S", 0.1)
            told = quickly(*command, cwd=tls_bus)
        assert (told.code, "is being edited by another command" in told.err) == (1, True), told.err
        assert everything(tls_bus) == before
        run(tls_bus, *command)


class TestNew:
    def test_renews_one_bot_if_told_to(self, tls_bus: Path) -> None:
        before = everything(tls_bus)
        run(tls_bus, "certs", "new", "greeter")
        assert everything(tls_bus) == before
        run(tls_bus, "certs", "new", "greeter", "--renew")
        changed = {name for name, content in everything(tls_bus).items() if content != before[name]}
        assert changed == {"credentials/greeter.pem", "credentials/greeter.key"}

    def test_needs_an_authority_and_a_declared_bot(self, bus: Path) -> None:
        told = quickly("certs", "new", "greeter", cwd=bus)
        assert (told.code, "this bus has no authority" in told.err) == (1, True)
        told = quickly("certs", "new", "nobody", cwd=bus)
        assert (told.code, "declares no bot nobody" in told.err) == (1, True)

    def test_a_new_bot_has_a_certificate_at_once(self, tls_bus: Path) -> None:
        run(tls_bus, "bot", "add", "shop", "--publish", "greetings.sent")
        text = (tls_bus / "credentials/shop.toml").read_text()
        assert 'ca = "ca.crt"\ncert = "shop.pem"\ncert_key = "shop.key"\n' in text
        assert read((tls_bus / "credentials/shop.pem").read_bytes()).uris == (
            "sealbus://mybus/shop",
        )

    def test_comes_beside_credentials_elsewhere(self, tls_bus: Path, tmp_path: Path) -> None:
        path = tmp_path / "away" / "order.toml"
        run(tls_bus, "keys", "new", "greeter", "--out", str(path))
        assert sorted(one.name for one in path.parent.iterdir()) == [
            "ca.crt",
            "order.key",
            "order.pem",
            "order.toml",
        ]
        files = Credentials.load(path).tls
        assert files is not None
        files.context()

    @pytest.mark.parametrize("has_ca", [True, False])
    def test_leaves_nothing_if_the_key_cannot_be_enrolled(
        self, tls_bus: Path, monkeypatch: pytest.MonkeyPatch, has_ca: bool
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system", str(tls_bus / "keys/greeter.yaml"))

        away = tls_bus / "away"
        away.mkdir()
        if has_ca:
            shutil.copy(tls_bus / "credentials/ca.crt", away)
        before = everything(tls_bus)
        monkeypatch.setattr("sealbus_broker.cli.keys.files.add_key", fail)
        told = quickly("keys", "new", "greeter", "--out", "away/order.toml", cwd=tls_bus)
        assert (told.code, "keys/greeter.yaml cannot be written" in told.err) == (1, True)
        assert everything(tls_bus) == before

    def test_leaves_nothing_beside_credentials_that_exist(self, tls_bus: Path) -> None:
        (tls_bus / "order.toml").write_text("somebody's")
        before = everything(tls_bus)
        told = quickly("keys", "new", "greeter", "--out", "order.toml", cwd=tls_bus)
        assert (told.code, "order.toml exists already" in told.err) == (1, True)
        assert everything(tls_bus) == before

    def test_replaces_no_certificate_of_another_bus(self, tls_bus: Path) -> None:
        (tls_bus / "theirs").mkdir()
        (tls_bus / "theirs/ca.crt").write_text("of another authority")
        before = everything(tls_bus)
        told = quickly("keys", "new", "greeter", "--out", "theirs/order.toml", cwd=tls_bus)
        assert (told.code, "is not the certificate of this bus's present" in told.err) == (1, True)
        assert everything(tls_bus) == before


class TestWithoutTheAuthority:
    """Its key may be kept off the machine of the bus."""

    @pytest.fixture
    def kept_off(self, tls_bus: Path) -> Path:
        (tls_bus / ".sealbus/ca.key").rename(tls_bus.parent / "ca.key")
        return tls_bus

    @pytest.mark.parametrize("out", ["credentials/greeter.toml", "away/greeter.toml"])
    def test_rotate_keeps_the_certificates(self, kept_off: Path, out: str) -> None:
        path = kept_off / "credentials/greeter.toml"
        before = Credentials.load(path)
        away = ["--out", out] if out.startswith("away") else []
        told = run(kept_off, "keys", "rotate", "greeter", *away)
        after = Credentials.load(kept_off / out)
        assert after.key.public != before.key.public
        assert before.tls is not None
        assert after.tls is not None
        assert after.tls.cert is not None
        assert before.tls.cert == path.with_suffix(".pem")
        assert after.tls.cert.samefile(before.tls.cert)
        after.tls.context()
        assert "name no certificates" not in told.err

    def test_rotate_keeps_no_certificates_of_another_bot(self, kept_off: Path) -> None:
        folder = kept_off / "credentials"
        (folder / "greeter.toml").write_bytes((folder / "listener.toml").read_bytes())
        told = run(kept_off, "keys", "rotate", "greeter", "--no-link")
        assert Credentials.load(folder / "greeter.toml").tls is None
        assert "name no certificates" in told.err

    @pytest.mark.parametrize(
        "command",
        [
            ("keys", "new", "greeter", "--out", "other.toml"),
            ("keys", "rotate", "greeter", "--out", "other.toml", "--no-link"),
            ("bot", "add", "shop", "--out", "other.toml"),
        ],
        ids=lambda command: " ".join(command[:2]),
    )
    def test_new_credentials_say_what_is_missing(
        self, kept_off: Path, command: tuple[str, ...]
    ) -> None:
        (kept_off / "credentials/greeter.toml").unlink()
        told = run(kept_off, *command)
        assert f"note: the credentials of {command[2]} name no certificates" in told.err
        assert f"`sealbus certs new {command[2]}`" in told.err
        assert Credentials.load(kept_off / "other.toml").tls is None

    def test_enrolled_key_says_what_is_missing(self, kept_off: Path) -> None:
        key = SigningKey.generate(KeyKind.BOT).public.text
        told = run(kept_off, "keys", "enrol", "greeter", key)
        assert "the credentials of greeter name no certificates" in told.err

    def test_authority_that_was_left_here_is_not_used(self, tls_bus: Path) -> None:
        """The bus has the certificates of another one since."""
        with (tls_bus / "bus.toml").open("a") as file:
            file.write('\n[tls]\nca = "ca"\ncert = "cert"\nkey = "key"\n')
        told = run(tls_bus, "keys", "new", "greeter", "--out", "other.toml")
        assert "name no certificates" in told.err
        assert not (tls_bus / "other.pem").exists()


class TestShow:
    def test_lists_names_and_times(self, tls_bus: Path) -> None:
        age(tls_bus, 61)
        told = run(tls_bus, "certs", "show", "--json").out.splitlines()
        rows = {row["file"]: row for row in map(json.loads, told)}
        assert len(rows) == 2 + len(BOTS)
        own = rows[".sealbus/bus.pem"]
        assert (own["state"], own["subject"]) == ("due", "CN=mybus/sealbus")
        assert "127.0.0.1" in own["names"]
        assert rows["credentials/clock.pem"]["names"] == ["sealbus://mybus/clock"]
        ends = datetime.strptime(rows["credentials/clock.pem"]["ends"], "%Y-%m-%dT%H:%M:%S%z")
        assert abs(ends - datetime.now(UTC) - LIFE) < timedelta(minutes=10)
        assert "due " in run(tls_bus, "certs", "show").out

    def test_says_that_there_is_none(self, bus: Path) -> None:
        told = quickly("certs", "show", cwd=bus)
        assert (told.code, "sealbus certs init" in told.err) == (1, True)


class TestUp:
    @pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104  # that is the test
    def test_all_commands_speak_tls(self, tls_bus: Path, host: str) -> None:
        with up(tls_bus, "--host", host) as log:
            pinged(lambda: quickly("ping", cwd=tls_bus))
            run(tls_bus, "pub", "greetings.sent", '{"text": "x"}', "--as", "greeter")
            run(tls_bus, "quarantine", "ls")
            run(tls_bus, "reload", "--wait", *PATIENTLY)
            run(tls_bus, "keys", "sessions")
            told = log.read_text()
        assert "nats-server.exposed" not in told
        assert f"is up at {url(tls_bus)}" in told

    async def test_sessions_show_the_certificates_of_bots(self, tls_bus: Path) -> None:
        path = tls_bus / "credentials" / "listener.toml"
        own = ssl.PEM_cert_to_DER_cert(path.with_suffix(".pem").read_text())
        with up(tls_bus):
            async with Bot(Credentials.load(path)):
                told = await sealbus_beside("keys", "sessions", "--json", cwd=tls_bus)
                (row,) = map(json.loads, told.out.splitlines())
                table = (await sealbus_beside("keys", "sessions", cwd=tls_bus)).out
        assert row["certificate"] == "CN=mybus/listener"
        assert row["certificate_sha256"] == hashlib.sha256(own).hexdigest()
        assert table.splitlines()[0].endswith("certificate")
        assert table.splitlines()[1].endswith("CN=mybus/listener")

    def test_relay_alone_speaks_tls_too(self, tls_bus: Path) -> None:
        with up(tls_bus):
            pinged(lambda: quickly("ping", "--relay", "relay", cwd=tls_bus))
            told = quickly("ping", "--server", url(tls_bus).replace("tls", "nats"), cwd=tls_bus)
        # Without TLS nothing is said on that port.
        assert told.code == 1

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ("expired", "is not valid now, only from"),
            ("other names", "is not for 127.0.0.1, where the relay finds the server"),
            ("key of another", "is not the key of the certificate"),
            ("open key", "can be read by others"),
            ("gone", "and this folder has no certificates"),
        ],
    )
    def test_certificates_that_cannot_be_used_start_nothing(
        self, tls_bus: Path, how: str, said: str
    ) -> None:
        state = tls_bus / ".sealbus"
        match how:
            case "expired":
                age(tls_bus, 91)
            case "other names":
                authority = Pair((state / "ca.pem").read_bytes(), (state / "ca.key").read_bytes())
                pair = make_bus(authority, "mybus", ["bus.example.com"], datetime.now(UTC))
                (state / "bus.key").write_bytes(pair.key)
                (state / "bus.pem").write_bytes(pair.certificate)
            case "key of another":
                (state / "bus.key").write_bytes((tls_bus / "credentials/clock.key").read_bytes())
            case "open key":
                (state / "bus.key").chmod(0o644)
            case "gone":
                (state / "bus.pem").unlink()
        told = sealbus("up", cwd=tls_bus)
        assert (told.code, said in told.err) == (1, True), told.err
        assert '"hint"' in told.err or "hint:" in told.err

    def test_hint_of_a_missing_name_keeps_the_others(self, tls_bus: Path) -> None:
        run(tls_bus, "certs", "init", "--name", "bus.example.com")
        told = quickly("up", "--host", "10.9.8.7", cwd=tls_bus)
        assert told.code == 1
        command = "certs init --name bus.example.com --name 10.9.8.7"
        assert f"`sealbus {command}` adds it" in told.err
        run(tls_bus, *command.split())
        names = read((tls_bus / ".sealbus/bus.pem").read_bytes()).names
        assert {"bus.example.com", "10.9.8.7"} < set(names)

    def test_files_of_another_authority_are_used_by_bus_toml(self, tls_bus: Path) -> None:
        of_another_authority(tls_bus)
        with up(tls_bus):
            pinged(lambda: quickly("ping", cwd=tls_bus))
            run(tls_bus, "pub", "greetings.sent", '{"text": "x"}', "--as", "greeter")

    def test_hints_name_no_command_that_another_authority_refuses(self, tls_bus: Path) -> None:
        age(tls_bus, 91)
        of_another_authority(tls_bus)
        started = sealbus("up", cwd=tls_bus)
        assert (started.code, "is not valid now" in started.err) == (1, True), started.err
        checked = run(tls_bus, "check")
        assert "step/bus.pem: is expired" in checked.out
        for told in (started.err, checked.out):
            assert "renew it at the authority that made it; bus.toml names the file" in told
            assert "certs init" not in told


class Tap:
    """Somebody on the wire, who passes everything on and keeps a copy."""

    def __init__(self, port: int) -> None:
        self.heard = bytearray()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ended = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener:
            while True:
                client, _ = self._listener.accept()
                if self._ended:
                    return client.close()
                threading.Thread(target=self._tap, args=[client], daemon=True).start()

    def _tap(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
            back.start()
            self._pass_on(client, server)
            back.join(PATIENCE_S)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while got := source.recv(65536):
                self.heard += got
                target.sendall(got)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Take no more connections."""
        self._ended = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(PATIENCE_S)


@contextmanager
def tap(port: int) -> Iterator[Tap]:
    one = Tap(port)
    yield one
    one.close()


@pytest.mark.parametrize("encrypted", [True, False], ids=["TLS", "control"])
def test_a_tap_sees_no_payload(bus: Path, encrypted: bool) -> None:
    if encrypted:
        run(bus, "certs", "init")
    scheme, _, port = url(bus).partition("://127.0.0.1:")
    words = "the secret of the shop"
    with up(bus), tap(int(port)) as wire:
        through = f"{scheme}://127.0.0.1:{wire.port}"
        for arguments in (
            ("pub", "greetings.sent", json.dumps({"text": words}), "--as", "greeter"),
            ("sub", "greetings.sent", "--from", "all", "-n", "1", "--as", "listener"),
        ):
            run(bus, *arguments, "--server", through)
        assert len(wire.heard) > 1000
        assert (words.encode() in wire.heard) is not encrypted
        assert (b"INFO {" in wire.heard) is not encrypted


async def test_a_client_without_certificate_is_refused(bus: Path) -> None:
    await asyncio.to_thread(sealbus, "certs", "init", cwd=bus)
    path = bus / "credentials/greeter.toml"
    with up(bus):
        async with asyncio.timeout(PATIENCE_S), Bot.from_file(path) as bot:
            await bot.publish("greetings.sent", {"text": "hello"})
        text = path.read_text()
        path.write_text("".join(one for one in text.splitlines(True) if "cert" not in one))
        await refusal(Bot.from_file(path), "certificate required")
        # Also on the raw wire: after the handshake nothing comes but an alert.
        context = ssl.create_default_context(cafile=str(bus / "credentials/ca.crt"))
        port = int(url(bus).rpartition(":")[2])
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            await asyncio.to_thread(_first_line, port, context)


def _first_line(port: int, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return secure.recv(100)
