"""The promises of ``docs/guarantees.md``, compared with the histories of a bus. It is pure.

The rules, by name:

* **once**: no message is accepted twice, and no copy of it is.
* **stored**: an accepted message is in ACCEPTED.
* **lost**: each durable subscription handles each message in ACCEPTED, or the message is parked.
* **refused**: a message that is refused is neither stored nor handled. A message of which the
  attacker has sent a copy is left out: its copy may be accepted later. So is one
  that was refused while the disk was full.
* **unsent**: a message that the client says it did not send is not stored.
* **resolved**: each message of a sender that lives has an outcome in the end, and only one. A
  refusal may stay in doubt if the receipt of an earlier attempt is missing.
* **revoked**: no message is accepted that was begun after its key was revoked.
* **twice**: no process handles a message twice while it keeps its connection, and nobody handles it
  through two acceptances.
* **order**: messages that a bot sends one after the other are stored in that order. One process at
  a time gets them in the order in which they are stored, until it crashes or loses its connection.
  On a cluster, a message that a node delivers while it loses the lead may come 30 s later.
  Messages under way together are stored in the order in which they were sent, if relays were only
  told to stop. A message of which the attacker sent a copy before its receipt is left out here,
  because the copy may come first.
* **judged**: a message that INGRESS has stored is in ACCEPTED or in the quarantine in the end.
* **evidence**: a refused message that has a record is in the quarantine, with its bytes untouched.
* **whole**: no message is refused for bytes that no client sends. Neither the senders nor the
  attacker send such bytes, so something on the way has changed them.
* **stuck**: each process ends in time, and the bus accepts again.
* **memory**: no relay, server or subscriber ever has more than its bound.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Final

from sealbus_broker.relay.judging.counters import WORTHLESS
from tests.faults.histories.history import SENDER, SUBSCRIBER, Event, History, Life, Stored

MEMORY_BYTES: Final = {
    "relay": 512 * 1024 * 1024,
    "node": 1024 * 1024 * 1024,
    "subscriber": 256 * 1024 * 1024,
}
"""The most resident memory of a process. ``compose.yaml`` gives relays and servers twice as
much."""

UNDELIVERABLE: Final = "undeliverable"

ORDERLY: Final = frozenset(
    {
        *("stop-relay", "kill-sender", "stop-sender", "kill-subscriber", "stop-subscriber"),
        *("pause-subscriber", "cut-subscriber", "change-limit"),
    }
)
"""The faults under which messages that are under way together keep their order."""

FORGETTING: Final = frozenset(
    {
        *("kill-node", "restart-node", "full-disk", "cut-power"),
        *("kill-leader", "kill-majority", "cut-node"),
    }
)
"""The faults by which nats-server may forget which messages a subscriber has given back: the node
that leads the consumer keeps that in memory. On a cluster, a pause of that node is such a fault."""

TAKEN_UP_S: Final = 10.0
"""Within this time of its first message, a process has all that the one before has given back."""

AGAIN_S: Final = 25.0
"""nats-server delivers a message again 30 s after it has noted its delivery. The sender may have
the receipt some seconds later."""

MOST_SHOWN: Final = 4
"""How many examples of one rule a report has."""


@dataclass(frozen=True)
class Violation:
    """A broken promise."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


def check(history: History) -> list[Violation]:
    """The broken promises, at most :data:`MOST_SHOWN` of each rule, and then their number."""
    found: list[Violation] = []
    facts = _Facts(history)
    for rule, look in RULES.items():
        texts = list(look(facts))
        found += [Violation(rule, text) for text in texts[:MOST_SHOWN]]
        if len(texts) > MOST_SHOWN:
            found.append(Violation(rule, f"{len(texts)} in all"))
    return found


