"""A change of a bot's binding to a certificate, on a running bus with TLS."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sealbus import Bot
from tests.cli.folders import up
from tests.e2e.tls_bus import made
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

OWN = "sealbus://mybus/greeter"
ANOTHERS = "sealbus://mybus/listener"


def bind(bus: Path, name: str) -> None:
    """The policy binds the greeter to ``name``."""
    policy = bus / "policy.yaml"
    text = policy.read_text()
    head, _, rest = text.partition("  greeter:\n")
    lines = [line for line in rest.splitlines() if "certificate:" not in line]
    new = "\n".join([f"{head}  greeter:", f"    certificate: {name}", *lines, ""])
    beside = policy.with_suffix(".new")
    beside.write_text(new)
    beside.rename(policy)


async def test_live_session_obeys_a_change_of_its_binding(tmp_path: Path) -> None:
    """It goes on by the right certificate, ends by another, and comes back."""
    bus = await asyncio.to_thread(made, tmp_path)
    with up(bus) as log:
        greeter = Bot.from_file(bus / "credentials/greeter.toml")
        lost: list[str] = []
        greeter.on_lost(lost.append)
        async with greeter:
            await greeter.publish("greetings.sent", {"text": "unbound"})
            began = log.read_text().count("admission.granted")
            bind(bus, OWN)
            await until(
                lambda: log.read_text().count("admission.granted") > began,
                "the session is renewed",
            )
            await greeter.publish("greetings.sent", {"text": "bound"})
            assert lost == []
            bind(bus, ANOTHERS)
            await until(lambda: lost != [], "the session has ended")
            await until(
                lambda: f"is for {OWN}; the policy binds to {ANOTHERS}" in log.read_text(),
                "the log names the cause",
            )
            bind(bus, OWN)
            await greeter.publish("greetings.sent", {"text": "back"}, timeout=PATIENCE_S)
