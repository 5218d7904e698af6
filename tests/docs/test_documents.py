"""The documents agree with the code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from sealbus.asking import OLD_POLICY_S
from sealbus.life.session import RENEW_S
from sealbus.own import QUESTION_TTL_MS
from sealbus.protocol.limits import (
    LEAST_VALUES,
    MAX_NAME_CHARS,
    MAX_NODES,
    MAX_PAYLOADS,
    MAX_SENDER_LINKS,
    MAX_SUBJECT_TOKENS,
    MAX_TOGETHER_BYTES,
    NONCE_LIFE_MS,
    SENDER_LINK_BYTES,
    SHELF_LIFE_MS,
)
from sealbus.protocol.reason import Reason
from sealbus.protocol.subjects import check_name, check_pattern, check_subject
from sealbus.sending import burst
from sealbus.sending.speaking import LIVE_TTL_S, TTL_S
from sealbus_broker.cli.main import cli
from sealbus_broker.gate.policy import WINDOW_MARGIN_MS, Limits, Policy
from sealbus_broker.policy.bus_file import MAX_BUS_KEYS, MAX_SERVERS, read_bus_file
from sealbus_broker.policy.document import Document
from sealbus_broker.policy.identities import (
    MAX_CLAIMS,
    MAX_IDENTITIES,
    MAX_PROVIDERS,
    MAX_TEXT_CHARS,
)
from sealbus_broker.policy.invitations import MAX_INVITATIONS
from sealbus_broker.policy.keys import MAX_KEYS
from sealbus_broker.policy.limits import MAX_CONNECTIONS, RANGES
from sealbus_broker.policy.loader import load
from sealbus_broker.policy.policy_file import MAX_CAUSE_MS
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.reader import Reader
from sealbus_broker.policy.schemas.work import BUDGET, BYTE_BUDGET
from sealbus_broker.policy.tree import LineColumn, Node
from sealbus_broker.relay.floods.meter import MOST_WORTHLESS
from tests.docs.counts import WIDTH
from tests.docs.lists import items
from tests.docs.named import is_there
from tests.docs.places import DOCS, ROOT
from tests.docs.tables import PARTS, made, parts, without_parts

DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
COMMANDS = {
    "backup": (),
    "init": (),
    "up": (),
    "relay": (),
    "prepare": (),
    "mirror": ("promote", "show", "start"),
    "ping": (),
    "check": (),
    "reload": (),
    "restore": (),
    "bot": ("add", "rm"),
    "certs": ("init", "new", "show"),
    "invite": (),
    "invites": ("accept", "ls", "rm"),
    "join": (),
    "keys": (
        "enrol",
        "expire",
        "issuer",
        "link",
        "ls",
        "new",
        "pins",
        "protect",
        "revoke",
        "rotate",
        "rotate-bus",
        "sessions",
        "show",
        "show-bus",
        "sign-link",
        "void",
    ),
    "pub": (),
    "sub": (),
    "request": (),
    "inspect": (),
    "quarantine": ("ls", "show"),
    "subscriptions": ("ls", "rm"),
}
"""Commands of ``sealbus``, with their subcommands."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_parts_made_from_the_code_are_up_to_date(document: Path) -> None:
    text = document.read_text()
    assert text == made(text), (
        "the code has changed: check the text, then run `python -m tests.docs.tables`"
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_no_line_is_too_long(document: Path) -> None:
    """A table that does not fit becomes a list (docs/style.md)."""
    lines = document.read_text().splitlines()
    long = [at for at, line in enumerate(lines, 1) if len(line) > WIDTH]
    assert long == [], f"lines of more than {WIDTH} characters"


def test_every_part_occurs_in_one_document() -> None:
    found = [name for document in DOCUMENTS for name, _ in parts(document.read_text())]
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
def test_every_test_that_is_named_exists(document: Path) -> None:
    for place in re.findall(r"`(tests/[\w/.:-]+)`", document.read_text()):
        assert is_there(place), f"{named(document)}: {place}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_command_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    for command in re.findall(r"(?:`|^ {4}|^\$ )sealbus ([a-z][^`\n]*)", text, re.MULTILINE):
        words = command.split()
        assert words[0] in COMMANDS, f"{named(document)}: sealbus {command}"
        if COMMANDS[words[0]] and len(words) > 1:
            assert words[1] in COMMANDS[words[0]], f"{named(document)}: sealbus {command}"


