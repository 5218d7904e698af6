"""Sender links in key files: which are followed, and which are problems."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_SENDER_LINKS
from sealbus.protocol.sender_links import link_text, parse_link, sign_link, split_links
from sealbus_broker.gate.policy import BotKey
from sealbus_broker.policy.keys import add_key, set_link, set_time
from sealbus_broker.policy.loader import Loaded, load
from sealbus_broker.policy.scaffold import scaffold
from sealbus_broker.policy.sender_links import chains
from tests.gate.world import KEYS, NOW, flip, known_seed

BUS = "hello"
BOT = "greeter"
AT = datetime(2026, 11, 1, tzinfo=UTC)
LATER = datetime(2026, 11, 2, tzinfo=UTC)
FIRST, SECOND, THIRD = (KEYS[name] for name in ("order", "order-next", "rival"))


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def link(old: SigningKey, new: SigningKey, at: datetime = LATER, **names: str) -> bytes:
    facts = {"bus": BUS, "bot": BOT} | names
    return sign_link(old, new.public.raw, **facts, at_ms=ms(at))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bus whose greeter has two keys."""
    path = tmp_path / BUS
    scaffold(path, BUS)
    (path / "keys" / f"{BOT}.yaml").unlink(missing_ok=True)
    add_key(path, BOT, FIRST.public, AT)
    add_key(path, BOT, SECOND.public, AT)
    return path


def links_to(folder: Path, key: SigningKey) -> list[bytes]:
    """The old keys of the links that relays put beside messages under ``key``."""
    policy = load(folder).policy
    assert policy is not None, load(folder).problems
    found = policy.links_to(BOT, key.public.raw)
    return [one.old for one in split_links(found)] if found else []


def told(loaded: Loaded) -> tuple[list[str], list[str]]:
    """The texts of the problems and of the notes about links."""
    return (
        [one.what for one in loaded.problems],
        [one.what for one in loaded.notes if "link" in one.what],
    )


def test_a_link_is_written_read_and_followed(folder: Path) -> None:
    file = folder / "keys" / f"{BOT}.yaml"
    file.write_text(file.read_text() + "    # of the new laptop\n")
    set_link(folder, BOT, SECOND.public.raw, link(FIRST, SECOND))
    assert "# of the new laptop" in file.read_text()
    assert links_to(folder, SECOND) == [FIRST.public.raw]
    assert links_to(folder, FIRST) == []
    assert told(load(folder)) == ([], [])


def test_a_key_is_added_with_its_link(folder: Path) -> None:
    set_link(folder, BOT, SECOND.public.raw, link(FIRST, SECOND))
    add_key(folder, BOT, THIRD.public, LATER, link(SECOND, THIRD))
    assert links_to(folder, THIRD) == [SECOND.public.raw, FIRST.public.raw]


def test_a_revocation_afterwards_leaves_the_link(folder: Path) -> None:
    set_link(folder, BOT, SECOND.public.raw, link(FIRST, SECOND))
    # In the second of the link too: times in the files are whole seconds.
    set_time(folder, BOT, [FIRST.public.raw], "revoked", LATER)
    assert links_to(folder, SECOND) == [FIRST.public.raw]
    assert told(load(folder)) == ([], [])


@pytest.mark.parametrize("field", ["revoked", "not_after"])
def test_link_of_a_key_that_had_ended_is_not_followed(folder: Path, field: str) -> None:
    set_link(folder, BOT, SECOND.public.raw, link(FIRST, SECOND))
    end = datetime.fromtimestamp(ms(LATER) / 1000 - 1, UTC)
    set_time(folder, BOT, [FIRST.public.raw], field, end)
    assert links_to(folder, SECOND) == []
    problems, notes = told(load(folder))
    assert (problems, len(notes)) == ([], 1)
    assert "was not valid when the link was made" in notes[0]


def test_link_of_before_its_key_is_not_followed(folder: Path) -> None:
    before = datetime.fromtimestamp(ms(AT) / 1000 - 1, UTC)
    set_link(folder, BOT, SECOND.public.raw, link(FIRST, SECOND, before))
    assert links_to(folder, SECOND) == []


def test_link_of_a_key_that_is_not_in_the_file_is_not_followed(folder: Path) -> None:
    set_link(folder, BOT, SECOND.public.raw, link(THIRD, SECOND))
    assert links_to(folder, SECOND) == []
    problems, notes = told(load(folder))
    assert (problems, len(notes)) == ([], 1)


@pytest.mark.parametrize(
    "forged",
    [
        link(FIRST, SECOND, bot="listener"),
        link(FIRST, SECOND, bus="bazaar"),
        link(FIRST, THIRD),
        FIRST.public.raw + link(THIRD, SECOND)[32:],
        flip(link(FIRST, SECOND), -1),
    ],
    ids=["another bot", "another bus", "another key", "another signer", "another time"],
)
def test_forged_link_is_a_problem(folder: Path, forged: bytes) -> None:
    set_link(folder, BOT, SECOND.public.raw, forged)
    (problem,) = load(folder).problems
    assert (problem.file, "not signed by its old key" in problem.what) == (
        "keys/greeter.yaml",
        True,
    )
    assert problem.line > 0


@pytest.mark.parametrize("text", ["", "x", "AAAA", link_text(b"x" * 102)[:-4], "1", "[]"])
def test_text_that_is_no_link_is_a_problem(folder: Path, text: str) -> None:
    file = folder / "keys" / f"{BOT}.yaml"
    file.write_text(file.read_text() + f"    link: {text}\n")
    (problem,) = load(folder).problems
    assert problem.what == "not a sender link, which is 136 characters of base64"


def test_links_in_a_circle_are_a_problem(folder: Path) -> None:
    set_link(folder, BOT, SECOND.public.raw, link(FIRST, SECOND))
    set_link(folder, BOT, FIRST.public.raw, link(SECOND, FIRST))
    problems, _ = told(load(folder))
    assert problems == ["the link leads back to the key that it comes from"] * 2


def test_session_issuer_has_no_links(folder: Path) -> None:
    add_key(folder, "sealbus", THIRD.public, AT)
    add_key(folder, "sealbus", KEYS["stranger"].public, AT, link(THIRD, KEYS["stranger"]))
    problems, _ = told(load(folder))
    assert problems == ["the bus's session issuer has no links"]


def test_a_long_chain_keeps_its_newest_links() -> None:
    keys = [
        SigningKey(known_seed(f"chain {number}"), KeyKind.BOT)
        for number in range(MAX_SENDER_LINKS + 3)
    ]
    known = {one.public.raw: BotKey(one.public.raw, 0) for one in keys}
    for old, new in pairwise(keys):
        made = sign_link(old, new.public.raw, bus=BUS, bot=BOT, at_ms=NOW)
        known[new.public.raw] = replace(known[new.public.raw], link=made)
    found = split_links(chains(known)[keys[-1].public.raw])
    newest = [one.public.raw for one in reversed(keys[-MAX_SENDER_LINKS - 1 : -1])]
    assert [one.old for one in found] == newest


def test_a_link_as_text_is_read_back() -> None:
    made = link(FIRST, SECOND)
    assert parse_link(link_text(made)) == made
    assert len(link_text(made)) == 136


def test_link_is_not_blamed_for_a_bus_without_a_name(folder: Path) -> None:
    set_link(folder, BOT, SECOND.public.raw, link(FIRST, SECOND))
    policy = folder / "policy.yaml"
    policy.write_text(policy.read_text().replace(f"bus: {BUS}", "bus: no name", 1))
    assert told(load(folder))[0] == ["bus name 'no name' is not valid"]
