"""Attacks on HTTPS with mutual TLS and tokens.

TLS hides tokens from the network. An attacker captures one where TLS ends, at a proxy or in a log.
So captured requests are tried on the connection of ``s0`` as well as on that of ``s1``.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from benchmarks.attacking.attacker import (
    AHEAD_S,
    FAKE,
    GARBAGE,
    HONEST,
    INVALID,
    LONG_S,
    PAST_S,
    Attacker,
    NotApplicable,
    changed,
    now,
    twice,
)
from benchmarks.peers.https import SCOPES, TOKEN_S, body_hash, client_context
from benchmarks.workload import encode

ANSWER: Final = aiohttp.ClientTimeout(total=5)


class OnHttps(Attacker):
    """Requests made by hand."""

    def __init__(self, setup: dict[str, Any]) -> None:
        super().__init__(setup)
        self._folder = Path(setup["folder"])
        self._captured = ""

    def _tls(self, bot: str | None) -> ssl.SSLContext:
        if bot is not None:
            return client_context(self._folder, bot)
        return ssl.create_default_context(cafile=str(self._folder / "ca.pem"))

    async def _post(
        self, bearer: str | None, body: bytes, *, tls: str | None = "s0", to: str = "r0"
    ) -> None:
        headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {bearer}"} if bearer else {}
        )
        connector = aiohttp.TCPConnector(ssl=self._tls(tls))
        with suppress(aiohttp.ClientError):  # without an answer it was not let in
            async with (
                aiohttp.ClientSession(connector=connector, timeout=ANSWER) as session,
                session.post(
                    f"{self.setup['url']}/{to}/orders", data=body, headers=headers
                ) as response,
            ):
                await response.read()

    def _token(self, body: bytes, key: str = "s0", **faults: Any) -> str:
        """A valid token, except for ``faults``."""
        claims = {
            "sub": key,
            "aud": "r0",
            "exp": now() + TOKEN_S,
            "jti": os.urandom(16).hex(),
            "scope": SCOPES["orders"],
            "bh": body_hash(body),
            **faults,
        }
        # Any: PyJWT takes some of the types that cryptography may return, and this is one of them.
        secret: Any = load_pem_private_key((self._folder / f"{key}.jwt").read_bytes(), None)
        text: str = jwt.encode(claims, secret, algorithm="EdDSA")
        return text

    async def _as_owner(self, body: bytes, **faults: Any) -> None:
        await self._post(self._token(body, **faults), body)

    async def honest(self) -> None:
        self._captured = self._token(encode(HONEST))
        await self._post(self._captured, encode(HONEST))

    async def anonymous(self) -> None:
        await self._post(None, encode(FAKE), tls=None)

    async def garbage(self) -> None:
        await self._post(GARBAGE.hex(), GARBAGE, tls="s1", to="r1")

    async def unsigned(self) -> None:
        body = encode(FAKE)
        await self._post(None, body, tls="s1", to="r1")
        claims = {
            "sub": "s1",
            "aud": "r1",
            "exp": now() + TOKEN_S,
            "jti": "1",
            "scope": SCOPES["orders"],
        }
        no_key: Any = None
        none = jwt.encode({**claims, "bh": body_hash(body)}, no_key, algorithm="none")
        await self._post(none, body, tls="s1", to="r1")

    async def altered(self) -> None:
        for tls in ("s0", "s1"):
            await self._post(self._captured, encode(changed(HONEST)), tls=tls)

    async def other_name(self) -> None:
        body = encode(FAKE)
        for tls in ("s1", "s0"):
            await self._post(self._token(body, key="s1", sub="s0"), body, tls=tls)

    async def replay(self) -> None:
        for tls in ("s0", "s1"):
            await self._post(self._captured, encode(HONEST), tls=tls)

    async def replay_late(self) -> None:
        await self._as_owner(encode(HONEST), exp=now() - PAST_S)

    async def other_receiver(self) -> None:
        for tls in ("s0", "s1"):
            await self._post(self._captured, encode(HONEST), tls=tls, to="r1")

    async def injected(self) -> None:
        """Plain HTTP to the receiver's port."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.setup["port"])
        body = encode(FAKE)
        lines = (
            "POST /r0/orders HTTP/1.1",
            "host: r0",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "",
            "",
        )
        head = "\r\n".join(lines)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                writer.write(head.encode() + body)
                await reader.read()
        writer.close()

    async def not_granted(self) -> None:
        body = encode(FAKE)
        await self._post(self._token(body, key="s1"), body, tls="s1")

    async def schema(self) -> None:
        await self._as_owner(encode(INVALID))

    async def named_twice(self) -> None:
        await self._as_owner(twice(FAKE))

    async def same_id(self) -> None:
        jti = jwt.decode(self._captured, options={"verify_signature": False})["jti"]
        await self._as_owner(encode(FAKE), jti=jti)

    async def future(self) -> None:
        await self._as_owner(encode(FAKE), iat=now() + AHEAD_S, exp=now() + AHEAD_S + TOKEN_S)

    async def long_life(self) -> None:
        await self._as_owner(encode(FAKE), exp=now() + LONG_S)

    async def revoked(self) -> None:
        raise NotApplicable("no list of revoked certificates or keys")
