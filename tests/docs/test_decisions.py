"""Every decision has the form that docs/style.md asks for, and is listed."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "adr"
DECISIONS = sorted(FOLDER.glob("[0-9]*.md"))
SECTIONS = ("Context", "Options", "Decision", "Consequences", "Measured")
"""In this order. A decision without other options, or without measurements, leaves that out."""


def title(decision: Path) -> str:
    return decision.read_text().partition("\n")[0]


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_decision_has_number_date_and_status(decision: Path) -> None:
    number = int(decision.stem.partition("-")[0])
    head = re.match(r"# (\d+)\. .+\n\n- Date: (\S+)\n- Status: (\w+)\b", decision.read_text())
    assert head is not None
    assert int(head[1]) == number
    assert date.fromisoformat(head[2]) >= date(2026, 11, 24)
    assert head[3] in {"accepted", "replaced"}


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_decision_has_its_sections_in_order(decision: Path) -> None:
    found = re.findall(r"^## (.+)$", decision.read_text(), re.MULTILINE)
    assert found == [one for one in SECTIONS if one in found]
    assert set(found) >= {"Context", "Decision", "Consequences"}


def test_all_decisions_are_listed_by_their_titles() -> None:
    listed = [" ".join(row.split()) for row in (FOLDER / "README.md").read_text().split("\n- ")[1:]]
    expected = []
    for decision in DECISIONS:
        number, _, rest = title(decision).removeprefix("# ").partition(". ")
        expected.append(f"[ADR {number}]({decision.name}): {rest}")
    assert listed == expected
    numbers = [int(decision.stem.partition("-")[0]) for decision in DECISIONS]
    assert numbers == list(range(1, len(DECISIONS) + 1))
