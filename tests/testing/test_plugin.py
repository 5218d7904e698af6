"""The pytest plugin: where the fixture finds the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from sealbus_broker.testing.plugin import policy_folder


class Settings:
    """What pytest knows of a project."""

    def __init__(self, root: Path, option: str | None = None, setting: str = "") -> None:
        self.rootpath = root
        self.invocation_params = self
        self.dir = root / "called-here"
        self._option = option
        self._setting = setting

    def getoption(self, _: str, default: Any) -> Any:
        return self._option or default

    def getini(self, _: str) -> str:
        return self._setting


@pytest.mark.parametrize(
    ("option", "setting", "expected"),
    [
        (None, "", "."),
        (None, "buses/hello", "buses/hello"),
        ("other", "buses/hello", "called-here/other"),
    ],
    ids=["root", "setting", "option"],
)
def test_policy_folder(tmp_path: Path, option: str | None, setting: str, expected: str) -> None:
    found = policy_folder(cast("pytest.Config", Settings(tmp_path, option, setting)))
    assert found == tmp_path / expected


async def test_fixture_reads_the_policy_of_this_project(sealbus_bus: Any) -> None:
    order = await sealbus_bus.bot("order")
    assert (await order.grants()).publish
