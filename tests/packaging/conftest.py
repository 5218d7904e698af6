"""One build for each run of the tests, and two environments in which it is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.packaging.release import NOT_SOURCE, ROOT, Built, Environment, build, install


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def copy_of_tree(tmp_path: Path) -> Path:
    """A copy of the checkout that a test can change.

    It has no git, so git's ignore rules do not affect the build.
    """
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_SOURCE)
    (tree / ".gitignore").unlink()
    return tree


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """This checkout, built."""
    return build(ROOT, tmp_path_factory.mktemp("release") / "dist")


@pytest.fixture(scope="session")
def light(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the client alone: ``pip install sealbus``."""
    return install(tmp_path_factory.mktemp("light") / "venv", str(built.wheel))


@pytest.fixture(scope="session")
def full(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the operators' tools: ``pip install 'sealbus[broker]'``."""
    return install(tmp_path_factory.mktemp("full") / "venv", f"{built.wheel}[broker]")
