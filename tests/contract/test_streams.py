"""JetStream's streams store, refuse, answer, republish and forget."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from sealbus.protocol.streams import LIVE
from sealbus.protocol.subjects import GENESIS
from sealbus_broker.errors import StreamsAway
from sealbus_broker.memory.subject_transform import partition
from sealbus_broker.nats.jetstream import ask
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import STREAMS
from sealbus_broker.relay.store.ledger import ledger_state
from tests.contract.ground import Ground, Inbox
from tests.waiting import PATIENCE_S, until


async def state(ground: Ground, stream: str) -> dict[str, Any]:
    """The state of a stream."""
    found: dict[str, Any] = (await ground.done(f"STREAM.INFO.{stream}"))["state"]
    return found


async def direct(ground: Ground, stream: str, **wanted: Any) -> Any:
    """Ask for one stored message."""
    body = json.dumps(wanted).encode()
    return await ground.relay.request(f"$JS.API.DIRECT.GET.{stream}", body, PATIENCE_S)


async def test_provision_may_be_repeated(bus: Ground) -> None:
    await provision(bus.relay, bus.policy)
    for stream in STREAMS:
        assert (await state(bus, stream))["messages"] == 0


@pytest.mark.parametrize("call", ["STREAM.INFO.KEYRING", "CONSUMER.INFO.INGRESS.relay-16-3"])
async def test_provision_waits_for_a_node_that_has_not_heard(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """In a cluster, another node may answer than the one that made the stream or consumer."""
    asked = 0

    async def late(nc: Any, what: str, *more: Any) -> Any:
        nonlocal asked
        asked += what == call
        if what == call and asked < 4:
            return {"error": {"code": 404, "err_code": 10059, "description": "not found"}}
        return await ask(nc, what, *more)

    monkeypatch.setattr("sealbus_broker.nats.provision.ask", late)
    await provision(ground.relay, ground.policy)
    assert asked == 4


async def test_provision_tells_a_start_to_wait_for_a_node(
    bus: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealbus_broker.nats.provision.CREATE_PAUSE_S", 0.0)

    async def never(nc: Any, what: str, *more: Any) -> Any:
        if what == "STREAM.INFO.KEYRING":
            return {"error": {"code": 404, "err_code": 10059, "description": "not found"}}
        return await ask(nc, what, *more)

    monkeypatch.setattr("sealbus_broker.nats.provision.ask", never)
    with pytest.raises(StreamsAway, match="KEYRING was there just now"):
        await provision(bus.relay, bus.policy)


async def test_first_message_that_another_relay_writes_is_waited_for(
    bus: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster, JetStream says so while it replicates the message. An age that is told too
    early would be none."""
    asking = bus.relay.request

    async def busy(subject: str, *more: Any, **options: Any) -> Any:
        if subject.endswith(GENESIS):
            error = {"code": 409, "err_code": 10158, "description": "duplicate message id"}
            return Msg(bus.relay, data=json.dumps({"error": error}).encode())
        return await asking(subject, *more, **options)

    monkeypatch.setattr(bus.relay, "request", busy)
    with pytest.raises(StreamsAway, match="the age of stream LIVE cannot be told"):
        await ledger_state(bus.relay, LIVE)


async def test_limit_follows_the_policy(bus: Ground) -> None:
    bus.limit(live_bytes=4 * 1024 * 1024)
    await provision(bus.relay, bus.policy)
    info = await bus.done("STREAM.INFO.LIVE")
    assert info["config"]["max_bytes"] == 4 * 1024 * 1024


async def test_unknown_stream_is_missing(ground: Ground) -> None:
    error = (await ground.api("STREAM.INFO.NOTHING"))["error"]
    assert (error["code"], error["err_code"]) == (404, 10059)


