"""Every parser of foreign bytes, as a function of bytes.

A target returns for any bytes. The parser either gives a value, and the target's assertions hold,
or it raises its one error. Anything else that it raises is a finding. ``make fuzz`` runs the
targets and looks for bytes that reach new code. The ordinary tests run them on the seeds and on all
earlier findings.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final

from nats.errors import ProtocolError

from sealbus.errors import InvalidInput, Malformed
from sealbus.grants import Grants
from sealbus.nats.addresses import check_servers
from sealbus.nats.parser import Handlers, StrictParser, read_headers
from sealbus.protocol.answer import read_error
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.codec import (
    _UNSURE,
    _read_carefully,
    _read_quickly,
    _write_quickly,
    is_bundle,
    pack_bundle,
    pack_json,
    split_bundle,
    unpack_json,
)
from sealbus.protocol.delivery import open_delivery, pack_delivery, split_linked
from sealbus.protocol.envelope import Envelope, Header, Parent
from sealbus.protocol.keyring import Link, pack_keyring, split_keyring
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.limits import MAX_NODES
from sealbus.protocol.notice import Notice, check_notice, open_notice
from sealbus.protocol.seal import Seal, Verifier
from sealbus.protocol.stamp import Stamp, open_stamp
from sealbus.protocol.subjects import (
    check_durable,
    check_pattern,
    check_subject,
    consumer_name,
    is_name,
    is_pattern,
    is_subject,
    matches,
    nonce_in,
    overlap,
    split_schema,
)
from sealbus.trust import Trust
from sealbus_broker.cli.messages.json_lines import parse_json
from sealbus_broker.door.deciding import decide
from sealbus_broker.gate.certificates import objection
from sealbus_broker.gate.policy import BotKey, DeliveryClass, Limits
from sealbus_broker.nats import jwt
from sealbus_broker.policy.json_tree import read_json_tree
from sealbus_broker.policy.tree import Unreadable
from sealbus_broker.policy.yaml_tree import read_yaml_tree
from sealbus_broker.relay.judging.arrivals import ingress_arrivals, read_place
from sealbus_broker.relay.store.quarantine import Record
from tests.fuzz import seeds
from tests.fuzz.file_targets import (
    bus_file,
    credentials,
    in_folder,
    keys_alone,
    schemas_alone,
    showable,
)
from tests.gate.bus import PureBus, Step
from tests.gate.world import BUS_KEYS, NOW, POLICY

MAX_BYTES: Final = 4096
"""The longest input, in bytes.

