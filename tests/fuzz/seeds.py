"""The inputs from which fuzzing begins.

They are the vectors, valid and invalid, and some texts of each kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from sealbus.errors import Malformed
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import RefusedPayload
from tests.attacks.families import SCENARIOS as ATTACKS
from tests.gate.honest import HONEST
from tests.gate.parts import Parts
from tests.gate.world import ORDER, burst, known_seed, sealed_stamp, shipment
from tests.policy.folder import POLICY
from tests.vectors.files import expand, load

ROOT: Final = Path(__file__).resolve().parents[2]
SMALL: Final = 4096


def _hex(file: str, field: str) -> Iterator[bytes]:
    """Every value of ``field`` anywhere in a vector file, if it is small."""

    def find(value: Any) -> Iterator[bytes]:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name == field and isinstance(inner, str):
                    yield bytes.fromhex(inner)
                elif name == field and isinstance(inner, dict) and "fill" in inner:
                    yield expand(inner)
                else:
                    yield from find(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from find(inner)

    return (data for data in find(load(f"{file}.json")) if len(data) <= SMALL)


@cache
def sealed() -> frozenset[bytes]:
    """Every envelope that some bot sealed. The gate may accept only these."""
    scenarios = {step.data for scenario in (*HONEST, *ATTACKS) for step in scenario.steps}
    return frozenset({*scenarios, *_hex("envelopes", "envelope"), *_hex("headers", "envelope")})


def envelopes() -> Iterable[bytes]:
    return sorted(data for data in sealed() if len(data) <= SMALL)


def headers() -> Iterable[bytes]:
    for data in envelopes():
        try:
            Envelope.decode(data)
        except Malformed:
            continue
        yield from filter(None, (Parts.of(data).header, Parts.of(data).parent))


def shown() -> Iterable[bytes]:
    """Envelopes as relays pass them on, with nothing, some or all of their parts withheld."""
    yield from envelopes()
    orders = Envelope.decode(burst(ORDER, ORDER, 3))
    yield from (orders.withhold(places, parent=False) for places in ([0], [2], [0, 1, 2]))
    yield Envelope.decode(shipment()).withhold([], parent=True)
    yield Envelope.decode(shipment()).withhold([0], parent=True)


def seals() -> Iterable[bytes]:
    return _hex("seals", "seal")


def stamps() -> Iterable[bytes]:
    return _hex("stamps", "sealed")


def keyrings() -> Iterable[bytes]:
    return _hex("keyrings", "keyring")


def notices() -> Iterable[bytes]:
    return _hex("notices", "sealed")


def certificates() -> Iterable[bytes]:
    return [*_hex("certificates", "certificate")]


def deliveries() -> Iterable[bytes]:
    found = [data for name in ("deliveries", "answers", "pins") for data in _hex(name, "delivery")]
    return [*found, *partly_refused()]


def partly_refused() -> list[bytes]:
    """Deliveries of three orders, of which the stamp refuses one, and of which one is withheld."""
    data = burst(ORDER, 2, ORDER)
    stamp = sealed_stamp(data, count=3, refused=(RefusedPayload(1, Reason.SCHEMA),))
    orders = Envelope.decode(data)
    return [
        pack_delivery(orders.withhold(places, parent=True), stamp)
        for places in ([1], [], [0], [0, 1], [0, 1, 2])
    ]


def bundles() -> Iterable[bytes]:
    return _hex("bundles", "bundle")


def payloads() -> Iterable[bytes]:
    return _hex("payloads", "encoded")


def nats_lines() -> Iterable[bytes]:
    return [
        b"\0PING\r\nPONG\r\n+OK\r\n",
        b'\3INFO {"server_id":"x","nonce":"abc","max_payload":1048576}\r\n',
        b"\1MSG call.a 1 5\r\nhello\r\n",
        b"\5MSG a 2 r 5\r\nhello\r\nPING\r\n",
        b"\2HMSG a 2 r 12 17\r\nNATS/1.0\r\n\r\nhello\r\n",
        b"\7HMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n-ERR 'Slow Consumer'\r\n",
    ]


def nats_headers() -> Iterable[bytes]:
    return [
        b"NATS/1.0\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 423 Nats-Pin-Id mismatch\r\n\r\n",
        b"NATS/1.0\r\nNats-Pin-Id: mine\r\nA: b\r\n\r\n",
        b"bus.receipt.order.55af854f8e5ec8f03723fe6a37a48e62",
    ]


def pulled() -> Iterable[bytes]:
    ack = b"$JS.ACK.INGRESS.relay-16-0.1.7.7.1900000000000000000.0"
    domain = b"$JS.ACK._.hash.INGRESS.relay-16-0.1.7.7.1900000000000000000.0.token"
    return [
        b"ingress.16.0.order\0" + place + b"\0" + data
        for place in (ack, domain)
        for data in bundles()
    ]


def admissions() -> Iterable[bytes]:
    cases = load("connect.json")["cases"]
    texts = [
        bytes.fromhex(case["admission"]) + b"\0" + bytes.fromhex(case["challenge"])
        for case in cases
    ]
    return [*texts, b'{"auth_token":"sealbus/1 order U","sig":"AA=="}\0abc', b"a.b.c"]


def requests() -> Iterable[bytes]:
    head = b'{"typ":"JWT","alg":"ed25519-nkey"}'
    nats = {
        "type": "authorization_request",
        "server_id": {"id": "N"},
        "connect_opts": {},
        "client_info": {},
    }
    claims = {"iss": "N", "aud": "nats-authorization-request", "exp": 1900000000, "nats": nats}
    return [head + b"\0" + json.dumps(claims).encode()]


def keys() -> Iterable[bytes]:
    vectors = load("keys.json")
    texts = [case[field] for case in vectors["valid"] for field in ("seed_text", "public_text")]
    texts += [case["text"] for case in (*vectors["invalid_public"], *vectors["invalid_seed"])]
    return [text.encode("utf-8", "replace") for text in texts]


def subjects() -> Iterable[bytes]:
    vectors = load("subjects.json")
    pairs = [(case["pattern"], case["subject"]) for case in vectors["matches"]]
    pairs += [(case["one"], case["other"]) for case in vectors["overlaps"]]
    pairs += [
        (text, text)
        for text in (*vectors["subjects"]["invalid"], *vectors["patterns"]["valid"])
        if text
    ]
    return [f"{one}\n{other}".encode("utf-8", "replace") for one, other in pairs]


def records() -> Iterable[bytes]:
    fields = (
        "session",
        "claimed",
        "proven",
        "subject",
        "nonce",
        "delivery",
        "sha256",
        "policy",
        "relay",
        "detail",
    )
    numbers = ("position", "arrived_at_ms", "judged_at_ms", "size")
    return [
        json.dumps(
            dict.fromkeys(fields, "x") | dict.fromkeys(numbers, 1) | {"reason": "schema"}
        ).encode()
    ]


def json_texts() -> Iterable[bytes]:
    texts = [
        b'{"a": [1, 2.5e3, -0, null, true, "\\u00e9\\n"], "b": {}}',
        b"[[[]]]",
        b'"\\ud83d\\ude00"',
        b"1E400",
    ]
    return [*texts, *schemas()]


def yaml_texts() -> Iterable[bytes]:
    return [*policies(), *key_files(), b"a: {b: [1, 'x', \"y\"], c: |\n  text\n}\n", b"- 1\n- ~\n"]


def schemas() -> Iterable[bytes]:
    return [file.read_bytes() for file in sorted((ROOT / "schemas").glob("*.json"))]


def schema_files() -> Iterable[bytes]:
    """The shop's own schemas, and one for each kind of keyword."""
    return [*schemas(), *(json.dumps(schema, indent=1).encode() for schema in _SCHEMAS)]


