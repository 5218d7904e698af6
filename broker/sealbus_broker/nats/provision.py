"""The bus's streams and consumers, made and checked on a live nats-server.

Each start of a relay, and each return of a connection, calls :func:`provision`. For each stream:

1. It asks for the stream's configuration, and makes the stream where there is none.
2. Where the stream differs only in fields that follow the policy, it changes them. A stream that
   holds more than a limit of the policy keeps its larger limit, so no message is lost.
3. It asks again, and refuses to go on if any field differs from :mod:`sealbus_broker.nats.streams`.

A relay never ends because a setting is better than expected. It keeps a value that is as good
(:func:`~sealbus_broker.nats.streams.is_as_good`), and the log has a warning. The same holds for the
larger limit of a stream that holds more than the policy allows. A start and a change of a running
bus treat it alike, so that all relays take the same policy. The limit follows at the first call at
which the stream holds less.

A ledger whose window grows is complete only for the time of the old window: nats-server (2.15.1)
has forgotten the older ids, and reads its store again only when it starts. The stream's metadata
say from when on it is complete (:data:`COMPLETE_SINCE`), for all relays and for later starts.

A stream has as many replicas as NATS gives, up to those of the policy. One server gives one, and a
cluster with too few nodes gives fewer. A relay that starts waits a few seconds for the nodes,
because nodes that start with it need a moment to find each other. Then it makes a stream with
fewer. A later call raises them, which holds the stream up for longer. A stream that has more than
the policy asks for keeps them, because that is better than expected, unless the caller says that
the policy was lowered.

Without a leader, as in an election, the call fails with
:class:`~sealbus_broker.errors.StreamsAway`, and may be made again.

INGRESS keeps the number of partitions that it has. Relays change it when the messages of the number
before are judged (:mod:`sealbus_broker.nats.numbers`).

Several relays may do so at once. Nothing is kept here between two calls. When the connection is
lost, the call fails, and the relay makes it again once it is back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import Final

from nats.aio.client import Client

from sealbus.protocol.streams import INGRESS
from sealbus_broker.errors import StandsAlone, StreamsUnusable, TooFewNodes
from sealbus_broker.gate.policy import NO_WINDOWS, REPLICAS, Policy, Windows
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import (
    Json,
    ask,
    ask_well,
    is_missing,
    refused,
    time_ms,
    unanswered,
    without_nulls,
)
from sealbus_broker.nats.streams import (
    CONSUMER,
    STREAMS,
    Difference,
    consumer_configs,
    differences,
    is_as_good,
    larger_limits,
    number_in,
    stream_configs,
    transform,
)

log = get_logger(__name__)

CREATE_ATTEMPTS: Final = 5
"""How often a stream is created before its error counts: see :func:`_create`. And how often it is
looked for then: see :func:`_there`."""

CREATE_PAUSE_S: Final = 0.05
"""The pause before the second attempt to create a stream. Each further pause is twice as long: 0.75
s together. nats-server creates a stream in milliseconds, so relays that hinder each other are done
by then."""

NODES_S: Final = 5.0
"""How long a start, or a restore, waits for nodes before new streams have fewer replicas (s), for
all streams together. Nodes that start at once find each other within a second. A bus whose nodes do
not come starts that much later, once."""

NODES_PAUSE_S: Final = 0.1
"""The pause between two looks for the nodes (s)."""

_NS_PER_MS: Final = 1_000_000

_NO_ROOM: Final = frozenset({10023, 10028, 10047})
"""JetStream's errors for insufficient resources, memory and storage."""

_MAY_CHANGE: Final = frozenset(
    {"description", "duplicate_window", "max_age", "max_bytes", "num_replicas", "allow_atomic"}
)
"""The fields that a start may change in a live stream. They follow the policy, except
``allow_atomic``, which earlier versions switched on."""

_MAY_CHANGE_IN_INGRESS: Final = frozenset({"max_msgs_per_subject", "allow_direct"})
"""Likewise, in INGRESS alone. Earlier versions left ``allow_direct`` off."""

COMPLETE_SINCE: Final = "sealbus-complete-since"
"""The name in a stream's metadata under which provisioning writes from when on the stream knows all
its ids (ms since 1970, by the server's clock)."""


