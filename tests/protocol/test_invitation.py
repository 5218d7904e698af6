"""The token of an invitation: its parts, and each mistake in copying it."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import InvalidInput, hide_seeds
from sealbus.invitation import MAX_CHARS, JoinToken
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_TIME_MS

KEY = SigningKey(bytes(range(32)), KeyKind.BOT)
BUS_KEYS = [SigningKey(bytes([at]) * 32, KeyKind.BUS).public.raw for at in range(1, 6)]
TOKEN = JoinToken(
    "shop", "order", KEY, frozenset(BUS_KEYS[:2]), ("tls://a.example:4222", "tls://b:1"), 2**40
)
TEXT = TOKEN.encode()
BEGIN = "sealbus-join-1-"
FIELDS = (
    "shop",
    "order",
    KEY.raw_seed,
    b"".join(BUS_KEYS[:1]),
    "nats://127.0.0.1:4222",
    2**40,
)


def text_of(body: bytes) -> str:
    crc = zlib.crc32(BEGIN.encode() + body).to_bytes(4, "big")
    return BEGIN + base64.urlsafe_b64encode(body + crc).decode().rstrip("=")


def refusal(text: str) -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        JoinToken.decode(text)
    told = f"{refused.value.what} {refused.value.hint}"
    assert KEY.seed_text not in told
    assert text[len(BEGIN) : len(BEGIN) + 12] not in told or len(text) < 40
    return refused.value


def test_token_is_read_as_it_was_written() -> None:
    read = JoinToken.decode(TEXT)
    assert (read.bus, read.bot, read.servers) == (TOKEN.bus, TOKEN.bot, TOKEN.servers)
    assert (read.bus_keys, read.ends_ms) == (TOKEN.bus_keys, TOKEN.ends_ms)
    assert read.key.seed_text == KEY.seed_text
    assert read.encode() == TEXT


def test_space_around_a_token_is_ignored() -> None:
    assert JoinToken.decode(f"\n  {TEXT}\r\n").key.seed_text == KEY.seed_text


def test_token_shows_no_seed_when_it_is_printed() -> None:
    assert KEY.seed_text not in repr(TOKEN)
    assert repr(KEY.raw_seed)[2:20] not in repr(TOKEN)


def test_errors_show_no_token() -> None:
    assert hide_seeds(f"no such command {TEXT}") == "no such command (a token, not shown)"


@pytest.mark.parametrize("at", range(len(BEGIN), len(TEXT)))
def test_wrong_character_is_found_by_the_checksum(at: int) -> None:
    wrong = TEXT[:at] + ("A" if TEXT[at] != "A" else "B") + TEXT[at + 1 :]
    assert "wrong checksum" in refusal(wrong).what


@pytest.mark.parametrize("length", range(len(BEGIN), len(TEXT)))
def test_cut_token_is_found_by_the_checksum(length: int) -> None:
    assert "a character is wrong or missing" in refusal(TEXT[:length]).what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "does not begin with sealbus-join-1-"),
        ("hello", "does not begin with sealbus-join-1-"),
        (KEY.seed_text, "does not begin with sealbus-join-1-"),
        (TEXT[1:], "does not begin with sealbus-join-1-"),
        (TEXT.replace("join-1-", "join-2-"), "has version 2; expected 1"),
        (TEXT.replace("join-1-", "join-01-"), "has version 01; expected 1"),
        (f"{TEXT[:40]} {TEXT[40:]}", "an unknown character at place 41"),
        (f"{TEXT[:40]}\n{TEXT[40:]}", "an unknown character at place 41"),
        (TEXT + "=", "an unknown character"),
        (TEXT + "é", "an unknown character"),
        (BEGIN + "A" * MAX_CHARS, f"at most {MAX_CHARS}"),
    ],
)
def test_mistake_in_copying_is_named(text: str, what: str) -> None:
    error = refusal(text)
    assert what in error.what
    assert error.hint


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({0: "Shop"}, "is not a name"),
        ({1: ""}, "is not a name"),
        ({2: bytes(31)}, "its seed has 31 bytes"),
        ({2: bytes(33)}, "its seed has 33 bytes"),
        ({3: b""}, "1 to 4 keys"),
        ({3: b"".join(BUS_KEYS)}, "1 to 4 keys"),
        ({3: BUS_KEYS[0] + b"x"}, "not a valid Ed25519 key"),
        ({3: (1).to_bytes(32, "little")}, "not a valid Ed25519 key"),
        ({4: ""}, "not a NATS address"),
        ({4: "nats://a  nats://b"}, "not a NATS address"),
        ({4: "nats://user:secret@a"}, "not a NATS address"),
        ({4: "nats://a tls://b"}, "stand together"),
        ({5: -1}, "its end is not a time"),
        ({5: MAX_TIME_MS + 1}, "its end is not a time"),
        ({5: "never"}, "not what `sealbus invite` writes"),
        ({1: None}, "not what `sealbus invite` writes"),
    ],
)
def test_bad_field_is_refused(change: dict[int, object], what: str) -> None:
    JoinToken.decode(text_of(pack_fields(FIELDS)))
    fields = [change.get(at, field) for at, field in enumerate(FIELDS)]
    assert what in refusal(text_of(pack_fields(fields))).what


def test_bytes_that_are_no_array_are_refused() -> None:
    for body in (b"", b"\x80", pack_fields(FIELDS) + b"x", pack_fields(FIELDS[:-1])):
        assert "not what `sealbus invite` writes" in refusal(text_of(body)).what


def test_too_many_servers_do_not_fit() -> None:
    servers = tuple(f"nats://{'a' * 60}{at}.example:4222" for at in range(20))
    with pytest.raises(InvalidInput, match="more than 2048"):
        JoinToken("shop", "order", KEY, frozenset(BUS_KEYS), servers, 1).encode()


@given(st.text(max_size=300))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        JoinToken.decode(BEGIN + text)
