"""``identity_providers:`` of a policy, and ``identities:`` of a bot.

::

    identity_providers:
      cluster:
        issuer: https://oidc.example.com/cluster-7
        audience: sealbus:shop
        algorithm: RS256          # not needed: RS256
        ca: cluster-ca.pem        # not needed: the authorities of the system
        token_life: 1h            # not needed: 24h

    bots:
      order:
        identities:
          - provider: cluster
            subject: system:serviceaccount:shop:order
            claims: {environment: production}

Texts are compared exactly. There is no pattern, because a pattern for subjects admits whoever finds
a name that fits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sealbus.errors import InvalidInput
from sealbus.fetching import check_https
from sealbus.protocol.subjects import check_name
from sealbus_broker.escape import readable
from sealbus_broker.gate.identities import MAX_TOKEN_LIFE_MS, Identity, Provider, Scalar
from sealbus_broker.policy.document import KeyPath
from sealbus_broker.policy.problems import similar
from sealbus_broker.policy.reader import Reader

MAX_PROVIDERS: Final = 16
"""Most providers. A door keeps the keys of each in memory, 256 KiB at most."""

MAX_IDENTITIES: Final = 16
"""Most identities of one bot. A bot with more should be several bots."""

MAX_CLAIMS: Final = 8
"""Most claims of one identity."""

MAX_TEXT_CHARS: Final = 256
"""The longest issuer, audience, subject or claim. A subject of OpenID Connect has 255 at most."""

MIN_TOKEN_LIFE_MS: Final = 60_000
"""Shortest ``token_life``. No provider issues tokens for less than a minute."""

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""The algorithms that a provider may have. All are asymmetric: with a shared secret, every relay
could make tokens."""

CHECKED: Final = ("iss", "aud", "sub", "exp", "nbf", "iat", "jti")
"""Claims that have a check of their own, or another value in each token."""

_PROVIDER: Final = ("issuer", "audience", "algorithm", "ca", "token_life")
_IDENTITY: Final = ("provider", "subject", "claims")


def read_providers(reader: Reader, value: Any, folder: Path) -> dict[str, Provider | None]:
    """Read ``identity_providers``. ``None`` stands for a provider with a problem, which is noted.

    Args:
        reader: Takes the problems.
        value: What the file has there.
        folder: The bus's folder, to which ``ca`` is relative.
    """
    path: KeyPath = ("identity_providers",)
    given = reader.mapping(value, path)
    if len(given) > MAX_PROVIDERS:
        reader.problem(path, f"has {len(given)} providers", expected=f"at most {MAX_PROVIDERS}")
    found: dict[str, Provider | None] = {}
    for name, fields in given.items():
        found[name] = _provider(reader, name, fields, folder)
    return found


def _provider(reader: Reader, name: str, value: Any, folder: Path) -> Provider | None:
    path: KeyPath = ("identity_providers", name)
    reader.checked(name, path, "provider", lambda text: check_name(text, "provider"))
    given = reader.mapping(value, path, _PROVIDER)
    issuer = reader.checked(given.get("issuer"), (*path, "issuer"), "issuer", check_issuer)
    audience = reader.checked(given.get("audience"), (*path, "audience"), "audience", _bounded)
    algorithm: str | None = ALGORITHMS[0]
    if "algorithm" in given:
        place = (*path, "algorithm")
        algorithm = reader.choice(given["algorithm"], place, "algorithm", ALGORITHMS)
    ca: str | None = None
    if "ca" in given and (text := reader.text(given["ca"], (*path, "ca"), "ca")) is not None:
        ca = str(folder / text)
    life: int | None = MAX_TOKEN_LIFE_MS
    if "token_life" in given:
        place = (*path, "token_life")
        bounds = (MIN_TOKEN_LIFE_MS, MAX_TOKEN_LIFE_MS)
        life = reader.duration(given["token_life"], place, "token_life", *bounds)
    if issuer is None or audience is None or algorithm is None or life is None:
        return None
    return Provider(name, issuer, audience, algorithm, ca, life)


def check_issuer(text: str) -> str:
    """Return the URL of an issuer, if it is one. Raises :class:`InvalidInput`."""
    _bounded(text)
    check_https(text, "issuer")
    if "?" in text or "#" in text:
        hint = "the provider's document /.well-known/openid-configuration has it as `issuer`"
        raise InvalidInput("issuer has more than a host and a path", hint=hint)
    return text


def _bounded(text: str) -> str:
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidInput(f"has {len(text)} characters; at most {MAX_TEXT_CHARS}")
    if not text.isprintable() or not text.isascii():
        # Two texts that look alike must not be two identities.
        raise InvalidInput("has characters beyond printable ASCII")
    return text


def read_identities(
    reader: Reader, value: Any, path: KeyPath, providers: dict[str, Provider | None]
) -> tuple[Identity, ...]:
    """Read ``identities`` of a bot at ``path``. Problems are noted."""
    if not isinstance(value, list) or not value or len(value) > MAX_IDENTITIES:
        expected = f"1 to {MAX_IDENTITIES} entries with `provider: …` and `subject: …`"
        reader.problem(path, "identities is not a list of identities", expected=expected)
        return ()
    found: list[Identity] = []
    for at, entry in enumerate(value):
        one = _identity(reader, entry, (*path, at), providers)
        if one is None:
            continue
        if one in found:
            reader.problem((*path, at), "the identity occurs here twice")
        found.append(one)
    return tuple(found)


def _identity(
    reader: Reader, entry: Any, path: KeyPath, providers: dict[str, Provider | None]
) -> Identity | None:
    given = reader.mapping(entry, path, _IDENTITY)
    name = reader.text(given.get("provider"), (*path, "provider"), "provider")
    if name is not None and name not in providers:
        known = readable(" or ".join(providers), 200) or "one declared under identity_providers"
        hint = similar(name, providers, reader.problems)
        place = (*path, "provider")
        reader.problem(place, "there is no such provider", got=name, expected=known, hint=hint)
    subject = None
    if "subject" in given:
        subject = reader.checked(given["subject"], (*path, "subject"), "subject", _bounded)
    claims = _claims(reader, given.get("claims"), (*path, "claims"))
    if "subject" not in given and not given.get("claims"):
        what = "names neither a subject nor a claim, so every token of the provider would fit"
        reader.problem(path, what, hint="add `subject: …`, the claim `sub` of the bot's tokens")
    provider = providers.get(name) if name is not None else None
    if provider is None or claims is None or (subject is None and not claims):
        return None
    return Identity(provider, subject, claims)


def _claims(reader: Reader, value: Any, path: KeyPath) -> tuple[tuple[str, Scalar], ...] | None:
    given = reader.mapping(value, path)
    if len(given) > MAX_CLAIMS:
        reader.problem(path, f"has {len(given)} claims", expected=f"at most {MAX_CLAIMS}")
        return None
    sound = True
    for name, wanted in given.items():
        place = (*path, name)
        if name in CHECKED:
            reader.problem(
                place,
                f"{name} is checked by itself",
                hint="`subject` of the identity stands for sub; `issuer` and `audience` of the "
                "provider for iss and aud",
            )
            sound = False
        elif isinstance(wanted, str):
            sound &= reader.checked(wanted, place, name, _bounded) is not None
        elif not isinstance(wanted, bool | int):
            what = "is not a text, a whole number, true or false"
            reader.problem(place, what, got=wanted, hint="a claim is compared as a whole")
            sound = False
    return tuple(sorted(given.items())) if sound else None
