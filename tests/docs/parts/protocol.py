"""Makes the lists and schemas of ``docs/protocol.md``.

These are the checks, the reasons, the limits, the contexts, and the bus's own subjects.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator

from sealbus.own import OWN
from sealbus.protocol import limits
from sealbus.protocol.answer import ERROR_DOCUMENT
from sealbus.protocol.notice import Ended
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context
from sealbus_broker.gate.judge import CHECKS
from sealbus_broker.policy.builtin import builtin_subjects
from tests.docs.parts.markdown import as_json, plain, table, wrapped


def checks() -> str:
    """The checks of the gate in their order, with the reasons that each gives."""

    def items() -> Iterator[str]:
        for number, check in enumerate(CHECKS, 1):
            told = plain(check.__doc__)
            named = [name for name in re.findall(r"\*([a-z-]+)\*", told) if name in set(Reason)]
            told = re.sub(r"^\*[a-z-]+\*[:.] *", "", told)
            with_reasons = ", ".join(f"`{name}`" for name in named)
            yield wrapped(f"**{with_reasons}**. {told[0].upper()}{told[1:]}", f"{number}. ")

    return "\n".join(items())


def reasons() -> str:
    """The closed list of reasons. Some meanings are too long for a row of a table."""
    return "\n".join(wrapped(f"**`{reason.value}`**: {reason.meaning}", "- ") for reason in Reason)


def ended() -> str:
    """The closed list of reasons for which a session ends."""
    return table(("reason", "meaning"), ((f"`{reason.value}`", reason.meaning) for reason in Ended))


def fixed_limits() -> str:
    """The limits of the protocol."""
    docs = attribute_docs(inspect.getsource(limits))
    return "\n".join(
        wrapped(f"**`{name}`** is {getattr(limits, name):,}, {told[0].lower()}{told[1:]}", "- ")
        for name, told in docs.items()
    )


def attribute_docs(source: str) -> dict[str, str]:
    """The string that follows each assignment, by the name that is assigned to."""
    body = ast.parse(source).body
    found: dict[str, str] = {}
    for one, after in itertools.pairwise(body):
        if (
            isinstance(one, ast.AnnAssign)
            and isinstance(one.target, ast.Name)
            and isinstance(after, ast.Expr)
        ):
            found[one.target.id] = plain(ast.literal_eval(after.value))
    return found


def own_rates() -> str:
    """The bus's own subjects with their rates."""

    def rows() -> Iterator[tuple[str, ...]]:
        for subject, declared in OWN.items():
            assert declared.rate is not None
            yield f"`{subject}`", f"{declared.rate.per_second:g} a second", str(declared.rate.burst)

    return table(("subject", "requests", "at once"), rows())


def contexts() -> str:
    """The signing contexts."""

    def rows() -> Iterator[tuple[str, ...]]:
        for one in Context:
            shown = one.value.decode().replace(chr(0), r"\0")
            yield one.name.lower(), f"`{shown}`", f"`{one.value.hex(' ')}`"

    return table(("item", "context (8 bytes)", "hex"), rows())


def builtin() -> str:
    """The schemas of the subjects that every bus has."""
    parts = []
    for rule in builtin_subjects():
        request = next(iter(rule.schemas.values()))
        if rule.reply is None:
            head = f"**`{rule.pattern}`**, sent by relays alone, into INGRESS:"
            parts.append(f"{head}\n\n{as_json(request.document)}")
            continue
        assert isinstance(rule.reply.document, dict)
        answer = rule.reply.document
        head = f"**`{rule.pattern}`**, the request's and the answer's schema:"
        parts.append(f"{head}\n\n{as_json(request.document)}\n\n{as_json(answer)}")
    return "\n\n".join(parts)


def error() -> str:
    """The schema of the answer that tells an error."""
    return as_json(ERROR_DOCUMENT)
