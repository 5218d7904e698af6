"""Why there is no connection: one sentence for each cause, and a hint that helps. Pure."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Mapping
from typing import Final

from nats.errors import AuthorizationError, ProtocolError, UnexpectedEOF
from nats.errors import Error as NatsError

from sealbus.errors import ConnectionFailed, SealbusError
from sealbus.nats.tls_files import UnusableTls
from sealbus.nats.transport import SpokeFirst, Stage, Unreachable
from sealbus.protocol.notice import Ended
from sealbus.supervision import kind

_NO_ROUTE: Final = frozenset(
    {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN},
)

_ADMISSION_HINT: Final = (
    "the relay's log says why: an unknown bot, a key that is not its own, expired or revoked, or a "
    "clock here that is a minute ahead or ten minutes behind; a bot or key that was just added is "
    "unknown until the relays have read their folder"
)

STORES_NOTHING: Final = "the bus stores nothing: its disk is full"
"""The words of a bus with a nats-server of its own to whoever connects while that server is
stopped, because its disk is full."""

NO_RELAY_S: Final = 1.8
"""A relay refuses within milliseconds. nats-server refuses by itself when no relay has answered for
two seconds."""


_SILENCE: Final[Mapping[Stage, tuple[str, str]]] = {
    Stage.LOOKING_UP: (
        "the host name in {server} could not be looked up within {waited_s:.1f} s",
        "does a name server answer this machine?",
    ),
    Stage.CONNECTING: (
        "no answer from {server} within {waited_s:.1f} s",
        "is the host up, and does a firewall let it through?",
    ),
    Stage.REACHED: (
        "{server} accepted the connection and then said nothing for {waited_s:.1f} s",
        (
            "is that a nats-server, and does it run? One that was stopped or is overloaded does "
            "this, and so does a server that waits for TLS"
        ),
    ),
    Stage.ENCRYPTING: (
        "{server} began TLS and did not go on with it for {waited_s:.1f} s",
        (
            "does that nats-server run? One that was stopped or is overloaded does this, and so "
            "does something else on that port"
        ),
    ),
}
"""Sentence and hint for a deadline that passed: one error at each stage, and another cause."""

_ENDED_HINTS: Final = {
    Ended.BOT_REMOVED: "have an operator put {bot} into policy.yaml again, or stop this process",
    Ended.KEY_REVOKED: "if the key was replaced, start this process with the new credentials; "
    "`sealbus keys new {bot} --out FILE` in the bus's folder makes some",
    Ended.CERTIFICATES_VOID: "nothing to do: {bot} makes a new session key and comes back",
    Ended.FLOODING: "{bot} comes back by itself when its pause is over; have it send less, or have "
    "an operator raise limits.flood_messages or limits.flood_bytes",
}


_NOT_YET_VALID: Final = 9
"""OpenSSL's number (``X509_V_ERR_CERT_NOT_YET_VALID``) for a certificate that begins later."""

_EXPIRED: Final = 10
"""Its number (``X509_V_ERR_CERT_HAS_EXPIRED``) for one that has ended."""


_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""OpenSSL's words, of version 3.4 and older and of newer ones, for bytes that are not TLS."""

_NO_TLS_CAUSE: Final = "what it says is not TLS"
_NO_TLS_HINT: Final = (
    "with `ca` in the credentials, TLS comes first: is the port right, and has nats-server "
    "`handshake_first: true`?"
)

_ALERT_HINTS: Final = {
    "CERTIFICATE_REQUIRED": "that server wants a certificate: name `cert` and `cert_key` in the "
    "credentials; `sealbus certs new BOT` makes them",
    "CERTIFICATE_EXPIRED": "`sealbus certs show` shows its time, and `sealbus certs new BOT "
    "--renew` makes a new one; if it has not ended, compare the clocks of both machines",
    "UNKNOWN_CA": "it is of another authority than the server's `ca_file`: have the operators of "
    "this bus make one",
    "BAD_CERTIFICATE": "it has to be for clients (extendedKeyUsage clientAuth), and of the "
    "server's `ca_file`",
}
"""The alerts of RFC 8446, section 6.2, with which a server refuses a client's certificate."""


