"""The places of a bot's key: each is read or refused, and nothing secret is shown."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nacl.pwhash
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealbus import Credentials, CredentialsError, InvalidInput
from sealbus.key_places import PLACES
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.sealed_seed import (
    LEAST_MEMORY_KIB,
    MAX_MEMORY_KIB,
    MAX_PASSES,
    MAX_PASSPHRASE_BYTES,
    SealedSeed,
    seal_seed,
)

KEY = SigningKey(bytes(range(32)), KeyKind.BOT)
OTHER = SigningKey(bytes(range(32, 64)), KeyKind.BOT)
PASSPHRASE = "correct horse battery staple"
SEALED = seal_seed(KEY, PASSPHRASE, passes=1, memory_kib=LEAST_MEMORY_KIB)
FIELDS = {
    "bus": "shop",
    "bot": "order",
    "servers": ["nats://127.0.0.1:4222"],
    "bus_keys": [SigningKey.generate(KeyKind.BUS).public.text],
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the tests has no place of a key."""
    for name in ("SEALBUS_PASSPHRASE", "SEALBUS_PASSPHRASE_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def secret(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def written(folder: Path, **places: Any) -> Path:
    """A credentials file with these places of its key."""
    fields = {**FIELDS, **places}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())
    return secret(folder / "order.toml", text)


def refused(path: Path) -> str:
    """The sentence and the hint, which show no secret."""
    with pytest.raises(CredentialsError) as caught:
        Credentials.load(path)
    told = f"{caught.value!r} {caught.value} {caught.value.hint}"
    assert KEY.seed_text[2:] not in told
    assert PASSPHRASE not in told
    assert caught.value.hint
    return told


def environment(**fields: str) -> Mapping[str, str]:
    """The environment of a bot without the place of its key, and ``fields``."""
    return {
        "SEALBUS_BUS": "shop",
        "SEALBUS_BOT": "order",
        "SEALBUS_SERVERS": "nats://127.0.0.1:4222",
        "SEALBUS_BUS_KEYS": str(FIELDS["bus_keys"][0]),
        **fields,
    }


# ---- exactly one -------------------------------------------------------------------------------


def test_two_places_of_a_key_are_refused(tmp_path: Path) -> None:
    told = refused(written(tmp_path, seed=KEY.seed_text, ssh_agent=KEY.public.text))
    assert "has seed and ssh_agent; expected one place of the key" in told
    with pytest.raises(CredentialsError, match="the environment: has seed and seed_file"):
        Credentials.from_environment(
            environment(SEALBUS_SEED=KEY.seed_text, SEALBUS_SEED_FILE="seed")
        )


def test_no_place_of_a_key_is_refused(tmp_path: Path) -> None:
    assert "or write one of seed_file, sealed_seed, ssh_agent" in refused(written(tmp_path))
    with pytest.raises(CredentialsError, match="SEALBUS_SEED not set"):
        Credentials.from_environment(environment())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", ["", 1, [KEY.seed_text]])
def test_place_that_is_no_text_is_refused(tmp_path: Path, place: str, value: object) -> None:
    with pytest.raises(CredentialsError, match=f"{place} must be a text"):
        Credentials.load(written(tmp_path, **{place: value}))


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=300))
def test_any_text_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: str, text: str
) -> None:
    path = written(tmp_path_factory.getbasetemp(), **{place: text})
    with pytest.raises(CredentialsError):
        Credentials.load(path)


# ---- a file with the seed alone ----------------------------------------------------------------


def test_seed_file_is_relative_to_the_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets").mkdir()
    secret(tmp_path / "secrets" / "order", f"{KEY.seed_text}\n")
    path = written(tmp_path, seed_file="secrets/order")
    monkeypatch.chdir("/")
    assert Credentials.load(path).key_in_memory.public == KEY.public
    path = written(tmp_path, seed_file=str(tmp_path / "secrets" / "order"))
    assert Credentials.load(path).key_in_memory.public == KEY.public


def test_seed_file_of_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    secret(folder / "seed", KEY.seed_text, 0o400)
    path = written(tmp_path, seed_file="$CREDENTIALS_DIRECTORY/seed")
    assert "seed_file begins with $CREDENTIALS_DIRECTORY, which is not set" in refused(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert Credentials.load(path).key_in_memory.public == KEY.public


@pytest.mark.parametrize("text", ["$HOME/seed", "$CREDENTIALS_DIRECTORY", "~/seed", "${X}/seed"])
def test_no_other_variable_is_replaced(tmp_path: Path, text: str) -> None:
    told = refused(written(tmp_path, seed_file=text))
    assert f"seed_file begins with {text[0]}" in told


def test_variable_within_a_path_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "$HOME").mkdir()
    secret(tmp_path / "$HOME" / "seed", KEY.seed_text)
    path = written(tmp_path, seed_file="./$HOME/seed")
    assert Credentials.load(path).key_in_memory.public == KEY.public


