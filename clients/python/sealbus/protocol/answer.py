"""An answer that is not the one that was asked for: the payload of the schema ``sealbus.error.v1``.

Every answer to a request may name this schema instead of the one that the policy names, so that the
asker learns at once that it failed and why. Writer and reader stand side by side here; the relay's
gate holds answers to :data:`ERROR_DOCUMENT`.
"""

from __future__ import annotations

from typing import Any, Final

from sealbus.protocol.codec import pack_json

ERROR_ID: Final = "sealbus.error"
ERROR_VERSION: Final = 1
ERROR_SCHEMA: Final = f"{ERROR_ID}.v{ERROR_VERSION}"

MAX_ERROR_CHARS: Final = 64
"""Longest ``error``: the name of an exception's class, or a word that programs can compare."""

MAX_MESSAGE_CHARS: Final = 200
"""Longest ``message``: a sentence for people."""

ERROR_DOCUMENT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "minLength": 1, "maxLength": MAX_ERROR_CHARS},
        "message": {"type": "string", "maxLength": MAX_MESSAGE_CHARS},
    },
    "required": ["error", "message"],
    "additionalProperties": False,
}

NOBODY_LISTENS: Final = "nobody-listens"
"""The relay's: nobody is subscribed to the request's subject."""

NOT_SERVED: Final = "not-served"
"""The relay's: a service of the bus refuses a request. The message says why."""

NOT_GRANTED: Final = "not-granted"
"""The relay's: a service of the bus does not do it, because the policy does not grant it to the
bot."""

UNAVAILABLE: Final = "unavailable"
"""The relay's: a service of the bus cannot do it now."""

BUSY: Final = "busy"
"""The relay's: too many requests to the bus's services wait, of this bot or of all."""

ASK_AGAIN: Final = frozenset({UNAVAILABLE, BUSY})
"""Errors of the bus's services after which the same question may be answered."""

BUSY_PAUSE_S: Final = 1.0
"""How long a client waits before it asks again."""

ANSWER_REFUSED: Final = "answer-refused"
"""A bot's: the answer that its handler gave was refused, by the relay or before it was sent."""


def error_payload(error: str, message: str) -> bytes:
    """The packed payload of an answer that says that the request failed.

    Texts that are too long are cut. A surrogate becomes a question mark, because it cannot be sent.
    """
    return pack_json(
        {
            "error": _clean(error)[:MAX_ERROR_CHARS] or "error",
            "message": _clean(message)[:MAX_MESSAGE_CHARS],
        }
    )


def _clean(text: str) -> str:
    # Python has surrogates for bytes of a file name that are not UTF-8.
    return text.encode("utf-8", "replace").decode()


def read_error(payload: Any) -> tuple[str, str]:
    """``error`` and ``message`` of such an answer. The relay has held them to the schema."""
    if not isinstance(payload, dict):
        return "error", ""
    return str(payload.get("error", "error")), str(payload.get("message", ""))
