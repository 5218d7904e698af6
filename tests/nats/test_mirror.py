"""The mirror at a second site, where JetStream answers with an error."""

from __future__ import annotations

from typing import Any

import pytest
from nats.aio.client import Client

from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.nats import jetstream, mirror
from tests.gate.world import POLICY

AWAY = {"error": {"code": 503, "err_code": 10008, "description": "temporarily unavailable"}}
OWN = {"config": {"name": "ACCEPTED"}}
MISSING = {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ([AWAY], "the ACCEPTED of the bus cannot be read"),
        ([OWN, AWAY], "the second site's ACCEPTED cannot be read"),
        ([OWN, MISSING, AWAY], "the consumer mirror of ACCEPTED cannot be read"),
    ],
)
async def test_error_is_not_taken_for_another_stream(
    monkeypatch: pytest.MonkeyPatch, answers: list[dict[str, Any]], what: str
) -> None:
    """No server gives this error on demand: it is that of an election."""
    left = iter(answers)

    async def ask(*_: object) -> dict[str, Any]:
        return next(left)

    # `ask_well` of the same module, and this module's own `ask`.
    monkeypatch.setattr(jetstream, "ask", ask)
    monkeypatch.setattr(mirror, "ask", ask)
    with pytest.raises(StreamsUnusable, match=f"{what}: temporarily unavailable"):
        await mirror.begin(Client(), Client(), POLICY)
