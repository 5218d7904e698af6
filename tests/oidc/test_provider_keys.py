"""The keys of a provider that is well, rotates, is away, slow, lying, huge or redirects."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler

import pytest

from sealbus_broker.oidc import provider_keys
from sealbus_broker.oidc.provider_keys import ASK_S, COOLDOWN_S, FRESH_S, KEEP_S, ProviderKeys
from tests.oidc.issuer import DISCOVERY, JWKS, Issuer, new_key, public_jwk, reply
from tests.waiting import until

pytestmark = pytest.mark.slow


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keys(issuer: Issuer, clock: Clock) -> AsyncIterator[ProviderKeys]:
    made = ProviderKeys(issuer.provider(), monotonic=clock)
    yield made
    await made.close()


async def settled(keys: ProviderKeys) -> list[str]:
    """The names of the keys once no fetch is under way."""
    await keys.get("none of them")
    await until(lambda: keys._fetching is None)
    return sorted(await keys.get())


async def test_keys_are_fetched_once_while_fresh(
    issuer: Issuer, keys: ProviderKeys, clock: Clock
) -> None:
    assert await settled(keys) == ["one"]
    clock.now += FRESH_S
    assert sorted(await keys.get("one")) == ["one"]
    assert issuer.asked == [DISCOVERY, JWKS]


async def test_rotated_key_is_found_after_the_cooldown(
    issuer: Issuer, keys: ProviderKeys, clock: Clock
) -> None:
    await settled(keys)
    name = issuer.rotate()
    assert name not in await keys.get(name)  # the pause protects the provider
    clock.now += COOLDOWN_S
    await keys.get(name)
    assert await settled(keys) == [name, "one"]


async def test_withdrawn_key_ends_when_keys_are_no_longer_fresh(
    issuer: Issuer, keys: ProviderKeys, clock: Clock
) -> None:
    await settled(keys)
    name = issuer.rotate(keep=False)
    clock.now += FRESH_S + 1
    assert await settled(keys) == [name]


async def test_invented_key_names_cost_one_fetch(issuer: Issuer, keys: ProviderKeys) -> None:
    await settled(keys)
    for number in range(50):
        await keys.get(f"invented-{number}")
    assert len(issuer.asked) == 2


async def test_logins_share_one_fetch(issuer: Issuer, keys: ProviderKeys) -> None:
    await asyncio.gather(*(keys.get("one") for _ in range(20)))
    assert await settled(keys) == ["one"]
    assert issuer.asked.count(DISCOVERY) == 1


def away(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def error(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 503, b"{}")


def huge(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(50):
        handler.wfile.write(b" " * 1024 * 1024)


def announced_huge(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 200, b" " * (provider_keys.MAX_DOCUMENT_BYTES + 1))


def redirecting(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 302, b"", Location="https://elsewhere.example/")


def not_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"+OK ready\r\n\r\n")
    handler.connection.close()


def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")
    handler.connection.close()


def not_json(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 200, b"<html>")


def deep(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 200, b"[" * 100_000)


def twice(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 200, b'{"issuer": "https://a", "issuer": "https://b"}')


def another_issuer(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 200, b'{"issuer": "https://idp.example"}')


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (away, "did not answer by HTTP, or only in part"),
        (error, "answered with the status 503"),
        (huge, "answered with more than 262144 bytes"),
        (announced_huge, "answered with more than 262144 bytes"),
        (redirecting, "redirects are not followed"),
        (not_http, "did not answer by HTTP, or only in part"),
        (cut, "did not answer by HTTP, or only in part"),
        (not_json, "is not JSON"),
        (deep, "is not JSON"),
        (twice, "has a name twice"),
        (another_issuer, "is another issuer's document"),
    ],
)
async def test_bad_discovery_is_named(
    issuer: Issuer, keys: ProviderKeys, fault: object, told: str
) -> None:
    issuer.faults[DISCOVERY] = fault  # type: ignore[assignment]
    assert await settled(keys) == []
    assert keys.failure is not None
    assert told in keys.failure


async def test_key_set_elsewhere_has_to_be_https(issuer: Issuer, keys: ProviderKeys) -> None:
    document = {"issuer": issuer.url, "jwks_uri": "http://169.254.169.254/latest"}
    issuer.faults[DISCOVERY] = lambda handler: reply(handler, 200, json.dumps(document).encode())
    await settled(keys)
    assert keys.failure == "jwks_uri is not a URL that begins with https://"
    assert issuer.asked == [DISCOVERY]


async def test_slow_provider_holds_no_login_up(issuer: Issuer, keys: ProviderKeys) -> None:
    """It drips a byte at a time. A login waits for its part, and the fetch ends at its own time."""
    issuer.faults[DISCOVERY] = drip
    assert await keys.get("one") == {}
    await until(lambda: keys.failure is not None)  # the fetch goes on until its own end
    assert keys.failure == f"{issuer.url}{DISCOVERY} has not answered within 5 s"
    assert ASK_S < provider_keys.FETCH_S


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.1)
    except OSError:
        pass


async def test_untrusted_certificate_is_named(issuer: Issuer, clock: Clock) -> None:
    keys = ProviderKeys(issuer.provider(ca=None), monotonic=clock)
    await settled(keys)
    assert keys.failure is not None
    assert "its certificate is not trusted" in keys.failure


async def test_missing_authority_file_is_named(issuer: Issuer, clock: Clock) -> None:
    keys = ProviderKeys(issuer.provider(ca="/nowhere/ca.pem"), monotonic=clock)
    await settled(keys)
    assert keys.failure is not None
    assert keys.failure.startswith("/nowhere/ca.pem cannot be read")


async def test_old_keys_count_while_the_provider_is_away(
    issuer: Issuer, keys: ProviderKeys, clock: Clock
) -> None:
    await settled(keys)
    issuer.faults[DISCOVERY] = away
    clock.now += FRESH_S + 1
    assert await settled(keys) == ["one"]
    clock.now += KEEP_S
    assert await settled(keys) == []
    del issuer.faults[DISCOVERY]
    clock.now += COOLDOWN_S
    assert await settled(keys) == ["one"]
    assert keys.failure is None


async def test_only_keys_of_the_algorithm_count(issuer: Issuer, keys: ProviderKeys) -> None:
    good = public_jwk(new_key("RS256"), "good", "RS256")
    listed = [
        good,
        public_jwk(new_key("ES256"), "curve", "ES256"),
        {**public_jwk(new_key("ES256"), "confused", "ES256"), "alg": "RS256"},
        {**good, "kid": "encrypts", "use": "enc"},
        {**good, "kid": "signs", "key_ops": ["sign"]},
        {**good, "kid": "private", "d": "AQAB"},
        {**good, "kid": "small", "n": "w" * 171},
        {**good, "kid": "large", "n": "w" * 2000},
        {**good, "kid": "broken", "n": "?"},
        {"kty": "oct", "kid": "shared", "k": "AQAB", "alg": "HS256"},
        {**good, "kid": "double"},
        {**good, "kid": "double"},
        {**good, "kid": 7},
        "no key",
    ]
    issuer.faults[JWKS] = lambda handler: reply(handler, 200, json.dumps({"keys": listed}).encode())
    assert await settled(keys) == ["good"]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (b"[]", "the key set is not a JSON object"),
        (b"{}", "the key set has no list of keys"),
        (b'{"keys": []}', "the key set has no key for RS256"),
        (json.dumps({"keys": [{}] * 65}).encode(), "the key set has 65 keys; at most 64"),
    ],
)
async def test_bad_key_set_is_named(
    issuer: Issuer, keys: ProviderKeys, document: bytes, told: str
) -> None:
    issuer.faults[JWKS] = lambda handler: reply(handler, 200, document)
    assert await settled(keys) == []
    assert keys.failure == told
