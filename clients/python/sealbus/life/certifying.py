"""A session key for each connection, from a signer that may block, fail or hang.

How it works. A key in memory signs at once, in the event loop. Any other signer is called in a
daemon thread, so that one that hangs blocks neither the loop nor the end of the process. There is
one such call at a time: an attempt to connect that finds a call under way waits for it, and does
not begin another. A call that outlives its attempt is of use to the next one, if it ends within
:data:`LATE_S`. So a signer that waits for a person is not asked again and again.

The only state is the call under way. The attempt to connect bounds the time that it is waited for.
A lost connection changes nothing here.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from typing import Final

from sealbus.credentials import Credentials
from sealbus.errors import ConnectionFailed, CredentialsError, SealbusError
from sealbus.protocol.certificate import SESSION_KEY_MS, SessionKey
from sealbus.protocol.keys import SigningKey
from sealbus.supervision import kind, start_thread

SIGNER_S: Final = 3.0
"""How long a signer may take in one attempt to connect."""

LATE_S: Final = 60.0
"""The longest time between the question and the use of an answer. A person needs some seconds to
confirm. The certificate lives for ten minutes from the question on, and a session for up to four
minutes and ten seconds, so one minute is spare."""


class Certifier:
    """Makes the session keys of one bot."""

    within_s: Final = SIGNER_S
    """How long :meth:`session_key` may take."""

    renew_s: Final = SESSION_KEY_MS / 2000
    """In how many seconds a session has to be renewed: half of the life of its key."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._under_way: _Call | None = None

    @property
    def enrolled(self) -> bytes | None:
        """The raw public key that answers for the session keys."""
        return self._credentials.key.public.raw

    def doubt(self) -> None:
        """Do nothing: each connection has a new session key."""

    def explain(self, error: Exception | None) -> ConnectionFailed:
        """Explain an attempt that ended with ``error`` before there was a session key. ``None``: it
        was cancelled."""
        return unsigned(error, self._credentials.bot, self.within_s)

    async def session_key(self, server: str) -> SessionKey:  # noqa: ARG002  # another kind needs it
        """A new session key.

        Raises :class:`~sealbus.CredentialsError` if the signer fails. May be cancelled at any time:
        the next call then takes the answer.
        """
        if isinstance(self._credentials.key, SigningKey):
            return self._credentials.new_session_key(time.time_ns() // 1_000_000)
        while True:
            if self._under_way is None:
                self._under_way = _Call(self._credentials)
            call = self._under_way
            answer = await asyncio.wrap_future(call.answer)
            self._under_way = None
            if isinstance(answer, SealbusError):
                raise answer
            if time.monotonic() - call.began <= LATE_S:
                return answer


class _Call:
    """One call of a signer, in a thread of its own."""

    def __init__(self, credentials: Credentials) -> None:
        self.began = time.monotonic()
        self.answer: Future[SessionKey | SealbusError] = Future()
        # From now on nobody can cancel it: whoever waits may give up, and the call goes on.
        self.answer.set_running_or_notify_cancel()
        self._credentials = credentials
        start_thread(f"signer of {credentials.bot}", self._sign, self._failed)

    def _sign(self) -> None:
        self.answer.set_result(self._credentials.new_session_key(time.time_ns() // 1_000_000))

    def _failed(self, error: BaseException) -> bool:
        if not isinstance(error, SealbusError):  # an unexpected one, with perhaps a secret in it
            error = CredentialsError(f"the signer of {self._credentials.bot} failed: {kind(error)}")
        self.answer.set_result(error)
        return False


def unsigned(error: Exception | None, bot: str, within_s: float) -> ConnectionFailed:
    """Explain an attempt that ended with ``error`` before there was a session key.

    ``None``: it was cancelled. ``within_s``: how long an attempt may take.
    """
    if isinstance(error, SealbusError):
        return ConnectionFailed(error.what, hint=error.hint)
    if error is not None and not isinstance(error, TimeoutError):
        return ConnectionFailed(
            f"{bot} could not make a session key: {kind(error)}",
            hint="has this process too many threads, or too little memory?",
        )
    how_long = "yet" if error is None else f"within {within_s:g} s"
    return ConnectionFailed(
        f"the signer of {bot} has not answered {how_long}",
        hint="does the agent or the module with the key work, or does it wait for somebody? "
        f"{bot} goes on by itself when it answers",
    )
