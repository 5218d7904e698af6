"""Edits of ``policy.yaml`` as text: add one bot, or remove one. Every other byte stays as it is.

A parser that reads the file and writes it anew would move comments and change quotes. A comment
that describes the next bot would be removed with the bot before it. So the file is only read for
the places of its entries. The result of an edit is then read and compared: it differs by that bot
and by nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sealbus.errors import InvalidInput
from sealbus_broker.policy.errors import InTheWay
from sealbus_broker.policy.tree import Unreadable
from sealbus_broker.policy.yaml_tree import read_yaml_tree

FILE: Final = "policy.yaml"

_BY_HAND: Final = "edit the file by hand; `sealbus check` says whether it is right"

_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_.>*-]*")
_NOT_TEXT: Final = frozenset({"true", "false", "null"})
"""A text that YAML would not read as a text without quotes."""


@dataclass(frozen=True, slots=True)
class BotEntry:
    """The roles and grants of a bot."""

    roles: Sequence[str] = ()
    publish: Sequence[str] = ()
    subscribe: Sequence[str] = ()

    def plain(self) -> dict[str, list[str]]:
        """The entry as the reader of the file returns it. An empty field is left out."""
        given = {"roles": self.roles, "publish": self.publish, "subscribe": self.subscribe}
        return {name: list(values) for name, values in given.items() if values}


def bots_of(text: str) -> list[str]:
    """The names of the bots that ``text`` declares.

    Raises :class:`InvalidInput` if the text cannot be read as a policy.
    """
    return list(_bots(_plain(text)))


def add_bot(text: str, bot: str, entry: BotEntry) -> str:
    """``text``, a readable policy, with ``bot`` as the last of its bots.

    Raises :class:`InvalidInput` if the bot is there, or if the bots have a form that cannot be
    edited here.
    """
    before = _plain(text)
    bots = before.get("bots") or {}
    if not isinstance(bots, dict):
        raise InTheWay(
            "the bots of policy.yaml are not a mapping", hint="`sealbus check` lists everything"
        )
    if bot in bots:
        raise InTheWay(
            f"policy.yaml declares {bot} already",
            hint="edit its grants there; `sealbus keys new` makes it a key",
        )
    node = _value(_root(text), "bots")
    line = "\r\n" if "\r\n" in text else "\n"
    if isinstance(node, MappingNode) and node.value and not node.flow_style:
        first = node.value[0][0]
        last = node.value[-1][1]
        indent = first.start_mark.column
        lead = ""
        at = _entry_end(text, _end(last), indent)
    elif node is None:  # no `bots:` at all
        at = len(text)
        indent = 2
        lead = f"bots:{line}"
    elif isinstance(node, MappingNode) and not node.value:  # `bots: {}`
        text = text[: node.start_mark.index].rstrip(" \t") + text[node.end_mark.index :]
        at = _line_end(text, _key_end(text))
        indent = 2
        lead = ""
    elif isinstance(node, ScalarNode) and node.value in ("", "~", "null"):  # `bots:`
        text = text[: node.start_mark.index] + text[node.end_mark.index :]
        at = _line_end(text, _key_end(text))
        indent = 2
        lead = ""
    else:
        raise InTheWay("the bots of policy.yaml are written between braces", hint=_BY_HAND)
    head = text[:at]
    if head and not head.endswith("\n"):
        head += line
    new = head + lead + line.join(_lines(bot, entry, indent)) + line + text[at:]
    return _checked(new, {**before, "bots": {**bots, bot: entry.plain() or {}}})


def remove_bot(text: str, bot: str) -> str:
    """``text`` without ``bot``: without its lines, and without the comment lines directly above
    them.

    Raises :class:`InvalidInput` if the bot does not exist, or if the bots have a form that cannot
    be edited here.
    """
    before = _plain(text)
    if bot not in _bots(before):
        raise InTheWay(f"policy.yaml declares no bot {bot}")
    node = _value(_root(text), "bots")
    if not isinstance(node, MappingNode) or node.flow_style:
        raise InTheWay("the bots of policy.yaml are written between braces", hint=_BY_HAND)
    key, value = next((key, value) for key, value in node.value if key.value == bot)
    begin = text.rfind("\n", 0, key.start_mark.index) + 1
    indent = key.start_mark.column
    while begin > 0:
        above = text.rfind("\n", 0, begin - 1) + 1
        if not text[above:begin].startswith(f"{' ' * indent}#"):
            break
        begin = above
    new = text[:begin] + text[_entry_end(text, _end(value), indent) :]
    left = {name: one for name, one in before["bots"].items() if name != bot}
    return _checked(new, {**before, "bots": left or None})


def _plain(text: str) -> dict[str, Any]:
    try:
        value = read_yaml_tree(FILE, text).plain()
    except Unreadable as error:
        raise InTheWay(str(error.problem), hint="`sealbus check` lists everything") from None
    if not isinstance(value, dict):
        raise InTheWay("policy.yaml is not a mapping", hint="`sealbus check` lists everything")
    return value


def _bots(policy: dict[str, Any]) -> dict[str, Any]:
    bots = policy.get("bots")
    return bots if isinstance(bots, dict) else {}


def _checked(text: str, wanted: dict[str, Any]) -> str:
    try:
        got = _plain(text)
    except InvalidInput:
        got = {}
    # Once the last bot is gone, ``bots:`` is null.
    if got != wanted and {**got, "bots": got.get("bots") or None} != wanted:
        raise InTheWay("policy.yaml is written in a form that is not edited here", hint=_BY_HAND)
    return text


def _root(text: str) -> Node:
    root: Node = YAML(typ="safe", pure=True).compose(text)
    return root


def _value(root: Node, name: str) -> Node | None:
    if not isinstance(root, MappingNode) or root.flow_style:
        raise InTheWay("policy.yaml is written between braces", hint=_BY_HAND)
    return next((value for key, value in root.value if key.value == name), None)


def _end(node: Node) -> int:
    """The place of the last character of a value.

    For the parser, a block ends only where the next entry begins.
    """
    while isinstance(node, MappingNode | SequenceNode) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end: int = node.end_mark.index
    return end


def _entry_end(text: str, at: int, indent: int) -> int:
    """The end of the entry whose last value ends ``at``.

    Comment lines that are indented deeper than its key belong to it.
    """
    comment = re.compile(rf" {{{indent + 1},}}#")
    at = _line_end(text, at)
    while comment.match(text, at):
        at = _line_end(text, at + 1)
    return at


def _key_end(text: str) -> int:
    found = re.search(r"^(?:bots|\"bots\"|'bots')[ \t]*:", text, re.MULTILINE)
    if found is None:
        raise InTheWay("policy.yaml is written in a form that is not edited here", hint=_BY_HAND)
    return found.end()


def _line_end(text: str, at: int) -> int:
    """The beginning of the line after ``at``."""
    if at > 0 and text[at - 1] == "\n":
        return at
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _lines(bot: str, entry: BotEntry, indent: int) -> list[str]:
    name = f"{' ' * indent}{_written(bot)}:"
    fields = entry.plain()
    if not fields:
        return [f"{name} {{}}"]
    inner = " " * (indent + 2)
    return [
        name,
        *(
            f"{inner}{field}: [{', '.join(map(_written, values))}]"
            for field, values in fields.items()
        ),
    ]


def _written(text: str) -> str:
    """A text as YAML has it: bare if that is safe, or else in JSON's quotes, which YAML has too."""
    return text if _BARE.fullmatch(text) and text not in _NOT_TEXT else json.dumps(text)
