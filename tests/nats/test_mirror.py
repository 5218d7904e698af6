"""The mirror at a second site, where JetStream answers with an error, and where its last message
may be another one than at the first site."""

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


DAY_NS = 86_400 * 10**9
NOW = "2026-11-24T12:00:00.123456789Z"
YOUNG = {"seq": 7, "time": "2026-11-24T11:00:00.123456789Z", "data": "eA=="}
OLD = YOUNG | {"time": "2026-11-23T12:00:05.123456789Z"}


@pytest.mark.parametrize(
    ("first_last", "original", "last", "copy", "differs"),
    [
        (9, YOUNG, 0, None, False),
        (6, None, 7, YOUNG, True),
        (7, YOUNG, 7, YOUNG, False),
        (9, YOUNG, 7, YOUNG, False),
        (9, YOUNG, 7, OLD, True),
        (9, YOUNG, 7, YOUNG | {"data": "eQ=="}, True),
        # The first site has dropped it by its age.
        (9, None, 7, OLD, False),
        # The mirror has dropped it by its age, or has never had it.
        (9, OLD, 7, None, False),
        (9, YOUNG, 7, None, True),
    ],
)
async def test_mirror_is_compared_by_its_last_message(
    monkeypatch: pytest.MonkeyPatch,
    first_last: int,
    original: dict[str, Any] | None,
    last: int,
    copy: dict[str, Any] | None,
    differs: bool,
) -> None:
    first, second = Client(), Client()
    messages = {first: original, second: copy}
    lasts = {first: first_last, second: last}

    async def ask(nc: Client, call: str, body: dict[str, Any] | None, _: float) -> dict[str, Any]:
        if call == "STREAM.MSG.GET.ACCEPTED":
            assert body == {"seq": 7}
            message = messages[nc]
            return {"error": {"code": 404}} if message is None else {"message": message}
        config = {"mirror": {} if nc is first else {"name": "ACCEPTED"}, "max_age": DAY_NS}
        return {"ts": NOW, "config": config, "state": {"last_seq": lasts[nc]}}

    monkeypatch.setattr(jetstream, "ask", ask)
    monkeypatch.setattr(mirror, "ask", ask)
    assert await mirror.has_another_history(first, second) is differs
