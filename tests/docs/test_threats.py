"""Each row of the threat model names tests."""

from __future__ import annotations

import re

import pytest

from tests.docs.named import ROOT, names_in

THREATS = (ROOT / "docs" / "threats.md").read_text()


def rows(section: str) -> list[list[str]]:
    """The rows of all tables in a section, cell by cell, without their heads."""
    text = THREATS.partition(f"## {section}")[2].partition("\n## ")[0]
    tables = re.findall(r"^\|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for table in tables for line in table.splitlines()]


@pytest.mark.parametrize(("section", "least"), [("Threats covered", 40), ("Out of scope", 15)])
def test_every_row_names_tests(section: str, least: int) -> None:
    found = rows(section)
    assert len(found) >= least
    assert [row[0] for row in found if "`tests/" not in " ".join(row)] == []
    assert "none yet" not in THREATS


@pytest.mark.parametrize("section", ["Threats covered", "Out of scope"])
def test_a_row_names_files_with_tests_and_no_folder(section: str) -> None:
    """A folder says that there are tests, and not which. Whether the very test is there, ``test_documents.py`` looks."""
    named = [(row[0], one) for row in rows(section) for one in re.findall(r"`(tests/[^`]*)`", " ".join(row))]
    files = {one: ROOT / one.partition("::")[0] for _, one in named}
    assert [(about, one) for about, one in named if not files[one].is_file() or not names_in(files[one])] == []
