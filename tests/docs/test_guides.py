"""The guides for contributors name files, targets and names that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.docs.places import DOCS, ROOT

GUIDES = ("CONTRIBUTING.md", "SECURITY.md", "RELEASE.md", "README.md")
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
PLACES = re.compile(r"`((?:broker|clients|docs|examples|tests|\.github)/[\w./-]+)`")


def steps() -> Iterator[tuple[str, list[str]]]:
    """Each numbered step of a recipe, and the files that it names."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for step in re.findall(r"^\d+\. .+(?:\n(?: {3}.*)?)*", text, re.MULTILINE):
        yield step, [one for one in PLACES.findall(step) if (ROOT / one).is_file()]


@pytest.mark.parametrize("guide", GUIDES)
def test_each_place_that_a_guide_names_exists(guide: str) -> None:
    places = PLACES.findall((ROOT / guide).read_text())
    assert [place for place in places if not (ROOT / place).exists()] == []


@pytest.mark.parametrize("guide", GUIDES)
def test_each_target_that_a_guide_names_exists(guide: str) -> None:
    text = (ROOT / guide).read_text()
    named = re.findall(r"(?:^ *|`)make ([a-z][a-z-]*)", text, re.MULTILINE)
    assert set(named) <= TARGETS


def test_the_glossary_has_each_word_once_and_in_order() -> None:
    words = re.findall(r"^\*\*(.+?)\.\*\*", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert words == sorted(set(words))
    assert len(words) > 50


def test_each_constant_in_a_recipe_exists_in_a_file_of_its_step() -> None:
    found = []
    for step, files in steps():
        sources = "".join((ROOT / file).read_text() for file in files)
        names = re.findall(r"`(_?[A-Z][A-Z_]{3,})`", step)
        found += [(name, files) for name in names if not re.search(rf"\b{name}\b", sources)]
    assert found == []
    assert sum(len(files) for _, files in steps()) > 30
