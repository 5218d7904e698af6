"""JSON from a person: read as strictly as all other input, line by line, and never whole."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import InvalidInput
from sealbus_broker.cli.messages.json_lines import (
    MAX_LINE_BYTES,
    MAX_SKIPPED_BYTES,
    Line,
    Lines,
    parse_json,
)
from sealbus_broker.cli.shared.errors import InputFailed

pytestmark = pytest.mark.slow

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.booleans())
def test_everything_that_json_writes_is_read(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"role": "user", "role": "admin"}', "column 18: the key role"),
        ('[1, {"a": 1, "a": 1}]', "column 14: the key a"),
        ("NaN", "column 1: is not JSON"),
        ('{"n": Infinity}', "column 7: is not JSON"),
        ("-Infinity", "column 1: is not JSON"),
        ("9007199254740993", "too large to be exact"),
        ("1e999", "too large to be exact"),
        ('"\\ud800"', "surrogate"),
        ('{"a": [1,}', "column 10"),
        ("[1] [2]", "something follows"),
        ("[1,\n 2,\n x]", "line 3, column 2"),
        ("", "is not JSON"),
        ("[" * 100_000, "nested deeper"),
        ("1" * 100_000, "too large"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_json(text)
    assert said in caught.value.what


def read(file: Path | str) -> list[Line]:
    async def main() -> list[Line]:
        lines = Lines(str(file))
        await lines.open()
        try:
            return [line async for some in lines.chunks() for line in some]
        finally:
            lines.close()

    return asyncio.run(main())


@given(
    st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8")), max_size=30),
    st.booleans(),
)
def test_every_line_has_its_number(texts: list[str], ends: bool) -> None:
    data = "\n".join(texts).encode() + (b"\n" if ends else b"")
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    try:
        lines = read(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
    first = texts[0].removeprefix("\ufeff") if texts else ""
    told = [first, *texts[1:]]
    wanted = [(number, text) for number, text in enumerate(told, 1) if text.encode().strip()]
    assert [(line.number, line.text) for line in lines] == wanted


def test_a_byte_order_mark_before_a_document_is_skipped(tmp_path: Path) -> None:
    """It is also skipped before a later line, as in two files that were joined."""
    file = tmp_path / "f"
    file.write_bytes(b'\xef\xbb\xbf{"n":1}\n\xef\xbb\xbf{"n":2}\n')
    assert [parse_json(line.text) for line in read(file)] == [{"n": 1}, {"n": 2}]
    with pytest.raises(InvalidInput):
        parse_json('{"n": \ufeff1}')


@pytest.mark.parametrize("data", ['{"n":1}\n'.encode("utf-16"), '{"n":1}\n'.encode("utf-16-be")])
def test_utf_16_is_named(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "f"
    file.write_bytes(data if data[:1] in (b"\xff", b"\xfe") else b"\xfe\xff" + data)
    with pytest.raises(InputFailed, match="UTF-16"):
        read(file)


def test_bytes_that_are_no_text_are_one_line_s_fault(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b'{"n":1}\n{"n":"caf\xe9"}\n{"n":3}\n')
    first, second, third = read(file)
    assert (first.fault, third.fault) == (None, None)
    assert second == Line(2, "", "byte 10: not UTF-8 text")


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(
        b"[1]\n" + b"x" * (MAX_LINE_BYTES + 1) + b"\n[3]\n" + b"y" * (2 * MAX_LINE_BYTES)
    )
    lines = read(file)
    assert [line.number for line in lines] == [1, 2, 3, 4]
    assert [bool(line.fault) for line in lines] == [False, True, False, True]


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputFailed, match="has no end within"):
        read("/dev/zero")
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib * 1024 < MAX_SKIPPED_BYTES / 2


@pytest.mark.parametrize(
    ("file", "said"), [("nowhere", "No such file"), (".", "directory"), ("a\0b", "not a path")]
)
def test_a_file_that_cannot_be_read_is_named(file: str, said: str) -> None:
    with pytest.raises(InputFailed, match=said):
        read(file)
