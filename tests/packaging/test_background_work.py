"""The supervisor starts all background work. An exception has its reason here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTERS = {
    *(
        "create_task",
        "ensure_future",
        "call_soon",
        "call_later",
        "call_at",
        "run_in_executor",
        "to_thread",
    ),
    *("Thread", "Timer", "Process", "Popen", "create_subprocess_exec", "create_subprocess_shell"),
    "start_child",
}
PLACES = (ROOT / "clients" / "python" / "sealbus", ROOT / "broker" / "sealbus_broker")

A_COMMAND = "a command that is awaited, and that ends together with the process"
GROUPED = "in a TaskGroup, which waits for it and raises its errors"
A_WRITE = "writes pending bytes: asyncio's handler gets an error, and the next write goes on"
A_CLOSING = "closes the envelopes that messages may join, and has nothing in it that can fail"
A_LOCK = "gives up a lock that is held, and has nothing else in it that can fail"
A_LOGIN = "one login: an error is lost with that login, which the client asks for again"
A_CUT = "cuts off a client that does not read, and has nothing in it that can fail"
SUPERVISED = "its life is one coroutine, which is supervised"
A_LOOKUP = "looks up one name: the waiting caller gets an error"
AWAITED = "awaited where it starts: the caller gets its result or its error"
IN_TESTS = "the server in memory, which is for tests: asyncio's handler gets an error"
REASONS = {
    "sealbus/supervision.py": "the supervisor itself",
    "sealbus/receiving/serving.py create_task": GROUPED,
    "sealbus_broker/relay/ingress/worker.py create_task": GROUPED,
    "sealbus_broker/relay/store/ledgers.py create_task": GROUPED,
    "sealbus_broker/relay/store/storing.py call_soon": A_LOCK,
    "sealbus/nats/client.py call_soon": A_WRITE,
    "sealbus/sending/sender.py call_soon": A_CLOSING,
    "sealbus_broker/door/admission.py create_task": A_LOGIN,
    "sealbus_broker/memory/pipe.py call_soon": IN_TESTS,
    "sealbus_broker/memory/callout.py call_later": IN_TESTS,
    "sealbus_broker/memory/connection.py call_later": IN_TESTS,
    "sealbus_broker/memory/consumer.py call_later": IN_TESTS,
    "sealbus_broker/server/notice.py call_later": A_CUT,
    "sealbus_broker/server/process.py start_child": SUPERVISED,
    "sealbus_broker/children.py create_subprocess_exec": "each call of start_child is named here",
    "sealbus_broker/server/process.py to_thread": AWAITED,
    "sealbus_broker/door/process.py start_child": SUPERVISED,
    "sealbus_broker/cli/running/workers.py start_child": SUPERVISED,
    "sealbus_broker/cli/shared/signals.py ensure_future": A_COMMAND,
    "sealbus_broker/cli/shared/signals.py call_later": "writes a line for people",
    "sealbus_broker/cli/shared/signals.py Thread": A_LOOKUP,
    "sealbus_broker/cli/messages/bulk.py create_task": A_COMMAND,
    "sealbus_broker/cli/messages/bots.py ensure_future": A_COMMAND,
    "sealbus_broker/cli/messages/json_lines.py run_in_executor": AWAITED,
    "sealbus_broker/nats/snapshots.py to_thread": AWAITED,
    "sealbus_broker/server/cluster.py to_thread": AWAITED,
    "sealbus_broker/server/cluster.py create_task": AWAITED,
    "sealbus_broker/nats/jetstream.py create_task": AWAITED,
}


def starts() -> Iterator[str]:
    """Each call that starts something: its file, and the called name."""
    for place in PLACES:
        for file in sorted(place.rglob("*.py")):
            name = file.relative_to(place.parent).as_posix()
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    called = node.func
                    what = (
                        called.attr
                        if isinstance(called, ast.Attribute)
                        else getattr(called, "id", "")
                    )
                    if what in STARTERS:
                        yield name if name == "sealbus/supervision.py" else f"{name} {what}"


def test_background_work_has_a_supervisor_or_a_reason() -> None:
    found = set(starts())
    assert found - REASONS.keys() == set(), (
        "use sealbus.supervision, or name here who learns of an unexpected end"
    )
    assert REASONS.keys() - found == set(), "a reason for a call that does not exist any more"