class _Facts:
    """A history, arranged for the rules."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.senders = history.of(SENDER)
        self.subscribers = history.of(SUBSCRIBER)
        self.valid = [one for one in history.stored if not one.void]
        self.by_number: dict[tuple[str, int], list[Stored]] = defaultdict(list)
        for one in self.valid:
            self.by_number[one.bot, one.number].append(one)
        self.outcomes: dict[tuple[str, int], list[Event]] = defaultdict(list)
        self.begun: dict[tuple[str, int], Event] = {}
        for life in self.senders:
            for event in life.events:
                if event.what == "begin":
                    self.begun[life.bot, event.number] = event
                elif event.what not in ("ready", "lost", "stopping", "ask", "asked"):
                    self.outcomes[life.bot, event.number].append(event)
        self.handled = {
            (event.bot, event.number)
            for life in self.subscribers
            for event in life.events
            if event.what == "handled"
        }
        self.copied: dict[tuple[str, str], float] = {}
        """By bot and nonce, when the attacker sent the first copy."""
        for life in history.of("attacker"):
            for event in life.events:
                if event.what == "copy":
                    self.copied.setdefault((event.bot, event.nonce), event.at)
        self.receipts = {
            (bot, event.number): event.at
            for bot, event in self.with_outcome("accepted")
            if not event.live
        }

    def with_outcome(self, what: str) -> Iterator[tuple[str, Event]]:
        """Bot and event of each message with this outcome."""
        for (bot, _), events in self.outcomes.items():
            yield from ((bot, event) for event in events if event.what == what)


# ---- what is accepted ----------------------------------------------------------------------------


def _once(facts: _Facts) -> Iterator[str]:
    copies = Counter((one.bot, one.nonce, one.index) for one in facts.valid)
    for (bot, nonce, index), count in copies.items():
        if count > 1:
            yield f"{bot}'s message {nonce}.{index} is stored {count} times"
    for (bot, number), stored in facts.by_number.items():
        if len({(one.nonce, one.index) for one in stored}) > 1:
            yield f"{bot}'s message {number} is stored under {len(stored)} nonces"


def _stored(facts: _Facts) -> Iterator[str]:
    for bot, event in facts.with_outcome("accepted"):
        if not event.live and (bot, event.number) not in facts.by_number:
            yield f"{bot}'s message {event.number} was accepted, and is not in ACCEPTED"


def _lost(facts: _Facts) -> Iterator[str]:
    parked = {
        (kept.session, kept.position, index)
        for kept in facts.history.kept
        if kept.reason == UNDELIVERABLE
        for index in (kept.payloads or (None,))
    }
    handled: dict[str, set[tuple[str, int]]] = {life.bot: set() for life in facts.subscribers}
    for life in facts.subscribers:
        handled[life.bot].update(
            (event.bot, event.number)
            for event in life.events
            if event.what == "handled" and not event.live
        )
    for bot, done in handled.items():
        for one in facts.valid:
            places = {(bot, one.sequence, one.index), (bot, one.sequence, None)}
            if (one.bot, one.number) not in done and not places & parked:
                yield f"{one.bot}'s message {one.number} was never handled by {bot}"


def _refused(facts: _Facts) -> Iterator[str]:
    full = [one for one in facts.history.disturbances if one.kind == "full-disk"]
    for bot, event in facts.with_outcome("refused"):
        key = bot, event.number
        if (bot, event.nonce) in facts.copied:
            continue
        if any(one.began <= event.at <= one.healed for one in full):
            continue
        if key in facts.by_number:
            yield f"{bot}'s message {event.number} was refused ({event.reason}), and is stored"
        elif key in facts.handled:
            yield f"{bot}'s message {event.number} was refused ({event.reason}), and was handled"


def _unsent(facts: _Facts) -> Iterator[str]:
    for bot, event in facts.with_outcome("unsent"):
        if (bot, event.number) in facts.by_number:
            yield f"{bot}'s message {event.number} was not sent ({event.reason}), and is stored"


def _resolved(facts: _Facts) -> Iterator[str]:
    for life in facts.senders:
        if life.killed_at is not None or life.revoked_at is not None:
            continue
        for event in life.events:
            if event.what != "begin":
                continue
            outcomes = facts.outcomes[life.bot, event.number]
            final = {one.what for one in outcomes} - {"unresolved"}
            # Nobody can find out the outcome of a live message if nats-server was started anew.
            if not final or (final & {"too-late", "closed"} and not event.live):
                yield f"{life.bot}'s message {event.number} has no outcome: {_told(outcomes)}"
            elif len(final) > 1:
                yield f"{life.bot}'s message {event.number} has two outcomes: {_told(outcomes)}"


def _told(events: Iterable[Event]) -> str:
    return ", ".join(event.what for event in events) or "nothing was told"


def _revoked(facts: _Facts) -> Iterator[str]:
    for life in facts.senders:
        for event in life.events:
            if event.what != "begin" or life.revoked_at is None or event.at < life.revoked_at:
                continue
            if (life.bot, event.number) in facts.by_number:
                yield f"{life.bot}'s message {event.number} was accepted after the revocation"


# ---- how it is handled ---------------------------------------------------------------------------


def _twice(facts: _Facts) -> Iterator[str]:
    stamps: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for life in facts.subscribers:
        seen: set[tuple[str, str, int]] = set()
        for event in life.events:
            if event.what == "lost":
                seen.clear()
            elif event.what == "handled":
                key = event.bot, event.nonce, event.index
                stamps[key].add(event.stamp)
                if key in seen and not life.disturbed:
                    yield f"{life.name} handled {event.bot}'s message {event.number} twice"
                seen.add(key)
    for (bot, nonce, index), them in stamps.items():
        if len(them) > 1:
            yield f"{bot}'s message {nonce}.{index} was handled through {len(them)} acceptances"


def _order(facts: _Facts) -> Iterator[str]:
    yield from _order_of_sending(facts)
    yield from _order_of_handling(facts)
    kinds = {one.kind for one in facts.history.disturbances}
    # On a busy machine another relay may take a partition over, as from a dead one.
    if kinds <= ORDERLY and (facts.history.relays == 1 or not facts.history.starved):
        yield from _order_under_way(facts)


def _order_of_sending(facts: _Facts) -> Iterator[str]:
    """A message that is begun after another's receipt is stored behind it."""
    by_bot: dict[str, list[Stored]] = defaultdict(list)
    for one in facts.valid:
        by_bot[one.bot].append(one)
    for bot, stored in by_bot.items():
        earliest: tuple[float, int] | None = None
        """The earliest receipt of the messages behind, and the message."""
        for one in sorted(stored, key=lambda one: (-one.sequence, -one.index)):
            begun = facts.begun.get((bot, one.number))
            if begun is not None and earliest is not None and earliest[0] < begun.at:
                yield (
                    f"{bot}'s message {one.number} was begun after the receipt of message"
                    f" {earliest[1]}, and is stored before it"
                )
            receipt = facts.receipts.get((bot, one.number))
            if receipt is not None and (earliest is None or receipt < earliest[0]):
                earliest = receipt, one.number


