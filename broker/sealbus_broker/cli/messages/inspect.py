"""``sealbus inspect``: an envelope, stamp or delivery, taken apart."""

from __future__ import annotations

import hashlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from sealbus.errors import Malformed
from sealbus.file_hints import file_hint
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.codec import is_bundle, split_bundle, split_sealed, unpack_json
from sealbus.protocol.delivery import split_linked
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.seal import Context, Seal, Verifier
from sealbus.protocol.sender_links import split_links
from sealbus.protocol.stamp import Stamp, Verdict
from sealbus_broker.cli.messages.anchors import Anchors
from sealbus_broker.cli.shared.bus_options import dir_option
from sealbus_broker.cli.shared.errors import InputFailed
from sealbus_broker.escape import json_line, readable, readable_json
from sealbus_broker.nats.config import MAX_PAYLOAD_BYTES

WITHHELD: Final = "(withheld)"
"""Stands for a parent of which only the hash is there."""

MAX_FILE_BYTES: Final = MAX_PAYLOAD_BYTES
"""The largest file. Nothing on the bus is larger than one message of NATS, so a larger file is a
wrong one, such as a disk image."""

MAX_TOLD_CHARS: Final = 1_000
"""Longest line about an error: the longest detail of a stamp."""


@click.command()
@click.argument("file")
@click.option(
    "--bot-key",
    "bot_keys",
    multiple=True,
    metavar="KEY",
    help="Public key of a bot (U…). May be repeated.",
)
@click.option(
    "--bus-key",
    "bus_keys",
    multiple=True,
    metavar="KEY",
    help="Public key of a bus (N…). May be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@dir_option
def inspect(
    file: str,
    bot_keys: tuple[str, ...],
    bus_keys: tuple[str, ...],
    as_json: bool,
    folder: str | None,
) -> int:
    """Take apart the envelope, stamp, delivery or bundle in FILE, and list its errors.

    FILE may be - for stdin, and has at most 1 MiB. A seal counts only under a known key. In a bus's
    folder these are the keys of its bots and of the bus. Elsewhere they are the keys of --bot-key
    and --bus-key. The exit code is 0 if FILE is well-formed and its seal holds under such a key,
    and 3 if not.
    """
    data = _read(file)
    anchors = Anchors.gather(folder, bot_keys, bus_keys)
    try:
        report = _report(data, anchors)
    except Malformed as error:
        report = {
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "errors": [f"encoding: {error.what}"],
        }
    if as_json:
        click.echo(json_line(report))
    else:
        _show(report)
    return 3 if report["errors"] else 0


def _read(file: str) -> bytes:
    try:
        if file == "-":
            if sys.stdin is None:
                raise InputFailed("stdin is closed", hint="give a file, or something to read")
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with NUL in it
        why = getattr(error, "strerror", None) or "not a path"
        raise InputFailed(f"{file} cannot be read: {why}", hint=file_hint(error)) from None
    if len(data) > MAX_FILE_BYTES:
        raise InputFailed(
            f"{file} is larger than {MAX_FILE_BYTES} bytes, and no message of the bus is",
            hint="name a file with one envelope, stamp, delivery or bundle",
        )
    return data


def _report(data: bytes, anchors: Anchors) -> dict[str, Any]:
    if is_bundle(data):
        items = [_sealed(item, anchors) for item in split_bundle(data)]
        errors = [
            f"{number}: {line}" for number, item in enumerate(items, 1) for line in item["errors"]
        ]
        return {"kind": "bundle", "size": len(data), "items": items, "errors": errors}
    if data[:1] == b"\x92" or _is_linked(data):
        return _delivery(*split_linked(data), anchors)
    return _sealed(data, anchors)


def _is_linked(data: bytes) -> bool:
    """Whether it begins like a delivery with sender links. A stamp is an array of three too, and
    begins with a number."""
    return data[:1] == b"\x93" and data[1:2] != b"\x01"


def _links(links: bytes, envelope: Envelope, errors: list[str]) -> list[dict[str, str]]:
    """The sender links of a delivery, the newest first."""
    shown, new, header = [], envelope.enrolled, envelope.header
    for link in split_links(links) if links else []:
        if not link.holds(Verifier(), bus=header.bus, bot=header.bot, new=new):
            errors.append("a sender link that its old key has not signed")
        new = link.old
        shown.append({"from": PublicKey(new, KeyKind.BOT).text, "at": _time(link.at_ms)})
    return shown


def _delivery(envelope: bytes, stamp: bytes, links: bytes, anchors: Anchors) -> dict[str, Any]:
    verdict = _stamp(stamp, anchors)
    errors = (
        []
        if verdict["verdict"] == Verdict.ACCEPTED
        else ["the stamp says that the envelope was refused"]
    )
    opened = Envelope.decode_shown(envelope)
    if verdict["envelope"] != opened.digest.hex():
        errors.append("the stamp is about another envelope")
    withheld = [at for at, payload in enumerate(opened.payloads) if payload is None]
    refused = [payload["index"] for payload in verdict["refused"]]
    if len(opened.payloads) != verdict["count"] or withheld != refused:
        errors.append("an accepted payload is withheld, or a refused one shown")
    # If the bus vouches for the envelope, its key need not be known here. The relay knew it when it
    # judged.
    vouched = not errors and not verdict["errors"]
    inner = _envelope(envelope, None if vouched else anchors)
    errors = inner["errors"] + verdict["errors"] + errors
    shown = _links(links, opened, errors)
    return {
        "kind": "delivery",
        "envelope": inner,
        "stamp": verdict,
        "links": shown,
        "errors": errors,
    }


def _sealed(data: bytes, anchors: Anchors) -> dict[str, Any]:
    return _stamp(data, anchors) if data[:1] == b"\x93" else _envelope(data, anchors)


def _envelope(data: bytes, anchors: Anchors | None) -> dict[str, Any]:
    """``anchors``: ``None`` if somebody else vouches for the key."""
    # Parts may be withheld. The seal holds over them all the same.
    envelope = Envelope.decode_shown(data)
    header = envelope.header
    errors = []
    enrolled = envelope.seal.key
    certificate: dict[str, Any] | None = None
    if not Verifier().verify(Context.ENVELOPE, envelope.seal, envelope.outline):
        errors.append("bad-seal: the signature does not hold over these parts")
    if header.certificate is not None:
        shown = Certificate.decode(header.certificate)
        enrolled = shown.enrolled
        certificate = {
            "by": PublicKey(enrolled, KeyKind.BOT).text,
            "not_before": _time(shown.not_before_ms),
            "life_ms": shown.life_ms,
        }
        if not shown.holds(Verifier(), bus=header.bus, bot=header.bot, key=envelope.seal.key):
            errors.append("bad-seal: the certificate is not for this key, bot and bus")
    if anchors is not None:
        errors += anchors.of_bot(enrolled, header.bot) + anchors.of_name(header.bus)
    payloads: list[Any] = []
    for at, payload in enumerate(envelope.payloads):
        try:
            payloads.append(None if payload is None else unpack_json(payload))
        except Malformed as error:
            payloads.append(None)
            errors.append(f"payload {at}: {error.what}")
    parent: str | None = None
    if envelope.parent is not None:
        parent = f"{len(envelope.parent)} bytes"
    elif envelope.hides_parent:
        parent = WITHHELD
    return {
        "kind": "envelope",
        "size": len(data),
        "digest": envelope.digest.hex(),
        "bus": header.bus,
        "bot": header.bot,
        "subject": header.subject,
        "nonce": header.nonce.hex(),
        "issued_at": _time(header.issued_at_ms),
        "ttl_ms": header.ttl_ms,
        "schema": header.schema_name,
        "parent": parent,
        "key": PublicKey(envelope.seal.key, KeyKind.BOT).text,
        "certificate": certificate,
        "sealed_with": f"{len(envelope.seal.path)} proof steps",
        "payloads": payloads,
        "withheld": [at for at, payload in enumerate(envelope.payloads) if payload is None],
        "errors": errors,
    }


def _stamp(data: bytes, anchors: Anchors) -> dict[str, Any]:
    body, signed, sealed = split_sealed(data)
    seal = Seal.decode(sealed)
    stamp = Stamp.decode(body)
    errors = []
    if not Verifier().verify(Context.STAMP, seal, signed):
        errors.append("bad-seal: the seal does not hold over these bytes")
    errors += anchors.of_bus(seal.key) + anchors.of_name(stamp.bus)
    return {
        "kind": "stamp",
        "size": len(data),
        "bus": stamp.bus,
        "envelope": stamp.envelope.hex(),
        "bot": stamp.bot,
        "subject": stamp.subject,
        "nonce": stamp.nonce.hex(),
        "verdict": stamp.verdict.value,
        "reason": stamp.reason.value if stamp.reason else None,
        "detail": stamp.detail,
        "count": stamp.count,
        "refused": [
            {"index": one.index, "reason": one.reason.value, "detail": one.detail}
            for one in stamp.refused
        ],
        "policy": stamp.policy.hex(),
        "position": stamp.position,
        "record": stamp.record,
        "judged_at": _time(stamp.judged_at_ms),
        "store_by": None if stamp.store_by_ms is None else _time(stamp.store_by_ms),
        "relay": stamp.relay,
        "key": PublicKey(seal.key, KeyKind.BUS).text,
        "errors": errors,
    }


def _time(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def _show(report: dict[str, Any], indent: str = "") -> None:
    for name, value in report.items():
        if isinstance(value, dict) and name in ("envelope", "stamp"):
            click.echo(f"{indent}{name}:")
            _show(value, indent + "  ")
        elif name == "items":
            for number, item in enumerate(value, 1):
                click.echo(f"{indent}{number}:")
                _show(item, indent + "  ")
        elif name == "errors":
            for line in value:
                click.echo(
                    f"{indent}{click.style('wrong:', fg='red')} {readable(line, MAX_TOLD_CHARS)}"
                )
            if not value:
                sound = "well-formed, and the seal holds under a key that was given"
                click.echo(f"{indent}{click.style(sound, fg='green')}")
        else:
            click.echo(f"{indent}{name:<12}{readable_json(value)}")