async def provision(
    nc: Client,
    policy: Policy,
    *,
    least: Windows = NO_WINDOWS,
    lowers: bool = False,
    only: Collection[str] = STREAMS,
    nodes_s: float = 0.0,
    timeout_s: float = 10.0,
) -> None:
    """Make the streams and consumers that are missing, let limits follow the policy, check the
    rest.

    Args:
        nc: A connection that is logged in as the relay.
        policy: The policy whose limits the streams follow.
        least: How long the ledgers remember at least.
        lowers: Streams with more replicas than the policy says lose the others.
        only: The streams to look at. The consumers belong to INGRESS.
        nodes_s: How long to wait for nodes before new streams have fewer replicas.
        timeout_s: How long JetStream may take for one answer.

    Raises:
        StreamsAway: JetStream has no leader now, or does not answer.
        StreamsUnusable: A stream or consumer cannot be made, or is not as the bus needs it.
    """
    nodes_by = asyncio.get_running_loop().time() + nodes_s
    for wanted in stream_configs(policy, least):
        if wanted["name"] in only:
            await _provision_stream(nc, wanted, timeout_s, lowers=lowers, nodes_by=nodes_by)
    if INGRESS in only:
        info = await _there(nc, f"STREAM.INFO.{INGRESS}", timeout_s, f"stream {INGRESS}")
        number = number_in(info["config"])
        assert number is not None, "the stream is as the bus needs it"
        for one in consumer_configs(number):
            await provision_consumer(nc, one, timeout_s)


async def _provision_stream(
    nc: Client, wanted: Json, timeout_s: float, *, lowers: bool, nodes_by: float
) -> None:
    name = wanted["name"]
    info = await ask(nc, f"STREAM.INFO.{name}", None, timeout_s)
    if is_missing(info):
        log.info("stream.created", stream=name)
        what = f"stream {name} cannot be made"
        look = f"STREAM.INFO.{name}"
        await with_replicas(
            wanted,
            1,
            lambda config: _create(nc, f"STREAM.CREATE.{name}", config, look, timeout_s, what),
            nodes_by,
        )
    elif "error" in info:
        raise refused(f"stream {name} cannot be read", info["error"])
    else:
        wanted = wanted | await _kept(nc, info, wanted, timeout_s, lowers=lowers)
        found = differences(info["config"], wanted)
        # One field that may not change is enough: nothing is updated then, and the error below
        # names it.
        if found and all(_may_change(name, difference.field) for difference in found):
            log.info(
                "stream.updated", stream=name, fields=[difference.field for difference in found]
            )
            what = f"stream {name} cannot follow the policy's limits"
            update = wanted | {"metadata": _metadata(info, wanted)}
            call = f"STREAM.UPDATE.{name}"
            has = _replicas(info["config"])
            await with_replicas(update, has, partial(_update, nc, call, timeout_s, what))
    # The server may have changed or ignored a field of the request, so only its own answer counts.
    info = await _there(nc, f"STREAM.INFO.{name}", timeout_s, f"stream {name}")
    # The number of replicas is the one field that NATS may give otherwise: see
    # sealbus_broker.nats.promises.
    given = {"num_replicas": _replicas(info["config"])} | _partitioned(name, info["config"])
    _assert_same(f"stream {name}", info["config"], wanted | given)


async def raise_replicas(nc: Client, replicas: int, *, timeout_s: float = 10.0) -> None:
    """Give each stream that exists ``replicas`` replicas, where it has fewer and there are nodes.

    Nothing else of it changes.

    Raises:
        StreamsUnusable: JetStream refuses it for another reason, or does not answer.
    """
    for name in STREAMS:
        info = await ask(nc, f"STREAM.INFO.{name}", None, timeout_s)
        has = info.get("config", {}).get("num_replicas", replicas)
        if has < replicas:
            call = f"STREAM.UPDATE.{name}"
            what = f"stream {name} cannot have more replicas"
            await with_replicas(
                # A stream that was adopted (sealbus_broker.nats.adoption) is bound to one node.
                info["config"] | {"num_replicas": replicas, "placement": None},
                has,
                partial(_update, nc, call, timeout_s, what),
            )


async def _update(nc: Client, call: str, timeout_s: float, what: str, config: Json) -> None:
    await ask_well(nc, call, config, timeout_s, what)