async def test_stream_of_other_settings_is_refused(ground: Ground) -> None:
    await ground.a_stream("OWN", max_bytes=1000)
    other = {"name": "OWN", "subjects": ["own.>"], "max_bytes": 2000}
    error = (await ground.api("STREAM.CREATE.OWN", other))["error"]
    assert error["err_code"] == 10058


async def test_stream_is_made_once(ground: Ground) -> None:
    await ground.a_stream("OWN", max_bytes=1000)
    await ground.a_stream("OWN", max_bytes=1000)


async def test_subjects_of_two_streams_must_not_overlap(ground: Ground) -> None:
    await ground.a_stream("OWN")
    error = (await ground.api("STREAM.CREATE.TWO", {"name": "TWO", "subjects": ["own.>"]}))["error"]
    assert error["err_code"] == 10065


async def test_stored_message_is_acknowledged(bus: Ground) -> None:
    assert await bus.store("accepted.a") == {"stream": "ACCEPTED", "seq": 1}
    assert await bus.store("accepted.b") == {"stream": "ACCEPTED", "seq": 2}


async def test_second_message_with_an_id_is_a_duplicate(bus: Ground) -> None:
    await bus.store("accepted.a", b"first", Nats_Msg_Id="one")
    again = await bus.store("accepted.b", b"second", Nats_Msg_Id="one")
    assert again == {"stream": "ACCEPTED", "seq": 1, "duplicate": True}
    assert (await state(bus, "ACCEPTED"))["messages"] == 1


async def test_id_is_forgotten_after_the_window(ground: Ground) -> None:
    await ground.a_stream("OWN", duplicate_window=100_000_000)
    await ground.store("own.a", Nats_Msg_Id="one")

    async def is_new() -> bool:
        return "duplicate" not in await ground.store("own.a", Nats_Msg_Id="one")

    await until(is_new, "the id is forgotten")


async def test_stored_message_is_republished(bus: Ground) -> None:
    inbox = await Inbox(bus.relay, "bus.>").open()
    await bus.store("accepted.orders.placed", b"first", Nats_Msg_Id="one")
    await bus.store("accepted.orders.placed", b"second")
    first, second = await inbox.take(2)
    assert (first.subject, first.data, first.reply) == ("bus.orders.placed", b"first", "")
    assert first.headers["Nats-Msg-Id"] == "one"
    places = ("Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Last-Sequence")
    place = {name: second.headers[name] for name in places}
    expected = ("ACCEPTED", "accepted.orders.placed", "2", "1")
    assert tuple(place.values()) == expected
    assert datetime.fromisoformat(second.headers["Nats-Time-Stamp"]).tzinfo is not None


async def test_duplicate_is_not_republished(bus: Ground) -> None:
    inbox = await Inbox(bus.relay, "bus.>").open()
    for data in (b"first", b"again"):
        await bus.store("accepted.a", data, Nats_Msg_Id="one")
    await bus.store("accepted.a", b"last")
    assert [got.data for got in await inbox.take(2)] == [b"first", b"last"]


async def test_message_is_read_directly(bus: Ground) -> None:
    await bus.store("accepted.a", b"it", Nats_Msg_Id="one")
    found = await direct(bus, "ACCEPTED", seq=1)
    assert found.data == b"it"
    assert found.headers["Nats-Msg-Id"] == "one"
    assert (found.headers["Nats-Subject"], found.headers["Nats-Sequence"]) == ("accepted.a", "1")
    assert datetime.fromisoformat(found.headers["Nats-Time-Stamp"]).tzinfo is not None


async def test_missing_message_is_said_directly(bus: Ground) -> None:
    found = await direct(bus, "ACCEPTED", seq=7)
    assert (found.headers["Status"], found.data) == ("404", b"")
    assert "Nats-Subject" not in found.headers


async def test_stream_without_direct_reads_answers_none(bus: Ground) -> None:
    with pytest.raises((NoRespondersError, NatsTimeoutError)):
        await bus.relay.request("$JS.API.DIRECT.GET.HEALTH", b'{"seq":1}', 0.5)


