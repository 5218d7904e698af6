"""The nats-server configuration of the bus, as text. It is pure, and has no secret.

Two accounts keep bots and JetStream apart (ADR 2). nats-server publishes an answer of its own to
any ``reply`` subject that a client names, with the *server's* rights inside the account that served
the request. In one account, an acknowledgement with the reply ``$JS.API.STREAM.DELETE.ACCEPTED``
deleted the stream (measured, 2.15.1). So there are these accounts:

``BUS``   has JetStream, the relays and every stream. No bot ever logs in here.
``BOTS``  has all bots, and no JetStream. Only the exports and imports below pass between the two.
``FULL``  has nobody. A bot that has all its sessions is sent here, and is told so.

========================================  ==========  ============================================
subject                                   direction   use
========================================  ==========  ============================================
``send.*`` ``call.*``                     BOTS → BUS  envelopes on their way in
``bus.>`` ``inbox.>``                     BUS → BOTS  stamped messages and receipts
``$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.*``  service     a durable subscription asks for messages
``$JS.ACK.ACCEPTED.>``                    service     and acknowledges them
``$JS.API.DIRECT.GET.RECORDS.>``          service     a login reads the record about itself
``$JS.API.DIRECT.GET.KEYRING.keyring``    service     a bot reads the list of the bus's keys
``$SYS.REQ.ACCOUNT.BOTS.CONNZ``           SYS → BUS   who is connected
``$SYS.REQ.ACCOUNT.BOTS.STATZ``           SYS → BUS   how much bots have sent
``$SYS.REQ.SERVER.*.KICK``                SYS → BUS   the end of one connection
``$SYS.REQ.SERVER.*.LDM``                 SYS → BUS   the order to one client to connect anew
``relay.disconnected``                     SYS → BUS   a relay's connection has ended
``$SYS.REQ.SERVER.*.ROUTEZ``              SYS → BUS   the nodes to which a node has a route
``$SYS.REQ.SERVER.*.JSZ``                 SYS → BUS   the nodes that JetStream knows
``$SYS.REQ.SERVER.PING.VARZ``             SYS → BUS   each node's version, limits and sync
========================================  ==========  ============================================

Within ``BOTS`` the permissions of a session say which bot may do what: see
:mod:`sealbus_broker.door.rights`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealbus.nats.acks import PREFIX
from sealbus.nats.pull import next_subject
from sealbus.nats.records import KEYRING_READ, read_subject
from sealbus.protocol.keys import PublicKey
from sealbus.protocol.limits import MAX_ENVELOPE_BYTES
from sealbus.protocol.streams import ACCEPTED
from sealbus.protocol.subjects import BUS, CALL, INBOX, SEND
from sealbus_broker.nats import sites
from sealbus_broker.nats.conf_text import place, quote
from sealbus_broker.nats.sites import FirstSite, SecondSite

BUS_ACCOUNT: Final = "BUS"
BOTS_ACCOUNT: Final = "BOTS"
SYSTEM_ACCOUNT: Final = "SYS"

# One request brings many messages, so its service below has the response type *stream*. The default
# passes on the first answer alone.
_ASK_ANY: Final = next_subject(ACCEPTED, "*")
"""The subjects on which bots ask for messages of their durable subscriptions."""

_ACK_ANY: Final = f"{PREFIX}.{ACCEPTED}.>"
"""The subjects on which bots acknowledge such messages."""

_READ_ANY: Final = read_subject(">")
"""The subjects on which logins read records. Each session may use the one of its own."""

_BY_BOTS: Final = (_ACK_ANY, _READ_ANY, KEYRING_READ)
"""The services of JetStream for bots that give one answer."""

FULL_ACCOUNT: Final = "FULL"
"""An account that takes no connection. A bot that has all its sessions is admitted into it, because
nats-server then tells the client that there are too many connections. It tells nothing about a
login that is refused (measured, 2.15.1)."""

CONNECTIONS_SUBJECT: Final = f"$SYS.REQ.ACCOUNT.{BOTS_ACCOUNT}.CONNZ"
"""The subject on which nats-server says which bots are connected, by number, in pages.

Each node of a cluster takes the question, and answers for its own clients alone. With
``{"server_name": NAME, "exact_match": true}`` in the body, only that node answers.

