"""The time that a relay needs after a crash, behind a hostile backlog and beside a large store.

A relay dies with hostile messages in hand. The next relay gets them again, and refuses them. A
relay before it may have accepted each, so each is looked up in the ledger. The cost of that must
not depend on the bytes that were stored since, and must not hold up honest messages for long.

::

    python -m tests.faults.recovery --megabytes 0 50 150

For each amount, on a new bus: a relay is stopped, is given the hostile messages, and is killed. So
many megabytes are stored on the same subject. JetStream delivers the messages of a dead relay again
after ten seconds, so the next relay starts after that. The program prints the time from its start
to the receipt of an honest message behind the backlog, and to the last record in the quarantine.
With ``--one-nonce`` all hostile messages have one nonce, so their ids in the ledger are one chain.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sealbus.protocol.codec import pack_bundle, pack_json
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.protocol.limits import MAX_BUNDLE
from sealbus.sending.minting import new_nonce, salted
from sealbus_broker.nats.streams import ACK_WAIT_S, PARTITIONS, partition_consumer
from tests.faults.yard import Yard, say
from tests.waiting import PATIENCE_S

STORED_BYTES: Final = 200_000
HOSTILE_BUNDLES: Final = 40
"""Bundles of 64: about as many bytes as a relay pulls of a partition."""
TIMEOUT_S: Final = 120.0
COLUMNS: Final = "{:>9} {:>8} {:>11} {:>12} {:>12}"


@dataclass(frozen=True)
class Outcome:
    """The outcome beside one amount of stored bytes."""

    megabytes: int
    hostile: int
    """Hostile messages."""
    in_hand: int
    """NATS messages of the bot's partition that the first relay had in hand when it died."""
    honest_s: float
    """From the start of the second relay to the receipt of the honest message."""
    judged_s: float
    """From there to the last record in the quarantine, or to the last change of it."""
    kept: int
    """Records in the quarantine."""
    accepted: int
    """Messages that were accepted. The honest one is."""

    @property
    def faults(self) -> list[str]:
        """All broken promises."""
        wrong = []
        if not self.in_hand:
            wrong.append("no hostile message was delivered twice, so this shows nothing")
        if not self.kept:
            wrong.append("no hostile message was refused and kept")
        if self.accepted != 1:
            wrong.append(f"{self.accepted} messages were accepted, expected the honest one")
        return wrong


def hostile_bundles(yard: Yard, bundles: int, *, one_nonce: bool) -> list[bytes]:
    """Messages of the bot itself, under seals that hold, which the schema refuses."""
    now_ms = time.time_ns() // 1_000_000
    key = yard.credentials("boss").new_session_key(now_ms)
    nonce = new_nonce(now_ms)
    made = []
    for bundle in range(bundles):
        drafts = [
            Draft(
                Header(
                    bus="shop",
                    bot="boss",
                    subject="work.since",
                    nonce=nonce if one_nonce else new_nonce(now_ms),
                    issued_at_ms=now_ms,
                    ttl_ms=30_000,
                ),
                [salted(pack_json(bundle * MAX_BUNDLE + at))],
            )
            for at in range(MAX_BUNDLE)
        ]
        made.append(pack_bundle([one.data for one in seal_envelopes(key, drafts)]))
    return made


async def _partitions(nc: Any) -> list[dict[str, Any]]:
    """JetStream's reports of the consumers by which relays take messages."""
    subject = "$JS.API.CONSUMER.INFO.INGRESS."
    names = (partition_consumer(partition) for partition in range(PARTITIONS))
    answers = [await nc.request(subject + name, b"", PATIENCE_S) for name in names]
    return [json.loads(answer.data) for answer in answers]


async def _in_hand(nc: Any) -> int:
    """The messages of bots that relays have in hand."""
    return sum(one["num_ack_pending"] for one in await _partitions(nc))


async def _last_stored(nc: Any) -> int:
    answer = await nc.request("$JS.API.STREAM.INFO.INGRESS", b"", PATIENCE_S)
    last: int = json.loads(answer.data)["state"]["last_seq"]
    return last


async def _give(yard: Yard, nc: Any, bundles: list[bytes]) -> int:
    """Have the first relay take the messages without judging them; return how many it has."""
    (relay,) = yard.relays
    waiting = list(bundles)
    # The relay renews its request each second. While the server has one, it gives messages.
    while True:
        relay.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.2)
        relay.send_signal(signal.SIGSTOP)
        before = await _last_stored(nc)
        # Again if all were given in vain. A copy is as hostile.
        await nc.publish("send.boss", waiting.pop() if waiting else bundles[0])
        last = before
        while last == before:
            last = await _last_stored(nc)
        # Time to deliver it. If that was too short, or there is no request, the next round tries.
        await asyncio.sleep(0.3)
        # It was delivered after the stop, so nobody has judged it. That does not hold for messages
        # that were delivered before.
        if max(one["delivered"]["stream_seq"] for one in await _partitions(nc)) == last:
            break
    for bundle in waiting:
        await nc.publish("send.boss", bundle)
    await nc.flush()
    await asyncio.sleep(0.5)
    return await _in_hand(nc)