def _order_under_way(facts: _Facts) -> Iterator[str]:
    """Messages of one process are stored in the order in which it has begun them."""
    for life in facts.senders:
        if any(event.what == "lost" for event in life.events):
            continue
        # A message that was sent again has the place of that attempt.
        again = {event.number for event in life.events if event.what == "unresolved"}
        begun = [event.number for event in life.events if event.what == "begin"]
        at = -1
        for number in (number for number in begun if number not in again):
            for one in facts.by_number.get((life.bot, number), ()):
                copied = facts.copied.get((one.bot, one.nonce), inf)
                if copied < facts.receipts.get((one.bot, number), inf):
                    continue
                if one.sequence < at:
                    yield f"{life.bot}'s message {number} is stored before an earlier one"
                at = max(at, one.sequence)


def _order_of_handling(facts: _Facts) -> Iterator[str]:
    """The subscription with one process at a time. Events after a crash or a loss are left out, and
    those after nats-server may have forgotten messages that were given back. So are messages that a
    node may not have delivered because it lost the lead."""
    places = {(one.bot, one.nonce, one.index): one.sequence for one in facts.valid}
    last: dict[str, tuple[int, int]] = {}
    known: set[tuple[str, str, int]] = set()
    lives = [life for life in facts.subscribers if life.mode == "one"]
    forgotten_at = _forgotten_at(lives, facts.history)
    for life in lives:
        for event in life.events:
            if event.what == "lost" or life.disturbed or event.at >= forgotten_at:
                return
            key = event.bot, event.nonce, event.index
            if event.what != "handle" or event.live or key not in places or key in known:
                continue
            known.add(key)
            place = places[key], event.index
            if place < last.get(event.bot, place) and not _lost_with_the_lead(facts, event):
                yield f"{life.name} got {event.bot}'s message {event.number} behind a later one"
            last[event.bot] = max(place, last.get(event.bot, place))
        if life.killed_at is not None:
            return


def _forgotten_at(lives: Sequence[Life], history: History) -> float:
    """From when on nats-server may have forgotten messages that a process gave back at its stop,
    because the next one did not have them yet."""
    moments = [inf]
    for life, following in pairwise(lives):
        told_at = inf if life.told_at is None else life.told_at
        got = (one.at for one in following.events if one.what == "handle" and not one.live)
        taken_up_at = next(got, inf) + TAKEN_UP_S
        moments += [
            max(told_at, one.began)
            for one in history.disturbances
            if one.kind in _forgetting(history)
            and told_at <= one.healed
            and one.began <= taken_up_at
        ]
    return min(moments)


