"""JetStream in memory: its streams, and where messages and requests for it go.

It serves the part of JetStream that the bus uses. :mod:`sealbus_broker.memory.api` has the calls of
the API. A call that is not among them is answered by nobody, so a test that needs it fails at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from sealbus.nats.acks import read_ack
from sealbus_broker.memory import headers
from sealbus_broker.memory.accounts import Accounts, Target
from sealbus_broker.memory.api import Api
from sealbus_broker.memory.consumer import Ack
from sealbus_broker.memory.errors import ApiError, no_message
from sealbus_broker.memory.stream import Receipt, Stored, Stream
from sealbus_broker.memory.subject_transform import transform
from sealbus_broker.memory.times import now_ns, rfc3339
from sealbus_broker.memory.wire import Message
from sealbus_broker.nats.config import BUS_ACCOUNT

_API: Final = "$JS.API."
_ACK: Final = "$JS.ACK."
_NEXT: Final = "CONSUMER.MSG.NEXT."
_DIRECT: Final = "DIRECT.GET."


class JetStream:
    """The streams of the account BUS."""

    def __init__(self, accounts: Accounts, longest_wait_s: Callable[[], float | None]) -> None:
        """``longest_wait_s``: how long a bot's request for messages may wait, whatever it says."""
        self._accounts = accounts
        self.streams: dict[str, Stream] = {}
        """By name."""
        self._api = Api(self.streams, accounts, longest_wait_s)

    def make(self, config: dict[str, Any]) -> Stream:
        """Make a stream, as STREAM.CREATE does."""
        name = str(config["name"])
        self._api.call(f"STREAM.CREATE.{name}", json.dumps(config).encode())
        return self.streams[name]

    def stop(self, *, keep_files: bool) -> None:
        """The server has stopped. ``keep_files``: streams in files are there at the next start."""
        for stream in list(self.streams.values()):
            for consumer in stream.consumers.values():
                consumer.disconnect()
            if not keep_files or stream.config.get("storage") == "memory":
                del self.streams[stream.name]

    # ---- messages -------------------------------------------------------------------------------

    def store(self, message: Message, answer_to: Target) -> bool:
        """Store a message in the stream that takes its subject; whether there is one."""
        stream = next((one for one in self.streams.values() if one.takes(message.subject)), None)
        if stream is None:
            return False
        subject = _transformed(stream, message.subject)
        answer: dict[str, Any] = {"stream": stream.name}
        try:
            receipt = stream.store(subject, message.headers, message.data)
        except ApiError as error:
            answer |= {"error": error.encode(), "seq": 0}
        else:
            answer["seq"] = receipt.sequence
            if receipt.duplicate:
                answer["duplicate"] = True
            else:
                self._republish(stream, message, receipt)
        if answer_to.subject and not stream.config.get("no_ack"):
            self._say(answer_to, answer)
        return True

    def _say(self, answer_to: Target, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self._accounts.answer(answer_to, Message(answer_to.subject, data=data))

    def _republish(self, stream: Stream, message: Message, receipt: Receipt) -> None:
        rule, stored = stream.config.get("republish"), stream.get(receipt.sequence)
        if not rule or stored is None:
            return
        source, destination = rule["src"].removesuffix(">"), rule["dest"].removesuffix(">")
        subject = destination + stored.subject.removeprefix(source)
        fields = _place(stream, stored) | {"Nats-Last-Sequence": receipt.previous}
        block = headers.add(message.headers, fields)
        self._accounts.publish(BUS_ACCOUNT, Message(subject, headers=block, data=message.data))

    # ---- requests -------------------------------------------------------------------------------

    def ask(self, message: Message, answer_to: Target) -> bool:
        """Serve a request on ``$JS.…``; whether anything serves that subject."""
        subject = message.subject
        # Without a timer: only a request can notice that a consumer without use is still there.
        self._api.sweep()
        if subject.startswith(_ACK):
            return self._acknowledge(message, answer_to)
        call = subject.removeprefix(_API)
        if call == subject:
            return False
        if call.startswith(_NEXT):
            return self._next(call.removeprefix(_NEXT), message.data, answer_to)
        if call.startswith(_DIRECT):
            return self._direct(call.removeprefix(_DIRECT), message.data, answer_to)
        answer = self._api.call(call, message.data)
        if answer is None:
            return False
        self._say(answer_to, answer)
        return True

    def _next(self, place: str, body: bytes, answer_to: Target) -> bool:
        name, _, consumer_name = place.partition(".")
        stream = self.streams.get(name)
        consumer = None if stream is None else stream.consumers.get(consumer_name)
        if consumer is None:
            return False
        consumer.ask(body, answer_to)
        return True

    def _acknowledge(self, message: Message, answer_to: Target) -> bool:
        ack = read_ack(message.subject.encode("latin-1"))
        stream = None if ack is None else self.streams.get(ack.stream.decode("latin-1"))
        if ack is None or stream is None:
            return False
        consumer = stream.consumers.get(ack.consumer.decode("latin-1"))
        if consumer is None:
            return False
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<delivery>.<time>.<pending>
        delivery = int(message.subject.split(".")[6])
        if consumer.settle(Ack(ack.sequence, delivery, message.data)):
            self._accounts.answer(answer_to, Message(answer_to.subject))
        return True

    def _direct(self, place: str, body: bytes, answer_to: Target) -> bool:
        # The subject of the message may stand behind the stream, in place of a body.
        name, _, last_on = place.partition(".")
        stream = self.streams.get(name)
        if stream is None or not stream.config.get("allow_direct"):
            return False
        if last_on:
            body = json.dumps({"last_by_subj": last_on}).encode()
        try:
            stored = find(stream, body)
        except ApiError:
            block = headers.status(404, "Message Not Found")
            self._accounts.answer(answer_to, Message(answer_to.subject, headers=block))
            return True
        block = headers.add(stored.headers, _place(stream, stored))
        message = Message(answer_to.subject, headers=block, data=stored.data)
        self._accounts.answer(answer_to, message)
        return True


def find(stream: Stream, body: bytes) -> Stored:
    """The message that a request names by sequence or by subject. Raises :class:`ApiError`."""
    try:
        wanted = json.loads(body)
    except ValueError:
        wanted = {}
    stored = stream.find(wanted if isinstance(wanted, dict) else {})
    if stored is None:
        raise no_message()
    return stored


def _place(stream: Stream, stored: Stored) -> dict[str, object]:
    """What nats-server says of a stored message, in headers."""
    return {
        "Nats-Stream": stream.name,
        "Nats-Subject": stored.subject,
        "Nats-Sequence": stored.sequence,
        "Nats-Time-Stamp": rfc3339(stored.stored_ns or now_ns()),
    }


def _transformed(stream: Stream, subject: str) -> str:
    rule = stream.config.get("subject_transform")
    return transform(rule["src"], rule["dest"], subject) if rule else subject
