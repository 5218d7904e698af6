"""Makes the programs of ``docs/bots.md`` and ``docs/testing.md``: the files in ``examples/``."""

from __future__ import annotations

from tests.docs.parts.markdown import fenced
from tests.docs.places import EXAMPLES


def program(name: str) -> str:
    """An example's code, without its docstring."""
    _, _, code = (EXAMPLES / name).read_text().partition('"""\n\n')
    return fenced(code.rstrip("\n"), "python")


def tests_of_a_bot() -> str:
    """The tests of the example's bot. A reader has both files in one folder."""
    return program("testing/test_listener.py").replace("examples.testing.", "")
