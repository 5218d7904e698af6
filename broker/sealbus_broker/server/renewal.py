"""Renewed certificates of an embedded nats-server: seen in their files, and loaded without a
restart.

nats-server reads its certificates at its start and at SIGHUP alone. The connections that it has
then keep the old certificate, and new ones get the new one. It also asks a relay again for each
session, which stays as it is (ADR 39).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sealbus.nats.tls_files import TlsFiles, UnusableTls
from sealbus.supervision import pause
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.config import ServerTls

log = get_logger(__name__)

LOOK_S: Final = 1.0
"""The pause between two looks at the files. Three of stat() cost some microseconds, and an operator
who renews a certificate sees the effect at once."""


async def follow(
    tls: ServerTls,
    reload: Callable[[], bool],
    stopping: asyncio.Event,
    *,
    may_reload: Callable[[], bool],
) -> None:
    """Have the server read its certificates again whenever they change. Return at ``stopping``.

    Files that cannot be used, such as a certificate whose key is written a moment later, are
    reported once, and looked at again when they change. Files that are good wait for a relay.

    Args:
        tls: The files, as the server has read them before this call.
        reload: Tells the server, and returns whether it runs. A server that does not will read the
            files at its start.
        stopping: The end.
        may_reload: Whether a relay answers logins. At a reload, nats-server asks again for each
            session. It waits two seconds for each answer, and ends the session if there is none.
    """
    loaded = seen = _signature(tls)
    waits = False
    while not stopping.is_set():
        await pause(LOOK_S, until=stopping)
        now = _signature(tls)
        # Not at the first sight of a change: whoever writes several files is done a second later.
        is_settled, seen = now == seen, now
        if now == loaded or not is_settled:
            continue
        if not may_reload():
            if not waits:
                log.warning("certificates.waiting", because="no relay answers logins")
            waits = True
            continue
        loaded, waits = now, False
        try:
            TlsFiles(tls.ca, tls.cert, tls.key).context()
        except UnusableTls as error:
            log.warning("certificates.unusable", error=error.what, hint=error.hint)
            continue
        if reload():
            log.info("certificates.renewed", certificate=str(tls.cert))


def _signature(tls: ServerTls) -> tuple[tuple[int, int, int] | None, ...]:
    """Return what changes when a file is replaced or written."""
    return tuple(_of(path) for path in (tls.ca, tls.cert, tls.key))


def _of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
