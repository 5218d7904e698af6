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


Signature = tuple[tuple[int, int, int] | None, ...]
"""What changes when one of the files is replaced or written."""


async def follow(
    tls: ServerTls,
    reload: Callable[[], bool],
    stopping: asyncio.Event,
    *,
    loaded: Signature,
    may_reload: Callable[[], bool],
) -> None:
    """Have the server read its certificates again whenever they change. Return at ``stopping``.

    Files that cannot be used, such as a certificate whose key is written a moment later, are
    reported once, and looked at again when they change. Files that are good wait for a relay, and
    for a server that serves.

    Args:
        tls: The files.
        reload: Tells the server, and returns whether it could. A server that starts may have read
            the files before they changed. So it is told again until it could be told.
        stopping: The end.
        loaded: The signature of the files before the server read them.
        may_reload: Whether a relay answers logins. At a reload, nats-server asks again for each
            session. It waits two seconds for each answer, and ends the session if there is none.
    """
    seen = signature(tls)
    waits = False
    while not stopping.is_set():
        await pause(LOOK_S, until=stopping)
        now = signature(tls)
        # Not at the first sight of a change: whoever writes several files is done a second later.
        is_settled, seen = now == seen, now
        if now == loaded or not is_settled:
            continue
        try:
            TlsFiles(tls.ca, tls.cert, tls.key).context()
        except UnusableTls as error:
            loaded, waits = now, False
            log.warning("certificates.unusable", error=error.what, hint=error.hint)
            continue
        if not may_reload():
            because = "no relay answers logins"
        elif reload():
            loaded, waits = now, False
            log.info("certificates.renewed", certificate=str(tls.cert))
            continue
        else:
            because = "nats-server cannot be told to read them yet"
        if not waits:
            log.warning("certificates.waiting", because=because)
        waits = True


def signature(tls: ServerTls) -> Signature:
    """Return the signature of the files as they are now."""
    return tuple(_of(path) for path in (tls.ca, tls.cert, tls.key))


def _of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
