"""JetStream's API, spoken in JSON: nats-py's dataclasses lack fields that the bus asserts.

All calls made here may be made twice: what is there already is not made again, and reading changes nothing. So a
call that is not answered in time is made again, and a relay does not end because one answer came late.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from sealbus_broker.errors import StreamsUnusable

log = structlog.get_logger(__name__)

Json = dict[str, Any]

ATTEMPTS: Final = 3
"""How often a call is made. A disk that stalls for ten seconds is ordinary; one that stalls for
thirty needs a person."""

API: Final = "$JS.API"
"""The first tokens of every subject on which JetStream takes calls."""

NOT_FOUND: Final = 404
"""JetStream's code for a stream, consumer or message that does not exist."""


async def request(
    nc: Client, subject: str, data: bytes, timeout_s: float, headers: dict[str, str] | None = None
) -> Json:
    """Send one request and return the answer; send it again each time that ``timeout_s`` seconds bring none.

    Raises what nats-py raises: its ``TimeoutError`` after :data:`ATTEMPTS` requests without answer.
    """
    attempt = 1
    while True:
        try:
            answer = await nc.request(subject, data, timeout_s, headers=headers)
        except NatsTimeoutError:
            log.warning("jetstream.not-answered", call=subject, waited_s=timeout_s, attempt=attempt, of=ATTEMPTS)
            if attempt == ATTEMPTS:
                raise
            attempt += 1
        else:
            parsed: Json = json.loads(answer.data)
            return parsed


async def ask(nc: Client, call: str, body: Json | None, timeout_s: float) -> Json:
    """One call of the API; the answer may be an error of JetStream's.

    ``call``: for example ``STREAM.INFO.INGRESS``. ``body``: sent without its nulls; ``None`` sends
    nothing. ``timeout_s``: for each attempt. Raises :class:`StreamsUnusable` where there is no answer.
    """
    data = b"" if body is None else json.dumps(without_nulls(body)).encode()
    try:
        return await request(nc, f"{API}.{call}", data, timeout_s)
    except NoRespondersError as error:
        raise StreamsUnusable(
            "NATS answers, but has no JetStream for this login",
            hint="start nats-server with JetStream in the account BUS, as `sealbus prepare` writes it",
        ) from error
    except NatsError as error:
        raise unanswered(f"JetStream did not answer {call}") from error


async def ask_well(nc: Client, call: str, body: Json | None, timeout_s: float, what: str) -> Json:
    """As :func:`ask`, but an error of JetStream's is raised. ``what``: that which then failed, for the message."""
    answer = await ask(nc, call, body, timeout_s)
    if "error" in answer:
        raise refused(what, answer["error"])
    return answer


def is_missing(answer: Json) -> bool:
    """Whether JetStream said that it does not have what it was asked for."""
    return bool(answer.get("error", {}).get("code") == NOT_FOUND)


def without_nulls(config: Json) -> Json:
    """``config`` without the fields that have no value."""
    return {key: value for key, value in config.items() if value is not None}


def unanswered(what: str) -> StreamsUnusable:
    """The error for a call without answer."""
    return StreamsUnusable(what, hint="look into nats-server's log; if it has just started, try again")


_HINTS: Final[Mapping[int, str]] = {
    10023: "JetStream's storage is full: free disk space, or lower the *_bytes limits in policy.yaml",
    10028: "JetStream's memory limit is too small: lower live_bytes in policy.yaml",
    10047: "the disk has no room for the streams' limits: free space, or lower the *_bytes limits in policy.yaml",
    10077: "the stream's storage is full or cannot be written: look into nats-server's log and at the disk",
    10065: "another stream already has these subjects: give the bus a NATS account of its own",
}


def refused(what: str, error: Json) -> StreamsUnusable:
    """The error for an error of JetStream's."""
    described = error.get("description", "no description")
    hint = _HINTS.get(int(error.get("err_code", 0)), "look into nats-server's log")
    return StreamsUnusable(f"{what}: {described}", hint=hint)
