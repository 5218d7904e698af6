"""The question about the policy in force, as commands ask it and as relays answer it.

It has a module of its own, because a command that asks needs nothing else of a relay. To import a
relay takes as long as everything else of such a command.
"""

from __future__ import annotations

from typing import Final

RELOAD_SUBJECT: Final = "relay.reload"
"""A subject inside the account BUS, where no bot is. Every relay answers."""


def question(*, look: bool) -> bytes:
    """Return the body of a question on :data:`RELOAD_SUBJECT`.

    ``look``: the relay looks at its folder before it answers.
    """
    return b"look" if look else b""
