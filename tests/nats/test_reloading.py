"""nats-server reads its configuration anew, as after each renewal of a certificate."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial

from sealbus.supervision import end
from sealbus_broker.nats.jetstream import ask
from sealbus_broker.nats.streams import STREAMS
from tests.scene import Scene
from tests.waiting import PATIENCE_S, until

RELOADS = 20


async def test_jetstream_answers_each_call_while_it_is_read(streams: Scene) -> None:
    """nats-server says for a moment that it has no JetStream."""
    answered, pid = 0, streams.server.pid
    assert pid is not None

    async def keep_asking() -> None:
        nonlocal answered
        while True:
            for name in STREAMS:
                info = await ask(streams.relay, f"STREAM.INFO.{name}", None, PATIENCE_S)
                assert info["config"]["name"] == name
            answered += 1

    def has_come(wanted: int) -> bool:
        return answered >= wanted or any(one.done() for one in asking)

    asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
    try:
        for _ in range(RELOADS):
            os.kill(pid, signal.SIGHUP)
            wanted = answered + 4
            await until(partial(has_come, wanted))
            for one in asking:
                assert not one.done() or one.result()
    finally:
        await end(*asking)