It is long enough for every error that is not about size. Other tests measure sizes.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """One parser under test."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    cost: int = 1
    """The time of an execution compared with a quick target. Slow targets run less often."""
    is_text: bool = False
    """Whether the input is a text with words and lines.

    :mod:`tests.fuzz.words` changes such a text.
    """


# ---- messages on the wire ------------------------------------------------------------------------


def envelope(data: bytes) -> None:
    try:
        read = Envelope.decode(data)
    except Malformed:
        return
    assert read.data == data
    assert Header.decode(read.header.encode()) == read.header
    assert Seal.decode(read.seal.encode()) == read.seal
    assert None not in read.payloads
    assert not read.hides_parent
    assert Envelope.decode_shown(data) == read


def shown(data: bytes) -> None:
    """Each form of an envelope has the same digest and seal, also if more is withheld."""
    try:
        read = Envelope.decode_shown(data)
    except Malformed:
        return
    assert read.data == data
    assert read.withhold([], parent=False) == data
    shown_places = [at for at, payload in enumerate(read.payloads) if payload is not None]
    for places in (shown_places[:1], shown_places):
        less = Envelope.decode_shown(read.withhold(places, parent=True))
        assert (less.digest, less.outline, less.seal) == (read.digest, read.outline, read.seal)
        assert less.parent is None
        assert less.hides_parent == (read.hides_parent or read.parent is not None)
        assert [at for at, payload in enumerate(less.payloads) if payload is not None] == [
            at for at in shown_places if at not in places
        ]


def header(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert Header.decode(data).encode() == data
    with contextlib.suppress(Malformed):
        assert Parent.decode(data).encode() == data


def seal(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        read = Seal.decode(data)
        assert read.encode() == data
        assert len(read.root(b"item")) == 32


def stamp(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert Stamp.decode(data).encode() == data
    with contextlib.suppress(Malformed):
        open_stamp(data, BUS_KEYS, Verifier())


def notice(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert Notice.decode(data).encode() == data
    with contextlib.suppress(Malformed):
        check_notice(open_notice(data, BUS_KEYS), bus="shop", bot="order", now_ms=NOW)


def keyring(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert Link.decode(data).encode() == data
    with contextlib.suppress(Malformed):
        links = split_keyring(data)
        assert pack_keyring(links) == data
    trust = Trust("shop", BUS_KEYS)
    with contextlib.suppress(Malformed):
        trust.take(data)
    assert trust.keys >= BUS_KEYS


def certificate(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        read = Certificate.decode(data)
        assert read.data == data
        read.holds(Verifier(), bus="shop", bot="order", key=bytes(32))
        objection(read, BotKey(read.enrolled, 0), Limits(), NOW)


def delivery(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        messages = open_delivery(
            data, "orders.placed", bus="shop", bus_keys=BUS_KEYS, verifier=Verifier()
        )
        (stamp,) = {message.stamp for message in messages}
        assert stamp.subject == "orders.placed"
        # The subscriber gets exactly the payloads that the bus accepted.
        assert [message.index for message in messages] == [
            at for at in range(stamp.count) if stamp.accepts(at)
        ]
    with contextlib.suppress(Malformed):
        assert pack_delivery(*split_linked(data)) == data


def bundle(data: bytes) -> None:
    try:
        items = split_bundle(data)
    except Malformed:
        return
    assert is_bundle(data)
    assert pack_bundle(items) == data


def payload(data: bytes) -> None:
    try:
        value = unpack_json(data)
    except Malformed:
        return
    assert pack_json(value) == data
    with contextlib.suppress(Malformed):
        Grants.read(value)
    read_error(value)


def quick(data: bytes) -> None:
    """The quick reading of a payload leaves it to the careful one, or says the same.

    Texts are compared, because for Python ``1``, ``1.0`` and ``True`` are equal.
    """
    for most in (MAX_NODES, len(data), len(data) // 2):
        try:
            value = _read_quickly(data, most)
        except Malformed:
            assert not _is_read_carefully(data, most)
            continue
        if value is not _UNSURE:
            assert repr(value) == repr(_read_carefully(data, most))
            assert _write_quickly(value) in (b"", data)


def _is_read_carefully(data: bytes, most: int) -> bool:
    try:
        _read_carefully(data, most)
    except Malformed:
        return False
    return True


def gate(data: bytes) -> None:
    for way in DeliveryClass:
        judgment = PureBus().judge(Step(data, session="order", delivery=way, position=7))
        assert judgment.reason is not None or data in seeds.sealed()


def nats(data: bytes) -> None:
    """The first byte gives the size of the pieces of the rest.

    The pieces must not change the result.
    """
    size, stream = data[0] % 16 + 1 if data else 1, data[1:]
    whole = _heard([stream])
    cut = _heard([stream[at : at + size] for at in range(0, len(stream), size)])
    # After an error, the parser may have read less of a whole stream, but never anything else.
    assert cut[: len(whole)] == whole or whole[: len(cut)] == cut


def _heard(pieces: list[bytes]) -> list[tuple[Any, ...]]:
    heard: list[tuple[Any, ...]] = []

    def note(kind: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def noted(*what: Any) -> None:
            heard.append((kind, *what))

        return noted

    def direct(*what: bytes) -> None:
        heard.append(("direct", *what))

    handlers = Handlers(*(note(kind) for kind in ("message", "ping", "pong", "error", "info")))
    # The parser does not use the client.
    parser = StrictParser(None, handlers, {1: direct})  # type: ignore[arg-type]
    for piece in pieces:
        try:
            parser.parse(piece).send(None)
        except StopIteration:
            continue
        except ProtocolError:
            break
        raise AssertionError("the parser waits")
    return heard


def headers(data: bytes) -> None:
    for name, text in read_headers(data).items():
        assert "\r\n" not in name + text
    nonce_in(data)


def pulled(data: bytes) -> None:
    """A message of the ingress stream.

    It has subject, acknowledgement subject and body, with a NUL between them.
    """
    subject, reply, body = (*data.split(b"\0", 2), b"", b"")[:3]
    if (place := read_place(subject, reply)) is not None:
        for arrival in ingress_arrivals(place, body):
            assert arrival.position == place.position


# ---- logins --------------------------------------------------------------------------------------


def admission(data: bytes) -> None:
    """The JSON of a CONNECT, and the JWT around it."""
    with contextlib.suppress(Malformed):
        jwt.verify_request(data, NOW / 1000, 2)
    token, _, challenge = data.partition(b"\0")
    signature = base64.b64encode(bytes(64)).decode()
    connect: Any = {"auth_token": token.decode("utf-8", "replace"), "sig": signature}
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(given := json.loads(token), dict):
            connect = given
    decide(connect, challenge.decode("utf-8", "replace"), POLICY, NOW)


def request(data: bytes) -> None:
    """The two halves of a request's JWT in clear, so that the fuzzer reaches the parser inside."""
    head, _, body = data.partition(b"\0")
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, body, bytes(64))]
    with contextlib.suppress(Malformed):
        jwt.verify_request(b".".join(parts), NOW / 1000, 2)


