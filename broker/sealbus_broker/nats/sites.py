"""The connection between a bus and its second site, as text of both configurations. Pure.

A second site is a nats-server that keeps a mirror of ACCEPTED (:mod:`sealbus_broker.nats.mirror`).
It opens a *leaf node* connection to the bus. So the bus has a second door, and only where its
operators ask for it:

- The door has a port of its own, and mutual TLS 1.3.
- It knows one login, the key of the second site. It takes no other, not even that of a relay.
- The login leads into the account ``SITE``, in which nobody else is. These subjects pass between
  ``SITE`` and ``BUS``, and no others:

==========================================  =============  =========================================
subject                                     direction      use
==========================================  =============  =========================================
``mirror.accepted``                         BUS → SITE     the messages, in their order
``$JS.API.CONSUMER.RESET.ACCEPTED.mirror``  SITE → BUS     begin again behind the last one that came
``$JS.FC.….ACCEPTED.mirror.*``              SITE → BUS     how far the second site is
==========================================  =============  =========================================

So a thief of the second site's key reads all accepted messages, and changes nothing at the bus. The
thief may change the *mirror*, because nats-server passes messages on between two connections of one
login. The thief hears the words of the second site. A message that the thief publishes on
``mirror.accepted`` is stored there in place of the next message (tried, 2.15.1). No subscriber
believes it, but a promotion loses the message that it replaces. The consumer ``mirror`` is made
beforehand, and has a fixed subject. A right to make consumers would be a right to have the bus
publish on any subject, those of JetStream's API among them.

nats-server (2.15.1) itself refuses ``$JS.API.>`` on a leaf node connection between two servers with
JetStream. So the bus cannot change the streams of the second site either. That is also why the
service above has another name in ``SITE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sealbus.protocol.keys import PublicKey
from sealbus.protocol.streams import ACCEPTED
from sealbus_broker.nats.conf_text import place, quote

if TYPE_CHECKING:
    from sealbus_broker.nats.config import ServerTls

SITE_ACCOUNT: Final = "SITE"
"""The account of the second site's connection."""

LEAF_PORT: Final = 7422
"""The port on which a bus listens for its second site. It is the one of NATS's own examples."""

MIRROR: Final = "mirror"
"""The consumer on ACCEPTED that feeds the mirror. No consumer of a bot has a name without ``_``."""

DELIVERY: Final = "mirror.accepted"
"""The subject on which it delivers."""

FIRST_API: Final = "first"
"""What the second site says in place of ``$JS.API``."""

LOGIN_S: Final = 2
"""How long the second site may take to log in: as long as a bot."""

MOST_CONNECTIONS: Final = 2
"""How many connections the second site may have: the present one, and a half-open one of before."""

MOST_SUBSCRIPTIONS: Final = 1024
"""How many subscriptions its connection may have: as many as a bot's. It needs a few dozen. Without
a limit, 500,000 of them took 1.2 GB of the bus's nats-server (measured, 2.15.1)."""

_RESET: Final = f"CONSUMER.RESET.{ACCEPTED}.{MIRROR}"
_FLOW: Final = (f"$JS.FC.{ACCEPTED}.{MIRROR}.*", f"$JS.FC.*.*.{ACCEPTED}.{MIRROR}.*")
"""In the form of 2.15.1, and in the form with domain and account, which that version knows too."""


@dataclass(frozen=True, slots=True)
class SecondSite:
    """The door for the second site, on a nats-server of the bus."""

    host: str
    """The address on which it listens."""
    port: int
    key: PublicKey
    """The login of the second site."""
    tls: ServerTls
    """The certificates with which it listens, and the authority of those that connect."""


@dataclass(frozen=True, slots=True)
class FirstSite:
    """The bus, as the nats-server of the second site finds it."""

    places: tuple[tuple[str, int], ...]
    """Host and port of each nats-server of the bus. One of them is enough."""
    key_file: str
    """The file with the login, relative to the configuration: ``nkey: "SU…"``."""
    tls: ServerTls
    """The certificate with which it connects, and the authority of the bus."""


def exports() -> list[str]:
    """The exports of the account BUS to the second site."""
    only = f"accounts: [ {SITE_ACCOUNT} ]"
    services = [f"$JS.API.{_RESET}", *_FLOW]
    return [
        f"{{ stream: {quote(DELIVERY)}, {only} }}",
        *(f"{{ service: {quote(subject)}, {only} }}" for subject in services),
    ]


def account(bus: str) -> list[str]:
    """The account of the second site, which imports from the account ``bus``."""
    reset = f"{{ account: {bus}, subject: {quote(f'$JS.API.{_RESET}')} }}"
    return [
        "# The second site. It reads accepted messages, and changes nothing.",
        f"{SITE_ACCOUNT} {{",
        "  limits {",
        "    max_connections: 0",
        f"    max_leafnodes: {MOST_CONNECTIONS}",
        f"    max_subscriptions: {MOST_SUBSCRIPTIONS}",
        "  }",
        "  imports: [",
        f"    {{ stream: {{ account: {bus}, subject: {quote(DELIVERY)} }} }}",
        f"    {{ service: {reset}, to: {quote(f'{FIRST_API}.{_RESET}')} }}",
        *(f"    {{ service: {{ account: {bus}, subject: {quote(one)} }} }}" for one in _FLOW),
        "  ]",
        "}",
    ]


def door(site: SecondSite) -> list[str]:
    """The listener for the second site. A login that it does not know never reaches a relay."""
    return [
        "leafnodes {",
        f"  listen: {quote(place(site.host, site.port))}",
        "  no_advertise: true",
        "  authorization {",
        f"    nkey: {site.key.text}",
        f"    account: {SITE_ACCOUNT}",
        f"    timeout: {LOGIN_S}",
        "  }",
        *_tls(site.tls, "verify: true"),
        "}",
    ]


def way(first: FirstSite, bus: str) -> list[str]:
    """The second site's way to the bus. Its mirror is in the account ``bus`` of its own server."""
    urls = ", ".join(quote(f"tls://{place(*one)}") for one in first.places)
    return [
        "leafnodes {",
        "  remotes: [",
        "    {",
        f"      urls: [ {urls} ]",
        f"      account: {bus}",
        f"      include {quote(first.key_file)}",
        *(f"    {line}" for line in _tls(first.tls)),
        "    }",
        "  ]",
        "}",
    ]


def _tls(tls: ServerTls, *more: str) -> list[str]:
    return [
        "  tls {",
        f"    ca_file: {quote(tls.ca)}",
        f"    cert_file: {quote(tls.cert)}",
        f"    key_file: {quote(tls.key)}",
        *(f"    {line}" for line in more),
        '    min_version: "1.3"',
        "    handshake_first: true",
        "  }",
    ]