async def test_message_is_read_by_the_api(bus: Ground) -> None:
    await bus.store("accepted.a", b"it", Nats_Msg_Id="one")
    message = (await bus.done("STREAM.MSG.GET.ACCEPTED", {"seq": 1}))["message"]
    assert (message["subject"], message["seq"]) == ("accepted.a", 1)
    assert base64.b64decode(message["data"]) == b"it"
    assert base64.b64decode(message["hdrs"]) == b"NATS/1.0\r\nNats-Msg-Id: one\r\n\r\n"
    assert datetime.fromisoformat(message["time"]).tzinfo is not None


async def test_last_message_of_a_subject_is_read(bus: Ground) -> None:
    for data in (b"1", b"2"):
        await bus.store("health.probe", data)
    message = (await bus.done("STREAM.MSG.GET.HEALTH", {"last_by_subj": "health.probe"}))["message"]
    assert base64.b64decode(message["data"]) == b"2"
    error = (await bus.api("STREAM.MSG.GET.HEALTH", {"last_by_subj": "health.other"}))["error"]
    assert error["code"] == 404


@pytest.mark.parametrize("bot", ["order", "inventory", "shipping", "scraper", "a", "a-2"])
async def test_ingress_stores_by_partition(bus: Ground, bot: str) -> None:
    await bus.relay.publish(f"send.{bot}", b"it")
    await until(lambda: _holds(bus, "INGRESS", 1), "it is stored")
    message = (await bus.done("STREAM.MSG.GET.INGRESS", {"seq": 1}))["message"]
    assert message["subject"] == f"ingress.16.{partition(16, bot)}.{bot}"


async def _holds(ground: Ground, stream: str, count: int) -> bool:
    found: int = (await state(ground, stream))["messages"]
    return found == count


async def test_ingress_answers_nobody(bus: Ground) -> None:
    inbox = await Inbox(bus.relay, "answers").open()
    await bus.relay.publish("send.order", b"it", "answers")
    await until(lambda: _holds(bus, "INGRESS", 1), "it is stored")
    await bus.relay.flush()
    assert inbox.is_empty


async def test_ingress_refuses_beyond_a_bots_limit(bus: Ground) -> None:
    for _ in range(6):
        await bus.relay.publish("send.order", b"it")
    await bus.relay.publish("send.thief", b"it")
    await until(lambda: _holds(bus, "INGRESS", 5), "the message of the other bot is stored")
    info = await bus.done("STREAM.INFO.INGRESS", {"subjects_filter": ">"})
    counts = {subject.split(".")[3]: count for subject, count in info["state"]["subjects"].items()}
    assert counts == {"order": 4, "thief": 1}


