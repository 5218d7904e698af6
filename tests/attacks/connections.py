"""Certificates of connections: a bot that the policy binds to one, with another or with none.

The vault is a bot that is bound to the certificate of its name. The running bus has no TLS, so it
refuses each of these logins. The reason is that of the same login over a connection with the
certificate of the attack.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.certificates import make_authority, make_bot
from sealbus_broker.gate.policy import BotKey, BotRule, Policy
from tests.attacks.admission import signed
from tests.attacks.corpus import Family, Said
from tests.gate.world import KEYS, POLICY, known_seed

FAMILY = Family("connections")
login = FAMILY.login

VAULT: Final = "vault"
VAULT_KEY: Final = SigningKey(known_seed(VAULT), KeyKind.BOT)
BOUND_TO: Final = "sealbus://shop/vault"


def with_vault() -> Policy:
    """The policy of the other attacks, and the vault."""
    raw = VAULT_KEY.public.raw
    rule = BotRule(VAULT, {raw: BotKey(raw, 0)}, seals_directly=True, certificate_names=(BOUND_TO,))
    return replace(POLICY, bots=dict(POLICY.bots) | {VAULT: rule})


def shown(owner: str, **more: object) -> dict[str, Any]:
    """nats-server's words about a connection with the verified certificate of ``owner``."""
    return {"version": "1.3", "verified_chains": [[_certificate(owner)]], **more}


@cache
def _certificate(owner: str) -> str:
    # They are made when they are needed, because they are other bytes each time.
    authority = make_authority("shop", datetime.now(UTC))
    return make_bot(authority, "shop", owner, datetime.now(UTC)).certificate.decode()


def the_vault(challenge: bytes) -> Said:
    """The vault's own login, with its own key."""
    return signed(challenge, VAULT, VAULT_KEY)


@login("the policy binds this bot to a certificate, and its connection has no TLS", lambda: None)
def a_stolen_key_without_tls(challenge: bytes) -> Said:
    """The right key, over a connection without TLS."""
    return the_vault(challenge)


@login(
    "the certificate of the connection is for sealbus://shop/rival;"
    " the policy binds to sealbus://shop/vault",
    lambda: shown("rival"),
)
def a_stolen_key_over_anothers_certificate(challenge: bytes) -> Said:
    """The right key, over the rival's certificate of the same authority."""
    return the_vault(challenge)


@login(
    "the policy binds this bot to a certificate, and its connection shows no certificate that"
    " nats-server knows",
    lambda: {"version": "1.3", "certs": [_certificate(VAULT)]},
)
def a_certificate_that_nobody_verified(challenge: bytes) -> Said:
    """The right key and a certificate of the right name, which no authority of the bus signed."""
    return the_vault(challenge)


@login("the key is not one of this bot's", lambda: shown(VAULT))
def a_stolen_certificate_without_the_key(challenge: bytes) -> Said:
    """The right certificate, and the rival's key."""
    return signed(challenge, VAULT, KEYS["rival"])


@login(
    "the certificate of the connection is for sealbus://shop/sealbus;"
    " the policy binds to sealbus://shop/vault",
    lambda: shown("sealbus"),
)
def a_stolen_key_over_the_certificate_of_the_bus(challenge: bytes) -> Said:
    """The right key, over the certificate of nats-server and of the relays."""
    return the_vault(challenge)
