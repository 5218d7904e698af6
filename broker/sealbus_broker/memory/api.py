"""The calls of JetStream's API that the bus makes: JSON in, JSON out."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final

from sealbus_broker.memory.consumer import Consumer, Paths
from sealbus_broker.memory.errors import ApiError, invalid, no_consumer, no_message, no_stream
from sealbus_broker.memory.stream import Json, Stream
from sealbus_broker.memory.times import NS_PER_S, now_ns, read_rfc3339, rfc3339

_PAGE: Final = 256
"""Consumers in one answer of CONSUMER.LIST."""

_NAMES_PAGE: Final = 1024
"""Names in one answer of CONSUMER.NAMES, as nats-server has it."""

_STREAM_DEFAULTS: Final[Json] = {
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "storage": "file",
    "num_replicas": 1,
    "duplicate_window": 120 * NS_PER_S,
}

_CONSUMER_DEFAULTS: Final[Json] = {
    "deliver_policy": "all",
    "ack_policy": "none",
    "ack_wait": 30 * NS_PER_S,
    "max_deliver": -1,
    "replay_policy": "instant",
    "max_waiting": 512,
    "max_ack_pending": 1000,
    "num_replicas": 0,
}

_TYPE: Final = "io.nats.jetstream.api.v1."


class Api:
    """Serves the calls."""

    def __init__(
        self,
        streams: dict[str, Stream],
        paths: Paths,
        longest_wait_s: Callable[[], float | None],
    ) -> None:
        self._streams = streams
        self._paths = paths
        self._longest_wait_s = longest_wait_s
        self._calls: dict[str, Callable[[str, Json], Json]] = {
            "STREAM.CREATE": self._stream_create,
            "STREAM.UPDATE": self._stream_update,
            "STREAM.INFO": self._stream_info,
            "STREAM.DELETE": self._stream_delete,
            "STREAM.PURGE": self._stream_purge,
            "STREAM.MSG.GET": self._message_get,
            "CONSUMER.CREATE": self._consumer_create,
            "CONSUMER.INFO": self._consumer_info,
            "CONSUMER.NAMES": self._consumer_names,
            "CONSUMER.LIST": self._consumer_list,
            "CONSUMER.DELETE": self._consumer_delete,
            "CONSUMER.PAUSE": self._consumer_pause,
            "CONSUMER.UNPIN": self._consumer_unpin,
        }

    def call(self, call: str, body: bytes) -> Json | None:
        """The answer to one call, such as ``STREAM.INFO.ACCEPTED``; ``None``: it is not served."""
        name = next((name for name in self._calls if call.startswith(f"{name}.")), None)
        if name is None:
            return None
        answer: Json = {"type": f"{_TYPE}{name.lower().replace('.', '_')}_response"}
        try:
            wanted = _read(body)
            return answer | self._calls[name](call.removeprefix(f"{name}."), wanted)
        except ApiError as error:
            return answer | {"error": error.encode()}

    def sweep(self) -> None:
        """Remove the consumers that nobody has used for as long as they say."""
        now = now_ns()
        for stream in self._streams.values():
            for name, consumer in list(stream.consumers.items()):
                if consumer.is_unused(now):
                    del stream.consumers[name]
                    consumer.end()

    # ---- streams --------------------------------------------------------------------------------

    def _stream(self, name: str) -> Stream:
        try:
            return self._streams[name]
        except KeyError:
            raise no_stream() from None

    def _stream_create(self, name: str, wanted: Json) -> Json:
        if wanted.get("name") != name:
            raise ApiError(400, 10056, "stream name in subject does not match request")
        config = _STREAM_DEFAULTS | wanted
        known = self._streams.get(name)
        if known is not None:
            if known.config != config:
                what = "stream name already in use with a different configuration"
                raise ApiError(400, 10058, what)
            return known.info()
        taken = {subject for one in self._streams.values() for subject in one.config["subjects"]}
        # Equal subjects only. nats-server compares patterns, which no stream of the bus needs.
        if taken & set(config.get("subjects") or [name]):
            raise ApiError(400, 10065, "subjects overlap with an existing stream")
        config.setdefault("subjects", [name])
        stream = self._streams[name] = Stream(config)
        return stream.info() | {"did_create": True}

    def _stream_update(self, name: str, wanted: Json) -> Json:
        stream = self._stream(name)
        config = _STREAM_DEFAULTS | wanted
        for field in ("name", "retention", "storage"):
            if stream.config[field] != config[field]:
                raise ApiError(500, 10052, f"stream configuration update can not change {field}")
        # The messages stay. A smaller limit takes effect with the next one.
        stream.config = config
        return stream.info()

    def _stream_info(self, name: str, wanted: Json) -> Json:
        return self._stream(name).info(wanted.get("subjects_filter"))

    def _stream_delete(self, name: str, _: Json) -> Json:
        stream = self._stream(name)
        del self._streams[name]
        for consumer in stream.consumers.values():
            consumer.end()
        return {"success": True}

    def _stream_purge(self, name: str, wanted: Json) -> Json:
        stream = self._stream(name)
        if stream.config.get("deny_purge"):
            raise ApiError(500, 10110, "stream purge not permitted")
        return {"success": True, "purged": stream.purge(wanted.get("filter"))}

    def _message_get(self, name: str, wanted: Json) -> Json:
        stream = self._stream(name)
        stored = stream.find(wanted)
        if stored is None:
            raise no_message()
        message: Json = {
            "subject": stored.subject,
            "seq": stored.sequence,
            "time": rfc3339(stored.stored_ns),
        }
        if stored.headers:
            message["hdrs"] = base64.b64encode(stored.headers).decode()
        if stored.data:
            message["data"] = base64.b64encode(stored.data).decode()
        return {"message": message}

    # ---- consumers ------------------------------------------------------------------------------

    def _consumer(self, place: str) -> Consumer:
        name, _, consumer = place.partition(".")
        try:
            return self._stream(name).consumers[consumer]
        except KeyError:
            raise no_consumer() from None

    def _consumer_create(self, place: str, wanted: Json) -> Json:
        name, consumer_name, *subject = place.split(".", 2)
        stream = self._stream(name)
        given = wanted.get("config") or {}
        if wanted.get("stream_name") != name:
            raise ApiError(400, 10060, "expected stream does not match")
        if subject and given.get("filter_subject") != subject[0]:
            what = "consumer create request did not match filtered subject from create subject"
            raise ApiError(400, 10131, what)
        config = _CONSUMER_DEFAULTS | given | {"name": consumer_name}
        known, action = stream.consumers.get(consumer_name), wanted.get("action", "")
        if known is None:
            return self._consumer_new(stream, config, action)
        if action == "create" and known.config != config:
            raise ApiError(400, 10148, "consumer already exists")
        if known.config != config:
            self._check_update(known.config, config)
            known.follow(config)
        return known.info()

    def _consumer_new(self, stream: Stream, config: Json, action: str) -> Json:
        if action == "update":
            raise ApiError(400, 10149, "consumer does not exist")
        most = stream.config.get("max_consumers") or -1
        if 0 <= most <= len(stream.consumers):
            raise ApiError(400, 10026, "maximum consumers limit reached")
        consumer = Consumer(
            stream=stream,
            config=config,
            paths=self._paths,
            longest_wait_s=self._longest_wait_s,
        )
        stream.consumers[consumer.name] = consumer
        return consumer.info()

    @staticmethod
    def _check_update(before: Json, after: Json) -> None:
        # nats-server refuses more changes than these. The bus tries none of the others.
        for field in ("deliver_policy", "ack_policy", "max_waiting", "opt_start_seq"):
            if before.get(field) != after.get(field):
                raise ApiError(500, 10012, f"{field.replace('_', ' ')} can not be updated")

    def _consumer_info(self, place: str, _: Json) -> Json:
        consumer = self._consumer(place)
        consumer.look()
        return consumer.info()

    def _consumer_names(self, name: str, wanted: Json) -> Json:
        names = sorted(self._stream(name).consumers)
        return _page(names, wanted, _NAMES_PAGE)

    def _consumer_list(self, name: str, wanted: Json) -> Json:
        consumers = self._stream(name).consumers
        return _page([consumers[one].info() for one in sorted(consumers)], wanted, _PAGE)

    def _consumer_delete(self, place: str, _: Json) -> Json:
        consumer = self._consumer(place)
        del consumer.stream.consumers[consumer.name]
        consumer.end()
        return {"success": True}

    def _consumer_pause(self, place: str, wanted: Json) -> Json:
        consumer, until = self._consumer(place), wanted.get("pause_until")
        try:
            until_ns = read_rfc3339(until) if until else 0
        except ValueError:
            raise invalid("pause_until is not a time") from None
        consumer.pause(until_ns)
        return {"paused": until_ns > now_ns(), "pause_until": until or rfc3339(0)}

    def _consumer_unpin(self, place: str, wanted: Json) -> Json:
        consumer = self._consumer(place)
        if wanted.get("group") not in consumer.config.get("priority_groups", ()):
            raise ApiError(400, 10160, "invalid priority group")
        consumer.unpin()
        return {}


def _page(rows: list[Any], wanted: Json, most: int) -> Json:
    start = int(wanted.get("offset") or 0)
    page = rows[start : start + most]
    return {"total": len(rows), "offset": start, "limit": most, "consumers": page}


def _read(body: bytes) -> Json:
    if not body.strip():
        return {}
    try:
        found = json.loads(body)
    except ValueError:
        raise invalid("invalid JSON") from None
    if not isinstance(found, dict):
        raise invalid("invalid JSON")
    return found
