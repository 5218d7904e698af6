"""The threat model's claims name tests, and the tests are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.attacks.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
THREATS = (ROOT / "docs" / "threats.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[^`]*)`", THREATS)))


def rows(section: str) -> list[list[str]]:
    """The rows of all tables in a section, cell by cell, without their heads."""
    text = THREATS.partition(f"## {section}")[2].partition("\n## ")[0]
    tables = re.findall(r"^\|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for table in tables for line in table.splitlines()]


def names_in(file: Path) -> set[str]:
    """The tests of a file; of a family of attacks, the attacks, each of which is tried on a running bus."""
    family = next((one for one in FAMILIES if file == ROOT / "tests" / "attacks" / f"{module_of(one.name)}.py"), None)
    if family is not None:
        return {attack.name for attack in family.attacks}
    body = ast.parse(file.read_text()).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    return {*_tests(body), *(f"{one.name}::{test}" for one in classes for test in _tests(one.body))}


def _tests(body: list[ast.stmt]) -> set[str]:
    functions = (node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {one.name for one in functions if one.name.startswith("test_")}


def module_of(family: str) -> str:
    """The name of a family's file."""
    return {"freshness and replay": "freshness", "confused deputy": "deputy"}.get(family, family.replace(" ", "_"))


@pytest.mark.parametrize(("section", "least"), [("Threats covered", 40), ("Out of scope", 15)])
def test_every_row_names_tests(section: str, least: int) -> None:
    found = rows(section)
    assert len(found) >= least
    assert [row[0] for row in found if "`tests/" not in row[-1]] == []
    assert "none yet" not in THREATS


def test_a_threat_that_is_covered_names_files_and_no_folder() -> None:
    """A folder says that there are tests, and not which."""
    named = [(row[0], one) for row in rows("Threats covered") for one in re.findall(r"`(tests/[^`]*)`", row[-1])]
    assert [(about, one) for about, one in named if not (ROOT / one.partition("::")[0]).is_file()] == []


@pytest.mark.parametrize("named", NAMED)
def test_what_it_names_is_there(named: str) -> None:
    """A file with tests in it, or one of them: ``tests/gate/test_judge.py::test_…``."""
    path, _, test = named.partition("::")
    found = names_in(ROOT / path) if (ROOT / path).is_file() else set(map(str, (ROOT / path).rglob("test_*.py")))
    assert found
    assert not test or test in found, f"{path} has no {test}"
