"""At the door: logins to sessions that the sender has no right to.

The rival holds a valid key of its own, and pretends to be the order bot.
"""

from __future__ import annotations

import json

from sealbus.protocol.joining import JoinProof
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import Context, Seal, seal, sign_connect
from sealbus.protocol.subjects import consumer_name
from tests.attacks.corpus import Family, Said
from tests.gate.world import BUS_KEY, KEYS, known_seed

FAMILY = Family("admission")
login = FAMILY.login

NOTHING = "no admission text, signature or challenge"
BEGINS = "the admission text does not begin with sealbus/1, a bot, a key and a certificate"
NO_BOT = "the admission text names no bot"
NOT_ITS_KEY = "the key is not one of this bot's"
NOT_NOW = "the key is not yet valid, expired or revoked"
NO_SIGNATURE = "the signature does not hold over the challenge and the admission text"
NOT_ITS_CONSUMER = "a consumer that is not the bot's own"
NOT_INVITED = "the bot has no such invitation: it was withdrawn, used, or is another bot's or bus's"


def _text(bot: str, key: SigningKey, *more: str) -> str:
    return " ".join(["sealbus/1", bot, key.public.text, "-", *more])


def signed(
    challenge: bytes, bot: str, key: SigningKey, *more: str, by: SigningKey | None = None
) -> tuple[str, bytes]:
    """A login as ``bot`` with ``key``. ``by`` is the key that signs, if another one does."""
    text = _text(bot, key, *more)
    return text, sign_connect(by or key, challenge, text.encode())


def honest(challenge: bytes) -> Said:
    """A login that must not be denied: each attack differs from it in one thing."""
    return signed(challenge, "order", KEYS["order"])


@login(NOTHING)
def nothing_said(_: bytes) -> Said:
    """No admission text and no signature."""
    return None, None


@login(NOTHING)
def no_signature(_: bytes) -> Said:
    """The order bot's name and key, which are public, without any proof."""
    return _text("order", KEYS["order"]), None


@login(BEGINS)
def another_protocol(challenge: bytes) -> Said:
    """A protocol version that does not exist."""
    text = _text("order", KEYS["rival"]).replace("sealbus/1", "sealbus/2")
    return text, sign_connect(KEYS["rival"], challenge, text.encode())


@login("the admission text is not ASCII")
def letters_that_look_alike(challenge: bytes) -> Said:
    """The order bot's name with a Cyrillic o."""
    return signed(challenge, "\u043erder", KEYS["rival"])


@login(NO_BOT)
def a_name_with_a_dot(challenge: bytes) -> Said:
    """A name that contains two tokens of a NATS subject."""
    return signed(challenge, "rival.x", KEYS["rival"])


@login(NO_BOT)
def a_name_that_is_a_wildcard(challenge: bytes) -> Said:
    """The name ``*``, whose session would be the session of every bot."""
    return signed(challenge, "*", KEYS["rival"])


@login(NO_BOT)
def a_name_in_capitals(challenge: bytes) -> Said:
    """A name that some readers would take for the order bot's."""
    return signed(challenge, "Order", KEYS["rival"])


@login("the policy knows no such bot")
def a_bot_of_nobody(challenge: bytes) -> Said:
    """A name that no policy knows."""
    return signed(challenge, "ghost", KEYS["rival"])


@login("the policy knows no such bot")
def the_relays_own_name(challenge: bytes) -> Said:
    """The name in the relay's own messages."""
    return signed(challenge, "sealbus", KEYS["rival"])


@login(NOT_ITS_KEY)
def a_key_that_nobody_knows(challenge: bytes) -> Said:
    """The order bot's name with a key that nobody registered."""
    return signed(challenge, "order", KEYS["stranger"])


@login(NOT_ITS_KEY)
def a_lesser_bots_key(challenge: bytes) -> Said:
    """The order bot's name with the rival's valid key."""
    return signed(challenge, "order", KEYS["rival"])


@login(NOT_NOW)
def a_key_that_leaked(challenge: bytes) -> Said:
    """A key of the order bot that was revoked."""
    return signed(challenge, "order", KEYS["order-leaked"])


@login(NOT_NOW)
def a_key_that_is_over(challenge: bytes) -> Said:
    """A key of the order bot that has expired."""
    return signed(challenge, "order", KEYS["order-old"])


@login(NOT_NOW)
def a_key_that_is_to_come(challenge: bytes) -> Said:
    """A key of the order bot that is not valid yet."""
    return signed(challenge, "order", KEYS["order-next"])


@login(NO_SIGNATURE)
def signed_with_another_key(challenge: bytes) -> Said:
    """The order bot's name and key, signed with the rival's key."""
    return signed(challenge, "order", KEYS["order"], by=KEYS["rival"])


@login(NO_SIGNATURE)
def another_challenge(_: bytes) -> Said:
    """A captured login: the order bot's signature over an earlier connection's challenge."""
    return signed(b"the challenge of yesterday", "order", KEYS["order"])


@login(NO_SIGNATURE)
def the_bare_challenge(challenge: bytes) -> Said:
    """A signature over the challenge alone, as NATS's own keys make it."""
    return _text("order", KEYS["order"]), KEYS["order"].sign(challenge)


@login(NO_SIGNATURE)
def another_text(challenge: bytes) -> Said:
    """The order bot's signature for a session without consumers, with a text that asks for one."""
    text = _text("order", KEYS["order"])
    signature = sign_connect(KEYS["order"], challenge, text.encode())
    return f"{text} {consumer_name('order', 'orders.shipped', 'x')}", signature


