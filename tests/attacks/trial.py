"""One attack after the other is tried.

It is tried on a running bus, on the operator's machine, or on the gate alone.
"""

from __future__ import annotations

import base64
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from examples.robbery.frames import client_name
from sealbus.protocol.reason import Reason
from sealbus_broker.door.deciding import Admitted, Denial, bind, decide
from sealbus_broker.escape import printable, readable, readable_json, reshown
from tests.attacks.connections import with_vault
from tests.attacks.corpus import (
    ESCAPED,
    KNOWN,
    LESSER,
    Attack,
    Favour,
    Frame,
    Greeting,
    Login,
    Pull,
    Request,
    Shown,
    Told,
    Vain,
    Where,
    Written,
)
from tests.attacks.ground import Ground, new_body
from tests.attacks.line import overheard
from tests.gate.bus import ACCEPTED, PureBus, Step
from tests.gate.scenarios import Scenario
from tests.gate.world import NOW, digest, told_at
from tests.policy.folder import Folder
from tests.scene import now_ms

REFILL_S: Final = 0.5
"""The meter of a subject with two messages a second has room for one more after this time, in
seconds.

A busy machine may need longer to send a burst. Then it is not a burst, and it is tried again.
"""

MOST_BURSTS: Final = 20
"""The most attempts to send a burst."""


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of an attack."""

    attack: Attack
    reason: str
    """The reason why it was stopped, or :data:`ACCEPTED`."""
    before: str = ""
    """The faults of the valid steps that come before the attack."""
    delivered: int = 0
    """How many invalid messages subscribers got during the attack."""

    @property
    def is_stopped(self) -> bool:
        """Whether the attack met its own reason, and not another."""
        return not self.before and not self.delivered and self.reason == self.attack.reason


async def attempt(attack: Attack, ground: Ground) -> Found:
    """Try one attack on a running bus."""
    before = ground.strange
    match attack.case:
        case Scenario() | Request():
            found = await _by_message(attack, attack.case.tell, ground)
        case Login():
            found = await _at_the_door(attack, attack.case, ground)
        case Frame():
            found = await _by_frame(attack, attack.case, ground)
        case Vain():
            found = Found(attack, await ground.in_vain(attack.case))
        case Favour():
            with told_at(now_ms(), os.urandom(8)):
                steps = attack.case.tell()
            found = Found(attack, await ground.asked(steps))
        case Pull():
            reason, came = await ground.pulled(attack.case.body, attack.case.times)
            return Found(attack, reason, delivered=came)
        case Greeting():
            found = Found(attack, await ground.greeted(attack.case.says))
        case Told():
            found = await _on_a_line(attack, attack.case, ground)
        case _:
            return on_this_machine(attack)
    return replace(found, delivered=found.delivered + ground.strange - before)


def on_this_machine(attack: Attack) -> Found:
    """Try an attack on the operator's machine: on the folder's loader or a command's output."""
    if isinstance(attack.case, Written):
        with tempfile.TemporaryDirectory(prefix="sealbus-folder-") as root:
            folder = Folder(Path(root))
            assert not folder.problems()
            attack.case.write(folder)
            found = folder.problems()
        return Found(
            attack, found[0].partition(": ")[2] if found else ACCEPTED, "; ".join(found[1:])
        )
    assert isinstance(attack.case, Shown)
    shown = (
        printable(attack.case.text),
        readable(attack.case.text),
        readable_json(attack.case.text),
        reshown(attack.case.text),
    )
    return Found(
        attack,
        ESCAPED if all(map(str.isprintable, shown)) and attack.case.text not in shown else ACCEPTED,
    )


async def _by_message(
    attack: Attack, tell: Callable[[], tuple[Step, ...]], ground: Ground
) -> Found:
    bursts = 0
    while True:
        begun = time.monotonic()
        with told_at(now_ms() + attack.lead_ms, os.urandom(8)):
            *first, last = tell()
        steps = (*first, replace(last, expect=attack.reason))
        if attack.one_by_one:
            became = [result for step in steps for result in await ground.take_alone(step)]
        else:
            became = await ground.take(steps)
        is_spread = attack.reason == Reason.RATE and time.monotonic() - begun >= REFILL_S
        bursts += 1
        if not is_spread or ACCEPTED not in became[len(first) :] or bursts == MOST_BURSTS:
            break
        # it came so late that it is within the rate
        ground.in_order.add(digest(last.data))
    wrong = [
        f"step {number} became {got}, not {step.expect}"
        for number, (step, got) in enumerate(zip(steps[:-1], became[:-1], strict=True), 1)
        if got != step.expect
    ]
    return Found(attack, became[-1], "; ".join(wrong))


async def _on_a_line(attack: Attack, told: Told, ground: Ground) -> Found:
    await ground.ship()  # a genuine delivery, for the attack to imitate
    line = await ground.line()
    before, handled = Counter(line.bot.refused_deliveries), len(line.handled)
    with overheard("ignored an invalid receipt", "ignored an invalid bundle") as ignored:
        await told.act(line)
        # a delivery after the attack: when it is handled, the attack has been ignored
        await ground.ship()
    refused = Counter(line.bot.refused_deliveries) - before
    reason = ", ".join([*refused, *ignored]) or KNOWN
    return Found(attack, reason, delivered=len(line.handled) - handled - 1)


async def _at_the_door(attack: Attack, login: Login, ground: Ground) -> Found:
    session, admitted = await ground.knock(login.make)
    await session.close()
    # The door tells a stranger no reason. So the code that the relay uses judges the same login
    # here.
    return Found(attack, ACCEPTED if admitted else why_denied(login))


def in_the_gate(attack: Attack) -> Found:
    """Try an attack by a message on the gate and its ledger, without NATS."""
    assert isinstance(attack.case, Scenario)
    return Found(attack, PureBus().run(attack.case.steps))


def why_denied(login: Login) -> str:
    """The reason of the relay's admission to deny a login."""
    challenge = b"a challenge of the server"
    text, signature = login.make(challenge)
    encoded = base64.b64encode(signature).decode() if isinstance(signature, bytes) else signature
    name = None if text is None else client_name(text)
    said = {"auth_token": text, "sig": encoded, "name": name}
    policy = with_vault()
    decided = decide(
        {key: value for key, value in said.items() if value is not None},
        challenge.decode(),
        policy,
        NOW,
    )
    if isinstance(decided, Admitted):
        decided = bind(decided, login.client_tls and login.client_tls(), policy)
    return decided.why if isinstance(decided, Denial) else ACCEPTED


async def _by_frame(attack: Attack, frame: Frame, ground: Ground) -> Found:
    body = new_body()
    made = frame.make(body, LESSER)
    if attack.where is Where.GATE:
        return Found(attack, await ground.sent(LESSER, made, body))
    said = await (ground.ended if attack.where is Where.LIMIT else ground.refused)(LESSER, made)
    return Found(attack, attack.reason if said.startswith(attack.reason) else said)
