"""The usual way now: HTTPS with mutual TLS, an EdDSA JWT for each request, and JSON Schema.

The receiver is the server: uvicorn on uvloop and httptools, one process, a plain ASGI application.
It believes a request if

1. TLS: the client's certificate is of our CA;
2. the token verifies with the key of the bot that the certificate names, and has ``aud``, ``exp``,
   ``sub``, ``jti`` and ``scope``;
3. ``sub`` is that bot, ``aud`` is the receiver that the path names, ``scope`` allows the action;
4. ``jti`` is new (it is remembered until the token would have expired anyway);
5. ``bh`` is the SHA-256 of the body: otherwise a token would be good for any order;
6. the body is valid against the schema.

A token lives for a short time, and each request has its own, because ``jti`` can be used once.
Connections are kept alive. There are at most as many as messages in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import ssl
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Final

import aiohttp
import jsonschema_rs
import jwt
import orjson
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from yarl import URL

from benchmarks.bus import free_port
from benchmarks.certificates import Authority
from benchmarks.peer import Order
from benchmarks.peers.together import Together
from benchmarks.workload import ORDER_SCHEMA, reply

TOKEN_S: Final = 30
START_S: Final = 15.0
SCOPES: Final = {"orders": "orders:place", "quotes": "quotes:ask"}
REQUIRED: Final = ["aud", "exp", "sub", "jti", "scope", "bh"]


def token(key: Ed25519PrivateKey, sender: str, receiver: str, scope: str, body: bytes) -> str:
    """A token for one request."""
    claims = {
        "sub": sender,
        "aud": receiver,
        "exp": int(time.time()) + TOKEN_S,
        "jti": os.urandom(16).hex(),
        "scope": scope,
        "bh": body_hash(body),
    }
    made: str = jwt.encode(claims, key, algorithm="EdDSA")
    return made


def body_hash(body: bytes) -> str:
    """SHA-256, in base64url without padding."""
    return urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()


def client_context(folder: Path, sender: str) -> ssl.SSLContext:
    """TLS as the bot ``sender``."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / f"{sender}.pem", folder / f"{sender}.key")
    return context


class HttpsSender:
    """An aiohttp client for each sender."""

    def __init__(self) -> None:
        self._sessions: list[aiohttp.ClientSession] = []
        self._keys: list[Ed25519PrivateKey] = []
        self._base = ""

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Make the clients. They connect when they need to."""
        folder, self._base = Path(setup["folder"]), setup["url"]
        for pair in range(pairs):
            self._keys.append(_signing_key(folder, f"s{pair}"))
            # No limit of its own: the benchmark itself limits the requests under way.
            connector = aiohttp.TCPConnector(
                ssl=client_context(folder, f"s{pair}"), limit=0, keepalive_timeout=60
            )
            self._sessions.append(
                aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
            )

    async def send(self, pair: int, order: Order) -> None:
        """Returns with the 200."""
        await self._post(pair, "orders", order)

    async def ask(self, pair: int, order: Order) -> None:
        """The answer is in the response."""
        assert (await self._post(pair, "quotes", order))["accepted"]

    async def _post(self, pair: int, what: str, order: Order | list[Order]) -> Any:
        body = orjson.dumps(order)
        bearer = token(self._keys[pair], f"s{pair}", f"r{pair}", SCOPES[what], body)
        headers = {"authorization": f"Bearer {bearer}", "content-type": "application/json"}
        url = URL(f"{self._base}/r{pair}/{what}", encoded=True)
        async with self._sessions[pair].post(url, data=body, headers=headers) as response:
            answer = await response.read()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {answer.decode()}")
            return orjson.loads(answer)

    async def close(self) -> None:
        """Disconnect."""
        for session in self._sessions:
            await session.close()


class HttpsTogetherSender(HttpsSender):
    """The same with 64 orders in each request."""

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Make the clients."""
        await super().open(setup, pairs)
        self._together = [Together(partial(self._send_all, pair)) for pair in range(pairs)]

    async def send(self, pair: int, order: Order) -> None:
        """Returns with the 200 of the request that the order is in."""
        await self._together[pair].send(order)

    async def _send_all(self, pair: int, orders: list[Order]) -> None:
        await self._post(pair, "orders", orders)


class Gate:
    """The checks between TLS and the application."""

    def __init__(self, keys: dict[str, Any]) -> None:
        """``keys``: the senders' public keys by name."""
        self._keys = keys
        self._seen: dict[str, int] = {}
        self._schema = jsonschema_rs.validator_for(ORDER_SCHEMA, validate_formats=True)

    def refuse(
        self, sender: str, receiver: str, what: str, bearer: str, body: bytes
    ) -> tuple[int, str] | None:
        """A status and a reason if the request is not believed, and ``None`` if it is."""
        try:
            claims = jwt.decode(
                bearer,
                self._keys[sender],
                algorithms=["EdDSA"],
                audience=receiver,
                options={"require": REQUIRED},
            )
        except (KeyError, jwt.InvalidTokenError) as error:
            return 401, f"token: {error}"
        if claims["sub"] != sender:
            return 401, "the token is another's"
        if claims["scope"] != SCOPES.get(what):
            return 403, "scope"
        if claims["bh"] != body_hash(body):
            return 401, "the token is for another body"
        if not self._first(claims["jti"], claims["exp"]):
            return 401, "replay"
        return None

    def parse(self, body: bytes) -> list[Any]:
        """The orders in ``body``, one or an array. Raises :class:`ValueError` if one is no
        order."""
        given = orjson.loads(body)
        orders = given if isinstance(given, list) else [given]
        if not all(map(self._schema.is_valid, orders)):
            raise ValueError("schema")
        return orders

    def _first(self, jti: str, expires: int) -> bool:
        now = time.time()
        while self._seen and self._seen[oldest := next(iter(self._seen))] < now:
            del self._seen[oldest]
        if jti in self._seen:
            return False
        self._seen[jti] = expires
        return True


