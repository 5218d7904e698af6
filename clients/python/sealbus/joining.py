"""Joining a bus with a one-time token: the host makes the key of its bot, and the bus enrols it.

The private key is made here, and stays here. Its file is written before the first connection, so no
key is enrolled that nobody has. :func:`join` goes through these states:

======== ======================================================================= ===================
state    meaning                                                                 left for
======== ======================================================================= ===================
asking   it logs in with the token, and reads the record of the invitation       waiting; refused
waiting  the record has this key. It logs in with the key now and then. Every    admitted; refused
         :data:`LOOK_S` seconds it logs in with the token too, to see whether
         the invitation was withdrawn
admitted the bus takes the key. The bot connects, and the bus proves by its      done
         sealed answer that it has a key of the token
refused  the invitation is not open, or another key came first
======== ======================================================================= ===================

A lost connection, a server that is away and a relay that does not answer change no state: it tries
again until the time is over. It may be cancelled or killed at any time. Another call with the same
token and the same file goes on, and needs no token any more once the key is enrolled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nats.errors import AuthorizationError
from nats.errors import Error as NatsError

from sealbus.bot import Bot
from sealbus.credentials import Credentials
from sealbus.errors import (
    ConnectionFailed,
    CredentialsError,
    InvalidInput,
    InvitationRefused,
    Malformed,
)
from sealbus.file_hints import file_hint
from sealbus.invitation import JoinToken
from sealbus.life.connecting import ATTEMPT_S, Connector
from sealbus.life.login import login_options
from sealbus.nats.addresses import is_encrypted
from sealbus.nats.client import HardenedClient
from sealbus.nats.diagnosis import NO_RELAY_S, explain
from sealbus.nats.records import read, read_subject, record_subject
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import SESSION_KEY_MS
from sealbus.protocol.joining import JOIN, JoinProof, JoinRecord, inbox, record_id
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.limits import CERTIFICATE_AHEAD_MS

JOIN_S: Final = 600.0
"""How long joining takes at most by default: an operator has ten minutes to accept the key."""

REACH_S: Final = 10.0
"""How long no relay may answer at the beginning. Then the address or TLS is wrong, or the bus is
down."""

REFUSED_S: Final = 5.0
"""How long the bus may refuse the token. Relays read a new invitation within two seconds, and after
the acceptance of a key, a relay may know that the invitation is gone before the key is in force."""

LOOK_S: Final = 15.0
"""The pause between two looks whether the invitation is still open."""

PAUSE_FIRST_S: Final = 0.2
PAUSE_MOST_S: Final = 3.0
"""The pause between two logins, which grows by half each time. A key that needs no operator is
enrolled within two seconds, and each login costs a line in a relay's log at most."""

READ_S: Final = 2.0
"""How long the record may take. It takes milliseconds."""

CLOCK_MS: Final = CERTIFICATE_AHEAD_MS
"""By how much the clock here may be ahead of that of the bus: as much as a session key allows."""

Tell = Callable[[str], None]
"""Is told the progress, in sentences."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A bot that has joined its bus."""

    bus: str
    bot: str
    key: PublicKey
    """The enrolled key."""
    file: Path
    """The credentials."""


class _Denied(Exception):
    """A relay has refused a login."""


async def join(
    token: JoinToken,
    file: Path,
    *,
    tls: TlsFiles | None = None,
    timeout_s: float = JOIN_S,
    tell: Tell = lambda _: None,
) -> Joined:
    """Make a key, have the bus enrol it, and return when the bus admits it.

    Args:
        token: The token of `sealbus invite`.
        file: The credentials, which are written, with mode 0600. A file of an earlier call goes on.
        tls: Certificates for ``tls://`` servers, for a new file.
        timeout_s: How long all of it may take.
        tell: Is told the progress.

    Raises:
        InvitationRefused: The invitation is not open, or another key was first.
        CredentialsError: The file is another bot's, cannot be written, or the bus has another key
            than the token says.
        InvalidInput: The certificates do not fit the servers.
        ConnectionFailed: The time was over. The error names the cause.
    """
    joining = _Joining(token=token, file=file, tls=tls, tell=tell)
    try:
        async with asyncio.timeout(timeout_s):
            return await joining.run()
    except TimeoutError:
        raise joining.too_late(timeout_s) from None


