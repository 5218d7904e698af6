"""The invitations in ``keys/<bot>.yaml``, as they are read.

::

    bot: order
    invitations:
      - key: U…                               # the public half of a token's key
        not_before: 2026-11-27T08:00:00Z
        not_after: 2026-11-27T09:00:00Z
        approve: true                         # not needed: an operator accepts the key

The file has no token, so whoever reads it cannot join.
"""

from __future__ import annotations

from typing import Any, Final

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus_broker.gate.policy import Invitation
from sealbus_broker.policy.document import Document
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.reader import Reader

INVITATIONS: Final = "invitations"
"""The name of the list in the file."""

MAX_INVITATIONS: Final = 16
"""Most invitations of one bot, as many as keys. An operator has one or two open."""

MAX_LIFE_MS: Final = 3_600_000
"""The longest life of an invitation: an hour. A token that was forgotten in a chat or in a
provisioning script is worth nothing by the time that somebody finds it."""

_FIELDS: Final = ("key", "not_before", "not_after", "approve")


def read_invitations(
    document: Document, problems: list[Problem]
) -> dict[bytes, tuple[Invitation, int]]:
    """The invitations in one key file by their raw public key, each with its place in the list."""
    value = document.value
    entries = value.get(INVITATIONS) if isinstance(value, dict) else None
    if not isinstance(value, dict) or INVITATIONS not in value:
        return {}
    reader = Reader(document, problems)
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_INVITATIONS:
        reader.problem(
            (INVITATIONS,),
            "invitations is not a list of invitations",
            expected=f"1 to {MAX_INVITATIONS} entries with `key: U…`",
        )
        return {}
    found: dict[bytes, tuple[Invitation, int]] = {}
    for at, entry in enumerate(entries):
        invitation = _read(reader, entry, at)
        if invitation is None:
            continue
        if invitation.raw in found:
            reader.problem((INVITATIONS, at), "the invitation occurs here twice")
        found[invitation.raw] = invitation, at
    return found


def _read(reader: Reader, entry: Any, at: int) -> Invitation | None:
    path = (INVITATIONS, at)
    fields = reader.mapping(entry, path, _FIELDS)
    if not {"key", "not_before", "not_after"} <= set(fields):
        reader.problem(
            path, "needs key, not_before and not_after", hint="`sealbus invite` writes them"
        )
        return None
    text = fields["key"]
    try:
        public = PublicKey.parse(text if isinstance(text, str) else "", KeyKind.BOT)
    except InvalidInput as error:
        # The text is not shown: it may be a seed that somebody pasted here.
        reader.problem(
            (*path, "key"), error.what, expected="a public key that begins with U", hint=error.hint
        )
        return None
    begins = reader.time(fields["not_before"], (*path, "not_before"), "not_before")
    ends = reader.time(fields["not_after"], (*path, "not_after"), "not_after")
    approve = reader.flag(fields.get("approve", False), (*path, "approve"), "approve")
    if begins is None or ends is None:
        return None
    if not begins < ends <= begins + MAX_LIFE_MS:
        reader.problem(
            (*path, "not_after"),
            "not_after is not within an hour after not_before",
            hint="a token is for one hour at most: delete this invitation, and make another with"
            " `sealbus invite`",
        )
    return Invitation(public.raw, begins, ends, approve)
