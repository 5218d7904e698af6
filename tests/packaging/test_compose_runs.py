"""The commands of compose.yaml run in their order, with paths and ports of this machine.

A Docker engine would add the images, the users and the mounts. ``test_compose`` reads those.
"""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import SEALBUS, Ran, sealbus
from tests.packaging.containers import read_compose, sealbus_commands
from tests.packaging.release import ROOT
from tests.packaging.test_repository import SEED
from tests.ports import free_port
from tests.waiting import PATIENCE_S

COMPOSE = read_compose(ROOT / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
COMMANDS = sealbus_commands(COMPOSE)


@dataclass(frozen=True, slots=True)
class Machine:
    """The paths and ports of this machine in place of the container's."""

    folder: Path
    client_port: int
    monitor_port: int

    def here(self, text: str) -> str:
        """Translate one argument of a container's command."""
        for there, name in (("/bus", "bus"), ("/nats-config", "nats-config"), ("/data", "data")):
            text = re.sub(rf"(?<![\w/]){there}(?=/|$)", str(self.folder / name), text)
        text = text.replace("//nats:4222", f"//127.0.0.1:{self.client_port}")
        text = text.replace("0.0.0.0:4222", f"127.0.0.1:{self.client_port}")
        return re.sub(r"(?<=[:=])8222\b", str(self.monitor_port), text)

    def arguments(self, name: str) -> list[str]:
        """The arguments of a service or a health check."""
        return [self.here(argument) for argument in COMMANDS[name]]

    def run(self, name: str) -> Ran:
        """Run a command that ends on its own."""
        return sealbus(*self.arguments(name), cwd=self.folder)

    @property
    def seeds(self) -> Path:
        """The relay's secrets."""
        return self.folder / "bus/.sealbus/relay.toml"

    @property
    def nats_conf(self) -> Path:
        """The files that the nats service reads."""
        return self.folder / "nats-config/nats.conf"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """The volumes, empty, and the mounts of the example bus."""
    for name in ("bus", "nats-config", "data"):
        (tmp_path / name).mkdir()
    # Mounts are read-only in compose.yaml. A link to the checkout would let an error write there.
    subprocess.run(
        ["cp", "-R", ROOT / "policy.yaml", ROOT / "schemas", ROOT / "keys", tmp_path / "bus"],
        check=True,
    )
    (tmp_path / "bus/.sealbus").mkdir(mode=0o700)
    return Machine(tmp_path, free_port(), free_port())


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """The processes to end after the test, the last one first."""
    with ExitStack() as stack:
        yield stack


def _start(command: list[str], log: Path, processes: ExitStack) -> subprocess.Popen[bytes]:
    output = processes.enter_context(log.open("wb"))
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    processes.callback(process.wait)
    processes.callback(process.kill)
    return process


def _wait_until(healthy: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask again until the answer is yes, as Docker does with a health check."""
    end = time.monotonic() + PATIENCE_S
    while not healthy():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def _nats_is_healthy(machine: Machine) -> bool:
    (url,) = [part for part in SERVICES["nats"]["healthcheck"]["test"] if part.startswith("http")]
    try:
        # The URL is compose.yaml's.
        with urllib.request.urlopen(machine.here(url), timeout=PATIENCE_S) as answer:  # noqa: S310
            healthy: bool = answer.status == 200
            return healthy
    except OSError:
        return False


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_knows_every_flag(name: str) -> None:
    subcommand, *arguments = COMMANDS[name]
    done = sealbus(subcommand, "--help", cwd=ROOT)
    assert done.code == 0, done.err
    for argument in arguments:
        flag = argument.partition("=")[0]
        assert re.search(rf"{flag}(?![\w-])", done.out), flag


def test_prepare_makes_the_seeds_once_and_keeps_them(machine: Machine) -> None:
    first = machine.run("prepare")
    assert first.code == 0, first.err
    seeds = machine.seeds.read_bytes()
    assert SEED.search(seeds)
    assert stat.S_IMODE(machine.seeds.stat().st_mode) == 0o600
    machine.nats_conf.write_text("damaged")

    again = machine.run("prepare")
    assert again.code == 0, again.err
    assert machine.seeds.read_bytes() == seeds
    assert "damaged" not in machine.nats_conf.read_text()


def test_prepare_shows_no_seed_to_nats_nor_to_the_log(machine: Machine) -> None:
    done = machine.run("prepare")
    assert done.code == 0, done.err
    shown = [
        file for folder in ("nats-config", "data") for file in (machine.folder / folder).rglob("*")
    ]
    assert {file.name for file in shown} == {"nats.conf", "ca.pem", "bus.pem", "bus.key"}
    authority = (machine.seeds.parent / "ca.key").read_bytes()
    for file in shown:
        assert not SEED.search(file.read_bytes())
        assert file.read_bytes() != authority
    assert stat.S_IMODE((machine.nats_conf.parent / "bus.key").stat().st_mode) == 0o600
    assert not SEED.search((done.out + done.err).encode())


def test_prepare_says_the_bus_key_that_credentials_need(machine: Machine) -> None:
    done = machine.run("prepare")
    assert re.search(r"\bN[A-Z2-7]{55}\b", done.out)


def test_prepare_keeps_certificates_that_are_valid(machine: Machine) -> None:
    files = [machine.seeds.parent / name for name in ("ca.pem", "bus.pem", "bus.key")]
    assert machine.run("prepare").code == 0
    before = [file.read_bytes() for file in files]
    assert machine.run("prepare").code == 0
    assert [file.read_bytes() for file in files] == before
    copies = [machine.nats_conf.parent / file.name for file in files]
    assert [copy.read_bytes() for copy in copies] == before


def test_nats_writes_its_log_where_docker_looks_for_it(machine: Machine) -> None:
    """A log file would be on a read-only file system.

    ``docker compose logs`` would not show it.
    """
    assert machine.run("prepare").code == 0
    assert not re.search(
        r"^\s*(log_file|logfile|pid_file|pidfile)\b", machine.nats_conf.read_text(), re.MULTILINE
    )


def test_steps_of_the_readme_make_a_sound_folder(tmp_path: Path) -> None:
    """`init` has made keys of its own, and the volume has those of the bus."""
    assert sealbus("init", "own", cwd=tmp_path).code == 0
    own, volume = tmp_path / "own", tmp_path / "bus"
    (volume / ".sealbus").mkdir(mode=0o700, parents=True)
    for name in ("policy.yaml", "schemas", "keys"):
        subprocess.run(["cp", "-R", own / name, volume], check=True)
    (tmp_path / "nats-config").mkdir()
    assert Machine(tmp_path, free_port(), free_port()).run("prepare").code == 0
    section = (ROOT / "README.md").read_text().partition("\n## Containers\n")[2]
    one, two, three, four = re.findall(
        r"^\d\. .*\n(?: {3}.*\n)*", section.partition("\n## ")[0], re.MULTILINE
    )

    subprocess.run(["cp", volume / "bus.toml", own], check=True)
    deleted = re.search(r"[Dd]elete\s+`(\S+)`", one)
    assert deleted is not None, one
    (own / deleted[1]).unlink()
    for name in ("ca.pem", "ca.key"):
        assert name in two
        subprocess.run(["cp", "-p", volume / ".sealbus" / name, own / ".sealbus"], check=True)
    assert "sealbus check" in three
    named = re.findall(r"^note: (credentials/\S+):", sealbus("check", cwd=own).out, re.MULTILINE)
    assert named
    for file in named:
        (own / file).unlink()
    assert "sealbus keys new BOT" in four
    for file in named:
        assert sealbus("keys", "new", Path(file).stem, cwd=own).code == 0
    checked = sealbus("check", cwd=own)
    assert (checked.code, checked.out) == (0, ""), checked.out
    assert {Path(file).with_suffix(".pem").name for file in named} == {
        one.name for one in (own / "credentials").glob("*.pem")
    }


def _a_bot_is_heard(machine: Machine) -> bool:
    """Whether a bot of the operator's own folder gets a verdict, as the README describes."""
    own, bus = machine.folder / "own", machine.folder / "bus"
    if not own.exists():
        (own / ".sealbus").mkdir(parents=True)
        for name in ("policy.yaml", "bus.toml", "schemas", "keys"):
            subprocess.run(["cp", "-R", bus / name, own], check=True)
        for name in ("ca.pem", "ca.key"):
            subprocess.run(["cp", "-p", bus / ".sealbus" / name, own / ".sealbus"], check=True)
        assert sealbus("keys", "new", "order", cwd=own).code == 0
        # In a container, both are one mount.
        subprocess.run(["cp", own / "keys/order.yaml", bus / "keys"], check=True)
    server = f"--servers=tls://127.0.0.1:{machine.client_port}"
    ran = sealbus("pub", "orders.placed", "{}", "--as", "order", server, cwd=own)
    return ran.code == 3  # it is refused, because the schema asks for more


def test_the_services_come_up_healthy_and_stop_cleanly(
    machine: Machine, processes: ExitStack
) -> None:
    prepared = machine.run("prepare")
    assert prepared.code == 0, prepared.err
    program, *arguments = [machine.here(part) for part in SERVICES["nats"]["command"]]
    # of this environment: the same version as the image, which test_compose checks
    nats_server = str(Path(sys.executable).with_name(program))

    before = machine.run("relay health")
    assert before.code == 1, "healthy without a NATS"
    assert before.err.startswith("error: ")

    nats_log = machine.folder / "nats.log"
    nats = _start([nats_server, *arguments], nats_log, processes)
    _wait_until(lambda: _nats_is_healthy(machine), nats, nats_log)
    assert any((machine.folder / "data").iterdir()), "JetStream stores elsewhere than on its volume"
    assert machine.run("relay health").code == 1, "healthy without a relay"

    relay_log = machine.folder / "relay.log"
    relay = _start([*SEALBUS, *machine.arguments("relay")], relay_log, processes)
    _wait_until(lambda: machine.run("relay health").code == 0, relay, relay_log)

    _wait_until(lambda: _a_bot_is_heard(machine), relay, relay_log)

    relay.send_signal(signal.SIGTERM)
    assert relay.wait(timeout=PATIENCE_S) == 0, relay_log.read_text()
    assert machine.run("relay health").code == 1, "healthy after the relay has gone"
    assert not SEED.search(relay_log.read_bytes() + nats_log.read_bytes())
