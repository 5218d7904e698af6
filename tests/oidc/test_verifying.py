"""Tokens that stand for a bot, and forged and odd ones. Each is refused for its own reason."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealbus.errors import Malformed
from sealbus.protocol.limits import MAX_TOKEN_BYTES
from sealbus_broker.gate.identities import Identity, Provider
from sealbus_broker.oidc.keys import Keys, read_keys
from sealbus_broker.oidc.token import Token
from sealbus_broker.oidc.verifying import Proven, TokenRefused, verify
from tests.oidc.issuer import AUDIENCE, Issuer, encode, new_key, public_jwk

SKEW_MS: Final = 2_000
ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA")


@dataclass(frozen=True)
class World:
    issuer: Issuer
    provider: Provider
    identities: tuple[Identity, ...]
    keys: dict[Provider, Keys]

    def judge(self, text: str, **other: Any) -> Proven | TokenRefused:
        given: dict[str, Any] = {
            "identities": self.identities,
            "keys": self.keys,
            "now_ms": time.time_ns() // 1_000_000,
            "skew_ms": SKEW_MS,
        }
        try:
            return verify(Token.decode(text), **{**given, **other})
        except Malformed as error:
            return TokenRefused(error.what)

    def why(self, text: str, **other: Any) -> str:
        verdict = self.judge(text, **other)
        assert isinstance(verdict, TokenRefused)
        return verdict.why


def make_world(issuer: Issuer) -> World:
    provider = issuer.provider()
    identities = (
        Identity(provider, "order"),
        Identity(provider, "worker", (("admin", True), ("environment", "production"))),
    )
    keys = read_keys(json.dumps(issuer.key_set()).encode(), provider.algorithm)
    return World(issuer, provider, identities, {provider: keys})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Issuer(tmp_path_factory.mktemp("issuer")) as issuer:
        yield make_world(issuer)


# ---- good tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_good_token_stands_for_its_bot(tmp_path: Path, algorithm: str) -> None:
    with Issuer(tmp_path, algorithm) as issuer:
        made = make_world(issuer)
        text = issuer.token()
        verdict = made.judge(text)
        assert isinstance(verdict, Proven)
        assert verdict.identity == made.identities[0]
        assert verdict.digest == hashlib.sha256(text.rpartition(".")[0].encode()).hexdigest()


def test_audience_may_be_a_list_of_one(world: World) -> None:
    assert isinstance(world.judge(world.issuer.token(aud=[AUDIENCE])), Proven)


def test_all_claims_of_an_identity_have_to_fit(world: World) -> None:
    fitting = {"admin": True, "environment": "production", "more": [1]}
    assert isinstance(world.judge(world.issuer.token("worker", **fitting)), Proven)


# ---- forged and odd tokens ---------------------------------------------------------------------

Make = Callable[[Issuer], str]
FORGED: dict[str, tuple[Make, str]] = {}


def forged(told: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        FORGED[make.__name__] = (make, told)
        return make

    return add


def unsigned(header: dict[str, Any], issuer: Issuer, signature: bytes = b"") -> str:
    payload = json.dumps(issuer.payload()).encode()
    parts = (json.dumps(header).encode(), payload, signature)
    return ".".join(encode(part) for part in parts)


def with_secret(issuer: Issuer, secret: bytes) -> str:
    """HS256 with bytes that everybody knows."""
    key_id = next(iter(issuer.keys))
    text = unsigned({"alg": "HS256", "kid": key_id}, issuer, b"x").rpartition(".")[0]
    return f"{text}.{encode(hmac.digest(secret, text.encode(), 'sha256'))}"


def public(issuer: Issuer) -> Any:
    return next(iter(issuer.keys.values())).public_key()


@forged("the token's algorithm is not RS256")
def algorithm_none(issuer: Issuer) -> str:
    return unsigned({"alg": "none", "kid": "one"}, issuer, b"x")


@forged("a part of the token is not base64url without padding")
def algorithm_none_without_signature(issuer: Issuer) -> str:
    return unsigned({"alg": "none", "kid": "one"}, issuer)


@forged("the token's algorithm is not RS256")
def algorithm_none_in_capitals(issuer: Issuer) -> str:
    return unsigned({"alg": "NONE", "kid": "one"}, issuer, b"x")


@forged("the token's algorithm is not RS256")
def shared_secret_is_the_public_key(issuer: Issuer) -> str:
    pem = public(issuer).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return with_secret(issuer, pem)


@forged("the token's algorithm is not RS256")
def shared_secret_is_the_public_jwk(issuer: Issuer) -> str:
    return with_secret(issuer, json.dumps(issuer.key_set()["keys"][0]).encode())


@forged("the token's algorithm is not RS256")
def shared_secret_is_empty(issuer: Issuer) -> str:
    return with_secret(issuer, b"")


@forged("the token's algorithm is not RS256")
def other_algorithm_of_the_same_key(issuer: Issuer) -> str:
    import jwt

    key: Any = next(iter(issuer.keys.values()))
    return jwt.encode(issuer.payload(), key, algorithm="PS256", headers={"kid": "one"})


@forged("the token's header names no algorithm")
def algorithm_missing(issuer: Issuer) -> str:
    return unsigned({"kid": "one"}, issuer, b"x")


@forged("the token's header names no algorithm")
def algorithm_is_a_list(issuer: Issuer) -> str:
    return unsigned({"alg": ["RS256"], "kid": "one"}, issuer, b"x")


@forged("the token's signature does not hold")
def signed_by_a_stranger(issuer: Issuer) -> str:
    import jwt

    stranger: Any = new_key("RS256")
    return jwt.encode(issuer.payload(), stranger, algorithm="RS256", headers={"kid": "one"})


@forged("the token's signature does not hold")
def key_in_the_header(issuer: Issuer) -> str:
    import jwt

    stranger: Any = new_key("RS256")
    jwk = public_jwk(stranger, "one", "RS256")
    header = {"kid": "one", "jwk": jwk}
    return jwt.encode(issuer.payload(), stranger, algorithm="RS256", headers=header)


@forged("the token's signature does not hold")
def address_of_keys_in_the_header(issuer: Issuer) -> str:
    import jwt

    stranger: Any = new_key("RS256")
    header = {"kid": "one", "jku": "https://thief.example/keys"}
    return jwt.encode(issuer.payload(), stranger, algorithm="RS256", headers=header)


@forged("the token's signature does not hold")
def payload_changed_after_signing(issuer: Issuer) -> str:
    header, _, signature = issuer.token("clerk").split(".")
    return f"{header}.{encode(json.dumps(issuer.payload()).encode())}.{signature}"


@forged("the token's signature does not hold")
def header_changed_after_signing(issuer: Issuer) -> str:
    _, payload, signature = issuer.token().split(".")
    return f"{encode(issuer.header(typ='at+jwt'))}.{payload}.{signature}"


@forged("the token's signature does not hold")
def signature_cut(issuer: Issuer) -> str:
    text, _, signature = issuer.token().rpartition(".")
    return f"{text}.{signature[:-2]}"


@forged("no known key of a provider has the name in the token")
def unknown_key(issuer: Issuer) -> str:
    return issuer.signed(issuer.payload(), kid="another")


@forged("the token's header names no key (kid)")
def key_unnamed(issuer: Issuer) -> str:
    return unsigned({"alg": "RS256"}, issuer, b"x")


@forged("the token's header names no key (kid)")
def key_is_a_list(issuer: Issuer) -> str:
    return unsigned({"alg": "RS256", "kid": ["one"]}, issuer, b"x")


@forged("the token's header names no key (kid)")
def key_name_endless(issuer: Issuer) -> str:
    return unsigned({"alg": "RS256", "kid": "k" * 257}, issuer, b"x")


@forged("the token's header has crit, which is not understood here")
def critical_field(issuer: Issuer) -> str:
    return issuer.signed_raw(issuer.header(crit=["x"], x=1), json.dumps(issuer.payload()).encode())


@forged("the token's header has b64, which is not understood here")
def payload_not_encoded(issuer: Issuer) -> str:
    return issuer.signed_raw(issuer.header(b64=False), json.dumps(issuer.payload()).encode())


@forged("the token's header has a name twice")
def header_with_two_algorithms(issuer: Issuer) -> str:
    header = b'{"alg": "none", "alg": "RS256", "kid": "one"}'
    return issuer.signed_raw(header, json.dumps(issuer.payload()).encode())


@forged("the token's header is not a JSON object")
def header_is_a_list(issuer: Issuer) -> str:
    return issuer.signed_raw(b"[]", json.dumps(issuer.payload()).encode())


@forged("the token's header is not JSON")
def header_deeply_nested(issuer: Issuer) -> str:
    return issuer.signed_raw(b'{"a":' * 500, b"{}")


@forged("the token's header has more than 4096 characters")
def header_too_long(issuer: Issuer) -> str:
    return issuer.signed_raw(issuer.header(x5c="c" * 4000), b"{}")


@forged("the token's payload is not JSON")
def payload_is_no_json(issuer: Issuer) -> str:
    return issuer.signed_raw(issuer.header(), b"order")


@forged("the token's payload is not JSON")
def payload_deeply_nested(issuer: Issuer) -> str:
    return issuer.signed_raw(issuer.header(), b"[" * 4000)


@forged("the token's payload is not JSON")
def number_too_long_for_python(issuer: Issuer) -> str:
    return issuer.signed_raw(issuer.header(), b'{"exp": ' + b"9" * 4500 + b"}")


@forged("the token's payload is not JSON")
def time_is_not_a_number(issuer: Issuer) -> str:
    return issuer.signed_raw(issuer.header(), b'{"exp": NaN}')


@forged("the token's payload has a name twice")
def claim_twice(issuer: Issuer) -> str:
    payload = json.dumps(issuer.payload("clerk")).encode()
    return issuer.signed_raw(issuer.header(), payload[:-1] + b', "sub": "order"}')


@forged("the token's payload has a name twice")
def claim_twice_inside(issuer: Issuer) -> str:
    payload = json.dumps(issuer.payload()).encode()
    return issuer.signed_raw(issuer.header(), payload[:-1] + b', "more": {"a": 1, "a": 2}}')


def without(issuer: Issuer, name: str) -> str:
    payload = issuer.payload()
    del payload[name]
    return issuer.signed(payload)


@forged("the token has no exp")
def without_end(issuer: Issuer) -> str:
    return without(issuer, "exp")


@forged("the token has no iat")
def without_beginning(issuer: Issuer) -> str:
    return without(issuer, "iat")


@forged("the token has no iss")
def without_issuer(issuer: Issuer) -> str:
    return without(issuer, "iss")


@forged("the token has no aud")
def without_audience(issuer: Issuer) -> str:
    return without(issuer, "aud")


@forged("the token has no sub")
def without_subject(issuer: Issuer) -> str:
    return without(issuer, "sub")


@forged("the token's iss is not the provider's issuer")
def other_issuer(issuer: Issuer) -> str:
    return issuer.token(iss="https://thief.example")


@forged("the token's iss is not the provider's issuer")
def issuer_with_a_slash(issuer: Issuer) -> str:
    return issuer.token(iss=issuer.url + "/")


@forged("the token's aud is not the provider's audience alone")
def other_audience(issuer: Issuer) -> str:
    return issuer.token(aud="sealbus:other")


@forged("the token's aud is not the provider's audience alone")
def second_audience(issuer: Issuer) -> str:
    return issuer.token(aud=[AUDIENCE, "somebody-else"])


@forged("the token's aud is not the provider's audience alone")
def audience_begins_alike(issuer: Issuer) -> str:
    return issuer.token(aud=AUDIENCE + "-2")


@forged("the token's sub is not a text")
def subject_is_a_list(issuer: Issuer) -> str:
    # Past PyJWT's own check of the type.
    payload = json.dumps(issuer.payload(sub=["order"])).encode()
    return issuer.signed_raw(issuer.header(), payload)


@forged("the token's exp is not an integer")
def end_is_a_text(issuer: Issuer) -> str:
    payload = json.dumps(issuer.payload(exp=str(int(time.time()) + 60))).encode()
    return issuer.signed_raw(issuer.header(), payload)


@forged("the token's exp is not an integer")
def end_is_a_fraction(issuer: Issuer) -> str:
    return issuer.token(exp=time.time() + 60.5)


@forged("the token's exp is not an integer")
def end_is_true(issuer: Issuer) -> str:
    payload = json.dumps(issuer.payload(exp=True)).encode()
    return issuer.signed_raw(issuer.header(), payload)


@forged("the token lives")
def end_in_the_year_31_710(issuer: Issuer) -> str:
    return issuer.token(exp=10**12)


@forged("the token lives")
def end_beyond_any_clock(issuer: Issuer) -> str:
    return issuer.token(exp=10**30)


@forged("the token lives 86401000 ms; at most 86400000 (token_life)")
def lives_a_second_longer_than_a_day(issuer: Issuer) -> str:
    now = int(time.time())
    return issuer.token(iat=now, exp=now + 86_401)


@forged("the token ends before it begins")
def ends_before_it_begins(issuer: Issuer) -> str:
    now = int(time.time())
    return issuer.token(iat=now + 20, exp=now + 10)


@forged("the token ended")
def expired(issuer: Issuer) -> str:
    now = int(time.time())
    return issuer.token(iat=now - 600, exp=now - 300)


@forged("the token begins")
def issued_in_the_future(issuer: Issuer) -> str:
    now = int(time.time())
    return issuer.token(iat=now + 300, exp=now + 600)


@forged("the token begins")
def not_valid_yet(issuer: Issuer) -> str:
    return issuer.token(nbf=int(time.time()) + 300)


@forged("no identity of the bot fits the token of idp for clerk")
def another_subject(issuer: Issuer) -> str:
    return issuer.token("clerk")


@forged("no identity of the bot fits the token of idp for Order")
def subject_in_capitals(issuer: Issuer) -> str:
    return issuer.token("Order")


@forged("no identity of the bot fits the token of idp for worker")
def claim_missing(issuer: Issuer) -> str:
    return issuer.token("worker", admin=True)


@forged("no identity of the bot fits the token of idp for worker")
def claim_of_another_type(issuer: Issuer) -> str:
    return issuer.token("worker", admin=1, environment="production")


@forged("no identity of the bot fits the token of idp for worker")
def claim_in_a_list(issuer: Issuer) -> str:
    return issuer.token("worker", admin=True, environment=["production"])


@forged("no identity of the bot fits the token of idp for a\\x1b[2J")
def subject_that_steers_a_terminal(issuer: Issuer) -> str:
    return issuer.token("a\x1b[2J")


@forged("no identity of the bot fits the token of idp for 山田")
def subject_in_letters_of_another_script(issuer: Issuer) -> str:
    return issuer.token("山田")


@forged("a token has three parts, and this one has 2")
def two_parts(issuer: Issuer) -> str:
    return issuer.token().rpartition(".")[0]


@forged("a token has three parts, and this one has 5")
def encrypted_token(_: Issuer) -> str:
    return "a.b.c.d.e"


@forged("a part of the token is not base64url without padding")
def padded(issuer: Issuer) -> str:
    return issuer.token() + "="


@forged("a part of the token is not base64url without padding")
def with_a_line_end(issuer: Issuer) -> str:
    return issuer.token() + "\n"


@forged("a part of the token is base64url that is written in another way")
def stray_bits(issuer: Issuer) -> str:
    text = issuer.token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


@forged(f"at most {MAX_TOKEN_BYTES}")
def a_mebibyte(issuer: Issuer) -> str:
    return issuer.token(more="x" * 1024 * 1024)


@pytest.mark.parametrize("name", FORGED)
def test_forged_token_is_refused_for_its_reason(world: World, name: str) -> None:
    make, told = FORGED[name]
    why = world.why(make(world.issuer))
    assert told in why, why


def test_table_has_every_known_forgery() -> None:
    assert len(FORGED) >= 36


# ---- limits ------------------------------------------------------------------------------------


def test_token_at_its_edges_is_good(world: World) -> None:
    now = 1_700_000_000
    text = world.issuer.token(iat=now, exp=now + 86_400, nbf=now)
    first_ms = now * 1000 - SKEW_MS - 60_000
    last_ms = (now + 86_400) * 1000 + SKEW_MS - 1
    assert isinstance(world.judge(text, now_ms=first_ms), Proven)
    assert isinstance(world.judge(text, now_ms=last_ms), Proven)
    assert world.why(text, now_ms=first_ms - 1) == "the token begins 62001 ms later"
    assert world.why(text, now_ms=last_ms + 1) == "the token ended 2000 ms earlier"


def test_wide_clock_skew_does_not_outlive_the_memory(world: World) -> None:
    """The bus remembers a token for 26 hours, and a policy may allow a skew of a year."""
    now = 1_700_000_000
    text = world.issuer.token(iat=now, exp=now + 300)
    late_ms = (now + 300) * 1000 + 600_000
    assert world.why(text, now_ms=late_ms, skew_ms=10**10) == "the token ended 600000 ms earlier"


def test_largest_token_is_read(world: World) -> None:
    room = MAX_TOKEN_BYTES - len(world.issuer.token(more=""))
    text = world.issuer.token(more="x" * (room * 3 // 4 - 8))
    assert len(text) <= MAX_TOKEN_BYTES
    assert isinstance(world.judge(text), Proven)


def test_provider_bounds_the_life_of_tokens(world: World) -> None:
    strict = world.issuer.provider(token_life_ms=60_000)
    given = {
        "identities": (Identity(strict, "order"),),
        "keys": {strict: world.keys[world.provider]},
    }
    why = world.why(world.issuer.token(), **given)
    assert why == "the token lives 300000 ms; at most 60000 (token_life)"


def test_unknown_key_asks_for_newer_ones(world: World) -> None:
    verdict = world.judge(world.issuer.token(), keys={})
    assert isinstance(verdict, TokenRefused)
    assert verdict.unknown_key
    assert not world.judge("a.b").unknown_key  # type: ignore[union-attr]


def test_changed_entry_has_no_keys_of_before(world: World) -> None:
    other = world.issuer.provider(issuer="https://other.example")
    why = world.why(world.issuer.token(), identities=(Identity(other, "order"),))
    assert why == "no known key of a provider has the name in the token"


def test_identity_of_another_provider_does_not_fit(world: World, tmp_path: Path) -> None:
    """Both providers use one name for their keys."""
    with Issuer(tmp_path) as other:
        theirs = Identity(other.provider(name="other"), "clerk")
        keys = read_keys(json.dumps(other.key_set()).encode(), "RS256")
        both = {**world.keys, theirs.provider: keys}
        identities = (*world.identities, theirs)
        why = world.why(other.token("order"), identities=identities, keys=both)
        assert why == "no identity of the bot fits the token of other for order"
        assert isinstance(
            world.judge(other.token("clerk"), identities=identities, keys=both), Proven
        )


def alike(world: World, *fields: dict[str, Any]) -> dict[str, Any]:
    """Identities of providers that have one issuer and one key set. The second one fits."""
    providers = [world.issuer.provider(name=f"idp-{n}", **own) for n, own in enumerate(fields)]
    subjects = ["clerk", "order", *["clerk"] * len(providers)]
    return {
        "identities": tuple(map(Identity, providers, subjects)),
        "keys": dict.fromkeys(providers, world.keys[world.provider]),
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"audience": "sealbus:other"}, {}),
        ({"token_life_ms": 60_000}, {}),
        ({}, {"token_life_ms": 600_000}),
        ({"issuer": "https://other.example"}, {}),
    ],
    ids=["audience", "life", "longer-life", "issuer"],
)
def test_each_provider_with_the_key_of_a_token_is_tried(
    world: World, first: dict[str, Any], second: dict[str, Any]
) -> None:
    given = alike(world, first, second)
    verdict = world.judge(world.issuer.token(), **given)
    assert isinstance(verdict, Proven)
    assert verdict.identity == given["identities"][1]


def test_refusal_is_that_of_the_provider_that_is_meant(world: World) -> None:
    given = alike(world, {"issuer": "https://other.example"}, {"audience": "sealbus:other"}, {})
    why = world.why(world.issuer.token("worker"), **given)
    assert why == "no identity of the bot fits the token of idp-2 for worker"
    why = world.why(world.issuer.token(aud="sealbus:third"), **given)
    assert why == "the token's aud is not the provider's audience alone"
    why = world.why(world.issuer.token(iss="https://thief.example"), **given)
    assert why == "the token's iss is not the provider's issuer"


def test_nothing_of_a_token_is_shown(world: World) -> None:
    text = world.issuer.token()
    token = Token.decode(text)
    assert all(part not in repr(token) for part in text.split("."))
