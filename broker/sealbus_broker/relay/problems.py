"""The problems of a bus: their levels, and the sentences about its streams. Pure.

A problem is *red*, where the bus accepts nothing, or soon will not; or a *warning*, where an
operator should act. The functions take the STREAM.INFO of a stream, and return its problems.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sealbus.protocol.streams import ACCEPTED, INGRESS, LIVE, QUARANTINE, RECORDS
from sealbus_broker.gate.policy import Limits
from sealbus_broker.nats.streams import LEDGERS, RECORDS_AGE_S, Partition

FULL_AT: Final = 0.8
"""The share from which on a stream's fill is a warning."""

FULL: Final = {
    INGRESS: ("nothing more is accepted", "raise ingress_bytes in policy.yaml"),
    ACCEPTED: (
        "nothing more is accepted",
        "raise accepted_bytes in policy.yaml, or lower retention",
    ),
    LIVE: ("no live message is accepted", "raise live_bytes in policy.yaml"),
    QUARANTINE: ("the oldest records are deleted", "raise quarantine_bytes in policy.yaml"),
    RECORDS: (
        "nobody can join, or log in with a token",
        (
            f"a record is deleted {RECORDS_AGE_S // 3600} h after its login. The log shows the bots"
            " that log in with tokens (token.exchanged). They do it less often if you raise"
            " session_key in policy.yaml"
        ),
    ),
}
"""The consequence of a full stream, and the step that helps. The streams that are not here may be
full. HEALTH and PROGRESS only forget their oldest marks and notes then, and KEYRING has one
message."""

ROOM_BYTES: Final = 4096
"""A ledger stream with less room is red. An ordinary message of 1 KiB does not fit twice, with its
stamp, seals and index. So an idle bus says so before a message is lost."""

RESTART: Final = (
    "look into nats-server's log and at its disk. A stream that met a full disk stores nothing"
    " until nats-server is restarted: free space first, then restart it"
)

NO_LEADER: Final = (
    "if a node was lost just now, an election takes some seconds. More than half of the nodes that"
    " keep it have to run. LIVE is in memory, and also waits for a node that has its content. After"
    " 30 s a relay makes it again. Between two stops, wait until `sealbus ping` is ok"
)

NO_CONSUMER: Final = (
    "look into nats-server's log, and start the relay again: it makes a consumer that is missing"
)

NO_CONSUMER_LEADER: Final = (
    "start the nodes that are away. If all run, look into their logs, and restart one after the"
    " other, first the one that leads INGRESS. Between two stops, wait until `sealbus ping` has no"
    " other problem"
)

SILENT_S: Final = 10.0
"""A node of which the leader of a stream has heard nothing for so long is away. Leaders write to
each replica at least once a second."""


class Level(StrEnum):
    """How bad a problem, or the health, is."""

    OK = "ok"
    WARNING = "warning"
    RED = "red"


@dataclass(frozen=True, slots=True)
class BusProblem:
    """One problem of the bus."""

    level: Level
    about: str
    """Its subject: by it a problem is known to be the same as before."""
    what: str
    """A sentence that names it."""
    hint: str
    """The step that helps."""


def worst(problems: Iterable[BusProblem]) -> Level:
    """Return the worst level of all problems."""
    levels = {problem.level for problem in problems}
    return next((level for level in (Level.RED, Level.WARNING) if level in levels), Level.OK)


def no_problems(_: Limits) -> tuple[BusProblem, ...]:
    """Return none: whoever runs the relay knows of no other problem."""
    return ()


def unheard(name: str, *, is_cluster: bool) -> BusProblem:
    """Return the problem of a stream of which JetStream says nothing."""
    hint = NO_LEADER if is_cluster else RESTART
    return BusProblem(Level.RED, name, f"JetStream says nothing of the stream {name}", hint)


def unheard_partition(partition: Partition, for_s: float, *, is_cluster: bool) -> BusProblem:
    """Return the problem of a partition of which JetStream says nothing, for ``for_s`` seconds."""
    about = f"partition {partition}"
    what = (
        f"JetStream says nothing of {about} for {for_s:.0f} s, so no message in it is judged"
        f" (consumer {partition.consumer} of INGRESS)"
    )
    hint = NO_CONSUMER_LEADER if is_cluster else NO_CONSUMER
    return BusProblem(Level.RED, about, what, hint)


def behind(info: dict[str, Any]) -> frozenset[str]:
    """Return the nodes that run and do not have everything of a stream, from its STREAM.INFO."""
    # "current" alone is no sign: it is false for a moment on an idle stream too.
    return frozenset(
        str(one["name"])
        for one in (info.get("cluster") or {}).get("replicas") or []
        if not one.get("offline")
        and not one.get("current")
        and (one.get("lag") or one.get("active", 0) > SILENT_S * 1e9)
    )


def replica_problem(name: str, info: dict[str, Any], late: frozenset[str]) -> list[BusProblem]:
    """Return the problem of a stream's replicas, from its STREAM.INFO. One server has none.

    The loss of one node more may then leave the stream without a leader.

    Args:
        name: The stream.
        info: Its STREAM.INFO.
        late: The nodes that have been behind for a while.
    """
    replicas = info["config"].get("num_replicas", 1)
    if replicas == 1:
        return []
    cluster = info.get("cluster") or {}
    if not cluster.get("leader"):
        return [BusProblem(Level.RED, name, f"{name} has no leader: it stores nothing", NO_LEADER)]
    others = cluster.get("replicas") or []
    away = [str(one["name"]) for one in others if one.get("offline")]
    missing = replicas - 1 - len(others)
    parts = [f"away at {', '.join(sorted(away))}"] if away else []
    parts += [f"behind at {', '.join(sorted(late))}"] if late else []
    parts += [f"{missing} without a node"] if missing > 0 else []
    if not parts:
        return []
    what = f"{name} does not have all its replicas: {'; '.join(parts)}"
    hint = (
        "start each node that is away, or look into its log; a replica without a node needs one"
        " more node; stop no node before this is over"
    )
    return [BusProblem(Level.WARNING, f"{name} replicas", what, hint)]


def fill_problem(name: str, info: dict[str, Any]) -> list[BusProblem]:
    """Return the problem of a stream that is nearly full.

    Args:
        name: The stream.
        info: Its STREAM.INFO.
    """
    filled = fill(info)
    if filled < FULL_AT or name not in FULL:
        return []
    then, hint = FULL[name]
    # INGRESS is never red for it: judging empties it, and the probe tells when it stores nothing.
    if name in LEDGERS and room_bytes(info) < ROOM_BYTES:
        return [BusProblem(Level.RED, name, f"{name} is full: {then}", hint)]
    what = f"{name} is {filled:.0%} full; at 100 %, {then}"
    return [BusProblem(Level.WARNING, name, what, hint)]


def fill(info: dict[str, Any]) -> float:
    """Return the share of its limit that a stream holds, from its STREAM.INFO."""
    limit = info["config"]["max_bytes"]
    share: float = info["state"]["bytes"] / limit if limit > 0 else 0.0
    return share


def room_bytes(info: dict[str, Any]) -> int:
    """Return how many bytes a stream with a limit still takes, from its STREAM.INFO."""
    room: int = info["config"]["max_bytes"] - info["state"]["bytes"]
    return room
