"""One bus for all tests that do not change it, and folders for the tests that change theirs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.bus import RunningBus, running_bus
from tests.cli.command import quickly


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBus]:
    """The bus of the README's first commands, for all tests of a file. A bus that waits for the
    next file would take processor time from all other tests."""
    with running_bus(tmp_path_factory.mktemp("hello")) as bus:
        yield bus


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bus as `sealbus init` makes it."""
    folder = tmp_path_factory.mktemp("made")
    assert (
        quickly("init", "mybus", "--server", "nats://bus.example.com:15070", cwd=folder).code == 0
    )
    return folder / "mybus"


@pytest.fixture
def bus(made: Path, tmp_path: Path) -> Path:
    """A copy of ``made`` that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "mybus"))


@pytest.fixture
def clone(made: Path, tmp_path: Path) -> Path:
    """A clone from git: the folder without the files that git ignores."""
    return Path(
        shutil.copytree(
            made, tmp_path / "mybus", ignore=shutil.ignore_patterns(".sealbus", "credentials")
        )
    )
