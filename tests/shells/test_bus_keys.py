"""The bus keys of one relay: which it seals with, which it believes, and which list it stores."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from sealbus.errors import Malformed
from sealbus.protocol.keyring import Link, pack_keyring, seal_link
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp, seal_stamps
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import BotKey
from sealbus_broker.nats.records import read_keyring, write_keyring
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.relay import bus_keys
from sealbus_broker.relay.bus_keys import LEAVE_MS, RelayKeys
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.store.clocks import Apart
from tests.shells.stage import Stage
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow

NOW = 1_800_000_000_000
HOUR = 3_600_000


@dataclass
class Clock:
    """A clock that a test sets."""

    now: int = NOW

    def __call__(self) -> int:
        return self.now


def rotated(secrets: BusSecrets, at: int = NOW) -> BusSecrets:
    """The next key seals from an hour later on, and the old one ends an hour after that."""
    return secrets.rotated(
        "shop", now_ms=at, from_ms=at + HOUR, end_ms=at + 2 * HOUR, kept_ms=24 * HOUR
    )


@dataclass
class One:
    """The keys of one relay, with its policy."""

    keys: RelayKeys
    in_force: InForce
    clock: Clock


def relay_with(stage: Stage, secrets: BusSecrets, file: Path | None = None) -> One:
    clock = Clock()
    in_force = InForce(replace(stage.policy, bus_keys=frozenset()), lambda: 0.0)
    return One(RelayKeys(secrets, in_force, now_ms=clock, file=file), in_force, clock)


async def stored(stage: Stage) -> bytes | None:
    return await read_keyring(stage.relay, PATIENCE_S)


def ended(one: One) -> str:
    """The reason for which the relay leaves, or nothing."""
    error = one.keys.ended
    return "" if error is None else error.what


def a_key() -> SigningKey:
    """A session-issuer key."""
    return SigningKey.generate(KeyKind.BOT)


def raw(key: SigningKey | None) -> bytes:
    assert key is not None
    return key.public.raw


async def test_bus_that_never_rotated_has_no_list(bus: Stage) -> None:
    one = relay_with(bus, bus.secrets)
    assert not await one.keys.look(bus.relay)
    assert await stored(bus) is None
    assert one.keys.public == bus.secrets.bus.public
    assert one.in_force().bus_keys == {raw(bus.secrets.bus)}
    assert one.keys.problems() == []


async def test_next_key_seals_when_it_is_due_and_published(bus: Stage) -> None:
    secrets = rotated(bus.secrets)
    one = relay_with(bus, secrets)
    one.clock.now = NOW + HOUR
    one.keys._choose()
    assert one.keys.public == secrets.bus.public
    one.clock.now -= 1
    assert await one.keys.look(bus.relay)
    assert await stored(bus) == secrets.keyring
    assert one.keys.public == secrets.bus.public
    one.clock.now += 1
    assert not await one.keys.look(bus.relay)
    assert one.keys.public.raw == raw(secrets.next)


async def test_key_that_has_ended_is_not_used_in_any_case(bus: Stage) -> None:
    secrets = rotated(bus.secrets)
    one = relay_with(bus, secrets)
    one.clock.now = NOW + 2 * HOUR + 1
    one.keys._choose()
    assert one.keys.public.raw == raw(secrets.next)


async def test_policy_believes_both_keys_and_the_old_one_until_its_end(bus: Stage) -> None:
    secrets = rotated(bus.secrets)
    one = relay_with(bus, secrets)
    believed = one.in_force().bus_keys
    assert believed == {raw(secrets.bus), raw(secrets.next)}

    def stamped(at: int) -> bytes:
        said = (Verdict.ACCEPTED, None, None, bytes(32), 1, at, "relay", None, at)
        stamp = Stamp("shop", bytes(32), "order", "orders.x", bytes(16), *said)
        return seal_stamps(secrets.bus, [stamp])[0]

    open_stamp(stamped(NOW + 2 * HOUR), believed, Verifier())
    with pytest.raises(Malformed, match="after the end of the bus key"):
        open_stamp(stamped(NOW + 2 * HOUR + 1), believed, Verifier())
    # The policy of a changed folder believes them too.
    one.in_force.replace(replace(bus.policy, digest=bytes([1] * 32)))
    assert one.in_force().bus_keys == believed
    relay = one.in_force().sender("sealbus")
    assert relay is not None
    assert relay.keys[raw(secrets.bus)].not_after_ms == NOW + 2 * HOUR


async def test_relay_with_an_old_file_believes_the_next_key(bus: Stage) -> None:
    secrets = rotated(bus.secrets)
    await relay_with(bus, secrets).keys.look(bus.relay)
    old = relay_with(bus, bus.secrets)
    assert not await old.keys.look(bus.relay)
    assert old.in_force().bus_keys == {raw(secrets.bus), raw(secrets.next)}
    assert old.keys.public == bus.secrets.bus.public
    (problem,) = old.keys.problems()
    assert "has an old bus key" in problem.what
    assert "copy .sealbus/relay.toml" in problem.hint
    assert ended(old) == ""
    old.clock.now = NOW + 2 * HOUR - LEAVE_MS
    assert ended(old) == ""
    old.clock.now += 1
    assert "2027-01-15T10:00:00Z" in ended(old)
    # One with the next key goes on.
    new = relay_with(bus, secrets)
    new.clock.now = NOW + 3 * HOUR
    assert ended(new) == ""


async def test_longer_list_takes_the_place_of_a_shorter_one_alone(bus: Stage) -> None:
    first = rotated(bus.secrets)
    second = rotated(first.finished(), NOW + 3 * HOUR)
    assert await relay_with(bus, first).keys.look(bus.relay)
    assert await relay_with(bus, second).keys.look(bus.relay)
    assert not await relay_with(bus, first).keys.look(bus.relay)
    assert await stored(bus) == second.keyring


async def test_list_that_contradicts_is_left_alone_and_told(bus: Stage) -> None:
    ours, theirs = rotated(bus.secrets), rotated(bus.secrets)
    await relay_with(bus, theirs).keys.look(bus.relay)
    one = relay_with(bus, ours)
    assert not await one.keys.look(bus.relay)
    assert await stored(bus) == theirs.keyring
    (problem,) = one.keys.problems()
    assert "contradicts" in problem.what
    assert raw(theirs.next) not in one.in_force().bus_keys
    # Its own next key leads nobody anywhere, so it is not used.
    one.clock.now = NOW + HOUR
    await one.keys.look(bus.relay)
    assert one.keys.public == ours.bus.public


async def test_list_of_a_stranger_is_not_believed(bus: Stage) -> None:
    stranger, other = SigningKey.generate(KeyKind.BUS), SigningKey.generate(KeyKind.BUS)
    link = Link("shop", 1, raw(stranger), raw(other), NOW, NOW)
    await write_keyring(bus.relay, pack_keyring([seal_link(stranger, link)]), PATIENCE_S)
    one = relay_with(bus, bus.secrets)
    await one.keys.look(bus.relay)
    assert one.in_force().bus_keys == {raw(bus.secrets.bus)}
    assert one.keys.problems() == []


async def test_bus_with_new_keys_replaces_the_list_of_before(bus: Stage) -> None:
    await relay_with(bus, rotated(bus.secrets)).keys.look(bus.relay)
    anew = BusSecrets.generate()
    anew = replace(anew, relay=bus.secrets.relay, issuer=bus.secrets.issuer)
    one = relay_with(bus, anew)
    assert not await one.keys.look(bus.relay)
    assert one.keys.problems() == []
    after = rotated(anew)
    two = relay_with(bus, after)
    assert await two.keys.look(bus.relay)
    assert await stored(bus) == after.keyring


@pytest.mark.parametrize("data", [b"", b"\xc1"], ids=["empty", "garbage"])
async def test_list_that_is_none_is_replaced(data: bytes, bus: Stage) -> None:
    await write_keyring(bus.relay, data, PATIENCE_S)
    one = relay_with(bus, bus.secrets)
    await one.keys.look(bus.relay)
    assert "is none" in one.keys.problems()[0].what
    secrets = rotated(bus.secrets)
    assert await relay_with(bus, secrets).keys.look(bus.relay)
    assert await stored(bus) == secrets.keyring
    assert not await one.keys.look(bus.relay)
    assert all("is none" not in problem.what for problem in one.keys.problems())


async def test_changed_file_is_followed(bus: Stage, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    bus.secrets.write(file)
    one = relay_with(bus, bus.secrets, file)
    await one.keys.look(bus.relay)
    secrets = rotated(bus.secrets)
    secrets.rewrite(file)
    assert await one.keys.look(bus.relay)
    one.clock.now = NOW + HOUR
    secrets.finished().rewrite(file)
    await one.keys.look(bus.relay)
    assert one.keys.public.raw == raw(secrets.next)
    assert one.in_force().bus_keys == {raw(secrets.bus), raw(secrets.next)}


@pytest.mark.parametrize("case", ["gone", "open to others", "not TOML", "of another bus"])
async def test_file_that_cannot_be_used_changes_nothing(
    case: str, bus: Stage, tmp_path: Path
) -> None:
    file = tmp_path / "relay.toml"
    bus.secrets.write(file)
    one = relay_with(bus, bus.secrets, file)
    await one.keys.look(bus.relay)
    if case == "open to others":
        file.chmod(0o644)
        bus.secrets.rewrite(file)
    else:
        file.unlink()
    if case == "not TOML":
        file.write_text("=")
        file.chmod(0o600)
    elif case == "of another bus":
        BusSecrets.generate().write(file)
    await one.keys.look(bus.relay)
    (problem,) = one.keys.problems()
    assert problem.about == "bus-key-file"
    for key in (bus.secrets.bus, bus.secrets.relay, bus.secrets.issuer):
        assert key.seed_text not in problem.what
    assert one.keys.public == bus.secrets.bus.public
    file.unlink(missing_ok=True)
    bus.secrets.write(file)
    await one.keys.look(bus.relay)
    assert one.keys.problems() == []


async def test_session_issuer_is_used_once_it_is_published(bus: Stage, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    bus.secrets.write(file)
    one = relay_with(bus, bus.secrets, file)

    def publish(*keys: SigningKey | None) -> None:
        issuers = {raw(key): BotKey(raw(key), 0) for key in keys}
        one.in_force.replace(replace(bus.policy, session_issuers=issuers))

    old = bus.secrets.session_issuer
    publish(old)
    new = bus.secrets.with_session_issuer(file, a_key()).session_issuer
    await one.keys.look(bus.relay)
    assert raw(one.keys.session_issuer) == raw(old)
    publish(old, new)
    await one.keys.look(bus.relay)
    assert raw(one.keys.session_issuer) == raw(new)


async def test_first_session_issuer_is_used_at_once(bus: Stage, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    older = replace(bus.secrets, session_issuer=None)
    older.write(file)
    one = relay_with(bus, older, file)
    await one.keys.look(bus.relay)
    assert one.keys.session_issuer is None
    made = older.with_session_issuer(file, a_key()).session_issuer
    await one.keys.look(bus.relay)
    assert raw(one.keys.session_issuer) == raw(made)


async def test_door_is_told_of_another_session_issuer(
    bus: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_keys, "LOOK_S", 0.01)
    file = tmp_path / "relay.toml"
    older = replace(bus.secrets, session_issuer=None)
    older.write(file)
    one = relay_with(bus, older, file)
    stopping, told = asyncio.Event(), list[bytes]()

    async def tell_door() -> None:
        told.append(raw(one.keys.session_issuer))

    running = asyncio.create_task(one.keys.run(bus.relay, Apart(), stopping, tell_door))
    made = older.with_session_issuer(file, a_key()).session_issuer
    await until(lambda: told != [], "the door is told")
    stopping.set()
    await patiently(running)
    assert told == [raw(made)]


async def test_nats_that_does_not_answer_changes_nothing(stage: Stage) -> None:
    """There is no stream yet."""
    one = relay_with(stage, rotated(stage.secrets))
    with pytest.raises((NatsError, TimeoutError, StreamsUnusable)):
        await one.keys.look(stage.relay)
    assert one.keys.public == stage.secrets.bus.public