class _WithPeer(HttpToolsProtocol):
    """Gives the application the name in the client's certificate, because uvicorn does not."""

    app_state: dict[str, Any]

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        subject = dict(
            pair
            for relative in transport.get_extra_info("peercert")["subject"]
            for pair in relative
        )
        self.app_state = {**self.app_state, "sender": subject["commonName"]}


class HttpsReceiver:
    """The server."""

    def __init__(self) -> None:
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def open(self, setup: dict[str, Any], pairs: int, received: Callable[[], None]) -> None:
        """Listen."""
        folder = Path(setup["folder"])
        gate = Gate(
            {f"s{pair}": _signing_key(folder, f"s{pair}").public_key() for pair in range(pairs)}
        )
        config = uvicorn.Config(
            _application(gate, received),
            host="127.0.0.1",
            port=setup["port"],
            http=_WithPeer,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=60,
            ssl_certfile=str(folder / "server.pem"),
            ssl_keyfile=str(folder / "server.key"),
            ssl_ca_certs=str(folder / "ca.pem"),
            ssl_cert_reqs=ssl.CERT_REQUIRED,
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve())
        async with asyncio.timeout(START_S):
            while not self._server.started:
                if self._serving.done():
                    self._serving.result()
                    raise RuntimeError("uvicorn has ended")
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = self._server.force_exit = True
            with contextlib.suppress(SystemExit):
                await self._serving


def _application(gate: Gate, received: Callable[[], None]) -> Callable[..., Awaitable[None]]:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] != "http.request":
                return
            body += event["body"]
            more = event["more_body"]
        status, answer = answer_to(scope, body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def answer_to(scope: Any, body: bytes) -> tuple[int, bytes]:
        receiver, _, what = scope["path"][1:].partition("/")
        bearer = next(
            (value for name, value in scope["headers"] if name == b"authorization"), b""
        ).decode("latin-1")
        refusal = gate.refuse(
            scope["state"]["sender"], receiver, what, bearer.removeprefix("Bearer "), body
        )
        if refusal is not None:
            return refusal[0], refusal[1].encode()
        try:
            orders = gate.parse(body)
        except ValueError:
            return 422, b"schema"
        if what == "orders":
            for _ in orders:
                received()
        return 200, orjson.dumps(reply(orders[0]))

    return application


def _signing_key(folder: Path, sender: str) -> Ed25519PrivateKey:
    key = load_pem_private_key((folder / f"{sender}.jwt").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


_SERVER: Final = f"uvicorn {version('uvicorn')}, aiohttp {version('aiohttp')}"


class Https:
    """Nothing is in the middle."""

    name: ClassVar[str] = "https"
    title: ClassVar[str] = f"HTTPS: {_SERVER}, mutual TLS, EdDSA JWT, JSON Schema"
    promises: ClassVar[str] = (
        "authenticated, replay-proof, schema- and scope-checked, the server has handled it"
    )
    can_ask: ClassVar[bool] = True
    depths: ClassVar[tuple[int, ...]] = (4, 16, 64)
    sender: ClassVar[type[HttpsSender]] = HttpsSender
    receiver: ClassVar[type[HttpsReceiver]] = HttpsReceiver

    async def start(self, folder: Path, pairs: int) -> dict[str, Any]:
        """Make the CA, the certificates and the keys that sign tokens."""
        authority = Authority(folder)
        authority.issue("server", server=True)
        for pair in range(pairs):
            authority.issue(f"s{pair}")
            (folder / f"s{pair}.jwt").write_bytes(_pem(Ed25519PrivateKey.generate()))
        port = free_port()
        return {"folder": str(folder), "port": port, "url": f"https://127.0.0.1:{port}"}

    def processes(self) -> dict[str, list[int]]:
        """There are no processes in the middle."""
        return {}

    async def stop(self) -> None:
        """There is nothing to end."""


class HttpsTogether(Https):
    """The same, with the orders put together by hand."""

    name: ClassVar[str] = "https-64"
    title: ClassVar[str] = f"HTTPS: {_SERVER}, mutual TLS, EdDSA JWT, 64 orders in a request"
    can_ask: ClassVar[bool] = False
    depths: ClassVar[tuple[int, ...]] = (256, 1024, 4096)
    sender: ClassVar[type[HttpsSender]] = HttpsTogetherSender


def _pem(key: Ed25519PrivateKey) -> bytes:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text
