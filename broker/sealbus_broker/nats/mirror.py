"""The mirror of ACCEPTED at a second site: it is begun, looked at, and made the stream of a bus.

JetStream copies. The mirror has the same sequences, times, headers and bytes as ACCEPTED, so stamps
and receipts hold there, and the ledger can be read from it. It is behind by the messages that are
under way: a message counts as accepted when the first site has it. :mod:`sealbus_broker.nats.sites`
has the connection.

The stream at the second site goes through these states:

========= ================================================================= ======================
state     meaning                                                           left for
========= ================================================================= ======================
missing   the second site has no ACCEPTED                                   mirror (:func:`begin`)
mirror    JetStream adds what comes from the first site, and nobody else    promoted
          can: a relay refuses to run on it                                 (:func:`promote`)
promoted  it is the ACCEPTED of a bus. It never becomes a mirror again
========= ================================================================= ======================

**A lost connection** between the sites loses nothing. nats-server connects again by itself, and
goes on behind the last message that came. Messages that the first site has dropped meanwhile, by
their age, are missing in the mirror as well.

**A first site that lost its store**, or went back to an earlier one, gives sequences a second time.
JetStream ignores each message whose sequence the mirror has, and names no error (2.15.1). So
:func:`begin` and :func:`has_another_history` compare the last message of the mirror with the one of
the first site. A consumer that feeds the mirror hides the difference once the first site has
overtaken it. An empty store has no such consumer, and :mod:`sealbus_broker.nats.snapshots` removes
the one of a backup. So the mirror stands still until :func:`begin` has compared.

**The ledger of a promoted stream** does not know the messages that were accepted and had not come.
So it is complete only from the promotion on, as after :mod:`sealbus_broker.nats.snapshots`, and
relays refuse older nonces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nats.aio.client import Client

from sealbus.protocol.streams import ACCEPTED
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats.jetstream import (
    Json,
    ask,
    ask_well,
    is_missing,
    refused,
    time_ms,
    without_nulls,
)
from sealbus_broker.nats.provision import COMPLETE_SINCE
from sealbus_broker.nats.sites import DELIVERY, FIRST_API, MIRROR
from sealbus_broker.nats.streams import stream_configs

ASK_S: Final = 5.0
"""How long JetStream may take for one answer."""

MOST_UNDER_WAY: Final = 8192
"""How many messages may be on their way to the second site. At 100 ms there and back that is 80,000
a second, more than a bus accepts. JetStream bounds their bytes as well."""

ALIVE_S: Final = 10.0
"""The first site has spoken within this time, or it is taken for gone. It speaks each second."""

NEARLY_DROPPED_S: Final = 10.0
"""A message that is to be dropped within this time may be gone at the second site already."""

ANOTHER_HISTORY: Final = "its last message is not the one that the first site has"
"""The problem of a mirror with :func:`has_another_history`."""

_NS: Final = 1_000_000_000

_FIRST_UNREAD: Final = f"the {ACCEPTED} of the bus cannot be read"

_UNREAD: Final = f"the second site's {ACCEPTED} cannot be read"

_SOURCE: Final = {
    "name": ACCEPTED,
    "external": {"api": FIRST_API, "deliver": ""},
    "consumer": {"name": MIRROR, "deliver_subject": DELIVERY},
}
_FEED: Final = {
    "durable_name": MIRROR,
    "description": "feeds the mirror at the second site",
    "deliver_subject": DELIVERY,
    "deliver_policy": "all",
    "replay_policy": "instant",
    # The second site's JetStream says by its flow control how far it is.
    "ack_policy": "flow_control",
    "flow_control": True,
    "idle_heartbeat": _NS,
    "max_ack_pending": MOST_UNDER_WAY,
    "max_deliver": -1,
}


@dataclass(frozen=True, slots=True)
class Mirror:
    """How the mirror is."""

    last: int
    """The sequence of its last message."""
    behind: int
    """How many messages it was behind when the first site spoke last."""
    silent_s: float | None
    """How long the first site has said nothing. ``None``: it has not spoken since nats-server has
    started."""
    problem: str | None
    """Why it does not follow, such as an error that JetStream names. ``None``: nothing is known."""

    @property
    def is_fed(self) -> bool:
        """Whether the first site is there."""
        return self.silent_s is not None and self.silent_s < ALIVE_S


async def begin(first: Client, second: Client, policy: Policy) -> bool:
    """Make the mirror, or let its limits follow ``policy``. Return whether it is new.

    Args:
        first: A relay's login at the bus.
        second: A relay's login at the second site.
        policy: The policy of the bus.

    Raises:
        StreamsUnusable: A site does not answer, the second one has an ACCEPTED of its own, the
            first one has a mirror, or the mirror has another history.
    """
    here = await ask_well(first, f"STREAM.INFO.{ACCEPTED}", None, ASK_S, _FIRST_UNREAD)
    if here["config"].get("mirror"):
        # Its consumer would feed the mirror with itself.
        raise StreamsUnusable(
            f"{ACCEPTED} is a mirror at the address of the bus",
            hint="name the nats-servers of the bus with --server, and the second site's as SECOND",
        )
    info = await _if_there(second, f"STREAM.INFO.{ACCEPTED}", _UNREAD)
    is_new = info is None
    if info is not None and not info["config"].get("mirror"):
        raise StreamsUnusable(
            f"the second site has a stream {ACCEPTED} already, which is no mirror",
            hint="name the nats-server of the second site; it begins with an empty store",
        )
    if not is_new and await has_another_history(first, second):
        raise StreamsUnusable(
            f"the mirror cannot follow: {ANOTHER_HISTORY}, because that site has lost its store, or"
            " has an earlier one",
            hint="move the store of the second site away, start nats-server there with an empty"
            " one, and say this again",
        )
    what = f"the consumer {MIRROR} of {ACCEPTED} cannot be read"
    call = f"CONSUMER.INFO.{ACCEPTED}.{MIRROR}"
    has_feed = await _if_there(first, call, what) is not None
    if is_new and has_feed:
        # It knows how far another mirror was, and would leave those messages out.
        what = f"the consumer {MIRROR} cannot be removed"
        await ask_well(first, f"CONSUMER.DELETE.{ACCEPTED}.{MIRROR}", None, ASK_S, what)
    if is_new or not has_feed:
        body: Json = {"stream_name": ACCEPTED, "config": _FEED, "action": "create"}
        what = f"the consumer {MIRROR} of {ACCEPTED} cannot be made"
        await ask_well(first, f"CONSUMER.CREATE.{ACCEPTED}.{MIRROR}", body, ASK_S, what)
    verb = "CREATE" if is_new else "UPDATE"
    what = f"the mirror of {ACCEPTED} cannot be made"
    await ask_well(second, f"STREAM.{verb}.{ACCEPTED}", _mirror_config(policy), ASK_S, what)
    return is_new


async def look(second: Client) -> Mirror:
    """Return how the mirror is. Raises :class:`StreamsUnusable`, also where there is none."""
    return _read(await _mirror(second))


async def has_another_history(first: Client, second: Client) -> bool:
    """Whether the last message of the mirror is not the one that the first site has.

    Args:
        first: A relay's login at the bus.
        second: A relay's login at the second site.

    Raises:
        StreamsUnusable: A site does not answer, or there is no mirror.
    """
    # The mirror first, because the first site has had each of its messages before.
    info = await _mirror(second)
    last = int(info["state"]["last_seq"])
    if last == 0:
        return False
    here = await ask_well(first, f"STREAM.INFO.{ACCEPTED}", None, ASK_S, _FIRST_UNREAD)
    if here["state"]["last_seq"] < last:
        return True
    call, body = f"STREAM.MSG.GET.{ACCEPTED}", {"seq": last}
    original = await _if_there(first, call, _FIRST_UNREAD, body)
    if original is None:
        # It has dropped that message by its age, and so all messages before. None can be missed.
        return False
    copy = await _if_there(second, call, _UNREAD, body)
    if copy is None:
        # Unless it was dropped by its age, the mirror has never had it.
        age_s = (time_ms(info["ts"]) - time_ms(original["message"]["time"])) / 1000
        return age_s + NEARLY_DROPPED_S < int(info["config"]["max_age"]) / _NS
    return bool(copy["message"] != original["message"])


async def promote(second: Client, policy: Policy) -> int:
    """Make the mirror the ACCEPTED of a bus; return the sequence of its last message.

    Raises:
        StreamsUnusable: There is no mirror, or the first site is there.
    """
    info = await _mirror(second)
    found = _read(info)
    if found.is_fed:
        raise StreamsUnusable(
            f"the first site is there: it spoke {found.silent_s:.0f} s ago",
            hint="stop its relays and its nats-servers for good, and wait"
            f" {ALIVE_S:.0f} s: two sites that accept messages are two buses",
        )
    config = _accepted(policy) | {
        "num_replicas": info["config"]["num_replicas"],
        # The server of the second site dates its messages, and so its ledger.
        "metadata": {COMPLETE_SINCE: str(time_ms(info["ts"]))},
    }
    what = f"the mirror of {ACCEPTED} cannot be promoted"
    made = await ask_well(second, f"STREAM.UPDATE.{ACCEPTED}", config, ASK_S, what)
    return int(made["state"]["last_seq"])


async def _if_there(nc: Client, call: str, what: str, body: Json | None = None) -> Json | None:
    """Make a call of the API. ``None``: there is no such stream, consumer or message."""
    found = await ask(nc, call, body, ASK_S)
    if is_missing(found):
        return None
    if "error" in found:
        raise refused(what, found["error"])
    return found


async def _mirror(second: Client) -> Json:
    info = await ask_well(second, f"STREAM.INFO.{ACCEPTED}", None, ASK_S, _UNREAD)
    if not info["config"].get("mirror"):
        raise StreamsUnusable(
            f"{ACCEPTED} is no mirror there",
            hint="name the nats-server of the second site; a mirror that was promoted is none",
        )
    return info


def _read(info: Json) -> Mirror:
    mirror = info["mirror"]
    active = int(mirror["active"])
    error = mirror.get("error") or {}
    return Mirror(
        last=int(info["state"]["last_seq"]),
        behind=int(mirror["lag"]),
        silent_s=None if active < 0 else active / _NS,
        problem=error.get("description"),
    )


def _accepted(policy: Policy) -> Json:
    (found,) = (one for one in stream_configs(policy) if one["name"] == ACCEPTED)
    return found


def _mirror_config(policy: Policy) -> Json:
    """The mirror's configuration: that of ACCEPTED, without what a mirror may not have."""
    return without_nulls(_accepted(policy)) | {
        "subjects": [],
        "mirror": _SOURCE,
        "republish": None,
        "duplicate_window": 0,
        # The first site has the limit. A mirror that stops at its own would be behind for good.
        "max_bytes": -1,
        "num_replicas": 1,
    }
