"""Links to a bot's next key, signed wherever its present key lives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sealbus import Credentials, CredentialsError, InvalidInput
from sealbus.key_places import LockedKey
from sealbus.protocol.keys import KeyKind, Signer, SigningKey
from sealbus.protocol.seal import Verifier
from sealbus.protocol.sender_links import SenderLink, parse_link
from sealbus.ssh_agent import AgentKey, parse_openssh
from tests.client.ssh_agents import agent, honest, real_agent
from tests.client.test_ssh_agent import needs_agent

KEY = SigningKey(bytes(range(32)), KeyKind.BOT)
NEW = SigningKey(bytes(range(32, 64)), KeyKind.BOT).public
SECRET = "the PIN is 1234"


def credentials(key: Signer) -> Credentials:
    return Credentials("shop", "order", key, ("nats://a:4222",), frozenset())


def check(text: str, old: bytes) -> None:
    """The link is by ``old``, to the new key."""
    link = SenderLink.decode(parse_link(text))
    assert link.old == old
    assert link.at_ms % 1000 == 0
    assert link.holds(Verifier(), bus="shop", bot="order", new=NEW.raw)


def test_key_in_memory_signs_a_link() -> None:
    check(credentials(KEY).sign_link(NEW.text), KEY.public.raw)


def test_agent_signs_a_link() -> None:
    with agent(honest(KEY)) as path:
        check(credentials(AgentKey(KEY.public, path)).sign_link(NEW.text), KEY.public.raw)


@needs_agent
def test_real_agent_signs_a_link(tmp_path: Path) -> None:
    with real_agent(tmp_path) as (path, line):
        public = parse_openssh(line)
        check(credentials(AgentKey(public, path)).sign_link(NEW.text), public.raw)


class Elsewhere:
    """A signer of a program."""

    def __init__(self, sign: Callable[[bytes], bytes]) -> None:
        self.public = KEY.public
        self.sign = sign


def _fails(_: bytes) -> bytes:
    raise OSError(SECRET)


@pytest.mark.parametrize(
    ("sign", "said"),
    [
        (KEY.sign, None),
        (lambda _: bytes(64), "does not hold for its key"),
        (lambda message: KEY.sign(message + b"x"), "does not hold for its key"),
        (lambda message: KEY.sign(message)[:-1], "gave 63 bytes; expected a signature of 64"),
        (lambda _: None, "gave NoneType"),
        (_fails, "the signer of order failed: OSError"),
    ],
    ids=["right", "zeros", "of other bytes", "short", "none", "fails"],
)
def test_wrong_signature_of_a_signer_is_no_link(
    sign: Callable[[bytes], bytes], said: str | None
) -> None:
    bot = credentials(Elsewhere(sign))
    if said is None:
        check(bot.sign_link(NEW.text), KEY.public.raw)
        return
    with pytest.raises(CredentialsError, match=said) as caught:
        bot.sign_link(NEW.text)
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_locked_key_signs_no_link() -> None:
    with pytest.raises(CredentialsError, match="was not unlocked"):
        credentials(LockedKey(KEY.public)).sign_link(NEW.text)


@pytest.mark.parametrize("new", ["", "U", KEY.public.text, KEY.seed_text, "N" + NEW.text[1:]])
def test_link_leads_to_another_public_key_of_a_bot(new: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        credentials(KEY).sign_link(new)
    assert KEY.seed_text not in f"{caught.value} {caught.value.hint}"
