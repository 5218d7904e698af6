"""``sealbus keys rotate-bus`` and ``show-bus``, and the notes of ``check`` about bus keys."""

from __future__ import annotations

import base64
import json
import shutil
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sealbus.credentials import Credentials
from sealbus.protocol.keyring import seal_link
from sealbus_broker.policy.bus_file import BusFile, read_bus_file, write_bus_file
from sealbus_broker.relay.secrets import BusSecrets
from tests.cli.bus import running_bus
from tests.cli.command import Ran, quickly, wait_for
from tests.cli.folders import everything
from tests.cli.pinging import pinged
from tests.scene import now_ms

HOUR = 3_600_000


@pytest.fixture
def bus(bus: Path) -> Path:
    """The bus is not up, and its address is of this machine: so a refusal comes at once."""
    for file in (bus / "bus.toml", *(bus / "credentials").iterdir()):
        text = file.read_text()
        file.write_text(text.replace("nats://bus.example.com:15070", "nats://127.0.0.1:1"))
    return bus


def run(bus: Path, *command: str) -> Ran:
    return quickly("keys", *command, cwd=bus)


def rows(bus: Path) -> list[dict[str, Any]]:
    told = run(bus, "show-bus", "--json")
    assert told.code == 0, told.err
    return [json.loads(line) for line in told.out.splitlines()]


def states(bus: Path) -> list[str]:
    return [row["state"] for row in rows(bus)]


def secrets(bus: Path) -> BusSecrets:
    return BusSecrets.load(bus / ".sealbus/relay.toml")


def facts(bus: Path) -> BusFile:
    found = read_bus_file(bus, [])
    assert found is not None
    return found


def begin(bus: Path, *, from_ms: int, end_ms: int) -> BusSecrets:
    """A rotation that was begun earlier, with these times from now."""
    file = bus / ".sealbus/relay.toml"
    now = now_ms()
    made = BusSecrets.load(file).rotated(
        "mybus", now_ms=now, from_ms=now + from_ms, end_ms=now + end_ms, kept_ms=HOUR
    )
    made.rewrite(file)
    write_bus_file(bus, replace(facts(bus), bus_keys=made.publics, links=made.links))
    return made


def test_new_bus_has_one_key_in_use(bus: Path) -> None:
    (row,) = rows(bus)
    assert (row["state"], row["until"]) == ("in use", None)
    assert row["key"] == secrets(bus).bus.public.text
    begun = datetime.fromisoformat(row["from"])
    assert (datetime.now(UTC) - begun).total_seconds() < 3600
    assert run(bus, "show-bus").out.splitlines()[0].split() == ["key", "state", "from", "until"]


def test_rotation_makes_a_key_and_links_it(bus: Path) -> None:
    first = secrets(bus).bus.public
    before = everything(bus / "credentials")
    told = run(bus, "rotate-bus", "--overlap", "2h")
    assert told.code == 0, told.err
    made = secrets(bus)
    assert made.next is not None
    assert told.out == f"{made.next.public.text}\n"
    assert facts(bus).bus_keys == (first, made.next.public)
    assert facts(bus).links == made.links
    (link,) = made.chain
    assert (link.bus, link.number, link.end_ms - link.from_ms) == ("mybus", 1, 2 * HOUR)
    # The longest session, a minute, and the rounding to seconds.
    assert 11 * 60_000 - 60_000 < link.from_ms - now_ms() <= 11 * 60_000 + 1000
    assert states(bus) == ["in use", "next"]
    assert everything(bus / "credentials") == before
    for said in ("made the next bus key", "copy ", "relays will seal", "rotate-bus --finish"):
        assert said in told.err
    assert "bots do not learn the new key yet" in told.err
    assert made.next.seed_text not in told.out + told.err
    assert quickly("check", cwd=bus).code == 0


def test_rotation_that_is_under_way_is_not_begun_again(bus: Path) -> None:
    assert run(bus, "rotate-bus").code == 0
    made = secrets(bus)
    # As if it had been killed before it wrote bus.toml.
    write_bus_file(bus, replace(facts(bus), bus_keys=(made.bus.public,), links=()))
    told = run(bus, "rotate-bus")
    assert (told.code, told.out) == (0, f"{made.publics[-1].text}\n")
    assert secrets(bus).publics == facts(bus).bus_keys == made.publics
    assert facts(bus).links == made.links


def test_old_key_is_not_deleted_while_relays_need_it(bus: Path) -> None:
    assert run(bus, "rotate-bus").code == 0
    before = everything(bus)
    told = run(bus, "rotate-bus", "--finish")
    assert told.code == 1
    assert "relays seal with the old bus key until" in told.err
    assert everything(bus) == before


def test_finish_deletes_the_old_key(bus: Path) -> None:
    made = begin(bus, from_ms=-1000, end_ms=HOUR)
    assert states(bus) == ["ending", "in use"]
    noted = quickly("check", cwd=bus)
    assert "the old bus key is not needed any more" in noted.out
    told = run(bus, "rotate-bus", "--finish")
    assert told.code == 0, told.err
    done = secrets(bus)
    assert (done.bus.public, done.next) == (made.publics[-1], None)
    assert made.bus.seed_text not in (bus / ".sealbus/relay.toml").read_text()
    assert facts(bus).bus_keys == made.publics
    assert states(bus) == ["ending", "in use"]
    again = run(bus, "rotate-bus", "--finish")
    assert (again.code, "nothing to do" in again.err) == (0, True)
    assert "not needed any more" not in quickly("check", cwd=bus).out


