"""Streams as files: taken from one NATS, and given to another.

JetStream sends a stream as an archive in chunks, consumers included, and takes one in the same way.
A folder has this for each stream, as the ``nats`` command line writes it too:

========================== =========================================================================
``STREAM/backup.json``     the stream's configuration and state
``STREAM/stream.tar.s2``   the archive
========================== =========================================================================

LIVE is in memory, and JetStream archives no such stream. A bus that comes back makes it anew, as
after a restart of nats-server.

INGRESS is taken first. A message that is judged meanwhile is then in both INGRESS and ACCEPTED, and
the ledger recognises it. In another order it could be in neither.

A ledger that comes back from a file has forgotten the messages that were accepted since. So
:func:`restore` writes into its metadata that it is complete only from now on
(:data:`~sealbus_broker.nats.provision.COMPLETE_SINCE`), and relays refuse older nonces.

A mirror at a second site may have messages that came after the backup. So :func:`restore` ends its
feeding, and `sealbus mirror start` compares the sites before it begins it again.

When the connection is lost, a call fails. A folder that was not finished is not used: the files
get their names at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import IO, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import ACCEPTED, INGRESS, LIVE
from sealbus.supervision import kind
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.connections import list_sessions
from sealbus_broker.nats.jetstream import Json, ask, ask_well, is_missing, refused
from sealbus_broker.nats.provision import COMPLETE_SINCE, NODES_S, with_replicas
from sealbus_broker.nats.sites import MIRROR
from sealbus_broker.nats.streams import STREAMS

log = get_logger(__name__)

ON_DISK: Final = (INGRESS, *(name for name in STREAMS if name not in (INGRESS, LIVE)))
"""The streams that are archived, in that order."""

CHUNK_BYTES: Final = 256 * 1024
"""The size of a chunk: a quarter of the largest NATS message."""

CHUNK_S: Final = 30.0
"""How long JetStream may take for the next chunk. It reads and packs a block of the stream."""

TAKE_S: Final = 6.0
"""How long JetStream may take one chunk. It gives up after 5 s without one (2.15.1)."""

TAKE_ATTEMPTS: Final = 3
"""How often a stream is begun anew."""

FACTS: Final = "backup.json"
ARCHIVE: Final = "stream.tar.s2"


async def save(nc: HardenedClient, folder: Path, told: Callable[[str, int], None]) -> None:
    """Write each stream on disk into ``folder``, which must not have one yet.

    Args:
        nc: A connection that is logged in as the relay.
        folder: Exists, or is made.
        told: Is called with a stream and its number of messages, once it is written.

    Raises:
        StreamsUnusable: A stream is missing, or JetStream does not send it whole.
        OSError: A file cannot be written.
    """
    for stream in ON_DISK:
        target = folder / stream
        target.mkdir(mode=0o700, parents=True)
        told(stream, await _save(nc, stream, target))


async def _save(nc: HardenedClient, stream: str, folder: Path) -> int:
    inbox = nc.new_inbox()
    chunks = await nc.subscribe(inbox)
    archive = folder / ARCHIVE
    part = archive.with_suffix(".part")
    what = f"stream {stream} cannot be saved"
    try:
        body = {"deliver_subject": inbox, "no_consumers": False, "chunk_size": CHUNK_BYTES}
        facts = await ask_well(nc, f"STREAM.SNAPSHOT.{stream}", body, CHUNK_S, what)
        with _private(part) as file:
            while (chunk := await _next(chunks.next_msg(CHUNK_S), what)).data:
                file.write(chunk.data)
                # JetStream waits for an answer to some of them, so that no chunk is dropped.
                if chunk.reply:
                    await nc.publish(chunk.reply, b"")
            # The last message is empty. It has a status where JetStream gave up.
            status = (chunk.headers or {}).get("Status", "204")
            if status != "204":
                raise StreamsUnusable(
                    f"{what}: JetStream ended the archive with status {status}",
                    hint="look into nats-server's log, and try again",
                )
            file.flush()
            os.fsync(file.fileno())
    finally:
        await chunks.unsubscribe()
    with _private(folder / FACTS) as file:
        kept = {"config": facts["config"], "state": facts["state"]}
        file.write(json.dumps(kept, indent=2).encode())
    part.replace(archive)
    return int(facts["state"]["messages"])


async def _next(waiting: Awaitable[Msg], what: str) -> Msg:
    try:
        return await waiting
    except (NatsError, TimeoutError) as error:
        raise StreamsUnusable(
            f"{what}: the archive ended early ({type(error).__name__})",
            hint="look into nats-server's log, and try again",
        ) from None


async def restore(
    nc: HardenedClient,
    folder: Path,
    *,
    replicas: int,
    told: Callable[[str, int], None],
) -> None:
    """Give NATS the streams of ``folder``. It must have none of them.

    Args:
        nc: A connection that is logged in as the relay.
        folder: As :func:`save` writes it.
        replicas: On how many nodes each stream is to be. There are fewer where nodes are missing,
            also after a wait of some seconds.
        told: Is called with a stream and its number of messages, once it is restored.

    Raises:
        StreamsUnusable: A stream exists, a file is not whole, or JetStream refuses one.
        OSError: A file cannot be read.
    """
    for stream in STREAMS:
        info = await ask(nc, f"STREAM.INFO.{stream}", None, CHUNK_S)
        if not is_missing(info):
            if "error" in info:
                raise refused(f"stream {stream} cannot be looked at", info["error"])
            raise StreamsUnusable(
                f"this NATS has a stream {stream} already, and it is not overwritten",
                hint="stop the relays, and start nats-server with an empty store",
            )
    # Before anything is restored.
    known = {stream: _facts(folder / stream, stream) for stream in ON_DISK}
    # A server that stands alone would refuse more, and only after the whole archive (2.15.1).
    given = replicas if nc.cluster else 1
    config = known[ACCEPTED]["config"]
    since = {COMPLETE_SINCE: str(await _server_time_ms(nc))}
    config["metadata"] = (config.get("metadata") or {}) | since
    nodes_by = asyncio.get_running_loop().time() + NODES_S
    for stream, facts in known.items():
        await _restore(nc, stream, facts, folder / stream / ARCHIVE, given, nodes_by)
        told(stream, int(facts["state"]["messages"]))
    await _stop_the_mirror(nc)


async def _stop_the_mirror(nc: HardenedClient) -> None:
    """Remove the consumer that feeds a mirror. The mirror may have messages that came after the
    backup, and would not notice the new ones in their places (:mod:`sealbus_broker.nats.mirror`).
    """
    gone = await ask(nc, f"CONSUMER.DELETE.{ACCEPTED}.{MIRROR}", None, CHUNK_S)
    if "error" in gone and not is_missing(gone):
        raise refused(f"the consumer {MIRROR} of {ACCEPTED} cannot be removed", gone["error"])


async def _server_time_ms(nc: HardenedClient) -> int:
    """Return the time of nats-server, which dates what streams store. The clock of an operator's
    machine may be behind, and then old nonces would pass."""
    try:
        listing = await list_sessions(nc, looks_for_missing=False)
    except (NatsError, OSError) as error:
        raise StreamsUnusable(
            f"nats-server does not tell its time ({type(error).__name__})",
            hint="look into nats-server's log, and begin again with an empty store",
        ) from None
    return max(node.at_us for node in listing.nodes.values()) // 1000


def _facts(folder: Path, stream: str) -> Json:
    """Return the description of a saved ``stream``. Raises :class:`StreamsUnusable` where a file is
    missing, or is not this stream's."""
    path = folder / FACTS
    for one in (path, folder / ARCHIVE):
        if not one.is_file():
            raise StreamsUnusable(
                f"{one} is missing", hint="use a whole folder that `sealbus backup` has written"
            )
    other = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
    with contextlib.suppress(*other):
        facts: Json = json.loads(path.read_bytes())
        config, state = facts["config"], facts["state"]
        numbers = state["messages"], state["last_seq"]
        is_one = config["name"] == stream and all(isinstance(one, int) for one in numbers)
        if is_one and isinstance(config.get("metadata") or {}, dict):
            return facts
    raise StreamsUnusable(
        f"{path} is not the description of the saved stream {stream}",
        hint="use a folder that `sealbus backup` has written",
    )


