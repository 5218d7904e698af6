"""The file with the bus's private keys: made once, read only by its owner, never shown."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sealbus.errors import InvalidInput
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
    for key in (SigningKey.generate(KeyKind.BOT) for _ in range(2)):
        made = old.with_session_issuer(path, key)
        read = BusSecrets.load(path)
        assert read.bus.seed_text == old.bus.seed_text
        assert made.session_issuer is key
        assert read.session_issuer is not None
        assert read.session_issuer.seed_text == key.seed_text
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


def test_link_without_a_target_has_a_hint_of_its_own(path: Path, tmp_path: Path) -> None:
    """As on systemd, while the relay is down. New keys would be those of another bus."""
    path.parent.mkdir()
    path.symlink_to(tmp_path / "credentials/relay.toml")
    with pytest.raises(SecretsUnusable, match="No such file") as told:
        BusSecrets.load(path)
    hint = str(told.value.hint)
    assert hint.startswith(f"it is a link to {tmp_path}/credentials/relay.toml, which does not")
    assert "sealbus up" not in hint


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


# ---- a rotation of the bus key ------------------------------------------------------------------

NOW = 1_800_000_000_000
DAY = 86_400_000


def rotated(secrets: BusSecrets, at_ms: int = NOW) -> BusSecrets:
    """The same with a next key, which begins an hour later. The old one ends a day after that."""
    begin = at_ms + 3_600_000
    return secrets.rotated("shop", now_ms=at_ms, from_ms=begin, end_ms=begin + DAY, kept_ms=7 * DAY)


def seeds(secrets: BusSecrets) -> list[str]:
    keys = (secrets.bus, secrets.issuer, secrets.relay, secrets.next)
    return [key.seed_text for key in keys if key is not None]


def test_each_step_of_a_rotation_is_written_and_read(path: Path) -> None:
    first = BusSecrets.generate()
    first.write(path)
    made = rotated(first)
    made.rewrite(path)
    read = BusSecrets.load(path)
    assert seeds(read) == seeds(made)
    assert read.publics == (first.bus.public, made.publics[1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read.finished().rewrite(path)
    done = BusSecrets.load(path)
    assert made.next is not None
    assert done.bus.seed_text == made.next.seed_text
    assert (done.next, done.previous, done.links) == (None, (first.bus.public,), made.links)
    assert first.bus.seed_text not in path.read_text()
    assert done.finished() is done


def test_next_key_seals_from_its_time_on() -> None:
    first = BusSecrets.generate()
    made = rotated(first)
    begin = made.chain[-1].from_ms
    assert first.signing(begin).public == first.bus.public
    assert made.signing(begin - 1).public == first.bus.public
    assert made.signing(begin).public == made.publics[-1]
    assert made.finished().signing(0).public == made.publics[-1]


def test_all_keys_are_trusted_with_their_ends() -> None:
    first = BusSecrets.generate()
    assert (set(first.trusted), dict(first.trusted.ends)) == ({first.bus.public.raw}, {})
    made = rotated(first)
    for one in (made, made.finished()):
        assert set(one.trusted) == {key.raw for key in made.publics}
        assert dict(one.trusted.ends) == {first.bus.public.raw: made.chain[-1].end_ms}


def test_second_rotation_waits_for_the_first() -> None:
    with pytest.raises(InvalidInput, match="is under way"):
        rotated(rotated(BusSecrets.generate()))


def test_keys_of_before_are_kept_while_messages_have_them() -> None:
    secrets = BusSecrets.generate()
    for number in range(2):
        secrets = rotated(secrets, NOW + number).finished()
    assert len(secrets.previous) == 2
    with pytest.raises(InvalidInput, match="2 bus keys of before still have messages") as told:
        rotated(secrets, NOW + 2)
    assert "rotate again in 193 hours" in str(told.value.hint)
    later = rotated(secrets, NOW + 8 * DAY + 2 * 3_600_000)
    assert len(later.previous) == 0
    assert [link.number for link in later.chain] == [1, 2, 3]


def test_oldest_links_are_left_out() -> None:
    secrets = BusSecrets.generate()
    for number in range(34):
        secrets = rotated(secrets, NOW + number * 30 * DAY).finished()
    assert [link.number for link in secrets.chain] == list(range(3, 35))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace("next_bus_seed", "next_bus_sed"), "expected exactly bus_seed"),
        (lambda text: _without(text, "next_bus_seed"), "leads to another bus key"),
        (lambda text: text[: text.index("links")], "has no link from bus_seed"),
        (lambda text: text.replace('  "', '  "?'), "base64"),
        (lambda text: text.replace('  "kw', '  "kg'), "relay.toml: links: "),
        (lambda text: f'{text}previous_bus_keys = ["{_other()}"]\n', "no link leads on from"),
        (lambda text: f"{text}previous_bus_keys = 5\n", "not a list of at most 2 bus keys"),
    ],
)
def test_file_whose_keys_do_not_belong_together_is_refused(
    change: Callable[[str], str], why: str, path: Path
) -> None:
    rotated(BusSecrets.generate()).write(path)
    text = change(path.read_text())
    path.write_text(text)
    with pytest.raises(SecretsUnusable, match=why) as told:
        BusSecrets.load(path)
    for line in text.splitlines():
        if "seed" in line:
            assert line.split('"')[1] not in str(told.value)


def _without(text: str, name: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(name))


def _other() -> str:
    return SigningKey.generate(KeyKind.BUS).public.text
