"""Bots that have flooded the bus, and the time before which the door admits none of their sessions.

A relay that ends the sessions of such a bot tells all relays and doors on :data:`PAUSES_SUBJECT`,
and again each second (:mod:`sealbus_broker.relay.floods.watch`). So a door that has just started
knows within a second, and a relay that dies takes nothing with it, because the others say it too.
On a lost connection nothing is forgotten.

Each further flood makes the pause twice as long.

An *errand* (:mod:`sealbus_broker.door.errands`) comes with a token alone, which others than the bot
may hold: a join token whose key an operator has not approved yet. So errands have a pause of their
own, and their floods end no session of the bot.

This module is pure: it reads no clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.limits import MAX_PAUSE_MS
from sealbus.protocol.subjects import is_name

PAUSES_SUBJECT: Final = "relay.pauses"
"""A subject inside the account BUS, where no bot is. Relays publish. Relays and doors listen."""

FIRST_MS: Final = 60_000
"""The first pause. A flood lasts for half a second at most until its bot's sessions end. That is
less than a hundredth of this time. So all but the slowest hundredth of the messages of others take
as long as without a bot that comes back and floods again."""

CALM_MS: Final = 600_000
"""A bot that does not flood for so long after a pause begins with the first pause again."""

MOST: Final = 1024
"""How many bots are remembered. Beyond that the oldest pause is forgotten, and its bot is cut off
again when it floods again."""


_ERRANDS: Final = "errands."
"""Begins the name of a pause of errands. No name of a bot has a dot."""


def errands_of(bot: str) -> str:
    """Return the name under which the errands of ``bot`` pause."""
    return f"{_ERRANDS}{bot}"


def bot_of(name: str) -> str:
    """Return the bot of a pause, or of one of :func:`errands_of`."""
    return name.removeprefix(_ERRANDS)


@dataclass(frozen=True, slots=True)
class Pause:
    """The pause of one bot."""

    until_ms: int
    """Until when it lasts (ms since 1970)."""
    floods: int
    """How often the bot has flooded, this time included."""


class Pauses:
    """The pauses that this process knows of."""

    def __init__(self) -> None:
        self._bots: dict[str, Pause] = {}
        """By bot, or :func:`errands_of` one, the latest pause last."""

    def begin(self, bot: str, now_ms: int) -> Pause:
        """The bot floods: its next pause begins now. During a pause nothing changes."""
        before = self._bots.get(bot)
        if before is not None and before.until_ms > now_ms:
            return before
        floods = 1
        if before is not None and now_ms < before.until_ms + CALM_MS:
            floods = before.floods + 1
        length_ms = min(FIRST_MS * 2 ** min(floods - 1, 30), MAX_PAUSE_MS)
        pause = Pause(now_ms + length_ms, floods)
        self._keep(bot, pause)
        return pause

    def left_ms(self, bot: str, now_ms: int) -> int:
        """Return how long the pause of ``bot`` still lasts; 0: it has none."""
        pause = self._bots.get(bot)
        return 0 if pause is None else max(0, pause.until_ms - now_ms)

    def lasting(self, now_ms: int) -> dict[str, Pause]:
        """Return the pauses that are not over, by bot."""
        return {bot: one for bot, one in self._bots.items() if one.until_ms > now_ms}

    def encode(self, now_ms: int) -> bytes:
        """Return the pauses that are not over, for others."""
        rows = [[bot, one.until_ms, one.floods] for bot, one in self.lasting(now_ms).items()]
        return json.dumps(rows).encode()

    def take(self, data: bytes, now_ms: int) -> list[str]:
        """Take the pauses of another relay; return the bots whose pause was not known here. Of two
        pauses of a bot the later one counts.

        Raises:
            Malformed: The bytes are none. Then no pause is taken.
        """
        try:
            rows = [(str(bot), int(until), int(floods)) for bot, until, floods in json.loads(data)]
        except (ValueError, TypeError, RecursionError):
            raise Malformed("not the pauses of a relay") from None
        new: list[str] = []
        for bot, until_ms, floods in rows[:MOST]:
            # A clock that is far ahead locks nobody out for longer than a pause may last.
            is_one = is_name(bot_of(bot)) and now_ms < until_ms <= now_ms + 2 * MAX_PAUSE_MS
            known = self._bots.get(bot)
            if is_one and floods > 0 and (known is None or known.until_ms < until_ms):
                if not self.left_ms(bot, now_ms):
                    new.append(bot)
                self._keep(bot, Pause(until_ms, floods))
        return new

    def _keep(self, bot: str, pause: Pause) -> None:
        self._bots.pop(bot, None)
        self._bots[bot] = pause
        if len(self._bots) > MOST:
            del self._bots[next(iter(self._bots))]