@login(NO_SIGNATURE)
def another_context(challenge: bytes) -> Said:
    """The order bot's seal over the same bytes, made for an envelope."""
    text = _text("order", KEYS["order"])
    return text, Seal.decode(
        seal(KEYS["order"], Context.ENVELOPE, [challenge + text.encode()])[0]
    ).signature


@login(NO_SIGNATURE)
def a_signature_cut_short(challenge: bytes) -> Said:
    """63 of 64 bytes."""
    text, signature = signed(challenge, "order", KEYS["order"])
    return text, signature[:-1]


@login("the signature is not base64")
def a_signature_of_no_bytes(_: bytes) -> Said:
    """A signature that is text."""
    return _text("order", KEYS["order"]), "let me in!"


@login(NOT_ITS_CONSUMER)
def anothers_consumer(challenge: bytes) -> Said:
    """The rival asks for the messages of the inventory bot's durable subscription."""
    return signed(
        challenge, "rival", KEYS["rival"], consumer_name("inventory", "orders.placed", "default")
    )


@login(NOT_ITS_CONSUMER)
def a_consumer_that_is_a_wildcard(challenge: bytes) -> Said:
    """The rival asks for the right to fetch from every consumer."""
    return signed(challenge, "rival", KEYS["rival"], ">")


@login("33 consumers; at most 32")
def too_many_consumers(challenge: bytes) -> Said:
    """Each consumer is the rival's own, but the session that the server keeps would grow."""
    own = [consumer_name("rival", "stock.reserved", f"d{number}") for number in range(33)]
    return signed(challenge, "rival", KEYS["rival"], *own)


@login("public key (U…) expected, got a key that begins with 'N'")
def the_bus_key_as_a_bots(challenge: bytes) -> Said:
    """A key of another kind: the bus key, which the credentials name."""
    return signed(challenge, "order", BUS_KEY)


@login("public key (U…) expected, got a key that begins with 'A'")
def a_bots_key_as_an_issuers(challenge: bytes) -> Said:
    """The order bot's key under the prefix of a NATS account's key."""
    key = SigningKey(known_seed("order"), KeyKind.ISSUER)
    return signed(challenge, "order", key)


# ---- the door's way to a first key ---------------------------------------------------------------


def _join(
    challenge: bytes, by: SigningKey, *, key: SigningKey, word: str | None = None
) -> tuple[str, bytes]:
    """A login of the order bot by a join proof of ``by`` for ``key``."""
    proof = JoinProof.make(by, key.public.raw, bus="shop", bot="order")
    text = f"sealbus/1 order {key.public.text} {word or proof.word}"
    return text, sign_connect(key, challenge, text.encode())


@login(NOT_INVITED)
def a_token_that_nobody_gave(challenge: bytes) -> Said:
    """A join proof by a key that was made for it."""
    return _join(challenge, KEYS["stranger"], key=KEYS["thief-session"])


@login(NOT_INVITED)
def an_enrolled_key_as_a_token(challenge: bytes) -> Said:
    """A join proof by the rival's valid key, which may enrol no key."""
    return _join(challenge, KEYS["rival"], key=KEYS["thief-session"])


@login(NOT_INVITED)
def a_leaked_key_as_a_token(challenge: bytes) -> Said:
    """A join proof by the order bot's own revoked key, for a new key."""
    return _join(challenge, KEYS["order-leaked"], key=KEYS["thief-session"])


@login("join proof has 0 bytes; expected 96")
def a_join_without_a_proof(challenge: bytes) -> Said:
    """The word of a join proof, and nothing in it."""
    return _join(challenge, KEYS["rival"], key=KEYS["rival"], word="join:")


# ---- the server's side of a login ----------------------------------------------------------------


def _info(**changed: object) -> bytes:
    fields = {
        "server_id": "N",
        "version": "2.15.1",
        "max_payload": 1_048_576,
        "headers": True,
        "nonce": "abc",
        **changed,
    }
    return b"INFO " + json.dumps(fields).encode() + b"\r\n"


NO_SERVER = "the server does not answer like a nats-server"
NOTHING_TO_SIGN = (
    "the server gives nothing to sign, so it is not the server of a bus, and nothing was sent"
)

for _name, _says, _reason, _about in (
    (
        "a greeting that is a list",
        b"INFO []\r\n",
        NO_SERVER,
        "JSON that is no greeting of a server",
    ),
    (
        "a greeting nested too deep",
        b"INFO " + b"[" * 100_000 + b"\r\n",
        NO_SERVER,
        "JSON on which a parser would end",
    ),
    ("a greeting without end", b"INFO " + bytes(200_000), NO_SERVER, "more than a line may have"),
    (
        "a challenge with a line feed",
        _info(nonce="a\nb"),
        NO_SERVER,
        "bytes of the server's choice, to be signed",
    ),
    (
        "a challenge that is a list",
        _info(nonce=[]),
        NOTHING_TO_SIGN,
        "a list, to be signed as a text",
    ),
    (
        "a greeting without a challenge",
        _info(nonce=None),
        NOTHING_TO_SIGN,
        "a login that could be replayed",
    ),
    (
        "a greeting of another protocol",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        NO_SERVER,
        "a line of something else that listens there",
    ),
):
    FAMILY.greeting(_name, _says, _about, _reason)


@login("the policy has no identities of this bot")
def a_token_of_a_provider_that_nobody_named(challenge: bytes) -> Said:
    """A token in the place of the certificate, for a bot that logs in with a key."""
    key = KEYS["rival"]
    token = "eyJhbGciOiJub25lIiwia2lkIjoiMSJ9.eyJzdWIiOiJvcmRlciJ9.eA"
    text = _text("order", key).removesuffix("-") + f"token:{token}"
    return text, sign_connect(key, challenge, text.encode())