async def play(yard: Yard, megabytes: int, bundles: int, *, one_nonce: bool = False) -> Outcome:
    """Kill a relay with hostile messages in hand, store, and start another relay."""
    nc = await yard.nats()
    given = hostile_bundles(yard, bundles, one_nonce=one_nonce)
    in_hand = await _give(yard, nc, given)
    yard.relays[0].kill()
    await yard.relays[0].wait()
    died = time.monotonic()
    block = os.urandom(STORED_BYTES)
    for _ in range(megabytes * 1_000_000 // STORED_BYTES):
        # Past the relays: a look into the ledger does not depend on the contents.
        await nc.request("accepted.work.since", block, PATIENCE_S)
    await asyncio.sleep(max(0.0, died + ACK_WAIT_S + 0.5 - time.monotonic()))
    before = await _accepted(nc)
    began = time.monotonic()
    await yard.start_relay("second")
    async with yard.bot("boss") as boss:
        await boss.publish("work.honest", {"number": 1}, timeout=TIMEOUT_S)
        honest_s = time.monotonic() - began
    kept, judged_s = 0, 0.0
    # The quarantine keeps a thousand records of a bot at once, and drops the rest.
    while time.monotonic() - began < TIMEOUT_S and (await _in_hand(nc) or not kept):
        now = await yard.stored("QUARANTINE")
        if now != kept:
            kept, judged_s = now, time.monotonic() - began
        await asyncio.sleep(0.1)
    kept = await yard.stored("QUARANTINE")
    accepted = await _accepted(nc) - before
    await nc.close()
    return Outcome(
        megabytes=megabytes,
        hostile=bundles * MAX_BUNDLE,
        in_hand=in_hand,
        honest_s=honest_s,
        judged_s=judged_s,
        kept=kept,
        accepted=accepted,
    )


async def _accepted(nc: Any) -> int:
    """The messages that bots have in ACCEPTED, without the relays' notes."""
    ask = json.dumps({"subjects_filter": "accepted.work.>"}).encode()
    answer = await nc.request("$JS.API.STREAM.INFO.ACCEPTED", ask, PATIENCE_S)
    subjects: dict[str, int] = json.loads(answer.data)["state"].get("subjects") or {}
    return sum(subjects.values())


async def _main(amounts: list[int], bundles: int, *, one_nonce: bool, as_json: bool) -> int:
    outcomes = []
    if not as_json:
        say(COLUMNS.format("stored MB", "hostile", "in hand", "honest s", "all judged s"))
    for megabytes in amounts:
        with tempfile.TemporaryDirectory() as folder:
            async with Yard(Path(folder) / "yard") as yard:
                await yard.start_relay()
                outcome = await play(yard, megabytes, bundles, one_nonce=one_nonce)
        outcomes.append(outcome)
        if as_json:
            say(json.dumps({**asdict(outcome), "faults": outcome.faults}))
            continue
        times = f"{outcome.honest_s:.1f}", f"{outcome.judged_s:.1f}"
        say(COLUMNS.format(megabytes, outcome.hostile, outcome.in_hand, *times))
        for fault in outcome.faults:
            say(f"wrong: {fault}")
    if not as_json and len(outcomes) > 1:
        say(f"honest message, last over first: {outcomes[-1].honest_s / outcomes[0].honest_s:.2f}")
    return 1 if any(outcome.faults for outcome in outcomes) else 0


def main() -> int:
    """Run from the command line. Returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Recovery behind a hostile backlog.")
    parser.add_argument(
        "--megabytes", type=int, nargs="+", default=[0, 50, 150], help="stored since (0 50 150)"
    )
    parser.add_argument(
        "--bundles", type=int, default=HOSTILE_BUNDLES, help=f"of 64 messages ({HOSTILE_BUNDLES})"
    )
    parser.add_argument("--one-nonce", action="store_true", help="all hostile messages have one")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each amount")
    given = parser.parse_args()
    if not 2 <= given.bundles <= 250:
        parser.error("--bundles is between 2 and 250, because INGRESS keeps 256 of a bot")
    return asyncio.run(
        _main(given.megabytes, given.bundles, one_nonce=given.one_nonce, as_json=given.json)
    )


if __name__ == "__main__":
    sys.exit(main())
