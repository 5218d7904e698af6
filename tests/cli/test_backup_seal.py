"""``bus.json`` of a backup: it names its bus, and no file of the backup changes unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.cli.copies.backup_seal import NAME, check, write
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.relay.secrets import BusSecrets
from tests.cli.command import quickly

SECRETS = BusSecrets.generate()
ARCHIVE = "ACCEPTED/stream.tar.s2"
MINUTE_MS = 60_000


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    (tmp_path / "ACCEPTED").mkdir()
    (tmp_path / ARCHIVE).write_bytes(b"messages")
    (tmp_path / "ACCEPTED/backup.json").write_text("{}")
    write(tmp_path, "shop", SECRETS, "2026-11-28T03:00:00Z")
    return tmp_path


def change(saved: Path, **fields: object) -> None:
    path = saved / NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_backup_of_this_bus_is_taken(saved: Path) -> None:
    assert check(saved, None, SECRETS) == "2026-11-28T03:00:00Z"
    assert (saved / NAME).stat().st_mode & 0o777 == 0o600
    text = (saved / NAME).read_text()
    assert SECRETS.bus.public.text in text
    for key in (SECRETS.bus, SECRETS.issuer, SECRETS.relay):
        assert key.seed_text not in text


def test_backup_of_another_bus_is_refused_by_its_key(saved: Path) -> None:
    other = BusSecrets.generate()
    with pytest.raises(Unusable) as error:
        check(saved, None, other)
    text = f"is of the bus shop with the key {SECRETS.bus.public.text}; this folder is of a bus"
    assert text in error.value.what
    assert other.bus.public.text in error.value.what


def test_backup_of_before_a_new_bus_key_is_taken(saved: Path) -> None:
    """And so it is when the private half of the old key is gone."""
    times = {"now_ms": 0, "from_ms": MINUTE_MS, "end_ms": 2 * MINUTE_MS, "kept_ms": 3 * MINUTE_MS}
    later = SECRETS.rotated("shop", **times)
    check(saved, None, later)
    facts = BusFile("shop", ("nats://h:1",), later.publics, links=later.links)
    newest = replace(later.finished(), previous=())
    check(saved, facts, newest)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda one: one.write_bytes(b"message"), "it has 7 bytes; expected 8"),
        (lambda one: one.write_bytes(b"massages"), "it has other content"),
        (Path.unlink, "is missing"),
    ],
)
def test_file_that_has_changed_is_refused(
    saved: Path, spoil: Callable[[Path], object], why: str
) -> None:
    spoil(saved / ARCHIVE)
    with pytest.raises(Unusable, match=why):
        check(saved, None, SECRETS)


def test_list_of_files_that_has_changed_is_refused(saved: Path) -> None:
    fields = json.loads((saved / NAME).read_text())
    change(saved, files={ARCHIVE: fields["files"][ARCHIVE]})
    with pytest.raises(Unusable, match="was changed: this bus has not signed it"):
        check(saved, None, SECRETS)


def test_list_that_somebody_else_has_signed_is_refused(saved: Path) -> None:
    """He knows the public key of the bus."""
    thief = replace(SECRETS, issuer=SigningKey.generate(KeyKind.ISSUER))
    (saved / NAME).unlink()
    write(saved, "shop", thief, "")
    with pytest.raises(Unusable, match="was changed"):
        check(saved, None, SECRETS)


@pytest.mark.parametrize(
    "fields",
    [
        {"bus": 1},
        {"made": 1},
        {"bus_keys": ["N"]},
        {"bus_keys": 1},
        {"files": []},
        {"files": {"../x": {"bytes": 1, "sha256": ""}}},
        {"files": {"/etc/x": {"bytes": 1, "sha256": ""}}},
        {"files": {"x": {"bytes": "1", "sha256": ""}}},
        {"signature": "x"},
        {"more": "x" * 70_000},
    ],
)
def test_other_content_is_no_description(saved: Path, fields: dict[str, object]) -> None:
    change(saved, **fields)
    with pytest.raises(Unusable, match="is not the description of a backup"):
        check(saved, None, SECRETS)


def test_folder_without_description_is_refused(tmp_path: Path) -> None:
    """Before the bus is asked for anything."""
    assert quickly("init", "mybus", cwd=tmp_path).code == 0
    assert quickly("prepare", cwd=tmp_path / "mybus").code == 0
    (tmp_path / "saved").mkdir()
    ran = quickly("restore", str(tmp_path / "saved"), cwd=tmp_path / "mybus")
    assert (ran.code, "bus.json is missing" in ran.err) == (1, True), ran.err
