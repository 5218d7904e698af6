"""The limits of docs/style.md that nothing may exceed, and the script that counts them."""

from __future__ import annotations

from tests.docs.counts import (
    SETTINGS,
    TESTS,
    Lengths,
    Lines,
    Prose,
    Text,
    clauses,
    comment_lines,
    count_lengths,
    count_lines,
    count_prose,
    docstrings,
    long_lines,
    long_names,
    names_of_tests,
    prose_of,
    read,
    share,
    texts,
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
    prose = count_prose(texts({"a.md": DOCUMENT}, prose_of))
    assert prose == Prose(words=14, what=2)
    assert prose.per_thousand == 142.9
    assert list(clauses({"a.md": DOCUMENT}, prose_of)) == [
        "a.md:3: What is",
        "a.md:3: what waits",
    ]


def test_a_noun_behind_what_is_no_clause() -> None:
    assert count_prose(["It knows what kind, what next and somewhat the rest."]).what == 0


def test_no_words_are_no_clauses() -> None:
    assert count_prose([]).per_thousand == 0.0


def test_texts_below_constants_are_docstrings_too() -> None:
    assert list(docstrings(MODULE)) == [
        Text(1, "What it is for."),
        Text(4, "Bytes."),
        Text(13, "Does it."),
    ]


def test_a_comment_behind_code_has_no_line_of_its_own() -> None:
    assert comment_lines(MODULE) == [Text(6, "Why.")]


def test_methods_are_tests_and_helpers_are_not() -> None:
    assert names_of_tests(MODULE) == [Text(12, "test_one"), Text(17, "test_two")]
    assert long_names({"a.py": MODULE}, most=7) == ["a.py:12: test_one", "a.py:17: test_two"]


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
    tests = {name: text for name, text in read(".py").items() if name.startswith(TESTS)}
    assert len(texts(tests, names_of_tests)) > 3000
    assert long_names(tests) == []


def test_names_are_measured() -> None:
    assert count_lengths(["a", "bb", "dddd"], most=2) == Lengths(3, 1, median=2, longest=4)
    assert count_lengths([], most=2) == Lengths(0, 0, median=0, longest=0)
    assert (share(1, 3), share(1, 0)) == (33.3, 0.0)
