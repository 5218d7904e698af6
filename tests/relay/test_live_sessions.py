"""The sessions that are old by the list of nats-server, and the words to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.nats.parser import MAX_MESSAGE_BYTES
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.notice import Ended
from sealbus_broker.door.deciding import CLIENT_CHARS
from sealbus_broker.nats.config import kick_subject, renew_subject
from sealbus_broker.nats.connections import OVERLAP, PAGE
from sealbus_broker.policy.succession import Loss, Succession
from sealbus_broker.relay.following import live_sessions
from sealbus_broker.relay.following.live_sessions import LiveSessions

EARLY = "2026-11-27T08:00:00Z"
NOW = "2026-11-27T08:00:00.0001Z"
SOON = "2026-11-27T08:00:00.000101234Z"
"""A microsecond after NOW."""
LATER = "2026-11-27T08:00:03Z"
"""The time of all lists but the first."""
MEANWHILE = "2026-11-27T08:00:03.001Z"
"""A millisecond after LATER."""
TAKES_S = 0.02
"""How long a list takes."""


def row(number: int, bot: str, start: str = EARLY) -> dict[str, Any]:
    return {"cid": number, "name": bot, "start": start}


class Server:
    """Answers with one list after the other. The last one stays."""

    cluster = ""
    server_name = "sealbus"

    def __init__(self, *lists: Sequence[dict[str, Any]] | None) -> None:
        self._lists = list(lists)
        self._now = NOW
        self.told: list[tuple[str, int]] = []
        """Each order of nats-server, and the number of its connection."""

    async def request(self, _: str, data: bytes, __: float, /) -> SimpleNamespace:
        asked = json.loads(data)
        rows = self._lists[0]
        if asked["offset"] == 0 and len(self._lists) > 1:
            self._lists.pop(0)
        begin = asked["offset"]
        page = None if rows is None else rows[begin : begin + asked["limit"]]
        answer = {"data": {"server_id": "SERVER", "now": self._now, "connections": page}}
        if page is None or len(page) < asked["limit"]:
            self._now = LATER
        return SimpleNamespace(data=json.dumps(answer).encode())

    def write(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            head, body = frame.split(b"\r\n")[:2]
            subject = head.split()[1].decode()
            if subject.startswith("$SYS"):
                self.told.append((subject, json.loads(body)["cid"]))

    def sessions(self) -> LiveSessions:
        key = SigningKey.generate(KeyKind.BUS)
        nc = cast(HardenedClient, self)
        return LiveSessions(nc=nc, key=key, bus="shop", now_ms=lambda: 0)


KICK, RENEW = kick_subject("SERVER"), renew_subject("SERVER")


def succession(*, ended: str = "", narrow: str = "", wide: str = "") -> Succession:
    sets = [frozenset(names.split()) for names in (ended, narrow, wide)]
    return Succession(sets[0], sets[1], sets[2], MappingProxyType({}))


ENROLLED, ITS_SESSION = (SigningKey.generate(KeyKind.BOT).public for _ in range(2))
FROM_MS = 1_000_000
"""The session keys that are certified earlier are void."""


def certified(number: int, begin_ms: int) -> dict[str, Any]:
    """A session of the bot ``a`` whose session key is certified from ``begin_ms`` on."""
    return row(number, f"a {ENROLLED.text} {ITS_SESSION.text} {begin_ms} 3600000")


def voiding(*, narrow: str = "") -> Succession:
    """Session keys of ``a`` are void. With ``narrow`` it loses grants too."""
    losses = {"a": (Loss(Ended.CERTIFICATES_VOID, ENROLLED.raw, FROM_MS),)}
    both = frozenset(narrow), frozenset() if narrow else frozenset("a")
    return Succession(frozenset(), both[0], frozenset(), MappingProxyType(losses), both[1])


async def test_each_row_gets_its_order() -> None:
    rows = [row(1, "a"), row(2, "b"), row(3, "c"), row(4, "d"), row(5, "b")]
    server = Server(rows, [row(3, "c"), row(4, "d")])
    await server.sessions().obey(succession(ended="a", narrow="b", wide="c"))
    assert server.told == [(KICK, 1), (RENEW, 2), (RENEW, 5), (RENEW, 3)]


async def test_session_of_the_next_microsecond_is_not_old() -> None:
    """A bot that is asked to move connects again within a millisecond."""
    server = Server([row(1, "b", NOW)], [row(2, "b", SOON)])
    until = await server.sessions().obey(succession(narrow="b"))
    assert server.told == [(RENEW, 1)]
    await server.sessions().sweep([(succession(narrow="b"), until)], {"b"})
    assert server.told == [(RENEW, 1)]


async def test_session_from_the_future_is_old() -> None:
    """The server's clock was set back."""
    server = Server([row(1, "a", "2026-11-27T09:00:00Z")], [])
    await server.sessions().obey(succession(ended="a"))
    assert server.told == [(KICK, 1)]


