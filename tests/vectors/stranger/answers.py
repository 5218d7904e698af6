"""Runs every vector of a client against a reader, and names the vectors that it gets wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, Final

from tests.vectors.files import HEX, expand, load
from tests.vectors.stranger import curve
from tests.vectors.stranger.certificates import (
    Certificate,
    Verifier,
    check_time,
    read_certificate,
    write_certificate,
)
from tests.vectors.stranger.encoding import decode_payload, encode, split_bundle, write_payload
from tests.vectors.stranger.exchanges import holds as record_holds
from tests.vectors.stranger.exchanges import login
from tests.vectors.stranger.exchanges import read_record as read_exchange
from tests.vectors.stranger.joins import (
    Token,
    proof_holds,
    read_record,
    read_token,
    read_word,
    write_token,
    write_word,
)
from tests.vectors.stranger.keyrings import Reader, read_link
from tests.vectors.stranger.messages import (
    Envelope,
    consumer,
    covers,
    is_name,
    is_pattern,
    is_subject,
    open_notice,
    open_stamp,
    read_envelope,
)
from tests.vectors.stranger.pins import check_pins, write_link
from tests.vectors.stranger.receiving import (
    Message,
    Subscriber,
    check_answer,
    open_delivery,
    outcome,
)
from tests.vectors.stranger.rules import Noting, Refused, Rules
from tests.vectors.stranger.signing import (
    CONTEXTS,
    admission_text,
    answer_holds,
    client_name,
    holds,
    leaf,
    read_key,
    read_seal,
    read_seed,
    root,
    seal_all,
    write_key,
    write_seed,
)

FILES: Final = {name: load(f"{name}.json") for name in (
    "answers", "bundles", "certificates", "connect", "deliveries", "ed25519", "exchanges",
    "headers", "joins", "keyrings", "keys", "payloads", "notices", "pins", "receipts", "seals",
    "stamps",
    "subjects",
    "subscribers",
)}  # fmt: skip
WHOLE: Final = {
    (name, place, at): expand(one[field])
    for name, place, field in (
        ("payloads", "valid_without_value", "encoded"),
        ("payloads", "invalid", "encoded"),
        ("headers", "valid", "envelope"),
        ("headers", "shown", "envelope"),
        ("headers", "invalid", "envelope"),
        ("headers", "invalid_shown", "envelope"),
        ("bundles", "valid", "bundle"),
        ("bundles", "invalid", "bundle"),
    )
    for at, one in enumerate(FILES[name][place])
}


def refuses(read: Callable[..., object], *given: Any) -> bool:
    """Whether a reader refuses the input.

    Any other exception is no refusal, but the tests notice it too.
    """
    try:
        read(*given)
    except Refused:
        return True
    return False


@cache
def _concerning() -> dict[str, frozenset[str]]:
    """The mistakes that could change the outcome of each check. All others leave it as it is: the
    reader would go the same way."""
    found = {}
    for name, check in CHECKS.items():
        rules = Noting()
        for _ in check(rules):
            pass
        found[name] = frozenset(rules.noted)
    return found


def failures(rules: Rules) -> Iterator[str]:
    """The vectors that a reader gets wrong. The quick vectors come first."""
    for name, check in CHECKS.items():
        if rules.mistake and rules.mistake not in _concerning()[name]:
            continue
        for vector, right in check(rules):
            if not right:
                yield f"{name}.json: {vector}"


def caught(rules: Rules) -> str | None:
    """The first vector that a reader gets wrong, or at which it raises an unexpected error.

    ``None`` if it gets all vectors right.
    """
    try:
        return next(failures(rules), None)
    except Refused as refused:
        return f"a valid vector: {refused}"
    except (
        ArithmeticError,
        AttributeError,
        AssertionError,
        LookupError,
        TypeError,
        ValueError,
    ) as accident:
        return f"an accident: {type(accident).__name__}: {accident}"


def bus_keys(rules: Rules, told: dict[str, Any]) -> frozenset[bytes]:
    """The trusted keys of a file."""
    return frozenset(read_key(rules, text, "bus") for text in told["bus_keys"])


Results = Iterator[tuple[object, bool]]


def keys(rules: Rules) -> Results:
    for one in FILES["keys"]["valid"]:
        kind, seed, public = one["kind"], HEX(one["seed"]), HEX(one["public"])
        yield (
            kind,
            read_key(rules, one["public_text"], kind) == public
            and write_key(kind, public) == one["public_text"],
        )
        yield (
            kind,
            read_seed(rules, one["seed_text"], kind) == seed
            and write_seed(kind, seed) == one["seed_text"],
        )
    for one in FILES["keys"]["invalid_public"]:
        yield one["about"], refuses(read_key, rules, one["text"], one["kind"])
    for one in FILES["keys"]["invalid_seed"]:
        yield one["about"], refuses(read_seed, rules, one["text"], one["kind"])


def subjects(rules: Rules) -> Results:
    for group, accepts in (("names", is_name), ("subjects", is_subject), ("patterns", is_pattern)):
        for wanted in ("valid", "invalid"):
            for text in FILES["subjects"][group][wanted]:
                yield text, accepts(rules, text) is (wanted == "valid")
    for one in FILES["subjects"]["matches"]:
        yield one, covers(rules, one["pattern"], one["subject"]) is one["matches"]
    for one in FILES["subjects"]["consumers"]:
        yield one, consumer(rules, one["bot"], one["pattern"], one["durable"]) == one["consumer"]


def seals(rules: Rules) -> Results:
    told = FILES["seals"]
    for batch in told["batches"]:
        if batch["size"] > 8 and not rules.slips("an odd entry paired with itself"):
            made = None  # only read, because making it again takes a second
        else:
            items = [at.to_bytes(4, "big") for at in range(batch["size"])]
            made = seal_all(rules, HEX(told["seed"]), CONTEXTS["envelope"], items)
        for one in batch["seals"]:
            seal = read_seal(rules, HEX(one["seal"]))
            right = root(rules, seal, HEX(one["item"])).hex() == batch["root"]
            right = right and holds(rules, CONTEXTS["envelope"], seal, HEX(one["item"]))
            yield (
                (batch["size"], one["index"]),
                right and (made is None or made[one["index"]].hex() == one["seal"]),
            )
    for one in told["contexts"]:
        seal = read_seal(rules, HEX(one["seal"]))
        held = [
            context.hex()
            for context in CONTEXTS.values()
            if holds(rules, context, seal, HEX(one["item"]))
        ]
        yield one["context"], held == [one["context"]]
    for one in told["invalid"]:
        if one["refused"] == "malformed":
            yield one["name"], refuses(read_seal, rules, HEX(one["seal"]))
        else:
            seal = read_seal(rules, HEX(one["seal"]))
            yield one["name"], not holds(rules, HEX(one["context"]), seal, HEX(one["item"]))
    yield "leaf", leaf(rules, b"") == hashlib.sha256(bytes(9)).digest()


def connect(rules: Rules) -> Results:
    told = FILES["connect"]
    for one in told["texts"]:
        shown = None if one["certificate"] is None else HEX(one["certificate"])
        said = (one["bot"], HEX(one["key"]), shown, one["consumers"])
        yield one["name"], admission_text(rules, *said).encode().hex() == one["admission"]
        yield one["name"], client_name(rules, *said[:3]) == one["client_name"]
    for one in told["cases"]:
        given = (HEX(one["challenge"]), HEX(one["admission"]), HEX(one["signature"]))
        yield one["name"], answer_holds(rules, HEX(told["key"]), *given) is one["holds"]


def certificates(rules: Rules) -> Results:
    told = FILES["certificates"]
    for one in told["made"]:
        given = (one["bus"], one["bot"], HEX(one["session_key"]))
        times = (one["not_before_ms"], one["life_ms"])
        certificate = read_certificate(rules, HEX(one["certificate"]))
        right = (certificate.enrolled.hex(), certificate.not_before, certificate.life) == (
            told["key"],
            *times,
        )
        right = right and Verifier(rules).holds(certificate, *given)
        made = write_certificate(rules, HEX(told["seed"]), *given, *times)
        yield one["name"], right and made.hex() == one["certificate"]
    memory = Verifier(rules)
    for one in told["cases"]:
        given = (one["bus"], one["bot"], HEX(one["session_key"]))
        certificate = read_certificate(rules, HEX(one["certificate"]))
        yield one["name"], memory.holds(certificate, *given) is one["holds"]
        yield one["name"], Verifier(rules).holds(certificate, *given) is one["holds"]
    for one in told["invalid"]:
        yield one["name"], refuses(read_certificate, rules, HEX(one["certificate"]))
    for one in told["times"]:
        certificate = read_certificate(rules, HEX(one["certificate"]))
        yield one["name"], refuses(_check_time, rules, certificate, one) is not one["valid"]


def _check_time(rules: Rules, certificate: Certificate, told: dict[str, Any]) -> None:
    names = ("time_ms", "clock_skew_ms", "session_key_ms", "sessions_from_ms")
    check_time(rules, certificate, *(told[name] for name in names))


def joins(rules: Rules) -> Results:
    told = FILES["joins"]
    for one in told["made"]:
        given = (one["bus"], one["bot"], HEX(one["enrolled_key"]))
        proof = read_word(rules, one["word"])
        right = proof[:32].hex() == told["key"] and proof_holds(rules, proof, *given)
        yield one["name"], right and write_word(rules, HEX(told["seed"]), *given) == one["word"]
    for one in told["cases"]:
        given = (one["bus"], one["bot"], HEX(one["enrolled_key"]))
        yield one["name"], proof_holds(rules, HEX(one["proof"]), *given) is one["holds"]
    for one in told["invalid"]:
        yield one["name"], refuses(read_word, rules, one["word"])
    for one in told["records"]:
        wanted = (HEX(one["enrolled_key"]), HEX(one["proof"]), one["at_ms"])
        yield one["name"], read_record(rules, HEX(one["record"])) == wanted
    for one in told["invalid_records"]:
        yield one["name"], refuses(read_record, rules, HEX(one["record"]))
    for one in told["tokens"]:
        token = Token(
            one["bus"],
            one["bot"],
            HEX(one["seed"]),
            [HEX(key) for key in one["bus_keys"]],
            one["servers"],
            one["ends_ms"],
        )
        read = read_token(rules, one["token"])
        yield one["name"], read == token and write_token(rules, token) == one["token"]
    for one in told["invalid_tokens"]:
        yield one["name"], refuses(read_token, rules, one["token"])


def exchanges(rules: Rules) -> Results:
    told = FILES["exchanges"]
    own = HEX(told["session_key"])
    for one in told["logins"]:
        made = login(rules, told["bot"], write_key("bot", own), one["token"])
        yield one["name"], made == {name: one[name] for name in made}
    for one in told["records"]:
        record = read_exchange(rules, HEX(one["record"]))
        yield one["name"], (record[0] == own) is one["own"]
        yield one["name"], record_holds(rules, record, told["bus"], told["bot"]) is one["holds"]
    for one in told["invalid"]:
        yield one["name"], refuses(read_exchange, rules, HEX(one["record"]))


def ed25519(rules: Rules) -> Results:
    for one in FILES["ed25519"]["cases"]:
        yield (
            one["about"],
            curve.verify(rules, HEX(one["key"]), HEX(one["message"]), HEX(one["signature"]))
            is one["holds"],
        )


def payloads(rules: Rules) -> Results:
    told = FILES["payloads"]
    for one in told["valid"]:
        value = decode_payload(rules, HEX(one["encoded"]))
        yield (
            one["encoded"],
            _same(value, one["json"]) and write_payload(rules, one["json"]).hex() == one["encoded"],
        )
    for one in told["floats"]:
        value = decode_payload(rules, HEX(one["encoded"]))
        right = float(value) == float(one["number"]) and type(value) is not int
        yield (
            one["number"],
            right and write_payload(rules, float(one["number"])).hex() == one["encoded"],
        )
    for one in told["maps"]:
        value = decode_payload(rules, HEX(one["encoded"]))
        right = [[key, inner] for key, inner in value.items()] == one["pairs"]
        yield one["about"], right and write_payload(rules, value).hex() == one["encoded"]
    for one in told["unwritable"]:
        yield one["about"], refuses(write_payload, rules, json.loads(one["json"]))
    for at, one in enumerate(told["invalid"]):
        data = WHOLE["payloads", "invalid", at]
        yield one["about"], refuses(decode_payload, rules, data)
    for at, one in enumerate(told["valid_without_value"]):
        data = WHOLE["payloads", "valid_without_value", at]
        yield one["about"], encode(rules, decode_payload(rules, data)) == data


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float):
        return type(other) is float and float(one) == other
    if type(one) is not type(other):
        return False
    if type(one) is list:
        return len(one) == len(other) and all(map(_same, one, other))
    if type(one) is dict:
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def headers(rules: Rules) -> Results:
    for place in ("valid", "shown"):
        for at, one in enumerate(FILES["headers"][place]):
            data = WHOLE["headers", place, at]
            envelope = read_envelope(rules, data, shown=place == "shown")
            yield one["name"], _is_as_told(rules, envelope, one)
            if place == "shown":
                yield f"sent: {one['name']}", refuses(read_envelope, rules, data)
    for at, one in enumerate(FILES["headers"]["invalid"]):
        data = WHOLE["headers", "invalid", at]
        yield one["name"], refuses(read_envelope, rules, data)
    for at, one in enumerate(FILES["headers"]["invalid_shown"]):
        data = WHOLE["headers", "invalid_shown", at]
        yield one["name"], refuses(partial(read_envelope, shown=True), rules, data)


def _is_as_told(rules: Rules, envelope: Envelope, told: dict[str, Any]) -> bool:
    shown = told["header"]["certificate"]
    changed = {"nonce": HEX(told["header"]["nonce"]), "certificate": shown and HEX(shown)}
    header = [*{**told["header"], **changed}.values()]
    hidden = isinstance(told["parent"], list)
    parent = None if hidden or told["parent"] is None else expand(told["parent"])
    payloads = [
        None if isinstance(payload, list) else expand(payload)[16:] for payload in told["payloads"]
    ]
    held = holds(rules, CONTEXTS["envelope"], envelope.seal, envelope.outline)
    return (
        (envelope.header, envelope.parent, envelope.hides_parent) == (header, parent, hidden)
        and envelope.payloads == payloads
        and (envelope.outline.hex(), envelope.digest.hex()) == (told["outline"], told["digest"])
        and held is told["holds"]
    )


def bundles(rules: Rules) -> Results:
    for at, one in enumerate(FILES["bundles"]["valid"]):
        items = split_bundle(rules, WHOLE["bundles", "valid", at])
        if "items" in one:
            yield one["name"], items == [expand(item) for item in one["items"]]
        else:
            digest = hashlib.sha256(b"".join(items)).hexdigest()
            yield one["name"], (len(items), digest) == (one["count"], one["sha256"])
    for at, one in enumerate(FILES["bundles"]["invalid"]):
        data = WHOLE["bundles", "invalid", at]
        yield one["name"], refuses(split_bundle, rules, data)


def stamps(rules: Rules) -> Results:
    trusted = bus_keys(rules, FILES["stamps"])
    for place in ("valid", "batch"):
        for one in FILES["stamps"][place]:
            stamp = open_stamp(rules, HEX(one["sealed"]), trusted)
            told = one["stamp"]
            given = (
                stamp.bus,
                stamp.envelope.hex(),
                stamp.verdict,
                stamp.reason,
                stamp.detail,
                stamp.position,
                stamp.record,
                stamp.store_by,
            )
            names = (
                "bus",
                "envelope",
                "verdict",
                "reason",
                "detail",
                "position",
                "record",
                "store_by_ms",
            )
            wanted = tuple(told[name] for name in names)
            listed = [(one["index"], one["reason"], one["detail"]) for one in told["refused"]]
            right = given == wanted and stamp.judged_at == told["judged_at_ms"]
            right = right and (stamp.count, stamp.refused) == (told["count"], listed)
            yield told["reason"], right
    for one in FILES["stamps"]["invalid"]:
        yield one["name"], refuses(open_stamp, rules, HEX(one["sealed"]), trusted)


def notices(rules: Rules) -> Results:
    told = FILES["notices"]
    reader = (bus_keys(rules, told), told["bus"], told["bot"], told["now_ms"])
    for place in ("valid", "batch"):
        for one in told[place]:
            notice = open_notice(rules, HEX(one["sealed"]), *reader)
            key = None if notice.key is None else notice.key.hex()
            given = (notice.bus, notice.bot, notice.at, notice.reason, key, notice.pause)
            yield one["notice"], given == tuple(one["notice"].values())
    for one in told["invalid"]:
        yield one["name"], refuses(open_notice, rules, HEX(one["sealed"]), *reader)


def keyrings(rules: Rules) -> Results:
    told = FILES["keyrings"]
    for one in told["links"]:
        link = read_link(rules, HEX(one["link"]))
        given = (link.bus, link.number, link.old.hex(), link.new.hex(), link.begin, link.end)
        names = ("bus", "number", "old", "new", "from_ms", "end_ms")
        yield one["number"], given == tuple(one[name] for name in names)
    for one in told["valid"]:
        reader = _reader(rules, one)
        reader.take(HEX(one["keyring"]))
        yield one["name"], _trusted(reader) == one["trusted"]
    for one in told["invalid"]:
        yield one["name"], refuses(_reader(rules, one).take, HEX(one["keyring"]))
    for one in told["sequences"]:
        reader = _reader(rules, one)
        for step in one["steps"]:
            refused = refuses(reader.take, HEX(step["keyring"]))
            right = refused is (step["expect"] not in ("taken", "same", "old"))
            yield one["name"], right and _trusted(reader) == step["trusted"]
    for one in told["stamps"]:
        reader = _reader(rules, one)
        if one["keyring"] is not None:
            reader.take(HEX(one["keyring"]))
        yield one["name"], refuses(reader.open, HEX(one["sealed"])) is not one["believed"]


def _reader(rules: Rules, told: dict[str, Any]) -> Reader:
    pinned = frozenset(read_key(rules, text, "bus") for text in told["pinned"])
    return Reader(rules, FILES["keyrings"]["bus"], pinned)


def _trusted(reader: Reader) -> list[dict[str, Any]]:
    return [{"key": key.hex(), "end_ms": end} for key, end in sorted(reader.trusted.items())]


def deliveries(rules: Rules) -> Results:
    told = FILES["deliveries"]
    trusted = bus_keys(rules, told)
    for one in told["valid"]:
        messages = open_delivery(rules, HEX(one["delivery"]), told["subject"], told["bus"], trusted)
        got = [{"index": message.index, "payload": message.payload} for message in messages]
        envelope = messages[0].envelope
        parent = "none" if envelope.parent is None else "shown"
        parent = "withheld" if envelope.hides_parent else parent
        right = (got, parent) == (one["messages"], one["parent"])
        yield one["name"], right and all(message.bot == one["bot"] for message in messages)
        for subject, bus, keys_ in (
            ("orders.shipped", "shop", trusted),
            ("orders.placed", "bazaar", trusted),
            ("orders.placed", "shop", frozenset[bytes]()),
        ):
            yield (
                one["name"],
                refuses(open_delivery, rules, HEX(one["delivery"]), subject, bus, keys_),
            )
    for one in told["invalid"]:
        yield (
            one["name"],
            refuses(
                open_delivery, rules, HEX(one["delivery"]), told["subject"], told["bus"], trusted
            ),
        )


def pins(rules: Rules) -> Results:
    told = FILES["pins"]
    trusted = bus_keys(rules, told)
    for one in told["links"]:
        new = read_key(rules, one["new"], "bot")
        made = write_link(rules, HEX(one["seed"]), one["bus"], one["bot"], new, one["at_ms"])
        yield one["at_ms"], made.hex() == one["link"]

    def take(one: dict[str, Any]) -> None:
        pinned = frozenset(read_key(rules, text, "bot") for text in one["pinned"])
        messages = open_delivery(rules, HEX(one["delivery"]), told["subject"], told["bus"], trusted)
        check_pins(rules, messages[0].envelope, pinned, messages[0].links)

    for one in told["valid"]:
        yield one["name"], not refuses(take, one)
    for one in told["invalid"]:
        yield one["name"], refuses(take, one)


def receipts(rules: Rules) -> Results:
    trusted = bus_keys(rules, FILES["receipts"])
    sent = {one["name"]: one for one in FILES["receipts"]["messages"]}
    for one in FILES["receipts"]["cases"]:
        yield (
            one["name"],
            outcome(rules, sent[one["message"]], HEX(one["receipt"]), trusted) == one["outcome"],
        )


def answers(rules: Rules) -> Results:
    told = FILES["answers"]
    trusted = bus_keys(rules, told)

    def take(one: dict[str, Any]) -> Message:
        request = told["requests"][one["request"]]
        subject = request["answered_on"].removeprefix("bus.")
        (message,) = open_delivery(rules, HEX(one["delivery"]), subject, told["bus"], trusted)
        check_answer(rules, message, request, told["bus"], trusted)
        return message

    for one in told["valid"]:
        message = take(one)
        failed = message.envelope.header[6:8] == ["sealbus.error", 1]
        if rules.slips("an error taken for the answer"):
            failed = False
        if rules.slips("an answer that looks like an error taken for one"):
            failed = "error" in message.payload
        yield one["name"], failed is one["failed"] and message.payload == one["payload"]
    for one in told["invalid"]:
        yield one["name"], refuses(take, one)


def subscribers(rules: Rules) -> Results:
    told = FILES["subscribers"]
    trusted = bus_keys(rules, told)
    for sequence in told["sequences"]:
        subscriber = Subscriber(rules, sequence["kind"], told["bus"], trusted)
        for step in sequence["steps"]:
            met = subscriber.take(
                step["subject"], HEX(step["delivery"]), step.get("now_ms", 0), step.get("reply", "")
            )
            yield sequence["name"], met == step["expect"]


CHECKS: Final[dict[str, Callable[[Rules], Results]]] = {
    "subjects": subjects,
    "connect": connect,
    "certificates": certificates,
    "joins": joins,
    "exchanges": exchanges,
    "seals": seals,
    "stamps": stamps,
    "notices": notices,
    "keyrings": keyrings,
    "pins": pins,
    "receipts": receipts,
    "answers": answers,
    "deliveries": deliveries,
    "subscribers": subscribers,
    "headers": headers,
    "bundles": bundles,
    "payloads": payloads,
    "keys": keys,
    "ed25519": ed25519,
}
