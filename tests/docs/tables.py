"""The parts of the documents that are made from the code. Neither can change without the other.

``python -m tests.docs.tables`` writes them again, and the tests only compare them. A part is
between ``<!-- name -->`` and ``<!-- /name -->``. The modules in ``tests/docs/parts`` make the
parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from tests.docs.parts import bots, commands, policy, protocol, protocol_examples, protocol_nats
from tests.docs.places import DOCS

PARTS: Final[Mapping[str, Callable[[], str]]] = {
    # docs/bots.md and docs/testing.md
    "publish": lambda: bots.program("publish.py"),
    "subscribe": lambda: bots.program("subscribe.py"),
    "request-reply": lambda: bots.program("request_reply.py"),
    "tested-bot": lambda: bots.program("testing/listener.py"),
    "bot-tests": bots.tests_of_a_bot,
    # docs/keys-at-rest.md
    "module-signer": lambda: bots.program("pkcs11_signer.py"),
    # docs/commands.md
    "commands": commands.commands,
    "exit-codes": commands.exit_codes,
    "pub-row": commands.pub_row,
    # docs/policy.md
    "policy-files": policy.policy_files,
    "policy-limits": policy.policy_limits,
    # docs/protocol.md
    "builtin": protocol.builtin,
    "checks": protocol.checks,
    "contexts": protocol.contexts,
    "ended": protocol.ended,
    "error": protocol.error,
    "limits": protocol.fixed_limits,
    "own-rates": protocol.own_rates,
    "reasons": protocol.reasons,
    "example": protocol_examples.example,
    "example-answer": protocol_examples.example_answer,
    "example-burst": protocol_examples.example_burst,
    "example-seal": protocol_examples.example_seal,
    "consumer": protocol_nats.consumer,
    "consumers": protocol_nats.consumers,
    "nats-conf": protocol_nats.nats_conf,
    "record": protocol_nats.record,
    "streams": protocol_nats.streams,
}
"""By name: how it is made."""

_PART: Final = re.compile(
    r"^( *)<!-- ([a-z-]+) -->\n(.*?)^ *<!-- /\2 -->$", re.MULTILINE | re.DOTALL
)


def parts(text: str) -> list[tuple[str, str]]:
    """The name and the lines of each part in ``text``, in their order."""
    return [(match[2], match[3]) for match in _PART.finditer(text)]


def without_parts(text: str) -> str:
    """The lines of ``text`` that people write."""
    return _PART.sub("", text)


def made(text: str) -> str:
    """``text`` with every part made again."""
    return _PART.sub(_made_again, text)


def _made_again(match: re.Match[str]) -> str:
    indent, name = match[1], match[2]
    lines = PARTS[name]().split("\n")
    inside = "".join(f"{indent}{line}\n" if line else "\n" for line in lines)
    return f"{indent}<!-- {name} -->\n{inside}{indent}<!-- /{name} -->"


if __name__ == "__main__":
    for document in DOCS.rglob("*.md"):
        document.write_text(made(document.read_text()))