async def test_session_that_begins_while_a_list_is_made_is_not_old() -> None:
    """nats-server dates a list when it begins to make it. A bot whose session has ended comes back
    at once, and then its new session may be in the list."""
    server = Server([row(1, "a")], [row(2, "a", MEANWHILE)], [])
    request = server.request

    async def slow(subject: str, data: bytes, within_s: float, /) -> SimpleNamespace:
        answer = await request(subject, data, within_s)
        await asyncio.sleep(TAKES_S)
        return answer

    server.request = slow  # type: ignore[method-assign]
    await server.sessions().obey(succession(ended="a"))
    assert server.told == [(KICK, 1)]


async def test_ended_session_is_cut_off_until_it_is_gone() -> None:
    server = Server([row(1, "a")], [row(1, "a")], [])
    await server.sessions().obey(succession(ended="a"))
    assert server.told == [(KICK, 1), (KICK, 1)]


async def test_session_that_does_not_move_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_sessions, "GRACE_S", 0)
    server = Server([row(1, "b"), row(2, "c")])
    await server.sessions().obey(succession(narrow="b", wide="c"))
    assert server.told == [(RENEW, 1), (RENEW, 2), (KICK, 1)]


async def test_login_that_was_under_way_is_asked_to_move_as_well() -> None:
    """A bot was renewing its session by itself. It leaves the one that was asked for the other."""
    first, second = row(1, "b"), row(2, "b", NOW)
    server = Server([first], [first, second], [second], [])
    sessions = server.sessions()
    await sessions.obey(succession(narrow="b"))
    assert server.told == [(RENEW, 1), (RENEW, 2)]
    assert (sessions.ended, sessions.renewed) == (0, 2)


async def test_sweep_ends_logins_that_were_under_way() -> None:
    late = [row(1, "a"), row(2, "b"), row(3, "c"), row(4, "a", SOON)]
    server = Server([], [], late)
    concerned = succession(ended="a", narrow="b", wide="c")
    until = await server.sessions().obey(concerned)
    assert server.told == []
    await server.sessions().sweep([(concerned, until)], {"b", "c"})
    assert server.told == [(KICK, 1), (KICK, 2)]


async def test_void_session_key_ends_its_session_and_no_other() -> None:
    """A bot whose messages are refused makes a new session key at once, and its session begins
    before the list."""
    rows = [certified(1, FROM_MS - 1), certified(2, FROM_MS), row(3, f"a {ENROLLED.text}")]
    sessions = Server(rows, rows[1:2])
    until = await sessions.sessions().obey(voiding())
    assert sessions.told == [(KICK, 1), (KICK, 3)]
    late = Server([certified(4, FROM_MS), certified(5, FROM_MS - 1)])
    await late.sessions().sweep([(voiding(), until)], {"a"})
    assert late.told == [(KICK, 5)]


async def test_newer_session_key_moves_where_grants_are_lost_too() -> None:
    rows = [certified(1, FROM_MS - 1), certified(2, FROM_MS)]
    server = Server(rows, [])
    await server.sessions().obey(voiding(narrow="a"))
    assert server.told == [(KICK, 1), (RENEW, 2)]


async def test_all_pages_are_read() -> None:
    count = 3 * PAGE
    rows = [row(number, f"bot-{number}") for number in range(count)]
    bots = await Server(rows).sessions().bots()
    assert len(bots) == count


async def test_page_that_moved_forward_loses_no_session() -> None:
    """Sessions end between two questions, so the rest moves to the front of the list."""
    rows = [row(number, f"bot-{number}") for number in range(PAGE + OVERLAP)]
    server = Server(rows)
    request = server.request

    async def shrinking(subject: str, data: bytes, within_s: float, /) -> SimpleNamespace:
        answer = await request(subject, data, within_s)
        del rows[:OVERLAP]
        return answer

    server.request = shrinking  # type: ignore[method-assign]
    assert len(await server.sessions().bots()) == PAGE + OVERLAP


async def test_bus_without_sessions_has_none() -> None:
    assert await Server(None).sessions().bots() == frozenset()


async def test_session_without_a_name_is_nobody_s() -> None:
    """nats-server leaves out an empty name. A client may send one in a second CONNECT."""
    rows = [{"cid": 1, "start": EARLY}, row(2, "order")]
    assert await Server(rows).sessions().bots() == {"", "order"}


@pytest.mark.parametrize(
    "rows",
    [
        [{"cid": 1, "name": "a"}],
        [{"cid": 1, "name": "a", "start": "yesterday"}],
        [{"cid": "x", "name": "a", "start": EARLY}],
        [None],
    ],
)
async def test_strange_list_is_an_error_of_nats(rows: Any) -> None:
    with pytest.raises(NatsError, match="does not say who is connected"):
        await Server(rows).sessions().bots()


def test_largest_page_fits_into_an_answer() -> None:
    """A client chooses its language and version, and JSON writes some characters as six bytes."""
    chosen_bytes, other_bytes = 2 * 6 * CLIENT_CHARS, 1024
    assert PAGE * (chosen_bytes + other_bytes) < MAX_MESSAGE_BYTES
