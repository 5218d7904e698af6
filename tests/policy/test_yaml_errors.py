"""An error of YAML is reported in plain words, on its own line and not below it."""

from __future__ import annotations

import pytest

from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.tree import Unreadable
from sealbus_broker.policy.yaml_tree import read_yaml_tree


def problem(text: str) -> Problem:
    with pytest.raises(Unreadable) as told:
        read_yaml_tree("policy.yaml", text)
    return told.value.problem


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # colons
        ("version: 1\nbus shop\nlimits:\n  ttl: 60s\n", "2:1: a colon is missing"),
        ("version: 1\nbus: shop\nlimits\n", "3:1: a colon is missing"),
        ("version: 1\nlimits\n\n# why\n\nbus: shop\n", "2:1: a colon is missing"),
        ("bots:\n  greeter\n    publish: [a]\n", "2:3: a colon is missing"),
        (
         "bots:\n  greeter  # who greets\n\n    # what\n    publish: [a]\n",
         "2:3: a colon is missing"),
        ("version:1\nbus: shop\n", "1:1: a space is missing after the colon"),
        ("bots:\n  a:{}\n  b: {}\n", "2:3: a space is missing after the colon"),
        ("bus: shop: two\n", "1:10: a second colon stands in one line"),
        # indentation
        ("bots:\n\tgreeter: {}\n", "2:1: a tab stands where spaces belong"),
        ("bots:\n  greeter:\n  \tpublish: [a]\n", "3:3: a tab stands where spaces belong"),
        ("bots:\n    a:\n        publish: [x]\n   b: {}\n",
         "4:4: is indented by 3, which fits no line above"),
        ("x:\n  - a\n - b\n", "3:2: is indented by 1, which fits no line above"),
        ("bots:\n  a: {}\n    b: {}\n",
         "3:5: is indented deeper than line 2, which has its value already"),
        ("version: 1\n  bus: shop\n",
         "2:3: is indented deeper than line 1, which has its value already"),
        ("bots:\n  a:\n    publish: [x]\n      subscribe: [y]\n",
         "4:7: is indented deeper than line 3, which has its value already"),
        ("a: |\n    x\n  y\n", "3:3: something follows the value"),
        # lists
        ("bots:\n  a: {}\n  - b\n", "3:3: a list entry stands among names"),
        ("x:\n  - a\n  b: c\n", "3:3: a name stands among list entries"),
        ("bots: - a\n", "1:7: a list cannot begin in the middle of a line"),
        # brackets
        (
         "bots:\n  a:\n    publish: [a.b\n    subscribe: [c]\n  b: {}\n",
         "3:14: the bracket [ is not closed"),
        ("bots:\n  a:\n    publish: [a.b, \n", "3:14: the bracket [ is not closed"),
        ("bots:\n  a: {publish: [a.b]\n  b: {}\n", "2:6: the bracket { is not closed"),
        ("bots:\n  a: {publish: [a.b}\n  b: {}\n", "2:20: a comma is missing before this"),
        ("publish: [a]]\n", "1:13: this bracket closes nothing"),
        ("a: {b: c}}\n", "1:10: this bracket closes nothing"),
        ("a: {b: c d: e}\n", "1:11: a comma is missing before this"),
        # quotes
        ('bus: "shop\nlimits:\n  ttl: 60s\n', '1:6: the quote " is not closed'),
        ("a: 1\nbus: 'shop\nlimits:\n  ttl: 60s\n", "2:6: the quote ' is not closed"),
        ("a: 'x' y\n", "1:8: something follows the value"),
        ('a: "\\q"\n', "1:6: a backslash stands before a character that it does not escape"),
        # signs
        ("bus: @shop\n", "1:6: a value cannot begin with @"),
        ("bus: `shop`\n", "1:6: a value cannot begin with `"),
        ("bus: %shop\n", "1:6: a value cannot begin with %"),
        ("a: & b\n", "1:4: a value cannot begin with &"),
        ("publish: [*]\n", "1:11: a value cannot begin with *"),
        ("publish: > x\n",
         "1:10: a value that begins with > or | goes on in the lines below, indented"),
        ("a: |x\n  y\n", "1:4: a value cannot begin with |"),
        # others
        ("a: 1\n<<<<<<< HEAD\na: b\n=======\na: c\n>>>>>>> x\n", "2:1: a merge left its mark here"),
        ("a: \ufffe\n", "1:4: this character is not allowed"),
    ],
)  # fmt: skip
def test_mistake_is_reported_on_its_line_in_plain_words(text: str, told: str) -> None:
    found = problem(text)
    place, _, what = told.partition(": ")
    assert (f"{found.line}:{found.column}", found.what) == (place, f"is not YAML: {what}")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("bus shop\na: b\n", "write `name: value`, or `name:` above the indented lines"),
        ("a: @b\n", "put the value in quotes"),
        ("a: [b\n", "close it with ]"),
        (
            "x:\n    a: b\n  c: d\n",
            "lines above are indented by 0, 4: entries of one mapping stand in one column",
        ),
    ],
)
def test_hint_names_the_text_to_write(text: str, hint: str) -> None:
    assert problem(text).hint == hint


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1 # note\u2028b: 2\n", "1:12"),
        ("a: 1 # note\u2029b: 2\n", "1:12"),
        ("a: 1\nb: 2 # note\x85c: 3\n", "2:12"),
        ("a: 1 # note\rb: 2\n", "1:12"),
        ("a: 'x\u2028y'\n", "1:6"),
    ],
)
def test_line_end_that_readers_see_differently(text: str, place: str) -> None:
    found = problem(text)
    assert f"{found.line}:{found.column}" == place
    assert found.what == "this character ends a line for some readers only"


@pytest.mark.parametrize("text", ["%YAML 1.1\n---\na: b\n", "%TAG ! tag:x,2000:\n---\na: b\n"])
def test_directive_is_refused(text: str) -> None:
    assert problem(text).what == "directives (%YAML, %TAG) are not used here"
