"""Makes the vectors of the protocol: ``python -m tests.vectors.make`` writes every ``tests/vectors/*.json`` anew.

Everything comes from fixed texts, and Ed25519 signs deterministically, so each run gives the same bytes (a test runs it twice and
compares with what is in the folder). All keys are TEST KEYS, never use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.vectors.make_deliveries import deliveries, stamps
from tests.vectors.make_envelopes import envelopes
from tests.vectors.make_seals import connect, seals
from tests.vectors.make_texts import keys, payloads, subjects

FOLDER: Final = Path(__file__).parent
WARNING: Final = "TEST KEYS, never use: every seed here is public."

MAKERS: Final[Mapping[str, Callable[[], dict[str, Any]]]] = {
    "connect.json": connect,
    "deliveries.json": deliveries,
    "envelopes.json": envelopes,
    "keys.json": keys,
    "payloads.json": payloads,
    "seals.json": seals,
    "stamps.json": stamps,
    "subjects.json": subjects,
}


def build() -> dict[str, bytes]:
    """Every file's content by its name."""
    return {
        name: (json.dumps({"warning": WARNING, "protocol": 1, **make()}, indent=1, ensure_ascii=True) + "\n").encode()
        for name, make in MAKERS.items()
    }


def main() -> None:
    """Write the files; say which changed."""
    for name, content in build().items():
        path = FOLDER / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            sys.stderr.write(f"wrote {name}\n")


if __name__ == "__main__":
    main()