A login that waits for its answer is not listed. ``now`` of an answer and ``start`` of a connection
are RFC 3339 with up to nine digits of a second and without trailing zeros, so they do not compare
as text. A connection that began after an answer has a ``start`` after its ``now`` (measured,
2.15.1)."""


TRAFFIC_SUBJECT: Final = f"$SYS.REQ.ACCOUNT.{BOTS_ACCOUNT}.STATZ"
"""The subject on which each nats-server says how many messages and bytes it has received from bots
since it was started. In a cluster each node answers for itself. CONNZ has the same counts for each
connection (``in_msgs``, ``in_bytes``). Both count messages that no stream took, and those that the
bot may not publish (measured, 2.15.1)."""


def kick_subject(server: str) -> str:
    """Return the subject on which nats-server ends one connection, of any account.

    The body is ``{"cid": N}``, where N is the server's number for the connection. The client gets
    EOF, and no word. A connection that waits for the answer to its login can be ended too. The
    answer of the server is JSON. It has a field ``error`` where there is no such connection: code
    500, ``no such client or leafnode id``. The server ignores a request without a ``reply``, and
    does not answer another body. The asker of another server's id gets the status 503.

    Args:
        server: The server's id, from its greeting, from a login or from CONNZ, because each server
            numbers its connections alone. ``*`` stands for any.
    """
    return f"$SYS.REQ.SERVER.{server}.KICK"


def renew_subject(server: str) -> str:
    """Return the subject on which nats-server tells one client to connect anew.

    The client gets ``INFO`` with ``"ldm": true`` (lame duck mode), and the connection stays.
    Everything else is as with :func:`kick_subject`, except for the errors, which also have code
    500: ``no such client id``, and ``client does not support Lame Duck Mode or is not ready to
    receive the notification``. A client is ready when its first PING has been answered.

    Args:
        server: The server's id, or ``*``.
    """
    return f"$SYS.REQ.SERVER.{server}.LDM"


NODES_SUBJECT: Final = "$SYS.REQ.SERVER.PING.VARZ"
"""The subject on which each nats-server of the cluster describes itself, in an answer of its own.
It changes nothing, and has no secret: names, versions, limits, addresses, counts."""

DISCONNECTED_SUBJECT: Final = "relay.disconnected"
"""The subject on which each nats-server tells that a connection of the account BUS has ended. So
other relays learn of a relay's death within milliseconds. The body is JSON, in which ``server.id``
and ``client.id`` name the connection. A server that an earlier version has configured does not tell
it, and then a silent relay counts as dead."""

_DISCONNECTED_EVENT: Final = f"$SYS.ACCOUNT.{BUS_ACCOUNT}.DISCONNECT"
"""The server's own subject for it."""


def routes_subject(server: str) -> str:
    """Return the subject on which a node of a cluster names the nodes to which it has a route.

    A node that dies loses its routes at once. One that is paused or cut off keeps them for a minute
    or two.

    Args:
        server: The server's id, or ``*``.
    """
    return f"$SYS.REQ.SERVER.{server}.ROUTEZ"


def cluster_subject(server: str) -> str:
    """Return the subject on which a node names the nodes that JetStream knows, also those that are
    away (``meta_cluster`` of ``JSZ``).

    Args:
        server: The server's id, or ``*``.
    """
    return f"$SYS.REQ.SERVER.{server}.JSZ"


_SYSTEM_SERVICES: Final = (
    CONNECTIONS_SUBJECT,
    kick_subject("*"),
    renew_subject("*"),
    routes_subject("*"),
    cluster_subject("*"),
)
"""The services of nats-server itself that relays use, and that give one answer."""

_OF_EACH_NODE: Final = (NODES_SUBJECT, TRAFFIC_SUBJECT)
"""Those that give an answer of each node. The default response type passes on the first one."""

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
"""The largest message. It is nats-server's own default, written out because limits of the protocol
come from it."""

MAX_BOT_PAYLOAD_BYTES: Final = MAX_ENVELOPE_BYTES + 64 * 1024
"""The largest message of a bot. It is larger than any envelope, so that an envelope that is
slightly too large gets its verdict (``size``). It is so far below :data:`MAX_PAYLOAD_BYTES` that
the quarantine can wrap it whole."""

MAX_SUBSCRIPTIONS: Final = 1024
"""How many subscriptions a bot's connection may have. Each costs the server memory and time."""

MAX_CONTROL_LINE_BYTES: Final = 16 * 1024
"""The longest line of a client. A CONNECT has the admission text, with a token of 8 KiB at most,
and a few hundred bytes beside it. A stranger can make nats-server keep that much for each
connection."""