def test_seed_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret(tmp_path / "seed", KEY.seed_text, 0o644)
    told = refused(written(tmp_path, seed_file="seed"))
    assert "seed can be read by others (mode 0644)" in told


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (KEY.seed_text[:-1] + "?", "is not base32 text"),
        (KEY.public.text, "has 56 characters; expected 58"),
        (f"{KEY.seed_text}\n{KEY.seed_text}", "is not base32 text"),
        ("", "has 0 characters"),
        ("x" * 2000, "is larger than 1024 bytes"),
        ("\x00", "this control character"),
    ],
    ids=["damaged", "public", "two", "empty", "large", "control"],
)
def test_seed_file_with_another_content_is_refused(tmp_path: Path, content: str, said: str) -> None:
    secret(tmp_path / "seed", content)
    told = refused(written(tmp_path, seed_file="seed"))
    assert said in told
    assert f"seed_file {tmp_path}" in told or said == "is larger than 1024 bytes"


def test_missing_seed_file_is_named(tmp_path: Path) -> None:
    told = refused(written(tmp_path, seed_file="nowhere/seed"))
    assert "nowhere/seed cannot be read: No such file or directory" in told


def test_environment_names_a_seed_file(tmp_path: Path) -> None:
    secret(tmp_path / "seed", KEY.seed_text)
    for variables in (
        {"SEALBUS_SEED_FILE": str(tmp_path / "seed")},
        {
            "SEALBUS_SEED_FILE": "$CREDENTIALS_DIRECTORY/seed",
            "CREDENTIALS_DIRECTORY": str(tmp_path),
        },
    ):
        loaded = Credentials.from_environment(environment(**variables))
        assert loaded.key_in_memory.public == KEY.public


# ---- a passphrase ------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["", "\n", "\r\n", "  "])
def test_passphrase_in_the_environment_opens_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: str
) -> None:
    monkeypatch.setenv("SEALBUS_PASSPHRASE", PASSPHRASE + space)
    loaded = Credentials.load(written(tmp_path, sealed_seed=SEALED))
    assert loaded.key_in_memory.seed_text == KEY.seed_text
    assert PASSPHRASE not in repr(loaded)


def test_passphrase_in_a_file_opens_the_seed(tmp_path: Path) -> None:
    path = secret(tmp_path / "passphrase", f"{PASSPHRASE}\n")
    loaded = Credentials.from_environment(
        environment(SEALBUS_SEALED_SEED=SEALED, SEALBUS_PASSPHRASE_FILE=str(path))
    )
    assert loaded.key_in_memory.seed_text == KEY.seed_text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("X", "x", "needs a passphrase, and the environment gives none"),
        ("SEALBUS_PASSPHRASE", " ", "the passphrase in SEALBUS_PASSPHRASE is empty"),
        ("SEALBUS_PASSPHRASE", "\udcff", "is not UTF-8"),
        ("SEALBUS_PASSPHRASE", "hunter2", "the passphrase does not open sealed_seed of U"),
        (
            "SEALBUS_PASSPHRASE",
            "x" * (MAX_PASSPHRASE_BYTES + 1),
            "has 1025 bytes; expected at most 1024",
        ),
        ("SEALBUS_PASSPHRASE_FILE", "/nowhere/file", "/nowhere/file cannot be read"),
        ("SEALBUS_PASSPHRASE_FILE", "{empty}", "is empty"),
        ("SEALBUS_PASSPHRASE_FILE", "{open}", "can be read by others"),
        ("SEALBUS_PASSPHRASE_FILE", "{binary}", "is not UTF-8 text"),
        ("SEALBUS_PASSPHRASE_FILE", "{large}", "is larger than"),
    ],
)
def test_passphrase_that_is_of_no_use_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, said: str
) -> None:
    secret(tmp_path / "empty", "\n")
    secret(tmp_path / "open", PASSPHRASE, 0o644)
    secret(tmp_path / "large", "x" * 2000)
    secret(tmp_path / "binary", "").write_bytes(b"\xff")
    if text.startswith("{"):
        text = str(tmp_path / text.strip("{}"))
    monkeypatch.setenv(name, text)
    path = written(tmp_path, sealed_seed=SEALED)
    with pytest.raises(CredentialsError) as caught:
        Credentials.load(path)
    assert said in caught.value.what
    assert "hunter2" not in f"{caught.value!r} {caught.value.hint}"


