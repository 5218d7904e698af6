"""A bus in memory for the tests of a bot: the real relay and gate, without a server or a port.

It needs the broker's libraries: ``pip install 'sealbus[broker]'``. ``docs/testing.md`` shows how to
use it. No other module of the client imports this one. This one imports the broker only when one of
its names is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sealbus_broker.testing.bus import TestBus
    from sealbus_broker.testing.kept import Kept
    from sealbus_broker.testing.refusals import expect_refused

__all__ = ["Kept", "TestBus", "expect_refused"]

_PLACES: Final = {
    "Kept": "sealbus_broker.testing.kept",
    "TestBus": "sealbus_broker.testing.bus",
    "expect_refused": "sealbus_broker.testing.refusals",
}

if not TYPE_CHECKING:  # a type checker would believe that a module with this has any name

    def __getattr__(name: str) -> Any:
        """Look a name up in the broker. Raises :class:`ImportError` without its libraries."""
        if name not in _PLACES:
            raise AttributeError(f"module 'sealbus.testing' has no attribute {name!r}")
        try:
            return getattr(import_module(_PLACES[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in {"", "sealbus"}:
                raise  # a broken installation, not a missing extra
            raise ImportError(
                f"sealbus.testing needs the Python package {error.name!r}, which is not "
                "here. Only the"
                " client library is installed: pip install 'sealbus[broker]'",
                name=error.name,
            ) from error