AUTHORIZATION_TIMEOUT_S: Final = 2
"""How long nats-server waits for the relay's answer to a login."""

PING_INTERVAL: Final = "950ms"
"""How often nats-server asks a client that has said nothing since the last time. The bots' own
questions come about as often (:data:`sealbus.nats.silence.PING_S`), and count as a word. So one
question a second and connection is under way, and not two."""

PING_MAX: Final = 3
"""How many of these questions may stay unanswered. With the one that finds nothing said, and the
one that ends it, a silent client is cut off after 3.8 to 4.75 s. ADR 44 has the reasons, and says
what that means for a bot that blocks its event loop."""

UNBOUNDED_BYTES: Final = 2**50
"""JetStream's limit for all streams together: 1 PiB, more than any server's disk has. Each stream
has its own limit from the policy, so a second limit adds nothing. It does harm. When the policy's
limits are lowered, it keeps nats-server from starting or from restoring its streams, which still
have the larger limits. When they are raised, it refuses them until nats-server is restarted.
Without a number, nats-server takes three quarters of the disk that is *free* when it starts."""

MAX_BUFFERED_MESSAGES: Final = 10_000
"""How many messages of one stream nats-server keeps that it has received and not stored yet. It
drops further messages, of all bots alike, and says so only in its own log. Their senders have no
receipt and send again. A socket brings up to 500,000 small messages a second, and INGRESS refuses
200,000 of them a second that are beyond their bot's share (measured, on two busy cores). So no
queue is long enough for a flood, and whatever is in it waits in front of the next messages. With
10,000 that is a twentieth of a second. With 250,000 nothing was dropped, and half of all messages
of the next two seconds waited for more than 0.4 s. ``relay/floods/watch.py`` ends the flood."""

MAX_BUFFERED_BYTES: Final = 128 * 1024 * 1024
"""The same in bytes. Four streams have 512 MiB of memory at most."""

MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
"""How much may wait for a connection that does not read as fast as messages come. Then nats-server
ends it. A bot has 64 connections, unless its policy says otherwise, so a bot that reads on none of
them costs a gigabyte. A relay that judges reads again soon (``pipeline.GIVE_WAY_S``). nats-server's
own default is 64 MiB, and 62 silent sessions then took 2.2 GiB of memory."""

LOG_BYTES: Final = 16 * 1024 * 1024
"""The size of a file of the embedded server's log. A refused login writes about 200 bytes, so a
stranger can push older lines out. Two files hold more than 150,000 such lines."""

LOG_FILES: Final = 2
"""How many files of its log the embedded server keeps."""

RESERVED_CONNECTIONS: Final = 64
"""How many connections bots cannot use up, so that a relay can always come back."""


ROUTES_PORT: Final = 6222
"""The port on which a node listens for the other nodes. It is the one of NATS's own examples."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The certificates of nats-server, as PEM files. Paths are whole."""

    ca: Path
    """The authorities whose clients are admitted."""
    cert: Path
    key: Path
    asks_clients: bool = True
    """Whether clients have to show a certificate. Bots that log in with a token may have none."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A nats-server as one node of a cluster.

    Each node has a ``server_name`` of its own, which never changes, because JetStream knows its
    nodes by their names.
    """

    name: str
    """The cluster's name, the same on all nodes."""
    host: str
    """The address on which it listens for the other nodes."""
    port: int
    routes: tuple[tuple[str, int], ...]
    """Hosts and ports of the nodes. One of them may be this node."""
    tls: ServerTls | None = None
    """The certificates between the nodes. Their authority is for nodes alone, because a node may do
    everything in each account. ``None``: there is no TLS, which is for one machine."""