def _lost_with_the_lead(facts: _Facts, event: Event) -> bool:
    """Whether a node may have noted on the others that it delivers the message, and have lost the
    lead of the consumer before it did."""
    accepted_at = facts.receipts.get((event.bot, event.number), inf)
    return (
        facts.history.nodes > 1
        and event.at - accepted_at >= AGAIN_S
        and any(
            one.began <= accepted_at <= one.healed + TAKEN_UP_S
            for one in facts.history.disturbances
            if one.kind in _forgetting(facts.history)
        )
    )


def _forgetting(history: History) -> frozenset[str]:
    """The kinds of faults by which the node that leads a consumer may forget, or lose the lead."""
    return FORGETTING | ({"pause-node"} if history.nodes > 1 else set())


# ---- what is kept, and what goes on --------------------------------------------------------------


def _judged(facts: _Facts) -> Iterator[str]:
    known = {(one.bot, one.nonce) for one in facts.history.stored}
    known |= {(kept.session, kept.nonce) for kept in facts.history.kept}
    for bot, nonce in facts.history.waiting:
        if (bot, nonce) not in known:
            yield f"{bot}'s message {nonce} was in INGRESS, and has no verdict"


def _evidence(facts: _Facts) -> Iterator[str]:
    records = {kept.sequence: kept for kept in facts.history.kept}
    for bot, event in facts.with_outcome("refused"):
        if event.record is None:
            continue
        kept = records.get(event.record)
        if kept is None or (kept.session, kept.nonce) != (bot, event.nonce):
            yield f"{bot}'s message {event.number} is not in the quarantine as {event.record}"
        elif kept.digest != event.digest or event.index not in kept.whole:
            yield f"the bytes of {bot}'s message {event.number} changed in the quarantine"


def _whole(facts: _Facts) -> Iterator[str]:
    for kept in facts.history.kept:
        if kept.reason in WORTHLESS:
            yield f"a message of {kept.session} is in the quarantine as {kept.reason}"


def _stuck(facts: _Facts) -> Iterator[str]:
    yield from facts.history.stuck
    for life in facts.history.lives:
        asked = [event.number for event in life.events if event.what == "ask"]
        answered = {event.number: event.reason for event in life.events if event.what == "asked"}
        for number in asked:
            if number not in answered and life.killed_at is None:
                yield f"{life.name} still waits for the answer to question {number}"
            elif answered.get(number) == "WRONG":
                yield f"{life.name} got another answer to question {number}"
        # Told to stop before it had begun to listen for signals, a process ends at once.
        fine = (0, None) if any(event.what == "ready" for event in life.events) else (0, None, -15)
        if life.killed_at is None and life.code not in fine and life.role != "attacker":
            yield f"{life.name} ended with the code {life.code}"


def _memory(facts: _Facts) -> Iterator[str]:
    for name, resident in facts.history.memory.items():
        most = MEMORY_BYTES[name.partition("-")[0]]
        if resident > most:
            yield f"{name} has {resident >> 20} MiB, which is more than {most >> 20}"


RULES: Final = {
    "once": _once,
    "stored": _stored,
    "lost": _lost,
    "refused": _refused,
    "unsent": _unsent,
    "resolved": _resolved,
    "revoked": _revoked,
    "twice": _twice,
    "order": _order,
    "judged": _judged,
    "evidence": _evidence,
    "whole": _whole,
    "stuck": _stuck,
    "memory": _memory,
}
"""The rules, by name. Each takes the facts, and yields a sentence for each violation."""


# ---- stalls --------------------------------------------------------------------------------------


SEVERAL: Final = "several at a time"
"""The stalls that touch faults of several kinds."""


def stalls(history: History) -> dict[str, float]:
    """By kind of fault: the longest time without an accepted message that touches such a fault.

    A stall that touches several kinds belongs to :data:`SEVERAL`.
    """
    accepted = sorted(
        event.at for life in history.of(SENDER) for event in life.events if event.what == "accepted"
    )
    found: dict[str, float] = {}
    for one, after in pairwise(accepted):
        touched = {
            fault.kind
            for fault in history.disturbances
            if one <= fault.healed and fault.began <= after
        }
        if touched:
            kind = touched.pop() if len(touched) == 1 else SEVERAL
            found[kind] = max(found.get(kind, 0.0), after - one)
    return found