def test_two_passphrases_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALBUS_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("SEALBUS_PASSPHRASE_FILE", "x")
    told = refused(written(tmp_path, sealed_seed=SEALED))
    assert "SEALBUS_PASSPHRASE and SEALBUS_PASSPHRASE_FILE are both set" in told


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deriving a key fails the test."""

    def derive(*_: object, **__: object) -> bytes:
        raise AssertionError("a key was derived")

    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", derive)
    monkeypatch.setenv("SEALBUS_PASSPHRASE", PASSPHRASE)


def remade(passes: int, memory_kib: int) -> str:
    """``SEALED`` with other costs, as an attacker would write it, with the right check."""
    fields = SEALED.split(".")[:-1]
    fields[2:4] = [str(passes), str(memory_kib)]
    head = ".".join(fields)
    return f"{head}.{hashlib.sha256(head.encode()).hexdigest()[:8]}"


@pytest.mark.parametrize(
    ("passes", "memory_kib", "said"),
    [
        (MAX_PASSES + 1, LEAST_MEMORY_KIB, "asks for 11 passes of Argon2id; expected 1 to 10"),
        (0, LEAST_MEMORY_KIB, "asks for 0 passes"),
        (2**32 - 1, LEAST_MEMORY_KIB, "asks for 4294967295 passes"),
        (1, MAX_MEMORY_KIB + 1, "asks for 262145 KiB of memory; expected 8192 to 262144"),
        (1, 2**30, "asks for 1073741824 KiB"),
        (1, LEAST_MEMORY_KIB - 1, "asks for 8191 KiB"),
    ],
)
def test_costs_are_bounded_before_any_work(
    tmp_path: Path, no_work: None, passes: int, memory_kib: int, said: str
) -> None:
    told = refused(written(tmp_path, sealed_seed=remade(passes, memory_kib)))
    assert said in told


def test_largest_costs_are_accepted() -> None:
    sealed = SealedSeed.parse(remade(MAX_PASSES, MAX_MEMORY_KIB))
    assert (sealed.passes, sealed.memory_kib) == (MAX_PASSES, MAX_MEMORY_KIB)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SEALED.replace("sealed1", "sealed2"), "has the version 2; this library reads version 1"),
        (SEALED[:-1], "sealed_seed is damaged: its form is wrong"),
        (SEALED + "\n", "sealed_seed is damaged: its form is wrong"),
        (SEALED.replace("argon2id", "argon2i"), "sealed_seed is damaged: its form is wrong"),
        (KEY.seed_text, "sealed_seed is damaged: its form is wrong"),
        (SEALED[:100] + "~" + SEALED[101:], "sealed_seed is damaged: its form is wrong"),
        (SEALED[:-1] + ("0" if SEALED[-1] != "0" else "1"), "damaged: its check is wrong"),
    ],
    ids=["version", "short", "long", "kind", "seed", "character", "check"],
)
def test_damaged_text_is_told_from_a_wrong_passphrase(
    tmp_path: Path, no_work: None, text: str, said: str
) -> None:
    assert said in refused(written(tmp_path, sealed_seed=text))


def test_every_changed_character_is_noticed() -> None:
    for at, char in enumerate(SEALED):
        other = "B" if char == "A" else "A"
        with pytest.raises(InvalidInput):
            SealedSeed.parse(SEALED[:at] + other + SEALED[at + 1 :]).open(PASSPHRASE)


def test_another_public_key_in_the_text_is_noticed() -> None:
    head = SEALED.rpartition(".")[0].replace(KEY.public.text, OTHER.public.text)
    text = f"{head}.{hashlib.sha256(head.encode()).hexdigest()[:8]}"
    with pytest.raises(InvalidInput, match="sealed_seed is damaged: it names the key U"):
        SealedSeed.parse(text).open(PASSPHRASE)


def test_no_memory_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def derive(*_: object, **__: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", derive)
    with pytest.raises(InvalidInput, match="needs 8192 KiB of memory"):
        SealedSeed.parse(SEALED).open(PASSPHRASE)


def test_the_same_seed_is_sealed_differently_each_time() -> None:
    again = seal_seed(KEY, PASSPHRASE, passes=1, memory_kib=LEAST_MEMORY_KIB)
    same = [one == two for one, two in zip(SEALED.split("."), again.split("."), strict=True)]
    assert same == [True, True, True, True, True, False, False, False]
    assert SealedSeed.parse(again).open(PASSPHRASE).seed_text == KEY.seed_text


def test_default_costs_are_those_of_the_document() -> None:
    began = time.monotonic()
    sealed = seal_seed(KEY, PASSPHRASE)
    assert re.match(r"sealed1\.argon2id\.3\.65536\.", sealed)
    assert time.monotonic() - began > 0.01, "it is work"


# ---- without unlocking -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [{"sealed_seed": SEALED}, {"ssh_agent": KEY.public.text}],
    ids=lambda one: next(iter(one)),
)
def test_without_unlocking_the_public_key_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: dict[str, str]
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    loaded = Credentials.load(written(tmp_path, **place), unlock=False)
    assert loaded.key.public == KEY.public
    for use in (lambda: loaded.new_session_key(0), lambda: loaded.write(tmp_path / "copy")):
        with pytest.raises(CredentialsError, match=r"not unlocked|not in this process"):
            use()
    assert not (tmp_path / "copy").exists()
