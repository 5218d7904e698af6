"""The threat model's claims name tests, and the tests are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
THREATS = (ROOT / "docs" / "threats.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[^`]*)`", THREATS)))


def covered() -> list[list[str]]:
    """The rows of the table of threats that are covered, cell by cell."""
    section = THREATS.partition("## Threats covered")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_claim_names_a_test() -> None:
    assert len(covered()) > 10
    assert [row[0] for row in covered() if "`tests/" not in row[-1]] == []
    assert "none yet" not in THREATS


@pytest.mark.parametrize("named", NAMED)
def test_what_it_names_is_there(named: str) -> None:
    """A folder or file with tests in it, or one test: ``tests/gate/test_judge.py::test_…``."""
    path, _, test = named.partition("::")
    files = sorted((ROOT / path).rglob("test_*.py")) if (ROOT / path).is_dir() else [ROOT / path]
    tests = {
        node.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }
    assert tests
    if test:
        assert test.partition("[")[0] in tests
