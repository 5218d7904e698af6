"""Makes the vectors of the protocol.

``python -m tests.vectors.make`` writes every ``tests/vectors/*.json`` again. The inputs are fixed
texts, and Ed25519 signs deterministically, so each run gives the same bytes. A test makes them
twice and compares them with the folder. All keys are TEST KEYS, never use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.vectors.files import FOLDER
from tests.vectors.make_bundles import bundles
from tests.vectors.make_certificates import certificates
from tests.vectors.make_deliveries import deliveries
from tests.vectors.make_envelopes import envelopes
from tests.vectors.make_exchanges import exchanges
from tests.vectors.make_headers import headers
from tests.vectors.make_joins import joins
from tests.vectors.make_keyrings import keyrings
from tests.vectors.make_notices import notices
from tests.vectors.make_payloads import payloads
from tests.vectors.make_pins import pins
from tests.vectors.make_receipts import answers, receipts
from tests.vectors.make_seals import connect, ed25519, seals
from tests.vectors.make_stamps import stamps
from tests.vectors.make_subscribers import subscribers
from tests.vectors.make_texts import keys, subjects

WARNING: Final = "TEST KEYS, never use: every seed here is public."

MAKERS: Final[Mapping[str, Callable[[], dict[str, Any]]]] = {
    "answers.json": answers,
    "certificates.json": certificates,
    "connect.json": connect,
    "deliveries.json": deliveries,
    "ed25519.json": ed25519,
    "envelopes.json": envelopes,
    "exchanges.json": exchanges,
    "headers.json": headers,
    "joins.json": joins,
    "keyrings.json": keyrings,
    "keys.json": keys,
    "notices.json": notices,
    "payloads.json": payloads,
    "pins.json": pins,
    "receipts.json": receipts,
    "seals.json": seals,
    "stamps.json": stamps,
    "subjects.json": subjects,
    "subscribers.json": subscribers,
    "bundles.json": bundles,
}


def build() -> dict[str, bytes]:
    """The content of every file, by its name."""
    return {
        name: (
            json.dumps({"warning": WARNING, "protocol": 1, **make()}, indent=1, ensure_ascii=True)
            + "\n"
        ).encode()
        for name, make in MAKERS.items()
    }


def main() -> None:
    """Write the files, and print the names of the changed ones."""
    for name, content in build().items():
        path = FOLDER / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            sys.stderr.write(f"wrote {name}\n")


if __name__ == "__main__":
    main()
