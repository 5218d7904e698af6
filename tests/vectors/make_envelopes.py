"""Vectors of the gate: the catalogue of attacks and of honest messages."""

from __future__ import annotations

from typing import Any

from tests.attacks.families import SCENARIOS as ATTACKS
from tests.gate.bus import ACCEPTED, PureBus, Step
from tests.gate.honest import HONEST
from tests.gate.scenarios import Scenario
from tests.gate.world import BUS_KEY, KEYS, POLICY_DOCUMENT, RELAY
from tests.vectors.files import compact


def envelopes() -> dict[str, Any]:
    """``envelopes.json``."""
    return {
        "relay": RELAY,
        "bus_seed": bytes(BUS_KEY._key).hex(),
        "seeds": {name: bytes(key._key).hex() for name, key in KEYS.items()},
        "keys": {name: key.public.text for name, key in KEYS.items()},
        "policy": POLICY_DOCUMENT,
        "scenarios": [_scenario(scenario) for scenario in (*HONEST, *ATTACKS)],
    }


def _scenario(scenario: Scenario) -> dict[str, Any]:
    bus = PureBus()
    return {
        "name": scenario.name,
        "about": scenario.about,
        "steps": [_step(bus, step) for step in scenario.steps],
    }


def _step(bus: PureBus, step: Step) -> dict[str, Any]:
    result, sealed = bus.take(step)
    told: dict[str, Any] = {
        "session": step.session,
        "delivery": step.delivery.value,
        "arrived_at_ms": step.arrived_at_ms,
        "now_ms": step.now_ms,
        "position": step.position,
        "redelivered": step.redelivered,
        "ledger_since_ms": step.ledger_since_ms,
        "envelope": compact(step.data, b"x"),
        "expect": step.expect,
    }
    if result == ACCEPTED and sealed is not None:
        told["stamp"] = sealed.hex()
    return told
