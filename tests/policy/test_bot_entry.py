"""One bot is added to a policy's text or removed from it, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import InvalidInput
from sealbus_broker.policy.bot_entry import BotEntry, add_bot, bots_of, remove_bot
from sealbus_broker.policy.yaml_tree import read_yaml_tree

pytestmark = pytest.mark.slow

POLICY = """\
# The shop.
version: 1
bus: shop   # its name

bots:   # who there is

  # takes orders
  order:
    publish: ['orders.placed']   # and nothing else
    subscribe:
      - stock.reserved

  # counts things
  inventory:
    publish: [
      stock.reserved,
    ]
    # not yet: subscribe: [orders.placed]

# what may be said
subjects: {}
"""


def test_bot_is_added_as_the_last_one() -> None:
    after = add_bot(
        POLICY, "shipping", BotEntry(["trader"], ["orders.shipped"], ["stock.reserved", "orders.*"])
    )
    grants = "    publish: [orders.shipped]\n    subscribe: [stock.reserved, orders.*]\n"
    added = f"  shipping:\n    roles: [trader]\n{grants}"
    last = "    # not yet: subscribe: [orders.placed]\n"
    assert after == POLICY.replace(last, last + added)
    assert bots_of(after) == ["order", "inventory", "shipping"]


def test_bot_without_grants() -> None:
    assert "  shipping: {}\n" in add_bot(POLICY, "shipping", BotEntry())


def test_removed_bot_takes_its_own_comment_along() -> None:
    after = remove_bot(POLICY, "order")
    assert "takes orders" not in after
    assert "# counts things\n  inventory:" in after
    assert after == POLICY.replace(
        "  # takes orders\n  order:\n    publish: ['orders.placed']   # and nothing else\n"
        "    subscribe:\n      - stock.reserved\n",
        "",
    )


def test_removed_bot_takes_the_comments_inside_it_along() -> None:
    assert "not yet" not in remove_bot(POLICY, "inventory")
    assert remove_bot(POLICY, "inventory").endswith(
        "      - stock.reserved\n\n\n# what may be said\nsubjects: {}\n"
    )


def test_last_bot_leaves_an_empty_list() -> None:
    text = "version: 1\nbots:\n  order: {}\nsubjects: {}\n"
    after = remove_bot(text, "order")
    assert after == "version: 1\nbots:\nsubjects: {}\n"
    assert add_bot(after, "order", BotEntry()) == text


@pytest.mark.parametrize(
    ("bots", "after"),
    [
        ("", "bots:\n  order: {}\n"),
        ("bots:\n", "bots:\n  order: {}\n"),
        ("bots: {}\n", "bots:\n  order: {}\n"),
        ("bots: {}  # nobody\n", "bots:  # nobody\n  order: {}\n"),
        ("bots: ~\n", "bots: \n  order: {}\n"),
        ("'bots': {}\n", "'bots':\n  order: {}\n"),
        ("bots:\n    old: {}\n", "bots:\n    old: {}\n    order: {}\n"),
        ("bots:\n  old:\n    publish: a.b", "bots:\n  old:\n    publish: a.b\n  order: {}\n"),
        (
            "bots:\n  old:\n    publish: |-\n      a.b\n",
            "bots:\n  old:\n    publish: |-\n      a.b\n  order: {}\n",
        ),
    ],
)
def test_forms_that_bots_may_have(bots: str, after: str) -> None:
    assert add_bot(f"version: 1\n{bots}", "order", BotEntry()) == f"version: 1\n{after}"


@pytest.mark.parametrize(
    "text",
    ["bots: {old: {}}\n", "{bots: {}}\n", "bots: [a]\n", "- bots\n", "bots: old\n", "a: [\n"],
)
def test_forms_that_are_not_edited_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as told:
        add_bot(text, "order", BotEntry())
    assert told.value.hint


def test_names_that_yaml_takes_for_something_else_are_quoted() -> None:
    text = "bots:\n  old: {}\n"
    for name in ("null", "true", "404", "1e3", "0x1"):
        after = add_bot(text, name, BotEntry(roles=["a: b", "yes, #"]))
        assert bots_of(after) == ["old", name]
        assert remove_bot(after, name) == text


def test_bot_that_is_there_and_one_that_is_not() -> None:
    with pytest.raises(InvalidInput, match="declares order already"):
        add_bot(POLICY, "order", BotEntry())
    with pytest.raises(InvalidInput, match="declares no bot shipping"):
        remove_bot(POLICY, "shipping")


def test_line_ends_of_windows_are_kept() -> None:
    text = POLICY.replace("\n", "\r\n")
    after = add_bot(text, "shipping", BotEntry(publish=["a.b"]))
    assert after.count("\n") == after.count("\r\n")
    assert remove_bot(after, "shipping") == text


names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,10}", fullmatch=True)
grants = st.lists(
    st.sampled_from(["orders.placed", "orders.*", "orders.>", "sealbus.quarantine.*"]), max_size=3
)
comments = st.sampled_from(["", "  # why", " #"])
lines = st.sampled_from(["", "\n", "  # above\n", "    # inside\n", "# far\n", "\n\n  # apart\n\n"])


@st.composite
def policies(draw: st.DrawFn) -> str:
    text = "version: 1\nbots:" + draw(comments) + "\n"
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        text += draw(lines) + f'  "{name}":' + draw(comments) + "\n"
        form = draw(
            st.sampled_from(
                [
                    "    publish: [{}]",
                    "    publish:\n    - {}",
                    "    publish: '{}'",
                    "    roles: [\n      {}\n    ]",
                ]
            )
        )
        text += form.format(draw(st.sampled_from(["orders.placed", "a.b"]))) + draw(comments) + "\n"
    return text + draw(lines) + draw(st.sampled_from(["subjects: {}\n", ""]))


@given(policies(), names, grants, grants)
def test_adding_and_removing_is_the_text_as_it_was(
    text: str, name: str, publish: list[str], subscribe: list[str]
) -> None:
    if name in bots_of(text):
        return
    entry = BotEntry((), publish, subscribe)
    after = add_bot(text, name, entry)
    before, now = read_yaml_tree("f", text).plain(), read_yaml_tree("f", after).plain()
    assert isinstance(before, dict)
    assert isinstance(now, dict)
    assert now["bots"] == {**before["bots"], name: entry.plain()}
    assert remove_bot(after, name) == text


@given(policies())
def test_removing_each_leaves_the_others(text: str) -> None:
    before = read_yaml_tree("f", text).plain()
    assert isinstance(before, dict)
    for name in bots_of(text):
        now = read_yaml_tree("f", remove_bot(text, name)).plain()
        assert isinstance(now, dict)
        assert (now["bots"] or {}) == {
            one: value for one, value in before["bots"].items() if one != name
        }
