"""Whether the bus held. This module is pure: findings go in, and all faults come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from examples.robbery.catalogue import Attack
from tests.attacks.corpus import Where

TRADE = ("orders.placed", "stock.reserved", "orders.shipped")
"""The only subjects on which a message may have been accepted into a stream."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The director's own findings about one attack."""

    attack: Attack
    where: Where | None
    """The part that stopped it, or ``None`` if there is no evidence that any did."""
    why: str
    proof: str
    harm: tuple[str, ...] = ()
    """The differences on the bus afterwards."""


@dataclass(frozen=True, slots=True)
class Trade:
    """The honest trade, counted by each participant."""

    orders: int
    """The orders in the file."""
    accepted: int
    """The orders that the order bot has receipts for."""
    reserved: int
    """The orders that the inventory bot reserved."""
    shipped: int
    """The orders that the shipping bot shipped."""
    seen: int
    """Shipments that reached the order bot."""
    doubled: int
    """Orders that any of them handled more than once."""
    stored: Mapping[str, int]
    """The messages in the stream ACCEPTED, by subject."""
    stock_before: Mapping[str, int]
    stock_after: Mapping[str, int]
    stock_sold: Mapping[str, int]
    """The articles that the orders in the file ask for."""
    relay_killed_at: int = 0
    """The orders that were shipped by then."""
    extra: tuple[str, ...] = field(default=())
    """Other faults."""


def faults(planned: Sequence[Attack], findings: Sequence[Finding], trade: Trade) -> list[str]:
    """All faults. The list is empty if the robbery failed and the trade did not."""
    return [*_attack_faults(planned, findings), *_trade_faults(trade)]


def _attack_faults(planned: Sequence[Attack], findings: Sequence[Finding]) -> list[str]:
    wrong = []
    found = {finding.attack.key: finding for finding in findings}
    for attack in planned:
        finding = found.get(attack.key)
        if finding is None:
            wrong.append(f"{attack.what}: was not tried")
        elif finding.where is None:
            wrong.append(f"{attack.what}: was not stopped by {attack.where} ({finding.why})")
        elif finding.where is not attack.where or attack.why != finding.why:
            got, expected = f"{finding.where} ({finding.why})", f"{attack.where} ({attack.why})"
            wrong.append(f"{attack.what}: was stopped by {got}; expected {expected}")
        elif attack.detail not in finding.proof:
            wrong.append(f"{attack.what}: was stopped as {finding.proof}; expected {attack.detail}")
        if finding is not None:
            wrong += [f"{attack.what}: {harm}" for harm in finding.harm]
    return wrong


def _trade_faults(trade: Trade) -> list[str]:
    wrong = list(trade.extra)
    counts = {
        "accepted": trade.accepted,
        "reserved": trade.reserved,
        "shipped": trade.shipped,
        "seen by the order bot": trade.seen,
        **{f"stored on {subject}": trade.stored.get(subject, 0) for subject in TRADE},
    }
    wrong += [
        f"trade: {trade.orders} orders, but {count} {what}"
        for what, count in counts.items()
        if count != trade.orders
    ]
    if trade.doubled:
        wrong.append(f"trade: {trade.doubled} handled more than once")
    strange = sorted(set(trade.stored) - set(TRADE))
    wrong += [
        f"trade: {trade.stored[subject]} accepted on {subject}, where nothing should be"
        for subject in strange
    ]
    for sku, before in trade.stock_before.items():
        expected, after = before - trade.stock_sold.get(sku, 0), trade.stock_after.get(sku)
        if after != expected:
            wrong.append(f"stock: {sku} is {after}; expected {expected}")
    return wrong