@dataclass(frozen=True, slots=True)
class NatsConfig:
    """The values of a configuration."""

    store_dir: Path
    """JetStream's folder."""
    relay: PublicKey
    """The key of the relays' own login."""
    issuer: PublicKey
    """The key that signs the sessions of bots."""
    host: str = "127.0.0.1"
    """The address on which it listens."""
    port: int = 4222
    server_name: str = "sealbus"
    """Its name in its greeting, by which a starter knows it."""
    http_port: int | None = None
    """The port of nats-server's monitoring, on this machine only. ``None``: there is no
    monitoring."""
    log_file: Path | None = None
    """The file of nats-server's log, which is begun anew when it has grown. ``None``: the log goes
    to standard error, and whoever runs the server bounds it."""
    sync_interval: str = "always"
    """``"always"`` makes JetStream sync the disk before it acknowledges. Its own default of two
    minutes lost acknowledged writes in a power failure (Jepsen, 2.12.1), and a nonce ledger that
    forgets readmits old envelopes. The price is about half of the sequential rate on one node. A
    duration (``"2m"``) is for buses that can bear such a loss."""
    max_file_bytes: int = UNBOUNDED_BYTES
    """JetStream's own limit on disk, above any that a policy sets."""
    max_memory_bytes: int = UNBOUNDED_BYTES
    """The same in memory."""
    tls: ServerTls | None = None
    """The certificates with which it listens. ``None``: it has no TLS."""
    max_connections: int = 8192
    """How many connections it takes, of relays and bots together."""
    cluster: ClusterConfig | None = None
    """Its cluster. ``None``: it stands alone."""
    second_site: SecondSite | None = None
    """Its door for a second site. ``None``: there is no such door."""
    first_site: FirstSite | None = None
    """The bus that it is the second site of. ``None``: it is none."""


def render(config: NatsConfig) -> str:
    """Return the whole configuration file."""
    jetstream = [
        f"store_dir: {quote(config.store_dir)}",
        f"sync_interval: {quote(config.sync_interval)}",
        f"max_file_store: {config.max_file_bytes}",
        f"max_memory_store: {config.max_memory_bytes}",
        f"max_buffered_msgs: {MAX_BUFFERED_MESSAGES}",
        f"max_buffered_size: {MAX_BUFFERED_BYTES}",
    ]
    optional = []
    if config.log_file is not None:
        optional += [
            f"log_file: {quote(config.log_file)}",
            f"logfile_size_limit: {LOG_BYTES}",
            f"logfile_max_num: {LOG_FILES}",
        ]
    if config.tls is not None:
        optional += _tls(config.tls)
    if config.http_port is not None:
        monitoring = quote(f"127.0.0.1:{config.http_port}")
        optional.append(f"http: {monitoring}  # monitoring, never beyond this machine")
    if config.cluster is not None:
        optional += _cluster(config.cluster, config.server_name)
    more_accounts = []
    if config.second_site is not None:
        optional += sites.door(config.second_site)
        more_accounts = sites.account(BUS_ACCOUNT)
    if config.first_site is not None:
        optional += sites.way(config.first_site, BUS_ACCOUNT)
    relay = config.relay.text
    issuer = config.issuer.text
    exported = [f"{{ service: {quote(subject)} }}" for subject in _BY_BOTS]
    if config.second_site is not None:
        exported += sites.exports()
    imported = [
        f"{{ service: {{ account: {BUS_ACCOUNT}, subject: {quote(subject)} }} }}"
        for subject in _BY_BOTS
    ]
    system = [
        f"{{ service: {quote(subject)}, accounts: [ {BUS_ACCOUNT} ] }}"
        for subject in _SYSTEM_SERVICES
    ]
    system += [
        f"{{ service: {quote(subject)}, accounts: [ {BUS_ACCOUNT} ], response_type: stream }}"
        for subject in _OF_EACH_NODE
    ]
    from_system = [
        f"{{ service: {{ account: {SYSTEM_ACCOUNT}, subject: {quote(subject)} }} }}"
        for subject in (*_SYSTEM_SERVICES, *_OF_EACH_NODE)
    ]
    event = quote(_DISCONNECTED_EVENT)
    system.append(f"{{ stream: {event}, accounts: [ {BUS_ACCOUNT} ] }}")
    source = f"{{ account: {SYSTEM_ACCOUNT}, subject: {event} }}"
    from_system.append(f"{{ stream: {source}, to: {quote(DISCONNECTED_SUBJECT)} }}")
    return f"""\
# Written by sealbus at every start: edits are lost. No secret is in here.
listen: {quote(place(config.host, config.port))}
server_name: {quote(config.server_name)}
{_lines(optional, "")}
# A login with a token of an identity provider is the longest line.
max_control_line: {MAX_CONTROL_LINE_BYTES}
max_payload: {MAX_PAYLOAD_BYTES}
max_connections: {config.max_connections}
# A client that does not read is cut off instead of holding memory.
max_pending: {MAX_PENDING_BYTES}
write_deadline: "10s"
# A client that says nothing is cut off within five seconds.
ping_interval: "{PING_INTERVAL}"
ping_max: {PING_MAX}
# A stop need not wait for clients: they reconnect by themselves.
lame_duck_duration: "30s"
lame_duck_grace_period: "1s"

jetstream {{
{_lines(jetstream, "  ")}}}

accounts {{
  {BUS_ACCOUNT} {{
    jetstream: enabled
    users: [ {{ nkey: {relay} }} ]
    exports: [
      {{ stream: "{BUS}.>" }}
      {{ stream: "{INBOX}.>" }}
      {{ service: "{_ASK_ANY}", response_type: stream }}
{_lines(exported, "      ")}    ]
    imports: [
      {{ stream: {{ account: {BOTS_ACCOUNT}, subject: "{SEND}.*" }} }}
      {{ stream: {{ account: {BOTS_ACCOUNT}, subject: "{CALL}.*" }} }}
{_lines(from_system, "      ")}    ]
  }}
  {BOTS_ACCOUNT} {{
    limits {{
      max_payload: {MAX_BOT_PAYLOAD_BYTES}
      max_subscriptions: {MAX_SUBSCRIPTIONS}
      max_connections: {max(1, config.max_connections - RESERVED_CONNECTIONS)}
      max_leafnodes: 0
    }}
    exports: [
      {{ stream: "{SEND}.*" }}
      {{ stream: "{CALL}.*" }}
    ]
    imports: [
      {{ stream: {{ account: {BUS_ACCOUNT}, subject: "{BUS}.>" }} }}
      {{ stream: {{ account: {BUS_ACCOUNT}, subject: "{INBOX}.>" }} }}
      {{ service: {{ account: {BUS_ACCOUNT}, subject: "{_ASK_ANY}" }} }}
{_lines(imported, "      ")}    ]
  }}
  # Nothing else of the system. The relays count the sessions of bots, and end or renew them.
  {SYSTEM_ACCOUNT} {{
    exports: [
{_lines(system, "      ")}    ]
  }}
  # For a bot that has all its sessions. It takes no connection, and the client is told why.
  {FULL_ACCOUNT} {{ limits {{ max_connections: 0 }} }}
{_lines(more_accounts, "  ")}}}
system_account: {SYSTEM_ACCOUNT}

authorization {{
  timeout: {AUTHORIZATION_TIMEOUT_S}
  # The relay decides on every login except its own. The server sends challenges, because the
  # relay is an nkey user.
  auth_callout {{
    issuer: {issuer}
    account: {BUS_ACCOUNT}
    auth_users: [ {relay} ]
  }}
}}
"""