@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_full_stream_refuses_new_messages(ground: Ground, storage: str) -> None:
    await ground.a_stream("OWN", max_bytes=1000, discard="new", storage=storage)
    answers = [await ground.store("own.a", b"x" * 100) for _ in range(12)]
    refused = [answer["error"] for answer in answers if "error" in answer]
    assert {error["err_code"] for error in refused} == {10077}
    assert {error["description"] for error in refused} == {"maximum bytes exceeded"}
    size = 100 + len("own.a") + (16 if storage == "memory" else 30)
    assert len(answers) - len(refused) == 1000 // size
    assert (await state(ground, "OWN"))["bytes"] == size * (1000 // size)


async def test_bytes_count_headers(ground: Ground) -> None:
    await ground.a_stream("OWN")
    await ground.store("own.a", b"body", Nats_Msg_Id="one")
    block = len(b"NATS/1.0\r\nNats-Msg-Id: one\r\n\r\n")
    assert (await state(ground, "OWN"))["bytes"] == 30 + 4 + len("own.a") + block + len(b"body")


async def test_stream_may_discard_old_messages(ground: Ground) -> None:
    await ground.a_stream("OWN", discard="old", max_msgs_per_subject=2)
    for data in (b"1", b"2", b"3"):
        await ground.store("own.a", data)
    await ground.store("own.b", b"4")
    found = await state(ground, "OWN")
    assert (found["messages"], found["first_seq"], found["last_seq"]) == (3, 2, 4)


async def test_old_messages_age_out(ground: Ground) -> None:
    await ground.a_stream("OWN", max_age=200_000_000, duplicate_window=100_000_000)
    await ground.store("own.a")
    await until(lambda: _holds(ground, "OWN", 0), "it has aged out")
    assert (await state(ground, "OWN"))["last_seq"] == 1
    assert (await ground.api("STREAM.MSG.GET.OWN", {"seq": 1}))["error"]["code"] == 404


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("Nats_Expected_Stream", "OTHER", 10060),
        ("Nats_Expected_Last_Sequence", "7", 10071),
        ("Nats_Expected_Last_Subject_Sequence", "7", 10071),
        ("Nats_Expected_Last_Msg_Id", "other", 10070),
    ],
)
async def test_unmet_expectation_is_refused(
    ground: Ground,
    name: str,
    value: str,
    number: int,
) -> None:
    await ground.a_stream("OWN")
    await ground.store("own.a", Nats_Msg_Id="one")
    assert (await ground.store("own.a", **{name: value}))["error"]["err_code"] == number


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Nats_Expected_Stream", "OWN"),
        ("Nats_Expected_Last_Sequence", "1"),
        ("Nats_Expected_Last_Subject_Sequence", "1"),
        ("Nats_Expected_Last_Msg_Id", "one"),
    ],
)
async def test_met_expectation_is_stored(ground: Ground, name: str, value: str) -> None:
    await ground.a_stream("OWN")
    await ground.store("own.a", Nats_Msg_Id="one")
    assert (await ground.store("own.a", **{name: value}))["seq"] == 2


@pytest.mark.parametrize("name", ["Nats_Rollup", "Nats_TTL", "Nats_Incr", "Nats_Schedule"])
async def test_feature_that_is_off_is_refused(ground: Ground, name: str) -> None:
    await ground.a_stream("OWN")
    assert "error" in await ground.store("own.a", **{name: "1"})
    assert await _holds(ground, "OWN", 0)


async def test_streams_of_the_bus_are_not_purged(bus: Ground) -> None:
    await bus.store("accepted.a")
    assert "error" in await bus.api("STREAM.PURGE.ACCEPTED")
    assert await _holds(bus, "ACCEPTED", 1)


async def test_quarantine_may_be_purged(bus: Ground) -> None:
    for reason in ("schema", "stale"):
        await bus.store(f"quarantine.{reason}.order")
    purged = await bus.done("STREAM.PURGE.QUARANTINE", {"filter": "quarantine.stale.*"})
    assert purged["purged"] == 1
    assert await _holds(bus, "QUARANTINE", 1)


async def test_deleted_stream_is_gone(ground: Ground) -> None:
    await ground.a_stream("OWN")
    await ground.done("STREAM.DELETE.OWN")
    assert (await ground.api("STREAM.INFO.OWN"))["error"]["code"] == 404
    with pytest.raises(NoRespondersError):
        await ground.store("own.a")


async def test_subjects_are_counted_by_a_filter(bus: Ground) -> None:
    for subject in ("quarantine.schema.order", "quarantine.schema.thief", "quarantine.stale.order"):
        await bus.store(subject)
    info = await bus.done("STREAM.INFO.QUARANTINE", {"subjects_filter": "quarantine.schema.*"})
    assert info["state"]["subjects"] == {"quarantine.schema.order": 1, "quarantine.schema.thief": 1}


async def test_ledger_begins_once(bus: Ground) -> None:
    first = await ledger_state(bus.relay, "ACCEPTED")
    again = await ledger_state(bus.relay, "ACCEPTED")
    assert first == again
    assert first.last_sequence == 1
    assert first.since_ms is not None