class NotEncrypted(OSError):
    """A server named as ``tls://`` does not offer TLS. Nothing was sent to it."""


class NoChallenge(OSError):
    """A server's first line has nothing to sign: it is not one of a bus. Nothing was sent to it."""


def is_refused(error: Exception) -> bool:
    """Whether nobody listens at any address of the server."""
    return errno.ECONNREFUSED in _numbers(error)


def is_denied(error: Exception) -> bool:
    """Whether nats-server refused the login, because a relay said so or because no relay did."""
    return isinstance(error, AuthorizationError) or "authorization" in str(error).lower()


def explain(
    error: Exception,
    server: str,
    bot: str,
    *,
    stage: Stage,
    waited_s: float,
) -> ConnectionFailed:
    """Explain ``error`` to ``bot`` at ``server``.

    ``stage``: how far the attempt came. ``waited_s``: how long it took.
    """
    if isinstance(error, TimeoutError):
        what, hint = _SILENCE[stage]
        return ConnectionFailed(what.format(server=server, waited_s=waited_s), hint=hint)
    return _network(error, server) or _nats(error, server, bot=bot, waited_s=waited_s)


def ended(reason: Ended, bot: str) -> ConnectionFailed:
    """Explain the notice that the sessions of ``bot`` end."""
    return ConnectionFailed(
        f"the bus has ended the session of {bot}: {reason.meaning}",
        hint=_ENDED_HINTS[reason].format(bot=bot),
    )


def _network(error: Exception, server: str) -> ConnectionFailed | None:
    """Causes below NATS that are told by their error: TLS, names, routes."""
    if isinstance(error, NotEncrypted):
        return ConnectionFailed(
            f"{server} does not offer TLS, so nothing was sent",
            hint="give nats-server a `tls` block; or name it nats:// where nobody else can read "
            "the network",
        )
    if isinstance(error, UnusableTls):
        return ConnectionFailed(f"no TLS with {server}: {error.what}", hint=error.hint)
    if isinstance(error, SpokeFirst):
        return ConnectionFailed(f"TLS with {server} failed: {_NO_TLS_CAUSE}", hint=_NO_TLS_HINT)
    if isinstance(error, NoChallenge):
        return ConnectionFailed(
            f"{server} gives nothing to sign, so it is not the server of a bus, and nothing "
            "was sent",
            hint="is the address right? Does that nats-server run with the configuration that "
            "`sealbus prepare` writes?",
        )
    if isinstance(error, ssl.SSLError):
        return ConnectionFailed(
            f"TLS with {server} failed: {_tls_cause(error)}",
            hint=_tls_hint(error),
        )
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            return ConnectionFailed(
                f"the host name in {server} could not be looked up: no name server gave an answer",
                hint="does a name server answer this machine? The name may be right",
            )
        return ConnectionFailed(
            f"unknown host in {server}",
            hint="is the name right, and does it resolve here?",
        )
    if is_refused(error):
        return ConnectionFailed(
            f"nobody listens at {server}",
            hint="is the bus up? `sealbus up` starts one",
        )
    if _numbers(error) & _NO_ROUTE:
        return ConnectionFailed(
            f"no route to {server}",
            hint="is this machine in the same network as the bus?",
        )
    return None


