"""Logins with a join proof: a bot whose key is not enrolled yet.

Such a login proves three things. The bot has an open invitation. The invitation's key has signed
the key that is to be enrolled (:mod:`sealbus.protocol.joining`). And that key has signed the
challenge. A login without an open invitation is refused like any other, so a stranger learns
nothing.

A *joining* login goes through these states:

======== ===================================================================== =====================
state    meaning                                                               left for
======== ===================================================================== =====================
judged   :func:`judge_join` has found nothing against it. Pure                 recorded; refused
recorded RECORDS has a record of the invitation: of this key, or of the one    admitted
         that came first
admitted for half a minute, the session may read this record and do nothing    its end
         else
refused  there were too many logins by this token, or nothing could be         another attempt
         recorded in time
======== ===================================================================== =====================

The record is written once, whatever number of relays is asked at a time. So the first key wins, and
the same key may come again. Whoever comes with another key reads whose the first one is. Where the
answer is lost, with the connection or by a relay that ends, the bot asks again.

The door enrols nobody. The clerk of the bus (:mod:`sealbus_broker.policy.inviting`) reads the
record, and believes it no more than the door believes the bot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from sealbus.errors import InvalidInput, Malformed
from sealbus.nats.records import read_subject, record_subject
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.joining import JOIN, JoinProof, JoinRecord, inbox, record_id
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus_broker.door.rights import Rights
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import BotRule, Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.records import write_once

log = get_logger(__name__)

SESSION_MS: Final = 30_000
"""How long such a session lasts. A bot reads one record, within milliseconds of its login."""

MOST_LOGINS: Final = 16
"""How many logins by one token one relay admits within :data:`SESSION_MS`. A bot that waits for an
operator makes two. Each costs a write in JetStream."""

RECORD_S: Final = 1.5
"""How long the record may take: most of the two seconds that a login has."""


@dataclass(frozen=True, slots=True)
class Joining:
    """A joining login, judged."""

    bot: str
    key: bytes
    """The raw public key that is to be enrolled. It signs the challenge."""
    proof: JoinProof

    @property
    def subject(self) -> str:
        """The subject of its record."""
        return record_subject(JOIN, record_id(self.proof.token_key))

    @property
    def rights(self) -> Rights:
        """The rights of its session."""
        return Rights(
            publish=(read_subject(self.subject),),
            subscribe=(f"{inbox(self.proof.token_key)}.>",),
            deny=(),
        )


def judge_join(
    said: AdmissionText, proof: JoinProof, bot: BotRule, policy: Policy, now_ms: int
) -> Joining | str:
    """Judge the words of a joining login, or return the reason why it is refused.

    Args:
        said: The admission text.
        proof: The proof in it.
        bot: The bot that it names.
        policy: The policy in force.
        now_ms: The time of the login (ms since 1970).
    """
    # The invitation before the signatures: only its key is worth the cost of verifying.
    invitation = bot.invitations.get(proof.token_key)
    if invitation is None:
        return (
            "the bot has no such invitation: it was withdrawn, used, or is another bot's or bus's"
        )
    if not invitation.is_open(now_ms, policy.limits.clock_skew_ms):
        return "the invitation has ended, or has not begun"
    if said.consumers:
        return "a login with a join proof has no consumers"
    try:
        key = PublicKey.parse(said.key, KeyKind.BOT).raw
    except InvalidInput as error:
        return error.what
    if not proof.holds(bus=policy.bus, bot=bot.name, key=key):
        return "the join proof is not for this key, bot and bus"
    # Relays would refuse the whole folder with a key of two.
    if any(key in one.keys or key in one.invitations for one in policy.bots.values()):
        return "the key that would join is enrolled already, or belongs to an invitation"
    return Joining(bot.name, key, proof)


class Joins:
    """Records joining logins on the door's connection.

    Its state is the times of the latest logins by each token. They are lost with the process.
    """

    def __init__(self, nc: Client, monotonic: Callable[[], float]) -> None:
        self._nc = nc
        self._monotonic = monotonic
        self._latest: dict[bytes, list[float]] = {}

    async def record(self, joining: Joining, now_ms: int) -> str | None:
        """Record a login, or return the reason why it is refused.

        ``now_ms``: the time of the login (ms since 1970).
        """
        if self._is_too_much(joining.proof.token_key):
            return f"more than {MOST_LOGINS} logins by one token within {SESSION_MS // 1000} s"
        mine = JoinRecord(joining.key, joining.proof, now_ms)
        try:
            async with asyncio.timeout(RECORD_S):
                stored = await write_once(self._nc, joining.subject, mine.encode(), RECORD_S)
            first = JoinRecord.decode(stored)
        except StreamsUnusable as error:
            return error.what
        except Malformed as error:
            return f"the record of the invitation is not readable: {error.what}"
        except (NatsError, OSError, TimeoutError) as error:
            return f"JetStream did not record the key in time ({type(error).__name__})"
        fields = {
            "bot": joining.bot,
            "key": _text(joining.key),
            "invitation": _text(joining.proof.token_key),
        }
        if first.key == joining.key:
            log.info("invitation.joined", **fields)
        else:
            # Two hosts have the token. An operator has to look which is the right one.
            log.warning("invitation.joined-twice", **fields, first=_text(first.key))
        return None

    def _is_too_much(self, token_key: bytes) -> bool:
        since = self._monotonic() - SESSION_MS / 1000
        # Only keys of open invitations come here, so they are few.
        self._latest = {
            one: times for one, times in self._latest.items() if times and times[-1] > since
        }
        times = [at for at in self._latest.get(token_key, []) if at > since]
        self._latest[token_key] = times
        if len(times) >= MOST_LOGINS:
            return True
        times.append(self._monotonic())
        return False


def _text(raw: bytes) -> str:
    return PublicKey(raw, KeyKind.BOT).text
