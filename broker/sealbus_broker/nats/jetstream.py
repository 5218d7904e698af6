"""JetStream's API in JSON, because nats-py's dataclasses lack fields that the bus checks.

Each call here may be made twice: a stream that exists is not made again, and reading changes
nothing. So a call without an answer in time is made again, and a relay does not end because one
answer came late.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from sealbus.nats.parser import read_headers
from sealbus.protocol.value import value
from sealbus.supervision import end
from sealbus_broker.errors import StandsAlone, StreamsAway, StreamsUnusable, TooFewNodes
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

Json = dict[str, Any]

ATTEMPTS: Final = 3
"""How often a call is made. A disk that stalls for ten seconds is ordinary. A disk that stalls for
thirty seconds needs a person."""

REPEAT_S: Final = 1.0
"""The pause before a request without an answer is sent again. It is longer than an answer takes,
and about as long as an election."""

RELOAD_S: Final = 1.0
"""How long NATS may say that there is no JetStream. nats-server says so for a moment while it reads
its configuration anew, as after each renewal of a certificate: for 0.1 s on a busy machine."""

RELOAD_PAUSE_S: Final = 0.05
"""The pause before the next request meanwhile."""

API: Final = "$JS.API"
"""The first tokens of every subject on which JetStream takes calls."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

SUBJECT_HEADER: Final = "Nats-Subject"
TIME_HEADER: Final = "Nats-Time-Stamp"
"""The headers in which a replica states the subject and the time of a message (:func:`direct_get`).
nats-server writes them behind those of the message, and the last one of a name counts
(:func:`sealbus.nats.parser.read_headers`)."""

NOT_FOUND: Final = 404
"""JetStream's code for a stream, consumer or message that does not exist."""

NO_MESSAGE: Final = 10037
"""JetStream's own code for a message that does not exist."""

NO_PEERS: Final = 10005
"""JetStream's code for a cluster with too few nodes that run and have room."""

NOT_CLUSTERED: Final = 10074
"""JetStream's code for replicas on a server that stands alone."""

NO_LEADER: Final = frozenset({10004, 10006, 10008, 10009, 10118, 10119})
"""JetStream's codes for a cluster, a stream or a consumer without a leader, or with too few nodes
for one. An election takes seconds, and a node may come back."""

IN_PROCESS: Final = 10158
"""JetStream's code for a message whose id another message has that is being stored just now, as
when two relays give one ledger its first message. Whether it will be stored is not known yet."""

_KINDS: Final[Mapping[int, type[StreamsUnusable]]] = {
    **dict.fromkeys({*NO_LEADER, IN_PROCESS}, StreamsAway),
    NO_PEERS: TooFewNodes,
    NOT_CLUSTERED: StandsAlone,
}
"""Errors of a type of their own, by JetStream's error code."""

_HINTS: Final[Mapping[int, str]] = {
    10004: "a majority of the nodes has to run: start the others, and look into their logs",
    NO_PEERS: "start the other nodes of the cluster, or lower `replicas` in policy.yaml",
    10008: "a majority of the nodes has to run: start the others, and look into their logs",
    NOT_CLUSTERED: "this nats-server stands alone: set `replicas: 1`, or make it a cluster",
    IN_PROCESS: "another relay does the same just now; wait a second",
    10118: "a majority of the nodes that keep the stream has to run: start the others",
    10119: "a majority of the nodes that keep the consumer has to run: start the others",
    10023: "JetStream's storage is full: free disk space, or lower *_bytes limits in policy.yaml",
    10028: "JetStream's memory limit is too small: lower live_bytes in policy.yaml",
    10047: "the disk has no room for the streams: free it, or lower *_bytes limits in policy.yaml",
    10077: "the stream's storage is full or not writable: look at the disk and nats-server's log",
    10059: "has a relay run here yet? it makes the streams when it starts",
    10065: "another stream already has these subjects: give the bus a NATS account of its own",
}
"""Hints, by JetStream's error code."""


@value
class StoredMessage:
    """A message of a stream."""

    subject: str
    headers: Mapping[str, str]
    data: bytes
    time_ms: int
    """When nats-server stored it, by its clock (ms since 1970)."""