def _nats(error: Exception, server: str, *, bot: str, waited_s: float) -> ConnectionFailed:
    """Causes that the server, or whatever listens there, brings about."""
    if is_denied(error):
        if waited_s >= NO_RELAY_S:
            return ConnectionFailed(
                f"no relay admitted {bot} at {server}: nats-server waited {waited_s:.1f} s for one",
                hint="is a relay running? If it is, it is overloaded or cannot reach that "
                "nats-server",
            )
        return ConnectionFailed(f"{bot} was not admitted at {server}", hint=_ADMISSION_HINT)
    if "maximum account active connections" in str(error).lower():
        return ConnectionFailed(
            f"{bot} may have no more sessions at {server}: it has as many as the bus allows "
            "one bot, or all bots together, or it sent too much and has to pause",
            hint="end processes of this bot that are not needed, or have an operator raise "
            "limits.connections; "
            "a session whose machine is gone counts for five seconds",
        )
    if "maximum connections exceeded" in str(error).lower():
        return ConnectionFailed(
            f"{server} takes no more connections",
            hint="too many clients are connected to that nats-server; try again later",
        )
    if STORES_NOTHING in str(error):
        return ConnectionFailed(
            f"{server} says that {STORES_NOTHING}",
            hint="its operators free space where the bus's folder is; then the bus goes on by "
            "itself, and so does the bot",
        )
    # Only behind _network(), which tells a refused connection. That is a ConnectionError too.
    if isinstance(error, ConnectionError | UnexpectedEOF):
        return ConnectionFailed(
            f"{server} cut the connection before there was a session",
            hint="does it expect TLS? Then name it tls://",
        )
    if isinstance(error, ProtocolError) or "expecting info" in str(error).lower():
        return ConnectionFailed(
            f"{server} does not answer like a nats-server",
            hint="is the port right? A server with `handshake_first: true`, such as that of "
            "`sealbus up` with TLS, needs `ca` in the credentials",
        )
    if not isinstance(error, NatsError | OSError):
        return ConnectionFailed(
            f"no session at {server}: {shortly(error)}",
            hint="if a nats-server runs there, please report this",
        )
    return ConnectionFailed(
        f"no session at {server}: {shortly(error)}",
        hint="nats-server refused; its log says more",
    )


def _numbers(error: Exception) -> set[int]:
    """The system's error numbers: several where a name has several addresses."""
    failures = error.failures if isinstance(error, Unreachable) else [error]
    return {one.errno for one in failures if isinstance(one, OSError) and one.errno is not None}


def _tls_cause(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    if (alert := _alert(error)) is not None:
        return f"the server refuses the certificate of this program ({alert})"
    if error.reason in _NO_TLS:
        return _NO_TLS_CAUSE
    return (error.reason or "handshake failed").replace("_", " ").lower()


def _alert(error: ssl.SSLError) -> str | None:
    """The alert by which a server refuses the certificate of a client, or its absence."""
    _, alert, name = (error.reason or "").partition("_ALERT_")
    return name.replace("_", " ").lower() if alert and name in _ALERT_HINTS else None


def _tls_hint(error: ssl.SSLError) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        if (alert := _alert(error)) is not None:
            return _ALERT_HINTS[alert.replace(" ", "_").upper()]
        if error.reason in _NO_TLS:
            return _NO_TLS_HINT
        return (
            "does the server speak TLS on that port, and does it ask for a certificate of this bot?"
        )
    if error.verify_code == _NOT_YET_VALID:
        return "is this machine's clock right? The certificate begins at a later time"
    if error.verify_code == _EXPIRED:
        return "give the server a new certificate; if it has one, is this machine's clock right?"
    if "mismatch" in error.verify_message or "not valid for" in error.verify_message:
        return "name the server as its certificate does"
    return (
        "if the bus has a certificate authority of its own, name its file in the credentials "
        "(`ca`) or in SSL_CERT_FILE"
    )


def shortly(error: BaseException | None) -> str:
    """An exception in a few words, for the log.

    The text of NATS or of the system may be shown. That of any other kind may quote a payload, so
    its kind and place are told.
    """
    if error is None:
        return "closed"
    if not isinstance(error, NatsError | OSError | SealbusError):
        return kind(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
