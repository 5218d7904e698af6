"""The director and its processes exchange JSON objects, one a line.

Cues are on stdin, and answers on stdout.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

MAX_LINE: int = 8 * 1024 * 1024


def tell(event: str, **facts: Any) -> None:
    """Send the director one line."""
    print(json.dumps({"event": event, **facts}), flush=True)


async def cues() -> AsyncIterator[dict[str, Any]]:
    """The director's cues, until the director is gone.

    So a process whose director died ends too.
    """
    reader = asyncio.StreamReader(limit=MAX_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield json.loads(line)