async def request_over_reload(
    nc: Client, subject: str, data: bytes, timeout_s: float, headers: dict[str, str] | None = None
) -> Msg:
    """Send a request, and again while nats-server reads its configuration.

    Raises nats-py's errors within ``timeout_s``: after :data:`RELOAD_S`, also that there is no
    JetStream.
    """
    began = time.monotonic()
    left_s = timeout_s
    while True:
        try:
            return await nc.request(subject, data, left_s, headers=headers)
        except NoRespondersError:
            left_s = began + timeout_s - time.monotonic() - RELOAD_PAUSE_S
            if left_s <= 0 or time.monotonic() - began >= RELOAD_S:
                raise
        await asyncio.sleep(RELOAD_PAUSE_S)


async def request(
    nc: Client, subject: str, data: bytes, timeout_s: float, headers: dict[str, str] | None = None
) -> Json:
    """Send a request and return its answer. Send it again after each ``timeout_s`` without an
    answer.

    Raises:
        nats.errors.Error: As nats-py does. ``TimeoutError`` after :data:`ATTEMPTS` requests.
    """
    attempt = 1
    while True:
        try:
            answer = await _answer(nc, subject, data, timeout_s, headers)
        # Only silence leads to another attempt. NATS says soon that there is no JetStream, and
        # nats-py at once that there is no connection.
        except NatsTimeoutError:
            log.warning(
                "jetstream.not-answered",
                call=subject,
                waited_s=timeout_s,
                attempt=attempt,
                of=ATTEMPTS,
            )
            if attempt == ATTEMPTS:
                raise
            attempt += 1
        else:
            parsed: Json = json.loads(answer.data)
            return parsed


