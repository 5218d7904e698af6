"""The modules that a process imports when it starts. They take half of a short command's time."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sealbus


def imported_by(code: str) -> set[str]:
    """The modules that a process has loaded after ``code``."""
    code += "\nimport sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    "module", ["sealbus_broker.cli.running.door", "sealbus_broker.relay.relay"]
)
def test_serving_processes_import_neither_a_bot_nor_rich(module: str) -> None:
    imported = imported_by(f"import {module}")
    assert module in imported
    assert imported.isdisjoint({"sealbus.bot", "sealbus.presence", "rich"})


@pytest.mark.parametrize(
    "code",
    [
        "from sealbus_broker import __main__ as it; sys.argv = ['sealbus', 'check', '--help']",
        (
            "from sealbus_broker.cli.running import door as it; sys.argv = ['door', '0', '0'];"
            " it._run = print"
        ),
    ],
)
def test_garbage_is_collected_once_everything_is_imported(code: str) -> None:
    code = (
        f"import gc, sys; {code}; before = gc.isenabled(); it.main(); print(before, gc.isenabled())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False True"


def test_rich_can_be_imported_after_structlog() -> None:
    loaded = imported_by("import sealbus_broker.logger; from rich.table import Table")
    assert {"structlog", "rich.table"} <= loaded


def test_each_public_name_is_imported_when_it_is_used() -> None:
    assert "sealbus.bot" not in imported_by("import sealbus")
    assert "sealbus.bot" in imported_by("from sealbus import Bot")
    assert all(hasattr(sealbus, name) for name in sealbus.__all__)
    assert set(sealbus.__all__) <= set(dir(sealbus))
    with pytest.raises(AttributeError, match="no attribute 'Robot'"):
        _ = sealbus.Robot  # type: ignore[attr-defined]
