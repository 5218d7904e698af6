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
            quote=True,                          # and which
        )

    @bot.reply("stock.check")                    # a live request, answered at once
    async def level(message: Message) -> dict:
        return {"sku": message.payload["sku"], "available": 7}

    asyncio.run(bot.run())                       # until SIGINT or SIGTERM; ends its work first

``bot.publish`` returns the relay's sealed verdict, or raises :class:`Refused` with its reason.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from sealbus.bot import Bot
from sealbus.credentials import Credentials
from sealbus.errors import (
    BackgroundFailed,
    ConnectionFailed,
    CredentialsError,
    InvalidInput,
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

__all__ = [
    "BackgroundFailed",
    "Bot",
    "BotState",
    "ConnectionFailed",
    "Credentials",
    "CredentialsError",
    "Grants",
    "InvalidInput",
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

if not TYPE_CHECKING:  # a type checker would believe that a module with this has any name

    def __getattr__(name: str) -> str:
        """Look up ``__version__`` when it is asked for: reading package metadata takes
        milliseconds."""
        if name == "__version__":
            try:
                return version("sealbus")
            except PackageNotFoundError:  # the source tree, put on the path by hand
                return "0+unknown"
        raise AttributeError(f"module 'sealbus' has no attribute {name!r}")