async def with_replicas(
    wanted: Json, least: int, call: Callable[[Json], Awaitable[object]], nodes_by: float = 0.0
) -> None:
    """Make ``call`` with the replicas of ``wanted``, or with as many as there are nodes.

    Args:
        wanted: The configuration of a stream.
        least: The number of replicas that the stream has, or 1.
        call: Creates or updates the stream with a configuration.
        nodes_by: Until when to wait for the nodes of a cluster, by the loop's clock (s).
    """
    most = wanted["num_replicas"]
    *tries, last = [most, *(one for one in reversed(REPLICAS) if least <= one < most)]
    for replicas in tries:
        try:
            await _once_nodes_are_there(wanted | {"num_replicas": replicas}, call, nodes_by)
        except TooFewNodes as error:
            name = wanted["name"]
            log.warning(
                "stream.has-fewer-replicas", stream=name, asked=replicas, because=error.what
            )
        else:
            return
    await call(wanted | {"num_replicas": last})


async def _once_nodes_are_there(
    config: Json, call: Callable[[Json], Awaitable[object]], nodes_by: float
) -> None:
    """Make ``call``, again and again until ``nodes_by`` while nodes of a cluster are missing."""
    clock, waits = asyncio.get_running_loop().time, False
    while True:
        try:
            await call(config)
        except StandsAlone:
            raise
        except TooFewNodes as error:
            if clock() >= nodes_by:
                raise
            if not waits:
                name, waits = config["name"], True
                log.warning("stream.waits-for-nodes", stream=name, because=error.what)
        else:
            return
        await asyncio.sleep(NODES_PAUSE_S)


async def provision_consumer(nc: Client, wanted: Json, timeout_s: float) -> None:
    """Make a consumer of INGRESS if it is missing, and check it. Raises
    :class:`StreamsUnusable`."""
    name = wanted["durable_name"]
    info = await ask(nc, f"CONSUMER.INFO.{INGRESS}.{name}", None, timeout_s)
    if is_missing(info):
        log.info("consumer.created", stream=INGRESS, consumer=name)
        body = {"stream_name": INGRESS, "config": without_nulls(wanted), "action": "create"}
        what = f"consumer {name} of {INGRESS} cannot be made"
        call = f"CONSUMER.CREATE.{INGRESS}.{name}"
        look = f"CONSUMER.INFO.{INGRESS}.{name}"
        await _create(nc, call, body, look, timeout_s, what)
    what = f"consumer {name} of {INGRESS}"
    info = await _there(nc, f"CONSUMER.INFO.{INGRESS}.{name}", timeout_s, what)
    _assert_same(what, info["config"], wanted | _as_good(CONSUMER, what, info["config"], wanted))


async def _there(nc: Client, look: str, timeout_s: float, what: str) -> Json:
    """Return JetStream's facts about a stream or consumer that was found or made just now.

    A node of a cluster that answers may not have heard of it yet. Raises :class:`StreamsAway` if it
    does not hear of it, and :class:`StreamsUnusable` for another error.
    """
    for attempt in range(CREATE_ATTEMPTS):
        info = await ask(nc, look, None, timeout_s)
        if "error" not in info:
            return info
        if not is_missing(info):
            raise refused(f"{what} cannot be read", info["error"])
        await asyncio.sleep(CREATE_PAUSE_S * 2**attempt)
    raise unanswered(f"{what} was there just now, and JetStream does not know it")


async def _create(
    nc: Client, call: str, body: Json, look: str, timeout_s: float, what: str
) -> None:
    """Create a stream or consumer, or find that another relay has created it in the meantime.

    While several relays create one stream, nats-server counts its limits once for each of them. It
    may then refuse all of them for lack of room, although there is room for the one stream.
    """
    for attempt in range(CREATE_ATTEMPTS):
        answer = await ask(nc, call, body, timeout_s)
        if "error" not in answer or "error" not in await ask(nc, look, None, timeout_s):
            return
        if answer["error"].get("err_code") not in _NO_ROOM or attempt == CREATE_ATTEMPTS - 1:
            raise refused(what, answer["error"])
        await asyncio.sleep(CREATE_PAUSE_S * 2**attempt)


