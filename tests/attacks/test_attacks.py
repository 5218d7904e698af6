"""On a running bus, every attack is stopped by the right part and for its own reason.

The corpus is complete.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from examples.robbery.frames import pub
from sealbus.protocol.reason import Reason
from sealbus.receiving.verifier import HandledMessages
from sealbus_broker.gate import judge as gate
from sealbus_broker.nats.streams import STREAMS
from tests.attacks.admission import honest
from tests.attacks.certificates import certified_login
from tests.attacks.connections import VAULT, shown, the_vault
from tests.attacks.corpus import Login, Vain, Where
from tests.attacks.families import ATTACKS, FAMILIES, MESSAGES, NAMED, RUNNING
from tests.attacks.ground import Ground
from tests.attacks.trial import attempt, why_denied
from tests.attacks.without import LEDGER, each, without
from tests.gate.bus import ACCEPTED
from tests.gate.honest import RUNNING as HONEST_RUNNING
from tests.gate.scenarios import Scenario
from tests.gate.world import told_at
from tests.scene import now_ms

LEAST = 300
PULSES_S = 1.1
"""After this time, two pulses may come at once again: the rate is two a second."""


async def test_every_attack_on_a_running_bus_is_stopped(tmp_path: Path) -> None:
    async with Ground(tmp_path / "bus") as ground:
        found = [await attempt(attack, ground) for attack in RUNNING]
        streams, strange = await ground.streams(), ground.strange
    assert [
        f"{one.attack.name}: {one.reason} {one.before}" for one in found if not one.is_stopped
    ] == []
    assert strange == 0
    assert streams == set(STREAMS)


async def test_honest_trade_passes_on_a_running_bus(tmp_path: Path) -> None:
    """Without this test, a bus that refuses everything would pass the test above."""
    async with Ground(tmp_path / "bus") as ground:
        for scenario in HONEST_RUNNING:
            with told_at(now_ms(), os.urandom(8)):
                steps = scenario.tell()
            assert await ground.take(steps) == [step.expect for step in steps], scenario.name
            if any(b"pulse.order" in step.data for step in steps):
                await asyncio.sleep(PULSES_S)
        assert ground.strange == 0


async def test_trial_sees_a_broken_relay_and_a_bot_that_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial sees the messages that a running bus delivers and that a bot handles.

    Otherwise it would see no attack get through.
    """
    monkeypatch.setattr(HandledMessages, "of", lambda *_: 0)
    async with Ground(tmp_path / "bus", without="check_seal") as ground:
        changed = await attempt(NAMED["a_changed_payload"], ground)
        stolen = await attempt(NAMED["a_key_of_nobody"], ground)
        again = await attempt(NAMED["a_delivery_shown_again"], ground)
        garbage = await ground.in_vain(Vain(lambda body, bot, _: pub(f"send.{bot}", body)))
    assert (changed.reason, changed.is_stopped, changed.delivered) == (ACCEPTED, False, 1)
    assert stolen.is_stopped
    assert (again.is_stopped, again.delivered) == (False, 3)
    assert garbage == Reason.ENCODING  # it had an effect: it was judged


def test_the_door_names_the_reason_of_each_login() -> None:
    logins = {
        attack.name: (attack.reason, why_denied(attack.case))
        for attack in ATTACKS
        if isinstance(attack.case, Login)
    }
    assert {name: got for name, (expected, got) in logins.items() if got != expected} == {}


def test_an_honest_login_has_no_reason_to_be_denied() -> None:
    """Without this test, the reasons above might be those of any login."""
    assert why_denied(Login(honest)) == ACCEPTED
    assert why_denied(Login(certified_login)) == ACCEPTED
    assert why_denied(Login(the_vault, lambda: shown(VAULT))) == ACCEPTED


def test_without_a_check_its_attacks_get_through_or_meet_another() -> None:
    """Each attack says which check stops it otherwise. Each check is necessary."""
    for found in each():
        own = {attack.name: attack.case for attack in MESSAGES if isinstance(attack.case, Scenario)}
        own = {name: case for name, case in own.items() if case.check == found.check}
        expected = {name for name, case in own.items() if case.without == ACCEPTED}
        through = {attack.name for attack in found.through}
        assert through >= expected, found.check
        assert found.through or found.instead, found.check
        if found.check != LEDGER:
            instead = {name: reason for reason, names in found.instead.items() for name in names}
            assert instead == {
                name: case.without for name, case in own.items() if name not in through
            }, found.check


def test_without_the_ledger_each_of_its_attacks_gets_through() -> None:
    assert {attack.name for attack in without(LEDGER).through} == {
        attack.name for attack in ATTACKS if attack.where is Where.LEDGER
    }


def test_the_checks_are_put_back() -> None:
    before = gate.CHECKS
    without("check_seal")
    assert gate.CHECKS is before


def test_there_are_as_many_attacks_as_promised_in_each_family() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) >= LEAST  # the demo and the benchmark choose them by name
    assert {attack.where for attack in ATTACKS} == set(Where) - {Where.TLS}
    assert [family.name for family in FAMILIES if len(family.attacks) < 5] == []
    assert len({family.name for family in FAMILIES}) == 20