_SCHEMAS: Final[list[Any]] = [
    True,
    {
        "type": ["object", "null"],
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"type": "integer"}},
    },
    {"$anchor": "top", "items": {"$ref": "#top"}, "prefixItems": [{"const": 1}], "minItems": 1},
    {"type": "array", "maxItems": 7, "uniqueItems": True, "items": {"type": "string"}},
    {
        "$dynamicAnchor": "node",
        "properties": {"a": {"$dynamicRef": "#node"}},
        "unevaluatedProperties": False,
    },
    {
        "$id": "https://example.com/a.json",
        "$defs": {"b": {"$id": "b.json", "enum": ["a", 1, None, [1]]}},
        "$ref": "b.json",
    },
    {
        "if": {"type": "string"},
        "then": {"pattern": "^[a-z]{1,5}(-[0-9]+)*$"},
        "else": {"multipleOf": 0.5},
    },
    {
        "oneOf": [{"maximum": 7}, {"exclusiveMinimum": 17}],
        "anyOf": [{}, False],
        "not": {"type": "boolean"},
    },
    {"allOf": [{"maxLength": 17}, {"format": "date-time"}], "title": "a", "examples": [1]},
    {
        "patternProperties": {"^a": {"type": "number"}},
        "propertyNames": {"minLength": 1},
        "maxProperties": 7,
    },
    {
        "dependentRequired": {"a": ["b"]},
        "dependentSchemas": {"a": {"required": ["b"]}},
        "additionalProperties": {},
    },
    {"contains": {"type": "string"}, "maxContains": 7, "unevaluatedItems": {"type": "null"}},
]


