"""The names of certificates, as ``certificate`` of a bot in the policy has them. Pure.

A name is a URI of the certificate's ``subjectAltName`` as it is there, such as
``spiffe://acme/order``, or ``dns:`` and a host name of it, such as ``dns:order.bots.example``. The
door compares names byte by byte (``door/client_certificate.py``). So a name that an authority
writes in another way, for example in capital letters, is another name.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from sealbus.errors import InvalidInput
from sealbus_broker.escape import readable

DNS: Final = "dns:"
"""Begins a host name."""

MAX_NAMES: Final = 8
"""Most names of one bot. It needs one, and a second one while it moves to another authority. Others
are for a bot that runs in several places."""

MAX_URI_CHARS: Final = 2_048
"""The longest URI: the longest that SPIFFE allows."""

_EXPECTED: Final = "a URI like spiffe://acme/order, or dns:order.bots.example"

_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]+")
_SPIFFE: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+")
"""A SPIFFE ID of a program: a trust domain in small letters, and a path without empty parts."""


def check_certificate_name(text: str) -> str:
    """Return ``text`` if it is a name. Raises :class:`InvalidInput`."""
    if text.startswith(DNS):
        return _check_host(text)
    if len(text) > MAX_URI_CHARS:
        raise InvalidInput(
            f"the name of a certificate has {len(text)} characters; at most {MAX_URI_CHARS}"
        )
    if not _URI.fullmatch(text):
        raise InvalidInput(
            f"{readable(text, 80)} is no name of a certificate; expected {_EXPECTED}",
            hint=f"a host name begins with {DNS}" if _HOST.fullmatch(text) else None,
        )
    if text.lower().startswith("spiffe:") and not _SPIFFE.fullmatch(text):
        raise InvalidInput(
            f"{readable(text, 80)} is no SPIFFE ID; expected spiffe://TRUST-DOMAIN/PATH",
            hint="the trust domain has small letters, digits, . - and _, and no part of the path is"
            " empty",
        )
    return text


def _check_host(text: str) -> str:
    host = text.removeprefix(DNS)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if _HOST.fullmatch(host):
            return text
        hint = "wildcards are no names" if "*" in host else None
        raise InvalidInput(
            f"{readable(text, 80)} has no host name; expected {DNS}order.bots.example", hint=hint
        ) from None
    raise InvalidInput(
        f"{readable(text, 80)} has an address; expected {DNS} and a host name",
        hint="an address does not say which program speaks",
    )
