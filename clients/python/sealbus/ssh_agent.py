"""A signer whose key an ssh-agent holds, over the agent's Unix socket.

The protocol is that of draft-miller-ssh-agent: a length of 4 bytes, a type of 1 byte, and fields.
Each signature takes a connection of its own, so an agent that was started again needs nothing from
the bot. Whoever can use the socket can sign with all keys of the agent, SSH logins included. So a
bot should have an agent, or at least a key, of its own.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import socket
import time
from typing import Final

import nacl.bindings

from sealbus.errors import CredentialsError, InvalidInput
from sealbus.protocol.keys import KEY_BYTES, SIGNATURE_BYTES, KeyKind, PublicKey

AGENT_S: Final = 60.0
"""How long one signature may take: a person may have to confirm it (``ssh-add -c``). A bot waits
for three seconds at a time, and takes the answer when it comes."""

MAX_ANSWER_BYTES: Final = 256 * 1024
"""The largest answer, as in OpenSSH (``AGENT_MAX_LEN``): a list of some thousand keys."""

_SIGN: Final = 13
_SIGNED: Final = 14
_LIST: Final = 11
_LISTED: Final = 12
_REFUSED: Final = (5, 30, 102)
"""``SSH_AGENT_FAILURE``, and the same in older protocols."""

_ED25519: Final = b"ssh-ed25519"
_LINE: Final = re.compile(r"ssh-ed25519[ \t]+([A-Za-z0-9+/]{68})(?:[ \t].*)?")


class AgentKey:
    """A bot's key that an ssh-agent holds. A :class:`~sealbus.signing.Signer`."""

    def __init__(self, public: PublicKey, path: str) -> None:
        """
        Args:
            public: the public half, of the kind ``BOT``.
            path: the agent's socket, which a shell has in ``SSH_AUTH_SOCK``.
        """
        self.public = public
        self._path = path

    def sign(self, message: bytes) -> bytes:
        """The signature that the agent gives: 64 bytes, not yet verified.

        Raises :class:`CredentialsError` after at most :data:`AGENT_S`.
        """
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
                return _Talk(agent, self._path).sign(self.public, message)
        except TimeoutError:
            raise CredentialsError(
                f"the ssh-agent at {self._path} has not answered within {AGENT_S:g} s",
                hint="does it wait for somebody who confirms? Restart an agent that hangs",
            ) from None
        except OSError as error:
            why = error.strerror or "its path is not one of a socket"
            raise CredentialsError(
                f"no ssh-agent answers at {self._path}: {why}",
                hint="does the agent run, as this user? SSH_AUTH_SOCK names its socket",
            ) from None

    def __repr__(self) -> str:
        return f"AgentKey({self.public.text})"


