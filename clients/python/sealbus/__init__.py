"""Sealbus: a message bus on which no bot can impersonate another.

A bot, whole::

    import asyncio
    from sealbus import Bot, Message, Refused

    bot = Bot.from_environment()                 # SEALBUS_CREDENTIALS=credentials/inventory.toml

    @bot.subscribe("orders.placed")              # durable: at least once, also what came while away
    async def reserve(message: Message) -> None:
        order = message.payload                  # sealed by message.bot, granted, of its schema
        await bot.publish(
            "stock.reserved",
            {"order_id": order["order_id"], "lines": order["items"]},
            parent=message,                      # the relay can prove that there was an order,
            include_parent=True,                 # and which
        )

    @bot.reply("stock.check")                    # a live request, answered at once
    async def level(message: Message) -> dict:
        return {"sku": message.payload["sku"], "available": 7}

    asyncio.run(bot.run())                       # until SIGINT or SIGTERM; ends its work first

``bot.publish`` returns the relay's sealed verdict, or raises :class:`Refused` with its reason.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "BackgroundFailed",
    "Bot",
    "BotState",
    "ConnectionFailed",
    "Credentials",
    "CredentialsError",
    "Grants",
    "InvalidInput",
    "InvitationRefused",
    "Malformed",
    "Message",
    "NoReply",
    "NotConnected",
    "Reason",
    "Refused",
    "RequestFailed",
    "SealbusError",
    "Stamp",
    "SubscriptionDenied",
    "Unresolved",
    "Verdict",
    "new_nonce",
]

__version__: str

# Relays, doors and commands use modules of this package, and most of them no bot. Each name is
# therefore imported when it is first used, which saves such a process 60 ms. A type checker reads
# the imports, because it would believe that a module with `__getattr__` has any name.
if TYPE_CHECKING:
    from sealbus.bot import Bot
    from sealbus.credentials import Credentials
    from sealbus.errors import (
        BackgroundFailed,
        ConnectionFailed,
        CredentialsError,
        InvalidInput,
        InvitationRefused,
        Malformed,
        NotConnected,
        SealbusError,
        SubscriptionDenied,
    )
    from sealbus.grants import Grants
    from sealbus.life.states import BotState
    from sealbus.outcomes import NoReply, Refused, RequestFailed, Unresolved
    from sealbus.protocol.delivery import Message
    from sealbus.protocol.reason import Reason
    from sealbus.protocol.stamp import Stamp, Verdict
    from sealbus.sending.minting import new_nonce
else:
    _HOMES = {
        "BackgroundFailed": "sealbus.errors",
        "Bot": "sealbus.bot",
        "BotState": "sealbus.life.states",
        "ConnectionFailed": "sealbus.errors",
        "Credentials": "sealbus.credentials",
        "CredentialsError": "sealbus.errors",
        "Grants": "sealbus.grants",
        "InvalidInput": "sealbus.errors",
        "InvitationRefused": "sealbus.errors",
        "Malformed": "sealbus.errors",
        "Message": "sealbus.protocol.delivery",
        "NoReply": "sealbus.outcomes",
        "NotConnected": "sealbus.errors",
        "Reason": "sealbus.protocol.reason",
        "Refused": "sealbus.outcomes",
        "RequestFailed": "sealbus.outcomes",
        "SealbusError": "sealbus.errors",
        "Stamp": "sealbus.protocol.stamp",
        "SubscriptionDenied": "sealbus.errors",
        "Unresolved": "sealbus.outcomes",
        "Verdict": "sealbus.protocol.stamp",
        "new_nonce": "sealbus.sending.minting",
    }

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            value = _version()
        elif name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'sealbus' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sealbus")
    except PackageNotFoundError:  # the source tree, put on the path by hand
        return "0+unknown"
