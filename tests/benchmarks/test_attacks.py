"""The corpus of attacks, on the peers that need no other packages: Sealbus and plain NATS.

A real server and a real relay run.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema_rs
import pytest

from benchmarks import attacks
from benchmarks.attacking.attacker import FAKE, HONEST, INVALID, Attacker, changed, twice
from benchmarks.attacking.nats import imitated
from benchmarks.attacking.tap import Tap
from benchmarks.attacks import (
    ATTACKERS,
    ATTACKS,
    VARIANTS,
    Invalid,
    Row,
    attacked,
    attacked_bus,
    attempt,
    show,
)
from benchmarks.peers import CLASSES
from benchmarks.workload import ORDER_SCHEMA, encode
from examples.robbery.frames import FrameReader, msg
from tests.attacks.families import NAMED
from tests.listening import listening


@pytest.fixture
def json_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peers on NATS use orjson, which the project itself does not need."""
    if importlib.util.find_spec("orjson") is None:
        monkeypatch.setitem(sys.modules, "orjson", SimpleNamespace(dumps=encode, loads=json.loads))


# ---- Sealbus and plain NATS ----------------------------------------------------------------------


async def test_sealbus_lets_nothing_through_where_plain_nats_lets_most(
    tmp_path: Path, json_library: None
) -> None:
    async with attacked_bus(tmp_path / "bus") as bus:
        sealbus, nats = await asyncio.gather(
            attacked("sealbus", bus, tmp_path), attacked("nats", bus, tmp_path)
        )
    assert {row.attack: (row.let_through, row.note) for row in sealbus} == {
        attack.key: (False, "") for attack in ATTACKS
    }
    through = {row.attack for row in nats if row.let_through}
    assert through >= {
        "injected",
        "altered",
        "replay",
        "other-name",
        "not-granted",
        "schema",
        "named-twice",
    }
    assert {row.attack for row in nats if row.let_through is False} >= {"anonymous"}, (
        "the server asks for a login"
    )
    assert {row.attack for row in nats if row.let_through is None} == {
        "replay-late",
        "same-id",
        "future",
        "long-life",
        "revoked",
    }


# ---- the trial itself, on a peer made for it -----------------------------------------------------


class Wire:
    """A peer in memory.

    ``believes`` says whether a receiver takes a message. If it raises, it ends the receiver.
    """

    name = "wire"

    def __init__(self, believes: Callable[[str], bool]) -> None:
        self.believes = believes
        self.hears: dict[int, Callable[[], None]] = {}

    async def start(self, folder: Path, pairs: int) -> dict[str, Any]:
        return {"wire": self}

    async def stop(self) -> None:
        pass

    def carry(self, pair: int, what: str) -> None:
        if pair in self.hears and self.believes(what):
            self.hears[pair]()

    def receiver(self) -> Any:
        async def open_all(setup: dict[str, Any], pairs: int, received: Callable[[], None]) -> None:
            self.hears = dict.fromkeys(range(pairs), received)

        return SimpleNamespace(open=open_all, close=self.stop)

    def sender(self) -> Any:
        async def nothing(*_: object) -> None:
            pass

        async def send(pair: int, order: object) -> None:
            self.carry(pair, "honest")

        return SimpleNamespace(open=nothing, send=send, close=self.stop)


def attacker(does: Callable[[Any], None]) -> type[Attacker]:
    """An attacker that does the same for every attack."""

    async def honest(self: Any) -> None:
        self.setup["wire"].carry(0, "honest")

    async def attack(self: Any) -> None:
        does(self)

    methods = dict.fromkeys(Attacker.__abstractmethods__, attack) | {"honest": honest}
    return type("Stub", (Attacker,), methods)


def forge(who: Any) -> None:
    who.setup["wire"].carry(0, "forged")


async def tried(
    believes: Callable[[str], bool], does: Callable[[Any], None], tmp_path: Path
) -> tuple[bool, str]:
    wire: Any = Wire(believes)
    return await attempt(wire, attacker(does), ATTACKS[0], tmp_path)


async def test_an_attack_that_the_receiver_takes_was_let_through(tmp_path: Path) -> None:
    assert await tried(lambda _: True, forge, tmp_path) == (True, "")


async def test_an_attack_that_the_receiver_ignores_was_stopped(tmp_path: Path) -> None:
    assert await tried(lambda what: what == "honest", forge, tmp_path) == (False, "")


async def test_an_attack_that_arrives_late_was_let_through(tmp_path: Path) -> None:
    def later(who: Any) -> None:
        asyncio.get_running_loop().call_later(0.1, forge, who)

    assert await tried(lambda _: True, later, tmp_path) == (True, "")


async def test_an_honest_message_of_the_attacker_is_no_attack(tmp_path: Path) -> None:
    def meant(who: Any) -> None:
        who.meant += 1
        who.setup["wire"].carry(1, "honest")

    assert await tried(lambda _: True, meant, tmp_path) == (False, "")