class _Joining:
    """One call of :func:`join`, whose states the module names."""

    def __init__(self, *, token: JoinToken, file: Path, tls: TlsFiles | None, tell: Tell) -> None:
        self._token = token
        self._file = file
        self._tell = tell
        self._is_new = not _exists(file)
        if self._is_new:
            self._check_end()
            _check_tls(token, tls)
        self._credentials = _make(token, file, tls) if self._is_new else _go_on(token, file, tls)
        self._key = self._credentials.key_in_memory
        self._connector = Connector(self._credentials, _nothing, on_denied=lambda _: None)
        self._is_recorded = False
        """Whether the state is *waiting*."""
        self._reached = False
        """Whether a relay has answered a login."""
        self._failure: ConnectionFailed | None = None
        """The last failure of a connection, which was told."""
        self._unproven: ConnectionFailed | None = None
        """Why the bus has not proved itself, although it admits the key."""
        self._refused_since: float | None = None
        """Since when the bus refuses the token (event loop's time)."""

    async def run(self) -> Joined:
        """Go through all states."""
        made = "made a key for" if self._is_new else "going on with the key of"
        self._tell(f"{made} {self._token.bot}: {self._file}")
        self._tell(f"its fingerprint is {self._key.public.text}")
        loop = asyncio.get_running_loop()
        began = loop.time()
        look_at = began
        pause_s = PAUSE_FIRST_S
        # A new key cannot be enrolled yet.
        is_worth_trying = not self._is_new
        while True:
            try:
                if is_worth_trying and await self._is_admitted():
                    return await self._prove()
                if loop.time() >= look_at:
                    if await self._ask():
                        look_at = loop.time() + LOOK_S
                        pause_s = PAUSE_FIRST_S if not is_worth_trying else pause_s
                    is_worth_trying = True
            except ConnectionFailed as error:
                self._note(error)
                if not self._reached and loop.time() - began >= REACH_S:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, PAUSE_MOST_S)

    def too_late(self, timeout_s: float) -> ConnectionFailed:
        """The error of a call whose time is over."""
        bot = self._token.bot
        again = "say the same again to go on"
        failure = self._failure or self._unproven
        if failure is not None:
            return ConnectionFailed(
                f"{bot} has not joined within {timeout_s:g} s: {failure.what}",
                hint=f"{failure.hint}; {again}",
            )
        if not self._is_recorded:
            return ConnectionFailed(
                f"{bot} has not joined within {timeout_s:g} s: the bus has not taken its key yet",
                hint=f"does the bus know the invitation? `sealbus invites ls` tells; {again}",
            )
        return ConnectionFailed(
            f"{bot} has not joined within {timeout_s:g} s: its key waits to be accepted",
            hint=f"an operator says `sealbus invites accept {bot}` beside the bus's folder; if that"
            f" was done, compare the clocks of both machines; {again}",
        )

    # ---- logins ---------------------------------------------------------------------------------

    async def _is_admitted(self) -> bool:
        """Whether the bus admits the key."""
        now_ms = _now_ms()
        options = self._connector.options(self._credentials.new_session_key(now_ms), frozenset())
        try:
            client = await self._login(options)
        except _Denied:
            return False
        await client.close()
        return True

    async def _ask(self) -> bool:
        """Log in with the token, and look at the record. Whether it has this key.

        Raises:
            InvitationRefused: The invitation is not open for this key.
            ConnectionFailed: There is no answer.
        """
        token = self._token
        if self._is_recorded and token.ends_ms <= _now_ms():
            return True  # nobody can withdraw it any more, and an operator may still accept
        self._check_end()
        raw = self._key.public.raw
        proof = JoinProof.make(token.key, raw, bus=token.bus, bot=token.bot)
        said = AdmissionText(token.bot, self._key.public.text, (), proof.word)
        try:
            client = await self._login(
                login_options(
                    said,
                    self._key,
                    inbox_prefix=inbox(proof.token_key),
                    attempt_s=ATTEMPT_S,
                )
            )
        except _Denied:
            self._refuse_in_time()
            return False
        self._refused_since = None
        try:
            record = await self._read(client, proof.token_key)
        finally:
            await client.close()
        if record is None:
            return False
        self._check(record)
        return True

    async def _read(self, client: HardenedClient, token_key: bytes) -> JoinRecord | None:
        subject = read_subject(record_subject(JOIN, record_id(token_key)))
        try:
            data = await read(client, subject, READ_S)
            return None if data is None else JoinRecord.decode(data)
        except (NatsError, OSError, TimeoutError) as error:
            raise ConnectionFailed(
                f"the bus does not show the record of the invitation ({type(error).__name__})",
                hint="is a relay of the same version running? Its log says more",
            ) from None
        except Malformed as error:
            raise ConnectionFailed(
                f"the bus shows a record that is not readable: {error.what}",
                hint="use the same version of Sealbus here and at the relay",
            ) from None

    def _check(self, record: JoinRecord) -> None:
        """Come into the state *waiting*, or *refused*."""
        bot = self._token.bot
        if record.key != self._key.public.raw:
            first = PublicKey(record.key, KeyKind.BOT).text
            raise InvitationRefused(
                f"another key of {bot} came first with this token, at {_time(record.at_ms)}:"
                f" {first}",
                hint="if that is not another file of yours, somebody else has the token: have an"
                f" operator say `sealbus invites rm {bot}` and `sealbus keys revoke {bot} {first}`",
            )
        behind_ms = record.at_ms - _now_ms()
        if behind_ms > SESSION_KEY_MS:
            raise InvitationRefused(
                f"the clock of this machine is {behind_ms // 60_000} minutes behind that of the"
                " bus, so no session key from here is valid",
                hint="set it right (NTP), and say the same again",
            )
        if not self._is_recorded:
            self._is_recorded = True
            self._tell(
                f"the bus has the key; it is enrolled within seconds, or when an operator says "
                f"`sealbus invites accept {bot}`"
            )

    def _refuse_in_time(self) -> None:
        """Note a refusal. Come into the state *refused* where it lasts."""
        now = asyncio.get_running_loop().time()
        if self._refused_since is None:
            self._refused_since = now
        if now - self._refused_since >= REFUSED_S:
            raise InvitationRefused(
                f"the bus {self._token.bus} refuses the token of {self._token.bot}: its invitation"
                " was withdrawn or used, has ended, is not known to the relays yet, or is of"
                " another bus of this name; or the key is enrolled already",
                hint="the relay's log says which; `sealbus invites ls` shows the open invitations,"
                f" and `sealbus invite {self._token.bot}` makes another for the same file",
            )

    def _check_end(self) -> None:
        """Raise :class:`InvitationRefused` if the token has ended by the clock here."""
        late_ms = _now_ms() - self._token.ends_ms
        if late_ms > CLOCK_MS:
            raise InvitationRefused(
                f"the token of {self._token.bot} ended at {_time(self._token.ends_ms)}, which is"
                f" {late_ms // 60_000} minutes ago by the clock of this machine",
                hint="if the clock is right, have an operator make another with `sealbus invite"
                f" {self._token.bot}`; if a key of yours came in time, `sealbus invites accept"
                f" {self._token.bot}` still enrols it",
            )

    async def _login(self, options: dict[str, Any]) -> HardenedClient:
        """Log in at the first server that admits the login.

        Raises:
            _Denied: A relay has refused it.
            ConnectionFailed: No server could be reached, or no relay answered.
        """
        failure = ConnectionFailed("the credentials name no server")
        for server in self._credentials.servers:
            try:
                client = await self._attempt(server, options)
            except ConnectionFailed as error:
                failure = error
            else:
                self._reached = True
                self._failure = None
                return client
        raise failure

    async def _attempt(self, server: str, options: dict[str, Any]) -> HardenedClient:
        client = HardenedClient(self._credentials.tls)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(ATTEMPT_S):
                await client.connect(servers=[server], **options)
                await client.flush(ATTEMPT_S)
            if client.is_closed:
                raise client.last_error or ConnectionError("closed")
        except Exception as error:
            # Of any type: whatever a server's bytes bring about ends this attempt, and no more.
            client.abort()
            waited_s = loop.time() - began
            if _is_denial(error) and waited_s < NO_RELAY_S:
                self._reached = True
                self._failure = None
                raise _Denied from error
            raise explain(
                error,
                server,
                self._token.bot,
                stage=client.stage,
                waited_s=waited_s,
            ) from error
        except BaseException:
            client.abort()
            raise
        return client

    def _note(self, error: ConnectionFailed) -> None:
        """Tell a failure, unless it was the last one already."""
        if self._failure is None or error.what != self._failure.what:
            self._tell(f"{error.what}; trying again ({error.hint})")
        self._failure = error

    # ---- the end --------------------------------------------------------------------------------

    async def _prove(self) -> Joined:
        """Connect as the bot, and hear the bus say something that is sealed with its key.

        Raises:
            CredentialsError: The bus has another key than the token says.
            ConnectionFailed: No relay answers.
        """
        bot = Bot(self._credentials)
        self._unproven = ConnectionFailed(
            f"the key of {bot.name} is enrolled, and no relay of the bus answers it",
            hint="is a relay running? `sealbus ping` tells",
        )
        try:
            await bot.connect(REACH_S)
            async with asyncio.timeout(REACH_S):
                await bot.grants()
        except (ConnectionFailed, TimeoutError):
            raise self._unproven from None
        finally:
            await bot.close(0)
        return Joined(self._token.bus, self._token.bot, self._key.public, self._file)


