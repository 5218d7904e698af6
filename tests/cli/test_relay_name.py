"""The name of a relay that was given none."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sealbus.protocol.subjects import check_name
from sealbus_broker.cli.running import relay_name as module
from sealbus_broker.cli.running.relay_name import MOST_HELD, OwnName, host_part

BUS = f"bus-{os.getpid()}"
LINUX = sys.platform == "linux"


@given(st.text(max_size=300))
@example("")
@example("-.-")
@example("Ünïcode")
def test_each_host_has_a_valid_name(host: str) -> None:
    check_name(f"{host_part(host)}-9999999", "relay")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("web1", "web1"),
        ("Web1.Example.COM", "web1-example-com"),
        ("relay-7d9f8b6c5-x2x4z", "relay-7d9f8b6c5-x2x4z"),
        ("", "relay"),
    ],
)
def test_a_host_names_its_relay(host: str, name: str) -> None:
    assert host_part(host) == name


def test_long_hosts_with_one_beginning_differ() -> None:
    names = {host_part(f"{'a' * 60}.{place}.example.com") for place in ("eu", "us")}
    assert len(names) == 2


@pytest.mark.skipif(not LINUX, reason="abstract sockets are of Linux")
def test_relays_of_one_machine_have_numbers() -> None:
    one, two = OwnName(BUS, "web1"), OwnName(BUS, "web1")
    other = OwnName(f"{BUS}-other", "web1")
    assert [one.text, two.text, other.text] == ["web1", "web1-2", "web1"]
    one.close()
    again = OwnName(BUS, "web1")
    assert again.text == "web1"
    for name in (again, two, other):
        name.close()


def test_the_number_of_the_process_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_hold", lambda _: None)
    with capture_logs() as said:
        name = OwnName(BUS, "web1")
    assert name.text == f"web1-{os.getpid()}"
    (line,) = said
    assert (line["log_level"], line["event"]) == ("warning", "name.not-held")
    assert name.text in line["what"]
    assert "--name" in line["hint"]
    name.close()


@pytest.mark.skipif(not LINUX, reason="abstract sockets are of Linux")
def test_only_a_name_that_is_not_held_has_a_warning() -> None:
    with capture_logs() as said, ExitStack() as held:
        for _ in range(MOST_HELD):
            held.enter_context(closing(OwnName(BUS, "web2")))
        assert said == []
        last = held.enter_context(closing(OwnName(BUS, "web2")))
    assert last.text == f"web2-{os.getpid()}"
    assert [line["event"] for line in said] == ["name.not-held"]
