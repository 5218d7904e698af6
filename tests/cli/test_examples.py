"""The small programs in ``examples`` run unchanged on the bus that `sealbus init` makes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.bus import RunningBus, clean_environment, wait_until
from tests.waiting import PATIENCE_S

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str, *arguments: str) -> list[str]:
    """The command that runs an example. Every warning is an error."""
    return [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]


def run(bus: RunningBus, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example in the bus's folder to its end."""
    return subprocess.run(
        example(name, *arguments),
        cwd=bus.folder / "mybus",
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_publish_prints_the_verdict(hello: RunningBus) -> None:
    done = run(hello, "publish.py", "good morning")
    assert (done.returncode, done.stdout) == (0, "accepted\n"), done.stderr


def test_publish_prints_why_it_was_refused(hello: RunningBus) -> None:
    done = run(hello, "publish.py", "")
    assert (done.returncode, done.stdout) == (0, "refused: schema\n"), done.stderr


def test_subscribe_prints_the_published_messages(hello: RunningBus, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    with heard.open("wb") as output:
        process = subprocess.Popen(
            example("subscribe.py"),
            cwd=hello.folder / "mybus",
            env=clean_environment(),
            stdout=output,
            stderr=subprocess.PIPE,
        )
    said = 0

    def is_heard() -> bool:
        nonlocal said
        if not heard.read_text():  # it hears the messages after its subscription
            said += 1
            text = json.dumps({"text": f"example {said}"})
            assert hello.run("pub", "greetings.sent", text, "--as", "greeter").code == 0
        return bool(heard.read_text())

    try:
        wait_until(is_heard)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, error
    assert re.fullmatch(r"(greeter says example \d+\n)+", heard.read_text())


def test_request_reply_prints_the_answer(hello: RunningBus) -> None:
    done = run(hello, "request_reply.py")
    assert done.returncode == 0, done.stderr
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
    assert re.fullmatch(rf"listener asks for the time\nclock says {time}\n", done.stdout)
