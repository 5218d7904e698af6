"""One client's connection, from the greeting on.

It has three states. *Greeted*: only ``CONNECT`` is read. *Asking*: the relay is asked who this is,
and nothing more is read meanwhile. *Open*: the client has a
:class:`~sealbus_broker.memory.grant.Grant`. The server ends the connection on a violation of the
protocol, when the session expires, when a relay asks for it, and when it stops. A refused subject
is told to the client, and the connection stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from sealbus_broker.memory import headers, wire
from sealbus_broker.memory.accounts import Accounts
from sealbus_broker.memory.callout import SUBJECT as CALLOUT
from sealbus_broker.memory.grant import Grant
from sealbus_broker.memory.interest import Subscription, is_valid
from sealbus_broker.memory.pipe import Pipe
from sealbus_broker.memory.times import now_ns
from sealbus_broker.memory.wire import Message, ProtocolViolation
from sealbus_broker.nats.config import MAX_PAYLOAD_BYTES

_PONG: Final = b"PONG\r\n"


class Host(Protocol):
    """The server, as one of its connections sees it."""

    accounts: Accounts

    def authenticate(self, connection: Connection, connect: wire.Connect) -> None:
        """Find out who this is; calls :meth:`Connection.admit` once, now or later."""

    def greeting(self, connection: Connection) -> dict[str, Any]:
        """The fields of ``INFO``, without a challenge."""

    def ended(self, connection: Connection) -> None:
        """The connection is over."""


class Connection:
    """The server's side of one connection."""

    def __init__(self, *, host: Host, number: int, nonce: str, pipe: Pipe) -> None:
        """``nonce``: the challenge that the greeting holds."""
        self._host = host
        self._pipe = pipe
        self._reader = wire.Reader(MAX_PAYLOAD_BYTES)
        self._subscriptions: dict[str, Subscription] = {}
        """By the client's number for each."""
        self._expiry: asyncio.TimerHandle | None = None
        """Ends the connection when the session expires."""
        self._is_asking = False
        """The state *asking*."""
        self._connected_by: wire.Connect | None = None
        """The client's CONNECT."""
        self._is_over = False
        """Whether it has ended, from either side."""
        self._wants_503 = False
        """Whether the client wants to be told that nobody takes a request."""
        self._is_ready = False
        """Whether the client's first PING was answered."""
        self.number = number
        """The server's number for it."""
        self.started_ns = now_ns()
        """When it began (ns since 1970)."""
        self.messages = 0
        """How many messages the client has published, those that it may not publish included."""
        self.bytes = 0
        """How many bytes these had, with their headers."""
        self.nonce = nonce
        """The challenge of the greeting."""
        self.name = ""
        """The client's own name for itself."""
        self.grant: Grant | None = None
        """The client's rights. ``None``: before the state *open*."""
        self.give_up: Callable[[], None] | None = None
        """Ends the question to the relay, while one is under way."""

    # ---- who it is ------------------------------------------------------------------------------

    def ask_again(self) -> None:
        """Ask who this is by the same CONNECT. The answer applies in place."""
        if self._connected_by is not None:
            self._host.authenticate(self, self._connected_by)

    def admit(self, grant: Grant | None, error: str = "Authorization Violation") -> None:
        """Open it with ``grant``, or end it with ``error``. An open one gets other rights."""
        self._is_asking = False
        self.give_up = None
        if self._is_over:
            return
        if grant is None:
            self.end(error)
            return
        self.grant = grant
        self._reader.max_payload = grant.max_payload
        for sid, one in list(self._subscriptions.items()):
            if not grant.may_subscribe(one.subject, one.queue):
                self._unsubscribe(sid)
                self._complain(
                    f'Permissions Violation for Subscription to "{one.subject}" (sid "{sid}")'
                )
        if grant.expires_at_s is not None:
            left_s = max(0.0, grant.expires_at_s - time.time())
            loop = asyncio.get_running_loop()
            expiry = loop.call_later(left_s, self.end, "User Authentication Expired")
            # As nats-server: a session that was open keeps the timer that ends first.
            if self._expiry is None or expiry.when() < self._expiry.when():
                self._expiry, expiry = expiry, self._expiry
            if expiry is not None:
                expiry.cancel()
        # Whatever the client sent meanwhile was kept.
        self._read()

    # ---- calls of the pipe ----------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes of the client."""
        self._reader.feed(data)
        self._read()

    def lost(self) -> None:
        """The client is gone."""
        self._close()

    # ---- how it ends ----------------------------------------------------------------------------

    def end(self, error: str = "") -> None:
        """Tell the client why, unless ``error`` is empty, and hang up."""
        if not self._is_over:
            if error:
                self._pipe.send(wire.err(error))
            self._close()
            self._pipe.hang_up()

    @property
    def owner(self) -> str:
        """The first word of the client's name: a bot's name, or that of a program."""
        return self.name.partition(" ")[0]

    def calls_itself(self, name: str) -> bool:
        """Whether ``name`` is the client's name, or the first word of it."""
        return name in (self.name, self.owner)

    def cut(self) -> None:
        """End it without a word, as when a server dies or a cable is pulled."""
        if not self._is_over:
            self._close()
            self._pipe.reset()

    def renew(self) -> bool:
        """Tell the client to connect anew; whether it is ready to be told."""
        if self._is_ready:
            self._pipe.send(wire.info(self._host.greeting(self) | {"ldm": True}))
        return self._is_ready

    def stall(self, stalled: bool) -> None:
        """Stop or go on reading."""
        self._pipe.stall(stalled)

    def _close(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._expiry is not None:
            self._expiry.cancel()
        if self.give_up is not None:
            self.give_up()
        for sid in list(self._subscriptions):
            self._unsubscribe(sid)
        self._host.ended(self)

    # ---- commands of the client -----------------------------------------------------------------

    def _read(self) -> None:
        try:
            while not (self._is_over or self._is_asking):
                command = self._reader.next()
                if command is None:
                    return
                self._obey(command)
        except ProtocolViolation as violation:
            self.end(str(violation))

    def _obey(self, command: wire.Command) -> None:
        if isinstance(command, wire.Connect):
            self._connect(command)
        elif self.grant is None:
            raise ProtocolViolation("Authorization Violation")
        elif isinstance(command, Message):
            self._publish(command, self.grant)
        elif isinstance(command, wire.Subscribe):
            self._subscribe(command, self.grant)
        elif isinstance(command, wire.Unsubscribe):
            self._unsubscribe_after(command)
        elif isinstance(command, wire.Ping):
            self._is_ready = True
            self._pipe.send(_PONG)

    def _connect(self, connect: wire.Connect) -> None:
        if self.grant is not None:
            return
        self.name = str(connect.options.get("name", ""))
        self._wants_503 = bool(connect.options.get("no_responders"))
        self._is_asking = True
        self._connected_by = connect
        self._host.authenticate(self, connect)

    def _publish(self, message: Message, grant: Grant) -> None:
        self.messages += 1
        self.bytes += len(message.headers) + len(message.data)
        # As nats-server: nobody publishes on the callout's subject, not even a relay. Its answers
        # rely on that (nats/jwt.py).
        if not grant.may_publish(message.subject) or message.subject == CALLOUT:
            self._complain(f'Permissions Violation for Publish to "{message.subject}"')
            return
        taken = self._host.accounts.publish(grant.account, message)
        if not taken and message.reply and self._wants_503:
            block = headers.status(503, fields={"Nats-Subject": message.subject})
            nobody = Message(message.reply, headers=block)
            interest = self._host.accounts.interest(grant.account)
            # Only the asker itself is told, on one of its own subscriptions.
            for one in interest.find(message.reply):
                if one in self._subscriptions.values():
                    one.deliver(nobody)
                    return

    def _subscribe(self, wanted: wire.Subscribe, grant: Grant) -> None:
        if not is_valid(wanted.subject):
            raise ProtocolViolation("Invalid Subject")
        if not grant.may_subscribe(wanted.subject, wanted.queue):
            group = f' using queue "{wanted.queue}"' if wanted.queue else ""
            self._complain(f'Permissions Violation for Subscription to "{wanted.subject}"{group}')
            return
        if len(self._subscriptions) >= grant.max_subscriptions:
            raise ProtocolViolation("maximum subscriptions exceeded")
        if wanted.sid in self._subscriptions:
            return
        # Its receiver needs the subscription itself, and is put in below.
        subscription = Subscription(wanted.subject, wanted.queue, lambda _: None)

        def deliver(message: Message) -> None:
            subscription.delivered += 1
            if subscription.most and subscription.delivered >= subscription.most:
                self._unsubscribe(wanted.sid)
            self._pipe.send(wire.msg(message, wanted.sid))

        subscription.deliver = deliver
        self._subscriptions[wanted.sid] = subscription
        self._host.accounts.interest(grant.account).add(subscription)

    def _unsubscribe_after(self, wanted: wire.Unsubscribe) -> None:
        subscription = self._subscriptions.get(wanted.sid)
        if subscription is None or subscription.delivered >= wanted.most:
            self._unsubscribe(wanted.sid)
        else:
            subscription.most = wanted.most

    def _unsubscribe(self, sid: str) -> None:
        subscription = self._subscriptions.pop(sid, None)
        if subscription is not None and self.grant is not None:
            self._host.accounts.interest(self.grant.account).remove(subscription)

    def _complain(self, text: str) -> None:
        self._pipe.send(wire.err(text))
