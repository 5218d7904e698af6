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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nats.aio.client import Client

from sealbus.errors import InvalidInput, Malformed
from sealbus.nats.records import read_subject, record_subject
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.joining import JOIN, JoinProof, JoinRecord, inbox, record_id
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus_broker.door.errands import Latest, NotRecorded, write
from sealbus_broker.door.rights import Rights
from sealbus_broker.gate.policy import BotRule, Policy
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

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
        self._latest = Latest(monotonic)

    async def record(self, joining: Joining, now_ms: int) -> str | None:
        """Record a login, or return the reason why it is refused.

        ``now_ms``: the time of the login (ms since 1970).
        """
        if (why := self._latest.refuse(joining.proof.token_key, MOST_LOGINS)) is not None:
            return why
        mine = JoinRecord(joining.key, joining.proof, now_ms)
        try:
            first = JoinRecord.decode(
                await write(self._nc, joining.subject, mine.encode(), RECORD_S)
            )
        except NotRecorded as error:
            return str(error)
        except Malformed as error:
            return f"the record of the invitation is not readable: {error.what}"
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


def _text(raw: bytes) -> str:
    return PublicKey(raw, KeyKind.BOT).text
