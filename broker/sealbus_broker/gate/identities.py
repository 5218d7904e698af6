"""Who may stand for a bot without a key of its own: identity providers, and identities of theirs.

An identity provider signs tokens for the programs that it knows, such as the service accounts of a
Kubernetes cluster or the jobs of a CI system. The policy says which of them is which bot. A relay
exchanges such a token for a session certificate (:mod:`sealbus_broker.door.exchange`), which the
bus's *session-issuer key* signs. So the gate knows nothing of tokens. It judges certificates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_TOKEN_LIFE_MS: Final = 24 * 3_600_000
"""The longest life of a token that is exchanged: a day. The bus remembers each exchanged token for
longer than that (:mod:`sealbus_broker.nats.records`), so none is exchanged twice."""

Scalar = str | int | bool
"""The value of a claim that a policy may demand."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One entry under ``identity_providers:``."""

    name: str
    """Its name in the policy."""
    issuer: str
    """Its URL, with ``https``. The claim ``iss`` of its tokens is exactly that."""
    audience: str
    """For whom a token has to be: a value of its claim ``aud``."""
    algorithm: str
    """The only algorithm of its signatures, such as ``RS256``."""
    ca: str | None = None
    """The path of a PEM file with the authorities of its certificate. ``None``: those of the
    system."""
    token_life_ms: int = MAX_TOKEN_LIFE_MS
    """How long a token may be valid in all."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One entry under ``identities:`` of a bot. A token fits if all of it is equal."""

    provider: Provider
    subject: str | None = None
    """The claim ``sub``. ``None``: it does not matter, and the claims decide."""
    claims: tuple[tuple[str, Scalar], ...] = ()
    """Names and values of further claims."""
