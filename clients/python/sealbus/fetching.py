"""One document by HTTPS, from a server that may be away, slow, lying or huge.

How it works. :func:`fetch` looks the host up, tries its addresses, speaks TLS, sends one request
and reads one answer. One deadline bounds all of that together, so a server that sends a byte a
second gains nothing. The size of the answer is bounded. A redirect is not followed, because it
would lead to a server that nobody has named. A proxy of the environment is not used.

Everything is read into memory first, and the standard library takes the bytes apart afterwards.
There is no state. A connection that is lost is an answer that ends too early, and fails.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sealbus.errors import InvalidInput
from sealbus.looking_up import addresses_of
from sealbus.nats.tls_files import UnusableTls, trust
from sealbus.supervision import in_thread, kind

MAX_HEAD_BYTES: Final = 64 * 1024
"""The largest head of an answer: status line and header fields."""

MAX_URL_CHARS: Final = 2048
"""The longest address."""

MAX_ADDRESSES: Final = 4
"""How many addresses of a host are tried. The deadline bounds all of them together."""

_URL: Final = re.compile(r"[A-Za-z0-9._~:/?#\[\]!$&'()*+,;=%-]+")
"""The characters of RFC 3986, without ``@``."""

_READ_BYTES: Final = 64 * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n", re.IGNORECASE)


class FetchFailed(OSError):
    """The document could not be had. ``str()`` names the address and the cause."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        """The remedy, if there is one."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer of a server."""

    status: int
    """Its HTTP status."""
    body: bytes


def check_https(url: str, what: str) -> str:
    """Return ``url`` if it is the address of a document by HTTPS. Raises :class:`InvalidInput`."""
    hint = f"{what} is an address like https://idp.example.com/path"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InvalidInput(f"{what} is not a URL", hint=hint) from None
    if parts.scheme != "https" or not host or "@" in parts.netloc:
        raise InvalidInput(f"{what} is not a URL that begins with https://", hint=hint)
    if len(url) > MAX_URL_CHARS or _URL.fullmatch(url) is None:
        raise InvalidInput(f"{what} has characters that no URL has, or too many", hint=hint)
    return url


async def fetch(
    url: str,
    *,
    deadline_s: float,
    most: int,
    ca: Path | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> HttpAnswer:
    """Fetch a document.

    Args:
        url: Its address, which begins with ``https://``.
        deadline_s: How long all of it may take, in seconds.
        most: How many bytes the document may have.
        ca: A PEM file with the authorities that are trusted. ``None``: those of the system.
        headers: Further header fields.
        body: What to post. ``None``: nothing, the document is got.

    Raises:
        FetchFailed: There is no answer, or none that can be used.
    """
    parts = urlsplit(check_https(url, "the address"))
    where = f"{parts.scheme}://{parts.netloc}{parts.path}"
    try:
        async with asyncio.timeout(deadline_s):
            # The authorities of the system take 0.1 s.
            context = await in_thread("tls of a fetch", lambda: _context(ca))
            raw = await _exchange(
                parts.hostname or "",
                parts.port or 443,
                context,
                most,
                _request(parts.netloc, parts.path or "/", parts.query, headers or {}, body),
            )
    except TimeoutError:
        raise FetchFailed(f"{where} has not answered within {deadline_s:g} s") from None
    except UnusableTls as error:
        raise FetchFailed(error.what, hint=error.hint) from None
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message or "not valid"
        raise FetchFailed(f"{where}: its certificate is not trusted: {why}") from None
    except _TooLarge:
        raise FetchFailed(f"{where} answered with more than {most} bytes") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or kind(error)
        raise FetchFailed(f"{where} cannot be reached: {why}") from None
    return _parse(raw, most, where)


class _TooLarge(Exception):
    """The answer is larger than it may be."""


def _context(ca: Path | None) -> ssl.SSLContext:
    if ca is None:
        made = ssl.create_default_context()
    else:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust(made, ca)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python 3.13 sets it. The authority of a Kubernetes cluster often lacks the fields that it
    # asks for, and everything that matters is checked without it.
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return made


def _request(
    host: str, path: str, query: str, headers: Mapping[str, str], body: bytes | None
) -> bytes:
    target = f"{path}?{query}" if query else path
    fields = {
        "Host": host,
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": "sealbus",
        **headers,
    }
    if body is not None:
        fields["Content-Length"] = str(len(body))
    lines = [f"{'GET' if body is None else 'POST'} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")


async def _exchange(
    host: str, port: int, context: ssl.SSLContext, most: int, request: bytes
) -> bytes:
    """Send ``request`` to the first address that takes it, and return the whole answer."""
    failed: OSError = OSError("it has no address")
    for address in (await addresses_of(host, port))[:MAX_ADDRESSES]:
        try:
            reader, writer = await asyncio.open_connection(
                address, port, ssl=context, server_hostname=host
            )
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            failed = error
            continue
        try:
            writer.write(request)
            return await _read(reader, most)
        finally:
            writer.transport.abort()
    raise failed


async def _read(reader: asyncio.StreamReader, most: int) -> bytes:
    """Read until the answer is whole, or the server closes."""
    data = bytearray()
    body_at = -1
    length: int | None = None
    while chunk := await reader.read(_READ_BYTES):
        data += chunk
        if len(data) > MAX_HEAD_BYTES + most:
            raise _TooLarge
        if body_at < 0 and (end := data.find(b"\r\n\r\n")) >= 0:
            body_at = end + 4
            said = _LENGTH.search(data[:body_at])
            length = int(said[1]) if said else None
        if body_at >= 0 and length is not None and len(data) - body_at >= length:
            break
        if body_at >= 0 and length is None and data.endswith(b"0\r\n\r\n"):
            break  # the last chunk, or a body that looks so and is cut: then it is refused
    return bytes(data)


class _Bytes:
    """Bytes in the shape of a socket, as ``http.client`` wants them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        """The bytes as a file."""
        return io.BytesIO(self._data)


def _parse(raw: bytes, most: int, where: str) -> HttpAnswer:
    source: Any = _Bytes(raw)
    try:
        answer = http.client.HTTPResponse(source)
        answer.begin()
        # Without a number, because with one a body that ends too early is no error.
        body = answer.read()
    except (http.client.HTTPException, OSError, ValueError):
        raise FetchFailed(f"{where} did not answer by HTTP, or only in part") from None
    if len(body) > most:
        raise FetchFailed(f"{where} answered with more than {most} bytes")
    if 300 <= answer.status < 400:
        raise FetchFailed(
            f"{where} redirects (status {answer.status}), and redirects are not followed",
            hint="write the address to which it leads",
        )
    return HttpAnswer(answer.status, body)