async def _answer(
    nc: Client, subject: str, data: bytes, timeout_s: float, headers: dict[str, str] | None
) -> Msg:
    """Return the first answer within ``timeout_s``. Meanwhile, send the request again and again.

    A cluster that elects a leader answers no request that came before.
    """
    deadline = time.monotonic() + timeout_s
    asking: set[asyncio.Task[Msg]] = set()
    try:
        while (left_s := deadline - time.monotonic()) > 0:
            one = request_over_reload(nc, subject, data, left_s, headers)
            asking.add(asyncio.create_task(one, name=f"asking {subject}"))
            done, _ = await asyncio.wait(
                asking, timeout=min(REPEAT_S, left_s), return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                return done.pop().result()
        raise NatsTimeoutError
    finally:
        await end(*asking)


async def ask(nc: Client, call: str, body: Json | None, timeout_s: float) -> Json:
    """Make one call of the API; return the answer, which may be an error of JetStream's.

    Args:
        nc: A connection that is logged in as the relay.
        call: For example ``STREAM.INFO.INGRESS``.
        body: Is sent without its nulls. ``None`` sends nothing.
        timeout_s: How long each attempt may take.

    Raises:
        StreamsUnusable: There is no answer.
    """
    data = b"" if body is None else json.dumps(without_nulls(body)).encode()
    try:
        return await request(nc, f"{API}.{call}", data, timeout_s)
    except NoRespondersError as error:
        what = "NATS answers, but has no JetStream for this login"
        hint = "start nats-server with JetStream in the account BUS, as `sealbus prepare` writes it"
        raise StreamsUnusable(what, hint=hint) from error
    except NatsError as error:
        raise unanswered(f"JetStream did not answer {call}") from error


async def ask_well(nc: Client, call: str, body: Json | None, timeout_s: float, what: str) -> Json:
    """Do as :func:`ask`, and raise an error of JetStream's. ``what``: the error's text begins with
    it."""
    answer = await ask(nc, call, body, timeout_s)
    if "error" in answer:
        raise refused(what, answer["error"])
    return answer


async def direct_get(nc: Client, stream: str, sequence: int, timeout_s: float) -> Msg:
    """Ask any replica of ``stream`` for the message at ``sequence``. It may lag behind the leader.

    Returns:
        The message, with its subject and its time in :data:`SUBJECT_HEADER` and
        :data:`TIME_HEADER`. Where the replica does not have it, the header ``Status`` is 404.
    """
    body = json.dumps({"seq": sequence}).encode()
    return await nc.request(f"{API}.DIRECT.GET.{stream}", body, timeout_s)


async def leader_get(nc: Client, stream: str, sequence: int, timeout_s: float) -> Json | None:
    """Ask the leader of ``stream`` for the message at ``sequence``.

    Returns:
        The message as JetStream describes it, with its ``subject``, its ``time`` and its ``data``
        in base64, or ``None`` where there is none.

    Raises:
        StreamsUnusable: JetStream answers with another error.
        nats.errors.Error: It does not answer.
    """
    body = json.dumps({"seq": sequence}).encode()
    subject = f"{API}.STREAM.MSG.GET.{stream}"
    answer = json.loads((await request_over_reload(nc, subject, body, timeout_s)).data)
    if is_missing(answer):
        return None
    if "error" in answer:
        raise refused(f"{stream} cannot be read", answer["error"])
    message: Json = answer["message"]
    return message


async def stored_message(
    nc: Client, stream: str, sequence: int, timeout_s: float
) -> StoredMessage | None:
    """Read the message at ``sequence`` of ``stream``.

    Any replica may give it. A replica may lag behind, so only the leader says that there is none.

    Returns:
        The message, or ``None`` where there is none.

    Raises:
        StreamsUnusable: JetStream answers with another error.
        nats.errors.Error: It does not answer.
    """
    answer = await direct_get(nc, stream, sequence, timeout_s)
    headers = answer.headers or {}
    if SUBJECT_HEADER in headers:
        at_ms = time_ms(headers[TIME_HEADER])
        return StoredMessage(headers[SUBJECT_HEADER], headers, answer.data, at_ms)
    message = await leader_get(nc, stream, sequence, timeout_s)
    if message is None:
        return None
    headers = read_headers(base64.b64decode(message.get("hdrs", "")))
    data = base64.b64decode(message.get("data", ""))
    return StoredMessage(message["subject"], headers, data, time_ms(message["time"]))


async def last_on(nc: Client, stream: str, subject: str, timeout_s: float) -> bytes | None:
    """Ask the leader of ``stream`` for the last message on ``subject``, which is never stale.

    Returns:
        Its bytes, or ``None`` where there is none.

    Raises:
        StreamsUnusable: JetStream answers with another error.
        nats.errors.Error: It does not answer.
    """
    body = json.dumps({"last_by_subj": subject}).encode()
    answer = await request(nc, f"{API}.STREAM.MSG.GET.{stream}", body, timeout_s)
    error = answer.get("error")
    if error is None:
        return base64.b64decode(answer["message"].get("data", ""))
    if error.get("err_code") == NO_MESSAGE:
        return None
    raise refused(f"{stream} cannot be read", error)


def is_missing(answer: Json) -> bool:
    """Whether JetStream says that the stream, consumer or message does not exist."""
    return bool(answer.get("error", {}).get("code") == NOT_FOUND)


def has_no_leader(info: Json) -> bool:
    """Whether an answer to STREAM.INFO says that the stream has no leader. A single server leads
    its streams itself.

    A node with a copy may answer with the state of that copy, and without the name of a leader.
    """
    if "error" in info:
        return info["error"].get("err_code") in NO_LEADER
    cluster = info.get("cluster")
    return cluster is not None and not cluster.get("leader")


def time_ms(text: str) -> int:
    """Return the milliseconds since 1970 of a time that nats-server writes."""
    return time_us(text) // 1000


def time_us(text: str) -> int:
    """Return the microseconds since 1970 of a time that nats-server writes."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def without_nulls(config: Json) -> Json:
    """Return ``config`` without the fields that have no value."""
    return {key: value for key, value in config.items() if value is not None}


def unanswered(what: str) -> StreamsAway:
    """Make the error for a call without an answer."""
    return StreamsAway(what, hint="look into nats-server's log; if it has just started, try again")


def refused(what: str, error: Json) -> StreamsUnusable:
    """Make the error for an error of JetStream's."""
    described = error.get("description", "no description")
    code = int(error.get("err_code", 0))
    hint = _HINTS.get(code, "look into nats-server's log")
    kind = _KINDS.get(code, StreamsUnusable)
    return kind(f"{what}: {described}", hint=hint)