async def _kept(nc: Client, info: Json, wanted: Json, timeout_s: float, *, lowers: bool) -> Json:
    """Return the fields in which a live stream may differ from ``wanted``, with its own values.

    These are its number of partitions, more replicas unless the caller ``lowers`` them, larger
    limits where it holds more than the policy allows, and settings that are as good.
    """
    live, name = info["config"], wanted["name"]
    replicas = max(wanted["num_replicas"], 0 if lowers else _replicas(live))
    return (
        {"num_replicas": replicas}
        | _partitioned(name, live)
        | await _kept_limits(nc, info, wanted, timeout_s)
        | _as_good(name, f"stream {name}", live, wanted)
    )


def _replicas(live: Json) -> int:
    replicas: int = live.get("num_replicas", 1)
    return replicas


def _partitioned(name: str, live: Json) -> Json:
    """Return the field of INGRESS that says its number of partitions, if it has a valid one."""
    number = number_in(live) if name == INGRESS else None
    return {} if number is None else {"subject_transform": transform(number)}


def _as_good(of: str, what: str, live: Json, wanted: Json) -> Json:
    """Return the live values that keep each promise, and warn of them."""
    found = [one for one in differences(live, wanted) if is_as_good(of, one)]
    if found:
        log.warning(
            "setting.kept",
            text=f"warning: {what} has other settings than the bus gives it: {_listed(found)}; they"
            " are as good, and stay",
            of=what,
            fields=[one.field for one in found],
        )
    return {one.field: one.got for one in found}


async def _kept_limits(nc: Client, info: Json, wanted: Json, timeout_s: float) -> Json:
    """Return the limits of a stream that are larger than those of the policy, because it holds
    more than these. Warn of them.

    The stream has the limits of the policy from the next call on at which it holds less.
    """
    name = wanted["name"]
    kept = []
    for one in larger_limits(info["config"], wanted):
        if one.field == "max_bytes":
            holds = info["state"]["bytes"]
        elif name == INGRESS:
            holds = await _most_waiting(nc, timeout_s)
        else:
            continue
        if holds > wanted[one.field]:
            kept.append(one)
    if kept:
        log.warning(
            "room.kept",
            text=f"warning: stream {name} holds more than the policy allows, and keeps its room:"
            f" {_listed(kept)}",
            stream=name,
            fields=[one.field for one in kept],
        )
    return {one.field: one.got for one in kept}


def complete_since_ms(info: Json) -> int | None:
    """Return from when on a stream knows all its ids (ms since 1970), as its metadata say.

    ``None``: its window has never grown.
    """
    said = (info["config"].get("metadata") or {}).get(COMPLETE_SINCE)
    return None if said is None else int(said)


def _metadata(info: Json, wanted: Json) -> dict[str, str]:
    """Return the metadata of a stream that is updated. An update without them would lose them."""
    since = complete_since_ms(info)
    window = info["config"].get("duplicate_window", 0)
    if wanted["duplicate_window"] > window:
        forgotten = time_ms(info["ts"]) - window // _NS_PER_MS
        since = forgotten if since is None else max(since, forgotten)
    return {} if since is None else {COMPLETE_SINCE: str(since)}


def _may_change(stream: str, field: str) -> bool:
    """Whether a start may change ``field`` in a live stream."""
    return field in _MAY_CHANGE or (stream == INGRESS and field in _MAY_CHANGE_IN_INGRESS)


async def _most_waiting(nc: Client, timeout_s: float) -> int:
    """Return how many messages of one bot wait in INGRESS, of the bot that has most."""
    what = f"the messages that wait in stream {INGRESS} cannot be counted"
    info = await ask_well(nc, f"STREAM.INFO.{INGRESS}", {"subjects_filter": ">"}, timeout_s, what)
    most: int = max((info["state"].get("subjects") or {"": 0}).values())
    return most


def _assert_same(what: str, live: Json, wanted: Json) -> None:
    found = differences(live, wanted)
    if found:
        raise StreamsUnusable(
            f"{what} is not as the bus needs it: {_listed(found)}",
            hint="set it back with the nats CLI, or give the bus a NATS of its own",
        )


def _listed(found: Iterable[Difference]) -> str:
    return "; ".join(
        f"{one.field}: got {json.dumps(one.got)}, expected {json.dumps(one.expected)}"
        for one in found
    )
