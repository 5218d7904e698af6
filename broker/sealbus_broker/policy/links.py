"""The links between a bus's own keys, as text: ``bus.toml`` and ``.sealbus/relay.toml`` have them.

They are sealed (:mod:`sealbus.protocol.keyring`), public, and written by ``sealbus keys
rotate-bus``. Each is one text in base64.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from sealbus.errors import InvalidInput
from sealbus.protocol.limits import MAX_LINKS

FIELD: Final = "links"


def link_list(links: tuple[bytes, ...]) -> str:
    """Sealed links as a list of TOML, one a line."""
    lines = "".join(f'  "{base64.b64encode(link).decode()}",\n' for link in links)
    return f"[\n{lines}]" if links else "[]"


def read_links(given: object) -> tuple[bytes, ...]:
    """The sealed links of such a list. Raises :class:`InvalidInput` for another form."""
    if not isinstance(given, list) or len(given) > MAX_LINKS:
        raise InvalidInput(f"{FIELD} is not a list of at most {MAX_LINKS} links")
    try:
        return tuple([base64.b64decode(str(one).encode(), validate=True) for one in given])
    except binascii.Error:
        raise InvalidInput(
            f"{FIELD} has a text that is not base64", hint="`sealbus keys rotate-bus` writes them"
        ) from None
