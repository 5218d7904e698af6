"""``keys/`` has public keys only, each of one bot, and no file that looks valid but is not read."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.policy.keys import MAX_KEYS, add_key, add_next_key, set_time
from sealbus_broker.policy.replace import replace_file
from tests.policy.folder import Folder

FILE = "keys/order.yaml"
NOW = datetime(2026, 11, 24, 8, 0, 0, 123_456, tzinfo=UTC)


def test_a_seed_is_refused_and_never_shown(bus: Folder) -> None:
    seed = SigningKey.generate(KeyKind.BOT).seed_text
    bus.key("order", seed)
    problem = bus.problem()
    assert str(problem).startswith(
        "keys/order.yaml:3:5: public key (U…) expected, got a seed"
    ) or "seed" in str(problem)
    assert seed not in str(problem)
    assert seed not in repr(problem)


@pytest.mark.parametrize("kind", [KeyKind.BUS, KeyKind.ISSUER])
def test_a_key_of_another_kind(bus: Folder, kind: KeyKind) -> None:
    bus.key("order", SigningKey.generate(kind).public.text)
    assert (bus.problem().line, bus.problem().column) == (3, 5)


def test_a_key_with_a_wrong_letter(bus: Folder) -> None:
    text = bus.key("order")
    bus.key("order", text[:-1] + ("A" if text[-1] != "A" else "B"))
    assert (bus.problem().line, bus.problem().column) == (3, 5)


def test_a_key_of_small_order(bus: Folder) -> None:
    # y = 1, the neutral element: one of its signatures fits many messages. The nkey has prefix U.
    raw = bytes([KeyKind.BOT.value]) + b"\x01" + bytes(31)
    bus.key(
        "order",
        base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("="),
    )
    assert "not a valid Ed25519 key" in bus.problem().what


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("bot: order", "bot: inventory", "1:1: is not the bot that the file is named after"),
        ("bot: order\n", "", "1:1: does not say whose keys these are"),
        ("keys:", "keyz:", "2:1: unknown name keyz"),
        ("    not_before: 2026-11-24T08:00:00Z\n", "", "3:5: needs key and not_before"),
        ("08:00:00Z\n", "08:00:00Z\n    not_afer: x\n", "5:5: unknown name not_afer"),
        (
            "08:00:00Z\n",
            "08:00:00Z\n    not_after: 2026-11-24T08:00:00Z\n",
            "5:5: not_after is not after not_before",
        ),
        ("2026-11-24T08:00:00Z", "2026-11-24", "4:5: not_before is not a time"),
        ("2026-11-24T08:00:00Z", "2026-11-24T08:00:00", "4:5: not_before is not a time"),
        ("2026-11-24T08:00:00Z", "2026-11-24T08:00:00+01:00", "4:5: not_before is not a time"),
        ("2026-11-24T08:00:00Z", "2026-02-31T08:00:00Z", "4:5: not_before is not a time"),
        ("2026-11-24T08:00:00Z", "0000-00-00T00:00:00Z", "4:5: not_before is not a time"),
        ("2026-11-24T08:00:00Z", "1795507200", "4:5: not_before is not a time"),
    ],
)
def test_mistake_in_a_key_file_is_reported_at_its_place(
    bus: Folder, old: str, new: str, told: str
) -> None:
    bus.key("order")
    bus.change(old, new, FILE)
    assert f"{FILE}:{told}" in bus.problems()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "bot: order",
        "bot: order\nkeys: {}",
        "bot: order\nkeys: []",
        "bot: order\nkeys: [1]",
    ],
)
def test_a_key_file_without_keys(bus: Folder, text: str) -> None:
    bus.write(FILE, text)
    assert bus.problems()


def test_the_same_key_twice_in_one_file(bus: Folder) -> None:
    text = bus.key("order")
    bus.write(
        FILE,
        (bus.root / FILE).read_text() + f"  - key: {text}\n    not_before: 2026-11-24T08:00:00Z\n",
    )
    assert bus.problems() == [f"{FILE}:5:5: the key occurs here twice"]


def test_one_key_for_two_bots(bus: Folder) -> None:
    bus.key("order", bus.key("inventory"))
    assert bus.problems() == [f"{FILE}:3:5: this key is also inventory's: a key belongs to one bot"]


def test_keys_of_a_bot_that_is_not_declared(bus: Folder) -> None:
    bus.key("ordr")
    assert bus.problems() == ["keys/ordr.yaml:1:1: the policy declares no bot ordr"]
    assert bus.problem().hint == "did you mean order?"


@pytest.mark.parametrize(
    "name",
    ["order.yml", "order.YAML", "order", "order.yaml.bak", "Order.yaml", "order.json", "SUABC.nk"],
)
def test_a_file_that_would_not_be_read_is_refused(bus: Folder, name: str) -> None:
    """An operator who writes a revocation into ``order.yml`` believes that it is in force."""
    bus.write(f"keys/{name}", "bot: order\nkeys: []\n")
    assert bus.problems() == [f"keys/{name}: the file's name is not a key file's name"]


def test_a_readme_and_hidden_files_may_be_there(bus: Folder) -> None:
    bus.write("keys/README.md", "what these are")
    bus.write("keys/.gitkeep", "")
    assert bus.problems() == []


def test_keys_that_is_a_file_is_refused(bus: Folder) -> None:
    bus.write("keys", "order: U")
    assert bus.problems() == ["keys: cannot be read: Not a directory"]


class TestAddingAKey:
    def test_to_a_bot_without_a_file(self, bus: Folder) -> None:
        key = SigningKey.generate(KeyKind.BOT).public
        path = add_key(bus.root, "order", key, NOW)
        assert path == bus.root / FILE
        policy = bus.load().policy
        assert policy is not None
        assert list(policy.bots["order"].keys) == [key.raw]
        assert policy.bots["order"].keys[key.raw].not_before_ms == int(
            NOW.replace(microsecond=0).timestamp() * 1000
        )

    def test_to_a_file_keeps_the_rest_of_the_file(self, bus: Folder) -> None:
        first = bus.key("order")
        bus.change("keys:", "keys: # rotated each spring", FILE)
        bus.write(
            FILE,
            "# ask ops before touching\n"
            + (bus.root / FILE).read_text()
            + "    revoked: 2026-12-01T00:00:00Z  # lost\n",
        )
        before = (bus.root / FILE).read_text()
        second = SigningKey.generate(KeyKind.BOT).public
        add_key(bus.root, "order", second, NOW)
        after = (bus.root / FILE).read_text()
        assert after.startswith(before.rstrip("\n"))
        assert first in after
        policy = bus.load().policy
        assert policy is not None
        assert len(policy.bots["order"].keys) == 2

    def test_in_another_time_zone(self, bus: Folder) -> None:
        key = SigningKey.generate(KeyKind.BOT).public
        add_key(bus.root, "order", key, NOW.astimezone(timezone(timedelta(hours=5))))
        assert "not_before: 2026-11-24T08:00:00Z" in (bus.root / FILE).read_text()

    def test_twice(self, bus: Folder) -> None:
        key = SigningKey.generate(KeyKind.BOT).public
        add_key(bus.root, "order", key, NOW)
        with pytest.raises(InvalidInput):
            add_key(bus.root, "order", key, NOW)

    def test_to_a_broken_file_leaves_it_alone(self, bus: Folder) -> None:
        bus.write(FILE, "bot: order\nkeys: oops\n")
        with pytest.raises(InvalidInput):
            add_key(bus.root, "order", SigningKey.generate(KeyKind.BOT).public, NOW)
        assert (bus.root / FILE).read_text() == "bot: order\nkeys: oops\n"

    @pytest.mark.parametrize("bot", ["../order", "a/b", "", "Order", ".order"])
    def test_with_a_bad_name(self, bus: Folder, bot: str) -> None:
        with pytest.raises(InvalidInput):
            add_key(bus.root, bot, SigningKey.generate(KeyKind.BOT).public, NOW)

    def test_through_a_link_out_of_the_folder(self, bus: Folder, tmp_path: Path) -> None:
        outside = tmp_path / "outside.yaml"
        outside.write_text("bot: order\nkeys: []\n")
        (bus.root / "keys").mkdir()
        (bus.root / FILE).symlink_to(outside)
        with pytest.raises(InvalidInput):
            add_key(bus.root, "order", SigningKey.generate(KeyKind.BOT).public, NOW)
        assert outside.read_text() == "bot: order\nkeys: []\n"

    def test_up_to_the_most_that_a_bot_may_have(self, bus: Folder) -> None:
        for _ in range(MAX_KEYS):
            add_key(bus.root, "order", SigningKey.generate(KeyKind.BOT).public, NOW)
        assert bus.problems() == []
        with pytest.raises(InvalidInput, match="has 16 keys, which is the most"):
            add_key(bus.root, "order", SigningKey.generate(KeyKind.BOT).public, NOW)
        assert bus.problems() == []

    def test_leaves_nothing_else_behind(self, bus: Folder) -> None:
        add_key(bus.root, "order", SigningKey.generate(KeyKind.BOT).public, NOW)
        assert [path.name for path in (bus.root / "keys").iterdir()] == ["order.yaml"]


@pytest.mark.parametrize(
    ("field", "kept_h", "late_h"), [("revoked", -1, 0), ("sessions_from", 0, -1)]
)
def test_later_edit_takes_no_revocation_back(
    bus: Folder, field: str, kept_h: int, late_h: int
) -> None:
    """Two commands have chosen their times, and come one after the other."""
    key = SigningKey.generate(KeyKind.BOT).public
    add_key(bus.root, "order", key, NOW - timedelta(days=9))
    set_time(bus.root, "order", [key.raw], field, NOW + timedelta(hours=kept_h))
    before = (bus.root / FILE).read_text()
    set_time(bus.root, "order", [key.raw], field, NOW + timedelta(hours=late_h))
    assert (bus.root / FILE).read_text() == before


class TestAddingTheNextKey:
    END = NOW + timedelta(days=1)

    def test_ends_the_old_key_in_the_same_step(
        self, bus: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old, new = (SigningKey.generate(KeyKind.BOT).public for _ in range(2))
        add_key(bus.root, "order", old, NOW - timedelta(days=9))
        writes: list[str] = []

        def note(path: Path, text: str) -> None:
            writes.append(text)
            replace_file(path, text)

        monkeypatch.setattr("sealbus_broker.policy.keys.replace_file", note)
        assert add_next_key(bus.root, "order", new, NOW, end=self.END) == {old.raw}
        assert len(writes) == 1
        policy = bus.load().policy
        assert policy is not None
        ends = {raw: key.not_after_ms for raw, key in policy.bots["order"].keys.items()}
        assert ends == {old.raw: int(self.END.timestamp()) * 1000, new.raw: None}

    @pytest.mark.parametrize("field", ["not_after", "revoked"])
    def test_leaves_an_earlier_end(self, bus: Folder, field: str) -> None:
        """Another command may have written it after this one has shown the keys."""
        old, new = (SigningKey.generate(KeyKind.BOT).public for _ in range(2))
        add_key(bus.root, "order", old, NOW - timedelta(days=9))
        set_time(bus.root, "order", [old.raw], field, self.END - timedelta(hours=1))
        before = (bus.root / FILE).read_text()
        assert add_next_key(bus.root, "order", new, NOW, end=self.END) == frozenset()
        assert (bus.root / FILE).read_text().startswith(before)

    def test_to_a_bot_without_a_file(self, bus: Folder) -> None:
        new = SigningKey.generate(KeyKind.BOT).public
        assert add_next_key(bus.root, "order", new, NOW, end=self.END) == frozenset()
        policy = bus.load().policy
        assert policy is not None
        assert list(policy.bots["order"].keys) == [new.raw]
