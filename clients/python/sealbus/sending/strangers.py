"""Receipts under a bus key that is not known: a bot with the wrong bus key gets them, and learns
from them that its key is wrong.

A key is known if the credentials name it, or if it follows from one that they name
(:mod:`sealbus.trust`).

Such a bot is admitted, its messages are accepted and delivered, and it believes no verdict on them,
because it cannot tell the bus's key from a thief's. Waiting in silence helps nobody, so the keys
are named. A receipt proves nothing about its key: whoever sits on the wire can make one. So this
only ever ends a wait, never makes a message count as accepted, and only while no receipt under a
known key has been seen: credentials that once were right are not doubted again.

The message may have been accepted. So its caller gets ``Unresolved`` with the nonce, under which a
bot with other credentials finds the verdict out. Its cause is a ``CredentialsError`` with both
keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sealbus.credentials import Credentials
from sealbus.errors import CredentialsError, Malformed
from sealbus.log import log
from sealbus.protocol.codec import split_sealed
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.limits import MAX_STAMP_BYTES
from sealbus.protocol.seal import Context, Seal, Verifier
from sealbus.protocol.stamp import Stamp
from sealbus.sending.burst import Burst
from sealbus.supervision import Supervisor
from sealbus.trust import Trust

GRACE_S: Final = 1.0
"""How long a receipt under a known key may still come and win: long for a relay, and far less than
a caller waits."""


class Strangers:
    """Looks at receipts that cannot be believed, until one can."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        trust: Trust,
        verifier: Verifier,
        supervisor: Supervisor,
    ) -> None:
        """
        Args:
            credentials: the bus keys that the bot was given.
            trust: those that receipts are believed under, now.
            verifier: tells whether a seal holds, whoever's key it is.
            supervisor: answers for the timers.
        """
        self._credentials = credentials
        self._trust = trust
        self._verifier = verifier
        self._supervisor = supervisor
        self._told = False
        """Whether the log has a line about it: one is enough."""
        self.doubtful = True
        """Whether no receipt under a known key has been seen yet."""

    def doubt(self, receipt: bytes, find: Callable[[bytes], Burst | None]) -> bool:
        """Whether ``receipt`` is the verdict on a message under a key that is not known.

        If so, the message's caller waits no longer than a receipt under a known key may take.
        ``find``: gives the message with a nonce.
        """
        found = self._open(receipt)
        if found is None:
            return False
        stamp, key = found
        burst = find(stamp.nonce)
        if burst is None or not burst.is_answered_by(stamp):
            return False
        if burst.doubt is None:
            burst.doubt = self._supervisor.later(
                "doubting a bus key",
                GRACE_S,
                self._disown,
                burst,
                key,
            )
        return True

    def _disown(self, burst: Burst, key: bytes) -> None:
        burst.doubt = None
        # Looked at again, because a receipt under a known key may have come since.
        if self.doubtful and not burst.is_over:
            why = self._error(key)
            burst.end(lambda index: burst.disbelieved(index, why))

    def _open(self, data: bytes) -> tuple[Stamp, bytes] | None:
        """The stamp in ``data`` and the raw key of its seal, if the seal holds and the key is not
        known."""
        if not self.doubtful or len(data) > MAX_STAMP_BYTES:
            return None
        try:
            body, signed, sealed = split_sealed(data)
            seal = Seal.decode(sealed)
            if seal.key in self._trust.keys or not self._verifier.verify(
                Context.STAMP,
                seal,
                signed,
            ):
                return None
            return Stamp.decode(body), seal.key
        except Malformed:
            return None

    def _error(self, key: bytes) -> CredentialsError:
        """The reason why the verdict is not believed. The log has it once."""
        theirs = PublicKey(key, KeyKind.BUS).text
        ours = " ".join(
            sorted(PublicKey(raw, KeyKind.BUS).text for raw in self._credentials.bus_keys),
        )
        bot = self._credentials.bot
        error = CredentialsError(
            f"this bus answers with the bus key {theirs}, and the credentials of {bot} name {ours}",
            hint=f"if {theirs} is this bus's key, make new credentials: `sealbus keys new {bot} "
            "--out FILE` in the bus's folder",
        )
        if not self._told:
            self._told = True
            log.error("%s", error.what)
        return error
