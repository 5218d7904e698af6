"""Each item of the threat model names tests."""

from __future__ import annotations

import re

import pytest

from sealbus.protocol.reason import Reason
from tests.docs.lists import Item, items
from tests.docs.named import names_in
from tests.docs.places import ROOT
from tests.faults.greedy.cases import CASES

THREATS = (ROOT / "docs" / "threats.md").read_text()
BOUNDS = "These are the bounds of each resource."
"""The sentence before the list of bounds, which is the last list of its section."""


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", THREATS, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def listed(title: str) -> list[Item]:
    """The items that have to name tests."""
    text = section(title)
    assert not re.search(r"^\|", text, re.MULTILINE), "a table, whose rows nothing checks"
    if title == "Out of scope":
        assert BOUNDS in text
        text = text.partition(BOUNDS)[2]
    found = items(text)
    assert len(found) == len(re.findall(r"^- ", text, re.MULTILINE)), "an item without a term"
    return found


@pytest.mark.parametrize(("title", "least"), [("Threats covered", 40), ("Out of scope", 15)])
def test_every_item_names_tests(title: str, least: int) -> None:
    found = listed(title)
    assert len(found) >= least
    assert [item.term for item in found if "`tests/" not in item.facts] == []
    assert [item.term for item in found if "`tests/" in item.term] == []
    assert "none yet" not in THREATS


@pytest.mark.parametrize("title", ["Threats covered", "Out of scope"])
def test_item_names_files_with_tests_and_no_folder(title: str) -> None:
    """A folder names no certain test.

    ``test_documents.py`` checks that the named test exists.
    """
    found = listed(title)
    named = [(item, one) for item in found for one in re.findall(r"`(tests/[^`]*)`", item.facts)]
    files = {one: ROOT / one.partition("::")[0] for _, one in named}
    wrong = [one for one, file in files.items() if not file.is_file() or not names_in(file)]
    assert [(item.term, one) for item, one in named if one in wrong] == []


def test_every_reason_is_in_the_threat_model() -> None:
    missing = [reason.value for reason in Reason if f"`{reason.value}`" not in THREATS]
    assert missing == [], "write an entry for each in docs/threats.md"


def test_the_greedy_bot_attacks_every_bound() -> None:
    bounds = {item.term.lower() for item in listed("Out of scope")}
    assert {bound.lower() for case in CASES for bound in case.bounds} == bounds
