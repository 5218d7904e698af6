"""The report at the end: the attacks, the stock, the counts, the quarantine."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from examples.robbery.catalogue import ACTS
from examples.robbery.director import Outcome
from examples.robbery.judging import Trade

WIDTH = 100
"""The width without a terminal."""
LEAST_WIDTH, MOST_WIDTH = 72, 140
"""The bounds of the width.

Below the first, the columns of the tables run together. Beyond the second, lines are hard to read.
"""
ROOMY = 96
"""The width from which a table shows its optional columns."""
MOST_ARTICLES = 12


def console() -> Console:
    """The console to print on: as wide as the terminal, within bounds."""
    found = Console()
    wide = found.width if found.is_terminal else WIDTH
    return Console(width=max(LEAST_WIDTH, min(wide, MOST_WIDTH)), soft_wrap=False)


def show(outcome: Outcome, wrong: list[str], out: Console | None = None) -> None:
    """Print everything to ``out``, or to stdout."""
    out = out or console()
    out.print()
    out.print(_attacks(outcome))
    out.print(_stock(outcome.trade))
    out.print(_trade(outcome.trade))
    out.print(_quarantine(outcome, roomy=out.width >= ROOMY))
    for fault in wrong:
        out.print(Text(f"WRONG: {fault}", style="bold red"))
    stopped = sum(
        finding.where is finding.attack.where and not finding.harm for finding in outcome.findings
    )
    if wrong:
        out.print(Text(f"The bus did not hold: {len(wrong)} things are wrong.", style="bold red"))
    else:
        orders = outcome.trade.orders
        robbery = f"{stopped} attacks, all stopped where they should be."
        sales = f"{orders} orders, all shipped, none lost, none doubled."
        out.print(Text(f"{robbery} {sales}", style="bold green"))
    sys.stdout.flush()


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        expand=True,
    )


def _attacks(outcome: Outcome) -> Table:
    table = _table("The attacks, where each was stopped, and why")
    table.add_column("", justify="right", width=2)
    table.add_column("attack", ratio=9)
    table.add_column("stopped by", width=16, no_wrap=True)
    table.add_column("why", ratio=6)
    found = {finding.attack.key: finding for finding in outcome.findings}
    number = 0
    for title, act in ACTS.items():
        table.add_section()
        table.add_row("", Text(title, style="bold"), "", "")
        for attack in act:
            number += 1
            finding = found[attack.key]
            where = (
                Text(finding.where, style="green")
                if finding.where
                else Text("NOTHING", style="bold red")
            )
            why = f"{finding.why}: {attack.detail}" if attack.detail else finding.why
            table.add_row(str(number), Text(attack.what), where, Text(why))
    return table


def _stock(trade: Trade) -> Table:
    table = _table("Stock, as the inventory bot says over the bus")
    for column in ("article", "before", "ordered", "after", ""):
        table.add_column(column, justify="left" if column in ("article", "") else "right")
    skus = list(trade.stock_before)
    for sku in skus[:MOST_ARTICLES]:
        before, sold, after = (
            trade.stock_before[sku],
            trade.stock_sold.get(sku, 0),
            trade.stock_after.get(sku, 0),
        )
        table.add_row(
            sku, str(before), str(sold), str(after), "" if before - sold == after else "WRONG"
        )
    if len(skus) > MOST_ARTICLES:
        table.add_row(f"and {len(skus) - MOST_ARTICLES} more", "", "", "", "")
    return table


def _trade(trade: Trade) -> Table:
    killed = f"relay killed after {trade.relay_killed_at} shipments"
    table = _table(f"Honest trade, counted from both ends ({killed})")
    table.add_column("counted by")
    table.add_column("what")
    table.add_column("count", justify="right")
    rows = (
        ("orders.jsonl", "orders in the file", trade.orders),
        ("order bot", "orders that the relay's stamp accepts", trade.accepted),
        ("stream ACCEPTED", "orders.placed", trade.stored.get("orders.placed", 0)),
        ("inventory bot", "orders reserved", trade.reserved),
        ("stream ACCEPTED", "stock.reserved", trade.stored.get("stock.reserved", 0)),
        ("shipping bot", "orders shipped", trade.shipped),
        ("stream ACCEPTED", "orders.shipped", trade.stored.get("orders.shipped", 0)),
        ("order bot", "orders seen shipped", trade.seen),
        ("all three bots", "handled more than once", trade.doubled),
    )
    for who, what, count in rows:
        table.add_row(who, what, str(count))
    return table


def _quarantine(outcome: Outcome, *, roomy: bool) -> Table:
    table = _table("Quarantine: the newest records, as the operator bot lists them")
    for column in ("#", "judged", "session", "subject"):
        table.add_column(column, justify="right" if column == "#" else "left", no_wrap=True)
    if roomy:
        table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("why", ratio=1)
    for record in outcome.quarantine:
        judged = datetime.fromtimestamp(record["judged_at_ms"] / 1000, UTC).strftime("%H:%M:%S")
        row = [str(record["sequence"]), judged, record["session"], record["subject"] or "-"]
        row += [str(record["size"])] if roomy else []
        table.add_row(*(Text(cell) for cell in (*row, _why(record))))
    return table


def _why(record: dict[str, Any]) -> str:
    """Reason and detail, and the name that the bytes claim if it is not the session's."""
    why = ": ".join(part for part in (record["reason"], record["detail"]) if part)
    claims = record["claimed"]
    return f"{why}; says it is {claims}" if claims and claims != record["session"] else why
