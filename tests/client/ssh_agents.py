"""The real ssh-agent, and an agent of the tests that answers as they say."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sealbus.protocol.keys import SigningKey
from tests.waiting import PATIENCE_S

Answer = Callable[[int, bytes], bytes | None]
"""The bytes that follow a request of a type with a body, its length included. ``None`` is none."""


def string(data: bytes) -> bytes:
    """A field of the protocol."""
    return len(data).to_bytes(4, "big") + data


def blob(key: SigningKey) -> bytes:
    """A public key as OpenSSH writes it."""
    return string(b"ssh-ed25519") + string(key.public.raw)


def signed(signature: bytes, kind: bytes = b"ssh-ed25519") -> bytes:
    """The answer with a signature."""
    return string(bytes([14]) + string(string(kind) + string(signature)))


def listed(*keys: SigningKey) -> bytes:
    """The answer with a list of keys."""
    each = b"".join(string(blob(key)) + string(b"a comment") for key in keys)
    return string(bytes([12]) + len(keys).to_bytes(4, "big") + each)


REFUSAL = string(bytes([5]))


def honest(*keys: SigningKey) -> Answer:
    """An agent with some keys."""

    def answer(kind: int, body: bytes) -> bytes:
        if kind == 11:
            return listed(*keys)
        size = int.from_bytes(body[:4], "big")
        wanted, rest = body[4 : 4 + size], body[4 + size :]
        message = rest[4 : 4 + int.from_bytes(rest[:4], "big")]
        return next((signed(key.sign(message)) for key in keys if blob(key) == wanted), REFUSAL)

    return answer


@contextmanager
def agent(answer: Answer, *, hangs: bool = False) -> Iterator[str]:
    """A socket on which every request has the answer of ``answer``. Yields its path.

    After an answer that is not whole it hangs up, unless it ``hangs``.
    """
    # Not in pytest's folders, whose paths are too long for a socket on some systems.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = str(Path(folder) / "agent")
        server.bind(path)
        server.listen()
        thread = threading.Thread(target=_serve, args=(server, answer, hangs), daemon=True)
        thread.start()
        yield path
        server.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


def _serve(server: socket.socket, answer: Answer, hangs: bool) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:  # the test is over
            return
        threading.Thread(target=_talk, args=(client, answer, hangs), daemon=True).start()


def _talk(client: socket.socket, answer: Answer, hangs: bool) -> None:
    with client, client.makefile("rb") as requests:
        while size := int.from_bytes(requests.read(4), "big"):
            request = requests.read(size)
            told = answer(request[0], request[1:])
            if told is None:
                return
            try:
                client.sendall(told)
            except OSError:  # it has hung up
                return
            if not hangs and len(told) != 4 + int.from_bytes(told[:4], "big"):
                return


@contextmanager
def real_agent(folder: Path) -> Iterator[tuple[str, str]]:
    """OpenSSH's agent with a new key. Yields its socket, and the line of the ``.pub`` file."""
    key = folder / "key"
    making = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a bot", "-f", str(key)]
    subprocess.run(making, check=True)
    with tempfile.TemporaryDirectory() as place:
        path = str(Path(place) / "agent")
        with subprocess.Popen(
            ["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                add(path, folder)
                yield path, (folder / "key.pub").read_text()
            finally:
                process.terminate()


def add(path: str, folder: Path, *options: str) -> None:
    """Give the agent at ``path`` the key of :func:`real_agent`, with options of ``ssh-add``."""
    waited = 0.0
    while subprocess.run(
        ["ssh-add", "-q", *options, str(folder / "key")],
        env={"SSH_AUTH_SOCK": path, "PATH": "/usr/bin:/bin"},
        check=False,
        capture_output=True,
    ).returncode:
        assert waited < PATIENCE_S, "the agent has not started"
        threading.Event().wait(0.05)
        waited += 0.05
