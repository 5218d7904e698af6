from __future__ import annotations

from pathlib import Path

import pytest

from tests.policy.folder import Folder


@pytest.fixture
def bus(tmp_path: Path) -> Folder:
    """A folder that loads without a problem."""
    return Folder(tmp_path / "bus")
