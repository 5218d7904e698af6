"""The start of processes of our own."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sealbus_broker import children
from sealbus_broker.children import start_child

Refusing = Callable[[int, int], list[int]]


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    """Has the system refuse the first ``times`` starts. Returns a list of the refused ones."""
    start = asyncio.create_subprocess_exec
    monkeypatch.setattr(children, "BIRTH_PAUSE_S", 0.0)

    def refuse(times: int, error: int) -> list[int]:
        refused: list[int] = []

        async def starting(*command: str, **options: Any) -> asyncio.subprocess.Process:
            if len(refused) < times:
                refused.append(error)
                raise OSError(error, "refused")
            return await start(*command, **options)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", starting)
        return refused

    return refuse


@pytest.mark.parametrize("error", [errno.EPIPE, errno.EAGAIN, errno.ENOMEM])
async def test_process_that_dies_at_its_birth_is_started_again(
    refusing: Refusing, error: int
) -> None:
    refused = refusing(children.BIRTHS - 1, error)
    process = await start_child(sys.executable, "-c", "raise SystemExit(7)")
    assert await process.wait() == 7
    assert len(refused) == children.BIRTHS - 1


@pytest.mark.parametrize(
    ("error", "starts"),
    [(errno.EPIPE, children.BIRTHS), (errno.EACCES, 1), (errno.E2BIG, 1)],
)
async def test_process_that_cannot_be_started_is_an_error(
    refusing: Refusing, error: int, starts: int
) -> None:
    refused = refusing(100, error)
    with pytest.raises(OSError, match="refused"):
        await start_child(sys.executable, "-c", "")
    assert len(refused) == starts


async def test_program_that_is_missing_is_an_error_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        await start_child("/nowhere/at/all")
