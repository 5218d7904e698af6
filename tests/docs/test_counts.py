"""The limits of docs/style.md that nothing may exceed, and the script that counts them."""

from __future__ import annotations

from tests.docs.counts import (
    NAME,
    SETTINGS,
    Lengths,
    Lines,
    Prose,
    comment_lines,
    count_lengths,
    count_lines,
    count_prose,
    docstrings,
    long_lines,
    names_of_tests,
    prose_of,
    read,
    share,
)

DOCUMENT = """# Title

What is not named waits, and what
waits is kept. Nobody knows what.

```sh
echo what is this
```
"""

MODULE = '''"""What it is for."""

SIZE = 1  # what is behind code
"""Bytes."""

# Why.
TEXT = """
# no comment
"""


def test_one() -> None:
    """Does it."""


class TestMore:
    async def test_two(self) -> None: ...

    def helper(self) -> str: ...
'''


def test_clauses_are_counted_across_lines_and_outside_code() -> None:
    assert count_prose([prose_of(DOCUMENT)]) == Prose(words=14, what=2)
    assert count_prose([prose_of(DOCUMENT)]).per_thousand == 142.9


def test_a_noun_behind_what_is_no_clause() -> None:
    assert count_prose(["It knows what kind, what next and somewhat the rest."]).what == 0


def test_no_words_are_no_clauses() -> None:
    assert count_prose([]).per_thousand == 0.0


def test_texts_below_constants_are_docstrings_too() -> None:
    assert sorted(docstrings(MODULE)) == ["Bytes.", "Does it.", "What it is for."]


def test_a_comment_behind_code_has_no_line_of_its_own() -> None:
    assert comment_lines(MODULE) == ["Why."]


def test_methods_are_tests_and_helpers_are_not() -> None:
    assert names_of_tests(MODULE) == ["test_one", "test_two"]


def test_lines_are_measured_in_characters() -> None:
    files = {"a.md": "\u00e9\u00e9\u00e9\n", "b.md": "1\n12345\n"}
    assert count_lines(files, most=3) == Lines(lines=3, long=1, longest=5, longest_at="b.md:2")
    assert count_lines({}) == Lines(lines=0, long=0, longest=0, longest_at="")


def test_long_lines_are_named() -> None:
    assert long_lines({"a.py": "1\n12345\n1234\n"}, most=4) == ["a.py:2"]


def test_no_line_of_code_is_too_long() -> None:
    """Ruff lets a line pass that ends with ``noqa`` or ``type: ignore``."""
    assert long_lines(read(".py", *SETTINGS)) == []


def test_no_name_of_a_test_is_too_long() -> None:
    tests = {name: text for name, text in read(".py").items() if name.startswith("tests/")}
    names = [f"{file}::{name}" for file, text in tests.items() for name in names_of_tests(text)]
    assert len(names) > 3000
    assert [one for one in names if len(one.split("::")[1]) > NAME] == []


def test_names_are_measured() -> None:
    assert count_lengths(["a", "bb", "dddd"], most=2) == Lengths(3, 1, median=2, longest=4)
    assert count_lengths([], most=2) == Lengths(0, 0, median=0, longest=0)
    assert (share(1, 3), share(1, 0)) == (33.3, 0.0)
