"""Mistakes that the product makes on request, so that the harness shows that it would notice them.

Most replace one function of a relay's or a subscriber's process. Some of these only show when a
process ends at the wrong moment. They pause there, so that this moment is often met. One is a
setting of nats-server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sealbus.nats.acks import ACK
from sealbus.protocol.reason import Reason
from sealbus.receiving.durable_message import DurableMessage
from sealbus.receiving.subscription import DurableSubscription
from sealbus_broker.nats.streams import Partition
from sealbus_broker.relay.ingress import worker as ingress_module
from sealbus_broker.relay.ingress.giving_back import give_back
from sealbus_broker.relay.ingress.waiting import Piece
from sealbus_broker.relay.ingress.worker import IngressWorker
from sealbus_broker.relay.judging.pipeline import Pipeline
from sealbus_broker.relay.store.storing import Item, Storing
from sealbus_broker.relay.store.stream_store import StreamMessage
from tests.faults.histories.schedule import Fault, Schedule, plan

LATE_S: Final = 0.4
"""How long a mistaken relay pauses between two steps that it has exchanged, in seconds."""

SLOW_S: Final = 0.05
"""How long a slow relay takes for an envelope, in seconds. A sender that pipelines is faster."""

WORK: Final = "work."
"""The subjects of the honest bots. The bus's own messages are treated right."""


# ---- mistakes ------------------------------------------------------------------------------------


def _acknowledge_first() -> None:
    """INGRESS forgets a message before it is judged."""
    work = IngressWorker._work

    async def mistaken(self: IngressWorker, taken: Sequence[Piece]) -> None:
        pulled = [piece.pulled for piece in taken]
        if any(one.subject.split(b".")[-1] != b"sealbus" for one in pulled):
            await self._acknowledge(pulled, None)
            await asyncio.sleep(LATE_S)
        await work(self, taken)

    IngressWorker._work = mistaken  # type: ignore[method-assign]  # intended


def _answer_first() -> None:
    """A sender has the receipt before the message is stored."""
    carry_out = Pipeline._carry_out

    async def mistaken(self: Pipeline, part: Any) -> list[Item]:
        early = [item for item in part.items if item.accepted and _is_work(item)]
        if early:
            self._storing._entries(early)
            self._answer(early)
            await asyncio.sleep(LATE_S)
        return await carry_out(self, part)

    Pipeline._carry_out = mistaken  # type: ignore[method-assign]  # intended


def _no_ledger() -> None:
    """A message is stored without the id by which JetStream knows it again."""
    entry = Storing._entry

    def mistaken(item: Item, stamp: bytes) -> StreamMessage:
        made = entry(item, stamp)
        return replace(made, headers={}) if _is_work(item) else made

    Storing._entry = staticmethod(mistaken)  # type: ignore[method-assign]  # intended


def _refuse_known() -> None:
    """A message that was accepted before is refused when it comes again."""
    settled = Storing._settled

    def mistaken(self: Storing, item: Item, copy: Any, sequence: int) -> None:
        settled(self, item, copy, sequence)
        if item.done and item.accepted and _is_work(item):
            self._refuse(item, Reason.REPLAY, None)
            item.receipt = None

    Storing._settled = mistaken  # type: ignore[method-assign]  # intended


def _handle_last() -> None:
    """A subscriber acknowledges a message before its handler has it."""
    begin = DurableSubscription._begin

    def mistaken(self: DurableSubscription, pending: DurableMessage) -> bool:
        begins = begin(self, pending)
        if begins:
            self._answer(pending.delivery, ACK)
        return begins

    DurableSubscription._begin = mistaken  # type: ignore[method-assign]  # intended


def _give_back_reversed() -> None:
    """A relay that stops gives messages back in the wrong order. It is slow, and so has some."""
    work = IngressWorker._work

    async def mistaken(
        nc: Any, partition: Partition, replies: Sequence[bytes], **options: Any
    ) -> None:
        await give_back(nc, partition, list(reversed(replies)), **options)

    async def slow(self: IngressWorker, taken: Sequence[Piece]) -> None:
        await asyncio.sleep(SLOW_S)
        await work(self, taken)

    ingress_module.give_back = mistaken  # type: ignore[attr-defined]  # intended
    ingress_module.BATCH = 1  # type: ignore[misc]  # intended
    IngressWorker._work = slow  # type: ignore[method-assign]  # intended


def _is_work(item: Item) -> bool:
    header = item.judgment.header
    return header is not None and header.subject.startswith(WORK)


@dataclass(frozen=True)
class Plant:
    """One mistake."""

    make: Callable[[], None] | None
    """Replaces the function. ``None``: only the setting is wrong."""
    rules: frozenset[str]
    """The rules of the checker that notice it. One is enough."""
    faults: tuple[Fault, ...] = ()
    """The faults under which it shows."""
    in_relay: bool = True
    attacked: bool = False
    """Whether it shows by the attacker's copies."""
    sync_interval: str = "always"
    """The setting of nats-server: when JetStream syncs the disk."""

    def schedule(self, name: str, seed: int, nodes: int = 1) -> Schedule:
        """A schedule under which the mistake shows."""
        return plan(seed, nodes, plant=name, needs=self.faults, attacked=self.attacked)


def _often(kind: str, lasts_s: float = 0.0, pause_s: float = 2.0) -> tuple[Fault, ...]:
    times = (1.0, 1.0 + pause_s, 1.0 + 2 * pause_s)
    return tuple(Fault(at_s, kind, lasts_s, 0) for at_s in times)


PLANTS: Final = {
    "acknowledge-first": Plant(
        _acknowledge_first, frozenset({"judged"}), _often("orphans", 0.5)[::2]
    ),
    # INGRESS still has the message, so that the next relay stores it, behind later ones.
    "answer-first": Plant(
        _answer_first, frozenset({"stored", "lost", "order"}), _often("kill-relay", 0.2)
    ),
    "no-ledger": Plant(_no_ledger, frozenset({"once"}), _often("pause-relay", 0.2), attacked=True),
    "refuse-known": Plant(_refuse_known, frozenset({"refused"}), _often("kill-relay", 0.2)),
    "handle-last": Plant(
        _handle_last, frozenset({"lost"}), _often("kill-subscriber", 0.1), in_relay=False
    ),
    "give-back-reversed": Plant(
        _give_back_reversed,
        frozenset({"order"}),
        _often("stop-relay", 0.1, 3.0) + _often("stop-relay", 0.1, 4.5),
    ),
    # The default of nats-server. Accepted messages are in its memory only.
    "sync-late": Plant(None, frozenset({"stored"}), _often("cut-power", 0.2), sync_interval="2m"),
}
"""The mistakes, by name."""


def plant(name: str, *, in_relay: bool = False) -> None:
    """Make a mistake from now on, if it is one of such a process."""
    mistake = PLANTS.get(name)
    if mistake is not None and mistake.make is not None and mistake.in_relay is in_relay:
        mistake.make()
