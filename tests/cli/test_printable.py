"""Text from elsewhere, as people see it.

Letters of every script are shown. Nothing steers a terminal or deceives the eye.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus_broker.cli.messages import bots
from sealbus_broker.cli.messages.bulk import told
from sealbus_broker.cli.running.logs import _ForPeople
from sealbus_broker.cli.watching import quarantine
from sealbus_broker.cli.watching.quarantine import _field, _remark
from sealbus_broker.escape import (
    MAX_MARKS,
    printable,
    readable,
    readable_bytes,
    readable_json,
    reshown,
)
from tests.cli.command import quickly
from tests.gate.world import burst

ANY_TEXT = st.text(st.characters(codec=None))


@pytest.mark.parametrize(
    "text", ["日本語", "Zoë", "Đặng Thị", "Ελληνικά", "Жёлтый", "한국어", "हिन्दी", "€ 5", "☂"]
)
def test_letters_are_shown(text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    assert readable(text) == text
    assert readable_json(text) == f'"{text}"'


@pytest.mark.parametrize(
    "char",
    [
        *"\x00\x07\x1b\n\r\t\x7f\x80\x9b\xa0\xad",
        *"\u200b\u200d\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069",
        *"\u2800\u3000\u3164\uffa0\ufeff\ufe0f",
        *"\u180b\u180c\u180d\u180f\U00016fe4\U0001d159",
        *"\ud800\ue000\U000e0041\U000e0100\U0010ffff",
    ],
    ids=lambda char: f"U+{ord(char):04X}",
)
def test_a_character_that_steers_or_hides_is_escaped(char: str) -> None:
    assert char not in readable(f"a{char}b")
    assert char not in readable_json(f"a{char}b")


def test_marks_stand_on_letters_and_in_no_towers() -> None:
    mark = "\u0301"
    assert readable(f"e{mark}") == f"e{mark}"
    assert mark not in readable(f"{mark}e")
    assert mark not in readable(f" {mark}")
    assert mark not in readable_json(mark)
    assert readable("e" + mark * 40, 1000).count(mark) == MAX_MARKS


@given(ANY_TEXT)
def test_shown_json_means_the_same(text: str) -> None:
    assert json.loads(readable_json({text: [text]})) == {text: [text]}


@given(ANY_TEXT, st.integers(0, 100))
def test_it_stays_within_its_limit(text: str, limit: int) -> None:
    for shown in (printable(text, limit), readable(text, limit), reshown(text, limit)):
        assert len(shown) <= limit
        assert all(char.isprintable() for char in shown)
    assert len(readable_bytes(text, limit).encode()) <= limit


@given(st.text(st.characters(codec="ascii")))
def test_ascii_text_looks_as_it_always_did(text: str) -> None:
    assert readable(text, 1000) == printable(text, 1000)


@given(ANY_TEXT)
def test_a_text_that_was_escaped_is_not_escaped_again(text: str) -> None:
    once = readable(text, 10_000)
    assert reshown(once, 10_000) == once


@given(ANY_TEXT)
def test_a_text_that_was_not_escaped_elsewhere_is_escaped(text: str) -> None:
    shown = reshown(text, 10_000)
    assert shown.replace("\\", "") == readable(text, 10_000).replace("\\", "")


# ---- what commands show --------------------------------------------------------------------------

PAYLOAD = {"数量": "三つ\u202e"}
SHOWN = '{"数量": "三つ\\u202e"}'
"""The letters as they are. The character that turns the direction is escaped."""


def test_inspect_shows_letters(tmp_path: Path) -> None:
    (tmp_path / "item").write_bytes(burst(PAYLOAD))
    assert SHOWN in quickly("inspect", "item", cwd=tmp_path).out


def test_request_shows_letters(bus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(payload=PAYLOAD, bot="clock")
    monkeypatch.setattr(bots, "run", lambda _: answer)
    asked = quickly("request", "clock.ask", "{}", "--as", "listener", cwd=bus)
    assert asked.out == f"{SHOWN}\n"


def test_quarantine_show_shows_letters(bus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"sequence": 1, "detail": "/数量: type"}
    monkeypatch.setattr(quarantine, "run", lambda _: (record, burst(PAYLOAD)))
    told = quickly("quarantine", "show", "1", cwd=bus)
    assert SHOWN in told.out
    assert "/数量: type" in told.out


DETAIL = r"/数量: type" + "\n" + r"(root): additionalProperties a\u202eb"
"""Two faults, as a relay writes them."""
LINES = DETAIL.split("\n")


def test_faults_of_a_refusal_are_shown_as_the_relay_wrote_them() -> None:
    row = {"verdict": "dropped", "reason": "schema", "detail": DETAIL, "record": None}
    assert told(row).endswith("; ".join(LINES))
    assert "; ".join(LINES) in _remark({"detail": DETAIL, "claimed": None, "proven": True})
    assert all(line in _field("detail", DETAIL) for line in LINES)


def test_the_log_on_a_terminal_shows_them_so_too() -> None:
    event = {"event": "message.refused", "level": "info", "detail": DETAIL, "bot": "a b"}
    shown = _ForPeople()(None, "info", event)
    assert LINES[0] in shown
    assert LINES[1] in shown
    assert "\x1b[2J" not in _ForPeople()(None, "info", {**event, "bot": "a \x1b[2J"})
    assert r"a \x1b[2J" in _ForPeople()(None, "info", {**event, "bot": "a \x1b[2J"})
