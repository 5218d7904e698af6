"""The exchange of a token (section 9)."""

from __future__ import annotations

import hashlib

from tests.vectors.stranger.certificates import Certificate, Verifier, read_certificate
from tests.vectors.stranger.rules import Rules


def record_id(rules: Rules, token: str) -> str:
    """The id of the record of a token."""
    header, payload, signature = token.split(".")
    signed = f"{header}.{payload}"
    if rules.slips("a token known by its signature too"):
        signed += f".{signature}"
    if rules.slips("a token known by its payload alone"):
        signed = payload
    return hashlib.sha256(signed.encode()).hexdigest()


def login(rules: Rules, bot: str, key: str, token: str) -> dict[str, str]:
    """The words and names of a login with a token."""
    identity = record_id(rules, token)
    return {
        "admission": f"sealbus/1 {bot} {key} token:{token}",
        "client_name": bot,
        "id": identity,
        "read": f"$JS.API.DIRECT.GET.RECORDS.record.token.{identity}",
        "inbox": f"token.{identity}",
    }


def read_record(rules: Rules, data: bytes) -> tuple[bytes, Certificate]:
    """The session key and the certificate of a record."""
    rules.must("the size of an exchange record", len(data) == 143)
    heads = data[:3] + data[35:37]
    rules.must("the form of an exchange record", heads == b"\x92\xc4\x20\xc4\x6a")
    return data[3:35], read_certificate(rules, data[37:143])


def holds(rules: Rules, record: tuple[bytes, Certificate], bus: str, bot: str) -> bool:
    """Whether the certificate is for the session key beside it."""
    key, certificate = record
    return Verifier(rules).holds(certificate, bus, bot, key)
