"""The tables at the end of the demo, on narrow and wide terminals."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from examples.robbery.catalogue import ATTACKS
from examples.robbery.director import Outcome
from examples.robbery.judging import Finding, Trade
from examples.robbery.report import LEAST_WIDTH, MOST_WIDTH, show

LONG = "not one complete msgpack value, or one with far too many parts"
"""The longest detail that the demo's attacks meet."""

ROW = {
    "sequence": 54,
    "judged_at_ms": 0,
    "session": "inventory",
    "subject": "stock.reserved",
    "size": 1214,
}


def shown(width: int, **row: str | None) -> list[str]:
    """The lines of the quarantine's table, with one record."""
    out = io.StringIO()
    trade = Trade(1, 1, 1, 1, 1, 0, {}, {"ABC-0001": 1}, {"ABC-0001": 0}, {"ABC-0001": 1})
    findings = [Finding(attack, attack.where, "why", "proof") for attack in ATTACKS]
    show(Outcome(findings, trade, [{**ROW, **row}]), [], Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [
        line.rstrip()
        for line in lines[lines.index(next(line for line in lines if "Quarantine" in line)) :]
    ]


@pytest.mark.parametrize(("width", "most"), [(LEAST_WIDTH, 4), (80, 3), (100, 2), (MOST_WIDTH, 1)])
def test_a_long_detail_takes_few_lines(width: int, most: int) -> None:
    lines = shown(width, reason="encoding", detail=LONG, claimed=None)
    first = next(at for at, line in enumerate(lines) if line.lstrip().startswith("54 "))
    rows = lines[first : lines.index("", first)]
    assert "inventory   stock.reserved" in rows[0]
    assert "encoding: not one" in rows[0]
    assert len(rows) <= most


def test_the_report_shows_a_name_that_is_only_claimed() -> None:
    text = "\n".join(shown(MOST_WIDTH, reason="wrong-bot", detail=None, claimed="order"))
    assert "wrong-bot; says it is order" in text
    assert "says it is" not in "\n".join(
        shown(MOST_WIDTH, reason="schema", detail=None, claimed="inventory")
    )
