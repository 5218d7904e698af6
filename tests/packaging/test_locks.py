"""The locked requirements have all that pyproject.toml asks for, each with hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
DEPLOYED: list[str] = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["broker"]]
TOOLS: list[str] = PYPROJECT["dependency-groups"]["dev"]


def locked(file: str) -> dict[str, str]:
    """The text of each locked requirement, hashes included, by its name."""
    lines = (ROOT / "requirements" / file).read_text().replace("\\\n", "").splitlines()
    kept = [line for line in lines if line and line[0] not in " #"]
    return {named(line): line for line in kept}


def named(requirement: str) -> str:
    """The name of a package, as registries compare it."""
    return re.split(r"[\[<>=~!; ]", requirement)[0].lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize(
    ("file", "asked"), [("dev.txt", DEPLOYED + TOOLS), ("image.txt", DEPLOYED)]
)
def test_everything_that_is_asked_for_is_locked(file: str, asked: list[str]) -> None:
    assert {named(one) for one in asked} <= locked(file).keys()


@pytest.mark.parametrize("file", ["dev.txt", "image.txt"])
def test_each_has_one_version_and_hashes(file: str) -> None:
    exact = re.compile(r"[a-z0-9-]+==[^ ;]+ .*--hash=sha256:[0-9a-f]{64}")
    assert [line for line in locked(file).values() if not exact.match(line)] == []


def test_no_tool_is_in_the_image() -> None:
    needed = {named(one) for one in DEPLOYED}
    assert ({named(one) for one in TOOLS} - needed) & locked("image.txt").keys() == set()


def test_both_locks_have_the_same_versions() -> None:
    tools, image = locked("dev.txt"), locked("image.txt")
    assert {name: tools[name].split()[0] for name in image} == {
        name: line.split()[0] for name, line in image.items()
    }
