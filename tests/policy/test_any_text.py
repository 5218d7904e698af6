"""The loader raises for no file content, and accepts no half of it.

The result is a policy or problems. Each problem has a place.
"""

from __future__ import annotations

import json
import random  # noqa: TID251  # random.Random(seed): repeatable on purpose

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.policy.folder import POLICY, Folder

pytestmark = pytest.mark.slow

FILES = ["policy.yaml", "schemas/order.v1.json", "keys/order.yaml"]
PIECES = [
    ":",
    "\n",
    " ",
    "-",
    "[",
    "]",
    "{",
    "}",
    "&a",
    "*a",
    "!",
    "!!str",
    "|",
    ">",
    "'",
    '"',
    "#",
    "%",
    "?",
    "~",
    "\t",
    "\0",
    "\ud7ff",
]

anything = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@anything
@given(st.binary(max_size=200), st.sampled_from(FILES))
def test_any_bytes(bus: Folder, content: bytes, file: str) -> None:
    bus.write(file, content)
    bus.load()


@anything
@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join),
    st.sampled_from(FILES),
)
def test_any_text_of_yamls_own_signs(bus: Folder, text: str, file: str) -> None:
    bus.write(file, text.encode("utf-8", "replace"))
    bus.load()


@pytest.mark.parametrize("seed", range(300))
def test_a_sound_policy_with_a_piece_changed(bus: Folder, seed: int) -> None:
    dice = random.Random(seed)
    text = POLICY
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(text))
        text = (
            text[:at]
            + dice.choice(["", *PIECES, "orders", "0", "true", "null"])
            + text[at + dice.randrange(6) :]
        )
    bus.write("policy.yaml", text.encode("utf-8", "replace"))
    bus.load()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["1m", "order.v1", "orders.placed", "live", ">"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@anything
@given(
    st.dictionaries(
        st.sampled_from(["version", "bus", "limits", "on_violation", "roles", "bots", "subjects"]),
        VALUES,
    )
)
def test_any_value_anywhere_at_the_top(bus: Folder, policy: dict[str, object]) -> None:
    bus.write("policy.yaml", json.dumps(policy))
    bus.load()


KNOWN = [
    "publish",
    "subscribe",
    "roles",
    "delivery",
    "schema",
    "rate",
    "reply",
    "cause",
    "within",
    "subject",
    "match",
    "once",
    "ttl",
]


@anything
@given(
    st.sampled_from(["limits", "on_violation", "roles", "bots", "subjects"]),
    st.dictionaries(
        st.sampled_from([*KNOWN, "a.b"]),
        VALUES | st.dictionaries(st.sampled_from(KNOWN), VALUES, max_size=4),
        max_size=4,
    ),
)
def test_any_value_anywhere_below(bus: Folder, section: str, value: dict[str, object]) -> None:
    bus.write(
        "policy.yaml",
        json.dumps(
            {
                "version": 1,
                "bus": "shop",
                "subjects": {"a.c": {"schema": "order.v1"}},
                section: value,
            }
        ),
    )
    bus.load()