def test_finish_without_a_rotation_does_nothing(bus: Path) -> None:
    before = everything(bus)
    told = run(bus, "rotate-bus", "--finish")
    assert (told.code, told.out, "nothing to do" in told.err) == (0, "", True)
    assert everything(bus) == before


def test_new_credentials_name_all_keys_that_count(bus: Path) -> None:
    made = begin(bus, from_ms=-1000, end_ms=HOUR)
    assert run(bus, "new", "greeter", "--out", "new.toml").code == 0
    assert Credentials.load(bus / "new.toml").bus_keys == {key.raw for key in made.publics}


def test_credentials_with_an_ended_key_work_and_are_noted(bus: Path) -> None:
    begin(bus, from_ms=-2000, end_ms=-1000)
    assert run(bus, "rotate-bus", "--finish").code == 0
    made = secrets(bus)
    # As the next rotation leaves it, when the streams have forgotten the first key.
    write_bus_file(bus, replace(facts(bus), bus_keys=(made.bus.public,)))
    assert states(bus) == ["ended", "in use"]
    told = quickly("check", "--json", cwd=bus)
    assert told.code == 0, told.err
    found = [json.loads(line) for line in told.out.splitlines()]
    noted = [one for one in found if one["file"].startswith("credentials/")]
    assert len(noted) == 4
    for one in noted:
        assert one["what"] == "names only keys of the bus that have ended"
        assert "sealbus keys rotate" in one["hint"]


def test_bus_key_that_is_too_old_is_noted(bus: Path) -> None:
    policy = (bus / "policy.yaml").read_text()
    (bus / "policy.yaml").write_text(policy.replace("limits:\n", "limits:\n  key_age: 30d\n", 1))
    write_bus_file(bus, replace(facts(bus), made_ms=(now_ms() // 1000 - 31 * 86_400) * 1000))
    told = quickly("check", cwd=bus)
    assert told.code == 0, told.out
    assert "the key of the bus is 31 days old" in told.out
    assert "sealbus keys rotate-bus" in told.out


def test_overlap_is_an_hour_at_least(bus: Path) -> None:
    before = everything(bus)
    told = run(bus, "rotate-bus", "--overlap", "59m")
    assert (told.code, "shorter than 1h" in told.err) == (2, True)
    assert everything(bus) == before


def test_clone_shows_keys_and_makes_none(clone: Path) -> None:
    assert len(run(clone, "show-bus", "--json").out.splitlines()) == 1
    told = run(clone, "rotate-bus")
    assert told.code == 1
    assert "copy relay.toml from the machine where the bus runs" in told.err


def test_link_of_somebody_else_is_a_problem(bus: Path) -> None:
    made = begin(bus, from_ms=HOUR, end_ms=2 * HOUR)
    forged = seal_link(made.issuer, made.chain[0])
    text = tomllib.loads((bus / "bus.toml").read_text())
    assert len(text["links"]) == 1
    write_bus_file(bus, replace(facts(bus), links=()))
    (bus / "bus.toml").write_text(
        (bus / "bus.toml").read_text().replace("links = []", f"links = {_texts(forged)}")
    )
    told = quickly("check", cwd=bus)
    assert told.code == 3
    assert "links: a link that its old key has not sealed" in told.out


def _texts(link: bytes) -> str:
    return json.dumps([base64.b64encode(link).decode()])


@pytest.mark.slow
def test_running_bus_follows_without_a_restart(tmp_path: Path) -> None:
    sent = ("pub", "greetings.sent", '{"text": "hello"}', "--as", "greeter")
    with running_bus(tmp_path) as running:
        bus, log = tmp_path / "mybus", tmp_path / "up.log"
        told = running.run("keys", "rotate-bus")
        assert told.code == 0, told.err
        assert "do not learn" not in told.err
        assert running.run(*sent).code == 0
        assert "bus-key.changed" not in log.read_text()
        # A copy of the folder from before, as another machine may have it.
        other = tmp_path / "copy"
        shutil.copytree(bus, other, ignore=shutil.ignore_patterns("jetstream"))
        made = secrets(bus)
        (other / ".sealbus/relay.toml").unlink()
        replace(made, next=None, links=()).write(other / ".sealbus/relay.toml")
        before = everything(other)
        told = running.run("keys", "rotate-bus", "--dir", str(other))
        assert told.code == 1
        assert "this relay has an old bus key" in told.err
        assert "copy .sealbus/relay.toml here" in told.err
        assert everything(other) == before
    (tmp_path / "other").mkdir()
    with running_bus(tmp_path / "other") as running:
        bus, log = tmp_path / "other/mybus", tmp_path / "other/up.log"
        begin(bus, from_ms=0, end_ms=HOUR)
        wait_for(log, "bus-key.changed")
        assert running.run(*sent).code == 0
        pinged(lambda: running.run("ping"))
        told = running.run("keys", "rotate-bus", "--finish")
        assert told.code == 0, told.err
        assert running.run(*sent).code == 0
        pinged(lambda: running.run("ping"))
        assert states(bus) == ["ending", "in use"]
