"""The time of a message in a relay, step by step, in microseconds and in bare verifies.

Everything here is the relay's own code on real messages, without the network. The cost of
nats-server, system calls and the event loop is in :mod:`benchmarks.relaycost`. Each step runs for a
whole batch, as in the relay, and its best time counts.

``python -m benchmarks.profile`` prints a table.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.workload import orders
from sealbus.nats.frames import hpub, pub
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.codec import pack_bundle, pack_json, split_bundle
from sealbus.protocol.delivery import open_delivery, pack_delivery
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.protocol.keys import KeyKind, SigningKey, verify
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import open_stamp, seal_stamps
from sealbus.sending.minting import new_nonce, salted
from sealbus_broker.gate.judge import CHECKS, CheckContext, judge
from sealbus_broker.gate.policy import BotKey, BotRule, DeliveryClass, Policy, SubjectRule
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.schemas import Schema
from sealbus_broker.gate.verdict import Arrival, JudgedAt

BATCH: Final = 256
"""The number of messages that a relay judges at once."""

BUNDLE_SIZE: Final = 64
ROUNDS: Final = 40
NOW: Final = 1_900_000_000_000
SUBJECT: Final = "orders.placed"
_SCHEMA: Final = Path(__file__).resolve().parents[1] / "schemas" / "orders.placed.v1.json"


@dataclass(frozen=True, slots=True)
class Step:
    """One step, for a whole batch."""

    where: str
    what: str
    run: Callable[[], object]


class Scene:
    """A policy, and a batch of orders: sealed alone, sealed in bundles of envelopes, and sealed in
    envelopes of many."""

    def __init__(self) -> None:
        enrolled = SigningKey.generate(KeyKind.BOT)
        self.bot = SessionKey.make(enrolled, bus="shop", bot="order", now_ms=NOW)
        self.relay = SigningKey.generate(KeyKind.BUS)
        schema = Schema.compile("orders.placed.v1", json.loads(_SCHEMA.read_text()))
        raw = enrolled.public.raw
        self.policy = Policy(
            bus="shop",
            digest=bytes(32),
            bus_keys=frozenset([self.relay.public.raw]),
            bots={"order": BotRule("order", {raw: BotKey(raw, 0)}, (SUBJECT,))},
            subjects=(SubjectRule(SUBJECT, DeliveryClass.STREAM, {schema.name: schema}),),
        )
        self.orders: list[Any] = list(islice(cycle(orders(1024)), BATCH))
        self.drafts = [
            Draft(
                Header("shop", "order", SUBJECT, new_nonce(NOW), NOW, 30_000),
                [salted(pack_json(self.orders[at]))],
            )
            for at in range(BATCH)
        ]
        self.joined = [
            Draft(
                Header("shop", "order", SUBJECT, new_nonce(NOW), NOW, 30_000),
                [draft.payloads[0] for draft in self.drafts[at : at + BUNDLE_SIZE]],
            )
            for at in range(0, BATCH, BUNDLE_SIZE)
        ]
        self.alone = [self.seal([draft])[0] for draft in self.drafts]
        self.bundled = [
            self.seal(self.drafts[at : at + BUNDLE_SIZE]) for at in range(0, BATCH, BUNDLE_SIZE)
        ]
        self.bursts = [self.seal([draft])[0] for draft in self.joined]

    def seal(self, drafts: Sequence[Draft]) -> list[bytes]:
        """Their envelopes, under one signature."""
        return [envelope.data for envelope in seal_envelopes(self.bot, drafts)]

    def arrivals(self, envelopes: Sequence[bytes]) -> list[Arrival]:
        """``envelopes`` as a relay receives them."""
        return [
            Arrival("order", data, DeliveryClass.STREAM, NOW, at + 1)
            for at, data in enumerate(envelopes)
        ]

    def judge(self, arrivals: Sequence[Arrival]) -> None:
        """Judge them with an empty memory."""
        verifier, meters, moment = Verifier(), RateMeters(), JudgedAt(NOW)
        for arrival in arrivals:
            judgment = judge(arrival, self.policy, moment, verifier, meters)
            assert judgment.reason is None, judgment.detail


def steps(scene: Scene) -> list[Step]:
    """The steps of a message, in order."""
    bundles = [pack_bundle(bundle) for bundle in scene.bundled]
    bundled = scene.arrivals([envelope for bundle in scene.bundled for envelope in bundle])
    bursts = scene.arrivals(scene.bursts)
    alone = scene.arrivals(scene.alone)
    verifier, meters, moment = Verifier(), RateMeters(), JudgedAt(NOW)
    judgments = [judge(arrival, scene.policy, moment, verifier, meters) for arrival in bundled]
    stamps = [
        one for judgment in judgments if (one := judgment.stamp(scene.policy, "relay")) is not None
    ]
    sealed = seal_stamps(scene.relay, stamps)
    deliveries = [
        pack_delivery(arrival.data, stamp) for arrival, stamp in zip(bundled, sealed, strict=True)
    ]
    acknowledgement = b'{"stream":"ACCEPTED","seq":123456}'
    made = [
        Step(
            "relay",
            "take the envelopes out of a bundle",
            lambda: [split_bundle(data) for data in bundles],
        ),
        Step("relay", "judge, 64 in an envelope", lambda: scene.judge(bursts)),
        *_checks(scene, bursts),
        Step("relay", "judge, 64 in a bundle", lambda: scene.judge(bundled)),
        Step("relay", "judge, sealed alone", lambda: scene.judge(alone)),
        Step(
            "relay",
            "fill in the stamp",
            lambda: [one.stamp(scene.policy, "relay") for one in judgments],
        ),
        Step(
            "relay",
            "seal the stamps, one signature a batch",
            lambda: seal_stamps(scene.relay, stamps),
        ),
        Step(
            "relay",
            "write it for ACCEPTED",
            lambda: [
                hpub(
                    b"accepted.orders.placed",
                    pack_delivery(one.data, stamp),
                    headers=b"Nats-Msg-Id: x\r\n",
                    reply=b"_INBOX.x.1.2",
                )
                for one, stamp in zip(bundled, sealed, strict=True)
            ],
        ),
        Step(
            "relay",
            "read its acknowledgement",
            lambda: [json.loads(acknowledgement) for _ in bundled],
        ),
        Step(
            "relay",
            "write the receipts together",
            lambda: pub(b"inbox.order.receipts", pack_bundle(sealed)),
        ),
    ]
    return made + _sides(scene, sealed, deliveries)


def _checks(scene: Scene, arrivals: Sequence[Arrival]) -> list[Step]:
    """Each check by itself. The checks before it have already added their results."""
    verifier, meters, moment = Verifier(), RateMeters(), JudgedAt(NOW)
    cases = [
        CheckContext(
            arrival=arrival, policy=scene.policy, moment=moment, verifier=verifier, meters=meters
        )
        for arrival in arrivals
    ]
    for case in cases:
        for check in CHECKS:
            check(case)
    return [Step("  of it", check.__name__, partial(_each, check, cases)) for check in CHECKS]


def _each(check: Callable[[CheckContext], object], cases: Sequence[CheckContext]) -> None:
    for case in cases:
        check(case)


def _sides(scene: Scene, sealed: Sequence[bytes], deliveries: Sequence[bytes]) -> list[Step]:
    keys = frozenset([scene.relay.public.raw])

    def open_all() -> None:
        verifier = Verifier()
        for data in deliveries:
            open_delivery(data, SUBJECT, bus="shop", bus_keys=keys, verifier=verifier)

    def open_receipts() -> None:
        verifier = Verifier()
        for data in sealed:
            open_stamp(data, keys, verifier)

    return [
        Step("publisher", "encode the payload", lambda: [pack_json(one) for one in scene.orders]),
        Step(
            "publisher",
            "seal, 64 in a bundle",
            lambda: [
                scene.seal(scene.drafts[at : at + BUNDLE_SIZE])
                for at in range(0, BATCH, BUNDLE_SIZE)
            ],
        ),
        Step(
            "publisher",
            "seal, 64 in an envelope",
            lambda: [scene.seal([draft]) for draft in scene.joined],
        ),
        Step("publisher", "open the receipt", open_receipts),
        Step("subscriber", "open the delivery", open_all),
    ]


def measure(rounds: int = ROUNDS) -> list[tuple[Step, float, float]]:
    """Each step with its best µs a message, and the same in bare verifies."""
    scene = Scene()
    signed = os.urandom(83)
    signature, public = scene.relay.sign(signed), scene.relay.public.raw
    bare = Step(
        "", "a bare verify", lambda: [verify(public, signed, signature) for _ in range(BATCH)]
    )
    measured = [bare, *steps(scene)]
    best = [float("inf")] * len(measured)
    for _ in range(rounds):  # all steps in each round: a disturbance of the machine hits them alike
        for at, step in enumerate(measured):
            start = time.thread_time()
            step.run()
            best[at] = min(best[at], (time.thread_time() - start) * 1e6 / BATCH)
    return [(step, us, us / best[0]) for step, us in zip(measured, best, strict=True)]


def main() -> None:
    """Measure and print."""
    table = Table(title=f"A message of 1 KiB, step by step (best of {ROUNDS})")
    for column in ("", "step", "µs", "in verifies"):
        table.add_column(column, justify="left" if column in ("", "step") else "right")
    for step, us, ratio in measure():
        table.add_row(step.where, step.what, f"{us:.1f}", f"{ratio:.2f}")
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
