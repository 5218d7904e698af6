"""Every reader of a file reads the same: the loader, an editor, a reviewer, another file system."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput, SealbusError
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.text_file import decode_text, misread
from sealbus_broker.policy.bus_file import BusFile, write_bus_file
from sealbus_broker.relay.secrets import BusSecrets
from tests.policy.folder import Folder

pytestmark = pytest.mark.slow

ENDS = [*"\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"]
"""Characters that end a line for some readers."""
TURNS = [*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"]
STEERS = [*"\0\x07\x08\x1b\x7f\x9b"]
HIDES = [*"\u00ad\u200b\u2060\u3164\ufeff\U000e0041"]
HIDING = [*ENDS, *TURNS, *STEERS, *HIDES]
BUS = SigningKey.generate(KeyKind.BUS)


def point(char: str) -> str:
    return f"U+{ord(char):04X}"


# ---- characters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("char", HIDING, ids=point)
def test_a_grant_hidden_in_a_comment_is_not_read(bus: Folder, char: str) -> None:
    bus.change("bots:\n", f"bots:  # who may speak{char}  rival: {{publish: [orders.placed]}}\n")
    found = bus.problem()
    assert (found.file, found.line, found.column) == ("policy.yaml", 3, 23)
    assert found.hint is not None
    assert found.hint.startswith("remove it")


@pytest.mark.parametrize("char", HIDING, ids=point)
def test_a_key_hidden_in_a_comment_is_not_read(bus: Folder, char: str) -> None:
    bus.key("order")
    bus.change("keys:", f"# the keys{char}keys:", "keys/order.yaml")
    assert (bus.problem().file, bus.problem().line) == ("keys/order.yaml", 2)


@pytest.mark.parametrize("char", HIDING, ids=point)
def test_a_schema_has_no_such_character(bus: Folder, char: str) -> None:
    bus.write("schemas/order.v1.json", f'{{"type": "object",\n "description": "x{char}y"}}')
    assert (bus.problem().line, bus.problem().column) == (2, 19)
    bus.write("schemas/order.v1.json", json.dumps({"type": "object", "description": f"x{char}y"}))
    assert bus.problems() == [], "an escape is visible to every reader"


@pytest.mark.parametrize("char", HIDING, ids=point)
def test_an_address_hidden_in_a_comment_is_not_read(bus: Folder, char: str) -> None:
    write_bus_file(bus.root, BusFile("shop", ("nats://127.0.0.1",), (BUS.public,)))
    assert bus.problems() == []
    text = (bus.root / "bus.toml").read_text()
    bus.write(
        "bus.toml", text.replace("name", f'# old{char}servers = ["nats://elsewhere"]\nname', 1)
    )
    assert bus.problem().what.startswith("line 2: ")
    assert bus.problem().what.endswith(f"({point(char)})")


def credentials(path: Path) -> None:
    Credentials(
        "shop",
        "order",
        SigningKey.generate(KeyKind.BOT),
        ("nats://x",),
        frozenset([BUS.public.raw]),
    ).write(path)


@pytest.mark.parametrize(
    ("write", "read"),
    [(credentials, Credentials.load), (BusSecrets.generate().write, BusSecrets.load)],
    ids=["credentials", "bus's own"],
)
@pytest.mark.parametrize("char", HIDING, ids=point)
def test_files_of_secrets_are_read_alike(
    tmp_path: Path, write: Callable[[Path], None], read: Callable[[Path], object], char: str
) -> None:
    path = tmp_path / "secret.toml"
    write(path)
    read(path)
    text = path.read_text()
    path.write_text(text.replace("\n", f" x{char}y\n", 1), newline="")
    with pytest.raises(SealbusError) as refused:
        read(path)
    assert "line 1: this c" in refused.value.what


@given(
    st.text(
        alphabet=st.sampled_from([*HIDING, "a", "#", "\n", "\t", " ", "é", "\u200d", "\U0001f600"])
    )
)
def test_a_text_that_is_read_has_the_same_lines_for_everybody(text: str) -> None:
    without_mark = text.removeprefix("\ufeff")  # one mark at the beginning is skipped
    try:
        read = decode_text(text.encode())
    except InvalidInput:
        assert misread(without_mark) is not None
        return
    assert read == without_mark
    lines = read.replace("\r\n", "\n").removesuffix("\n").split("\n")
    assert read.splitlines() == lines[: None if read else 0]


@pytest.mark.parametrize(
    "text",
    [
        "\u06a9\u0646\u0648\u0646\u06cc\u200c\u0627",
        "\U0001f469\u200d\U0001f373",
        "caf\u00e9",
        "\u2764\ufe0f",
        "\t",
    ],
)
def test_characters_of_scripts_and_emoji_are_read(bus: Folder, text: str) -> None:
    bus.change("bots:\n", f"bots:  # {text}\n")
    bus.write("schemas/order.v1.json", f'{{"description": "{text.strip()}"}}')
    assert bus.problems() == []


def test_windows_line_ends_are_lines(bus: Folder) -> None:
    bus.write("policy.yaml", (bus.root / "policy.yaml").read_bytes().replace(b"\n", b"\r\n"))
    bus.write("schemas/order.v1.json", b'{"type":\r\n "object"}\r\n')
    assert bus.problems() == []


# ---- keys that occur twice -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("policy.yaml", 'version: 1\n"v\\u0065rsion": 1\n'),
        ("policy.yaml", "version: 1\n'version': 1\n"),
        ("schemas/order.v1.json", '{"type": "object",\n "typ\\u0065": "object"}'),
        ("keys/order.yaml", 'bot: order\n"bot": order\n'),
        ("bus.toml", 'name = "shop"\n"name" = "shop"\n'),
        ("bus.toml", 'name = "shop"\n"n\\u0061me" = "shop"\n'),
    ],
)
def test_key_that_occurs_twice_in_any_spelling_is_refused(
    bus: Folder, file: str, text: str
) -> None:
    bus.write(file, text)
    found = next(problem for problem in bus.load().problems if problem.file == file)
    assert found.line == 2


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Policy.yaml", "policy.yaml"),
        ("policy.yml", "policy.yaml"),
        ("POLICY.YML", "policy.yaml"),
        ("policy.yaml.", "policy.yaml"),
        ("\uff50olicy.yaml", "policy.yaml"),  # a fullwidth p
        ("Bus.toml", "bus.toml"),
        ("Keys", "keys"),
        ("SCHEMAS", "schemas"),
    ],
)
def test_a_file_that_another_system_takes_for_the_policy(
    bus: Folder, name: str, meant: str
) -> None:
    bus.write(name, "x")
    found = bus.problem()
    assert (found.what, found.hint) == (
        f"is not read: its name is not {meant}",
        f"rename it to {meant}, or to a very different name",
    )


@pytest.mark.parametrize(
    "name", ["keys/Order.yaml", "keys/order.yml", "keys/\uff4frder.yaml", "keys/order.yaml.bak"]
)
def test_a_key_file_under_another_spelling_is_a_mistake(bus: Folder, name: str) -> None:
    bus.key("order")
    bus.write(name, (bus.root / "keys/order.yaml").read_text())
    assert bus.problem().what == "the file's name is not a key file's name"


@pytest.mark.parametrize(
    "name",
    ["Order.v1.json", "order.V1.json", "order.v1.JSON", "order.v01.json", "order.v\u0661.json"],
)
def test_a_schema_under_another_spelling_is_a_mistake(bus: Folder, name: str) -> None:
    bus.write(f"schemas/{name}", "{}")
    assert bus.problem().what == "the file's name is not a schema's name"


@pytest.mark.parametrize(
    "name", ["Order", "\u043erder", "order\u200b", "\uff4frder", "order ", "ORDER"]
)
def test_a_bot_under_another_spelling_is_a_mistake(bus: Folder, name: str) -> None:
    bus.change(
        "  inventory:\n", f"  {json.dumps(name)}: {{publish: [orders.placed]}}\n  inventory:\n"
    )
    assert "is not valid" in bus.problems()[0]


@pytest.mark.parametrize("key", ["-0", "00", "0x0", "0_0", "+0", "0.0"])
def test_key_is_read_as_the_written_text(bus: Folder, key: str) -> None:
    bus.change("  stock.check:\n", f"  {key}:\n    schema: order.v1\n  stock.check:\n")
    loaded = bus.load()
    if loaded.policy is not None:
        assert key in [rule.pattern for rule in loaded.policy.subjects]
    else:
        assert key in loaded.problems[0].what


def test_the_buss_own_key_is_no_bots(bus: Folder) -> None:
    write_bus_file(bus.root, BusFile("shop", ("nats://127.0.0.1",), (BUS.public,)))
    bus.key("order", PublicKey(BUS.public.raw, KeyKind.BOT).text)
    assert bus.problem().what == "a key of order is the bus's own, written as a bot's"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://example.com/caf\u00e9", "https://example.com/caf%C3%A9"),
        ("https://example.com./x", "https://EXAMPLE.com/x"),
        ("https://example.com/a%2fb", "https://example.com/a%2Fb"),
        ("https://example.com", "https://example.com/"),
    ],
)
def test_two_spellings_of_one_id_are_one(bus: Folder, one: str, other: str) -> None:
    bus.write("schemas/order.v1.json", json.dumps({"$id": one}))
    bus.write("schemas/other.v1.json", json.dumps({"$id": other}))
    assert bus.problem().what == "the $id is another file's too"


@pytest.mark.parametrize("keyword", ["$anchor", "$dynamicAnchor"])
def test_an_anchor_that_is_used_twice(bus: Folder, keyword: str) -> None:
    schema = {"$defs": {"a": {"$anchor": "x", "type": "string"}, "b": {keyword: "x"}}}
    bus.write("schemas/order.v1.json", json.dumps(schema))
    assert bus.problem().what == "the anchor is used twice in this schema"
    schema["$defs"]["b"]["$id"] = "https://example.com/elsewhere"
    bus.write("schemas/order.v1.json", json.dumps(schema))
    assert bus.problems() == [], "another $id makes it another anchor"
