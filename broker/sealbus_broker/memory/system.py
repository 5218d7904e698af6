"""The services of nats-server itself that relays use: CONNZ, STATZ, KICK and LDM; and its word that
a connection of the account BUS has ended.

:mod:`sealbus_broker.nats.config` has their uses. As nats-server, this one ignores a request
without a reply subject. A body that is no JSON object gets no answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from sealbus_broker.memory.accounts import Accounts, Target
from sealbus_broker.memory.connection import Connection
from sealbus_broker.memory.times import now_ns, rfc3339
from sealbus_broker.memory.wire import Message
from sealbus_broker.nats.config import (
    BOTS_ACCOUNT,
    BUS_ACCOUNT,
    CONNECTIONS_SUBJECT,
    DISCONNECTED_SUBJECT,
    TRAFFIC_SUBJECT,
    kick_subject,
    renew_subject,
)

Json = dict[str, Any]

_PAGE: Final = 1024
"""Connections in one answer of CONNZ, unless the request says otherwise."""


class System:
    """One server from its start to its stop."""

    def __init__(
        self, accounts: Accounts, server: str, connections: Mapping[int, Connection]
    ) -> None:
        """``server``: the server's id. ``connections``: those that are open now, by number."""
        self._accounts = accounts
        self._server = server
        self._connections = connections
        self._gone = 0, 0
        """The messages and bytes of the bots' connections that have ended."""
        self._services: dict[str, Callable[[Json], Json]] = {
            CONNECTIONS_SUBJECT: self._list,
            TRAFFIC_SUBJECT: self._count,
            kick_subject(server): self._kick,
            renew_subject(server): self._renew,
        }

    def ask(self, message: Message, answer_to: Target) -> bool:
        """Serve a request on ``$SYS.…``; whether anything serves that subject."""
        serve = self._services.get(message.subject)
        if serve is None:
            return False
        if message.reply:
            try:
                answer = serve(json.loads(message.data or b"{}"))
            except (ValueError, KeyError, TypeError, AttributeError):
                return True
            data = json.dumps({"server": {"name": "memory", "id": self._server}} | answer).encode()
            self._accounts.answer(answer_to, Message(message.reply, data=data))
        return True

    def _bots(self) -> list[Connection]:
        return [
            one
            for one in self._connections.values()
            if one.grant is not None and one.grant.account == BOTS_ACCOUNT
        ]

    def _list(self, wanted: Json) -> Json:
        now = rfc3339(now_ns())
        bots = self._bots()
        rows = [_row(one) for one in bots]
        offset = max(0, wanted.get("offset", 0))
        limit = wanted["limit"] if wanted.get("limit", 0) > 0 else _PAGE
        page = rows[offset : offset + limit]
        data = {
            "server_id": self._server,
            "now": now,
            "num_connections": len(page),
            "total": len(bots),
            "offset": offset,
            "limit": limit,
            "connections": page,
        }
        return {"data": data}

    def ended(self, connection: Connection) -> None:
        """Keep the counts of a bot's connection that is over. Tell the account BUS of one of its
        own."""
        if connection.grant is None:
            return
        if connection.grant.account == BOTS_ACCOUNT:
            messages, size = self._gone
            self._gone = messages + connection.messages, size + connection.bytes
        if connection.grant.account == BUS_ACCOUNT:
            event = {"server": {"id": self._server}, "client": {"id": connection.number}}
            data = json.dumps(event).encode()
            self._accounts.publish(BUS_ACCOUNT, Message(DISCONNECTED_SUBJECT, data=data))

    def _count(self, _: Json) -> Json:
        bots = self._bots()
        messages, size = self._gone
        received = {
            "msgs": messages + sum(one.messages for one in bots),
            "bytes": size + sum(one.bytes for one in bots),
        }
        account = {"acc": BOTS_ACCOUNT, "conns": len(bots), "received": received}
        return {"data": {"server_id": self._server, "account_statz": [account]}}

    def _kick(self, wanted: Json) -> Json:
        connection = self._connections.get(wanted.get("cid", 0))
        if connection is None:
            return _error("no such client or leafnode id")
        connection.end()
        return {}

    def _renew(self, wanted: Json) -> Json:
        connection = self._connections.get(wanted.get("cid", 0))
        if connection is None:
            return _error("no such client id")
        if not connection.renew():
            return _error(
                "client does not support Lame Duck Mode or is not ready to receive the notification"
            )
        return {}


def _row(connection: Connection) -> Json:
    return {
        "cid": connection.number,
        "kind": "Client",
        "type": "nats",
        "start": rfc3339(connection.started_ns),
        "name": connection.name,
        "in_msgs": connection.messages,
        "in_bytes": connection.bytes,
    }


def _error(description: str) -> Json:
    return {"error": {"code": 500, "description": description}}