def node_tag(server_name: str) -> str:
    """Return the tag by which a stream can be placed on one node. nats-server compares tags in
    lower case."""
    return f"node:{server_name.lower()}"


def _cluster(cluster: ClusterConfig, server_name: str) -> list[str]:
    """The block of a node. Clients are not told of the other nodes: their credentials name all."""
    routes = [f"    {quote(f'nats-route://{place(host, port)}')}" for host, port in cluster.routes]
    mutual = []
    if cluster.tls is not None:
        mutual = [
            "  tls {",
            f"    ca_file: {quote(cluster.tls.ca)}",
            f"    cert_file: {quote(cluster.tls.cert)}",
            f"    key_file: {quote(cluster.tls.key)}",
            "    verify: true",
            '    min_version: "1.3"',
            "  }",
        ]
    return [
        f"server_tags: [ {quote(node_tag(server_name))} ]",
        "cluster {",
        f"  name: {quote(cluster.name)}",
        f"  listen: {quote(place(cluster.host, cluster.port))}",
        "  no_advertise: true",
        "  routes: [",
        *routes,
        "  ]",
        *mutual,
        "}",
    ]


def _tls(tls: ServerTls) -> list[str]:
    """TLS. With ``handshake_first``, nothing at all is said without it."""
    mutual = [f"  ca_file: {quote(tls.ca)}", "  verify: true"] if tls.asks_clients else []
    return [
        "tls {",
        f"  cert_file: {quote(tls.cert)}",
        f"  key_file: {quote(tls.key)}",
        *mutual,
        '  min_version: "1.3"',
        "  handshake_first: true",
        "}",
    ]


def _lines(lines: list[str], indent: str) -> str:
    return "".join(f"{indent}{line}\n" for line in lines)
