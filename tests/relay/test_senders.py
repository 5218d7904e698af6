"""Who sends at present, and which bots are greedy."""

from __future__ import annotations

from sealbus.protocol.subjects import RELAY
from sealbus_broker.relay.ingress.senders import LATELY, Senders


def after(*batches: dict[str, int]) -> Senders:
    """What a relay knows after these batches."""
    senders = Senders()
    for batch in batches:
        senders.note(batch)
    return senders


def test_one_bot_is_alone_after_many_envelopes_of_its_own() -> None:
    assert after().are_several, "at its start a relay knows of nobody"
    assert after({"a": LATELY - 1}).are_several
    assert not after({"a": LATELY}).are_several
    assert after({"a": LATELY}, {"b": 1}).are_several
    assert after({"b": 1}, {"a": LATELY}).are_several
    assert not after({"b": 1}, {"a": LATELY}, {"a": LATELY}).are_several


def greedy(**lately: int) -> set[str]:
    """Those of these bots that are greedy."""
    senders = after(lately)
    return {bot for bot in lately if senders.is_greedy(bot)}


def test_a_greedy_bot_sends_much_more_than_another() -> None:
    assert greedy(a=LATELY) == set()
    assert greedy(a=9, b=1) == {"a"}
    assert greedy(a=8, b=1) == set()
    assert greedy(a=300, b=400) == set()
    assert greedy(a=300, b=400, c=1) == {"a", "b"}


def test_a_greedy_bot_sends_a_quarter_of_all() -> None:
    others = dict.fromkeys("bcdefghijk", 90)
    assert greedy(a=301, **others, quiet=1) == {"a"}
    assert greedy(a=300, **others, quiet=1) == set()


def test_the_relays_own_messages_make_no_bot_greedy() -> None:
    assert greedy(a=300, b=400, **{RELAY: 1}) == set()
