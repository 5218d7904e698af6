"""The versions of nats-server that are accepted."""

from __future__ import annotations

import pytest

from sealbus_broker.errors import ServerFailed
from sealbus_broker.nats.version import check_version


@pytest.mark.parametrize("version", ["2.14.0", "2.15.1", "2.15.1-beta.2", "3.0.0", "10.0.0"])
def test_new_enough(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["2.12.8", "2.9.25", "1.99.0", "0.0.0", "", "unknown", None])
def test_too_old_or_unknown(version: object) -> None:
    with pytest.raises(ServerFailed, match=r"is too old; at least 2\.14 is needed"):
        check_version(version)