async def test_a_receiver_that_an_attack_ends_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "ARRIVE_S", 0.1)

    def end(who: Any) -> None:
        del who.setup["wire"].hears[1]

    assert await tried(lambda _: True, end, tmp_path) == (
        False,
        "of 2 receivers, 1 heard nothing afterwards",
    )


async def test_attack_that_ends_the_receiver_may_be_let_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "ARRIVE_S", 0.2)
    monkeypatch.setattr(attacks, "SOON_S", 0.0)

    def late_and_last(who: Any) -> None:
        hears = who.setup["wire"].hears.pop(1)
        asyncio.get_running_loop().call_later(0.05, hears)

    assert await tried(lambda _: True, late_and_last, tmp_path) == (
        True,
        "of 2 receivers, 1 heard nothing afterwards",
    )


async def test_nothing_is_said_of_a_peer_that_stops_the_honest_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "ARRIVE_S", 0.1)
    with pytest.raises(Invalid, match="did not arrive"):
        await tried(lambda _: False, forge, tmp_path)


# ---- the corpus ----------------------------------------------------------------------------------


def test_each_attack_is_a_method_and_each_method_an_attack() -> None:
    assert {attack.method for attack in ATTACKS} | {"honest"} == set(Attacker.__abstractmethods__)
    assert len({attack.key for attack in ATTACKS}) == len(ATTACKS)


def test_each_attack_is_of_the_corpus() -> None:
    assert [name for attack in ATTACKS for name in attack.cases if name not in NAMED] == []
    assert len({attack.family for attack in ATTACKS}) > 5


def test_every_peer_has_its_attacker() -> None:
    assert list(ATTACKERS) == [name for name in CLASSES if name not in VARIANTS]
    assert {name.rpartition("-")[0] for name in VARIANTS} <= set(ATTACKERS)


def test_forged_orders_are_not_stopped_by_the_schema() -> None:
    schema = jsonschema_rs.validator_for(ORDER_SCHEMA)
    for made in (HONEST, FAKE, changed(HONEST)):
        assert schema.is_valid(made)
    assert changed(HONEST) != HONEST
    assert not schema.is_valid(INVALID)


def test_the_ambiguous_order_is_valid_either_way() -> None:
    pairs = json.loads(twice(FAKE), object_pairs_hook=lambda pairs: pairs)
    assert [value for name, value in pairs if name == "currency"] == ["GBP", "EUR"]
    schema = jsonschema_rs.validator_for(ORDER_SCHEMA)
    for currency in ("GBP", "EUR"):
        assert schema.is_valid({**FAKE, "currency": currency})


# ---- on the line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        msg("bench.core.0", b"7", b"honest"),
        msg("_INBOX.x", b"7", b"honest", reply="$JS.ACK.x"),
        b"HMSG bench.fast.0 7 $JS.ACK.x 18 24\r\nNATS/1.0\r\na: b\r\n\r\nhonest\r\n",
    ],
)
def test_a_frame_is_imitated_with_another_payload(frame: bytes) -> None:
    line = b"INFO {}\r\nPONG\r\n" + frame + msg("other", b"8", b"something else")
    forged = imitated(line, b"honest", b"forged order")
    assert forged is not None
    (before,), (after,) = FrameReader().feed(frame), FrameReader().feed(forged)
    assert after.payload == b"forged order"
    assert (after.verb, after.subject) == (before.verb, before.subject)
    assert forged.replace(b"forged order", b"honest").split(b"\r\n")[1:] == frame.split(b"\r\n")[1:]


def test_nothing_is_imitated_where_nothing_has_passed() -> None:
    assert imitated(b"INFO {}\r\n", b"honest", b"forged") is None


async def test_a_tap_passes_on_and_puts_in() -> None:
    gone = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello " + await reader.readline())
        await reader.read()
        writer.close()
        gone.set()

    async with listening(greet) as port:
        tap = Tap(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", await tap.open())
        writer.write(b"bot\n")
        assert await reader.readline() == b"hello bot\n"
        assert tap.saw(b"hello")
        tap.inject(lambda seen: b"forged\n" if b"hello" in seen else None)
        assert await reader.readline() == b"forged\n"
        with pytest.raises(LookupError):
            tap.inject(lambda _: None)
        writer.close()
        await gone.wait()
        await tap.close()


# ---- the table -----------------------------------------------------------------------------------


def test_the_matrix_tells_which_attacks_were_let_through(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        Row(attack.key, attack.what, attack.needs, attack.cases, "wire", False)
        for attack in ATTACKS
    ]
    rows[0] = replace(rows[0], let_through=True)
    rows[1] = replace(rows[1], let_through=None, note="there is [nothing] to try")
    show([asdict(row) for row in rows])
    printed = capsys.readouterr().out
    assert printed.count("through ") == 1 + printed.count("lets through ")
    assert "wire, injected: there is [nothing] to try" in printed