# ---- texts ---------------------------------------------------------------------------------------


def keys(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for kind in KeyKind:
        with contextlib.suppress(InvalidInput):
            assert PublicKey.parse(text, kind).text == text
        with contextlib.suppress(InvalidInput):
            assert SigningKey.parse(text, kind).seed_text == text


def subjects(data: bytes) -> None:
    one, _, other = data.decode("utf-8", "replace").partition("\n")
    for check in (check_subject, check_pattern, check_durable, split_schema):
        with contextlib.suppress(InvalidInput):
            check(one)
    if is_pattern(one) and is_subject(other):
        assert matches(one, other) == overlap(one, other)
    if is_pattern(one) and is_pattern(other):
        assert overlap(one, other) == overlap(other, one)
        assert not matches(one, other) or overlap(one, other)
    if is_name(one) and is_pattern(other):
        assert consumer_name(one, other, "d").startswith(f"{one}_")
    with contextlib.suppress(InvalidInput):
        check_servers([one, other])


def record(data: bytes) -> None:
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        Record.from_header(data.decode("utf-8", "replace"))


def json_text(data: bytes) -> None:
    """The quick reader of data and the strict reader of files give the same values."""
    text = data.decode("utf-8", "replace")
    try:
        quick = parse_json(text)
    except InvalidInput:
        quick = _REFUSED
    try:
        strict = read_json_tree("f", text.removeprefix("\ufeff")).plain()
    except Unreadable as error:
        strict = _REFUSED
        showable(error.problem)
    if quick is not _REFUSED and strict is not _REFUSED:
        assert quick == strict


_REFUSED: Final = object()


def yaml_text(data: bytes) -> None:
    try:
        read_yaml_tree("f", data.decode("utf-8", "replace")).plain()
    except Unreadable as error:
        showable(error.problem)


TARGETS: Final[dict[str, Target]] = {
    "envelope": Target(envelope, seeds.envelopes),
    "shown": Target(shown, seeds.shown),
    "header": Target(header, seeds.headers),
    "seal": Target(seal, seeds.seals),
    "stamp": Target(stamp, seeds.stamps),
    "notice": Target(notice, seeds.notices),
    "keyring": Target(keyring, seeds.keyrings),
    "certificate": Target(certificate, seeds.certificates),
    "delivery": Target(delivery, seeds.deliveries),
    "bundle": Target(bundle, seeds.bundles),
    "payload": Target(payload, seeds.payloads),
    "quick": Target(quick, seeds.payloads),
    "gate": Target(gate, seeds.envelopes, cost=5),
    "nats": Target(nats, seeds.nats_lines),
    "headers": Target(headers, seeds.nats_headers),
    "pulled": Target(pulled, seeds.pulled),
    "admission": Target(admission, seeds.admissions),
    "request": Target(request, seeds.requests),
    "keys": Target(keys, seeds.keys),
    "subjects": Target(subjects, seeds.subjects),
    "record": Target(record, seeds.records),
    "json": Target(json_text, seeds.json_texts, is_text=True),
    "yaml": Target(yaml_text, seeds.yaml_texts, cost=10, is_text=True),
    "schema-file": Target(
        in_folder("schemas/order.v1.json", schemas_alone),
        seeds.schema_files,
        cost=10,
        is_text=True,
    ),
    "policy-file": Target(in_folder("policy.yaml"), seeds.policies, cost=25, is_text=True),
    "key-file": Target(
        in_folder("keys/order.yaml", keys_alone), seeds.key_files, cost=10, is_text=True
    ),
    "credentials": Target(credentials, seeds.credentials, cost=2, is_text=True),
    "bus-file": Target(bus_file, seeds.bus_files, cost=2, is_text=True),
}
"""Every target by its name."""

QUICK: Final = [target for target in TARGETS.values() if target.cost < 10]


def everything(data: bytes) -> None:
    """One of the quick targets, which the first byte chooses. So a short run needs one process."""
    QUICK[data[0] % len(QUICK) if data else 0].run(data[1:])


def _everything() -> Iterable[bytes]:
    return [
        bytes([at]) + data for at, target in enumerate(QUICK) for data in list(target.seeds())[:40]
    ]


ALL: Final = Target(everything, _everything)