def _exists(file: Path) -> bool:
    try:
        file.lstat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a path"
        raise CredentialsError(f"{file} cannot be read: {why}", hint=file_hint(error)) from None
    return True


def _make(token: JoinToken, file: Path, tls: TlsFiles | None) -> Credentials:
    """Make a key, and write its credentials."""
    key = SigningKey.generate(KeyKind.BOT)
    made = Credentials(token.bus, token.bot, key, token.servers, token.bus_keys, tls=tls)
    made.write(file)
    return made


def _go_on(token: JoinToken, file: Path, tls: TlsFiles | None) -> Credentials:
    """Read the credentials of an earlier call. Raises :class:`CredentialsError` for others."""
    if file.is_file() and file.stat().st_size == 0:
        raise CredentialsError(
            f"{file} is empty: an earlier join was killed before it wrote the key",
            hint="delete the file, and say the same again",
        )
    elsewhere = "no file is overwritten: name another with --out"
    try:
        found = Credentials.load(file)
    except CredentialsError as error:
        raise CredentialsError(error.what, hint=error.hint or elsewhere) from None
    if (found.bus, found.bot) != (token.bus, token.bot):
        raise CredentialsError(
            f"{file} has the credentials of {found.bot} on the bus {found.bus}; the token is for "
            f"{token.bot} on {token.bus}",
            hint=elsewhere,
        )
    # After a rotation of the bus key, a later token names more keys than the file.
    if not found.bus_keys & token.bus_keys:
        raise CredentialsError(
            f"{file} names other bus keys than the token: it is of another bus {found.bus}",
            hint=elsewhere,
        )
    if tls is not None and tls != found.tls:
        raise CredentialsError(
            f"{file} names other certificates than the command",
            hint="correct ca, cert and cert_key in the file, and leave the options out",
        )
    return found


def _check_tls(token: JoinToken, tls: TlsFiles | None) -> None:
    if tls is not None and not is_encrypted(token.servers[0]):
        raise InvalidInput(
            f"certificates are given, and the servers of the token have no TLS: "
            f"{', '.join(token.servers)}",
            hint="leave --ca, --cert and --cert-key out; or have an operator give the bus TLS, and"
            " make another token",
        )


def _is_denial(error: Exception) -> bool:
    return isinstance(error, AuthorizationError) or "authorization" in str(error).lower()


async def _nothing(_: HardenedClient) -> None:
    """Attach nothing."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _time(at_ms: int) -> str:
    """A time for people. Beyond the year 9999 it is the last one before."""
    at = datetime.fromtimestamp(min(at_ms // 1000, 253_402_300_799), UTC)
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
