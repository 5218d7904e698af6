"""Nothing starts background work past the supervisor, or has a reason here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTERS = {
    *("create_task", "ensure_future", "call_soon", "call_later", "call_at", "run_in_executor", "to_thread"),
    *("Thread", "Timer", "Process", "Popen", "create_subprocess_exec", "create_subprocess_shell"),
}
PLACES = (ROOT / "clients" / "python" / "sealbus", ROOT / "broker" / "sealbus_broker")

A_COMMAND = "a command that is waited for, and whose end is the process's"
GROUPED = "in a TaskGroup, which waits for it and raises what it raises"
IN_TESTS = "the server in memory, which is for tests: what it raises reaches asyncio's own handler"
REASONS = {
    "sealbus/supervision.py": "the place itself",
    "sealbus/receiving/serving.py create_task": GROUPED,
    "sealbus_broker/relay/ingress.py create_task": GROUPED,
    "sealbus/nats/hardened.py call_soon": "writes what is pending; what it raises reaches asyncio's own handler, and the next write goes on",
    "sealbus_broker/door/admission.py create_task": "one login, answered: what it raises is lost with that login, which is asked for again",
    "sealbus_broker/memory/pipe.py call_soon": IN_TESTS,
    "sealbus_broker/memory/callout.py call_later": IN_TESTS,
    "sealbus_broker/memory/connection.py call_later": IN_TESTS,
    "sealbus_broker/memory/consumer.py call_later": IN_TESTS,
    "sealbus_broker/server/notice.py call_later": "cuts off a client that does not read; there is nothing in it that can fail",
    "sealbus_broker/server/process.py create_subprocess_exec": "the server's life is one coroutine, which is supervised",
    "sealbus_broker/door/process.py create_subprocess_exec": "the door's life is one coroutine, which is supervised",
    "sealbus_broker/cli/signals.py ensure_future": A_COMMAND,
    "sealbus_broker/cli/signals.py call_later": "writes a line for people",
    "sealbus_broker/cli/signals.py Thread": "looks up one name; what it raises goes to whoever waits",
    "sealbus_broker/cli/bulk.py create_task": A_COMMAND,
    "sealbus_broker/cli/bots.py ensure_future": A_COMMAND,
    "sealbus_broker/cli/json_lines.py run_in_executor": "waited for where it starts",
}


def starts() -> Iterator[str]:
    """Each call that starts something: the file, and what is called."""
    for place in PLACES:
        for file in sorted(place.rglob("*.py")):
            name = file.relative_to(place.parent).as_posix()
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    called = node.func
                    what = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                    if what in STARTERS:
                        yield name if name == "sealbus/supervision.py" else f"{name} {what}"


def test_whatever_starts_has_somebody_who_answers_for_it() -> None:
    found = set(starts())
    assert found - REASONS.keys() == set(), "use sealbus.supervision, or say here who learns of an unexpected end"
    assert REASONS.keys() - found == set(), "a reason for what is not there any more"
