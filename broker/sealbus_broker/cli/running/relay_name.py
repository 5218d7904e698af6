"""The name of a relay that was given none: that of its machine, with a number where it has several.

Stamps, logs and ``sealbus ping --relay`` name a relay, and HEALTH keeps a note below its name about
the sessions that obey (:mod:`sealbus_broker.relay.following.folder`). So each relay needs a name
of its own, and one that is the same after a restart: under a new name it would have all sessions
renewed.

The first relay of a bus on a machine is ``HOST``, the next ``HOST-2``, and so on. A process holds
its number as the name of an abstract Unix socket, which the kernel frees when the process ends,
however it ends. It is in no folder, because a relay may be unable to write any. Another user of the
machine may take numbers, and changes nothing but names by that. A system without such sockets
(macOS), or a service that may make none, has the number of the process instead, and a warning.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
from typing import Final

from sealbus.protocol.limits import MAX_NAME_CHARS
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

MOST_HELD: Final = 64
"""How many relays of a bus on one machine have a short number. A bus has no more partitions."""

_SUFFIX_CHARS: Final = 8
"""Room for a hyphen and the number of a process, which has up to seven digits."""

_HOST_CHARS: Final = MAX_NAME_CHARS - _SUFFIX_CHARS

_HASH_CHARS: Final = 8
"""How much of a hash stands for the rest of a long host name."""


HINT: Final = (
    "give the relay a name of its own with --name; or, if systemd has RestrictAddressFamilies= for"
    " it, add AF_UNIX there"
)


class OwnName:
    """A name that no other relay of this bus on this machine has while the object lives."""

    def __init__(self, bus: str, host: str) -> None:
        """Take a name. Log a warning if it cannot be the same after a restart.

        Args:
            bus: The name of the bus. Relays of another bus have their own numbers.
            host: The name of the machine.
        """
        base = host_part(host)
        self._socket: socket.socket | None = None
        """Holds the name. ``None``: the number of the process is in the name."""
        for number in range(1, MOST_HELD + 1):
            self.text = base if number == 1 else f"{base}-{number}"
            self._socket = _hold(f"relay {bus} {self.text}")
            if self._socket is not None:
                return
        self.text = f"{base}-{os.getpid()}"
        what = (
            f"this relay is named {self.text} and gets another name at its next start, because no"
            " abstract Unix socket holds its name; each start renews the sessions of all bots"
        )
        log.warning("name.not-held", text=f"warning: {what}\nhint: {HINT}", what=what, hint=HINT)

    def close(self) -> None:
        """Give the name back."""
        if self._socket is not None:
            self._socket.close()


def host_part(host: str) -> str:
    """Return the name of a machine as the beginning of a relay's name."""
    name = re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-") or "relay"
    if len(name) <= _HOST_CHARS:
        return name
    digest = hashlib.sha256(host.encode()).hexdigest()[:_HASH_CHARS]
    return f"{name[: _HOST_CHARS - _HASH_CHARS - 1].rstrip('-')}-{digest}"


def _hold(what: str) -> socket.socket | None:
    """Return a socket that holds the name ``what`` on this machine. ``None``: it is taken, or
    cannot be held."""
    if sys.platform != "linux":
        return None
    held = None
    try:
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # The address has room for 107 bytes.
        held.bind(f"\0sealbus-{hashlib.sha256(what.encode()).hexdigest()}")
    except OSError:
        if held is not None:
            held.close()
        return None
    return held