class _Talk:
    """One connection to an agent."""

    def __init__(self, agent: socket.socket, path: str) -> None:
        self._agent = agent
        self._path = path
        self._deadline = time.monotonic() + AGENT_S
        self._in_time()
        agent.connect(path)

    def sign(self, public: PublicKey, message: bytes) -> bytes:
        blob = _string(_ED25519) + _string(public.raw)
        kind, body = self._ask(_SIGN, _string(blob) + _string(message) + bytes(4))
        if kind in _REFUSED:
            raise self._refused(public, blob)
        signature, rest = self._take(body)
        name, rest_of_signature = self._take(signature)
        raw, nothing = self._take(rest_of_signature)
        if (
            kind != _SIGNED
            or bytes(name) != _ED25519
            or len(raw) != SIGNATURE_BYTES
            or rest
            or nothing
        ):
            raise self._malformed("it is not an Ed25519 signature")
        return bytes(raw)

    def _refused(self, public: PublicKey, blob: bytes) -> CredentialsError:
        """Why the agent has not signed. It says only that it has not."""
        kind, body = self._ask(_LIST, b"")
        if kind != _LISTED or len(body) < 4:
            raise self._malformed("it is not a list of keys")
        count, rest, is_there = int.from_bytes(body[:4], "big"), body[4:], False
        for _ in range(count):  # ends with the answer, whatever the count says
            key, rest = self._take(rest)
            _, rest = self._take(rest)  # its comment
            is_there = is_there or bytes(key) == blob
        if is_there:
            return CredentialsError(
                f"the ssh-agent at {self._path} refuses to sign with {public.text}",
                hint="did somebody decline? A key that was added with `ssh-add -c` asks each time",
            )
        return CredentialsError(
            f"the ssh-agent at {self._path} does not have the key {public.text} (it shows "
            f"{count} keys)",
            hint="add the key with ssh-add; a key that was added with `-t` is gone after its time, "
            "and an agent that is locked (`ssh-add -x`) shows no key",
        )

    def _ask(self, kind: int, body: bytes) -> tuple[int, memoryview]:
        """The type and the fields of the agent's answer."""
        self._in_time()
        self._agent.sendall(_string(bytes([kind]) + body))
        size = int.from_bytes(self._read(4), "big")
        if not 1 <= size <= MAX_ANSWER_BYTES:
            raise self._malformed(f"it has {size} bytes; expected 1 to {MAX_ANSWER_BYTES}")
        # A view, so that a long list of keys costs no copies.
        answer = memoryview(self._read(size))
        return answer[0], answer[1:]

    def _read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._in_time()
            part = self._agent.recv(size - len(found))
            if not part:
                raise self._malformed("it ends early")
            found += part
        return bytes(found)

    def _in_time(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._agent.settimeout(left_s)

    def _take(self, data: memoryview) -> tuple[memoryview, memoryview]:
        """The first string of ``data``, and the rest."""
        end = 4 + int.from_bytes(data[:4], "big")
        if len(data) < max(4, end):
            raise self._malformed("a field is longer than the answer")
        return data[4:end], data[end:]

    def _malformed(self, why: str) -> CredentialsError:
        return CredentialsError(
            f"the ssh-agent at {self._path} gave an answer that cannot be used: {why}",
            hint="is SSH_AUTH_SOCK the socket of an ssh-agent?",
        )


def find_agent(socket_path: str | None) -> str:
    """The path in ``SSH_AUTH_SOCK``. Raises :class:`InvalidInput` if there is no path."""
    if not socket_path:
        raise InvalidInput(
            "ssh_agent needs SSH_AUTH_SOCK, which is not set",
            hint="start an agent (`eval $(ssh-agent)`), and give this process its SSH_AUTH_SOCK",
        )
    return os.fspath(socket_path)


def parse_openssh(text: str) -> PublicKey:
    """A bot's public key from a line of OpenSSH: ``ssh-ed25519 AAAA… comment``.

    Raises :class:`InvalidInput` for another kind of key, or a line that is damaged.
    """
    kind = text.split(maxsplit=1)[0] if text.strip() else ""
    if kind != _ED25519.decode():
        raise InvalidInput(
            "the OpenSSH key is not of the kind ssh-ed25519",
            hint="make one with `ssh-keygen -t ed25519`; a key on a FIDO token (sk-ssh-ed25519) "
            "does not sign plain messages",
        )
    found = _LINE.fullmatch(text.strip())
    try:
        blob = base64.b64decode(found[1], validate=True) if found is not None else b""
    except binascii.Error:
        blob = b""
    head = _string(_ED25519) + KEY_BYTES.to_bytes(4, "big")
    if len(blob) != len(head) + KEY_BYTES or not blob.startswith(head):
        raise InvalidInput(
            "the OpenSSH key is damaged; expected ssh-ed25519 and 68 characters of base64",
            hint="copy the line of the .pub file again, whole",
        )
    if not nacl.bindings.crypto_core_ed25519_is_valid_point(blob[len(head) :]):
        raise InvalidInput(
            "the OpenSSH key is not a valid Ed25519 key", hint="make a new one with ssh-keygen"
        )
    return PublicKey(blob[len(head) :], KeyKind.BOT)


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
