"""The file with the bus's private keys: made once, read only by its owner, never shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.errors import SecretsUnusable
from sealbus_broker.relay.secrets import MAX_FILE_BYTES, BusSecrets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".sealbus/relay.toml"


def test_a_written_file_is_read(path: Path) -> None:
    made = BusSecrets.generate()
    made.write(path)
    read = BusSecrets.load(path)
    for mine, theirs in (
        (made.bus, read.bus),
        (made.issuer, read.issuer),
        (made.relay, read.relay),
        (made.session_issuer, read.session_issuer),
    ):
        assert mine is not None
        assert theirs is not None
        assert mine.seed_text == theirs.seed_text
        assert mine.kind is theirs.kind


def test_file_of_an_older_version_gets_a_session_issuer(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o600)
    path.write_text(the_text())
    old = BusSecrets.load(path)
    assert old.session_issuer is None
    made = old.with_session_issuer(path)
    read = BusSecrets.load(path)
    assert read.bus.seed_text == old.bus.seed_text
    assert made.session_issuer is not None
    assert read.session_issuer is not None
    assert read.session_issuer.seed_text == made.session_issuer.seed_text
    assert read.with_session_issuer(path) is read
    other = read.with_session_issuer(path, new=True).session_issuer
    assert other is not None
    assert other.seed_text != made.session_issuer.seed_text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nobody_else_can_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        BusSecrets.generate().write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_it_is_never_overwritten(path: Path) -> None:
    BusSecrets.generate().write(path)
    before = path.read_bytes()
    with pytest.raises(SecretsUnusable, match="exists already") as told:
        BusSecrets.generate().write(path)
    assert "never overwritten" in str(told.value.hint)
    assert path.read_bytes() == before


def test_it_is_not_written_through_a_link(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SecretsUnusable, match="exists already"):
        BusSecrets.generate().write(path)
    assert not (tmp_path / "elsewhere").exists()


def test_neither_its_repr_nor_its_keys_show_a_seed() -> None:
    made = BusSecrets.generate()
    for key in (made.bus, made.issuer, made.relay, made.session_issuer):
        assert key is not None
        assert key.seed_text not in repr(made) + str(made) + repr(key) + str(key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o602, 0o610, 0o644, 0o777])
def test_a_file_that_others_may_touch_is_refused(path: Path, mode: int) -> None:
    BusSecrets.generate().write(path)
    path.chmod(mode)
    with pytest.raises(SecretsUnusable, match=f"mode {mode:04o}") as told:
        BusSecrets.load(path)
    assert f"chmod 600 {path}" in str(told.value.hint)


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(SecretsUnusable, match="No such file"):
        BusSecrets.load(path)


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(SecretsUnusable, match="cannot be read"):
        BusSecrets.load(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SecretsUnusable, match="file cannot be made"):
        BusSecrets.generate().write(tmp_path / "file/relay.toml")


def the_text(**other: str) -> str:
    made = BusSecrets.generate()
    fields = {
        "bus_seed": made.bus.seed_text,
        "issuer_seed": made.issuer.seed_text,
        "relay_seed": made.relay.seed_text,
    }
    return "".join(f'{name} = "{value}"\n' for name, value in (fields | other).items())


OTHER = SigningKey.generate(KeyKind.BOT)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not toml [",
        "bus_seed = 1\nissuer_seed = 2\nrelay_seed = 3\n",
        "bus_seed = []\nissuer_seed = {}\nrelay_seed = true\n",
        the_text(bus_seed=OTHER.seed_text),
        the_text(issuer_seed=OTHER.seed_text),
        the_text(relay_seed=SigningKey.generate(KeyKind.BUS).seed_text),
        the_text(relay_seed=OTHER.public.text),
        the_text(relay_seed=OTHER.seed_text[:-1]),
        the_text(relay_seed=OTHER.seed_text[:-1] + ("B" if OTHER.seed_text.endswith("A") else "A")),
        the_text(relay_seed=""),
        the_text(more=OTHER.seed_text),
        the_text(session_issuer_seed=SigningKey.generate(KeyKind.BUS).seed_text),
        the_text(session_issuer_seed=OTHER.seed_text[:-1]),
        the_text(session_issuer_seed=""),
        "\udcff\udcfe",
        "#" * (MAX_FILE_BYTES + 1),
    ],
)
def test_a_file_with_other_content_is_refused_and_not_repeated(path: Path, content: str) -> None:
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o600)
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SecretsUnusable) as told:
        BusSecrets.load(path)
    said = f"{told.value} {told.value.hint}"
    assert str(path) in said
    assert OTHER.seed_text[:20] not in said
