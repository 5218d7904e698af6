"""The pytest plugin: the fixture ``sealbus_bus``.

pytest loads this module wherever Sealbus is installed, also without the broker's libraries.
Therefore it imports them only when a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from sealbus_broker.testing.bus import TestBus

try:
    from pytest_asyncio import fixture
except ImportError:  # pytest then says that an async fixture needs a plugin
    fixture = pytest.fixture  # type: ignore[assignment]

SETTING: Final = "sealbus_policy"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting for the policy folder."""
    what = "folder of the bus whose policy the fixture sealbus_bus uses"
    parser.getgroup("sealbus").addoption("--sealbus-policy", metavar="DIR", help=what)
    parser.addini(SETTING, f"{what}, relative to the root of the project", default="")


def policy_folder(config: pytest.Config) -> Path:
    """The folder by the option, by the setting, or the root of the project."""
    option = config.getoption("--sealbus-policy", None)
    if option:
        return Path(config.invocation_params.dir, option)
    return Path(config.rootpath, config.getini(SETTING))


@fixture
async def sealbus_bus(request: pytest.FixtureRequest) -> AsyncIterator[TestBus]:
    """A bus in memory, by the project's policy. See ``docs/testing.md``."""
    from sealbus.testing import TestBus

    folder = policy_folder(request.config)
    if not (folder / "policy.yaml").is_file():
        hint = f"set {SETTING} in pytest's configuration, or give --sealbus-policy"
        pytest.fail(f"there is no policy.yaml in {folder}: {hint}", pytrace=False)
    async with TestBus(folder) as bus:
        yield bus
