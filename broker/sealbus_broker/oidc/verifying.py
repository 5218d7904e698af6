"""The rules for a token, in their order. Pure: keys and time come in, and a verdict goes out.

A token stands for a bot if all of these hold:

1. Its algorithm is the one of an identity provider that the bot has an identity of.
2. A key of that provider, with the name that the token gives, has made the signature.
3. No name occurs twice in the payload, which is a JSON object.
4. ``iss`` is exactly the provider's issuer.
5. ``aud`` is exactly the provider's audience, and no other beside it. A token for two services
   could be used here by the other one.
6. ``exp`` and ``iat`` are integers, and ``nbf`` too if it is there. The token has begun and has not
   ended, by clocks that may differ a little. It lives no longer than the provider's ``token_life``.
7. ``sub`` is a text, and an identity of the bot fits: its subject and all its claims are equal, in
   value and in type.

Several providers of the bot may have one issuer, such as for two audiences, or one key set. Each of
them whose key has made the signature is tried. One for which all of this holds is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sealbus.errors import Malformed
from sealbus.protocol.limits import CERTIFICATE_AHEAD_MS
from sealbus_broker.escape import readable
from sealbus_broker.gate.identities import Identity, Provider
from sealbus_broker.oidc.json_object import read_object
from sealbus_broker.oidc.keys import Keys, holds
from sealbus_broker.oidc.token import Token

MAX_SKEW_MS: Final = 600_000
"""The most that clocks may differ here, whatever ``clock_skew`` allows. The bus remembers exchanged
tokens for 26 hours, and a token may live a day."""

SUBJECT_SHOWN: Final = 128
"""How many characters of a subject the log has."""


@dataclass(frozen=True, slots=True)
class Proven:
    """A token that stands for a bot."""

    identity: Identity
    """The identity that fits."""
    digest: str
    """The name under which the bus remembers the token."""


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """A token that does not."""

    why: str
    """A sentence for the log. It has nothing of the token but a subject that the provider has
    signed."""
    unknown_key: bool = False
    """Whether newer keys of a provider might change that."""


def verify(
    token: Token,
    identities: Sequence[Identity],
    keys: Mapping[Provider, Keys],
    now_ms: int,
    skew_ms: int,
) -> Proven | TokenRefused:
    """Judge a token.

    Args:
        token: The token.
        identities: Those of the bot.
        keys: The keys of providers. One that is missing has none.
        now_ms: The time of the login (ms since 1970).
        skew_ms: How far clocks may differ.
    """
    providers = dict.fromkeys(one.provider for one in identities)
    able = [one for one in providers if one.algorithm == token.algorithm]
    if not able:
        wanted = " or ".join(dict.fromkeys(one.algorithm for one in providers))
        return TokenRefused(f"the token's algorithm is not {wanted}")
    named = [one for one in able if token.key_id in keys.get(one, {})]
    if not named:
        return TokenRefused(
            "no known key of a provider has the name in the token", unknown_key=True
        )
    signers = [
        one for one in named if holds(keys[one][token.key_id], token.signed, token.signature)
    ]
    if not signers:
        return TokenRefused("the token's signature does not hold")
    try:
        claims = read_object(token.payload, "the token's payload")
    except Malformed as error:
        return TokenRefused(error.what)
    # Of several refusals, the log gets that of the provider that the token is meant for.
    signers.sort(key=lambda one: (not _is_from(one, claims), not _is_for(one, claims)))
    refusals: list[TokenRefused] = []
    for signer in signers:
        verdict = _judge(token, claims, signer, identities, now_ms, min(skew_ms, MAX_SKEW_MS))
        if isinstance(verdict, Proven):
            return verdict
        refusals.append(verdict)
    return refusals[0]


def _judge(
    token: Token,
    claims: dict[str, Any],
    signer: Provider,
    identities: Sequence[Identity],
    now_ms: int,
    skew_ms: int,
) -> Proven | TokenRefused:
    """Judge the claims of a token whose signature holds, as those of one provider."""
    why = objection(claims, signer, now_ms, skew_ms)
    if why is not None:
        return TokenRefused(why)
    fitting = (one for one in identities if one.provider == signer and fits(one, claims))
    identity = next(fitting, None)
    if identity is None:
        subject = readable(claims["sub"], SUBJECT_SHOWN)
        return TokenRefused(f"no identity of the bot fits the token of {signer.name} for {subject}")
    return Proven(identity, token.digest)


def _is_from(provider: Provider, claims: dict[str, Any]) -> bool:
    return bool(claims.get("iss") == provider.issuer)


def _is_for(provider: Provider, claims: dict[str, Any]) -> bool:
    return claims.get("aud") in (provider.audience, [provider.audience])


def objection(claims: dict[str, Any], provider: Provider, now_ms: int, skew_ms: int) -> str | None:
    """Return why the claims of a token of ``provider`` do not hold at ``now_ms``, or ``None``."""
    missing = next((one for one in ("iss", "aud", "sub", "iat", "exp") if one not in claims), None)
    if missing is not None:
        return f"the token has no {missing}"
    if not _is_from(provider, claims):
        return "the token's iss is not the provider's issuer"
    if not _is_for(provider, claims):
        return "the token's aud is not the provider's audience alone"
    if not isinstance(claims["sub"], str) or not claims["sub"]:
        return "the token's sub is not a text"
    times = {name: claims[name] for name in ("iat", "exp", "nbf") if name in claims}
    for name, at in times.items():
        if not isinstance(at, int) or isinstance(at, bool):
            return f"the token's {name} is not an integer"
    begin_ms = max(times["iat"], times.get("nbf", times["iat"])) * 1000
    if begin_ms > now_ms + skew_ms + CERTIFICATE_AHEAD_MS:
        return f"the token begins {begin_ms - now_ms} ms later"
    if times["exp"] * 1000 + skew_ms <= now_ms:
        return f"the token ended {now_ms - times['exp'] * 1000} ms earlier"
    life_ms = (times["exp"] - times["iat"]) * 1000
    if life_ms <= 0:
        return "the token ends before it begins"
    if life_ms > provider.token_life_ms:
        return f"the token lives {life_ms} ms; at most {provider.token_life_ms} (token_life)"
    return None


def fits(identity: Identity, claims: dict[str, Any]) -> bool:
    """Whether the claims are those of ``identity``."""
    if identity.subject is not None and claims["sub"] != identity.subject:
        return False
    # For Python 1 is True.
    return all(
        name in claims and type(claims[name]) is type(wanted) and claims[name] == wanted
        for name, wanted in identity.claims
    )