async def _restore(
    nc: HardenedClient, stream: str, facts: Json, archive: Path, replicas: int, nodes_by: float
) -> None:
    # nats-server adds these to a configuration, and refuses them in a new one.
    metadata = {
        key: value
        for key, value in (facts["config"].get("metadata") or {}).items()
        if not key.startswith("_nats.")
    }
    config = facts["config"] | {"metadata": metadata, "num_replicas": replicas}
    said = "it does not answer"
    for attempt in range(1, TAKE_ATTEMPTS + 1):
        try:
            return await _give(nc, stream, config, facts["state"], archive, nodes_by)
        except (NatsError, _Spoilt) as error:
            log.warning("stream.not-restored", stream=stream, attempt=attempt, because=kind(error))
            if isinstance(error, _Spoilt):
                said = str(error)
        # A stream that is there now came from this attempt: there was none before.
        await ask(nc, f"STREAM.DELETE.{stream}", None, CHUNK_S)
    raise StreamsUnusable(
        f"stream {stream} cannot be restored: JetStream does not take the archive: {said}",
        hint="look into nats-server's log, and begin again with an empty store",
    )


async def _give(
    nc: HardenedClient, stream: str, config: Json, state: Json, archive: Path, nodes_by: float
) -> None:
    """Make one attempt. Raises the errors of nats-py where a chunk is not answered, and
    :class:`_Spoilt`."""
    what = f"stream {stream} cannot be restored"
    begun: Json = {}

    async def begin(asked: Json) -> None:
        body = {"config": asked, "state": state}
        begun.update(await ask_well(nc, f"STREAM.RESTORE.{stream}", body, CHUNK_S, what))

    await with_replicas(config, 1, begin, nodes_by)
    take = partial(_take, nc, begun["deliver_subject"])
    with archive.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            await take(chunk, TAKE_S)
    # After an empty one, JetStream reads the archive and makes the stream.
    made = (await take(b"", CHUNK_S)).get("state")
    # JetStream takes the archive of another stream too. Messages may be too old by now, so only the
    # last sequence tells.
    if made is not None and made["last_seq"] != state["last_seq"]:
        raise StreamsUnusable(
            f"{archive} has messages up to {made['last_seq']}; expected {state['last_seq']}, as"
            f" {FACTS} says",
            hint="begin again with an empty store, and a folder that `sealbus backup` has written",
        )


async def _take(nc: HardenedClient, subject: str, chunk: bytes, wait_s: float) -> Json:
    """Give one chunk; return the answer, which describes the stream after the last one."""
    answer = await nc.request(subject, chunk, wait_s)
    told: Json = json.loads(answer.data) if answer.data else {}
    if "error" in told:
        raise _Spoilt(told["error"].get("description", ""))
    return told


class _Spoilt(Exception):
    """JetStream cannot use the archive as it came."""


def _private(path: Path) -> IO[bytes]:
    """Make a file that only its owner reads, because messages are in it."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
