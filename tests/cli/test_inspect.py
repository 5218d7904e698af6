"""`sealbus inspect`: a seal counts only with a key that the reader was given."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealbus.credentials import Credentials
from sealbus.protocol.codec import pack_bundle, pack_json
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Draft, Envelope, Header
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.limits import MAX_BUNDLE_BYTES, MAX_SHOWN_BYTES, MAX_STAMP_BYTES
from sealbus.protocol.reason import Reason
from sealbus.protocol.sender_links import sign_link
from sealbus.protocol.stamp import RefusedPayload, Stamp, Verdict, seal_stamps
from sealbus_broker.cli.messages.inspect import MAX_FILE_BYTES
from sealbus_broker.relay.secrets import BusSecrets
from tests.cli.command import quickly, sealbus
from tests.gate.world import salted, sealed

BOT, BUS, STRANGER = (SigningKey.generate(kind) for kind in (KeyKind.BOT, KeyKind.BUS, KeyKind.BUS))
HEADER = Header("shop", "order", "orders.placed", bytes(16), 0, 1000)

NOBODY = "unknown-key: this key is not among the given keys, so the sealer is unknown"
ANYBODY = "unknown-key: not sealed with a given bus key, so anybody may have made it"


def envelope(key: SigningKey = BOT, *payloads: object, **changes: Any) -> bytes:
    said = [salted(pack_json(one), at) for at, one in enumerate(payloads or [{}])]
    return sealed(Draft(replace(HEADER, **changes), said), key)


def stamp(about: bytes, key: SigningKey = BUS, **changes: Any) -> bytes:
    header, digest = Envelope.decode(about).header, Envelope.decode(about).digest
    made = Stamp(
        header.bus,
        digest,
        header.bot,
        header.subject,
        header.nonce,
        Verdict.ACCEPTED,
        None,
        None,
        bytes(32),
        1,
        0,
        "relay",
    )
    made = replace(made, **changes)
    store_by = 10_000 if made.verdict is Verdict.ACCEPTED else None
    return seal_stamps(key, [replace(made, store_by_ms=store_by)])[0]


def inspect(folder: Path, data: bytes, *keys: str) -> tuple[int, list[str]]:
    """The exit code, and the problems."""
    file = folder / "item"
    file.write_bytes(data)
    told = quickly("inspect", str(file), "--json", *keys, cwd=folder)
    errors = json.loads(told.out)["errors"]
    text = quickly("inspect", str(file), *keys, cwd=folder)
    assert text.code == told.code
    assert errors or "under a key that was given" in text.out
    assert all(f"wrong: {line}" in text.out for line in errors)
    return told.code, errors


GIVEN = ("--bot-key", BOT.public.text, "--bus-key", BUS.public.text)


@pytest.mark.parametrize(
    ("make", "without"),
    [
        (envelope, [NOBODY]),
        (lambda: stamp(envelope()), [ANYBODY]),
        (lambda: pack_delivery(envelope(), stamp(envelope())), [NOBODY, ANYBODY]),
        (
            lambda: pack_bundle([envelope(nonce=bytes(15) + b"1"), envelope()]),
            [f"1: {NOBODY}", f"2: {NOBODY}"],
        ),
    ],
    ids=["envelope", "stamp", "delivery", "bundle"],
)
def test_a_seal_that_holds_is_no_proof_by_itself(
    tmp_path: Path, make: Callable[[], bytes], without: list[str]
) -> None:
    data = make()
    assert inspect(tmp_path, data) == (3, without)
    assert inspect(tmp_path, data, *GIVEN) == (0, [])


def test_the_stamp_of_any_key_is_not_the_buss(tmp_path: Path) -> None:
    forged = pack_delivery(envelope(), stamp(envelope(), STRANGER))
    assert inspect(tmp_path, forged, *GIVEN) == (3, [ANYBODY])


def test_sender_links_of_a_delivery_are_shown_and_verified(tmp_path: Path) -> None:
    data, old = envelope(), SigningKey.generate(KeyKind.BOT)
    link = sign_link(old, BOT.public.raw, bus="shop", bot="order", at_ms=1_900_000_000_000)
    assert inspect(tmp_path, pack_delivery(data, stamp(data), link), *GIVEN) == (0, [])
    told = quickly("inspect", str(tmp_path / "item"), "--json", *GIVEN, cwd=tmp_path)
    shown = {"from": old.public.text, "at": "2030-03-17T17:46:40.000+00:00"}
    assert json.loads(told.out)["links"] == [shown]
    forged = pack_delivery(data, stamp(data), link[:-1] + bytes([link[-1] ^ 1]))
    why = "a sender link that its old key has not signed"
    assert inspect(tmp_path, forged, *GIVEN) == (3, [why])


def test_the_bus_vouches_for_whose_envelope_it_stamped(tmp_path: Path) -> None:
    good = pack_delivery(envelope(), stamp(envelope()))
    assert inspect(tmp_path, good, "--bus-key", BUS.public.text) == (0, [])
    refused = stamp(envelope(), verdict=Verdict.DROPPED, reason=Reason.RATE)
    told = ["the stamp says that the envelope was refused"]
    assert inspect(tmp_path, pack_delivery(envelope(), refused), *GIVEN) == (3, told)
    other = pack_delivery(envelope(), stamp(envelope(ttl_ms=999)))
    assert inspect(tmp_path, other, *GIVEN) == (3, ["the stamp is about another envelope"])


def test_in_a_folder_its_own_keys_count(tmp_path: Path) -> None:
    assert quickly("init", "shop", cwd=tmp_path).code == 0
    folder = tmp_path / "shop"
    greeter = Credentials.load(folder / "credentials/greeter.toml").key_in_memory
    bus = BusSecrets.load(folder / ".sealbus/relay.toml").bus
    said = {"bot": "greeter", "subject": "greetings.sent"}
    assert inspect(folder, envelope(greeter, **said)) == (0, [])
    assert inspect(folder, envelope(bus, bot="sealbus", subject="sealbus.health")) == (0, [])
    assert inspect(folder, stamp(envelope(greeter, **said), bus)) == (0, [])
    assert inspect(folder, stamp(envelope(greeter, **said))) == (3, [ANYBODY])
    lent = ["unknown-key: sealed by greeter, says it is listener"]
    assert inspect(folder, envelope(greeter, bot="listener")) == (3, lent)
    elsewhere = ["wrong-bus: it belongs to the bus bazaar, not to shop"]
    assert inspect(folder, envelope(greeter, bus="bazaar", **said)) == (3, elsewhere)
    keys = folder / "keys/greeter.yaml"
    keys.write_text(keys.read_text() + "    revoked: 2026-01-01T00:00:00Z\n")
    assert inspect(folder, envelope(greeter, **said)) == (3, ["key-revoked: the key is revoked"])


@pytest.mark.parametrize(
    "keys", [("--bot-key", BUS.public.text), ("--bus-key", BOT.public.text), ("--bot-key", "x")]
)
def test_a_key_of_another_kind_is_wrong_usage(tmp_path: Path, keys: tuple[str, str]) -> None:
    (tmp_path / "item").write_bytes(envelope())
    assert quickly("inspect", "item", *keys, cwd=tmp_path).code == 2


def test_a_changed_envelope_and_bytes_that_are_none(tmp_path: Path) -> None:
    changed = envelope().replace(b"orders.placed", b"orders.forged")
    assert inspect(tmp_path, changed, *GIVEN) == (
        3,
        ["bad-seal: the signature does not hold over these parts"],
    )
    code, (told,) = inspect(tmp_path, b"\x1b[2J")
    assert (code, told.startswith("encoding: ")) == (3, True)


def test_a_bundle_is_taken_apart(tmp_path: Path) -> None:
    one, two = (envelope(nonce=bytes(15) + bytes([at])) for at in range(2))
    data = pack_bundle([one, two.replace(b"orders.placed", b"orders.forged")])
    told = ["2: bad-seal: the signature does not hold over these parts"]
    assert inspect(tmp_path, data, *GIVEN) == (3, told)
    code, errors = inspect(tmp_path, pack_bundle([one, one]))
    assert (code, "twice" in errors[0]) == (3, True)


def test_a_stamp_says_until_when_its_message_had_to_be_stored(tmp_path: Path) -> None:
    for verdict, reason, shown in (
        (Verdict.ACCEPTED, None, "1970-01-01T00:00:10.000+00:00"),
        (Verdict.DROPPED, Reason.RATE, None),
    ):
        (tmp_path / "item").write_bytes(stamp(envelope(), verdict=verdict, reason=reason))
        told = json.loads(quickly("inspect", "item", "--json", *GIVEN, cwd=tmp_path).out)
        assert told["store_by"] == shown


def test_a_payload_is_shown_as_json(tmp_path: Path) -> None:
    (tmp_path / "item").write_bytes(envelope(BOT, {"n": 1}))
    told = json.loads(quickly("inspect", "item", "--json", *GIVEN, cwd=tmp_path).out)
    assert told["payloads"] == [{"n": 1}]
    assert told["key"] == PublicKey(BOT.public.raw, KeyKind.BOT).text


def test_withheld_payload_is_shown_as_withheld(tmp_path: Path) -> None:
    """The seal holds over it. A delivery withholds exactly the payloads that its stamp refuses."""
    data = envelope(BOT, 1, 2, 3)
    shown = Envelope.decode(data).withhold([1], parent=False)
    (tmp_path / "item").write_bytes(shown)
    told = json.loads(quickly("inspect", "item", "--json", *GIVEN, cwd=tmp_path).out)
    assert (told["payloads"], told["withheld"], told["errors"]) == ([1, None, 3], [1], [])
    assert told["digest"] == Envelope.decode(data).digest.hex()
    refused = (RefusedPayload(1, Reason.SCHEMA),)
    partly = stamp(data, count=3, refused=refused)
    assert inspect(tmp_path, pack_delivery(shown, partly), *GIVEN) == (0, [])
    wrong = ["an accepted payload is withheld, or a refused one shown"]
    assert inspect(tmp_path, pack_delivery(data, partly), *GIVEN) == (3, wrong)
    assert inspect(tmp_path, pack_delivery(shown, stamp(data, count=3)), *GIVEN) == (3, wrong)


@pytest.mark.parametrize("to_stdin", [False, True], ids=["file", "stdin"])
@pytest.mark.parametrize("more", [0, 1])
def test_a_file_has_a_limit(tmp_path: Path, more: int, to_stdin: bool) -> None:
    (tmp_path / "item").write_bytes(bytes(MAX_FILE_BYTES + more))
    given = (tmp_path / "item").read_bytes() if to_stdin else None
    told = sealbus("inspect", "-" if to_stdin else "item", cwd=tmp_path, given=given)
    assert told.code == (1 if more else 3)
    assert (f"is larger than {MAX_FILE_BYTES} bytes" in told.err) == bool(more)
    assert ("hint: name a file with one envelope" in told.err) == bool(more)


def test_a_file_without_end_is_not_read_whole(tmp_path: Path) -> None:
    assert "is larger than" in quickly("inspect", "/dev/zero", cwd=tmp_path).err


def test_every_message_of_the_bus_is_small_enough() -> None:
    assert MAX_SHOWN_BYTES + MAX_STAMP_BYTES + 16 < MAX_FILE_BYTES
    assert MAX_BUNDLE_BYTES < MAX_FILE_BYTES
