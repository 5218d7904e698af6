"""The bounds of an envelope of several payloads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sealbus.protocol.limits import MAX_PAYLOADS, MAX_TOGETHER_BYTES


@dataclass(frozen=True, slots=True)
class Together:
    """The bounds on the subjects of one declaration. A relay works them out from the schemas."""

    payloads: int = MAX_PAYLOADS
    """The most payloads. 1: each is alone."""
    size: int = MAX_TOGETHER_BYTES
    """The most bytes of the payloads, without their salts."""


WIDEST: Final = Together()
"""The bounds of the protocol, which no declaration widens."""
