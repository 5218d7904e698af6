"""The configuration text: nats-server reads it as meant, and nothing can leave its quotes."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import InvalidInput
from sealbus.protocol.limits import MAX_ENVELOPE_BYTES
from sealbus_broker.nats.conf_text import quote
from sealbus_broker.nats.config import (
    MAX_BOT_PAYLOAD_BYTES,
    MAX_PAYLOAD_BYTES,
    RESERVED_CONNECTIONS,
    render,
)
from sealbus_broker.policy.limits import MAX_CONNECTIONS
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server.process import find_binary
from tests.scene import a_config

SECRETS = BusSecrets.generate()


def accepted_by_nats(text: str, folder: Path) -> bool:
    """Whether nats-server accepts ``text`` as a configuration."""
    (folder / "nats.conf").write_text(text)
    asked = subprocess.run(
        [find_binary(), "-t", "-c", folder / "nats.conf"], capture_output=True, check=False
    )
    return asked.returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "with space",
        'with "quotes"',
        "with 'quotes'",
        "$HOME",
        "back\\slash",
        "brace}",
        "# hash",
        "ünï",
        "a,b;c",
    ],
)
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    config = replace(
        a_config(tmp_path / name, SECRETS), log_file=tmp_path / name / "log", http_port=8222
    )
    assert accepted_by_nats(render(config), tmp_path)


def test_everything_optional(tmp_path: Path) -> None:
    config = replace(
        a_config(tmp_path, SECRETS),
        host="::1",
        sync_interval="always",
        max_file_bytes=10**9,
        max_memory_bytes=10**6,
    )
    assert accepted_by_nats(render(config), tmp_path)


def test_no_secret_is_in_it(tmp_path: Path) -> None:
    text = render(a_config(tmp_path, SECRETS))
    for key in (SECRETS.bus, SECRETS.issuer, SECRETS.relay):
        assert key.seed_text not in text
    assert SECRETS.bus.public.text not in text


def test_sync_is_always_unless_asked_otherwise(tmp_path: Path) -> None:
    assert 'sync_interval: "always"' in render(
        replace(a_config(tmp_path, SECRETS), sync_interval="always")
    )


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "a\x7fb", "a\tb"])
def test_control_characters_are_refused(bad: str) -> None:
    with pytest.raises(InvalidInput, match="control characters"):
        quote(bad)


def test_path_that_is_not_utf_8_is_refused() -> None:
    """Linux gives such bytes of a path as lone surrogates."""
    with pytest.raises(InvalidInput, match="not UTF-8") as told:
        quote(Path(os.fsdecode(b"/srv/b\xff")))
    assert told.value.what.isascii()


@given(st.text(st.characters(blacklist_categories=["Cc", "Cs"])))
def test_a_quoted_text_ends_where_it_should(text: str) -> None:
    quoted = quote(text)
    assert quoted[0] == quoted[-1] == '"'
    inner = quoted[1:-1].replace("\\\\", "").replace('\\"', "")
    assert '"' not in inner
    assert "\\" not in inner


def test_slightly_too_large_envelope_reaches_gate_and_quarantine() -> None:
    assert MAX_ENVELOPE_BYTES < MAX_BOT_PAYLOAD_BYTES < MAX_PAYLOAD_BYTES


def test_a_policy_may_give_one_bot_all_connections_and_no_more(tmp_path: Path) -> None:
    assert a_config(tmp_path, SECRETS).max_connections - RESERVED_CONNECTIONS == MAX_CONNECTIONS
