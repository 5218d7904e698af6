"""``bus.toml`` with any content is read or refused. A change of one field changes nothing else."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.policy.bus_file import (
    FILE,
    BusFile,
    TlsPaths,
    address,
    other_place,
    read_bus_file,
    write_bus_file,
)
from sealbus_broker.policy.problems import Problem

pytestmark = pytest.mark.slow

KEYS = tuple(SigningKey.generate(KeyKind.BUS).public for _ in range(3))
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
