"""The certificate of a bot's connection, where the policy binds the bot to one. Pure.

nats-server verifies the chain of a client's certificates, and passes it on with the login
(``client_tls.verified_chains``). The first certificate of a chain is the client's own, the *leaf*.
It is the same in all chains. A server that verifies no certificate, and a connection without TLS,
give no such chain. The certificates in ``certs``, which nats-server has not verified, are never
read.

A leaf stands for a name of the policy if it has that name in its ``subjectAltName``, byte by byte,
and is no authority. A leaf that stands for a URI has exactly one URI, as SPIFFE demands. Otherwise
one certificate could stand for two programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sealbus.errors import InvalidInput
from sealbus_broker.escape import printable
from sealbus_broker.policy.certificate_names import DNS

if TYPE_CHECKING:
    from sealbus_broker.certificates import Facts

NEVER_MS: Final = 2**53
"""The end of a connection without a certificate: the largest integer that every reader of JSON
keeps exact."""

SHOWN: Final = 160
"""How many characters of a certificate's names the log has."""


def certificate_end_ms(client_tls: object, names: Sequence[str]) -> int | str:
    """Judge the certificate of a connection.

    Args:
        client_tls: The field of that name in nats-server's request, which may be missing.
        names: The names to which the policy binds the bot. None: it may use any certificate.

    Returns:
        When the certificate ends (ms since 1970); or why the bot may not use it, as a sentence.
    """
    leaf = _leaf(client_tls)
    if leaf is None:
        if not names:
            return NEVER_MS
        what = "has no TLS" if client_tls is None else "shows no certificate that nats-server knows"
        return f"the policy binds this bot to a certificate, and its connection {what}"
    # Only here, because a bus without TLS does not wait for the library.
    from sealbus_broker.certificates import read

    try:
        facts = read(leaf.encode())
    except InvalidInput as error:
        return f"the certificate of the connection {error.what}" if names else NEVER_MS
    if names and (why := _objection(facts, names)) is not None:
        return why
    return int(facts.ends.timestamp() * 1000)


def _leaf(client_tls: object) -> str | None:
    """Return the client's own certificate (PEM), if nats-server has verified it."""
    if not isinstance(client_tls, dict):
        return None
    chains = client_tls.get("verified_chains")
    chain = chains[0] if isinstance(chains, list) and chains else None
    leaf = chain[0] if isinstance(chain, list) and chain else None
    return leaf if isinstance(leaf, str) else None


def _objection(facts: Facts, names: Sequence[str]) -> str | None:
    """Return why a certificate stands for none of ``names``, or ``None``."""
    if facts.is_authority:
        return "the certificate of the connection is that of an authority"
    uris = [name for name in names if not name.startswith(DNS)]
    if len(facts.uris) == 1 and facts.uris[0] in uris:
        return None
    # An address is no host name, and no name of a policy is an address.
    hosts = [f"{DNS}{name}" for name in facts.names]
    if any(host in names for host in hosts):
        return None
    if len(facts.uris) > 1 and any(uri in uris for uri in facts.uris):
        return f"the certificate of the connection has {len(facts.uris)} URIs; expected one"
    found = printable(", ".join([*facts.uris, *hosts]) or "nobody", SHOWN)
    expected = printable(" or ".join(names), SHOWN)
    return f"the certificate of the connection is for {found}; the policy binds to {expected}"
