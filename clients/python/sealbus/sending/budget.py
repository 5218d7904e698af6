"""The limits of a subject, as far as the bus has told them: checked before a message is sent, not
found out by a refusal."""

from __future__ import annotations

from sealbus.errors import InvalidInput, Malformed
from sealbus.grants import Declared
from sealbus.protocol.codec import unpack_json
from sealbus.protocol.envelope import Parent


def excess(
    subject: str,
    declared: Declared,
    *,
    payload: bytes,
    parent: bytes | None = None,
) -> InvalidInput | None:
    """The reason for which the relay would refuse a message on ``subject``, as an error for its
    author; ``None``: nothing.

    ``payload`` and ``parent`` are packed.
    """
    if len(payload) > declared.max_bytes:
        return InvalidInput(
            f"a payload of {len(payload)} bytes for {subject}: the policy allows "
            f"{declared.max_bytes}",
            hint="send less, or where it can be fetched and its hash; the policy's `max_bytes` "
            "allows more",
        )
    if len(payload) > declared.max_values:  # the least value has one byte
        try:
            unpack_json(payload, declared.max_values)
        except Malformed:
            return InvalidInput(
                f"a payload of more than {declared.max_values} values for {subject}: the "
                "policy allows one for each 4 bytes of `max_bytes`",
                hint="send fewer values a message, or some of them as one text",
            )
    if parent is None:
        return None
    if declared.parent is None:
        return InvalidInput(
            f"a parent for {subject}: the policy names no `cause` for it, and stores no "
            "parent there",
            hint="leave parent out, or name what it followed from in the payload",
        )
    if declared.parent == "stamp" and Parent.decode(parent).quote is not None:
        return InvalidInput(
            f"a quoted parent for {subject}: the policy compares no payloads there",
            hint="leave include_parent out: the parent's stamp is enough",
        )
    return None
