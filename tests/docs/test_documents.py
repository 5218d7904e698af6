"""The documents say what the code does."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealbus.delivery import split_delivery
from sealbus.envelope import Envelope
from sealbus.seal import Context, Seal, Verifier, verify_connect
from sealbus.stamp import open_stamp
from sealbus.subjects import check_name, check_pattern, check_subject
from sealbus_broker.policy.document import Document
from sealbus_broker.policy.loader import load
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.reader import Reader
from tests.docs.tables import BLOCK, DOCS, PARTS, keys, made

ROOT = DOCS.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
COMMANDS = {
    "init": (),
    "up": (),
    "relay": (),
    "prepare": (),
    "ping": (),
    "check": (),
    "keys": ("new",),
    "pub": (),
    "sub": (),
    "request": (),
    "inspect": (),
    "quarantine": ("ls", "show"),
}
"""Commands of ``sealbus``, with their own commands where they have some."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parts(text: str) -> dict[str, str]:
    return {match[2]: match[3] for match in BLOCK.finditer(text)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_what_is_made_from_the_code_is_up_to_date(document: Path) -> None:
    text = document.read_text()
    assert text == made(text), (
        "the code has changed: look at what that means for the text, then `python -m tests.docs.tables`"
    )


def test_every_part_stands_in_one_document() -> None:
    found = [name for document in DOCUMENTS for name in parts(document.read_text())]
    assert sorted(found) == sorted(PARTS)


def anchors(document: Path) -> set[str]:
    """GitHub's anchors of a document's headings."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(document: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            yield target


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for target in links(document):
        path, _, anchor = target.partition("#")
        where = (document.parent / path).resolve() if path else document
        assert where.exists(), f"{named(document)}: {target}"
        assert not anchor or anchor in anchors(where), f"{named(document)}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_command_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    for command in re.findall(r"(?:`|^ {4}|^\$ )sealbus ([a-z][^`\n]*)", text, re.MULTILINE):
        words = command.split()
        assert words[0] in COMMANDS, f"{named(document)}: sealbus {command}"
        if COMMANDS[words[0]] and len(words) > 1:
            assert words[1] in COMMANDS[words[0]], f"{named(document)}: sealbus {command}"


def test_the_commands_are_those_of_the_command_line() -> None:
    main = pytest.importorskip("sealbus_broker.cli.main", reason="the command line is not there yet")
    root = main.cli
    assert set(root.commands) == set(COMMANDS)
    for name, below in COMMANDS.items():
        assert set(getattr(root.commands[name], "commands", ())) == set(below), name


def test_every_file_that_the_architecture_names_exists() -> None:
    rows = re.findall(
        r"^\| `((?:clients|broker)/[^`]+/)` \| (.+) \|$", (DOCS / "architecture.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 5
    for folder, told in rows:
        for file in re.findall(r"`([a-z_]+\.py)`", told):
            assert (ROOT / folder / file).is_file(), f"{folder}{file}"


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / "policy.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_policy_loads(tmp_path: Path) -> None:
    policy, inventory = examples("yaml")
    (tmp_path / "policy.yaml").write_text(policy)
    (tmp_path / "schemas").mkdir()
    (tmp_path / "keys").mkdir()
    for name in set(re.findall(r"[a-z.]+\.v1", policy)):
        (tmp_path / "schemas" / f"{name}.json").write_text("true")
    (tmp_path / "keys" / "inventory.yaml").write_text(inventory)
    loaded = load(tmp_path)
    assert not loaded.problems
    assert loaded.policy is not None
    (key,) = loaded.policy.bots["inventory"].keys.values()
    assert None not in (key.not_after_ms, key.revoked_ms)


def test_every_example_of_a_value_is_one() -> None:
    text = (DOCS / "policy.md").read_text()
    problems: list[Problem] = []
    reader = Reader(Document("policy.yaml", b"", None, None), problems)
    readers = {
        "duration": lambda value: reader.duration(value, (), "it"),
        "size": lambda value: reader.size(value, (), "it"),
        "rate": lambda value: reader.rate(value, ()),
        "time": lambda value: reader.time(value, (), "it"),
        "name": check_name,
        "subject": check_subject,
        "pattern": check_pattern,
    }
    rows = dict(re.findall(r"^\| (\w+) \| .+ \| (`[^|]+`) \|$", text, re.MULTILINE))
    for kind, read in readers.items():
        for value in re.findall(r"`([^`]+)`", rows[kind]):
            assert read(value) is not None, f"{kind}: {value}"
    assert not problems


FIELDS = {
    "policy.yaml": "version bus limits on_violation roles bots subjects",
    "subjects": "delivery schema rate reply cause on_violation",
    "cause": "subject within match once",
    "keys/": "bot keys key not_before not_after revoked",
}


@pytest.mark.parametrize("section", FIELDS)
def test_every_field_of_the_policy_is_described(section: str) -> None:
    """And no other: what is not a field is refused by name."""
    text = (DOCS / "policy.md").read_text()
    found = re.search(rf"^#+ {section}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    # Code and examples may hold lines that look like headings or rows: fields stand in the first cell.
    rows = re.findall(r"^\| `(\w+)` \|", found[1], re.MULTILINE)
    assert rows == FIELDS[section].split()


def hexes(block: str) -> dict[str, bytes]:
    """The values of an example, by name, as a reader of the document finds them."""
    found: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if re.fullmatch(r" *\S.{15} ?[0-9a-f]+", line) or re.fullmatch(r" {16,}[0-9a-f]+", line):
            name = line[:16].strip() or name
            found[name] = found.get(name, "") + line[16:].strip()
    return {name: bytes.fromhex(text) for name, text in found.items() if len(text) % 2 == 0}


@pytest.fixture(scope="module")
def protocol() -> dict[str, str]:
    return parts((DOCS / "protocol.md").read_text())


def test_the_example_of_a_batch_verifies(protocol: dict[str, str]) -> None:
    told = hexes(protocol["example-seal"])
    for thing in (b"a", b"b", b"c"):
        seal = Seal.decode(told["key"] + told["signature"] + told[f"sides, steps {thing.decode()}"])
        assert seal.root(thing) == told["root"]
        assert Verifier().holds(Context.ENVELOPE, seal, thing)
        assert not Verifier().holds(Context.ENVELOPE, seal, b"d")


def test_the_worked_example_verifies(protocol: dict[str, str]) -> None:
    told = hexes(protocol["example"])
    bot, bus, _ = keys()
    envelope = Envelope.decode(told["envelope"])
    assert envelope.digest == told["digest"]
    assert envelope.payload == told["payload"]
    assert envelope.seal.key == bot.public.raw
    assert Verifier().holds(Context.ENVELOPE, envelope.seal, envelope.signed)
    assert split_delivery(told["delivery"]) == (told["envelope"], told["sealed stamp"])
    stamp = open_stamp(told["sealed stamp"], frozenset({bus.public.raw}), Verifier())
    assert stamp.encode() == told["body"]
    assert (stamp.envelope, stamp.subject, stamp.nonce) == (envelope.digest, "orders.placed", envelope.header.nonce)


def test_the_connect_example_verifies(protocol: dict[str, str]) -> None:
    told = dict(re.findall(r"^(\S+) {2,}(\S.*)$", protocol["example"], re.MULTILINE))
    bot, _, _ = keys()
    signature = base64.b64decode(told["sig"], validate=True)
    assert verify_connect(bot.public.raw, told["challenge"].encode(), told["auth_token"].encode(), signature)
