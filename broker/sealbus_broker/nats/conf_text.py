"""Text in the language of nats-server's configuration. Pure."""

from __future__ import annotations

from pathlib import Path

from sealbus.errors import InvalidInput
from sealbus.text_file import is_utf8


def quote(text: str | Path) -> str:
    """Return ``text`` as a quoted string of the configuration language.

    The language has the escapes of Go, and reads ``$name`` only outside of quotes.

    Raises:
        InvalidInput: The text has control characters. No path of a bus has them, and an error is
            better than a line that ends early. Or it is a path with bytes that are not UTF-8.
    """
    given = str(text)
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in given):
        raise InvalidInput(f"{given!r} has control characters", hint="use another folder or name")
    if not is_utf8(given):
        raise InvalidInput(
            f"{given!r} is not UTF-8, and nats-server cannot be told of it",
            hint="use another folder or name",
        )
    return '"' + given.replace("\\", "\\\\").replace('"', '\\"') + '"'


def place(host: str, port: int) -> str:
    """Return ``HOST:PORT``, as a configuration and a URL have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
