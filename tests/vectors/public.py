"""Reads the public vectors: copies of other projects' files, each with its source and licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "upstream"
"""``README.md`` in the folder names the sources, their commits and their licences."""


def public(name: str) -> Any:
    """The content of one file.

    Raises:
        FileNotFoundError: the file is missing, which is an error in every clone.
    """
    return json.loads((FOLDER / name).read_bytes())
