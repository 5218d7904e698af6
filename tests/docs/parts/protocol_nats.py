"""Makes the parts of ``docs/protocol.md`` about NATS.

These are the streams, the consumers, the server's configuration, and the quarantine's records.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from sealbus.protocol.subjects import consumer_name
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats.config import NatsConfig, render
from sealbus_broker.nats.streams import consumer_configs, stream_configs
from sealbus_broker.relay.store.quarantine import Record
from tests.docs.parts.markdown import fenced, folded, table, wrapped
from tests.docs.parts.protocol_examples import keys


def streams() -> str:
    """The configurations of the streams."""
    configs = stream_configs(_policy())
    parts = [
        fenced(
            "\n".join(folded({k: v for k, v in one.items() if not _is_zero(v)}) for one in configs),
            "json",
        )
    ]
    off = sorted(
        {
            field
            for one in configs
            for field, value in one.items()
            if all(_is_zero(other.get(field)) for other in configs)
        }
    )
    names = ", ".join(f"`{field}`" for field in off)
    parts.append(wrapped(f"Off, absent or without limit in all of them: {names}."))
    return "\n\n".join(parts)


def consumers() -> str:
    """The configuration of one of the relay's consumers."""
    first = consumer_configs()[0]
    return fenced(
        folded(
            {k: v for k, v in first.items() if not _is_zero(v)}
            | {"max_deliver": first["max_deliver"]}
        ),
        "json",
    )


def consumer() -> str:
    """The name of a bot's consumer."""
    return fenced(consumer_name("inventory", "orders.placed", "default"))


def record() -> str:
    """The fields of a record in the quarantine."""
    return table(
        ("field", "type"),
        (
            (f"`{field.name}`", str(field.type).replace("None", "null").replace("str", "text"))
            for field in fields(Record)
        ),
    )


def nats_conf() -> str:
    """A server's configuration file."""
    bot, _, issuer = keys()
    given = NatsConfig(
        Path("/data"),
        bot.public,
        issuer.public,
    )
    return fenced(render(given).rstrip("\n"))


def _policy() -> Policy:
    return Policy("shop", bytes(32), frozenset(), {}, ())


def _is_zero(value: object) -> bool:
    return value in (None, False, 0, -1, "", [])
