"""``sealbus ping``: what people read."""

from __future__ import annotations

import pytest

from sealbus_broker.cli.watching.ping import Found, _show
from sealbus_broker.relay.problems import NO_LEADER, RESTART, BusProblem, Level, unheard


def test_problems_with_one_hint_show_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    lost = [unheard(name, is_cluster=True) for name in ("INGRESS", "ACCEPTED")]
    probe = BusProblem(Level.RED, "probe", "the bus accepts nothing", RESTART)
    _show(Found(health="red", problems=[*lost, probe]))
    assert capsys.readouterr().err.splitlines() == [
        "error: JetStream says nothing of the stream INGRESS",
        "error: JetStream says nothing of the stream ACCEPTED",
        f"hint: {NO_LEADER}",
        "error: the bus accepts nothing",
        f"hint: {RESTART}",
    ]