def policies() -> Iterable[bytes]:
    shop = re.sub(r" *#.*", "", (ROOT / "policy.yaml").read_text())
    shop = re.sub(r"(schema|reply): \S+", r"\1: order.v1", shop)
    return [POLICY.encode(), shop.encode(), _EVERY_FIELD.encode()]


_EVERY_FIELD: Final = """\
version: 1
bus: shop
limits: {ttl: 60s, live_ttl: 10s, clock_skew: 1s, ingress_wait: 5m, retention: 7d, session: 10m,
  accepted_bytes: 4GiB, ingress_bytes: 1GiB, quarantine_bytes: 1GiB, live_bytes: 64MiB,
  payload_bytes: 256KiB, ingress_messages: 5000, connections: 16, subscriptions: 16,
  attempts: 10, bot_share: 50}
on_violation: {default: quarantine, encoding: drop}
roles:
  trader: {publish: orders.placed, subscribe: [stock.>, orders.*]}
bots:
  order: {roles: [trader], publish: [stock.check]}
  inventory: {publish: stock.reserved, subscribe: [orders.placed, stock.check]}
subjects:
  orders.*: {schema: [order.v1], rate: 200/s burst 400, max_bytes: 1KiB,
    on_violation: {schema: drop}}
  stock.reserved:
    schema: order.v1
    cause: {subject: orders.placed, within: 10m, match: [/order_id, /a~1b], once: true}
  stock.check: {delivery: live, schema: order.v1, reply: order.v1, rate: 0.5/s}
"""


def key_files() -> Iterable[bytes]:
    keys = [
        SigningKey(known_seed(name), KeyKind.BOT).public.text for name in ("order", "order, later")
    ]
    begins = "    not_before: 2026-11-24T08:00:00Z\n"
    times = f"{begins}    not_after: 2027-11-24T08:00:00Z\n    revoked: 2026-12-01T00:00:00Z\n"
    return [
        f"bot: order\nkeys:\n  - key: {keys[0]}\n{begins}".encode(),
        ("bot: order\nkeys:\n" + "".join(f"  - key: {key}\n{times}" for key in keys)).encode(),
    ]


def credentials() -> Iterable[bytes]:
    vectors = load("keys.json")["valid"]
    bot = next(case for case in vectors if case["kind"] == "bot")
    bus = next(case for case in vectors if case["kind"] == "bus")
    servers = 'servers = ["nats://127.0.0.1:4222", "tls://[::1]:443"]\n'
    seed, bus_key = bot["seed_text"], bus["public_text"]
    text = f'bus = "shop"\nbot = "order"\nseed = "{seed}"\n{servers}bus_keys = ["{bus_key}"]\n'
    return [text.encode()]


def bus_files() -> Iterable[bytes]:
    bus = next(case for case in load("keys.json")["valid"] if case["kind"] == "bus")
    servers = 'servers = ["nats://127.0.0.1:4222"]\n'
    return [f'name = "shop"\n{servers}bus_keys = ["{bus["public_text"]}"]\n'.encode()]