def test_the_commands_are_those_of_the_command_line() -> None:
    context = click.Context(cli)
    assert set(cli.list_commands(context)) == set(COMMANDS)
    for name, below in COMMANDS.items():
        command = cli.get_command(context, name)
        assert set(getattr(command, "commands", ())) == set(below), name


def test_every_place_that_the_architecture_names_exists() -> None:
    told = {one.term.strip("`"): one.facts for one in items((DOCS / "architecture.md").read_text())}
    folders = [term for term in told if term.startswith(("clients/", "broker/"))]
    assert len(folders) >= 13
    for folder in folders:
        assert (ROOT / folder).is_dir(), folder
        for file in re.findall(r"`([a-z_]+\.py)`", told[folder]):
            assert (ROOT / folder / file).is_file(), f"{folder}{file}"


def examples(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (DOCS / "policy.md").read_text(), re.MULTILINE | re.DOTALL
    )


def test_the_example_policy_loads(tmp_path: Path) -> None:
    policy, inventory, invited = examples("yaml")
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
    (tmp_path / "keys" / "inventory.yaml").write_text(invited)
    loaded = load(tmp_path)
    assert loaded.policy is not None
    (invitation,) = loaded.policy.bots["inventory"].invitations.values()
    assert invitation.approve


def test_every_example_of_a_value_is_one() -> None:
    text = (DOCS / "policy.md").read_text()
    problems: list[Problem] = []
    reader = Reader(Document("policy.yaml", b"", None, Node(LineColumn(1, 1), None)), problems)
    readers: dict[str, Callable[[str], object]] = {
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


def near(value: float) -> str:
    """Two digits of a number, as prose writes it."""
    step = 10 ** (len(str(int(value))) - 2)
    return str(round(value / step) * step)


def numbers_of_the_policy() -> dict[str, tuple[str, ...]]:
    """The sentences of ``docs/policy.md`` that have numbers, and the numbers of the code."""
    given = Limits()
    # The difference of two clocks and the longest wait are part of the window: the document says
    # so.
    policy = Policy("shop", bytes(32), frozenset(), {}, (), given)
    window_s, live_s = policy.ledger_window_ms / 1000, policy.live_window_ms / 1000
    cause_s = 3600 + window_s
    return {
        r"\(powers of ([\d,]+)\)": ("1,024",),
        r"\| (\d+) to (\d+) of `a-z 0-9 -`": ("1", str(MAX_NAME_CHARS)),
        r"\| (\d+) to (\d+) tokens of": ("1", str(MAX_SUBJECT_TOKENS)),
        r"A message has at most (\d+) links,\*\* and each has (\d+) bytes": (
            str(MAX_SENDER_LINKS),
            str(SENDER_LINK_BYTES),
        ),
        r"more than ([\d,]+) worthless envelopes a second": (f"{MOST_WORTHLESS:,}",),
        r"client asks again for (\d+) s": (f"{OLD_POLICY_S:g}",),
        r"with a live message of (\d+) s, so": (str(QUESTION_TTL_MS // 1000),),
        r"in memory for its window, at about (\d+) bytes each": ("150",),
        r"At ([\d,]+) messages a second, the window of the defaults": ("1,000",),
        r"\((\d+) minutes\) needs (\d+) MB, and": (
            str(round(window_s / 60)),
            near(window_s * 150 / 1000),
        ),
        r"its own window, which is (\d+) s by default": (f"{live_s:g}",),
        r"room for ([\d.]+) MB a second": (f"{given.live_bytes / live_s / 1e6:.1f}",),
        r"(\d+) s of retries \+": (str(NONCE_LIFE_MS // 1000),),
        r"on stream subjects \+ (\d+) s \+ (\d+) × `clock_skew`, and (\d+) s more": (
            str(SHELF_LIFE_MS // 1000),
            "5",
            str(WINDOW_MARGIN_MS // 1000),
        ),
        r"an hour needs (\d+) MB": (near(cause_s * 150 / 1000),),
        r"to this message's verdict, (\d+)s to (\d+)h": ("1", str(MAX_CAUSE_MS // 3_600_000)),
        r"this is the number for one second, at least (\d+)": ("1",),
        r"With NTP, (\d+) s is generous": (str(given.clock_skew_ms // 1000),),
        r"All bots together have ([\d,]+)\.": (f"{MAX_CONNECTIONS:,}",),
        r"the keys, (\d+) to (\d+) \|": ("1", str(MAX_KEYS)),
        r"A file has at most (\d+) invitations": (str(MAX_INVITATIONS),),
        r"Each of at most (\d+) entries has a name": (str(MAX_PROVIDERS),),
        r"with `identities`, at most (\d+), can": (str(MAX_IDENTITIES),),
        r"values of other claims, at most (\d+)\.": (str(MAX_CLAIMS),),
        r"Texts here have at most (\d+) characters": (str(MAX_TEXT_CHARS),),
        r"(\d+) to (\d+) addresses like": ("1", str(MAX_SERVERS)),
        r"(\d+) to (\d+) public keys": ("1", str(MAX_BUS_KEYS)),
        r"and a version from (\d+) on": ("1",),
        r"largest payload \(`max_bytes`\) may take (\d+) million steps": (
            str(BUDGET // 1_000_000),
        ),
        r"second, or (\d+) steps a byte": (str(BYTE_BUDGET),),
        r"than one of (\d+) KiB may": (str(MAX_TOGETHER_BYTES // 1024),),
        r"each subject: (\d+) payloads of (\d+) KiB in all": (
            str(MAX_PAYLOADS),
            str(MAX_TOGETHER_BYTES // 1024),
        ),
        r"counted from (\d+), and left out": ("1",),
        r"(\d+) KiB are far more than": (str(given.payload_bytes // 1024),),
        r"at most (\d+) ms to decode": ("5",),  # measured
        r"four bytes, (\d+) at least and ([\d,]+) at most": (str(LEAST_VALUES), f"{MAX_NODES:,}"),
    }


def numbers_of_the_protocol() -> dict[str, tuple[str, ...]]:
    """The sentences of ``docs/protocol.md`` about defaults, and the numbers of the code.

    Its fixed limits are a part that is made from the code.
    """
    given = Limits()
    least_session_ms, _ = RANGES["session"]
    return {
        r"It is (\d+) minutes unless the operators say otherwise, and at least (\d+) s\.": (
            f"{given.session_ms / 60_000:g}",
            f"{least_session_ms / 1000:g}",
        ),
        r"For the usual length, every (\d+) minutes is early enough": (f"{RENEW_S / 60:g}",),
        r"time-to-live of ([\d,]+) ms on stream subjects and of ([\d,]+) ms on live ones\.": (
            f"{TTL_S * 1000:,g}",
            f"{LIVE_TTL_S * 1000:,g}",
        ),
        r"The policy's limits are (\d+) s and (\d+) s by default": (
            f"{given.ttl_ms / 1000:g}",
            f"{given.live_ttl_ms / 1000:g}",
        ),
    }


NAMES_WITH_DIGITS: Final = "|".join(
    (
        r"UTF-8|SHA-256|RFC 6901|version 1\.2|2020-12",
        r"\[ADR \d+\]\([^)]*\)|U\+[0-9A-F]{4}|\b0[0-7]{3}\b|2 × ",
    )
)


def _wrapped(pattern: str) -> str:
    """``pattern``, also where a line ends between two of its words."""
    return pattern.replace(" ", r"\s+")


def _without_sentences(text: str, numbers: dict[str, tuple[str, ...]]) -> str:
    """``text`` without the sentences of ``numbers``, which have to say these numbers."""
    for sentence, values in numbers.items():
        found = re.search(_wrapped(sentence), text)
        assert found is not None, f"the document does not say: {sentence}"
        assert found.groups() == values, found[0]
        text = text.replace(found[0], "")
    return text


def test_every_number_of_the_policy_document_is_the_code_s() -> None:
    text = (DOCS / "policy.md").read_text()
    text = re.sub(r"^```.*?^```|^ {4}.*?$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = _without_sentences(without_parts(text), numbers_of_the_policy())
    text = re.sub(rf"{_wrapped(NAMES_WITH_DIGITS)}|`[^`\n]*`|\]\([^)]*\)", "", text)
    left = [line for line in text.splitlines() if re.search(r"\d", line)]
    assert not left, "numbers that no test compares with the code"


def test_defaults_of_the_protocol_document_are_the_code_s() -> None:
    _without_sentences((DOCS / "protocol.md").read_text(), numbers_of_the_protocol())


@pytest.mark.parametrize(("kind", "most"), [("duration", "999999999ms"), ("size", "999999999B")])
def test_numbers_have_at_most_nine_digits(kind: str, most: str) -> None:
    problems: list[Problem] = []
    reader = Reader(Document("policy.yaml", b"", None, Node(LineColumn(1, 1), None)), problems)
    read = {"duration": reader.duration, "size": reader.size}[kind]
    assert read(most, (), "it") == 999_999_999
    assert read(f"1{most}", (), "it") is None


@pytest.mark.parametrize("name", RANGES)
def test_each_limit_s_edges_are_as_the_document_says(name: str, folder: Path) -> None:
    row = re.search(
        rf"^\| `{name}` \| (?:`\w+`|none) \| `(\w+)` \| `(\w+)` \|$",
        (DOCS / "policy.md").read_text(),
        re.MULTILINE,
    )
    assert row is not None
    for value in row.groups():
        (folder / "policy.yaml").write_text(f"limits: {{{name}: {value}}}\n")
        assert not [one for one in load(folder).problems if one.what.startswith(f"{name} ")], value


def known_fields(folder: Path, file: str, line: str) -> list[str]:
    """The names that the loader suggests in place of an unknown one."""
    (problem,) = [
        one
        for one in load(folder).problems
        if one.file == file and "zzzzzz" in one.what and f"{one.line}" == line
    ]
    assert problem.hint is not None
    return problem.hint.removeprefix("known here: ").split(", ")


def described_fields(section: str) -> list[str]:
    text = re.sub(
        r"^```.*?^```", "", (DOCS / "policy.md").read_text(), flags=re.MULTILINE | re.DOTALL
    )
    found = re.search(rf"^#+ {section}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return re.findall(r"^(?:\| |- \*\*)`(\w+)`(?: \||\*\*)", found[1], re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "keys").mkdir()
    return tmp_path


def write_unknown(path: Path, places: tuple[str, ...]) -> str:
    """Write a file with ``zzzzzz`` under ``places``. Return its line."""
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(places)]
    lines.append(f"{'  ' * len(places)}zzzzzz: 1")
    path.write_text("\n".join(lines) + "\n")
    return str(len(lines))


FIELDS = {
    "policy.yaml": (),
    "limits": ("limits",),
    "identity_providers": ("identity_providers", "idp"),
    "subjects": ("subjects", "a.b"),
    "cause": ("subjects", "a.b", "cause"),
}
"""Sections of ``docs/policy.md``, and the places of their fields in a policy."""


@pytest.mark.parametrize("section", FIELDS)
def test_every_field_of_a_policy_is_described(section: str, folder: Path) -> None:
    line = write_unknown(folder / "policy.yaml", FIELDS[section])
    assert described_fields(section) == known_fields(folder, "policy.yaml", line)


def test_every_field_of_a_key_file_is_described(folder: Path) -> None:
    (folder / "policy.yaml").write_text("version: 1\n")
    (folder / "keys" / "order.yaml").write_text("zzzzzz: 1\nkeys:\n  - zzzzzz: 1\n")
    known = [name for line in ("1", "3") for name in known_fields(folder, "keys/order.yaml", line)]
    assert described_fields("keys/") == known
    (folder / "keys" / "order.yaml").write_text("bot: order\ninvitations:\n  - zzzzzz: 1\n")
    assert described_fields("Invitations") == known_fields(folder, "keys/order.yaml", "3")


def test_bus_toml_is_described_and_its_example_loads(folder: Path) -> None:
    (text,) = examples("toml")
    (folder / "bus.toml").write_text(text)
    problems: list[Problem] = []
    bus = read_bus_file(folder, problems)
    assert not problems
    assert bus is not None
    (folder / "bus.toml").write_text("zzzzzz = 1\n")
    (folder / "policy.yaml").write_text("version: 1\n")
    assert described_fields("bus.toml") == known_fields(folder, "bus.toml", "1")


def test_every_reason_is_in_its_group_of_final_refusals() -> None:
    """The client and section 10 agree, and each new reason was decided upon."""
    text = (DOCS / "protocol.md").read_text().partition("**Final refusals.**")[2]
    heads = re.findall(r"^\d\. \*\*(`[^*]+`)\*\*", text.partition("\n## ")[0], re.MULTILINE)
    groups = [re.findall(r"`(.+?)`", head) for head in heads]
    rate = {Reason.RATE}
    by_time, changing, final = burst._ABOUT_TIME, burst._CHANGING - rate, burst._FINAL
    assert [set(group) for group in groups[:4]] == [by_time, rate, changing, final]
    assert groups[5:] == [[Reason.CERTIFICATE_NOT_VALID]]
    assert sorted(reason for group in groups for reason in group) == sorted(Reason), (
        'each reason is in one group of "Final refusals" in docs/protocol.md'
    )
