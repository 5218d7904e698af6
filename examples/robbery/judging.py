"""Did the bus hold? Pure: what was found goes in, everything that is wrong comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from examples.robbery.catalogue import Attack
from tests.attacks.corpus import Where

TRADE = ("orders.placed", "stock.reserved", "orders.shipped")
"""The subjects on which anything at all may have been accepted onto a stream."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the director found of one attack, by looking for itself."""

    attack: Attack
    where: Where | None
    """What stopped it; ``None`` if nothing shows that anything did."""
    why: str
    proof: str
    harm: tuple[str, ...] = ()
    """What was different on the bus afterwards."""


@dataclass(frozen=True, slots=True)
class Trade:
    """The honest trade, counted by everybody who saw it."""

    orders: int
    """In the file."""
    accepted: int
    """By the order bot's receipts."""
    reserved: int
    """By the inventory bot."""
    shipped: int
    """By the shipping bot."""
    seen: int
    """Shipments that reached the order bot."""
    doubled: int
    """Orders that any of them handled more than once."""
    stored: Mapping[str, int]
    """By the stream of accepted messages, a subject."""
    stock_before: Mapping[str, int]
    stock_after: Mapping[str, int]
    stock_sold: Mapping[str, int]
    """What the orders in the file ask for."""
    relay_killed_at: int = 0
    """Orders shipped by then."""
    extra: tuple[str, ...] = field(default=())
    """Anything else that is wrong."""


def faults(planned: Sequence[Attack], findings: Sequence[Finding], trade: Trade) -> list[str]:
    """Everything that is not as it must be; empty if the robbery failed and the trade did not."""
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
        f"trade: {trade.orders} orders, but {count} {what}" for what, count in counts.items() if count != trade.orders
    ]
    if trade.doubled:
        wrong.append(f"trade: {trade.doubled} handled more than once")
    strange = sorted(set(trade.stored) - set(TRADE))
    wrong += [f"trade: {trade.stored[subject]} accepted on {subject}, where nothing should be" for subject in strange]
    for sku, before in trade.stock_before.items():
        expected, after = before - trade.stock_sold.get(sku, 0), trade.stock_after.get(sku)
        if after != expected:
            wrong.append(f"stock: {sku} is {after}; expected {expected}")
    return wrong
