"""The programs of docs/bots.md run unchanged on the bus that `sealbus init` makes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.cli.bus import RunningBus, clean_environment
from tests.docs.tables import without_parts
from tests.waiting import PATIENCE_S

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "bots.md"


def programs() -> list[str]:
    """The document's programs that import the library, except those of ``test_examples.py``."""
    text = without_parts(DOCUMENT.read_text())
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "from sealbus import" in block]


def run(bus: RunningBus, program: str) -> str:
    """Run ``program`` as the bot ``greeter``, and give its output."""
    environment = clean_environment(
        SEALBUS_CREDENTIALS=str(bus.folder / "mybus" / "credentials" / "greeter.toml")
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    # A bot says it when a busy machine gave it no turn.
    lines = [line for line in done.stderr.splitlines() if "the event loop did not run" not in line]
    assert (done.returncode, lines) == (0, [])
    return done.stdout


def test_a_script_opens_a_bot_for_one_message(hello: RunningBus) -> None:
    once, _ = programs()
    run(hello, once + '\npublish("greetings.sent", {"text": "hello"})\n')


def test_a_program_with_threads_keeps_a_loop_for_its_bot(hello: RunningBus) -> None:
    _, threads = programs()
    assert (
        run(hello, threads + "\nprint(stamp.verdict.value, bot.state.value)\n")
        == "accepted closed\n"
    )
