"""Where the public vectors lie: beside the repository, because they are other people's work under other licences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

FOLDER: Final = Path(__file__).parents[2].parent / "shared" / "vectors"


def public(name: str) -> Any:
    """The content of one file; where it is absent, the module that asks is skipped, and says so."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"public vectors are absent: {path}", allow_module_level=True)
    return json.loads(path.read_bytes())
