"""``bus.toml`` with any content is read or refused. A change of one field changes nothing else."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput
from sealbus.protocol.keyring import Link, seal_link
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.policy.bus_file import (
    FILE,
    BusFile,
    TlsPaths,
    address,
    lacks_place,
    other_bus,
    other_place,
    read_bus_file,
    write_bus_file,
)
from sealbus_broker.policy.problems import Problem

pytestmark = pytest.mark.slow

SIGNERS = tuple(SigningKey.generate(KeyKind.BUS) for _ in range(3))
KEYS = tuple(one.public for one in SIGNERS)
LINKS = tuple(
    seal_link(SIGNERS[at], Link("shop", at + 1, KEYS[at].raw, KEYS[at + 1].raw, at, at + 5))
    for at in range(2)
)
BUS = BusFile("shop", ("nats://127.0.0.1:4222",), KEYS[:1])

anything = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.sampled_from(
    [
        *(key.text for key in KEYS),
        "nats://a:1",
        "tls://[::1]",
        "shop",
        "",
        "x",
        SigningKey.generate(KeyKind.BUS).seed_text,
    ]
)
values = (
    st.none()
    | words
    | st.integers()
    | st.lists(words | st.integers(), max_size=3)
    | st.text(max_size=5)
)


def read(folder: Path) -> tuple[BusFile | None, list[Problem]]:
    problems: list[Problem] = []
    found = read_bus_file(folder, problems)
    for problem in problems:
        assert all(line.isprintable() for line in str(problem).split("\n")), (
            "a problem is safe to show"
        )
    return found, problems


def test_written_file_is_read_back(tmp_path: Path) -> None:
    assert read(tmp_path) == (None, [])
    assert write_bus_file(tmp_path, BUS)
    assert read(tmp_path) == (BUS, [])
    assert not write_bus_file(tmp_path, BUS)


@anything
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    found, problems = read(tmp_path)
    assert (found is None) == bool(problems)


@anything
@given(st.dictionaries(st.sampled_from(["name", "servers", "bus_keys", "more"]), values))
def test_any_values_are_read_or_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    text = "".join(
        f"{name} = {json.dumps(value)}\n" for name, value in fields.items() if value is not None
    )
    (tmp_path / FILE).write_text(text)
    found, problems = read(tmp_path)
    assert (found is None) == bool(problems)


servers = st.lists(
    st.sampled_from(["nats://a:1", "nats://b.example", "nats://[::1]:5", "nats://127.0.0.1:4222"]),
    min_size=1,
    max_size=3,
)
buses = st.builds(
    BusFile,
    st.sampled_from(["shop", "a-1"]),
    servers.map(tuple),
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=2).map(tuple),
)
forms = st.sampled_from(
    ["{} = {}", "{}={}", "{} =   {}   # why", "# above\n{} = {}", "{} = {}\n\n# below"]
)


@anything
@given(buses, buses, forms, st.booleans())
def test_a_change_leaves_comments_and_form(
    tmp_path: Path, before: BusFile, after: BusFile, form: str, spread: bool
) -> None:
    text = (
        "\n".join(
            form.format(*line.split(" = ", 1))
            for line in before.text().splitlines()
            if " = " in line
        )
        + "\n"
    )
    if spread:
        text = text.replace('", "', '",\n  "')
    (tmp_path / FILE).write_text(text)
    assert read(tmp_path) == (before, [])
    write_bus_file(tmp_path, after)
    assert read(tmp_path) == (after, [])
    kept = (tmp_path / FILE).read_text()
    for comment in ("# why", "# above", "# below"):
        assert kept.count(comment) == text.count(comment)


@pytest.mark.parametrize("text", ['"name" = "shop"\n', "name = 'shop'\n", "name = '''shop'''\n"])
def test_a_form_that_is_not_edited_is_left_alone(tmp_path: Path, text: str) -> None:
    rest = "".join(f"{line}\n" for line in BUS.text().splitlines() if not line.startswith("name"))
    (tmp_path / FILE).write_text(text + rest)
    assert tomllib.loads(text)["name"] == "shop"
    with pytest.raises(InvalidInput) as told:
        write_bus_file(tmp_path, BusFile("other", BUS.servers, BUS.bus_keys))
    assert 'name = "other"' in str(told.value.hint)
    assert (tmp_path / FILE).read_text() == text + rest


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("nats://127.0.0.1", "nats://127.0.0.1:4222", True),
        ("nats://localhost:4222", "nats://127.0.0.1", True),
        ("tls://Bus.Example.com.:1", "tls://bus.example.com:1/", True),
        ("nats://[::1]:4222", "nats://[::1]", True),
        ("nats://[FD00:0::01]", "nats://[fd00::1]", True),
        ("nats://127.0.0.1:4223", "nats://127.0.0.1", False),
        ("nats://a", "nats://b", False),
    ],
)
def test_addresses_of_one_place_are_equal(one: str, other: str, same: bool) -> None:
    assert (address(one) == address(other)) is same
    assert other_place(BusFile("shop", (one,), KEYS[:1]), (other,)) is not same


def test_with_and_without_tls_are_two_places() -> None:
    assert other_place(BUS, ("tls://127.0.0.1:4222",))


@pytest.mark.parametrize(
    ("servers", "lacks"),
    [
        (("nats://n1",), True),
        (("nats://n2:4222", "nats://n1"), False),
        (("nats://n1", "nats://n2", "nats://n3"), False),
        (("tls://n1", "tls://n2"), True),
    ],
)
def test_a_node_that_is_not_named_is_noticed(servers: tuple[str, ...], lacks: bool) -> None:
    assert lacks_place(BusFile("shop", ("nats://n1", "nats://n2"), KEYS[:1]), servers) is lacks


def test_servers_of_both_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(BusFile("shop", ("nats://a", "tls://b"), KEYS[:1]).text())
    (problem,) = read(tmp_path)[1]
    assert (problem.line, "tls:// and nats:// stand together" in problem.what) == (3, True)


def test_certificates_stay_where_they_are_written(tmp_path: Path) -> None:
    with_tls = replace(BUS, servers=("tls://a:1",), tls=TlsPaths("ca.pem", "/b.pem", "../b.key"))
    write_bus_file(tmp_path, with_tls)
    assert read(tmp_path) == (with_tls, [])
    moved = replace(with_tls, servers=("tls://b:2",))
    assert write_bus_file(tmp_path, moved)
    assert read(tmp_path) == (moved, [])


@pytest.mark.parametrize(
    "table", ["", 'ca = "a"', 'ca = "a"\ncert = "b"\nkey = 1', 'ca = "a"\ncert = "b"\nkey = ""']
)
def test_certificates_are_all_or_none(tmp_path: Path, table: str) -> None:
    (tmp_path / FILE).write_text(f"{BUS.text()}\n[tls]\n{table}\n")
    found, (problem,) = read(tmp_path)
    assert (found, problem.what) == (None, "tls has not the fields ca, cert and key")


_HEAD = 'name = "shop"\nservers = ["nats://a"]\n'
FILES = {
    "as it was written": BUS.text(),
    "with a table behind": replace(
        BUS, servers=("tls://a:1",), tls=TlsPaths("ca.pem", "b.pem", "b.key")
    ).text(),
    "with a comment in the line": f'{_HEAD}bus_keys = ["{KEYS[0].text}"]  # ours',
    "in another order": f'bus_keys = [\n  "{KEYS[0].text}",\n]\n{_HEAD}',
}


@pytest.mark.parametrize("text", FILES.values(), ids=list(FILES))
def test_links_and_times_are_added_and_changed(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    found, problems = read(tmp_path)
    assert found is not None, problems
    for change in (
        {"links": LINKS[:1], "bus_keys": KEYS[:2]},
        {"links": LINKS, "made_ms": 1_800_000_000_000},
        {"links": LINKS, "made_ms": 1_700_000_000_000},
        {"links": ()},
    ):
        found = replace(found, **change)
        assert write_bus_file(tmp_path, found)
        assert read(tmp_path) == (found, [])
    assert ("# ours" in text) is ("# ours" in (tmp_path / FILE).read_text())


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("made = 5", "made is not a time in UTC"),
        ('made = "yesterday"', "made is not a time in UTC"),
        ("links = 5", "links is not a list of at most 32 links"),
        ('links = ["?"]', "links has a text that is not base64"),
        ('links = ["AAAA"]', "links: "),
        (f"links = {json.dumps(['AAAA'] * 33)}", "links is not a list of at most 32 links"),
    ],
)
def test_links_and_times_that_are_none_are_refused(line: str, what: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(f"{BUS.text()}{line}\n")
    found, (problem,) = read(tmp_path)
    assert found is None
    assert what in problem.what
    assert problem.line == 5


def test_links_of_another_bus_are_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(replace(BUS, name="bazaar", links=LINKS).text())
    found, (problem,) = read(tmp_path)
    assert (found, problem.what) == (None, "links: a link of another bus")


def credentials(*keys: SigningKey, bus: str = "shop") -> Credentials:
    raw = frozenset(key.public.raw for key in keys)
    return Credentials(bus, "order", SigningKey.generate(KeyKind.BOT), BUS.servers, raw)


def test_credentials_with_an_earlier_key_are_of_this_bus() -> None:
    now = replace(BUS, bus_keys=KEYS[2:], links=LINKS)
    assert other_bus(now, credentials(SIGNERS[0])) is None
    assert other_bus(now, credentials(SIGNERS[1], SIGNERS[2])) is None
    assert "for the bus key" in str(other_bus(replace(now, links=()), credentials(SIGNERS[0])))
    stranger = SigningKey.generate(KeyKind.BUS)
    assert "for the bus key" in str(other_bus(now, credentials(stranger)))
    # Not back: a key that comes before the one in the credentials.
    assert "for the bus key" in str(
        other_bus(replace(now, bus_keys=KEYS[:1]), credentials(SIGNERS[1]))
    )
