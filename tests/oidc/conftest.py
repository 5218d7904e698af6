from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oidc.issuer import Issuer


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    with Issuer(tmp_path) as serving:
        yield serving
