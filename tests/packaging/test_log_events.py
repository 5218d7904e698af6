"""The broker's log events have one form, and its loggers are made in one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BROKER = Path(__file__).resolve().parents[2] / "broker" / "sealbus_broker"
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
EVENT = re.compile(r"[a-z]+(-[a-z]+)*\.[a-z]+(-[a-z]+)*")
"""A noun, a dot, and a verb: ``stream.created``, ``partition.not-given-back``."""


def calls() -> Iterator[tuple[str, ast.Call]]:
    for file in sorted(BROKER.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield f"{file.relative_to(BROKER)}:{node.lineno}", node


def on_log(call: ast.Call) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr in LEVELS
        and isinstance(function.value, ast.Name)
        and function.value.id in ("log", "_log", "logger")
    )


def test_every_log_event_is_a_noun_and_a_verb() -> None:
    events = {place: call.args[0] for place, call in calls() if on_log(call)}
    assert len(events) > 50
    for place, event in events.items():
        if isinstance(event, ast.Name):
            continue  # a function that gets its event as an argument
        assert isinstance(event, ast.Constant), place
        assert isinstance(event.value, str), place
        assert EVENT.fullmatch(event.value), f"{place}: {event.value}"


def test_every_logger_is_named_after_its_module() -> None:
    made = {
        place: call.args
        for place, call in calls()
        if isinstance(call.func, ast.Name) and call.func.id == "get_logger"
    }
    assert len(made) > 20
    for place, arguments in made.items():
        assert [ast.unparse(one) for one in arguments] == ["__name__"], place


def test_one_module_imports_structlog() -> None:
    importing = {
        file.relative_to(BROKER).as_posix()
        for file in BROKER.rglob("*.py")
        if re.search(r"^\s*(import|from) structlog", file.read_text(), re.MULTILINE)
    }
    assert importing == {"logger.py"}
