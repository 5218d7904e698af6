"""The transcript in the protocol document equals a real session."""

from __future__ import annotations

from pathlib import Path

from tests.docs.transcript import session, written


async def test_transcript_equals_a_real_session(tmp_path: Path) -> None:
    assert await session(tmp_path / "shop") == written(), (
        "check the change, then run `python -m tests.docs.transcript`"
    )
