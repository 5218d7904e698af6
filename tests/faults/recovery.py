"""The time that a relay needs after a crash, beside a large store and a hostile backlog.

A relay dies with hostile messages in hand, which it would have refused. The next relay gets them
again. A relay before it may have accepted each, so each is looked up in the ledger. The cost of
that must not depend on the bytes that are stored.

::

    python -m tests.faults.recovery --megabytes 0 50 150

For each amount, on a new bus: a bot stores so many megabytes. A relay is stopped, gets the hostile
messages of the same bot, and is killed. Another relay starts. The program prints how long an honest
message waits for its receipt, and how long it takes until the last hostile message is in the
quarantine. JetStream delivers the messages of a dead relay again after ten seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.sending.minting import new_nonce, salted
from sealbus_broker.nats.streams import PARTITIONS, partition_consumer
from tests.faults.yard import Yard, say
from tests.waiting import PATIENCE_S

PAYLOAD_BYTES: Final = 200_000
AT_ONCE: Final = 8
HOSTILE_MOST: Final = 250
"""INGRESS keeps no more than 256 messages of a bot."""
TIMEOUT_S: Final = 120.0
COLUMNS: Final = "{:>9} {:>8} {:>11} {:>12} {:>12}"


@dataclass(frozen=True)
class Outcome:
    """The outcome beside one amount of stored messages."""

    megabytes: int
    hostile: int
    again: int
    """Hostile messages that the first relay had in hand when it died."""
    honest_s: float
    """From the start of the second relay to the receipt of the honest message."""
    judged_s: float
    """From there to the last record in the quarantine."""
    kept: int
    """Records in the quarantine."""
    extra: int
    """Messages that were accepted and should not be, or are missing."""

    @property
    def faults(self) -> list[str]:
        """All broken promises."""
        wrong = []
        if not self.again:
            wrong.append("no hostile message was delivered twice, so this shows nothing")
        if self.kept != self.hostile:
            wrong.append(f"{self.kept} records in the quarantine, expected {self.hostile}")
        if self.extra:
            wrong.append(f"{self.extra} accepted messages too many (too few, if below 0)")
        return wrong


class LargeYard(Yard):
    """The yard with large messages."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        policy = self.bus.path / "policy.yaml"
        text = policy.read_text()
        large = "    schema: work.v1\n    max_bytes: 400KiB\n"
        policy.write_text(text.replace("    schema: work.v1\n", large, 1))


def hostile_envelope(yard: Yard, number: int) -> bytes:
    """A message of the bot itself, under a seal that holds, which the schema refuses."""
    now_ms = time.time_ns() // 1_000_000
    header = Header("shop", "boss", "work.hostile", new_nonce(now_ms), now_ms, 30_000)
    draft = Draft(header, [salted(pack_json(number))])
    return seal_envelopes(yard.credentials("boss").key, [draft])[0].data


async def _in_hand(nc: Any) -> int:
    """The messages that relays have in hand."""
    total = 0
    for partition in range(PARTITIONS):
        subject = f"$JS.API.CONSUMER.INFO.INGRESS.{partition_consumer(partition)}"
        total += json.loads((await nc.request(subject, b"", PATIENCE_S)).data)["num_ack_pending"]
    return total


async def play(yard: Yard, megabytes: int, hostile: int) -> Outcome:
    """Fill the store, kill a relay with hostile messages in hand, and start another."""
    stored = megabytes * 1_000_000 // PAYLOAD_BYTES
    payload = {"note": "x" * (PAYLOAD_BYTES - 20)}
    async with yard.bot("boss") as boss:
        for first in range(0, stored, AT_ONCE):
            count = min(AT_ONCE, stored - first)
            await asyncio.gather(*(boss.publish("work.large", payload) for _ in range(count)))
    nc = await yard.nats()
    (relay,) = yard.relays
    sent = 0
    while not await _in_hand(nc):
        # The relay renews its request each second. If the server has one, it gives it a message.
        relay.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.2)
        relay.send_signal(signal.SIGSTOP)
        await nc.publish("send.boss", hostile_envelope(yard, sent))
        sent += 1
        await asyncio.sleep(0.05)
    for number in range(sent, hostile):
        await nc.publish("send.boss", hostile_envelope(yard, number))
    await nc.flush()
    await asyncio.sleep(0.5)
    again = await _in_hand(nc)
    relay.kill()
    await relay.wait()
    began = time.monotonic()
    await yard.start_relay("second")
    async with yard.bot("boss") as boss:
        await boss.publish("work.honest", {"number": 1}, timeout=TIMEOUT_S)
        honest_s = time.monotonic() - began
    kept = 0
    while kept < hostile and time.monotonic() - began < TIMEOUT_S:
        await asyncio.sleep(0.1)
        kept = await yard.stored("QUARANTINE")
    judged_s = time.monotonic() - began
    # A refusal of a message that came again closes its id by a note, which is no acceptance.
    answer = await nc.request(
        "$JS.API.STREAM.INFO.ACCEPTED",
        json.dumps({"subjects_filter": "accepted.work.>"}).encode(),
        PATIENCE_S,
    )
    subjects: dict[str, int] = json.loads(answer.data)["state"].get("subjects") or {}
    await nc.close()
    return Outcome(
        megabytes=megabytes,
        hostile=hostile,
        again=again,
        honest_s=honest_s,
        judged_s=judged_s,
        kept=kept,
        extra=sum(subjects.values()) - stored - 1,
    )


async def _main(amounts: list[int], hostile: int, *, as_json: bool) -> int:
    outcomes = []
    if not as_json:
        say(COLUMNS.format("stored MB", "hostile", "in hand", "honest s", "all judged s"))
    for megabytes in amounts:
        with tempfile.TemporaryDirectory() as folder:
            async with LargeYard(Path(folder) / "yard") as yard:
                await yard.start_relay()
                outcome = await play(yard, megabytes, hostile)
        outcomes.append(outcome)
        if as_json:
            say(json.dumps(asdict(outcome)))
        else:
            times = f"{outcome.honest_s:.1f}", f"{outcome.judged_s:.1f}"
            say(COLUMNS.format(megabytes, hostile, outcome.again, *times))
    for outcome in outcomes:
        for fault in outcome.faults:
            say(f"wrong, with {outcome.megabytes} MB: {fault}")
    return 1 if any(outcome.faults for outcome in outcomes) else 0


def main() -> int:
    """Run from the command line. Returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Recovery beside a large store.")
    parser.add_argument(
        "--megabytes", type=int, nargs="+", default=[0, 50, 150], help="stored before (0 50 150)"
    )
    parser.add_argument(
        "--hostile", type=int, default=HOSTILE_MOST, help=f"hostile messages ({HOSTILE_MOST})"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each amount")
    given = parser.parse_args()
    if not 1 <= given.hostile <= HOSTILE_MOST:
        parser.error(f"--hostile is between 1 and {HOSTILE_MOST}")
    return asyncio.run(_main(given.megabytes, given.hostile, as_json=given.json))


if __name__ == "__main__":
    sys.exit(main())
