"""Processes that stop at one step of an acceptance: relays and handlers' processes.

A relay runs as ``python -m tests.faults.traps relay --dir …``. Its code is the product's own. At
each step the process checks for a trap: a file in the bus's folder with the name of the step. The
first process that comes to the trap takes the file. It stops itself, or the process whose id the
file has. The program that set the trap lets it go on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final

from sealbus.errors import Malformed
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.subjects import CLOSED
from sealbus.receiving.durable_message import DurableMessage
from sealbus.receiving.live import LiveSubscription
from sealbus.receiving.subscription import DurableSubscription
from sealbus_broker.relay.ingress.worker import IngressWorker
from sealbus_broker.relay.judging.pipeline import Pipeline, Refusals
from sealbus_broker.relay.store import ledgers as ledgers_module
from sealbus_broker.relay.store.ledger import ledger_state
from sealbus_broker.relay.store.storing import Item, Storing
from sealbus_broker.relay.store.stream_store import Stored, StreamMessage, StreamStore
from tests.faults.market import hearer

FOLDER: Final = "traps"
SUBJECTS: Final = ("work.", "pulse.")
"""The subjects of the honest bot. The bus's own messages spring no trap."""

STORED: Final = ("accepted.work.", "live.pulse.")

Look = Callable[..., None]
"""Called with the arguments of a function."""


class Traps:
    """The traps of one bus."""

    def __init__(self, bus: Path) -> None:
        self._folder = bus / FOLDER
        self._folder.mkdir(exist_ok=True)

    def arm(self, step: str, target: int | None) -> None:
        """Stop the process ``target``, or else the next process that comes to ``step``."""
        draft = self._folder / f"draft of {step}"
        draft.write_text("" if target is None else str(target))
        draft.rename(self._folder / step)

    def spring(self, step: str) -> None:
        """Stop here, if a trap is set."""
        taken = self._folder / f"{step}, taken"
        try:
            (self._folder / step).rename(taken)
        except FileNotFoundError:
            return
        target = int(taken.read_text() or os.getpid())
        taken.write_text(str(target))
        taken.rename(self._folder / f"{step}, sprung")
        os.kill(target, signal.SIGSTOP)

    def sprung(self, step: str) -> int | None:
        """The process that the trap at ``step`` stops, if any. The trap is forgotten."""
        found = self._folder / f"{step}, sprung"
        if not found.exists():
            return None
        target = int(found.read_text())
        found.unlink()
        return target


# ---- in a relay ----------------------------------------------------------------------------------


def set_in_relay(traps: Traps) -> None:
    """From now on a relay in this process checks for a trap at each step."""
    _look_at_judging(traps.spring)
    _look_at_storing(traps.spring)
    _look_at_telling(traps.spring)


def _look_at_judging(spring: Callable[[str], None]) -> None:
    def arrived(_: Pipeline, arrivals: Sequence[Any], *__: Any) -> None:
        if any(_is_honest(arrival.data) for arrival in arrivals):
            spring("arrived")

    def judged(_: Storing, items: Sequence[Item], *__: Any) -> None:
        if _are_honest(items):
            spring("judged")

    async def reading(*given: Any, **options: Any) -> Any:
        state = await ledger_state(*given, **options)
        spring("ledger-read")
        return state

    _look(Pipeline, "process", arrived)
    _look(Storing, "store", judged)
    ledgers_module.ledger_state = reading  # type: ignore[attr-defined]  # intended


def _look_at_storing(spring: Callable[[str], None]) -> None:
    def writing(_: StreamStore, entries: Sequence[StreamMessage]) -> None:
        if any(entry.subject.startswith(STORED) for entry in entries):
            spring("stamped")
            # It runs after two turns of the loop. In the first turn the written frames leave this
            # process.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, spring, "written")
        if any(entry.subject.endswith(CLOSED) for entry in entries):
            spring("closing")

    def placed(_: Storing, item: Item, where: Stored, *__: Any) -> None:
        if _are_honest([item]):
            spring("found" if where.duplicate else "confirmed")

    _look(StreamStore, "attempt", writing)
    _look(Storing, "_is_stored_in_time", placed)


def _look_at_telling(spring: Callable[[str], None]) -> None:
    acknowledge = IngressWorker._acknowledge

    def answering(_: Pipeline, items: Sequence[Item]) -> None:
        if _are_honest(item for item in items if item.accepted):
            spring("stored")

    def telling(refusals: Refusals) -> None:
        if _are_honest(refusals._items):
            spring("refusal-confirmed")

    async def acknowledging(
        self: IngressWorker, pulled: Sequence[Any], refusals: Refusals | None
    ) -> None:
        if not pulled[0].subject.endswith(b".sealbus"):
            for _ in range(2):
                await asyncio.sleep(0)  # the receipts leave
            spring("refused" if refusals else "answered")
        await acknowledge(self, pulled, refusals)

    _look(Pipeline, "_answer", answering)
    _look(Refusals, "tell", telling)
    IngressWorker._acknowledge = acknowledging  # type: ignore[method-assign]  # intended


def _look(owner: type, name: str, look: Look) -> None:
    """Call ``look`` before the function ``name`` of ``owner``, with the same arguments."""
    original: Callable[..., Any] = getattr(owner, name)

    @wraps(original)
    def looking(*given: Any, **options: Any) -> Any:
        if not asyncio.iscoroutinefunction(original):
            look(*given)
            return original(*given, **options)
        return _after(look, original, given, options)

    setattr(owner, name, looking)


async def _after(
    look: Look,
    original: Callable[..., Awaitable[Any]],
    given: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    look(*given)
    return await original(*given, **options)


def _are_honest(items: Iterable[Item]) -> bool:
    return any(
        item.judgment.header.subject.startswith(SUBJECTS) for item in items if item.judgment.header
    )


def _is_honest(data: bytes) -> bool:
    try:
        return Envelope.decode(data).header.subject.startswith(SUBJECTS)
    except Malformed:
        return False


# ---- in a handler's process ----------------------------------------------------------------------


def trapped_hearer(credentials: str, diary: str) -> None:
    """A process like :func:`tests.faults.market.hearer`, with a trap at each of its steps."""
    spring = Traps(Path(diary).parent).spring

    def begins(_: DurableSubscription, held: DurableMessage) -> None:
        if held.delivery.subject.startswith(b"accepted.work."):
            spring("delivered")

    def handled(_: DurableSubscription, __: DurableMessage) -> None:
        spring("handled")

    def receives(_: LiveSubscription, subject: bytes, *__: Any) -> None:
        if subject.startswith(b"bus.pulse."):
            spring("heard")

    _look(DurableSubscription, "_begin", begins)
    _look(DurableSubscription, "handled", handled)
    _look(LiveSubscription, "_receive", receives)
    hearer(credentials, diary, lambda: spring("looked"))


if __name__ == "__main__":
    from sealbus_broker.cli.main import main

    set_in_relay(Traps(Path(sys.argv[sys.argv.index("--dir") + 1])))
    sys.exit(main())
